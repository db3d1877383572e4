"""The process that reads what is not safetensors. It has no files, no network, little memory and little time.

Standard input is the file, standard output the safetensors file that it becomes, and the last line of standard
error says how it went, as JSON. Run by `sandbox.py`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import sys
from typing import NoReturn

from ganhub.checkpoint import raw_bytes
from ganhub.checkpoint.formats import parse
from ganhub.checkpoint.nodes import Budget
from ganhub.errors import CheckpointError, UnsafeCheckpoint

MEMORY = 420 << 20
"""Bytes of address space beside the file itself."""
SECONDS = 60
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def limit(size: int) -> None:
    """Gives up what reading does not need; where a system lacks a limit, the others hold."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        "RLIMIT_AS": size + MEMORY,
        "RLIMIT_CPU": SECONDS,
        "RLIMIT_FSIZE": (raw_bytes.MAX_SHARING + 1) * size + (16 << 20),
        "RLIMIT_NOFILE": 16,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def main() -> NoReturn:
    source, out = sys.stdin.buffer, sys.stdout.buffer
    size = os.fstat(source.fileno()).st_size

    limit(size)
    gc.disable()  # millions of small containers, none of them garbage before the end
    try:
        data = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        budget = Budget()
        content = parse(data, budget)
        raw_bytes.write(content, out, size, budget)
        out.flush()
        answer = {"format": content.format}
    except UnsafeCheckpoint as error:
        answer = {"unsafe": error.message}
    except CheckpointError as error:
        answer = {"refused": error.message}
    except MemoryError:
        answer = {"unsafe": "needs more memory than a checkpoint of its size should"}
    except OSError as error:
        answer = {"failed": error.strerror or str(error)}
    sys.stderr.write("\n" + json.dumps(answer) + "\n")
    sys.stderr.flush()
    os._exit(0)  # what a full disk left unwritten must not be tried again, nor spoil the last line
