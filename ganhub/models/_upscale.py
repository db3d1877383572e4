"""What the super-resolution networks share for inference: convolutions with all that follows them in one call.

Activations lie channels last. On a CPU the activation and the sum with another tensor are done by the convolution's
own kernel, so that no pass over the pixels is spent on them.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models._fast_conv import bfloat16_pays
from ganhub.models._parts import tensors_of

Act = float | Literal["silu"] | Tensor | None
"""Slope of a leaky ReLU; `silu`; slopes of a PReLU, one for each channel or for all; None for no activation."""


@cache
def _fuses() -> bool:
    names = ("_convolution_pointwise", "_convolution_transpose_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, n) for n in names)


def dtype_of(precision: str, network: nn.Module) -> torch.dtype:
    """The type in which a precision computes on the device of a network."""
    device = next(network.parameters()).device
    return torch.bfloat16 if precision == "fast" and bfloat16_pays(device.type) else torch.float32


def chosen(raw: RawCheckpoint) -> dict[str, Tensor]:
    """The tensors of the one network that a file is about, the averaged one where it has two; empty if in doubt."""
    try:
        tensors = tensors_of(raw, "G")
    except CheckpointError:
        return {}
    return tensors if all(tensor.numel() for tensor in tensors.values()) else {}


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


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A kernel [C_out, C_in, k, k] in a smaller type, the sums over its places as they were.

    Features are smooth and many have a mean far from 0, which large kernels of both signs cancel: what counts is the
    error of the sum. So the error of each place is passed on to the next smaller one.
    """
    if dtype == weight.dtype:
        return weight.to(dtype, memory_format=torch.channels_last)
    taps = weight.flatten(2)
    order = taps.abs().argsort(dim=2, descending=True)
    taps = taps.gather(2, order)
    coarse, error = torch.empty_like(taps, dtype=dtype), torch.zeros_like(taps[..., 0])
    for place in range(taps.shape[2]):
        wanted = taps[..., place] + error
        coarse[..., place] = wanted.to(dtype)
        error = wanted - coarse[..., place]
    return torch.empty_like(coarse).scatter_(2, order, coarse).view(weight.shape).to(memory_format=torch.channels_last)


class Conv(nn.Module):
    """act(conv(x) + other): x [N, C_in, h, w] -> [N, C_out, h, w], of the type of the weights.

    Args:
        weight: [C_out, C_in, k, k] with an odd k; the size of x is kept.
    """

    weight: Tensor
    bias: Tensor
    slopes: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, act: Act = None):
        super().__init__()
        self.register_buffer("weight", rounded(weight, dtype), persistent=False)
        self.register_buffer("bias", bias, persistent=False)  # as it is: folded means are large, and cancel
        self.large = dtype != bias.dtype and bool((bias.abs() > 1).any())
        self.padding = [weight.shape[-1] // 2] * 2
        act = act.detach() if isinstance(act, Tensor) else act
        if isinstance(act, Tensor) and (act == act[0]).all():
            act = float(act[0])
        slopes = act.to(dtype) if isinstance(act, Tensor) else None
        self.act = None if isinstance(act, Tensor) else act
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.device.type != "cpu" or not _fuses():
            x = F.conv2d(x, self.weight, self.bias.to(x.dtype), padding=self.padding)
            return self._act(x if other is None else x.add_(other))
        where: Any = (self.padding, [1, 1], [1, 1], 1)
        convolve = torch.ops.mkldnn._convolution_pointwise
        if other is not None and not self.large:
            bias = self.bias.to(x.dtype)
            return self._act(convolve.binary(x, other, self.weight, bias, *where, "add", 1.0, None, [], None))
        fused = other is None and isinstance(self.act, float)
        x = convolve(x, self.weight, self.bias, *where, *(("leaky_relu", [self.act]) if fused else ("none", [])), "")
        return x if fused else self._act(x if other is None else x.add_(other))

    def _act(self, x: Tensor) -> Tensor:
        if self.slopes is not None:
            return F.prelu(x, self.slopes)
        if self.act is None:
            return x
        return F.leaky_relu_(x, self.act) if isinstance(self.act, float) else F.silu(x, inplace=True)


def parts(layer: nn.Conv2d, norm: nn.BatchNorm2d | None = None, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution, with the normalisation that follows it and a factor folded in."""
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if norm is not None:
        facts: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        weight, bias = fuse_conv_bn_weights(weight, bias, *facts)
    return weight.detach() * gain, bias.detach() * gain


class First(Conv):
    """The convolution that takes the picture: its input and weights as if they were float32, whatever the type.

    A picture in bfloat16 has no more than 8 bits. Its rounding error is one more picture, and that of the weights one
    more kernel; as the first convolution has three inputs only, the products cost next to nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, act: Act = None):
        super().__init__(weight, bias, dtype, act)
        self.split = dtype != weight.dtype
        if self.split:
            coarse = self.weight
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
        w = rounded(w.flip((2, 3)).transpose(0, 1).float(), dtype)
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
        self.factor, self.conv = factor, Conv(*parts(layer), dtype, slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.factor, mode="nearest"))


def enlarged(factor: int, layer: nn.Conv2d, dtype: torch.dtype, slope: float) -> nn.Module:
    """Enlargement by nearest neighbours, a 3x3 convolution and a leaky ReLU."""
    return Enlarged(layer, dtype, slope) if factor == 2 else _Nearest(factor, layer, dtype, slope)


class Shuffled(nn.Module):
    """act(pixel_shuffle(conv(x))): x [N, C_in, h, w] -> [N, C_out, h * factor, w * factor].

    The channels of the convolution are put in the order in which whole pixels are copied.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, act: Act, factor: int):
        super().__init__()
        self.factor = factor
        order = torch.arange(len(bias), device=bias.device).view(-1, factor**2).T.flatten()
        if isinstance(act, Tensor) and act.numel() > 1:
            act = act.repeat(factor**2)
        self.conv = Conv(weight[order], bias[order], dtype, act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1).unflatten(3, (self.factor, self.factor, -1))
        return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def before_shuffle(weight: Tensor, bias: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """A convolution of shuffled pixels as one of the pixels before: pixel_shuffle(conv'(x)) = conv(pixel_shuffle(x)).

    Three output channels use a fifth of a vector unit; four times as many at a quarter of the places cost little more
    than a quarter, and the large features are never written.

    Args:
        weight: [C_out, C, k, k].

    Returns:
        [C_out * factor^2, C * factor^2, k', k'] and the bias.
    """
    out, channels, size = weight.shape[:3]
    around = -(-(size // 2) // factor)
    side = 2 * around + 1
    merged = weight.new_zeros(out, factor, factor, channels, factor, factor, side, side)
    for y, x, i, j in product(range(factor), range(factor), range(size), range(size)):
        (a, dy), (b, dx) = (divmod(place - size // 2, factor) for place in (y + i, x + j))
        merged[:, y, x, :, dy, dx, a + around, b + around] += weight[:, :, i, j]
    return merged.view(out * factor**2, channels * factor**2, side, side), bias.repeat_interleave(factor**2)
