"""Bring one file here in a child process, within limits of time and space, and tell how far it is."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from ganhub.errors import FetchError
from ganhub.hub import records
from ganhub.registry import Checkpoint, HubSource, UrlSource


@dataclass(frozen=True)
class FetchProgress:
    """How far a download is.

    Args:
        done: bytes that are here.
        total: bytes of the whole file; None while nobody has said.
        speed: bytes per second over the last seconds.
        seconds_left: None while it cannot be told.
    """

    done: int
    total: int | None
    speed: float
    seconds_left: float | None

    def describe(self) -> str:
        """`12.3 of 132 MB, 4.5 MB/s, 27 s left`."""
        unit = _unit(self.total or self.done)
        done = _short(self.done / unit[0])
        parts = [f"{done} of {_short(self.total / unit[0])} {unit[1]}" if self.total else f"{done} {unit[1]}"]
        if self.speed > 0:
            factor, name = _unit(self.speed)
            parts.append(f"{_short(self.speed / factor)} {name}/s")
        if self.seconds_left is not None:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes} min {seconds} s left" if minutes else f"{seconds} s left")
        return ", ".join(parts)


Progress = Callable[[FetchProgress], object]


def _unit(value: float) -> tuple[float, str]:
    return next(((f, n) for f, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if value >= f), (1.0, "B"))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


@dataclass(frozen=True)
class Limits:
    """Deadlines in seconds, and what a retry waits."""

    answer: float = 10
    """Until a server answers one request, or sends the next bytes."""
    stall: float = 60
    """Without a new byte, whatever the library is waiting for."""
    total: float = 600
    """For a whole download, beyond what its bytes take at `slowest`."""
    slowest: float = 25_000
    """Bytes per second; a connection that stays below it is given up."""
    unknown_size: float = 4 * 3600
    """For a whole download whose size nobody names."""
    wait: float = 120
    """For another process that downloads the same file and makes no progress."""
    retries: int = 2
    backoff: float = 1
    """Before the first retry; doubled for each further one."""
    leftover: float = 24 * 3600
    """Age at which an unfinished file that nobody writes to is removed."""


LIMITS = Limits()
_SPARE = 32 << 20
"""Bytes that a download leaves free on the disk."""


def bare(url: str) -> str:
    """An address without user, password and query, which may hold a secret."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def file_name(url: str) -> str:
    """Last part of an address, as a plain file name."""
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".")
    return kept[-100:] or "file"


def hub_cache() -> Path:
    """Folder in which the Hub's library keeps repositories, by the variables that the library knows."""
    env = os.environ
    named = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    if not named:
        base = env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
        named = os.path.join(base, "hub")
    return Path(os.path.expandvars(os.path.expanduser(named)))


def snapshot(source: HubSource) -> Path:
    """Where the Hub's library puts a file of a commit."""
    repository = "--".join([f"{source.repo_type}s", *source.hub.split("/")])
    return hub_cache() / repository / "snapshots" / source.revision / source.file


@contextmanager
def one_at_a_time(row_id: str, target: Path, progress: Progress | None) -> Iterator[None]:
    """Let one thread of one process download a file; the others see its progress, wait, and share its failure.

    Raises:
        FetchError: `busy`, when the other one stands still; `unwritable`, when there is no place for the lock;
            what the download failed with that this one waited for.
    """
    base = _notes(target)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{base}.lock")
        free = _acquire(lock, 0)
    except OSError as error:
        raise _unwritable(row_id, base.parent, error) from error
    since, seen, changed = time.time(), "", time.monotonic()
    while not free:
        free = _acquire(lock, 0.2)
        news = _read(base)
        said = json.loads(news) if news else {}
        if "code" in said and said["at"] >= since:
            if free:
                lock.release()
            raise FetchError(said["sentence"], said["code"])
        if news != seen:
            seen, changed = news, time.monotonic()
            if "done" in said and progress is not None and not free:
                progress(FetchProgress(said["done"], said["total"], said["speed"], said["seconds_left"]))
        elif not free and time.monotonic() - changed > LIMITS.wait:
            holder = f"process {json.loads(seen)['pid']}" if seen else "another process"
            raise FetchError(
                f"'{row_id}' is being downloaded by {holder}, which has stood still for {LIMITS.wait:.0f} s; end it, "
                "then try again.",
                "busy",
            )
    try:
        yield
        base.with_suffix(".json").unlink(missing_ok=True)
    except FetchError as error:
        _publish(base, code=error.code, sentence=error.message)
        raise
    finally:
        lock.release()


