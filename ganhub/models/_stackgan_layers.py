"""Layers that both versions of StackGAN have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganhub.errors import BadInput

Noise = Tensor | torch.Generator | None
"""Of the conditioning augmentation: given, drawn from a generator, or none."""


class Augmentation(nn.Module):
    """Conditioning augmentation: embeddings [N, text_dim] -> a normal distribution, and a code drawn from it.

    Version 2 has a gated linear unit where version 1 has a ReLU, which leaves no mean and no log-variance below zero.
    """

    def __init__(self, text_dim: int, code_dim: int, gated: bool = True):
        super().__init__()
        self.text_dim, self.code_dim = text_dim, code_dim
        self.fc = nn.Linear(text_dim, code_dim * (4 if gated else 2))
        self.relu = nn.GLU(dim=1) if gated else nn.ReLU()

    def forward(self, embedding: Tensor, noise: Noise = None) -> tuple[Tensor, Tensor, Tensor]:
        """Code, mean and log-variance, each [N, code_dim].

        Raises:
            BadInput: embedding or noise has another shape.
        """
        if embedding.dim() != 2 or embedding.shape[1] != self.text_dim:
            raise BadInput(
                f"This generator takes embeddings of sentences [N, {self.text_dim}], not {list(embedding.shape)}; "
                "use the text encoder that it was trained with."
            )
        mu, logvar = self.relu(self.fc(embedding.to(self.fc.weight.dtype))).chunk(2, dim=1)
        if noise is None:
            return mu, mu, logvar
        if isinstance(noise, torch.Generator):
            noise = torch.randn(mu.shape, generator=noise, device=noise.device)
        if noise.shape != mu.shape:
            raise BadInput(f"The conditioning noise must have the shape {list(mu.shape)}, not {list(noise.shape)}.")
        return mu + (logvar / 2).exp() * noise.to(mu), mu, logvar


class ResBlock(nn.Module):
    """x [N, C, H, W] plus what two convolutions find in it; `gated` is the form of version 2."""

    def __init__(self, width: int, gated: bool = True):
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(width, width * (2 if gated else 1)),
            nn.BatchNorm2d(width * (2 if gated else 1)),
            nn.GLU(dim=1) if gated else nn.ReLU(),
            conv3x3(width, width),
            nn.BatchNorm2d(width),
        )
        self.last = nn.Identity() if gated else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(x) + x)


def conv3x3(before: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(before, width, 3, 1, 1, bias=False)


def up_block(before: int, width: int, gated: bool = True) -> nn.Sequential:
    """Twice the size: [N, before, H, W] -> [N, width, 2H, 2W]."""
    inner = width * 2 if gated else width
    last = nn.GLU(dim=1) if gated else nn.ReLU()
    return nn.Sequential(nn.Upsample(scale_factor=2), conv3x3(before, inner), nn.BatchNorm2d(inner), last)


def filled_counts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with the counters of batches that files of before 2018 do not have."""
    counts = {f"{key.removesuffix('running_var')}num_batches_tracked" for key in tensors if key.endswith("running_var")}
    return {**{key: torch.tensor(0) for key in counts}, **tensors}
