"""What the super-resolution networks share for inference: convolutions with all that follows them in one call.

Activations lie channels last. On a CPU the activation and the sum with another tensor are done by the convolution's
own kernel, so that no pass over the pixels is spent on them.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models._parts import tensors_of

PRECISIONS = {"exact": torch.float32, "fast": torch.bfloat16}


@cache
def _fuses() -> bool:
    names = ("_convolution_pointwise", "_convolution_transpose_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, n) for n in names)


def dtype_of(precision: str) -> torch.dtype:
    """The type in which a precision computes.

    Raises:
        CheckpointError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise CheckpointError(f"There is no precision '{precision}'; there are {', '.join(PRECISIONS)}.")
    return PRECISIONS[precision]


def chosen(raw: RawCheckpoint) -> dict[str, Tensor]:
    """The tensors of the one network that a file is about, the averaged one where it has two; empty if in doubt."""
    try:
        return tensors_of(raw, "G")
    except CheckpointError:
        return {}


def agreed(name: str, found: dict[str, Any], said: dict[str, Any], choice: set[str]) -> dict[str, Any]:
    """What tensors tell, with what a row says of that which they leave open (`choice`).

    Raises:
        CheckpointError: the row says something else than the tensors, or something that the family does not know.
    """
    for key, value in said.items():
        if key not in found:
            raise CheckpointError(f"config.{key} means nothing to this family; it knows {', '.join(sorted(found))}.")
        if key not in choice and value != found[key]:
            raise CheckpointError(f"{name} has {key} {found[key]}, not {value!r} as config.{key} says.")
    return {**found, **said}


def reach(steps: list[tuple[str, int]]) -> int:
    """By how many pixels of the input a pixel of the output sees.

    Args:
        steps: what happens from the input to the output: `conv` with the radius that it (or several) looks around,
            `up` and `down` with a factor, where pixels are repeated, or change places with channels.
    """
    ups, downs = (prod(n for kind, n in steps if kind == which) for which in ("up", "down"))
    farthest = 0
    for place in range(ups * downs):
        low = high = place
        for kind, n in reversed(steps):
            if kind == "conv":
                low, high = low - n, high + n
            else:
                low, high = (low // n, high // n) if kind == "up" else (low * n, high * n + n - 1)
        own = place * downs // ups
        farthest = max(farthest, own - low, high - own)
    return farthest


class Conv(nn.Module):
    """act(conv(x) + other): x [N, C_in, h, w] -> [N, C_out, h, w], of the type of the weights.

    Args:
        layer: a convolution that keeps the size.
        act: slope of a leaky ReLU; a tensor of slopes, one for each channel; None for no activation.
        gain: factor of weights and bias.
    """

    weight: Tensor
    bias: Tensor
    slopes: Tensor | None

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, act: float | Tensor | None = None, gain: float = 1.0):
        super().__init__()
        weight, bias = layer.weight.detach() * gain, layer.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach() * gain
        self.register_buffer("weight", weight.to(dtype, memory_format=torch.channels_last), persistent=False)
        self.register_buffer("bias", bias.to(dtype), persistent=False)
        self.padding = [weight.shape[-1] // 2] * 2
        if isinstance(act, Tensor) and (act == act[0]).all():
            act = float(act[0])
        self.slope = act if isinstance(act, float) else None
        self.register_buffer("slopes", act.detach().to(dtype) if isinstance(act, Tensor) else None, persistent=False)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.device.type == "cpu" and _fuses():
            where: Any = (self.padding, [1, 1], [1, 1], 1)
            if other is not None:
                sums = torch.ops.mkldnn._convolution_pointwise.binary
                return self._act(sums(x, other, self.weight, self.bias, *where, "add", 1.0, None, [], None))
            act, slope = ("leaky_relu", [self.slope]) if self.slope is not None else ("none", [])
            x = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *where, act, slope, "")
            return x if self.slopes is None else F.prelu(x, self.slopes)
        x = F.conv2d(x, self.weight, self.bias, padding=self.padding)
        return self._act(x if other is None else x.add_(other))

    def _act(self, x: Tensor) -> Tensor:
        if self.slopes is not None:
            return F.prelu(x, self.slopes)
        return x if self.slope is None else F.leaky_relu_(x, self.slope)


class First(Conv):
    """The convolution that takes the picture: its input and weights as if they were float32, whatever the type.

    A picture in bfloat16 has no more than 8 bits. Its rounding error is one more picture, and that of the weights one
    more kernel; as the first convolution has three inputs only, the products cost next to nothing.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, act: float | Tensor | None = None):
        super().__init__(layer, dtype, act)
        weight = layer.weight.detach()
        self.split = dtype != weight.dtype
        if self.split:
            coarse = weight.to(dtype)
            weight = torch.cat((coarse, coarse, (weight - coarse).to(dtype)), dim=1)
            self.weight = weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self.split:
            coarse = x.to(self.weight.dtype)
            x = torch.cat((coarse, (x - coarse).to(coarse.dtype), coarse), dim=1)
        return super().forward(x.contiguous(memory_format=torch.channels_last), other)


class Last(Conv):
    """The convolution that gives the picture: float32, whatever the type of its input.

    Its sum is rounded to the type of the weights, then what the rounding took away is computed by the same kernel.
    """

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        coarse = super().forward(x)
        if coarse.dtype == torch.float32:
            return coarse
        return coarse.float() + super().forward(x, coarse.neg()).float()


class Enlarged(nn.Module):
    """act(conv(x, enlarged by nearest)): x [N, C_in, h, w] -> [N, C_out, 2h, 2w], as one transposed convolution.

    Where neighbours are equal a 3x3 kernel does the work of a 2x2 one: four ninths of the products, and the enlarged
    picture is never made.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, slope: float):
        super().__init__()
        w = layer.weight.detach().double()
        assert layer.bias is not None, "an enlarging convolution has a bias"
        for dim in (2, 3):
            w = F.pad(w, (0, 1) if dim == 3 else (0, 0, 0, 1)) + F.pad(w, (1, 0) if dim == 3 else (0, 0, 1, 0))
        w = w.flip((2, 3)).transpose(0, 1).to(dtype, memory_format=torch.channels_last)
        self.register_buffer("weight", w, persistent=False)
        self.register_buffer("bias", layer.bias.detach().to(dtype), persistent=False)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)
        return F.leaky_relu_(x, self.slope)


class _Nearest(nn.Module):
    """As `Enlarged`, by any factor, as two steps."""

    def __init__(self, factor: int, layer: nn.Conv2d, dtype: torch.dtype, slope: float):
        super().__init__()
        self.factor, self.conv = factor, Conv(layer, dtype, slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.factor, mode="nearest"))


def enlarged(factor: int, layer: nn.Conv2d, dtype: torch.dtype, slope: float) -> nn.Module:
    """Enlargement by nearest neighbours, a 3x3 convolution and a leaky ReLU."""
    return Enlarged(layer, dtype, slope) if factor == 2 else _Nearest(factor, layer, dtype, slope)