def _notes(target: Path) -> Path:
    """What the lock of a file and the news about it are called, without their endings."""
    return records.home() / "locks" / sha256(str(target).encode()).hexdigest()[:16]


def _acquire(lock: FileLock, timeout: float) -> bool:
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    return True


def _read(base: Path) -> str:
    try:
        return base.with_suffix(".json").read_text(encoding="utf-8")
    except OSError:
        return ""


def _publish(base: Path, **said: Any) -> None:
    """For the others that wait for the same file."""
    with suppress(OSError):  # they wait without news; a full disk is the download's own affair
        records.replace(base.with_suffix(".json"), json.dumps({"pid": os.getpid(), "at": time.time(), **said}))


def _unwritable(row_id: str, folder: Path, error: OSError) -> FetchError:
    return FetchError(
        f"'{row_id}' cannot be stored: {folder} cannot be written ({error.strerror or error}); set GANHUB_HOME and "
        "HF_HOME to folders that can be.",
        "unwritable",
    )


def download(row: Checkpoint, target: Path, progress: Progress | None) -> str:
    """Bring the file of a row to `target`; the caller holds `one_at_a_time`.

    Returns:
        sha256 or git blob sha1 that the server named for it, or an empty string.

    Raises:
        FetchError: it did not come; whatever `progress` raises.
    """
    sweep()
    source = row.source
    assert isinstance(source, (HubSource, UrlSource))
    request: dict[str, Any] = {
        "row": row.id,
        "target": str(target),
        "answer": LIMITS.answer,
        "retries": LIMITS.retries,
        "backoff": LIMITS.backoff,
        "sha256": row.sha256,
        **source.model_dump(),
    }
    if isinstance(source, HubSource):
        request["cache"] = str(hub_cache())
    place = hub_cache() if isinstance(source, HubSource) else target.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(row.id, place, error) from error
    if row.bytes is not None:
        _check_space(row.id, place, row.bytes)
    with child(request) as messages:
        ended = _follow(row, target, _notes(target), place, messages, progress)
    if "file" not in ended:
        raise FetchError(ended["sentence"], ended["code"])
    if not target.is_file():
        raise FetchError(f"'{row.id}' was downloaded to {ended['file']}, where nobody looks for it.", "fetch")
    return ended["claimed"]


def _follow(
    row: Checkpoint, target: Path, base: Path, place: Path, messages: queue.Queue[dict], progress: Progress | None
) -> dict[str, Any]:
    """Pass on what the child says, until its last word or a deadline."""
    start = moved = time.monotonic()
    spoke = 0.0
    done, total = 0, None
    window: deque[tuple[float, int]] = deque([(start, 0)])
    while True:
        try:
            message = messages.get(timeout=0.1)
        except queue.Empty:
            message = {}
        if "code" in message or "file" in message:
            if "file" in message and progress is not None:
                size = target.stat().st_size if target.is_file() else done
                progress(FetchProgress(size, size, _speed(window, time.monotonic(), size), 0.0))
            return message
        now = time.monotonic()
        if message.get("total") is not None and message["total"] != total:
            total = message["total"]
            _check_space(row.id, place, total - message["done"])
        if message.get("done", done) != done:
            done, moved = message["done"], now
        if now - moved > LIMITS.stall:
            raise FetchError(
                f"'{row.id}': {_server(row)} has sent nothing for {LIMITS.stall:.0f} s; check the network, then try "
                "again.",
                "timeout",
            )
        limit = LIMITS.unknown_size if total is None else LIMITS.total + total / LIMITS.slowest
        if now - start > limit:
            speed = done / (now - start)
            raise FetchError(
                f"'{row.id}': {_server(row)} sends too slowly ({FetchProgress(done, total, speed, None).describe()}, "
                f"given up after {limit:.0f} s); try again later or on another network.",
                "too_slow",
            )
        if now - spoke >= 0.2:
            spoke = now
            speed = _speed(window, now, done)
            left = (total - done) / speed if total is not None and speed > 0 else None
            said = FetchProgress(done, total, speed, left)
            _publish(base, **said.__dict__)
            if progress is not None:
                progress(said)


