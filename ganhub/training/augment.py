"""Adaptive discriminator augmentation: what D sees is changed at random, by as much as keeps it unsure.

"Training Generative Adversarial Networks with Limited Data" (Karras et al., 2020, arXiv:2006.06676), appendix B. Each
change happens to a picture with a probability that `p` scales; gradients, also second ones, flow through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.errors import BadInput
from ganhub.models._ops import downsample2d, setup_filter, upsample2d

_BLIT = ("xflip", "rotate90", "xint")
_GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
_COLOUR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
_PARTS = {
    "blit": _BLIT,
    "geom": _GEOMETRY,
    "color": _COLOUR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
_ORDER = list(_PARTS.values())
PIPES = _PARTS | {
    word: tuple(name for part in _ORDER[: k + 2] for name in part)
    for k, word in enumerate(("bg", "bgc", "bgcf", "bgcfn", "bgcfnc"))
}
"""Name of a pipe -> the changes that it makes, in the paper's order; `bgc` is the paper's choice."""

# Orthogonal wavelets (Daubechies' least asymmetric ones), as tables of them print them.
_SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Expected share of a picture's power in the four bands (1/f)."""


class Augment(nn.Module):
    """The augmentation pipe: pictures [N, C, H, W] -> changed pictures of the same shape; C is 1 or 3.

    Args:
        pipe: one of `PIPES`, or names of single changes.

    Raises:
        BadInput: there is no such pipe.
    """

    p: Tensor
    """Strength: the probability of every change."""
    lowpass: Tensor
    bands: Tensor

    def __init__(self, pipe: str | tuple[str, ...] = "bgc"):
        super().__init__()
        if isinstance(pipe, str) and pipe not in PIPES:
            raise BadInput(f"There is no augmentation pipe '{pipe}'; there are {', '.join(PIPES)}.")
        self.changes = frozenset(PIPES[pipe] if isinstance(pipe, str) else pipe)
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("lowpass", setup_filter(_SYM6), persistent=False)
        self.register_buffer("bands", filter_bank(), persistent=False)

    def forward(self, images: Tensor, percentile: float | None = None) -> Tensor:
        """`percentile` puts every random parameter at this quantile and makes every change, for tests."""
        if percentile is None and not self.p:  # the filters around a move that is none undo each other
            return images
        if images.device.type == "cpu":  # filters of few channels are several times faster so
            images = images.contiguous(memory_format=torch.channels_last)
        draw = _Draws(len(images), self.p, images.device, percentile)
        if self.changes & {*_BLIT, *_GEOMETRY}:
            images = self._move(images, self._matrix(draw, images.shape[3], images.shape[2]))
        if self.changes & {*_COLOUR}:
            images = _recolour(images, self._colours(draw, images.shape[1]))
        if "imgfilter" in self.changes:
            images = self._filter(images, draw)
        if "noise" in self.changes:
            sigma = draw(lambda n: torch.randn(n, 1, 1, 1, device=images.device).abs() * 0.1, 0.0,
                         lambda q: torch.erfinv(q) * 0.1)  # fmt: skip
            images = images + torch.randn_like(images, memory_format=torch.contiguous_format) * sigma
        if "cutout" in self.changes:
            images = self._cut(images, draw)
        return images

    def _matrix(self, draw: _Draws, width: int, height: int) -> Tensor:
        """[N, 3, 3]: a pixel of the result, from the centre -> the pixel of the picture that it shows."""
        normal, uniform = draw.normal, draw.uniform
        inverse = torch.eye(3, device=self.p.device)
        if "xflip" in self.changes:
            i = draw(lambda n: (uniform(n) * 2).floor(), 0.0, lambda q: (q * 2).floor())
            inverse = inverse @ _scaling(1 - 2 * i, torch.ones_like(i))
        if "rotate90" in self.changes:
            i = draw(lambda n: (uniform(n) * 4).floor(), 0.0, lambda q: (q * 4).floor())
            inverse = inverse @ _rotation(pi / 2 * i)
        if "xint" in self.changes:
            t = draw(lambda n: (uniform(n, 2) * 2 - 1) * 0.125, 0.0, lambda q: (q * 2 - 1) * 0.125)
            inverse = inverse @ _shift(-(t[:, 0] * width).round(), -(t[:, 1] * height).round())
        if "scale" in self.changes:
            s = draw(lambda n: torch.exp2(normal(n) * 0.2), 1.0, lambda q: torch.exp2(_quantile(q) * 0.2))
            inverse = inverse @ _scaling(1 / s, 1 / s)
        # A turn before and one after the stretching, so that either happens with probability p.
        either = 1 - (1 - self.p).clamp(0, 1).sqrt()
        if "rotate" in self.changes:
            theta = draw(lambda n: (uniform(n) * 2 - 1) * pi, 0.0, lambda q: (q * 2 - 1) * pi, either)
            inverse = inverse @ _rotation(theta)
        if "aniso" in self.changes:
            s = draw(lambda n: torch.exp2(normal(n) * 0.2), 1.0, lambda q: torch.exp2(_quantile(q) * 0.2))
            inverse = inverse @ _scaling(1 / s, s)
        if "rotate" in self.changes:
            theta = draw(lambda n: (uniform(n) * 2 - 1) * pi, 0.0, torch.zeros_like, either)
            inverse = inverse @ _rotation(theta)
        if "xfrac" in self.changes:
            t = draw(lambda n: normal(n, 2) * 0.125, 0.0, lambda q: _quantile(q) * 0.125)
            inverse = inverse @ _shift(-t[:, 0] * width, -t[:, 1] * height)
        return inverse

    def _move(self, images: Tensor, inverse: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        taps = len(self.lowpass) // 4
        # Pad by what the corners of the result reach beyond the picture, but never by more than it can mirror.
        x, y = (width - 1) / 2, (height - 1) / 2
        corners = inverse.new_tensor([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]])
        reach = (inverse @ corners)[:, :2].transpose(0, 1).flatten(1)
        beyond = torch.cat([-reach, reach]).amax(dim=1) + inverse.new_tensor([2 * taps - x, 2 * taps - y] * 2)
        most = inverse.new_tensor([width - 1, height - 1] * 2)
        left, top, right, bottom = beyond.clamp(min=0).minimum(most).ceil().int().tolist()
        images = F.pad(images, (left, right, top, bottom), mode="reflect")
        inverse = _shift(inverse.new_tensor((left - right) / 2), inverse.new_tensor((top - bottom) / 2)) @ inverse

        images = upsample2d(images, self.lowpass)
        two, half = inverse.new_tensor(2.0), inverse.new_tensor(0.5)
        inverse = _scaling(two, two) @ inverse @ _scaling(half, half)
        inverse = _shift(-half, -half) @ inverse @ _shift(half, half)
        size = ((height + 2 * taps) * 2, (width + 2 * taps) * 2)
        into = _scaling(inverse.new_tensor(2 / images.shape[3]), inverse.new_tensor(2 / images.shape[2]))
        out = _scaling(inverse.new_tensor(size[1] / 2), inverse.new_tensor(size[0] / 2))
        grid = F.affine_grid((into @ inverse @ out)[:, :2], [n, channels, *size], align_corners=False)
        images = _Sample.apply(images, grid.to(images.dtype))
        return downsample2d(images, self.lowpass, padding=-2 * taps, flip=True)

    def _colours(self, draw: _Draws, channels: int) -> Tensor:
        """[N, 4, 4]: homogeneous colour -> changed colour."""
        normal, uniform = draw.normal, draw.uniform
        eye = torch.eye(4, device=self.p.device)
        luma = eye.new_tensor([1, 1, 1, 0]) / sqrt(3)
        onto_luma = torch.outer(luma, luma)
        C = eye
        if "brightness" in self.changes:
            b = draw(lambda n: normal(n) * 0.2, 0.0, lambda q: _quantile(q) * 0.2)
            move = eye.repeat(len(b), 1, 1)
            move[:, :3, 3] = b[:, None]
            C = move @ C
        if "contrast" in self.changes:
            c = draw(lambda n: torch.exp2(normal(n) * 0.5), 1.0, lambda q: torch.exp2(_quantile(q) * 0.5))
            C = torch.diag_embed(torch.stack([c, c, c, torch.ones_like(c)], dim=1)) @ C
        if "lumaflip" in self.changes:
            i = draw(lambda n: (uniform(n, 1, 1) * 2).floor(), 0.0, lambda q: (q * 2).floor())
            C = (eye - 2 * onto_luma * i) @ C
        if "hue" in self.changes and channels > 1:
            theta = draw(lambda n: (uniform(n) * 2 - 1) * pi, 0.0, lambda q: (q * 2 - 1) * pi)
            C = _turn_about(luma, theta) @ C
        if "saturation" in self.changes and channels > 1:
            s = draw(lambda n: torch.exp2(normal(n, 1, 1)), 1.0, lambda q: torch.exp2(_quantile(q)))
            C = (onto_luma + (eye - onto_luma) * s) @ C
        return C

    def _filter(self, images: Tensor, draw: _Draws) -> Tensor:
        """Each of four frequency bands is made stronger or weaker, the expected power kept."""
        n, channels, height, width = images.shape
        power = self.bands.new_tensor(_POWER)
        gain = self.bands.new_ones(n, len(self.bands))
        for k in range(len(self.bands)):
            one = draw(lambda n: torch.exp2(draw.normal(n)), 1.0, lambda q: torch.exp2(_quantile(q)))
            step = torch.ones_like(gain)
            step[:, k] = one
            gain = gain * step / (power * step.square()).sum(dim=1, keepdim=True).sqrt()
        taps = (gain @ self.bands)[:, None].repeat(1, channels, 1).reshape(n * channels, 1, -1).to(images.dtype)
        side = self.bands.shape[1] // 2
        x = F.pad(images.reshape(1, n * channels, height, width), (side,) * 4, mode="reflect")
        x = F.conv2d(x, taps[:, :, None], groups=n * channels)
        return F.conv2d(x, taps[:, :, :, None], groups=n * channels).reshape(n, channels, height, width)

    def _cut(self, images: Tensor, draw: _Draws) -> Tensor:
        """A rectangle of half the width and height turns grey (0)."""
        n, _, height, width = images.shape
        size = draw(lambda n: images.new_full((n, 2, 1, 1, 1), 0.5), 0.0, lambda q: torch.full_like(q, 0.5), gate=1)
        centre = torch.rand(n, 2, 1, 1, 1, device=images.device)
        if draw.at is not None:
            centre = torch.full_like(centre, float(draw.at))
        x = (torch.arange(width, device=images.device) + 0.5).view(1, 1, 1, -1) / width
        y = (torch.arange(height, device=images.device) + 0.5).view(1, 1, -1, 1) / height
        kept = ((x - centre[:, 0]).abs() >= size[:, 0] / 2) | ((y - centre[:, 1]).abs() >= size[:, 1] / 2)
        return images * kept.to(images.dtype)


