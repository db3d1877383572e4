"""How near one picture is to another: PSNR, SSIM, sharpness, and MATLAB's bicubic that every table compares with.

The protocol of the published tables of super-resolution (`compare`; bicubic x4 has 28.42 dB on Set5): the true picture
is cropped to a multiple of the scale and made small by `imresize`; the network's answer is rounded to 8 bits; a border
as wide as the scale is cut off both; PSNR and SSIM are taken of the Y channel in whole levels.

SSIM is written out here, as one convolution: the page and the trainings measure it where neither scikit-image nor
torchmetrics is installed, which have the first two variants and not the third. They are the tests' reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub import checkpoint, hub, models
from ganhub.errors import BadInput, FetchError
from ganhub.registry import Registry

if TYPE_CHECKING:
    from ganhub.models.lpips import LPIPS

VARIANTS = {
    "wang": "Gaussian of 11x11, sigma 1.5, windows inside the picture (Wang et al., 2004): MATLAB's and BasicSR's",
    "uniform": "square of 7x7, sample covariance, windows inside the picture: scikit-image's default",
    "pytorch_ssim": "Gaussian of 11x11, sigma 1.5, zeros around the picture: that of leftthomas/SRGAN",
}
"""Variants of SSIM. They differ by up to 0.04 on one pair, so a figure without its variant says nothing."""
WEIGHTS = (65.481, 128.553, 24.966)
"""Of R, G and B in the Y of BT.601, whose black is 16 and whose white is 235."""


def y_channel(rgb: np.ndarray) -> np.ndarray:
    """Luma of BT.601 as in MATLAB's `rgb2ycbcr`: [..., 3] in [0, 255] -> float64 [..., 1] in [16, 235], not rounded.

    Pictures of one channel go as if all three were equal.
    """
    rgb = np.asarray(rgb, np.float64)
    rgb = np.broadcast_to(rgb, (*rgb.shape[:-1], 3))
    return (rgb @ (np.array(WEIGHTS) / 255) + 16)[..., None]


def psnr(a: np.ndarray, b: np.ndarray, *, border: int = 0, y: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, of a peak of 255; infinite for equal pictures.

    Args:
        a, b: [H, W, C] in [0, 255].
        border: pixels that are cut off every side.
        y: of the Y channel instead of all channels.

    Raises:
        BadInput: the two have different shapes, or nothing is left of them.
    """
    a, b = _pair(a, b, border, y)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(a: np.ndarray, b: np.ndarray, variant: str = "wang", *, border: int = 0, y: bool = False) -> float:
    """Structural similarity (Wang et al., 2004), the mean over windows and channels; 1 for equal pictures.

    Args:
        variant: one of `VARIANTS`; the rest as in `psnr`.

    Raises:
        BadInput: as `psnr`; the pictures are smaller than the window; there is no such variant.
    """
    if variant not in VARIANTS:
        raise BadInput(f"There is no SSIM '{variant[:40]}'; there are {', '.join(VARIANTS)}.")
    pair = _pair(a, b, border, y)
    if variant == "uniform":
        window, unbiased = torch.full((7,), 1 / 7, dtype=torch.float64), 49 / 48
    else:
        window, unbiased = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2)), 1.0
        window /= window.sum()
    around = len(window) // 2 if variant == "pytorch_ssim" else 0
    if not around and min(pair[0].shape[:2]) < len(window):
        raise BadInput(f"A picture for SSIM has at least {len(window)} pixels a side; compare larger ones.")
    p, q = (torch.from_numpy(x.transpose(2, 0, 1)[:, None].copy()) for x in pair)
    x = torch.cat([p, q, p * p, q * q, p * q], 1).flatten(0, 1)[:, None]
    x = F.conv2d(
        F.conv2d(x, window.view(1, 1, -1, 1), padding=(around, 0)), window.view(1, 1, 1, -1), padding=(0, around)
    )
    mean_p, mean_q, pp, qq, pq = x.view(len(p), 5, *x.shape[2:]).unbind(1)
    var_p, var_q, both = (
        unbiased * (square - mean)
        for square, mean in ((pp, mean_p * mean_p), (qq, mean_q * mean_q), (pq, mean_p * mean_q))
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_p * mean_q + c1) * (2 * both + c2)
    return float((alike / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))).mean())


