"""RRDBNet: ESRGAN (Wang et al., 2018, https://arxiv.org/abs/1809.00219) and Real-ESRGAN (arXiv:2107.10833).

Dense blocks inside residual blocks inside a residual trunk, then enlargement by nearest neighbours. Read are the three
sets of names under which such networks are published; widths, depth, scale and growth come from shapes. A network that
halves or quarters its input first (Real-ESRGAN x2 and x1) tells itself by the channels of its first convolution.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import _upscale, load_strictly

_SLOPE = 0.2
_RESIDUAL = 0.2
"""Factor of what a dense block, and a residual block of three, adds."""


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it: x [N, channels, h, w] -> the same shape."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        for number in range(4):
            self.add_module(f"conv{number + 1}", _conv(channels + number * growth, growth))
        self.conv5 = _conv(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, F.leaky_relu(conv(seen), _SLOPE)), dim=1)  # type: ignore[operator]
        return x + _RESIDUAL * self.conv5(seen)


class ResidualBlock(nn.Module):
    """Three dense blocks, and the sum with what went into them."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(channels, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + _RESIDUAL * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """Pictures [N, C, h, w] in [0, 1] -> [N, C, h * scale, w * scale], nominally in [0, 1].

    Config: `channels`, `blocks`, `growth` (channels that each convolution of a dense block adds), `ups` (factors of
    the enlargements), `unshuffle` (by how much the input is made smaller first), `img_channels`.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        channels, ups = config["channels"], config["ups"]
        self.img_channels: int = config.get("img_channels", 3)
        self.multiple: int = config.get("unshuffle", 1)
        self.scale: int = math.prod(ups) // self.multiple
        trunk = ("conv", 15 * config["blocks"] + 2)
        larger = [step for factor in ups for step in (("up", factor), ("conv", 1))]
        self.reach = _upscale.reach([("down", self.multiple), trunk, *larger, ("conv", 2)])
        self.conv_first = _conv(self.img_channels * self.multiple**2, channels)
        self.body = nn.Sequential(*(ResidualBlock(channels, config["growth"]) for _ in range(config["blocks"])))
        self.conv_body = _conv(channels, channels)
        for number in range(len(ups)):
            self.add_module(f"conv_up{number + 1}", _conv(channels, channels))
        self.conv_hr = _conv(channels, channels)
        self.conv_last = _conv(channels, self.img_channels)

    def ups(self) -> list[tuple[int, nn.Conv2d]]:
        """Factor and convolution of every enlargement."""
        return [(factor, getattr(self, f"conv_up{n + 1}")) for n, factor in enumerate(self.config["ups"])]

    def forward(self, x: Tensor) -> Tensor:
        """See the class.

        Raises:
            BadInput: a side is no multiple of `multiple`.
        """
        x = self.conv_first(smaller(x, self.multiple))
        x = x + self.conv_body(self.body(x))
        for factor, conv in self.ups():
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=factor, mode="nearest")), _SLOPE)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE))


def smaller(x: Tensor, factor: int) -> Tensor:
    """x [N, C, h, w] -> [N, C * factor^2, h / factor, w / factor].

    Raises:
        BadInput: a side is no multiple of the factor.
    """
    if factor > 1 and (x.shape[2] % factor or x.shape[3] % factor):
        raise BadInput(f"This network takes sides that are multiples of {factor}, not {x.shape[3]}x{x.shape[2]}.")
    return F.pixel_unshuffle(x, factor) if factor > 1 else x


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


class PreparedDense(nn.Module):
    """A `DenseBlock` for inference: gain * (x + what it adds) + others, where `others` are the caller's."""

    def __init__(self, block: DenseBlock, dtype: torch.dtype, gain: float = 1.0):
        super().__init__()
        convs = [getattr(block, f"conv{n}") for n in range(1, 5)]
        self.grow = nn.ModuleList(_upscale.Conv(*_upscale.parts(conv), dtype, _SLOPE) for conv in convs)
        self.last = _upscale.Conv(*_upscale.parts(block.conv5, gain=_RESIDUAL * gain), dtype)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        seen = x
        for conv in self.grow:
            seen = torch.cat((seen, conv(seen)), dim=1)
        return self.last(seen, other)


