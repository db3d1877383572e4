"""Converts a file once, in a child process with limits, and keeps the result under the hash of the source."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import ganhub
from ganhub.errors import CheckpointError, UnsafeCheckpoint
from ganhub.hub import records

VERSION = 1
"""Of the converter; a cached file of another one is made anew."""
TIMEOUT = 30
"""Seconds for any file, and one more for every 10 MB."""
START = "import sys; sys.path.insert(0, sys.argv[1]); from ganhub.checkpoint.child import main; main()"


def sha256_of(file: BinaryIO) -> str:
    """Hash of an open file from its beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def converted(file: BinaryIO, name: str, sha256: str, folder: Path) -> Path:
    """The safetensors form of an open file, from the cache or made now.

    Args:
        name: file name, for messages.
        sha256: of the file, the name of the cached form; what was hashed once is remembered until it changes.
        folder: the cache.

    Raises:
        UnsafeCheckpoint, CheckpointError: the file is refused; the sentence says why.
    """
    target, card = folder / f"{sha256}.safetensors", folder / f"{sha256}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(card.read_text())
        known = facts["converter"] == VERSION and facts["source_sha256"] == sha256
        if known and records.digest(target).sha256 == facts["sha256"]:
            return target
    if sha256_of(file) != sha256:
        raise CheckpointError(f"{name} was changed while it was read; try again.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{sha256[:12]}-") as work:
            made = Path(work) / "tensors"
            with made.open("w+b") as out:
                file.seek(0)
                answer = _run(file, out, name)
                facts = {"converter": VERSION, "source": name, "source_sha256": sha256, "sha256": sha256_of(out)}
                facts["format"] = answer["format"]
            note = Path(work) / "card"
            note.write_text(json.dumps(facts, indent=1))
            os.replace(made, target)
            os.replace(note, card)
    except OSError as error:
        raise CheckpointError(
            f"{name} cannot be converted, because {folder} cannot be written: {error.strerror or error}."
        ) from error
    return target


def _sweep(folder: Path) -> None:
    """Removes what a process that was killed a day ago left behind."""
    for rest in folder.glob("*-*"):
        with contextlib.suppress(OSError):
            if rest.is_dir() and time.time() - rest.stat().st_mtime > 86_400:
                shutil.rmtree(rest)


def _run(file: BinaryIO, out: BinaryIO, name: str) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    root = str(Path(ganhub.__file__).parent.parent)
    environment = {k: v for k, v in os.environ.items() if k == "SYSTEMROOT"}  # Windows does not start without
    seconds = TIMEOUT + size / 10e6
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", START, root],
            stdin=file,
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsafeCheckpoint(
            f"{name} is refused: it could not be read within {seconds:.0f} seconds, as any checkpoint of its size can."
        ) from None
    try:
        answer = json.loads(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
    except ValueError:
        answer = {}
    if done.returncode == 0 and "format" in answer:
        return answer
    if "unsafe" in answer:
        raise UnsafeCheckpoint(
            f"{name} is refused: it {answer['unsafe']}. Nothing in it was run; get the file from its author."
        )
    if "failed" in answer:
        raise CheckpointError(f"{name} cannot be converted: {answer['failed']} (is the disk full?).")
    if "refused" in answer:
        raise CheckpointError(f"{name} {answer['refused']}.")
    raise UnsafeCheckpoint(
        f"{name} is refused: the process that read it ended with the code {done.returncode}; nothing in it was run."
    )
