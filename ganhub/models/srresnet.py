"""SRResNet and SRGAN (Ledig et al., 2017, https://arxiv.org/abs/1609.04802): residual blocks, then pixel shuffle.

One class for all dialects: its `config` says what differs between them (kernels, activation, normalisation, the
range that the network computes in, whether an enlarged copy of the input is added at the end). Read are the files of
leftthomas/SRGAN and its descendants, the five sets of names of Lornatang/SRGAN-PyTorch, BasicSR's MSRResNet, and
TensorLayer's `.npz` of both backends. A row's `config` says what their tensors cannot: see `read`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import _srresnet_files as files
from ganhub.models import _upscale, load_strictly

SLOPE = {"relu": 0.0, "leaky_relu": 0.1}
ACTIVATIONS = ("prelu", "silu", *SLOPE)
OUTPUTS = ("plain", "clamp", "tanh")
BASES = ("none", "bilinear")


class SRResNet(nn.Module):
    """Pictures [N, C, h, w] in [0, 1] -> [N, C, h * scale, w * scale], nominally in [0, 1].

    Args:
        channels: of the trunk.
        blocks: residual blocks.
        ups: one entry per pixel shuffle: [factor, channels after it].
        kernels: of the first and of the last convolution.
        activation: `prelu`, `relu`, `leaky_relu` (0.1) or `silu`; or three of them, for the first convolution, the
            blocks, and all after the blocks.
        norm: batch normalisation in the blocks, and after them.
        middle: a convolution after the blocks, and the sum with what went into them; `active`: with an activation
            instead of a normalisation.
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
        activation: Any = "prelu",
        norm: bool = True,
        middle: bool | str = True,
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
        self.signed = signed
        for value, known in ((base, BASES), (output, OUTPUTS)):
            if value not in known:
                raise CheckpointError(f"There is no {value!r} for an SRResNet; choose {' or '.join(known)}.")
        first, inner, upper = [activation] * 3 if isinstance(activation, str) else activation
        self.first = nn.Sequential(_conv(img_channels, channels, kernels[0]), _activation(first))
        self.trunk = nn.Sequential(*(Block(channels, inner, norm) for _ in range(blocks)))
        self.middle = _normed(channels, norm and middle != "active") if middle else None
        if self.middle is not None and middle == "active":
            self.middle.append(_activation(upper))
        layers: list[nn.Module] = []
        before = channels
        for factor, after in ups:
            shuffle = nn.PixelShuffle(factor)
            layers += [_conv(before, after * factor * factor, 3), shuffle, _activation(upper)]
            self.scale *= factor
            before = after
        self.ups = nn.Sequential(*layers)
        self.hr = nn.Sequential(_conv(before, before, 3), _activation(upper)) if hr else None
        self.last = _conv(before, img_channels, kernels[1])
        trunk = kernels[0] // 2 + 2 * blocks + bool(middle)
        larger = [step for factor, _ in ups for step in (("conv", 1), ("up", factor))]
        self.reach = _upscale.reach([("conv", trunk), *larger, ("conv", hr + kernels[1] // 2)])

    def forward(self, x: Tensor) -> Tensor:
        low = self.first(x * 2 - 1 if self.signed else x)
        high = self.trunk(low)
        if self.middle is not None:
            high = self.middle(high) + low
        high = self.ups(high)
        return _finished(self.last(high if self.hr is None else self.hr(high)), x, self.config, self.scale)


def _finished(high: Tensor, x: Tensor, config: dict[str, Any], scale: int) -> Tensor:
    """What the last convolution gives, as the picture that it stands for."""
    if config["base"] == "bilinear":
        high = high + F.interpolate(x, scale_factor=scale, mode="bilinear").to(high.dtype)
    if config["output"] == "tanh":
        high = torch.tanh(high)
    if config["signed"] or config["output"] == "tanh":
        high = (high + 1) / 2
    return high.clamp(0, 1) if config["output"] == "clamp" else high


class Block(nn.Module):
    """Two convolutions, and the sum with what went into them."""

    def __init__(self, channels: int, activation: str, norm: bool):
        super().__init__()
        self.body = nn.Sequential(*_normed(channels, norm), _activation(activation), *_normed(channels, norm))

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


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise CheckpointError(f"config.activation must be one of {', '.join(ACTIVATIONS)}, not {name!r}.")
    return nn.PReLU() if name == "prelu" else nn.SiLU() if name == "silu" else nn.LeakyReLU(SLOPE[name])


class Prepared(nn.Module):
    """An `SRResNet` for inference: normalisation folded, activations and sums inside the convolutions."""

    def __init__(self, network: SRResNet, dtype: torch.dtype):
        super().__init__()
        self.config, self.scale, self.img_channels = network.config, network.scale, network.img_channels
        self.reach, self.multiple, self.signed = network.reach, network.multiple, network.signed
        self.first = _upscale.First(*_upscale.parts(network.first[0]), dtype, _act(network.first[1]))  # type: ignore
        self.trunk = nn.ModuleList(nn.ModuleList(_folded(block.body, dtype)) for block in network.trunk)  # type: ignore
        self.middle = None if network.middle is None else _folded(network.middle, dtype)[0]
        ups: list[Any] = list(network.ups)
        hr, last = network.hr, _upscale.parts(network.last)
        # Without a convolution in between, the last one can as well look at the pixels before they are shuffled.
        self.factor = 1 if hr is not None or not ups else ups[-2].upscale_factor
        self.ups = nn.Sequential()
        for conv, shuffle, act in zip(ups[::3], ups[1::3], ups[2::3], strict=True):
            facts = *_upscale.parts(conv), dtype, _act(act)
            whole = self.factor > 1 and act is ups[-1]
            self.ups.append(_upscale.Conv(*facts) if whole else _upscale.Shuffled(*facts, shuffle.upscale_factor))
        if hr is not None:
            self.ups.append(_upscale.Conv(*_upscale.parts(hr[0]), dtype, _act(hr[1])))  # type: ignore[arg-type]
        self.last = _upscale.Last(*(_upscale.before_shuffle(*last, self.factor) if self.factor > 1 else last), dtype)

    def forward(self, x: Tensor) -> Tensor:
        low = high = self.first(x * 2 - 1 if self.signed else x)
        blocks: Any = self.trunk
        for before, after in blocks:
            high = after(before(high), high)
        if self.middle is not None:
            high = self.middle(high) + low if self.middle.act is not None else self.middle(high, low)
        high = F.pixel_shuffle(self.last(self.ups(high)), self.factor)
        return _finished(high, x, self.config, self.scale)


def _folded(layers: Any, dtype: torch.dtype) -> list[_upscale.Conv]:
    """The convolutions of a sequence, each with the normalisation and the activation that follow it."""
    found: list[list[Any]] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            found.append([layer, None, None])
        else:
            found[-1][1 if isinstance(layer, nn.BatchNorm2d) else 2] = layer
    return [_upscale.Conv(*_upscale.parts(conv, norm), dtype, _act(act)) for conv, norm, act in found]


def _act(layer: nn.Module | None) -> _upscale.Act:
    if isinstance(layer, nn.PReLU):
        return layer.weight
    return "silu" if isinstance(layer, nn.SiLU) else getattr(layer, "negative_slope", None)


def detect(raw: RawCheckpoint) -> bool:
    return files.facts(files.renamed(_upscale.chosen(raw))[0]) is not None


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file.

    What a row may say: `activation` (where there are no tensors of a PReLU), `output`, `signed` and `base` as in
    `SRResNet`, where the names of the tensors mislead; `subpixel`, `tf` or `torch`, how the channels of TensorLayer's
    files become pixels, by default as the backend does in whose layout they lie.

    Raises:
        CheckpointError: names or shapes are not those of such a network, or `config` says otherwise than they.
    """
    subpixel = config.pop("subpixel", None)
    if subpixel not in (None, *files.SUBPIXEL):
        raise CheckpointError(f"config.subpixel must be {' or '.join(files.SUBPIXEL)}, not {subpixel!r}.")
    tensors, said = files.renamed(_upscale.chosen(raw), subpixel)
    found = files.facts(tensors)
    if found is None:
        raise CheckpointError(f"{raw.name} is no SRResNet: it lacks a first or last convolution, or residual blocks.")
    scale = math.prod(factor for factor, _ in found["ups"])
    facts = _upscale.agreed(raw.name, {**found, **said, "scale": scale}, config, set(said))
    facts["activation"] = files.activations(tensors, facts["activation"])
    with torch.device("meta"):
        network = build(part, facts)
    load_strictly(network, files.completed(tensors, network), raw.name, assign=True)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    config = {key: value for key, value in config.items() if key != "scale"}  # which the ups tell already
    return SRResNet(**config) if part == "G" else Discriminator(**config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """`exact`: float32; `fast`: bfloat16, with the picture in and out in float32. Discriminators stay as they are."""
    return Prepared(network, _upscale.dtype_of(precision, network)) if isinstance(network, SRResNet) else network
