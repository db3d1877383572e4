"""Writes pickles by hand: what a pickler would write, and what only an attacker would."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import Any, NamedTuple

MAGIC = 0x1950A86A20F9469CFC6C


class Name(NamedTuple):
    """A global: `module.name`."""

    module: str
    name: str


class Call(NamedTuple):
    """`function(*args)` by REDUCE, then items by SETITEMS, then a state by BUILD."""

    function: Any
    args: Any = ()
    items: Any = None
    state: Any = None


class New(NamedTuple):
    """`cls.__new__(cls)` by NEWOBJ, then items, then a state."""

    cls: Any
    items: Any = None
    state: Any = None
    args: Any = ()


class Persistent(NamedTuple):
    """A persistent id."""

    value: Any


class Raw(NamedTuple):
    """Opcodes as they are."""

    code: bytes


def emit(value: Any, protocol: int = 2) -> bytes:
    """The opcodes of a value, without PROTO and STOP."""
    kind = type(value)
    if kind is Raw:
        return value.code
    if value is None:
        return b"N"
    if kind is bool:
        return b"\x88" if value else b"\x89"
    if kind is int:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if kind is float:
        return b"G" + struct.pack(">d", value)
    if kind is str:
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    if kind in (bytes, bytearray):
        return b"B" + struct.pack("<I", len(value)) + bytes(value)
    if kind is Name:
        if protocol < 4:
            return f"c{value.module}\n{value.name}\n".encode()
        return emit(value.module) + emit(value.name) + b"\x93"
    if kind is Call:
        code = emit(value.function, protocol) + emit(value.args, protocol) + b"R"
        return code + _rest(value.items, value.state, protocol)
    if kind is New:
        code = emit(value.cls, protocol) + emit(value.args, protocol) + b"\x81"
        return code + _rest(value.items, value.state, protocol)
    if kind is Persistent:
        return emit(value.value, protocol) + b"Q"
    if kind is tuple:
        return b"(" + b"".join(emit(v, protocol) for v in value) + b"t"
    if kind is list:
        return b"](" + b"".join(emit(v, protocol) for v in value) + b"e"
    if kind is dict:
        return b"}" + _rest(value, None, protocol)
    if kind is set:
        return b"\x8f(" + b"".join(emit(v, protocol) for v in value) + b"\x90"
    raise TypeError(kind)


def _rest(items: Any, state: Any, protocol: int) -> bytes:
    code = b""
    if items:
        pairs = items.items() if isinstance(items, dict) else items
        code += b"(" + b"".join(emit(k, protocol) + emit(v, protocol) for k, v in pairs) + b"u"
    if state is not None:
        code += emit(state, protocol) + b"b"
    return code


def dumps(value: Any, protocol: int = 2) -> bytes:
    """A whole pickle."""
    return b"\x80" + bytes([protocol]) + emit(value, protocol) + b"."


SYSTEM = {"little_endian": True, "protocol_version": 1001, "type_sizes": {"int": 4, "long": 4, "short": 2}}


def stream(value: Any, storages: dict[str, tuple[int, bytes]], parts: dict[int, bytes] | None = None) -> bytes:
    """A legacy torch stream; `parts` replaces any of its five pickles."""
    five = [dumps(MAGIC), dumps(1001), dumps(SYSTEM), dumps(value), dumps(list(storages))]
    for place, code in (parts or {}).items():
        five[place] = code
    return b"".join(five) + b"".join(struct.pack("<q", n) + data for n, data in storages.values())


def storage_id(key: str, size: int, kind: str = "FloatStorage", legacy: bool = False) -> Persistent:
    value = ("storage", Name("torch", kind), key, "cuda:0", size)
    return Persistent((*value, None) if legacy else value)


def nested(data: bytes, kind: str = "FloatStorage", width: int = 4, parts: dict[int, bytes] | None = None) -> Call:
    """A storage as NVIDIA's pickles hold it."""
    size = len(data) // width
    inner = stream(storage_id("1", size, kind, legacy=True), {"1": (size, data)}, parts)
    return Call(Name("torch.storage", "_load_from_bytes"), (inner,))


def tensor(storage: Any, shape: tuple, stride: tuple | None = None, offset: Any = 0) -> Call:
    """A parameter over a storage."""
    if stride is None:
        stride = tuple(_product(shape[i + 1 :]) for i in range(len(shape)))
    hooks = Call(Name("collections", "OrderedDict"))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, stride, False, hooks))


def _product(numbers: Iterable[int]) -> int:
    result = 1
    for n in numbers:
        result *= n
    return result


def module(parameters: dict | None = None, modules: dict | None = None, source: str = "", **state: Any) -> Call:
    """An object that NVIDIA's persistence saved."""
    inner = {"training": False, "_parameters": parameters or {}, "_buffers": {}, "_modules": modules or {}, **state}
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Generator", "state": inner}
    return Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def snapshot(net: Any) -> dict:
    """The dictionary of a network snapshot."""
    return {"G": net, "D": None, "G_ema": net, "training_set_kwargs": {}, "augment_pipe": None}


def archive(records: dict[str, bytes] | list[tuple[str, bytes]], compress: bool = False) -> bytes:
    """A zip archive with the records in order."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as z:
        for name, data in records.items() if isinstance(records, dict) else records:
            z.writestr(zipfile.ZipInfo(name), data, compress_type=z.compression)
    return out.getvalue()


def torch_zip(value: Any, storages: dict[str, bytes], compress: bool = False, **others: bytes) -> bytes:
    """A torch archive around a value."""
    records = {"archive/data.pkl": dumps(value), **{f"archive/data/{k}": v for k, v in storages.items()}}
    return archive({**records, "archive/version": b"3\n", **others}, compress)