class _Draws:
    """Draws the parameter of a change for every picture, and whether that picture is changed at all."""

    def __init__(self, count: int, p: Tensor, device: torch.device, percentile: float | None):
        self.count, self.p, self.device = count, p, device
        self.at = None if percentile is None else torch.tensor(percentile, device=device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device)

    def __call__(
        self,
        parameter: Callable[[int], Tensor],
        neutral: float,
        at_quantile: Callable[[Tensor], Tensor],
        chance: Tensor | None = None,
        gate: int | None = None,
    ) -> Tensor:
        drawn = parameter(self.count)
        # One decision for all numbers of a picture's parameter.
        shape = [self.count, *(1 for _ in drawn.shape[1:])]
        changed = torch.rand(shape, device=self.device) < (self.p if chance is None else chance)
        value = torch.where(changed, drawn, drawn.new_tensor(neutral))
        return value if self.at is None else torch.full_like(value, float(at_quantile(self.at)))


class _Sample(torch.autograd.Function):
    """`grid_sample` that can be differentiated twice in its input, which PyTorch's own cannot."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (grid,) = ctx.saved_tensors
        return _Spread.apply(grad, grid, ctx.shape), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sample`: linear, so its own gradient is sampling again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        like = grad.new_empty(1).expand(shape)  # only its shape is read
        return torch.ops.aten.grid_sampler_2d_backward(grad, like, grid, 0, 0, False, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (grid,) = ctx.saved_tensors
        return _Sample.apply(grad, grid), None, None


def filter_bank() -> Tensor:
    """[4, 43]: zero-phase band-pass filters that add up to one, octave by octave, from the sym2 wavelet."""
    low: np.ndarray = np.array(_SYM2)
    high: np.ndarray = low * (-1.0) ** np.arange(len(low))
    low, high = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for k in range(1, 4):
        spread = np.zeros((4, 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in spread])
        middle = (bank.shape[1] - len(high)) // 2
        bank[k, middle : middle + len(high)] += high
    return torch.as_tensor(bank, dtype=torch.float32)


def _recolour(images: Tensor, C: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    C = C.to(images.dtype)
    flat = images.reshape(n, channels, height * width)
    if channels == 3:
        flat = C[:, :3, :3] @ flat + C[:, :3, 3:]
    elif channels == 1:
        grey = C[:, :3].mean(dim=1, keepdim=True)
        flat = flat * grey[:, :, :3].sum(dim=2, keepdim=True) + grey[:, :, 3:]
    else:
        raise BadInput(f"Colours can be changed of pictures with 1 or 3 channels, not {channels}; use the pipe 'bg'.")
    return flat.reshape(images.shape)


def _quantile(q: Tensor) -> Tensor:
    """The normal distribution's value at a quantile over sqrt(2), which is how the reference scales it."""
    return torch.erfinv(q * 2 - 1)


def _rows(*rows: tuple[Any, ...]) -> Tensor:
    like = next(x for row in rows for x in row if isinstance(x, Tensor))
    return torch.stack([torch.stack([x if isinstance(x, Tensor) else torch.full_like(like, x) for x in row], dim=-1)
                        for row in rows], dim=-2)  # fmt: skip


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _rows((1, 0, x), (0, 1, y), (0, 0, 1))


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _rows((x, 0, 0), (0, y, 0), (0, 0, 1))


def _rotation(theta: Tensor) -> Tensor:
    return _rows((theta.cos(), -theta.sin(), 0), (theta.sin(), theta.cos(), 0), (0, 0, 1))


def _turn_about(axis: Tensor, theta: Tensor) -> Tensor:
    """[N, 4, 4] rotations by theta [N] about a unit axis (Rodrigues)."""
    x, y, z = axis[:3].tolist()
    cross = axis.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sin, cos = theta.sin()[:, None, None], theta.cos()[:, None, None]
    turn = torch.eye(4, device=theta.device).repeat(len(theta), 1, 1)
    turn[:, :3, :3] = (
        cos * torch.eye(3, device=theta.device) + sin * cross + (1 - cos) * torch.outer(axis, axis)[:3, :3]
    )
    return turn