def sharpness(picture: np.ndarray, true: np.ndarray, *, border: int = 0) -> float:
    """Energy of the finest detail, relative to that of the true picture: mean(|L y|) / mean(|L t|).

    L is the Laplacian [[0, 1, 0], [1, -4, 1], [0, 1, 0]] inside the picture, y and t are the Y channels. 1: as sharp as
    the truth; bicubic of a fourth of the side has about 0.2. It tells blur, not truth: noise counts as detail.

    Raises:
        BadInput: as `psnr`, or the true picture is one flat colour.
    """
    energies = []
    for x in _pair(picture, true, border, y=True):
        x = x[..., 0]
        if min(x.shape) < 3:
            raise BadInput("Sharpness is measured of pictures with at least 3 pixels a side; compare larger ones.")
        sides = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
        energies.append(float(np.abs(sides - 4 * x[1:-1, 1:-1]).mean()))
    if energies[1] < 1e-9:
        raise BadInput("The true picture is one flat colour, so there is no detail to compare with; choose another.")
    return energies[0] / energies[1]


def load_lpips(registry: Registry, name: str = "alex") -> LPIPS:
    """LPIPS v0.1 from files that are on this machine; nothing is downloaded, because its networks are large.

    Args:
        name: `alex`, of the tables, or `vgg`.

    Raises:
        BadInput: there is no such LPIPS.
        FetchError: a file is not here (`offline`); says the command that fetches it.
        CheckpointError: a file is damaged.
    """
    from ganhub.models.lpips import LPIPS

    if name not in ("alex", "vgg"):
        raise BadInput(f"There is no LPIPS '{name[:40]}'; there are alex and vgg.")
    heads = registry.find(f"lpips-{name}")
    trunk = registry.find(heads.components["features"])
    away = [row for row in (heads, trunk) if not hub.status(row).on_disk]
    if away:
        size = sum(row.bytes or 0 for row in away) / 1e6
        raise FetchError(f"LPIPS needs `ganhub pull {heads.id}`, which fetches {size:.0f} MB.", "offline")
    parts = [models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family) for row in (trunk, heads)]
    return LPIPS(*parts)


@torch.no_grad()
def lpips(a: np.ndarray, b: np.ndarray, network: Any, *, border: int = 0) -> float:
    """How different two pictures look to a network that has learned to see: 0 for equal ones.

    Args:
        a, b: uint8 [H, W, 1 or 3].
        network: what `load_lpips` gave.

    Raises:
        BadInput: as `psnr`, or the pictures are too small for the network.
    """
    pair = _pair(a, b, border, y=False)
    least = network.trunk.least
    if min(pair[0].shape[:2]) < least:
        raise BadInput(f"A picture for LPIPS has at least {least} pixels a side; compare larger ones.")
    device = next(network.parameters()).device
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None].float().expand(-1, 3, -1, -1).to(device) / 255 for p in pair)
    return float(network(x, y))


