"""What is known of files on disk: their hashes (`verified.json`), and what came first (`weights.lock`)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from filelock import FileLock, Timeout

from ganhub.errors import FetchError
from ganhub.registry import home

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Digest:
    """Hashes of a file's content; `git_blob_sha1` is what git names a blob by."""

    bytes: int
    sha256: str
    git_blob_sha1: str


def compute(file: Path) -> Digest:
    """Read a whole file once, in constant memory."""
    size = file.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            git.update(chunk)
    return Digest(size, sha256.hexdigest(), git.hexdigest())


def _stamp(file: Path) -> tuple[str, list[int]]:
    """A file's name and what changes when somebody writes to it."""
    file = file.resolve()
    stat = file.stat()
    return str(file), [stat.st_size, stat.st_mtime_ns, stat.st_ino]


_here: dict[str, tuple[list[int], Digest]] = {}
"""Serves where the folder cannot be written, as on a read-only disk."""


def remembered(file: Path) -> Digest | None:
    """The digest of a file that has not changed since it was computed."""
    name, stamp = _stamp(file)
    if name in _here and _here[name][0] == stamp:
        return _here[name][1]
    entry = _load(home() / "verified.json").get(name)
    if not isinstance(entry, dict) or entry.get("stamp") != stamp:
        return None
    found = Digest(stamp[0], str(entry.get("sha256")), str(entry.get("git_blob_sha1")))
    _here[name] = (stamp, found)
    return found


def digest(file: Path, fresh: bool = False) -> Digest:
    """The digest of a file; computed only when the file is new or has changed, or when it is to be `fresh`."""
    known = None if fresh else remembered(file)
    if known is not None:
        return known
    name, stamp = _stamp(file)
    found = compute(file)
    if _stamp(file)[1] != stamp:  # written to while it was read: true for now, not to be remembered
        return found
    _here[name] = (stamp, found)
    entry = {"stamp": stamp, "sha256": found.sha256, "git_blob_sha1": found.git_blob_sha1}
    try:
        with _changing(home() / "verified.json") as table:
            for gone in [other for other in table if not os.path.exists(other)]:
                del table[gone]
            table[name] = entry
    except OSError:
        pass  # costs a computation at the next start, no more
    return found


def _load(file: Path) -> dict:
    """A damaged table is an empty one: what it held can be computed again."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


@contextmanager
def _changing(file: Path) -> Iterator[dict]:
    """A JSON table, read, changed and replaced while no other process does."""
    with guarded(file):
        table = _load(file)
        yield table
        replace(file, json.dumps(table, indent=0, sort_keys=True))


@contextmanager
def guarded(file: Path, timeout: float = 10) -> Iterator[None]:
    """Only one thread of one process at a time; a lock whose holder stands still is an `OSError` in the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise OSError(f"{file}.lock is held by another process") from error
    try:
        yield
    finally:
        lock.release()


def replace(file: Path, text: str) -> None:
    """Write a small text file so that readers see the old or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class FirstSeen:
    """A line of `weights.lock`: the file that a row without sha256 brought first."""

    sha256: str
    row: str
    date: str
    source: str


_HEADER = (
    "# Files that came from rows without a sha256, as they were at their first download.\n"
    "# A file that differs later is refused; to accept it, remove its line.\n"
)


def lock_file() -> Path:
    """`weights.lock`: one line per file, `sha256 row date source`."""
    return home() / "weights.lock"


def _lines() -> list[FirstSeen]:
    try:
        text = lock_file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FetchError(f"{lock_file()} cannot be read ({error}); repair or remove it.", "unreadable") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = line.split(maxsplit=3)
            if len(parts) != 4 or len(parts[0]) != 64:
                raise FetchError(
                    f"Line {number} of {lock_file()} is not 'sha256 row date source'; repair or remove it.",
                    "unreadable",
                )
            found.append(FirstSeen(*parts))
    return found


def first_seen(source: str) -> FirstSeen | None:
    """What `weights.lock` says of a source.

    Raises:
        FetchError: the lock file is damaged.
    """
    return next((line for line in _lines() if line.source == source), None)


def record(row: str, source: str, sha256: str) -> FirstSeen:
    """Write down what a row without a hash brought, unless somebody was first; gives what then stands there.

    Raises:
        FetchError: the lock file is damaged or cannot be written.
    """
    try:
        with guarded(lock_file()):
            lines = _lines()
            for line in lines:
                if line.source == source:
                    return line
            new = FirstSeen(sha256, row, date.today().isoformat(), source)
            replace(lock_file(), _HEADER + "".join(f"{_line(line)}\n" for line in [*lines, new]))
            return new
    except OSError as error:
        raise FetchError(
            f"'{row}' has no sha256 in the registry and {lock_file()} cannot be written ({error.strerror or error}); "
            "set GANHUB_HOME to a folder that can be.",
            "unwritable",
        ) from error


def forget(source: str) -> bool:
    """Remove a source from `weights.lock`, so that its next download is accepted; False where it was not there."""
    with guarded(lock_file()):
        lines = _lines()
        kept = [line for line in lines if line.source != source]
        if len(kept) < len(lines):
            replace(lock_file(), _HEADER + "".join(f"{_line(line)}\n" for line in kept))
        return len(kept) < len(lines)


def _line(line: FirstSeen) -> str:
    return f"{line.sha256} {line.row} {line.date} {line.source}"
