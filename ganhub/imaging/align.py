"""Faces out of a photo, upright and of one size, and back into it.

`ffhq_square` and `cut` do what the authors of FFHQ did to its photos (Karras et al., 2018, arXiv:1812.04948, appendix
C): a square by eyes and mouth, whatever lies outside of the photo mirrored and blurred. Networks that were trained on
such pictures want such pictures. Places are (x, y) in pixels; the middle of the upper left pixel is 0, 0, as landmark
detectors count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ganhub.errors import BadInput

MOUTH_BELOW = 1.08
"""How far below the middle of the eyes the mouth is, over the distance of the eyes: 1.08 +- 0.065 in 102 people."""
FACE_MIDDLE, FACE_SIDE = (0.5, 0.54), 0.55
"""A face in the square of FFHQ, in shares of its side: half way from hairline to chin; as wide as from brow to chin."""
MASK_RADII, MASK_EDGE = (0.36, 0.45), 0.25
"""The ellipse that is pasted, in the same shares, and the part of its radii over which it fades away."""
EYES_AT = 0.42
"""Height of the eyes in a square that is cut by the eyes alone, as `ganhub data prepare --crop face` cuts them."""
MAX_SIDE = 4096


@dataclass(frozen=True)
class Square:
    """A turned square in a photo: upper left, lower left, lower right, upper right corner as seen in the face."""

    corners: np.ndarray
    """[4, 2] of x, y."""

    @property
    def side(self) -> float:
        return math.dist(*self.corners[:2])

    def place(self, x: float, y: float) -> np.ndarray:
        """Where a point is, that is given in shares of the side from the upper left corner."""
        corner, below, _, beside = self.corners
        return corner + x * (beside - corner) + y * (below - corner)

    def part(self, middle: tuple[float, float], side: float) -> Square:
        """A square that is turned alike, its middle and side given in shares of this one's side."""
        (x, y), half = middle, side / 2
        ends = [(x - half, y - half), (x - half, y + half), (x + half, y + half), (x + half, y - half)]
        return Square(np.stack([self.place(*end) for end in ends]))


@dataclass(frozen=True)
class Aligned:
    """A face cut out of a photo."""

    picture: Image.Image
    """RGB, as high as wide."""
    square: Square
    """What was asked for."""
    shown: Square
    """What the picture shows of the photo, which differs by parts of a pixel; counted from the photo's edge."""


def ffhq_square(landmarks: np.ndarray) -> Square:
    """The square of FFHQ.

    Args:
        landmarks: [68, 2 or more] of x, y, as the detectors of 68 points order them.

    Raises:
        BadInput: they are not 68 points, or all in one place.
    """
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 2 or points.shape[0] != 68 or points.shape[1] < 2 or not np.isfinite(points).all():
        raise BadInput(f"Faces are aligned by 68 landmarks [68, 2], not by {list(points.shape)}.")
    points = points[:, :2]
    left, right, mouth = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[[48, 54]].mean(axis=0)
    return square_of(left, right, mouth)