class PreparedResidual(nn.Module):
    """A `ResidualBlock` for inference. The sum over the blocks stays in float32: roundings would add up as well."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.rdb1, self.rdb2 = (PreparedDense(b, dtype) for b in (block.rdb1, block.rdb2))
        self.rdb3 = PreparedDense(block.rdb3, dtype, _RESIDUAL)

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(self.dtype)
        y = self.rdb1(y, y)
        y = self.rdb2(y, y)
        if y.dtype == x.dtype:
            return self.rdb3(y, torch.add(x, y, alpha=_RESIDUAL))
        return x + self.rdb3(y, y * _RESIDUAL)


class Prepared(nn.Module):
    """An `RRDBNet` for inference."""

    def __init__(self, network: RRDBNet, dtype: torch.dtype):
        super().__init__()
        self.config, self.scale, self.img_channels = network.config, network.scale, network.img_channels
        self.reach, self.multiple = network.reach, network.multiple
        self.first = _upscale.First(*_upscale.parts(network.conv_first), dtype)
        self.body = nn.Sequential(*(PreparedResidual(block, dtype) for block in network.body))  # type: ignore[arg-type]
        self.after = _upscale.Conv(*_upscale.parts(network.conv_body), dtype)
        self.ups = nn.Sequential(*(_upscale.enlarged(factor, conv, dtype, _SLOPE) for factor, conv in network.ups()))
        self.hr = _upscale.Conv(*_upscale.parts(network.conv_hr), dtype, _SLOPE)
        self.last = _upscale.Last(*_upscale.parts(network.conv_last), dtype)

    def forward(self, x: Tensor) -> Tensor:
        low = self.first(smaller(x, self.multiple))
        low = self.after(self.body(low.float()).to(low.dtype), low)
        return self.last(self.hr(self.ups(low)))


_DIALECTS = (
    # ESRGAN's second code, and the first one's flat lists of layers
    (re.compile(r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"trunk_conv\."), "conv_body."),
    (re.compile(r"upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"HRconv\."), "conv_hr."),
    (re.compile(r"model\.0\."), "conv_first."),
    (re.compile(r"model\.1\.sub\.\d+\."), "conv_body."),
)


def detect(raw: RawCheckpoint) -> bool:
    return _config(_renamed(_upscale.chosen(raw))) is not None


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of `RRDBNet`, whichever names the file has."""
    numbers = sorted({int(m[1]) for key in tensors if (m := re.match(r"model\.(\d+)\.weight", key))})
    tail = [n for n in numbers if n > 1]
    names = [*(f"conv_up{n + 1}" for n in range(len(tail) - 2)), "conv_hr", "conv_last"]
    flat = {f"model.{n}.": f"{name}." for n, name in zip(tail, names, strict=False)}
    renamed = {}
    for key, tensor in tensors.items():
        for old, new in flat.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
        for pattern, new in _DIALECTS:
            key = pattern.sub(new, key, count=1) if pattern.match(key) else key
        renamed[key] = tensor
    return renamed


def _config(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """Config from names and shapes, None where they are those of no RRDBNet."""
    named = ("conv_first", "body.0.rdb1.conv1", "conv_body", "conv_hr", "conv_last")
    weights = [tensors.get(f"{name}.weight") for name in named]
    if any(w is None or w.shape[2:] != (3, 3) for w in weights) or any(".conv1x1." in key for key in tensors):
        return None
    first, dense, *_, last = (w for w in weights if w is not None)
    unshuffle = math.isqrt(first.shape[1] // last.shape[0])
    if first.shape[1] != last.shape[0] * unshuffle**2:
        return None
    count = sum(re.fullmatch(r"conv_up\d\.weight", key) is not None for key in tensors)
    return {
        "channels": first.shape[0],
        "blocks": len({key.split(".")[1] for key in tensors if key.startswith("body.")}),
        "growth": dense.shape[0],
        "ups": [2] * count,
        "unshuffle": unshuffle,
        "img_channels": last.shape[0],
    }


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file. `config` may say `scale`: 3 where the one enlargement is threefold.

    Raises:
        CheckpointError: names or shapes are not those of such a network, or `config` says otherwise than they.
    """
    tensors = _renamed(_upscale.chosen(raw))
    found = _config(tensors)
    if found is None:
        raise CheckpointError(f"{raw.name} is no RRDBNet: it has no dense blocks, or lacks the layers around them.")
    if config.get("scale") == 3 and found["ups"] == [2] and found["unshuffle"] == 1:
        found["ups"] = [3]
    scale = math.prod(found["ups"]) // found["unshuffle"]
    facts = _upscale.agreed(raw.name, {**found, "scale": scale}, config, set())
    with torch.device("meta"):
        network = build(part, facts)
    load_strictly(network, tensors, raw.name, assign=True)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return RRDBNet({key: value for key, value in config.items() if key != "scale"})  # which the ups tell already


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """`exact`: float32; `fast`: bfloat16, with the picture in and out in float32."""
    assert isinstance(network, RRDBNet), "only a plain form is prepared"
    return Prepared(network, _upscale.dtype_of(precision, network))
