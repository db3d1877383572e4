"""The networks that pictures are compared in: the standard Inception, and a small one that is always at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ganhub import checkpoint, hub, models
from ganhub.errors import BadInput
from ganhub.registry import Registry

ROWS = {"small": "features-small", "inception": "inception-fid"}
"""Features by name, and the rows of their weights."""
TITLES = {
    "inception": {"frechet": "FID", "kernel": "KID"},
    "small": {"frechet": "Fréchet distance (small features)", "kernel": "Kernel distance (small features)"},
}
"""Distances in the small features are never called FID."""
IDS = {
    "inception": {"frechet": "fid", "kernel": "kid"},
    "small": {"frechet": "frechet_small", "kernel": "kernel_small"},
}
"""What the distances are called in the `metrics` of a row."""


class Features:
    """A feature network: pictures -> numbers of which distances mean something.

    Attributes:
        name: `inception` or `small`.
        dim: how many numbers.
    """

    def __init__(self, name: str, network: Any, batch: int):
        self.name, self.network, self.batch = name, network, batch
        self.dim: int = network.dim

    def __call__(self, pictures: np.ndarray | Tensor) -> np.ndarray:
        """uint8 [N, H, W, 3] (or 1: grey) -> float32 [N, dim].

        Raises:
            BadInput: these are no such pictures.
        """
        x = torch.as_tensor(pictures)
        if x.ndim != 4 or x.dtype != torch.uint8 or x.shape[3] not in (1, 3):
            raise BadInput(f"Features are taken of uint8 [N, H, W, 3], not of {x.dtype} {list(x.shape)}.")
        blocks = [self.embed(part.permute(0, 3, 1, 2)).cpu().numpy() for part in x.split(self.batch)]
        return np.concatenate(blocks) if blocks else np.empty((0, self.dim), np.float32)

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """[N, 3 or 1, H, W] in [0, 255], not rounded where differences are tiny -> float32 [N, dim] on the device."""
        device = next(self.network.parameters()).device
        x = pictures.to(device).float().expand(-1, 3, -1, -1)
        return self.network(x.contiguous(memory_format=torch.channels_last))

    def to(self, device: torch.device | str) -> Features:
        self.network.to(device)
        return self


def load_features(name: str, registry: Registry, *, offline: bool | None = None) -> Features:
    """The feature network of a name, its weights fetched where they are not here.

    Raises:
        BadInput: there are no such features.
        FetchError: the weights cannot be had; says which command fetches them.
        CheckpointError: the file is damaged.
    """
    if name not in ROWS:
        raise BadInput(f"There are no features '{name[:40]}'; there are {' and '.join(ROWS)}.")
    row = registry.find(ROWS[name])
    file = hub.fetch(row, offline=offline)
    network: nn.Module = models.read(checkpoint.read(file, sha256=row.sha256), row.family, **row.config)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Features(name, network, 16 if name == "inception" else 128)
