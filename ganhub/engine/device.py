"""Where networks run: the device, its threads, its memory, and which of its failures mean what."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager

import torch

from ganhub.errors import BadInput

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def choose(name: str | None = None) -> torch.device:
    """The device to run on: `name`, else `GANHUB_DEVICE`, else cuda, mps, cpu, whichever is there first.

    Raises:
        BadInput: the device that was asked for is not there.
    """
    name = name or os.environ.get("GANHUB_DEVICE") or ""
    if not name:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    there = {
        "cpu": index in ("", "0"),
        "mps": torch.backends.mps.is_available() and index in ("", "0"),
        "cuda": torch.cuda.is_available()
        and (not index or (index.isdecimal() and int(index) < torch.cuda.device_count())),
    }
    if kind not in there:
        raise BadInput(f"GANHUB_DEVICE (or --device) is '{name}'; choose cuda, cuda:N, mps or cpu.")
    if not there[kind]:
        raise BadInput(f"The device '{name}' is not there; unset GANHUB_DEVICE or choose cpu.")
    return torch.device("cuda", int(index or 0)) if kind == "cuda" else torch.device(kind)


def memory(device: torch.device) -> int:
    """Bytes that networks and their activations may take by default: most of a GPU, half of the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * 0.8)
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such call on Windows
        total = 8 << 30
    return total // 2


def set_threads(device: torch.device) -> int:
    """Gives the one worker all cores (`OMP_NUM_THREADS` wins); more workers with fewer threads were slower."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdecimal() and int(wanted) > 0 else len(_cores())
    if device.type == "cpu" and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def tune_allocator() -> bool:
    """Makes glibc keep large blocks instead of handing them back to the kernel at every layer.

    Doubles the speed of large pictures on a CPU. For the whole process, on glibc only. One arena, because those of
    threads hold at most 64 MB and take larger blocks from the kernel after all; call it before the threads begin.

    Returns:
        True where the C library took the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    return all(libc.mallopt(option, value) == 1 for option, value in settings)


@contextmanager
def arithmetic(device: torch.device, precision: str, deterministic: bool):
    """The device's arithmetic for one batch: `exact` never rounds float32 products to TF32."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "fast"
    cudnn.deterministic, cudnn.benchmark = deterministic, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def is_out_of_memory(error: BaseException) -> bool:
    """The batch was too large; a smaller one may pass."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def is_lost(error: BaseException) -> bool:
    """The device answers nothing more in this process (a CUDA assert, a card that fell off the bus)."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def release(device: torch.device) -> None:
    """Hands memory that no tensor uses back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
