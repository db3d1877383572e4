"""A checkpoint of any era -> one safetensors file of our own, which is then read back and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganhub import checkpoint, models
from ganhub.errors import BadInput, CheckpointError
from ganhub.latents import z_from_seeds


@dataclass(frozen=True)
class Converted:
    """What was written, and how far its output is from the source's."""

    path: Path
    family: str
    networks: dict[str, dict[str, Any]]
    """Config of each part."""
    bytes: int
    sha256: str
    source_sha256: str
    differences: dict[str, float]
    """Largest difference of a tensor, or of a picture in [-1, 1], between both files, by part."""


def convert(
    file: str | Path,
    out: str | Path,
    *,
    family: str | None = None,
    parts: Sequence[str] = ("G",),
    config: Mapping[str, Any] | None = None,
) -> Converted:
    """Write the networks of a file as safetensors with the config in the header.

    Args:
        family: recognised from the file by default.
        parts: `G`, `D`.
        config: what tensor shapes cannot tell, as in a registry row.

    Raises:
        CheckpointError: the file cannot be read, or does not fit its family.
        BadInput: `out` is the file itself, or no `.safetensors`.
    """
    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise BadInput(f"A converted file ends with .safetensors, '{out.name}' does not.")
    if out.exists() and file.exists() and out.samefile(file):
        raise BadInput(f"{out} would be written over itself; name another file.")
    if not parts or not set(parts) <= {"G", "D"}:
        raise BadInput(f"The networks of a file are G and D, not '{', '.join(parts)[:40]}'.")
    raw = checkpoint.read(file)
    name = family or models.detect(raw)
    networks = {part: models.read(raw, name, part, **(config or {})) for part in dict.fromkeys(parts)}
    saved = {
        part: checkpoint.Network(type(network).__name__, dict(network.config), dict(network.state_dict()))  # type: ignore[arg-type]
        for part, network in networks.items()
    }
    checkpoint.save(out, saved, {"family": name, "source": raw.name, "source_sha256": raw.sha256})
    back = checkpoint.read(out)
    differences = {
        part: _difference(network, models.read(back, name, part), out.name) for part, network in networks.items()
    }
    configs = {part: dict(network.kwargs) for part, network in saved.items()}
    return Converted(out, name, configs, out.stat().st_size, back.sha256, raw.sha256, differences)


def _difference(before: Any, after: Any, name: str) -> float:
    import torch

    tensors = before.state_dict()
    for key, value in after.state_dict().items():
        if not torch.equal(value, tensors[key]):
            raise CheckpointError(f"{name} was not written right: '{key}' differs from its source.")
    if not isinstance(before, models.Generator):
        return 0.0
    z = torch.from_numpy(z_from_seeds([0], before.z_dim, before.z_distribution))
    c = torch.eye(before.c_dim)[:1] if before.c_dim else None
    with torch.inference_mode():
        return float((before(z, c) - after(z, c)).abs().max())
