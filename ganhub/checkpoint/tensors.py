"""safetensors files: those of others, those that the converter made, and our own. The only ones opened here."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.checkpoint.networks import without_prefixes
from ganhub.checkpoint.raw_bytes import MAX_HEADER
from ganhub.checkpoint.sandbox import VERSION
from ganhub.errors import CheckpointError, UnsafeCheckpoint


def open_safetensors(path: Path, name: str, sha256: str) -> RawCheckpoint:
    """A safetensors file that somebody wrote, or `save_ours`.

    Raises:
        CheckpointError: the file is damaged.
    """
    tensors, metadata = _load(path, name)
    if "ganhub" not in metadata:
        networks = {"": Network("", {}, without_prefixes(tensors))}
        return RawCheckpoint(name, "safetensors", networks, dict(metadata), sha256)
    try:
        header = json.loads(metadata["ganhub"])
        parts, extra = dict(header.pop("networks")), dict(header)
        found: dict[str, dict[str, torch.Tensor]] = {part: {} for part in parts}
        for key, tensor in tensors.items():
            part, _, own = key.partition(".")
            found[part][own] = tensor
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        raise CheckpointError(f"{name} has a damaged header; convert or download it again.") from None
    family = str(extra.get("family", ""))
    networks = {part: Network(family, dict(parts[part]), found[part]) for part in parts}
    return RawCheckpoint(name, "ganhub", networks, extra, sha256)


def open_converted(path: Path, name: str, sha256: str) -> RawCheckpoint:
    """A file that the converter made.

    Raises:
        CheckpointError: the file is damaged.
    """
    tensors, metadata = _load(path, name)
    about = json.loads(metadata["ganhub_raw"])
    networks = {
        part: Network(facts["class_name"], facts["kwargs"], {k: tensors[str(i)] for k, i in facts["keys"].items()})
        for part, facts in about["networks"].items()
    }
    return RawCheckpoint(name, about["format"], networks, about["extra"], sha256)


def save_ours(path: Path, networks: Mapping[str, Network], extra: Mapping[str, Any]) -> None:
    """As `ganhub.checkpoint.save`.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    tensors = {}
    for part, network in networks.items():
        for key, tensor in network.tensors.items():
            tensors[f"{part}.{key}"] = tensor.detach().cpu().contiguous().clone()
    header = {**extra, "converter": VERSION, "networks": {part: n.kwargs for part, n in networks.items()}}
    work = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, work, metadata={"format": "pt", "ganhub": json.dumps(header)})
        os.replace(work, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            work.unlink()
        raise CheckpointError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name in its header stands twice")
    return found


def _load(path: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > MAX_HEADER:
            raise UnsafeCheckpoint(
                f"{name} is refused: its header of {length:,} bytes is larger than any network needs."
            )
        header = file.read(length)
    try:
        json.loads(header, object_pairs_hook=_unique)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError, KeyError, OverflowError, RecursionError) as error:
        text = str(error).encode("ascii", "replace").decode()[:120].rstrip(".")
        raise CheckpointError(f"{name} is a damaged safetensors file ({text}); get it again.") from None
