"""Finds frontal faces and their eyes in a picture, on a CPU, with nothing to download.

Three steps: the cascade of local binary patterns that scikit-image ships (Viola and Jones, 2001; Liao et al., 2007)
proposes squares, among them many that are no face; the small network `eyes` (docs/models/eyes.md) says of each where
its eyes are; and looking again at the square that those eyes stand in, upright, it says their place better and
whether it is a face at all. Squares whose eyes are the same become one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ganhub import checkpoint, hub, models
from ganhub.errors import BadInput
from ganhub.models.eyes import SIDE
from ganhub.registry import load_registry

BOX = 2.48
"""Side of the cascade's square over the distance of the eyes, on average over 2149 portraits."""
BELOW = 0.27
"""How far below the middle of the eyes the middle of that square is, over the distance of the eyes."""
WINDOW = 1.3
"""Side of what the network looks at over that of the cascade's square."""
CASCADE_SIDE = 24
LARGEST = 1024
"""Longest side of the copy that the network looks at."""


@dataclass(frozen=True)
class Face:
    box: tuple[float, float, float]
    """(x, y, size) of the square around a face, from brow to chin, in pixels; it may reach beyond the picture."""
    eyes: tuple[tuple[float, float], tuple[float, float]]
    """(x, y) of the left and of the right eye as seen in the picture, in pixels; 0, 0 is its upper left corner."""
    score: float
    """How sure the network is that it is a face, 0 to 1."""

    @property
    def distance(self) -> float:
        """Between the eyes, in pixels."""
        return math.dist(*self.eyes)


