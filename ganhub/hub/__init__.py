"""A row of the registry -> a verified local file.

Downloads run in a child process (`ganhub.hub.download`), because no setting of the Hub's library bounds how long a
call may take: a child can be ended at a deadline, or when nobody waits any more.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganhub.errors import FetchError
from ganhub.hub import records, transfer
from ganhub.hub.transfer import FetchProgress, Progress
from ganhub.registry import Checkpoint, EmbeddedSource, HubSource, ManualSource, PathSource, UrlSource, home

__all__ = [
    "FetchProgress",
    "Status",
    "Verified",
    "fetch",
    "forget",
    "home",
    "manual_path",
    "source_name",
    "status",
    "verify",
]


@dataclass(frozen=True)
class Status:
    """What is on disk for a row, from a look at the folder alone.

    Args:
        on_disk: the file is there (not yet that it is the right one).
        path: where it is, or will be.
        bytes: its size, or the size that the registry names, or None.
        sha256: its hash, where it was computed and the file has not changed since.
    """

    on_disk: bool
    path: Path
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class Verified:
    """A file that was read in full and is what its row names.

    Args:
        against: what it was held against: `sha256` or `git_blob_sha1` of the row, `weights.lock`, or `nothing`.
    """

    path: Path
    bytes: int
    sha256: str
    against: str


def fetch(row: Checkpoint, *, progress: Progress | None = None, offline: bool | None = None) -> Path:
    """The local file of a row, downloaded where it is not here, and verified.

    A file that is here and right costs no request. An exception that `progress` raises ends the download.

    Args:
        progress: called about five times a second with a `FetchProgress`.
        offline: make no request; by default what `HF_HUB_OFFLINE` says.

    Raises:
        FetchError: one sentence that names the row, the cause and what to do; its code is one of those in
            docs/architecture.md.
    """
    target = _target(row)
    if not isinstance(row.source, (HubSource, UrlSource)):
        if not target.is_file():
            raise _not_here(row, target)
        _check(row, target)
        return target
    offline = _offline() if offline is None else offline
    if target.is_file():
        try:
            _check(row, target)
            return target
        except FetchError as error:
            if offline or error.code not in _WORTH_ANOTHER_DOWNLOAD:
                raise
    if offline:
        raise FetchError(
            f"'{row.id}' is not on this machine and downloads are switched off; run `ganhub pull {row.id}` once "
            "with a network and without HF_HUB_OFFLINE.",
            "offline",
        )
    with transfer.one_at_a_time(row.id, target, progress):
        return _download(row, target, progress)


def _download(row: Checkpoint, target: Path, progress: Progress | None) -> Path:
    """Bring the file here; what arrives damaged is brought once more, then refused."""
    if target.is_file():  # another process may have brought it while this one waited
        try:
            _check(row, target)
            return target
        except FetchError as error:
            if error.code not in _WORTH_ANOTHER_DOWNLOAD:
                raise
            _discard(target)
    claimed = transfer.download(row, target, progress)
    try:
        _check(row, target, claimed)
    except FetchError as error:
        _discard(target)
        if error.code not in _WORTH_ANOTHER_DOWNLOAD:
            raise
        claimed = transfer.download(row, target, progress)
        try:
            _check(row, target, claimed)
        except FetchError:
            _discard(target)
            raise
    return target


def status(row: Checkpoint) -> Status:
    """What is on disk for a row; nothing is downloaded, read in full or changed."""
    target = _target(row)
    try:
        size = target.stat().st_size if target.is_file() else None
        known = records.remembered(target) if size is not None else None
    except OSError:
        return Status(False, target, row.bytes, None)
    return Status(size is not None, target, row.bytes if size is None else size, known.sha256 if known else None)


def verify(row: Checkpoint) -> Verified:
    """Read the file of a row again in full, whatever was remembered of it.

    Raises:
        FetchError: it is not here (`missing`), or is not the file that its row names.
    """
    target = _target(row)
    if not target.is_file():
        raise _not_here(row, target)
    against = _check(row, target, fresh=True)
    found = records.digest(target)
    return Verified(target, found.bytes, found.sha256, against)


def forget(row: Checkpoint) -> bool:
    """Accept that the file of a row without sha256 has changed; False where nothing was recorded."""
    return records.forget(source_name(row))


def manual_path(row: Checkpoint) -> Path:
    """Where the file of a `manual` row goes once a person has fetched it with a browser."""
    if not isinstance(row.source, ManualSource):
        raise ValueError(f"'{row.id}' is no row of kind manual")
    return home() / "manual" / row.source.file


def source_name(row: Checkpoint) -> str:
    """One line for where a file comes from, the same for rows that share it."""
    source = row.source
    if isinstance(source, HubSource):
        kind = "" if source.repo_type == "model" else f"{source.repo_type}s/"
        return f"hub:{kind}{source.hub}@{source.revision}/{source.file}"
    if isinstance(source, UrlSource):
        return f"url:{source.url}"
    if isinstance(source, ManualSource):
        return f"manual:{source.manual}#{source.file}"
    return f"path:{source.path}" if isinstance(source, PathSource) else f"embedded:{source.embedded}"


def _target(row: Checkpoint) -> Path:
    """Where the file of a row stands when it is here."""
    source = row.source
    if isinstance(source, EmbeddedSource):
        return Path(__file__).parent.parent / "embedded" / source.embedded
    if isinstance(source, PathSource):
        return Path(source.path)
    if isinstance(source, ManualSource):
        return manual_path(row)
    if isinstance(source, UrlSource):
        folder = hashlib.sha256(source.url.encode()).hexdigest()[:16]
        return home() / "url" / folder / transfer.file_name(source.url)
    return transfer.snapshot(source)


def _offline() -> bool:
    named = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return named.upper() in {"1", "ON", "YES", "TRUE"}


_WORTH_ANOTHER_DOWNLOAD = {"wrong_hash", "truncated", "wrong_size", "lfs_pointer", "html_page", "changed"}


def _check(row: Checkpoint, file: Path, claimed: str = "", fresh: bool = False) -> str:
    """Hold a file against its row, else against what the server said, else against `weights.lock`.

    Args:
        claimed: sha256 or git blob sha1 that the server named, if it did.
        fresh: read it in full even where its hash is remembered.

    Returns:
        What it was held against.
    """
    try:
        found = records.digest(file, fresh)
    except OSError as error:
        raise FetchError(f"'{row.id}': {file} cannot be read ({error.strerror or error}).", "unreadable") from error
    if row.sha256 is not None or row.git_blob_sha1 is not None:
        wrong = (row.sha256 not in (None, found.sha256)) or (row.git_blob_sha1 not in (None, found.git_blob_sha1))
        if not wrong:
            return "sha256" if row.sha256 else "git_blob_sha1"
        _look(row, file, found.bytes)
        wanted, got = (row.sha256, found.sha256) if row.sha256 else (row.git_blob_sha1, found.git_blob_sha1)
        raise FetchError(
            f"'{row.id}': {file} has the hash {got[:12]}…, not the {str(wanted)[:12]}… that the registry names, "
            f"and is not used; {_remedy(row)}.",
            "wrong_hash",
        )
    _look(row, file, found.bytes)
    if claimed and claimed not in (found.sha256, found.git_blob_sha1):
        raise FetchError(
            f"'{row.id}': what arrived is not the file that the server announced and is not used; {_remedy(row)}.",
            "wrong_hash",
        )
    if isinstance(row.source, (EmbeddedSource, PathSource)):
        return "nothing"
    first = records.record(row.id, source_name(row), found.sha256)
    if first.sha256 != found.sha256:
        raise FetchError(
            f"'{row.id}': {_where(row)} gives another file (sha256 {found.sha256[:12]}…) than the one first downloaded "
            f"on {first.date} ({first.sha256[:12]}…), and it is not used; if you trust the change, remove the line "
            f"of '{first.row}' from {records.lock_file()} and fetch it again.",
            "changed",
        )
    return "weights.lock"


def _look(row: Checkpoint, file: Path, size: int) -> None:
    """Say what a wrong file is, where its first bytes or its size tell."""
    with file.open("rb") as stream:
        start = stream.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise FetchError(
            f"'{row.id}': {file} is a Git LFS pointer, a text of {size} bytes that stands for the real file; "
            f"{_remedy(row, 'fetch the file itself (`git lfs pull`)')}.",
            "lfs_pointer",
        )
    if start.startswith((b"<!doctype html", b"<html")):
        raise FetchError(
            f"'{row.id}': a web page arrived instead of the file; {_remedy(row, 'fetch the file itself')}, "
            "and check that no sign-in page of the network stands between.",
            "html_page",
        )
    if row.bytes is not None and size != row.bytes:
        raise FetchError(
            f"'{row.id}': {file} has {size} of {row.bytes} bytes; {_remedy(row)}.",
            "truncated" if size < row.bytes else "wrong_size",
        )


def _where(row: Checkpoint) -> str:
    source: Any = row.source
    if isinstance(source, HubSource):
        return f"{source.hub} on the Hub"
    if isinstance(source, UrlSource):
        return transfer.bare(source.url)
    return str(_target(row))


def _remedy(row: Checkpoint, by_hand: str = "fetch it again") -> str:
    if isinstance(row.source, EmbeddedSource):
        return "install ganhub again"
    if isinstance(row.source, PathSource):
        return f"{by_hand}, or correct the row"
    if isinstance(row.source, ManualSource):
        return f"{by_hand} from {row.source.manual}"
    return f"try again later, and if it stays so tell the owner of {_where(row)}"


def _not_here(row: Checkpoint, target: Path) -> FetchError:
    if isinstance(row.source, ManualSource):
        return FetchError(
            f"'{row.id}' can only be fetched with a browser: open {row.source.manual}, download the file and put it "
            f"at {target}, then try again.",
            "manual",
        )
    if isinstance(row.source, EmbeddedSource):
        return FetchError(
            f"'{row.id}': {target.name} is missing from this installation; install ganhub again.", "missing"
        )
    if isinstance(row.source, PathSource):
        return FetchError(f"'{row.id}': there is no file {target}; correct `path` in its row.", "missing")
    return FetchError(f"'{row.id}' is not on this machine; run `ganhub pull {row.id}`.", "missing")


def _discard(file: Path) -> None:
    """Remove a file and, where it is a link into the Hub's cache, what it links to."""
    while True:
        linked = file.parent / os.readlink(file) if file.is_symlink() else None
        file.unlink(missing_ok=True)
        if linked is None:
            return
        file = linked
