"""Where the faces of a photo are, precisely enough to align them.

Three ways, from heavy to light:

- `landmarks`: 68 points by face-alignment (Bulat and Tzimiropoulos, 2017, https://arxiv.org/abs/1703.07332), an extra,
  with two networks of 90 MB each that the registry pins.
- `points`: eyes and mouth by BlazeFace (`ganhub.models.blazeface`, 0.6 MB, a row too), which looks again at each face
  that it found, upright and alone.
- `eyes`: the middles of the eyes by the small network that ships with the package (`ganhub.data.faces`); the mouth is
  taken to be where it usually is, so that long and short faces, open mouths and faces that look up or down come out
  larger or smaller than they should.

Against eyes and mouths that people marked (102 frontal faces of the London Set, all found) the corners of the square of
FFHQ are off by 2.8 % of its side with `points`, by 6.6 % at most, and by 3.1 % and 8.4 % with `eyes`. Of 24 portraits
turned by 35 degrees `points` finds 24, turned by 90 as well. `eyes` looks for upright faces first, then at the photo
turned seven ways: of ten portraits turned by 20, -50, 90 and 180 degrees it finds 10, 9, 9 and 9, and nothing in 82
photos of flowers and fruit.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganhub import checkpoint, hub, models
from ganhub.data.faces import find_faces, reduced
from ganhub.errors import BadInput
from ganhub.imaging.align import Square, ffhq_square, square_of
from ganhub.registry import load_registry

NETWORKS = {"landmarks": ("face-alignment-s3fd", "face-alignment-2dfan4"), "points": ("blazeface-back",), "eyes": ()}
"""What each way needs of the registry."""
SURELY = 0.65
"""Score below which BlazeFace sees no face; that of its authors."""
TURNS = (30, -30, 60, -60, 90, -90, 180)
"""Degrees by which a photo is turned where no face in it is upright, for the way `eyes`."""
TURNED = 0.98
"""Score below which nothing in a turned photo is a face: the more often one looks, the surer one must be."""
SAME = 0.3
"""Two boxes of which more than this share is common are one face."""
AROUND = 1.3
"""Side of what is looked at again over that of the face's square."""


@dataclass(frozen=True)
class Located:
    """A face and the square of FFHQ around it."""

    square: Square
    points: np.ndarray | None = None
    """[68, 2] of x, y, where the way was `landmarks`."""
    eyes: np.ndarray | None = None
    """[2, 2] of x, y: the middles of the eyes, left and right as seen in the picture; None where nobody looked."""


def missing(how: str) -> str | None:
    """What a way still needs on this machine, as a sentence; None where it is ready."""
    if how == "landmarks" and importlib.util.find_spec("face_alignment") is None:
        return 'Alignment by 68 landmarks needs face-alignment; install it with pip install "ganhub[faces]".'
    absent = [name for name in NETWORKS[how] if not hub.status(load_registry().find(name)).on_disk]
    if absent:
        return f"Alignment by {how} needs {' and '.join(absent)}; fetch with ganhub pull {' '.join(absent)}."
    return None


