"""The bytes of a tensor in the order of its elements, and the safetensors file that holds them."""

from __future__ import annotations

import json
import struct
from array import array as machine_array
from itertools import product as every
from typing import TYPE_CHECKING, Any, BinaryIO

from ganhub.checkpoint.nodes import SIZES, Budget, Tensor
from ganhub.errors import CheckpointError, UnsafeCheckpoint

if TYPE_CHECKING:
    from ganhub.checkpoint.networks import Content

_FORMS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_VALUES = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b"} | {
    "U64": "Q", "U32": "I", "U16": "H", "U8": "B", "BOOL": "?"
}  # fmt: skip
MAX_HEADER = 8 << 20
MAX_SHARING = 4
"""A file may hold views of the same numbers, but not blow up to more than this many times its size."""


def contiguous(tensor: Tensor, budget: Budget) -> bytes | memoryview:
    """Little-endian bytes in row-major order; a view of the file where they already lie so."""
    width = SIZES[tensor.dtype]
    if tensor.count == 0:
        return b""
    if tensor.storage.data is None:
        raise CheckpointError("is damaged: the numbers of a tensor are missing")
    size = tensor.count * width
    step, packed = 1, True
    for n, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        packed = packed and (n == 1 or stride == step)
        step *= n
    begin = tensor.offset * width
    data: bytes | memoryview = tensor.storage.data[begin : begin + size] if packed else _gather(tensor, width, budget)
    if tensor.swapped:
        words = machine_array(_FORMS[width], bytes(data))
        words.byteswap()
        data = words.tobytes()
    if tensor.dtype == "BOOL" and bytes(data).strip(b"\0\1"):
        raise UnsafeCheckpoint("holds truth values that are neither true nor false")
    return data


def _gather(tensor: Tensor, width: int, budget: Budget) -> bytes:
    """Copies a strided tensor, by slices along its longest side."""
    assert tensor.storage.data is not None
    form: Any = _FORMS[width]
    whole = tensor.storage.data[: len(tensor.storage.data) // width * width]
    source = whole.cast(form)
    target = memoryview(bytearray(tensor.count * width)).cast(form)
    steps = [1] * len(tensor.shape)
    for i in range(len(steps) - 2, -1, -1):
        steps[i] = steps[i + 1] * tensor.shape[i + 1]
    long = max(range(len(tensor.shape)), key=lambda i: tensor.shape[i])
    n, read, write = tensor.shape[long], tensor.strides[long], steps[long]
    budget.spend("strided copies", tensor.count // n)
    others = [i for i in range(len(tensor.shape)) if i != long]
    for index in every(*(range(tensor.shape[i]) for i in others)):
        start = tensor.offset + sum(at * tensor.strides[i] for at, i in zip(index, others, strict=True))
        place = sum(at * steps[i] for at, i in zip(index, others, strict=True))
        target[place : place + (n - 1) * write + 1 : write] = source[start : start + (n - 1) * read + 1 : read]
    return target.tobytes()


def numbers(tensor: Tensor, budget: Budget) -> Any:
    """A small tensor as nested lists of Python numbers."""
    form = _VALUES.get(tensor.dtype)
    if form is None:
        return None
    flat: Any = list(struct.unpack(f"<{tensor.count}{form}", contiguous(tensor, budget)))
    for n in reversed(tensor.shape[1:]):
        flat = [flat[i : i + n] for i in range(0, len(flat), n)] if n else []
    return flat if tensor.shape else flat[0]


def write(content: Content, out: BinaryIO, source_size: int, budget: Budget) -> None:
    """A safetensors file: tensors by number, and in its header a JSON text that says what they are.

    Raises:
        UnsafeCheckpoint: the tensors are many times larger than the file.
    """
    tensors = [tensor for part in content.networks.values() for tensor in part.tensors.values()]
    total = sum(tensor.count * SIZES[tensor.dtype] for tensor in tensors)
    if total > MAX_SHARING * source_size + (1 << 20):
        raise UnsafeCheckpoint(f"describes {total:,} bytes of tensors in {source_size:,} bytes of file")
    places = iter(range(len(tensors)))
    networks = {
        name: {"class_name": p.class_name, "kwargs": p.kwargs, "keys": {k: next(places) for k in p.tensors}}
        for name, p in content.networks.items()
    }
    about = {"format": content.format, "networks": networks, "extra": content.extra}
    header: dict[str, Any] = {"__metadata__": {"ganhub_raw": json.dumps(about)}}
    place = 0
    order = sorted(range(len(tensors)), key=lambda i: -SIZES[tensors[i].dtype])  # keeps every tensor aligned
    for i in order:
        size = tensors[i].count * SIZES[tensors[i].dtype]
        header[str(i)] = {
            "dtype": tensors[i].dtype,
            "shape": tensors[i].shape,
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise UnsafeCheckpoint("holds more text beside its weights than a checkpoint needs")
    out.write(struct.pack("<Q", len(text)))
    out.write(text)
    for i in order:
        out.write(contiguous(tensors[i], budget))
