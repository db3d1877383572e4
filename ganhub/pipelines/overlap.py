"""How far tiles must overlap so that nobody can tell them from the picture in one piece: measured, not assumed.

What a network sees in principle is several times what it uses. Half of a level of 255 is what rounding hides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.imaging import Photo
from ganhub.pipelines._work import answers_of, load
from ganhub.pipelines.requests import Progress

if TYPE_CHECKING:
    from ganhub.engine import Engine

ALLOWED = 0.5
"""Levels of 255."""
CORE = 24
"""Side of the tiles that are compared; a border is a border whatever lies inside."""
PLACES = 4


@dataclass(frozen=True)
class Overlap:
    """The smallest overlap whose tiles differ by half a level at most, and every one that was tried."""

    overlap: int
    reach: int
    errors: dict[int, float]
    """Largest difference in levels of 255, by overlap."""


def measure(engine: Engine, checkpoint: str, photos: Sequence[Photo] = ()) -> Iterator[Any]:
    """Progress, then an `Overlap`.

    Args:
        photos: what to measure on, at their sharpest places; noise by default, which is harder than any photo.

    Raises:
        GanHubError: the checkpoint cannot be had.
        BadInput: it does not enlarge pictures, or it sees the whole picture at once.
    """
    row, _, facts = yield from load(engine, checkpoint, "exact", "")
    if "upscale" not in row.task:
        raise BadInput(f"'{row.id}' does not enlarge pictures.")
    reach, multiple = facts["reach"], facts["multiple"]
    if not reach:
        raise BadInput(f"'{row.id}' sees the whole picture at once: no overlap makes its tiles equal.")
    side = CORE + 2 * (reach + -reach % multiple)
    side += -side % multiple
    places = [part for photo in photos for part in _busiest(photo, side)] or _noise(side)
    tried = [n + -n % multiple for n in dict.fromkeys([*range(4, reach, 2), reach])]
    errors: dict[int, float] = {}
    whole = yield from _answers(engine, row.id, places, 0, side)
    for done, overlap in enumerate(tried):
        edge = (side - CORE) // 2 - overlap
        edge -= edge % multiple
        made = yield from _answers(engine, row.id, places, max(0, edge), side)
        errors[overlap] = max(float(np.abs(a - b).max()) * 255 for a, b in zip(made, whole, strict=True))
        yield Progress(done + 1, len(tried), f"Overlap {overlap}: {errors[overlap]:.3f} levels")
        if errors[overlap] <= ALLOWED:
            break
    yield Overlap(overlap, reach, errors)


def _answers(engine: Engine, checkpoint: str, places: list[np.ndarray], edge: int, side: int) -> Any:
    """The middle of every place, computed from what is left when `edge` pixels are cut off all around."""
    middle = (side - CORE) // 2
    jobs = []
    for place in places:
        part = np.ascontiguousarray(place[edge : side - edge, edge : side - edge])
        item = {"pixels": part, "crop": (middle - edge, middle - edge, CORE, CORE), "depth": 32}
        jobs.append(Job(checkpoint, "upscale", item, precision="exact"))
    found = []
    with closing(answers_of(engine, jobs)) as answers:
        for answer in answers:
            if answer is None:
                yield Progress(0, 0, "Measuring")
            else:
                found.append(answer)
    return found


def _noise(side: int) -> list[np.ndarray]:
    rng = np.random.RandomState(0)
    return [rng.randint(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(PLACES)]


def _busiest(photo: Photo, side: int) -> list[np.ndarray]:
    """The squares of a photo with the most detail: uint8 [side, side, 3]."""
    pixels = photo.pixels if photo.depth == 8 else (photo.pixels >> 8).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    height, width = pixels.shape[:2]
    parts = [
        pixels[y : y + side, x : x + side]
        for y in range(0, height - side + 1, side // 2)
        for x in range(0, width - side + 1, side // 2)
    ]
    parts.sort(key=lambda part: -float(np.abs(np.diff(part.astype(np.int16), axis=1)).mean()))
    return parts[:PLACES]