def imresize(picture: np.ndarray, scale: float | None = None, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Bicubic as MATLAB's `imresize`: a = -0.5, the kernel widened where a picture shrinks, mirrored at the edges.

    Args:
        picture: [H, W, C], uint8 or floats.
        scale: of both sides, whose new lengths are rounded up; or
        size: (height, width) of the result.

    Returns:
        The same kind of numbers. uint8 is rounded and clamped after the first side and again after the second, as
        MATLAB does: low-resolution files that it wrote for Set5 (x2, x3, x4) are met in every pixel, but for the two
        outermost, where its older versions repeat the edge instead.
    """
    height, width = picture.shape[:2]
    if size is None:
        if scale is None:
            raise ValueError("imresize takes a scale or a size")
        size = (int(np.ceil(height * scale - 1e-9)), int(np.ceil(width * scale - 1e-9)))
    sides = [(before, after, scale or after / before) for before, after in zip((height, width), size, strict=True)]
    x = np.asarray(picture, np.float64)
    for axis in np.argsort([factor for _, _, factor in sides], kind="stable"):
        x = _resized(x, int(axis), *sides[axis])
        if picture.dtype == np.uint8:
            x = np.floor(x.clip(0, 255) + 0.5)
    return x.astype(picture.dtype)


def _resized(x: np.ndarray, axis: int, before: int, after: int, factor: float) -> np.ndarray:
    shrink = min(factor, 1.0)
    taps = int(np.ceil(4 / shrink)) + 2
    centres = (np.arange(after) + 0.5) / factor - 0.5
    index = np.floor(centres - 2 / shrink).astype(int)[:, None] + np.arange(taps)
    weights = _cubic(shrink * (centres[:, None] - index))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(before), np.arange(before)[::-1]])[index % (2 * before)]
    moved = np.moveaxis(x, axis, 0)
    result = np.zeros((after, *moved.shape[1:]))
    for tap in range(taps):
        result += weights[:, tap].reshape(-1, *[1] * (moved.ndim - 1)) * moved[mirrored[:, tap]]
    return np.moveaxis(result, 0, axis)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5 (https://doi.org/10.1109/TASSP.1981.1163711)."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def pair_of(true: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture cropped to a multiple of the scale, and its small version, as the published tables take them.

    Args:
        true: uint8 [H, W, C].

    Raises:
        BadInput: a side is shorter than the scale.
    """
    height, width = (side // scale * scale for side in true.shape[:2])
    if not height or not width:
        raise BadInput(f"A picture of {true.shape[1]}x{true.shape[0]} cannot be made {scale} times smaller.")
    true = true[:height, :width]
    return true, imresize(true, 1 / scale)


def compare(picture: np.ndarray, true: np.ndarray, scale: int) -> dict[str, float]:
    """Figures of the protocol above: psnr_y, ssim_y (`wang`) and sharpness; uint8 [H, W, C] both.

    Y is rounded as MATLAB's `rgb2ycbcr` does with uint8, by which 28.43 dB become the 28.42 of the tables. BasicSR's
    figures are those of `psnr(..., y=True)`, up to 0.03 dB higher.

    Raises:
        BadInput: as `psnr`, `ssim` and `sharpness`.
    """
    levels, true_levels = np.rint(y_channel(picture)), np.rint(y_channel(true))
    return {
        "psnr_y": psnr(levels, true_levels, border=scale),
        "ssim_y": ssim(levels, true_levels, border=scale),
        "sharpness": sharpness(picture, true, border=scale),
    }


@torch.no_grad()
def validate(network: Any, pictures: Sequence[np.ndarray], scale: int) -> dict[str, float]:
    """Means of `compare` over pictures, for a training: the network is called directly, on its own device.

    Args:
        network: [1, C, h, w] in [0, 1] -> [1, C, h * scale, w * scale]; what it is in, training or evaluation, it is
            in again afterwards.
        pictures: true ones, uint8 [H, W, C].

    Returns:
        psnr_y, ssim_y, sharpness of the network, and the same of bicubic as bicubic_psnr_y, ...

    Raises:
        BadInput: there are no pictures, or as `compare`.
    """
    if not pictures:
        raise BadInput("There is no picture to validate on; name some.")
    device, training = next(network.parameters()).device, network.training
    network.eval()
    try:
        found = []
        for picture in pictures:
            true, small = pair_of(picture, scale)
            x = torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / 255
            ours = compare(to_levels(network(x)), true, scale)
            bicubic = compare(imresize(small, scale), true, scale)
            found.append({**ours, **{f"bicubic_{key}": value for key, value in bicubic.items()}})
    finally:
        network.train(training)
    return mean_of(found)


def to_levels(x: Tensor) -> np.ndarray:
    """[1, C, H, W], nominally in [0, 1] -> uint8 [H, W, C], rounded."""
    levels = x[0].detach().float().clamp(0, 1).mul(255).add(0.5).byte()
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def mean_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of the figures of several pictures."""
    return {key: float(np.mean([figures[key] for figures in found])) for key in found[0]}


def _pair(a: np.ndarray, b: np.ndarray, border: int, y: bool) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        words = " and ".join("x".join(map(str, x.shape)) for x in (a, b))
        raise BadInput(f"Pictures of {words} cannot be compared; they must have the same shape.")
    height, width = a.shape[:2]
    if min(height, width) <= 2 * border:
        raise BadInput(f"Nothing is left of a picture of {width}x{height} without a border of {border} pixels.")
    cut = [np.asarray(x, np.float64)[border : height - border, border : width - border] for x in (a, b)]
    first, second = (y_channel(x) for x in cut) if y else cut
    return first, second
