"""Painted fruit in another colour, on the same paper: what no picture of a set shows, a purple pear, to learn from."""

from __future__ import annotations

import warnings

import numpy as np

from ganhub.data.describe import COLOURS, colour_names
from ganhub.errors import BadInput

PAINTS = {
    "cream": (88, 1, 22), "yellow": (79, 0, 52), "orange": (64, 28, 52), "red": (44, 53, 43), "dark red": (26, 42, 30),
    "pink": (70, 32, 22), "purple": (30, 22, -12), "green": (58, -10, 38), "brown": (45, 14, 28),
}  # fmt: skip
"""Of a colour's name the mean of its pixels in the Pomological Watercolors, in CIELAB; purple and green are lighter
than there, where most of them is shadow."""

_PAINTED = 16
"""Distance from the paper, in which lightness counts half: shadows are no paint."""
_LEAST = 60
"""Painted pixels of a picture of 64 x 64."""
_MOST = 2.5
"""How many times as far from the paper, or as near, a colour may be as the one that it takes the place of: pale paint
that becomes dark shows every stroke of its brush, and dark paint that becomes pale is a ghost."""


def recoloured(picture: np.ndarray, colour: str) -> np.ndarray | None:
    """A picture of fruit on paper, uint8 [H, W, 3], whose paint has another colour, leaves excepted.

    Every pixel keeps its direction and distance from the paper as far as the new median colour allows.

    Args:
        colour: one of `PAINTS`.

    Returns:
        None where little is painted, or too pale or too dark for that colour.

    Raises:
        BadInput: scikit-image is missing.
    """
    try:
        from skimage.color import lab2rgb, rgb2lab
    except ImportError as error:
        raise BadInput("New colours need scikit-image; install it with pip install 'ganhub[data]'.") from error
    lab = rgb2lab(picture)
    rim = np.ones(picture.shape[:2], bool)
    rim[4:-4, 4:-4] = False
    paper = np.median(lab[rim], axis=0)
    away = lab - paper
    painted = np.linalg.norm(away * (0.5, 1, 1), axis=-1) > _PAINTED
    leaf = colour_names(lab) == COLOURS.index("green")
    if (leaf & painted).sum() > painted.sum() / 2:
        leaf[:] = False
    painted &= ~leaf
    if painted.sum() < _LEAST * painted.size / 64**2:
        return None
    old, new = np.median(away[painted], axis=0), np.array(PAINTS[colour]) - paper
    darker = new[0] / min(old[0], -1)
    turned = complex(*new[1:]) / (complex(*old[1:]) or 1e-6)
    if not all(1 / _MOST < abs(times) < _MOST for times in (darker, turned)):
        return None
    hue = (away[..., 1] + 1j * away[..., 2]) * turned
    other = np.stack([away[..., 0] * darker, hue.real, hue.imag], axis=-1) + paper
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # colours that a screen cannot show are clipped
        rgb = lab2rgb(np.where(leaf[..., None], lab, other))
    return (rgb.clip(0, 1) * 255).round().astype(np.uint8)