def square_of(left: Any, right: Any, mouth: Any = None) -> Square:
    """The square of FFHQ by the middles of eyes and mouth.

    Without a mouth it is taken to be where it usually is: 1.08 times the distance of the eyes below them.

    Args:
        left, right, mouth: (x, y); left as seen in the picture.

    Raises:
        BadInput: all in one place.
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    eyes, across = (left + right) / 2, right - left
    down = MOUTH_BELOW * _turned(across) if mouth is None else np.asarray(mouth, np.float64) - eyes
    axis = across - _turned(down)
    length = math.hypot(*axis)
    if not length > 0:
        raise BadInput("A face cannot be aligned by eyes and mouth that are all in one place.")
    x = axis / length * max(2 * math.hypot(*across), 1.8 * math.hypot(*down))
    return _square(eyes + 0.1 * down, x, _turned(x))


def _square(middle: np.ndarray, right: np.ndarray, down: np.ndarray) -> Square:
    """By the ways from its middle to the middles of its sides."""
    left, right = middle - right, middle + right
    return Square(np.stack([left - down, left + down, right + down, right - down]))


def _turned(vector: np.ndarray) -> np.ndarray:
    """By a quarter, clockwise as seen in a picture."""
    return np.array([-vector[1], vector[0]])


def square_of_face(x: float, y: float, side: float, degrees: float = 0.0) -> Square:
    """The square of FFHQ around a face that somebody marked by a square from brow to chin.

    Args:
        x, y: the middle of the face.
        side: of the square.
        degrees: by how much the face is turned, clockwise.

    Raises:
        BadInput: a side that is none.
    """
    if not (side > 0 and all(math.isfinite(v) for v in (x, y, side, degrees))):
        raise BadInput(f"A face is marked by its middle, a side above zero and a turn, not by {x}, {y}, {side}.")
    turn, half = math.radians(degrees), side / FACE_SIDE / 2
    right = half * np.array([math.cos(turn), math.sin(turn)])
    down = _turned(right)
    middle = np.array([x, y]) - 2 * ((FACE_MIDDLE[0] - 0.5) * right + (FACE_MIDDLE[1] - 0.5) * down)
    return _square(middle, right, down)


def square_for(preprocess: dict[str, Any], ffhq: Square, eyes: Any = None) -> tuple[Square, int]:
    """The square that a network wants, and the side of its picture in pixels.

    Args:
        preprocess: of the network's row. `align`: `ffhq`; `face` for a picture of `size` pixels a side in whose middle
            the face, from brow to chin, is `face` pixels high; `eyes` for eyes that are level at 42 % of the height,
            `margin` times their distance being the side.
        ffhq: where the face is.
        eyes: [2, 2], left and right as seen in the picture, for `eyes`; where they usually are by default.

    Raises:
        BadInput: the row asks for something else.
    """
    align, size, face = preprocess.get("align", "ffhq"), preprocess.get("size"), preprocess.get("face")
    if not isinstance(size, int) or not 1 <= size <= MAX_SIDE:
        raise BadInput(f"preprocess.size of a network for faces is a side in pixels up to {MAX_SIDE}, not {size!r}.")
    if align == "ffhq":
        return ffhq, size
    margin = preprocess.get("margin")
    if align == "eyes" and isinstance(margin, (int, float)) and 1 <= margin <= 10:
        side = margin / 4  # the square of FFHQ by eyes alone is four times as wide as they are apart
        level = ffhq if eyes is None else square_of(*eyes)
        return level.part((0.5, 0.5 - 0.1 * MOUTH_BELOW / 4 + (0.5 - EYES_AT) * side), side), size
    if align != "face" or not isinstance(face, int) or not 1 <= face <= size:
        raise BadInput(
            f"preprocess.align is 'ffhq', 'face' with the `face` of 1 to {size} pixels, or 'eyes' with a `margin` of "
            f"1 to 10, not {align!r}."
        )
    return ffhq.part(FACE_MIDDLE, FACE_SIDE * size / face), size


def cut(photo: Image.Image, square: Square, size: int, transform_size: int | None = None) -> Aligned:
    """A square of a photo as a picture, in the way of FFHQ.

    The photo is made smaller by a whole factor if it is more than twice too large; where the square reaches beyond it,
    it goes on mirrored, more and more blurred and at last in its median colour. The square is then read bilinearly at
    several times the size and made smaller.

    Args:
        photo: RGB, the right way up.
        size: side of the picture in pixels.
        transform_size: side at which it is read; FFHQ read 4096 pixels for 1024, so four times the size by default.

    Raises:
        BadInput: the square lies outside of the photo, or a side is out of range.
    """
    if not 1 <= size <= MAX_SIDE:
        raise BadInput(f"Faces are aligned to 1 to {MAX_SIDE} pixels a side, not {size}.")
    (left, top), (right, bottom) = square.corners.min(axis=0), square.corners.max(axis=0)
    if not (right > 0 and bottom > 0 and left < photo.width and top < photo.height):
        raise BadInput("The face lies outside of the photo; mark it again.")
    around, corners, scale, moved = _surroundings(photo.convert("RGB"), square, size)
    edges = corners + 0.5
    side = transform_size or 4 * size
    picture = around.transform((side, side), Image.Transform.QUAD, tuple(edges.flatten()), Image.Resampling.BILINEAR)
    if size < side:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return Aligned(picture, square, Square((edges - moved) * scale))


def _surroundings(
    photo: Image.Image, square: Square, size: int
) -> tuple[Image.Image, np.ndarray, np.ndarray, np.ndarray]:
    """The part of a photo around a square, reduced and extended.

    Returns:
        the part; the corners in it [4, 2]; by how much the photo was reduced and then moved, each as (x, y).
    """
    corners, side, scale = square.corners, square.side, np.ones(2)
    shrink = math.floor(side / size / 2)
    if shrink > 1:
        reduced = (int(np.rint(photo.width / shrink)), int(np.rint(photo.height / shrink)))
        scale = np.array(photo.size) / reduced
        photo = photo.resize(reduced, Image.Resampling.LANCZOS)
        corners, side = corners / shrink, side / shrink
    border = max(int(np.rint(side * 0.1)), 3)
    first, last = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    begin = np.maximum(first - border, 0).astype(int)
    end = np.minimum(last + border, photo.size).astype(int)
    photo = photo.crop((*begin, *end))
    before = np.maximum(border - (first - begin), 0).astype(int)
    after = np.maximum(last - end + border, 0).astype(int)
    moved = -begin
    if max(*before, *after) > border - 4:
        least = int(np.rint(side * 0.3))
        before, after = np.maximum(before, least), np.maximum(after, least)
        photo = _extended(photo, before, after, side * 0.02)
        moved = moved + before
    return photo, corners + moved, scale, moved


def _extended(photo: Image.Image, before: np.ndarray, after: np.ndarray, blur: float) -> Image.Image:
    """A photo with `before` (left, top) and `after` (right, bottom) pixels more."""
    widths = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    pixels = np.pad(np.asarray(photo, np.float32), widths, "reflect")
    height, width = pixels.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    inside = [
        np.minimum(steps / np.float32(first), steps[::-1] / np.float32(last))
        for steps, first, last in zip((x, y), before, after, strict=True)
    ]
    outside = 1 - np.minimum(inside[0][None, :], inside[1][:, None])[..., None]  # 1 at the rim, 0 where the photo ends
    pixels += (ndimage.gaussian_filter(pixels, [blur, blur, 0]) - pixels) * np.clip(outside * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def face_mask(aligned: Aligned, ffhq: Square) -> np.ndarray:
    """Where an aligned picture shows the face, soft at its edge: float32 [size, size], 0 to 1."""
    size = aligned.picture.width
    corner, below, _, beside = aligned.square.corners
    steps = (np.arange(size) + 0.5) / size
    places = corner + steps[None, :, None] * (beside - corner) + steps[:, None, None] * (below - corner)
    origin, right, down = ffhq.place(*FACE_MIDDLE), ffhq.corners[3] - ffhq.corners[0], ffhq.corners[1] - ffhq.corners[0]
    away = places - origin
    x, y = (away @ axis / (axis @ axis) / radius for axis, radius in zip((right, down), MASK_RADII, strict=True))
    share = np.clip((1 - np.hypot(x, y)) / MASK_EDGE, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def paste(photo: Image.Image, changed: Image.Image, aligned: Aligned, mask: np.ndarray) -> Image.Image:
    """A photo in which a face is replaced by what a network made of it.

    What the network changed is added to the photo, so that its own sharpness stays where the network's pictures are
    smaller. A tint that the network gives to the whole face, the median of its changes, is taken away first. Where the
    mask is zero every pixel stays as it is.

    Args:
        photo: RGB, that the face was cut out of.
        changed: RGB, the picture of `aligned` after the change, of the same size.
        mask: float [size, size], 0 to 1: how much of the change is taken.

    Raises:
        BadInput: sizes differ.
    """
    size = aligned.picture.size
    if changed.size != size or mask.shape != size[::-1]:
        raise BadInput(f"The changed face and its mask must be {size[0]}x{size[1]} pixels, as the aligned one is.")
    change = np.asarray(changed.convert("RGB"), np.float32) - np.asarray(aligned.picture, np.float32)
    if (mask > 0.5).any():
        change -= np.median(change[mask > 0.5], axis=0)
    layers = [Image.fromarray(np.ascontiguousarray(layer)) for layer in (change * mask[..., None]).transpose(2, 0, 1)]
    low = np.floor(aligned.shown.corners.min(axis=0)).astype(int).clip(0, photo.size)
    high = np.ceil(aligned.shown.corners.max(axis=0)).astype(int).clip(0, photo.size)
    if (high <= low).any():
        return photo.copy()
    side = max(1, round(aligned.shown.side))
    if side < size[0]:  # the transformation reads single pixels, so it must not skip any
        layers = [layer.resize((side, side), Image.Resampling.BOX) for layer in layers]
    numbers = _back(aligned.shown, layers[0].width, low)
    shape = tuple((high - low).tolist())
    moved = [layer.transform(shape, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR) for layer in layers]
    out = photo.copy()
    box = (*low.tolist(), *high.tolist())
    pixels = np.asarray(photo.crop(box), np.float32) + np.stack([np.asarray(layer) for layer in moved], axis=-1)
    out.paste(Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)), box)
    return out


def _back(shown: Square, size: int, origin: np.ndarray) -> tuple[float, ...]:
    """Six numbers: from places of the photo, counted from `origin`, to places of a picture of `size` that shows it."""
    corner, below, _, beside = shown.corners
    matrix = np.linalg.inv(np.stack([beside - corner, below - corner], axis=1)) * size
    offset = matrix @ (origin - corner)
    return (*matrix[0], offset[0], *matrix[1], offset[1])
