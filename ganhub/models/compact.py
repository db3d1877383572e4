"""The compact network of Real-ESRGAN (Wang et al., 2021, https://arxiv.org/abs/2107.10833): plain convolutions.

All work is done in low resolution; the last convolution's channels become pixels, and the enlarged input is added.
Widths, depth and scale are read from shapes. Files with PReLU have its slopes; of the others `config` says the
`activation`, `relu` or `leakyrelu` (0.1), by default the first.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import _upscale, load_strictly

_SLOPES = {"relu": 0.0, "leakyrelu": 0.1}


class Compact(nn.Module):
    """Pictures [N, C, h, w] in [0, 1] -> [N, C, h * scale, w * scale], nominally in [0, 1].

    Config: `channels` and number of `convs` between the first and the last; `scale`; `activation`; `img_channels`.
    """

    multiple = 1

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.scale: int = config["scale"]
        self.img_channels: int = config.get("img_channels", 3)
        channels, before = config["channels"], self.img_channels
        layers: list[nn.Module] = []
        for _ in range(config["convs"] + 1):
            layers += [nn.Conv2d(before, channels, 3, padding=1), _activation(config["activation"], channels)]
            before = channels
        self.body = nn.Sequential(*layers, nn.Conv2d(before, self.img_channels * self.scale**2, 3, padding=1))
        self.reach: int = config["convs"] + 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), self.scale) + F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Prepared(nn.Module):
    """A `Compact` for inference."""

    def __init__(self, network: Compact, dtype: torch.dtype):
        super().__init__()
        self.config, self.scale, self.img_channels = network.config, network.scale, network.img_channels
        self.reach, self.multiple = network.reach, network.multiple
        layers: list[Any] = list(network.body)
        self.first = _upscale.First(*_upscale.parts(layers[0]), dtype, _slopes(layers[1]))
        self.body = nn.Sequential(
            *(
                _upscale.Conv(*_upscale.parts(layers[i]), dtype, _slopes(layers[i + 1]))
                for i in range(2, len(layers) - 1, 2)
            )
        )
        self.last = _upscale.Conv(*_upscale.parts(layers[-1]), dtype)

    def forward(self, x: Tensor) -> Tensor:
        high = self.last(self.body(self.first(x))).to(x.dtype)
        return F.pixel_shuffle(high + x.repeat_interleave(self.scale**2, dim=1), self.scale)


def _activation(name: str, channels: int) -> nn.Module:
    if name != "prelu" and name not in _SLOPES:
        raise CheckpointError(f"config.activation must be prelu, {' or '.join(_SLOPES)}, not {name!r}.")
    return nn.PReLU(channels) if name == "prelu" else nn.LeakyReLU(_SLOPES[name])


def _slopes(layer: nn.Module) -> float | Tensor:
    return layer.weight if isinstance(layer, nn.PReLU) else layer.negative_slope  # type: ignore[return-value]


def detect(raw: RawCheckpoint) -> bool:
    return _config(_upscale.chosen(raw)) is not None


def _config(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """Config from shapes, None where they are those of no compact network."""
    places = {int(m[1]) for key in tensors if (m := re.fullmatch(r"body\.(\d+)\.(weight|bias)", key))}
    last = max(places, default=0)
    if last > 2 * len(tensors):
        return None
    weights = [tensors.get(f"body.{n}.weight") for n in range(0, last + 1, 2)]
    if len(weights) < 2 or last % 2 or any(w is None or w.shape[2:] != (3, 3) for w in weights):
        return None
    shapes = [tuple(w.shape[:2]) for w in weights if w is not None]
    channels, img_channels = shapes[0]
    scale = math.isqrt(shapes[-1][0] // img_channels)
    if any(shape != (channels, channels) for shape in shapes[1:-1]) or shapes[-1] != (
        img_channels * scale**2,
        channels,
    ):
        return None
    slopes = [n for n in places if n % 2]
    if slopes and any(tensors[f"body.{n}.weight"].shape != (channels,) for n in slopes):
        return None
    activation = "prelu" if slopes else "relu"
    sizes = {"channels": channels, "convs": len(shapes) - 2, "scale": scale}
    config = {**sizes, "activation": activation, "img_channels": img_channels}
    return config if len(tensors) == 2 * len(shapes) + len(slopes) else None


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file.

    Raises:
        CheckpointError: names or shapes are not those of such a network, or `config` says otherwise than they.
    """
    tensors = _upscale.chosen(raw)
    found = _config(tensors)
    if found is None:
        raise CheckpointError(f"{raw.name} is no compact network: its tensors are not a chain of 3x3 convolutions.")
    choice = {"activation"} if found["activation"] != "prelu" else set()
    facts = _upscale.agreed(raw.name, found, config, choice)
    with torch.device("meta"):
        network = build(part, facts)
    load_strictly(network, tensors, raw.name, assign=True)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Compact(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """`exact`: float32; `fast`: bfloat16, sums with the enlarged input in float32."""
    assert isinstance(network, Compact), "only a plain form is prepared"
    return Prepared(network, _upscale.dtype_of(precision, network))
