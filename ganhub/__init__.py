"""GAN Hub: GAN checkpoints of every era, working again, safe and fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ganhub.pipelines.generate import LoadedGenerator

__version__ = "0.1.0"


def load(checkpoint: str, *, registry: str | Path | None = None, device: str | None = None) -> LoadedGenerator:
    """Open a checkpoint of the registry for use from Python.

    `ganhub.load("dcgan-fruit-64").generate(seeds=[0, 1]).images` is a list of PIL pictures.

    Args:
        checkpoint: id or alias of a row.
        registry: another YAML file whose rows are added to the built-in ones.
        device: `cuda`, `mps` or `cpu`; the best one present by default.

    Raises:
        GanHubError: no such row, its file cannot be had, or it does not fit its family.
    """
    from ganhub.pipelines.generate import LoadedGenerator

    return LoadedGenerator.open(checkpoint, registry=registry, device=device)
