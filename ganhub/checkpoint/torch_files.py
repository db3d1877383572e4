"""The two containers of torch.save: the zip archive (since 1.6) and the stream of five pickles (before, and inside
every NVIDIA pickle, once per storage)."""

from __future__ import annotations

import struct
from typing import Any

from ganhub.checkpoint.machine import Machine
from ganhub.checkpoint.nodes import SIZES, Budget, Storage, Token, shown
from ganhub.checkpoint.symbols import STORAGE_TYPES
from ganhub.checkpoint.zip_files import Archive
from ganhub.errors import CheckpointError, UnsafeCheckpoint

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_zip(archive: Archive, budget: Budget) -> Any:
    """The value saved in a torch zip archive.

    Raises:
        UnsafeCheckpoint, CheckpointError: as the machine and the archive.
    """
    pickles = [name for name in archive.records if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].count("/") > 1:
        raise UnsafeCheckpoint(f"is a zip archive with {len(pickles)} records named data.pkl where torch writes one")
    prefix = pickles[0][: -len("data.pkl")]
    outside = [name for name in archive.records if not name.startswith(prefix)]
    if outside:
        raise UnsafeCheckpoint(f"is a torch archive with the foreign record {shown(outside[0])}")
    if f"{prefix}constants.pkl" in archive.records or any(n.startswith(f"{prefix}code/") for n in archive.records):
        raise CheckpointError("is a TorchScript program, which is code; save the state_dict() of its network instead")
    order = f"{prefix}byteorder"
    if order in archive.records and bytes(archive.read(order)[:8]) != b"little":
        raise CheckpointError("was written on a big-endian machine, which is not read")
    storages: dict[str, Storage] = {}

    def persistent(value: Any) -> Storage:
        kind, key, size, _ = _storage_id(value, 5)
        if key not in storages:
            data = archive.read(f"{prefix}data/{key}")
            storages[key] = Storage(kind, size, data)
            if len(data) != size * SIZES[kind]:
                raise UnsafeCheckpoint(f"says that {size:,} numbers lie in the {len(data):,} bytes of data/{key}")
        found = storages[key]
        if (found.dtype, found.size) != (kind, size):
            raise UnsafeCheckpoint(f"describes the storage data/{key} in two ways")
        return found

    data = archive.read(pickles[0])
    machine = Machine(data, budget, persistent=persistent)
    result = machine.run()
    if machine.pos != len(data):
        raise UnsafeCheckpoint("holds a pickle with other data after its end")
    return result


def read_stream(data: memoryview, budget: Budget, start: int = 0) -> Any:
    """The value saved in a legacy stream; `start` is where its first pickle, the magic number, ends.

    Raises:
        UnsafeCheckpoint, CheckpointError: as the machine.
    """
    storages: dict[str, Storage] = {}

    def persistent(value: Any) -> Storage:
        kind, key, size, view = _storage_id(value, 6)
        found = storages.setdefault(key, Storage(kind, size))
        if (found.dtype, found.size) != (kind, size):
            raise UnsafeCheckpoint("describes one storage in two ways")
        if view is not None:
            raise CheckpointError("holds views of storages as torch wrote them before 0.4, which are not read")
        return found

    values = []
    for store in (None, None, persistent, None):
        machine = Machine(data, budget, start, persistent=store)
        values.append(machine.run())
        start = machine.pos
    protocol, system, result, keys = values
    if protocol != PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("is a torch stream of an unknown protocol or of a big-endian machine")
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise UnsafeCheckpoint("holds a torch stream whose list of storages is none")
    if sorted(keys) != sorted(storages):
        raise UnsafeCheckpoint("holds a torch stream whose list of storages does not fit its tensors")
    for key in keys:
        storage = storages[key]
        if len(data) - start < 8:
            raise CheckpointError("is cut off: a storage is missing at its end")
        size = struct.unpack("<q", data[start : start + 8])[0]
        start += 8
        stop = start + storage.size * SIZES[storage.dtype]
        if size != storage.size:
            raise UnsafeCheckpoint(f"says that a storage has {storage.size:,} numbers, then {size:,}")
        if stop > len(data):
            raise CheckpointError("is cut off: the numbers of a storage are missing at its end")
        storage.data = data[start:stop]
        start = stop
    if start != len(data):
        raise UnsafeCheckpoint("holds a torch stream with other data after its end")
    return result


def storage_from_bytes(data: memoryview, budget: Budget) -> Storage:
    """A storage saved as a stream of its own inside another pickle; the code that wrote it is `Storage.__reduce__`.

    Raises:
        UnsafeCheckpoint: the bytes hold anything else.
    """
    machine = Machine(data, budget)
    if machine.run() != MAGIC:
        raise UnsafeCheckpoint("holds a storage that is no torch stream")
    storage = read_stream(data, budget, machine.pos)
    if type(storage) is not Storage:
        raise UnsafeCheckpoint("holds a storage that contains something else")
    return storage


def _storage_id(value: Any, length: int) -> tuple[str, str, int, Any]:
    if type(value) is not tuple or len(value) not in (5, length) or value[0] != "storage":
        raise UnsafeCheckpoint("refers to data that are no torch storage")
    _, cls, key, _, size = value[:5]
    kind = STORAGE_TYPES.get(cls) if type(cls) is Token else None
    if kind is None:
        raise CheckpointError(f"holds numbers of the type {shown(cls)}, which are not read")
    if type(key) is not str or not key.isascii() or not key.isalnum() or len(key) > 64:
        raise UnsafeCheckpoint("names a storage by something that is no plain number")
    if type(size) is not int or not 0 <= size < 1 << 48:
        raise UnsafeCheckpoint("holds a storage of an impossible size")
    return kind, key, size, value[5] if len(value) > 5 else None