def find_faces(picture: np.ndarray, smallest: float = 0.08, surely: float = 0.9) -> list[Face]:
    """Frontal faces of a picture, the largest first.

    Args:
        picture: uint8 [H, W], or [H, W, C] with 1 or 3 channels, the right way up.
        smallest: side of the smallest face that is looked for over the longer side of the picture. Half as small
            takes four times as long.
        surely: faces of a lower score are left out.

    Raises:
        BadInput: the array is no picture, or scikit-image is not installed.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.ndim == 3 and picture.shape[2] not in (1, 3):
        raise BadInput(f"Faces are sought in uint8 [H, W, 1 or 3], not in {picture.dtype} {list(picture.shape)}.")
    if min(picture.shape[:2]) < CASCADE_SIDE:
        return []
    grey = Image.fromarray(picture if picture.ndim == 2 else picture.squeeze(2) if picture.shape[2] == 1 else picture)
    grey = reduced(grey.convert("L"))
    squares = proposals(grey, smallest)
    if not len(squares):
        return []
    pixels = torch.from_numpy(np.array(grey, np.float32))[None, None] / 255
    eyes, _ = look(pixels, squares)
    eyes, faces = look(pixels, stand(eyes))
    scale = max(picture.shape[:2]) / max(grey.size)
    found: list[Face] = []
    for score, pair in sorted(zip(faces.tolist(), (eyes * scale).tolist(), strict=True), reverse=True):
        face = _face(pair, score)
        if score >= surely and face.distance > 0 and not any(_same(face, other) for other in found):
            found.append(face)
    return sorted(found, key=lambda face: -face.distance)


def stand(eyes: Tensor) -> Tensor:
    """The upright square that eyes [N, 2, 2] stand in: [N, 4] of middle x, middle y, side (pixels), turn (radians)."""
    across = eyes[:, 1] - eyes[:, 0]
    down = torch.stack([-across[:, 1], across[:, 0]], dim=1)
    middle = eyes.mean(dim=1) + BELOW * down
    return torch.cat([middle, BOX * across.norm(dim=1, keepdim=True), torch.atan2(*across.flip(1).T)[:, None]], dim=1)


def windows(pixels: Tensor, squares: Tensor, fineness: int = 1, side: int = SIDE) -> Tensor:
    """What the network sees of squares: [N, 1, side, side].

    Args:
        pixels: [1, 1, H, W] for all squares, or [N, 1, H, W], one for each; beyond its edge it goes on as it ends.
        squares: [N, 4] of middle x, middle y, side (pixels), turn (radians).
        fineness: points in x and in y that are averaged for each pixel of a window, so that nothing is skipped.
    """
    height, width = pixels.shape[2:]
    count = side * fineness
    steps = (torch.arange(count) + 0.5) / count - 0.5
    points = torch.stack([steps.expand(count, count), steps[:, None].expand(count, count)], dim=-1)
    points = _turned(points[None], squares) / points.new_tensor([width, height]) * 2 - 1
    if len(pixels) == 1:  # one tall picture: the pixels need not be repeated for each window
        seen = F.grid_sample(pixels, points.view(1, -1, count, 2), padding_mode="border", align_corners=False)
        seen = seen.view(-1, 1, count, count)
    else:
        seen = F.grid_sample(pixels, points, padding_mode="border", align_corners=False)
    return F.avg_pool2d(seen, fineness) if fineness > 1 else seen


@torch.inference_mode()
def look(pixels: Tensor, squares: Tensor, network: Any = None) -> tuple[Tensor, Tensor]:
    """Where the eyes in squares are, and whether they are of a face.

    Args:
        pixels: [1, 1, H, W], grey.
        squares: [N, 4] as for `windows`.
        network: an `Eyes`; the one that ships with the package by default.

    Returns:
        eyes [N, 2, 2] in pixels, left and right as seen in a window, and scores [N], 0 to 1.
    """
    network = network or _network()
    fineness = (squares[:, 2] * WINDOW / SIDE).ceil().clamp(1, 8).int()
    eyes, faces = squares.new_empty(len(squares), 2, 2), squares.new_empty(len(squares))
    for fine in fineness.unique().tolist():
        chosen = fineness == fine
        places, logits = network(windows(pixels, squares[chosen], fine))
        eyes[chosen] = _turned((places - 0.5)[:, None], squares[chosen])[:, 0]
        faces[chosen] = logits.sigmoid()
    return eyes, faces


def _turned(points: Tensor, squares: Tensor) -> Tensor:
    """Places in windows [N or 1, A, B, 2], counted from their middle in shares of their side, in the picture."""
    x, y, side, turn = squares.view(-1, 4, 1, 1).unbind(1)
    cos, sin = turn.cos() * side * WINDOW, turn.sin() * side * WINDOW
    across, down = points.unbind(-1)
    return torch.stack([x + across * cos - down * sin, y + across * sin + down * cos], dim=-1)


def proposals(grey: Image.Image, smallest: float) -> Tensor:
    """[N, 4] of what the cascade takes for a face, in pixels of `grey`."""
    small = grey.resize(_sizes(grey, min(CASCADE_SIDE / smallest, 2.0 * max(grey.size))), Image.Resampling.LANCZOS)
    squares = _cascade().detect_multi_scale(
        np.asarray(small),
        scale_factor=1.1,
        step_ratio=1.2,
        min_size=(CASCADE_SIDE, CASCADE_SIDE),
        max_size=small.size,
        min_neighbor_number=1,
    )
    scale = max(grey.size) / max(small.size)
    found = [(s["c"] + s["width"] / 2, s["r"] + s["height"] / 2, s["width"], 0.0) for s in squares]
    return torch.tensor(found) * torch.tensor([scale, scale, scale, 1.0]) if found else torch.empty(0, 4)


def reduced(picture: Image.Image) -> Image.Image:
    """The copy of a picture that faces are sought in: at most 1024 pixels long."""
    if max(picture.size) <= LARGEST:
        return picture
    return picture.resize(_sizes(picture, LARGEST), Image.Resampling.LANCZOS, reducing_gap=2)


def _sizes(picture: Image.Image, longest: float) -> tuple[int, int]:
    scale = longest / max(picture.size)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _face(eyes: list[list[float]], score: float) -> Face:
    x, y, size, _ = stand(torch.tensor([eyes]))[0].tolist()
    left, right = sorted((ex, ey) for ex, ey in eyes)
    return Face((x - size / 2, y - size / 2, size), (left, right), score)


def _same(face: Face, other: Face) -> bool:
    """Two faces cannot have their eyes nearer to each other than this."""
    middles = [[sum(axis) / 2 for axis in zip(*f.eyes, strict=True)] for f in (face, other)]
    return math.dist(*middles) < 0.6 * max(face.distance, other.distance)


@cache
def _cascade() -> Any:
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError as error:
        raise BadInput('Finding faces needs scikit-image; install it with pip install "ganhub[data]".') from error
    return Cascade(lbp_frontal_face_cascade_filename())


@cache
def _network() -> Any:
    row = load_registry().find("eyes")
    return models.read(checkpoint.read(hub.fetch(row)), row.family)
