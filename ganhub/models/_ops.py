"""Resampling, bias and activation of the StyleGAN families, in plain torch: differentiable twice, on any device.

Filters are small float32 tensors made by `setup_filter`: `[h, w]`, or `[n]` for a separable one. Paddings are in
pixels of the upsampled picture: one number, `(x, y)` or `(left, right, top, bottom)`; a negative one crops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = int | Sequence[int]

ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], float, float]] = {
    "linear": (lambda x, alpha: x, 0.0, 1.0),
    "relu": (lambda x, alpha: F.relu(x), 0.0, sqrt(2)),
    "lrelu": (lambda x, alpha: F.leaky_relu(x, alpha), 0.2, sqrt(2)),
    "tanh": (lambda x, alpha: torch.tanh(x), 0.0, 1.0),
    "sigmoid": (lambda x, alpha: torch.sigmoid(x), 0.0, 1.0),
    "elu": (lambda x, alpha: F.elu(x), 0.0, 1.0),
    "selu": (lambda x, alpha: F.selu(x), 0.0, 1.0),
    "softplus": (lambda x, alpha: F.softplus(x), 0.0, 1.0),
    "swish": (lambda x, alpha: x * torch.sigmoid(x), 0.0, sqrt(2)),
}
"""Name -> (function of x and alpha, default alpha, gain that keeps the variance)."""


def normalize_2nd_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x divided by the root mean square along `dim`; the same shape."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


def setup_filter(
    taps: Any, normalize: bool = True, flip: bool = False, gain: float = 1.0, separable: bool | None = None
) -> Tensor:
    """A FIR filter from its taps: `[n]` or `[h, w]`; None is the identity `[[1]]`.

    One row of taps becomes its outer product `[n, n]`, or stays `[n]` when `separable` (by default from 8 taps on).
    `gain` is that of the whole two-dimensional filter.
    """
    f = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32)
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip:
        f = f.flip(tuple(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: Padding = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros (`up - 1` after each pixel), pad, filter every channel, keep each `down`-th pixel.

    Args:
        x: `[N, C, H, W]`.
        up, down: one factor, or `(x, y)`.
        flip: correlate instead of convolve.

    Returns:
        `[N, C, (H * up + top + bottom - h) // down + 1, ...]`, of the type of x.
    """
    if f is None:
        f = x.new_ones([1, 1], dtype=torch.float32)
    (ux, uy), (dx, dy) = _pair(up), _pair(down)
    left, right, top, bottom = _sides(padding)
    if f.ndim == 1:
        # The rows carry the gain of both passes: a power of two stays exact where its root would not.
        x = upfirdn2d(x, f[None, :], (ux, 1), (dx, 1), (left, right, 0, 0), flip, gain)
        return upfirdn2d(x, f[:, None], (1, uy), (1, dy), (0, 0, top, bottom), flip)

    channels, (h, w) = x.shape[1], f.shape
    kernel = (f if flip else f.flip((0, 1))) * gain
    kernel = kernel.to(x.dtype)[None, None].repeat(channels, 1, 1, 1)
    if ux == uy == 1:
        x = _pad(x, (left, right, top, bottom))
        if x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu":
            # The gradient of a strided depthwise convolution is five times slower on a CPU than that of a plain one.
            return F.conv2d(x, kernel, groups=channels)[:, :, ::dy, ::dx]
        return F.conv2d(x, kernel, stride=(dy, dx), groups=channels)
    # A transposed convolution inserts the zeros by itself and gives every position that the filter touches.
    left, right, top, bottom = left - w + 1, right - w + ux, top - h + 1, bottom - h + uy
    crop = max(0, -max(top, bottom)), max(0, -max(left, right))
    x = F.conv_transpose2d(x, kernel.flip((2, 3)), stride=(uy, ux), padding=crop, groups=channels)
    x = _pad(x, (left + crop[1], right + crop[1], top + crop[0], bottom + crop[0]))
    return x if dx == dy == 1 else x[:, :, ::dy, ::dx]


