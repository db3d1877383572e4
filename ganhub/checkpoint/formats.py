"""What kind of file it is, told from its content and never from its name."""

from __future__ import annotations

import struct

from ganhub.checkpoint import numpy_files, torch7, torch_files
from ganhub.checkpoint.machine import Machine
from ganhub.checkpoint.networks import Content, content_of
from ganhub.checkpoint.nodes import Budget
from ganhub.checkpoint.zip_files import Archive
from ganhub.errors import CheckpointError, UnsafeCheckpoint

_BEGINNINGS = {
    b"version https://git-lfs": "is a Git LFS pointer, which only stands for the real file; download that one",
    b"\x89HDF\r\n": "is an HDF5 file (Keras or TensorLayer 2), which is not read",
    b"\x1f\x8b": "is packed with gzip; unpack it first",
    b"BZh": "is packed with bzip2; unpack it first",
    b"\xfd7zXZ": "is packed with xz; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"Rar!": "is a RAR archive; unpack it first",
    b"\x7fELF": "is a program, not a checkpoint",
    b"MZ": "is a Windows program, not a checkpoint",
    b"#!": "is a script, not a checkpoint",
    b"%PDF": "is a PDF document, not a checkpoint",
    b"\x89PNG": "is a picture, not a checkpoint",
    b"\xff\xd8\xff": "is a picture, not a checkpoint",
    b"GGUF": "is a GGUF file of a language model, which is not read",
}
_PICKLE_STARTS = b"\x80(c]}IFSVULKMJNGXTCBi)lo"
"""First bytes of pickles; those of protocol 0 and 1 are read as far as it takes to name what they ask for."""


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether the first bytes of a file of `size` bytes are a safetensors header."""
    return len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def refuse_others(data: memoryview) -> None:
    """Raises for what is plainly no checkpoint.

    Raises:
        CheckpointError: says what it is.
    """
    if not len(data):
        raise CheckpointError("is empty")
    head = bytes(data[:512])
    for beginning, what in _BEGINNINGS.items():
        if head.startswith(beginning):
            raise CheckpointError(what)
    if head.strip(b"\0") == b"":
        raise CheckpointError("begins with nothing but zeros; the download is broken, get it again")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        raise CheckpointError("is a web page, not a checkpoint; the address gave an error or a sign-in page")
    if text.startswith((b"{", b"[")):
        raise CheckpointError("is a text file (JSON), not a checkpoint")
    if b"ustar" in head[257:265]:
        raise CheckpointError("is a tar archive (torch before 0.1.10, or a packed folder), which is not read")


def parse(data: memoryview, budget: Budget) -> Content:
    """The content of any file but safetensors.

    Raises:
        UnsafeCheckpoint: it asks for something that data never needs.
        CheckpointError: it is damaged, or of a kind that is not read.
    """
    refuse_others(data)
    head = bytes(data[:8])
    if head.startswith(b"PK"):
        archive = Archive(data, budget)
        names = archive.records
        if names and all(name.endswith(".npy") for name in names):
            return content_of(numpy_files.read_npz(archive, budget), "numpy", budget)
        if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
            raise CheckpointError("is a zip archive without torch's or NumPy's data in it")
        return content_of(torch_files.read_zip(archive, budget), "torch", budget)
    if head in torch7.STARTS:
        return content_of(torch7.read(data, budget), "torch7", budget)
    if head.startswith(numpy_files.MAGIC):
        return content_of(numpy_files.read_npy(data, budget), "numpy", budget)
    if head[0] not in _PICKLE_STARTS:
        raise CheckpointError(f"is of no known kind (its first bytes are {head.hex(' ')})")
    machine = Machine(data, budget, nested=torch_files.storage_from_bytes)
    value = machine.run()
    if type(value) is int and value == torch_files.MAGIC:
        return content_of(torch_files.read_stream(data, budget, machine.pos), "torch", budget)
    if machine.pos != len(data):
        raise UnsafeCheckpoint("holds a pickle with other data after its end")
    return content_of(value, "torch" if machine.nested_streams else "numpy", budget)
