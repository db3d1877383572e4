"""Checkpoint files of every era -> plain tensors, without running anything that a file contains.

This process opens safetensors only. Everything else goes once through `sandbox.py`: a child process with limits,
in which `machine.py` reads the pickle instructions without Python's unpickler.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganhub.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["Network", "RawCheckpoint", "read", "save"]


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
        format: `ganhub`, `safetensors`, `torch`, `torch7`, `nvidia-torch`, `nvidia-tf` or `numpy`.
        networks: by their place in the file.
        extra: everything else in it that is plain data, JSON-able.
        sha256: of the file.
    """

    name: str
    format: str
    networks: dict[str, Network]
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def read(path: str | Path, *, sha256: str | None = None, cache: str | Path | None = None) -> RawCheckpoint:
    """The networks in a checkpoint file of any kind; nothing in the file is ever run.

    The tensors are views of a safetensors file on disk: the file itself, or its converted form in the cache.

    Args:
        path: the file; its kind is told from its content.
        sha256: what the file must have.
        cache: folder of converted files; `converted` in the home of the hub by default.

    Raises:
        UnsafeCheckpoint: the file asks for something that data never needs.
        CheckpointError: it is missing, damaged, of an unknown kind, or has another sha256.
    """
    from ganhub.checkpoint import sandbox, tensors
    from ganhub.checkpoint.formats import is_safetensors
    from ganhub.hub import home, records

    path = Path(path)
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is a folder or a device, not a checkpoint file.", "not_found")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            own = records.digest(path).sha256
            if sha256 is not None and own != sha256.lower():
                raise CheckpointError(
                    f"{path.name} has the sha256 {own[:12]}..., not {sha256[:12].lower()}... as its row says; "
                    "it was changed or damaged, so delete it and get it again.",
                    "wrong_hash",
                )
            if is_safetensors(file.read(9), size):
                return tensors.open_safetensors(path, path.name, own)
            folder = Path(cache) if cache is not None else home() / "converted"
            made = sandbox.converted(file, path.name, own, folder)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}.", "not_found") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    return tensors.open_converted(made, path.name, own)


def save(path: str | Path, networks: Mapping[str, Network], extra: Mapping[str, Any]) -> None:
    """Writes networks as one safetensors file of our own, with what they are in its header.

    Args:
        path: the new file; replaced at once or not at all.
        networks: `G`, `D`; `kwargs` is the config with which the family builds the network again.
        extra: JSON-able facts, at least `family`.

    Raises:
        CheckpointError: the folder cannot be written, or `family` is missing.
    """
    from ganhub.checkpoint import tensors

    if not extra.get("family"):
        raise CheckpointError(f"{Path(path).name} cannot be written without the name of its family.")
    if not networks or any("." in part for part in networks):
        raise CheckpointError(f"{Path(path).name} cannot be written: networks have names without dots, such as G.")
    json.dumps(dict(extra))
    tensors.save_ours(Path(path), networks, extra)