def _speed(window: deque[tuple[float, int]], now: float, done: int) -> float:
    """Bytes per second over the last five seconds."""
    window.append((now, done))
    while len(window) > 2 and now - window[0][0] > 5:
        window.popleft()
    elapsed = now - window[0][0]
    return max(0.0, (done - window[0][1]) / elapsed) if elapsed > 0 else 0.0


def _server(row: Checkpoint) -> str:
    source = row.source
    if isinstance(source, UrlSource):
        return urlsplit(source.url).hostname or "the server"
    endpoint = os.environ.get("HF_ENDPOINT")
    return f"the Hub at {bare(endpoint)}" if endpoint else "the Hub"


def _check_space(row_id: str, place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE:
        raise FetchError(
            f"'{row_id}' needs {FetchProgress(needed, None, 0, None).describe()} and {place} has "
            f"{FetchProgress(free, None, 0, None).describe()} free; free some space, or set HF_HOME and GANHUB_HOME to "
            "another disk.",
            "disk_full",
        )


@contextmanager
def child(request: dict[str, Any], script: str = "download.py") -> Iterator[queue.Queue[dict]]:
    """The process that speaks to the server and what it says; it ends with this block, or with this process."""
    # The file itself, not `-m ganhub.hub.download`: that one needs nothing of the rest, and starts in half the time.
    places = [*(place for place in sys.path if place), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}
    environment["HF_HUB_VERBOSITY"] = "error"
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if os.name == "nt":
        environment["HF_HUB_DISABLE_SYMLINKS"] = "1"
    messages: queue.Queue[dict] = queue.Queue()
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name(script))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=environment,
            )
        except OSError as error:
            raise FetchError(
                f"'{request['row']}': no process can be started for the transfer ({error.strerror or error}); free "
                "some memory, then try again."
            ) from error
        assert process.stdin is not None and process.stdout is not None
        listener = threading.Thread(
            target=_listen, args=(process, complaints, request["row"], messages), daemon=True, name="ganhub-download"
        )
        listener.start()
        try:
            with suppress(BrokenPipeError):  # it is gone already; the listener says so
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            yield messages
        finally:
            process.terminate()
            try:
                process.wait(timeout=3)  # it removes its unfinished file
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            listener.join()
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()


def _listen(process: subprocess.Popen, complaints: Any, row_id: str, messages: queue.Queue[dict]) -> None:
    assert process.stdout is not None
    last: dict[str, Any] = {}
    for line in process.stdout:
        last = json.loads(line)
        messages.put(last)
    if not last.keys() & {"code", "file", "answer"}:
        code = process.wait()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        why += f", {lines[-1].split(':')[0]}" if lines and code > 0 else ""
        messages.put({"code": "fetch", "sentence": f"'{row_id}': the transfer ended early ({why}); try again."})


def sweep() -> int:
    """Remove unfinished downloads that nobody has written to for a day; gives how many.

    The Hub's library never takes them up again: each try writes a file of its own.
    """
    found = [*hub_cache().glob("*--*/blobs/*.incomplete"), *(records.home() / "url").glob("*/*.part*")]
    removed = 0
    for file in found:
        try:
            if time.time() - file.stat().st_mtime > LIMITS.leftover:
                file.unlink()
                removed += 1
        except OSError:
            continue  # somebody else was quicker, or owns it
    return removed
