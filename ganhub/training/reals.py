"""Real pictures for a training: in memory where they fit, drawn in an order that a state can resume."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput

MEMORY = 4 << 30
"""Bytes of decoded pictures that are kept in memory; a larger set is decoded batch by batch."""


def shares(data: PictureSet, balance: float, fewest: int) -> Tensor | None:
    """How often each picture is drawn [N], beside the others; None where all are alike.

    Args:
        balance: 0 draws classes as large as they are, 1 all equally often, 0.5 by the square root of their size.
        fewest: classes with fewer pictures are left out.

    Raises:
        BadInput: there are no classes, or none is large enough.
    """
    if not balance and fewest <= 1:
        return None
    if data.labels is None or data.labels.ndim > 1:
        raise BadInput(f"{data.path} has no classes for --balance and --fewest; prepare it with --label.")
    counts = np.bincount(data.labels)[data.labels]
    weights = torch.from_numpy((counts ** -float(balance)) * (counts >= fewest))
    if not weights.any():
        raise BadInput(f"No class of {data.path} has {fewest} pictures; lower --fewest.")
    return weights


class Reals:
    """Draws real pictures at random.

    Args:
        data: the set.
        mirror: turn half of them round.
        balance: draw every class by the square root of its number of pictures, so that rare ones are seen.
        fewest: leave out classes with fewer pictures.
        device: where the pictures go.

    Raises:
        BadInput: `balance` or `fewest` without classes, or no class is large enough.
    """

    def __init__(
        self,
        data: PictureSet,
        mirror: bool = False,
        balance: bool = False,
        fewest: int = 1,
        device: str | torch.device = "cpu",
    ):
        self.data, self.mirror, self.device = data, mirror, torch.device(device)
        fits = len(data) * data.channels * data.size[0] * data.size[1] <= MEMORY
        self.pictures = torch.from_numpy(data.pictures()).permute(0, 3, 1, 2).contiguous() if fits else None
        self.weights = shares(data, 0.5 if balance else 0.0, fewest)

    def __call__(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pictures [n, C, H, W] in [-1, 1] and their classes, one-hot [n, c_dim]."""
        if self.weights is None:
            index = torch.randint(len(self.data), (n,), generator=rng)
        else:
            index = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        if self.pictures is None:
            x = torch.from_numpy(self.data.pictures(index.tolist())).permute(0, 3, 1, 2)
        else:
            x = self.pictures[index]
        x = x.to(self.device).float() / 127.5 - 1
        if self.mirror:
            turned = torch.rand(n, 1, 1, 1, generator=rng) < 0.5
            x = torch.where(turned.to(self.device), x.flip(3), x)
        return x, self.classes(index)

    def classes(self, index: Tensor) -> Tensor:
        """One-hot classes [n, c_dim] of pictures; [n, 0] where the set has none."""
        if self.data.c_dim == 0:
            return torch.zeros(len(index), 0, device=self.device)
        return torch.from_numpy(self.data.one_hot(index.numpy())).to(self.device)

    def some_classes(self, n: int, rng: torch.Generator) -> Tensor:
        """Classes [n, c_dim] as often as they are drawn."""
        if self.data.c_dim == 0:
            return torch.zeros(n, 0, device=self.device)
        if self.weights is None:
            return self.classes(torch.randint(len(self.data), (n,), generator=rng))
        return self.classes(torch.multinomial(self.weights, n, replacement=True, generator=rng))