def locate(picture: np.ndarray, how: str, device: str = "cpu") -> list[Located]:
    """The faces of a photo, the largest first.

    Args:
        picture: uint8 [H, W, 3], the right way up.
        how: `landmarks`, `points` or `eyes`.
        device: where the networks of `landmarks` compute.

    Raises:
        BadInput: `picture` is none, there is no such way, or what it needs is not installed.
        FetchError: a network cannot be fetched.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadInput(f"Faces are sought in uint8 [H, W, 3], not in {picture.dtype} {list(picture.shape)}.")
    if how == "landmarks":
        found = [Located(ffhq_square(p), p, _eyes_of(p)) for p in _aligner(device)(picture)]
    elif how == "points":
        found = _by_points(picture)
    elif how == "eyes":
        found = [Located(square_of(*pair), eyes=pair) for pair in _by_eyes(picture)]
    else:
        raise BadInput(f"Faces are found by {', '.join(NETWORKS)}, not by '{how}'.")
    return sorted(found, key=lambda face: -face.square.side)


def _by_eyes(picture: np.ndarray) -> list[np.ndarray]:
    """[2, 2] of left and right for every face: of those that are upright, else of those that are turned alike."""
    if upright := find_faces(picture):
        return [np.array(face.eyes) - 0.5 for face in upright]  # which are counted from the edge of the picture
    photo = Image.fromarray(picture)
    small = reduced(photo)
    size, scale = np.array(small.size), photo.width / small.width
    for degrees in TURNS:
        turned = small.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
        if found := find_faces(np.asarray(turned), surely=TURNED):
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            back = np.array([[cos, sin], [-sin, cos]])
            return [
                ((np.array(face.eyes) - np.array(turned.size) / 2) @ back + size / 2) * scale - 0.5 for face in found
            ]
    return []


def _eyes_of(points: np.ndarray) -> np.ndarray:
    return np.stack([points[36:42, :2].mean(axis=0), points[42:48, :2].mean(axis=0)])


@cache
def _aligner(device: str) -> Any:
    """Pictures -> landmarks [68, 2] of each face.

    Raises:
        BadInput: face-alignment is not installed.
        FetchError: one of its networks cannot be fetched.
    """
    try:
        from face_alignment import FaceAlignment, LandmarksType
        from face_alignment.models import FAN
    except ImportError as error:
        raise BadInput(str(missing("landmarks"))) from error
    registry = load_registry()
    detector, points = (registry.find(name) for name in NETWORKS["landmarks"])

    class Ours(FaceAlignment):
        """With networks of the registry, where the library would fetch its own."""

        def _load_native(self, name: str, size: int, device: str, dtype: Any) -> Any:
            (network,) = checkpoint.read(hub.fetch(points), sha256=points.sha256).networks.values()
            fan = FAN(size)
            fan.load_state_dict(network.tensors)
            return fan.to(device, dtype=dtype).eval().requires_grad_(False)

    where = {"path_to_detector": str(hub.fetch(detector))}
    library = Ours(LandmarksType.TWO_D, device=device, face_detector_kwargs=where, compile=False)

    def landmarks(picture: np.ndarray) -> list[np.ndarray]:
        small = np.array(reduced(Image.fromarray(picture)))
        boxes = library.face_detector.detect_from_image(small)
        boxes = [box * [*[max(picture.shape) / max(small.shape)] * 4, 1] for box in boxes]
        return library.get_landmarks_from_image(picture, boxes) if len(boxes) else []

    return landmarks


def _by_points(picture: np.ndarray) -> list[Located]:
    """The faces that BlazeFace sees, and sees again when it looks closer."""
    photo = Image.fromarray(picture)
    found: list[Located] = []
    side = max(photo.size)
    whole = Square(np.array([(0, 0), (0, side), (side, side), (side, 0)]) - 0.5)
    for first in _look(photo, whole):
        for face in _look(photo, first.square.part((0.5, 0.5), AROUND)):
            if _near(face, first) and not any(_near(face, other) for other in found):
                found.append(face)
    return found


def _near(face: Located, other: Located) -> bool:
    """Two faces cannot have their middles so near to each other."""
    return math.dist(face.square.place(0.5, 0.5), other.square.place(0.5, 0.5)) < 0.25 * other.square.side


@torch.inference_mode()
def _look(photo: Image.Image, where: Square) -> list[Located]:
    """The faces in a part of a photo, the surest first."""
    network = _blazeface()
    scale = min(1.0, 2 * network.side / where.side)  # what is left is read bilinearly, so that nothing is skipped
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    corners = (where.corners + 0.5) * np.array(size) / photo.size
    small = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=2) if scale < 1 else photo
    window = (network.side, network.side)
    seen = small.transform(window, Image.Transform.QUAD, tuple(corners.flatten()), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None] / 127.5 - 1
    faces, logits = network(pixels)
    sure = logits[0].sigmoid() > SURELY
    faces, scores = faces[0][sure], logits[0][sure].sigmoid()
    found: list[Located] = []
    while len(faces):
        best = scores.argmax()
        same = _common(faces[best], faces) > SAME
        weights = scores[same, None]
        points = ((faces[same] * weights).sum(dim=0) / weights.sum()).double().numpy().reshape(8, 2)[2:]
        right, left, _, mouth = (where.place(*point) for point in points[:4])
        found.append(Located(square_of(right, left, mouth), eyes=np.stack([right, left])))
        faces, scores = faces[~same], scores[~same]
    return found


def _common(face: Tensor, others: Tensor) -> Tensor:
    """How much a box has in common with others [N], over what they cover together."""
    low, high = (
        torch.stack([f[..., :2] + s * f[..., 2:4] / 2 for f in (face.expand_as(others), others)]) for s in (-1, 1)
    )
    shared = (high.amin(dim=0) - low.amax(dim=0)).clamp(min=0).prod(dim=-1)
    return shared / (face[2:4].prod() + others[:, 2:4].prod(dim=-1) - shared)


@cache
def _blazeface() -> Any:
    row = load_registry().find(*NETWORKS["points"])
    return models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family)