def filter2d(x: Tensor, f: Tensor, padding: Padding = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Filter without a change of size: `[N, C, H, W]` to `[N, C, H, W]`."""
    w, h = _taps(f)
    left, right, top, bottom = _sides(padding)
    sides = (left + w // 2, right + (w - 1) // 2, top + h // 2, bottom + (h - 1) // 2)
    return upfirdn2d(x, f, padding=sides, flip=flip, gain=gain)


def upsample2d(
    x: Tensor, f: Tensor, up: int | Sequence[int] = 2, padding: Padding = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """Enlarge by `up`, brightness kept: `[N, C, H, W]` to `[N, C, H * up, W * up]`."""
    (ux, uy), (left, right, top, bottom) = _pair(up), _sides(padding)
    w, h = _taps(f)
    sides = (left + (w + ux - 1) // 2, right + (w - ux) // 2, top + (h + uy - 1) // 2, bottom + (h - uy) // 2)
    return upfirdn2d(x, f, up=up, padding=sides, flip=flip, gain=gain * ux * uy)


def downsample2d(
    x: Tensor, f: Tensor, down: int | Sequence[int] = 2, padding: Padding = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """Shrink by `down`: `[N, C, H, W]` to `[N, C, H / down, W / down]`."""
    (dx, dy), (left, right, top, bottom) = _pair(down), _sides(padding)
    w, h = _taps(f)
    sides = (left + (w - dx + 1) // 2, right + (w - dx) // 2, top + (h - dy + 1) // 2, bottom + (h - dy) // 2)
    return upfirdn2d(x, f, down=down, padding=sides, flip=flip, gain=gain)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(act(x + b) * gain)`; b `[x.shape[dim]]`, alpha and gain by default those of `ACTIVATIONS`."""
    function, default_alpha, default_gain = ACTIVATIONS[act]
    gain = default_gain if gain is None else gain
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = function(x, default_alpha if alpha is None else alpha)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def split_gain(act: str, gain: float, dtype: torch.dtype) -> tuple[float, float]:
    """The gain of a layer, its activation's own included: (before, after) the activation.

    What is linear but for the sign lets it through, so that weights and biases can carry it; but float16, which
    published networks were trained in, keeps their order of rounding.
    """
    gain *= ACTIVATIONS[act][2]
    early = act in ("linear", "relu", "lrelu") and dtype != torch.float16
    return (gain, 1.0) if early else (1.0, gain)


def act_in_place(x: Tensor, act: str, gain: float, clamp: float | None) -> Tensor:
    """`clamp(act(x) * gain)` in the memory of x, which must be a fresh result that no gradient needs."""
    if act == "lrelu":
        x = F.leaky_relu(x, ACTIVATIONS[act][1], inplace=True)
    elif act != "linear":
        x = ACTIVATIONS[act][0](x, ACTIVATIONS[act][1])
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution of a picture that is enlarged before it or shrunk after it, filtered by f in between.

    Args:
        x: `[N, C_in, H, W]`.
        w: `[C_out, C_in / groups, h, w]`.
        padding: of the enlarged picture, besides what the filter needs to keep its place.
        flip_weight: True correlates (as `conv2d` does), False convolves.
        bias: `[C_out]`, added to the result.

    Returns:
        `[N, C_out, H', W']`.
    """
    kh, kw = w.shape[2:]
    fw, fh = _taps(f)
    left, right, top, bottom = _sides(padding)
    if up > 1:
        left, right = left + (fw + up - 1) // 2, right + (fw - up) // 2
        top, bottom = top + (fh + up - 1) // 2, bottom + (fh - up) // 2
    if down > 1:
        left, right = left + (fw - down + 1) // 2, right + (fw - down) // 2
        top, bottom = top + (fh - down + 1) // 2, bottom + (fh - down) // 2
    correlating = w if flip_weight else w.flip((2, 3))

    if up == down == 1:
        if left == right >= 0 and top == bottom >= 0:
            return F.conv2d(x, correlating, bias, padding=(top, left), groups=groups)
        return F.conv2d(_pad(x, (left, right, top, bottom)), correlating, bias, groups=groups)
    if up == 1:
        stride = 1 if kh == kw == 1 else down  # one tap per output: shrink first, convolve what is left
        x = upfirdn2d(x, f, down=down // stride, padding=(left, right, top, bottom), flip=flip_filter)
        return F.conv2d(x, correlating, bias, stride=stride, groups=groups)
    if kh == kw == 1 and down == 1:
        x = F.conv2d(x, correlating, groups=groups)
        x = upfirdn2d(x, f, up=up, padding=(left, right, top, bottom), flip=flip_filter, gain=up**2)
        return x if bias is None else x + bias[:, None, None]

    # Zero insertion and convolution in one step; a transposed convolution convolves, so the kernel turns round.
    out, per_group = w.shape[:2]
    spread = correlating.flip((2, 3)).reshape(groups, out // groups, per_group, kh, kw).transpose(1, 2)
    spread = spread.reshape(groups * per_group, out // groups, kh, kw)
    x = F.conv_transpose2d(x, spread, stride=up, groups=groups)
    sides = (left - kw + 1, right - kw + up, top - kh + 1, bottom - kh + up)
    x = upfirdn2d(x, f, padding=sides, flip=flip_filter, gain=up**2)
    x = x if down == 1 else upfirdn2d(x, f, down=down, flip=flip_filter)
    return x if bias is None else x + bias[:, None, None]


def _pair(factor: int | Sequence[int]) -> tuple[int, int]:
    return (factor, factor) if isinstance(factor, int) else (int(factor[0]), int(factor[1]))


def _sides(padding: Padding) -> tuple[int, int, int, int]:
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) == 2:
        return padding[0], padding[0], padding[1], padding[1]
    left, right, top, bottom = padding
    return left, right, top, bottom


def _taps(f: Tensor | None) -> tuple[int, int]:
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _pad(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    return F.pad(x, sides) if any(sides) else x
