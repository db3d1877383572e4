"""A strict reader of zip archives: every byte that is read is where exactly one record says it is."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from ganhub.checkpoint.nodes import Budget, shown
from ganhub.errors import CheckpointError, UnsafeCheckpoint

MAX_RECORDS = 20_000
MAX_RATIO = 64
"""Weights shrink by a tenth; only bombs shrink by hundreds."""

_END, _END64, _CENTRAL, _LOCAL = b"PK\5\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"


class Record(NamedTuple):
    """A file in an archive: where its bytes lie, and how many there are before and after unpacking."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    header: int


class Archive:
    """The records of an archive by name.

    Raises:
        UnsafeCheckpoint: two records of a name, overlapping records, links, paths that leave the archive.
        CheckpointError: it is cut off or damaged.
    """

    def __init__(self, data: memoryview, budget: Budget):
        self.data, self.budget = data, budget
        self.records: dict[str, Record] = {}
        try:
            self._read_directory()
        except struct.error:
            raise CheckpointError("is a damaged zip archive") from None

    def _read_directory(self) -> None:
        end = len(self.data) - 22
        if end < 0 or bytes(self.data[end : end + 4]) != _END or bytes(self.data[-2:]) != b"\0\0":
            raise CheckpointError("is cut off, or has data after its end: its zip directory is not where it should be")
        disk, start_disk, here, count, size, offset = struct.unpack("<4H2L", self.data[end + 4 : end + 20])
        stop = end
        if end >= 20 and bytes(self.data[end - 20 : end - 16]) == _END64:
            where = struct.unpack("<Q", self.data[end - 12 : end - 4])[0]
            if where != end - 76 or bytes(self.data[where : where + 4]) != b"PK\6\6":
                raise CheckpointError("is a damaged zip archive: its directory is not where it says")
            _, _, _, disk, start_disk, here, count, size, offset = struct.unpack(
                "<QHHLLQQQQ", self.data[where + 4 : where + 56]
            )
            stop = where
        if disk or start_disk or here != count or count > MAX_RECORDS or offset + size != stop:
            raise CheckpointError("is a damaged zip archive: its directory does not fit the file")
        place, spans = offset, []
        for _ in range(count):
            place, record = self._entry(place, stop)
            if record.name in self.records:
                raise UnsafeCheckpoint(f"is a zip archive with two records named {shown(record.name)}")
            self.records[record.name] = record
            spans.append((record.header, self._start(record) + record.packed))
        if place != stop:
            raise CheckpointError("is a damaged zip archive: its directory does not end where it says")
        spans.sort()
        if spans and spans[0][0] != 0:
            raise UnsafeCheckpoint("is a zip archive with other data before its first record")
        reached = 0
        for begin, finish in [*spans, (offset, offset)]:
            if begin < reached:
                raise UnsafeCheckpoint("is a zip archive whose records overlap")
            reached = finish

    def _entry(self, place: int, stop: int) -> tuple[int, Record]:
        head = self.data[place : place + 46]
        if bytes(head[:4]) != _CENTRAL:
            raise CheckpointError("is a damaged zip archive: an entry of its directory is missing")
        system, flags, method = head[5], *struct.unpack("<HH", head[8:12])
        crc, packed, size, names, extras, comments = struct.unpack("<LLLHHH", head[16:34])
        mode, header = struct.unpack("<LL", head[38:46])
        place += 46
        raw = bytes(self.data[place : place + names])
        extra = self.data[place + names : place + names + extras]
        place += names + extras + comments
        if place > stop:
            raise CheckpointError("is a damaged zip archive: its directory is cut off")
        name = raw.decode("utf-8", "backslashreplace")
        parts = name.rstrip("/").split("/")
        if "\\" in name or "\0" in name or parts[0][1:2] == ":" or any(part in ("", ".", "..") for part in parts):
            raise UnsafeCheckpoint(f"is a zip archive with the record {shown(name)}, a path that leaves it")
        if system == 3 and (mode >> 16) & 0o170000 == 0o120000:
            raise UnsafeCheckpoint(f"is a zip archive with the link {shown(name)}")
        if flags & 1:
            raise CheckpointError("is an encrypted zip archive")
        if method not in (0, 8):
            raise CheckpointError(f"is a zip archive packed by a method ({method}) that is not read")
        size, packed, header = _wide(extra, size, packed, header)
        if method == 0 and packed != size or size > max(packed, 1) * 2000:
            raise UnsafeCheckpoint(f"is a zip archive whose record {shown(name)} lies about its size")
        return place, Record(name, method, crc, packed, size, header)

    def _start(self, record: Record) -> int:
        head = self.data[record.header : record.header + 30]
        if bytes(head[:4]) != _LOCAL:
            raise CheckpointError(f"is a damaged zip archive: the record {shown(record.name)} is not there")
        names, extras = struct.unpack("<HH", head[26:30])
        begin = record.header + 30
        own = bytes(self.data[begin : begin + names]).decode("utf-8", "backslashreplace")
        if own != record.name or struct.unpack("<H", head[8:10])[0] != record.method:
            raise UnsafeCheckpoint(f"is a zip archive that names the record {shown(record.name)} also {shown(own)}")
        return begin + names + extras

    def read(self, name: str) -> memoryview:
        """The bytes of a record; a view of the file where it is stored, unpacked within the budget where not.

        Raises:
            UnsafeCheckpoint: it unpacks to more than it says, or to more than weights ever do.
            CheckpointError: it is not there, or damaged.
        """
        record = self.records.get(name)
        if record is None:
            raise CheckpointError(f"is damaged: the record {shown(name)} is missing")
        start = self._start(record)
        packed = self.data[start : start + record.packed]
        if record.method == 0:
            return packed
        if record.size > 4096 and record.size > record.packed * MAX_RATIO:
            raise UnsafeCheckpoint(
                f"is a zip bomb: {record.packed:,} bytes would unpack to {record.size:,} in {shown(name)}"
            )
        self.budget.spend("unpacked bytes", record.size)
        unpacker = zlib.decompressobj(-15)
        try:
            data = unpacker.decompress(packed, record.size + 1)
        except zlib.error:
            raise CheckpointError(f"is damaged: the record {shown(name)} does not unpack") from None
        if len(data) != record.size or not unpacker.eof or zlib.crc32(data) != record.crc:
            raise UnsafeCheckpoint(f"is a zip archive whose record {shown(name)} is not what its directory says")
        return memoryview(data)


def _wide(extra: memoryview, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes over 4 GB, which stand in an extra field."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[place : place + 4])
        field = extra[place + 4 : place + 4 + length]
        if kind == 1:
            values = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                size = next(values) if size == 0xFFFFFFFF else size
                packed = next(values) if packed == 0xFFFFFFFF else packed
                header = next(values) if header == 0xFFFFFFFF else header
            except StopIteration:
                raise CheckpointError("is a damaged zip archive") from None
        place += 4 + length
    return size, packed, header
