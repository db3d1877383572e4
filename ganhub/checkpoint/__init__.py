"""Checkpoint files of every era -> plain tensors, without running anything that a file contains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Network", "RawCheckpoint"]


@dataclass(frozen=True)
class Network:
    """One network of a file: what the file says it is, and its tensors on the CPU.

    Args:
        class_name: the class or build function that the file names; "" where it names none.
        kwargs: the arguments that the file states, JSON-able.
        tensors: parameters and buffers by name, in the order of the file.
    """

    class_name: str
    kwargs: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class RawCheckpoint:
    """A checkpoint file as data.

    Args:
        name: file name, for messages.
        format: `ganhub`, `safetensors`, `torch`, `nvidia-torch`, `nvidia-tf` or `numpy`.
        networks: by their place in the file.
        extra: everything else in it that is plain data, JSON-able.
        sha256: of the file.
    """

    name: str
    format: str
    networks: dict[str, Network]
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
