"""Where the faces of a photo are, precisely enough to align them.

Two ways. `landmarks`: 68 points by face-alignment (Bulat and Tzimiropoulos, 2017, https://arxiv.org/abs/1703.07332), an
extra, with two networks of 90 MB each that the registry pins. `eyes`: the middles of the eyes alone, by the small
network that ships with the package (`ganhub.data.faces`), the mouth being where it usually is. Against eyes and mouths
that people marked (102 frontal faces of the London Set, all found) the corners of the square of FFHQ are then off by
3.1 % of its side on average, by 8.4 % at most; 1.3 % and 7.5 % come from the mouth alone. Longer and shorter faces than
usual, open mouths and faces that look up or down come out larger or smaller than they should; profiles are not found.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ganhub import checkpoint, hub
from ganhub.data.faces import find_faces, reduced
from ganhub.errors import BadInput
from ganhub.imaging.align import Square, ffhq_square, square_of
from ganhub.registry import load_registry

HOW = ("landmarks", "eyes")
NETWORKS = ("face-alignment-s3fd", "face-alignment-2dfan4")
"""Rows of the detector and of the network that sees the 68 points."""


@dataclass(frozen=True)
class Located:
    """A face and the square of FFHQ around it."""

    square: Square
    points: np.ndarray | None = None
    """[68, 2] of x, y, where the way was `landmarks`."""


def missing() -> str | None:
    """What the way `landmarks` still needs on this machine, as a sentence; None where it is ready."""
    if importlib.util.find_spec("face_alignment") is None:
        return 'Precise alignment needs face-alignment; install it with pip install "ganhub[faces]".'
    absent = [name for name in NETWORKS if not hub.status(load_registry().find(name)).on_disk]
    if absent:
        return f"Precise alignment needs {' and '.join(absent)}; fetch with ganhub pull {' '.join(absent)}."
    return None


def locate(picture: np.ndarray, how: str, device: str = "cpu") -> list[Located]:
    """The faces of a photo, the largest first.

    Args:
        picture: uint8 [H, W, 3], the right way up.
        how: `landmarks` or `eyes`.
        device: where the networks of `landmarks` compute.

    Raises:
        BadInput: `picture` is none, there is no such way, or what it needs is not installed.
        FetchError: a network of `landmarks` cannot be fetched.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadInput(f"Faces are sought in uint8 [H, W, 3], not in {picture.dtype} {list(picture.shape)}.")
    if how == "landmarks":
        found = [Located(ffhq_square(points), points) for points in _aligner(device)(picture)]
    elif how == "eyes":  # which are counted from the edge of the picture
        eyes = (np.array(face.eyes) - 0.5 for face in find_faces(picture))
        found = [Located(square_of(left, right)) for left, right in eyes]
    else:
        raise BadInput(f"Faces are found by {' or '.join(HOW)}, not by '{how}'.")
    return sorted(found, key=lambda face: -face.square.side)


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
        raise BadInput(str(missing())) from error
    registry = load_registry()
    detector, points = (registry.find(name) for name in NETWORKS)

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
