"""A small convolutional network of our own whose inner numbers describe a picture: colour and texture, then shape.

It is a classifier without its heads (`ganhub/training/features.py` trains it). Distances in these features tell
generators of fruit, faces and digits apart; they are no FID and are never called so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError


class FeatureNet(nn.Module):
    """Pictures [N, 3, H, W] in [0, 255] -> features [N, dim]: the means of the activations at two depths."""

    def __init__(self, widths: list[int], size: int = 64):
        super().__init__()
        self.config = {"widths": list(widths), "size": size}
        self.size = size
        edge, low, middle, high = widths
        self.dim = low + high
        self.widths = list(widths)
        self.low = nn.Sequential(_layer(3, edge, 4), _layer(edge, low))
        self.middle = _layer(low, middle)
        self.residual = _layer(middle, middle, stride=1)
        self.high = _layer(middle, high)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.size, self.size)
        x = F.interpolate(x, size, mode="bilinear", antialias=True) if x.shape[2:] != size else x
        _, low, _, high = self._depths(x / 127.5 - 1)
        return torch.cat([low.mean((2, 3)), high.mean((2, 3))], 1)

    def encode_image(self, x: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in [-1, 1] -> features [N, dim], as the engine asks for them."""
        return self((x + 1) * 127.5)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Pictures [N, 3, H, W] in [0, 1] -> activations [N, C, h, w] at four depths; differentiable."""
        size = (self.size, self.size)
        x = F.interpolate(x, size, mode="bilinear", antialias=True) if x.shape[2:] != size else x
        return self._depths(2 * x - 1)

    def _depths(self, x: Tensor) -> list[Tensor]:
        edge = self.low[0](x)
        low = self.low[1](edge)
        middle = self.middle(low)
        middle = middle + self.residual(middle)
        return [edge, low, middle, self.high(middle)]


def _layer(before: int, after: int, kernel: int = 3, stride: int = 2) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def detect(raw: RawCheckpoint) -> bool:
    return False  # only files of our own, whose header says it


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    raise CheckpointError(f"{raw.name} is no feature network written by this project.")


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """Small enough to stay as it is in either precision."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return FeatureNet(**config)
