"""SRResNet and SRGAN (Ledig et al., 2017, https://arxiv.org/abs/1609.04802): residual blocks, then pixel shuffle.

One class for all dialects: its `config` says what differs between them (kernels, activation, normalisation, the
range that the network computes in, whether an enlarged copy of the input is added at the end).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError

SLOPE = {"relu": 0.0, "leaky_relu": 0.1}


class SRResNet(nn.Module):
    """Pictures [N, C, h, w] in [0, 1] -> [N, C, h * scale, w * scale], nominally in [0, 1].

    Args:
        channels: of the trunk.
        blocks: residual blocks.
        ups: one entry per pixel shuffle: [factor, channels after it].
        kernels: of the first and of the last convolution.
        activation: `prelu`, `relu` or `leaky_relu` (0.1).
        norm: batch normalisation in the blocks and after the trunk.
        middle: a convolution after the blocks, and the sum with what went into them.
        hr: one more convolution after the pixel shuffles.
        base: `bilinear` adds the enlarged input to the output; `none`.
        output: `plain`; `clamp` to [0, 1]; `tanh`, halved and moved to [0, 1].
        signed: the network computes in [-1, 1].
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 16,
        ups: Any = ((2, 64), (2, 64)),
        kernels: Any = (9, 9),
        activation: str = "prelu",
        norm: bool = True,
        middle: bool = True,
        hr: bool = False,
        base: str = "none",
        output: str = "plain",
        signed: bool = False,
        img_channels: int = 3,
    ):
        super().__init__()
        ups = [list(up) for up in ups]
        self.config: dict[str, Any] = {
            "channels": channels, "blocks": blocks, "ups": ups, "kernels": list(kernels), "activation": activation,
            "norm": norm, "middle": middle, "hr": hr, "base": base, "output": output, "signed": signed,
            "img_channels": img_channels,
        }  # fmt: skip
        self.img_channels, self.multiple, self.scale = img_channels, 1, 1
        self.base, self.output, self.signed = base, output, signed
        self.first = nn.Sequential(_conv(img_channels, channels, kernels[0]), _activation(activation, channels))
        self.trunk = nn.Sequential(*(Block(channels, activation, norm) for _ in range(blocks)))
        self.middle = _normed(channels, norm) if middle else None
        layers: list[nn.Module] = []
        before = channels
        for factor, after in ups:
            shuffle = nn.PixelShuffle(factor)
            layers += [_conv(before, after * factor * factor, 3), shuffle, _activation(activation, after)]
            self.scale *= factor
            before = after
        self.ups = nn.Sequential(*layers)
        self.hr = nn.Sequential(_conv(before, before, 3), _activation(activation, before)) if hr else None
        self.last = _conv(before, img_channels, kernels[1])

    @property
    def reach(self) -> int:
        """Low-resolution pixels by which an output pixel sees."""
        first, last = (k // 2 for k in self.config["kernels"])
        reach = float(first + 2 * self.config["blocks"] + (1 if self.middle is not None else 0))
        size = 1
        for factor, _ in self.config["ups"]:
            reach += 1 / size
            size *= factor
        reach += ((1 if self.hr is not None else 0) + last) / size
        return int(-(-reach // 1)) + 1  # the shuffled pixels see from their own corner

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2 - 1 if self.signed else x
        low = self.first(x)
        high = self.trunk(low)
        if self.middle is not None:
            high = self.middle(high) + low
        high = self.ups(high)
        high = self.last(high if self.hr is None else self.hr(high))
        if self.base == "bilinear":
            high = high + F.interpolate(x, scale_factor=self.scale, mode="bilinear").to(high.dtype)
        if self.output == "tanh":
            high = torch.tanh(high)
        if self.signed or self.output == "tanh":
            high = (high + 1) / 2
        return high.clamp(0, 1) if self.output == "clamp" else high


class Block(nn.Module):
    """Two convolutions, and the sum with what went into them."""

    def __init__(self, channels: int, activation: str, norm: bool):
        super().__init__()
        self.body = nn.Sequential(*_normed(channels, norm), _activation(activation, channels), *_normed(channels, norm))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Discriminator(nn.Module):
    """Pictures [N, 3, H, W] in [0, 1] -> scores [N, 1]: eight convolutions, each second one halving the picture.

    The paper ends in fully connected layers, which fix the size of the patches; here the mean over the places is
    taken instead, so that any size goes.
    """

    def __init__(self, channels: int = 64, norm: bool = True, img_channels: int = 3):
        super().__init__()
        self.config = {"channels": channels, "norm": norm, "img_channels": img_channels}
        widths = [channels * f for f in (1, 1, 2, 2, 4, 4, 8, 8)]
        layers: list[nn.Module] = []
        before = img_channels
        for number, width in enumerate(widths):
            stride = 1 + number % 2
            layers.append(nn.Conv2d(before, width, 3, stride, 1))
            layers += [nn.BatchNorm2d(width)] if norm and number else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(before, 2 * before), nn.LeakyReLU(0.2), nn.Linear(2 * before, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x * 2 - 1).mean((2, 3)))


def _conv(before: int, after: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2)


def _normed(channels: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(_conv(channels, channels, 3), *([nn.BatchNorm2d(channels)] if norm else []))


def _activation(name: str, channels: int) -> nn.Module:
    return nn.PReLU() if name == "prelu" else nn.LeakyReLU(SLOPE[name])


def detect(raw: RawCheckpoint) -> bool:
    return False


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    raise CheckpointError(f"{raw.name} is no SRResNet written by this project.")


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return SRResNet(**config) if part == "G" else Discriminator(**config)
