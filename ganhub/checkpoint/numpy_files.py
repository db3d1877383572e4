"""NumPy's own files, `.npy` and `.npz`, without the pickles that they may hold."""

from __future__ import annotations

import re
import struct
from typing import Any

from ganhub.checkpoint.nodes import Budget, DType, shown
from ganhub.checkpoint.symbols import array, text_of
from ganhub.checkpoint.zip_files import Archive
from ganhub.errors import CheckpointError, UnsafeCheckpoint

MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?)(\w+)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d, L]*)\),?\s*\}\s*"
)
MAX_TEXTS = 10_000


def read_npy(data: memoryview, budget: Budget) -> Any:
    """A tensor, or a list of strings.

    Raises:
        UnsafeCheckpoint: the file holds Python objects, or its shape does not fit its bytes.
        CheckpointError: it is damaged or of a type that is not read.
    """
    if bytes(data[:6]) != MAGIC or len(data) < 12:
        raise CheckpointError("is damaged: a NumPy array has no header")
    form, skip = ("<H", 10) if data[6] == 1 else ("<I", 12)
    length = struct.unpack(form, data[8:skip])[0]
    if length > 1 << 14 or skip + length > len(data):
        raise CheckpointError("is damaged: the header of a NumPy array is longer than it")
    header = bytes(data[skip : skip + length]).decode("latin-1")
    if re.search(r"'descr':\s*'\|?O", header):
        raise UnsafeCheckpoint("holds an array of Python objects, which is a pickle")
    match = _HEADER.fullmatch(header)
    if match is None:
        raise CheckpointError("holds a NumPy array whose header is not one of plain numbers")
    order, code, fortran, shape_text = match.groups()
    numbers = [part.strip().rstrip("L") for part in shape_text.split(",")]
    if numbers[-1] == "":
        numbers.pop()
    if len(numbers) > 16 or any(not n.isdigit() or len(n) > 14 for n in numbers):
        raise UnsafeCheckpoint(f"holds an array of the impossible shape {shown(shape_text)}")
    shape = tuple(int(n) for n in numbers)
    dtype, body = DType(code, order), data[skip + length :]
    if code[0] in "US":
        return _texts(dtype, body, budget)
    return array(dtype, body, shape, fortran == "True")


def read_npz(archive: Archive, budget: Budget) -> dict[str, Any]:
    """The arrays of an archive by name.

    Raises:
        UnsafeCheckpoint, CheckpointError: as `read_npy` and the archive.
    """
    return {name.removesuffix(".npy"): read_npy(archive.read(name), budget) for name in archive.records}


def _texts(dtype: DType, data: memoryview, budget: Budget) -> list[str]:
    width = int(dtype.code[1:]) if dtype.code[1:].isdigit() and len(dtype.code) < 8 else 0
    width *= 4 if dtype.code[0] == "U" else 1
    if not width or len(data) % width or len(data) // width > MAX_TEXTS:
        raise CheckpointError("holds a NumPy array of text that is damaged or too long")
    budget.spend("bytes of text", len(data))
    return [text_of(dtype, data[i : i + width]) for i in range(0, len(data), width)]
