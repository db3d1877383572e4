"""How photographs get worse before anybody enlarges them: blurred, made smaller, noisy, saved as JPEG.

The plain first order of "Real-ESRGAN" (Wang et al., 2021, https://arxiv.org/abs/2107.10833): each with strengths drawn
anew for every patch.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BLUR = (0.2, 2.0)
"""Standard deviation of the blur, in pixels of the large picture."""
NOISE = (0.0, 10.0)
"""Standard deviation of the noise, in levels of 255."""
QUALITY = (50, 95)
"""Of JPEG."""


def degrade(large: Tensor, scale: int, rng: torch.Generator) -> Tensor:
    """Patches [N, 3, H, W] in [0, 1] -> [N, 3, H / scale, W / scale], rounded to 255 levels."""
    return torch.stack([_one(patch, scale, rng) for patch in large])


def _one(patch: Tensor, scale: int, rng: torch.Generator) -> Tensor:
    draw = torch.rand(5, generator=rng)
    if draw[0] < 0.8:
        patch = _blurred(patch, BLUR[0] + float(draw[1]) * (BLUR[1] - BLUR[0]))
    small = shrink(patch[None], scale)[0]
    sigma = NOISE[0] + float(draw[2]) * (NOISE[1] - NOISE[0])
    small = small + torch.randn(small.shape, generator=rng) * sigma / 255
    pixels = small.mul(255).round().clamp(0, 255).byte()
    if draw[3] < 0.8:
        file = io.BytesIO()
        quality = round(QUALITY[0] + float(draw[4]) * (QUALITY[1] - QUALITY[0]))
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        pixels = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
    return pixels.float() / 255


def _blurred(patch: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=patch.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(len(patch), 1, 1, -1)
    padded = F.pad(patch[None], [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=len(patch)), kernel.mT, groups=len(patch))[0]


def shrink(large: Tensor, scale: int) -> Tensor:
    """Antialiased bicubic, as MATLAB shrinks pictures but for the last pixels at the rim."""
    size = (large.shape[2] // scale, large.shape[3] // scale)
    return F.interpolate(large, size, mode="bicubic", antialias=True)
