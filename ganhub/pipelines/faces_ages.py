"""One face at many ages: side by side, and as a video that goes through them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ganhub.data.landmarks import Located
from ganhub.errors import BadInput
from ganhub.imaging import VideoWriter, labelled_grid
from ganhub.imaging.align import Square
from ganhub.imaging.mark import mark
from ganhub.pipelines.faces import (
    AgeRequest,
    FacePicture,
    Part,
    about_of,
    changed,
    faces_of,
    finished,
    open_ager,
    plain,
    route,
    size_notes,
)
from ganhub.pipelines.requests import Progress, whole

if TYPE_CHECKING:
    from ganhub.engine import Engine

ROUND = 1.5
"""Side of what is shown around a face over that of its square of FFHQ."""
SHOWN = 640
"""Longest side of a picture at one of the ages."""
CELL = 256
"""Height of a picture on the strip."""
STRENGTHS = 5
"""Pictures from the photo as it is to what a network that goes a fixed way makes of it."""
FIRST, LAST = 20, 80
"""Ages between which a strip goes where nobody says which, as far as the network knows them."""
MOST = 24
"""Ages of a strip."""


@dataclass(frozen=True)
class AgesRequest(AgeRequest):
    """A way through the ages. Networks that go a fixed way go from the photo as it is to what they make of it, and
    from the younger to the older face where they can do both.

    Raises:
        BadInput: when made without consent, or with what no network can answer.
    """

    ages: Sequence[float] = ()
    """In years, for networks with a real age; seven from 20 to 80 by default."""
    file: str | Path | None = None
    """The MP4 to write; None writes none."""
    frames: int = 90
    """Of the video, from one end to the other."""
    fps: int = 30

    task = "ages"

    def __post_init__(self):
        super().__post_init__()
        whole("number of frames", self.frames, 2, 900, required=True)
        whole("frames per second", self.fps, 1, 60, required=True)
        if len(self.ages) > MOST or len(self.ages) == 1:
            raise BadInput(f"A strip has 2 to {MOST} ages, not {len(self.ages)}.")


@dataclass(frozen=True)
class AgesResult:
    """The strip, its single pictures and the video."""

    request: AgesRequest
    strip: FacePicture
    pictures: list[FacePicture]
    labels: list[str]
    video: Path | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stop:
    """One picture of a strip."""

    label: str
    made: list[Image.Image]
    """What the network made of each face."""
    strength: float


def ages(engine: Engine, request: AgesRequest) -> Generator[Any, None, None]:
    """Progress, then an `AgesResult`.

    Raises:
        GanHubError: as for `ganhub.pipelines.faces.age`, or the video cannot be written.
    """
    row, sha256, facts = yield from open_ager(engine, request)
    picture = plain(request.photo)
    faces = yield from faces_of(request, picture)
    picture, faces = around(picture, faces)
    parts = [Part.of(picture, face, row, facts) for face in faces]
    notes = [*request.photo.notes, *size_notes(parts)]
    if facts["ages"] is None:
        stops = yield from _fixed(engine, row, facts, request, parts)
    else:
        stops, told = yield from _real(engine, row, facts, request, parts)
        notes += told
    labels = [stop.label for stop in stops]
    about = about_of(request, row, sha256, facts, parts, {"ages": labels})
    made = [_drawn(picture, parts, [(stop, 1.0)]) for stop in stops]
    pictures = [
        finished(image, request, {**about, "age": label}, f"{row.id}_{number:02d}")
        for number, (image, label) in enumerate(zip(made, labels, strict=True))
    ]
    height = min(CELL, picture.height)
    size = (max(1, round(picture.width * height / picture.height)), height)
    sheet = labelled_grid([image.resize(size, Image.Resampling.LANCZOS) for image in made], labels, [""])
    video = None
    if request.file is not None:
        yield from _filmed(picture, parts, stops, request, about)
        video = Path(request.file)
    yield AgesResult(request, finished(sheet, request, about, f"{row.id}_ages"), pictures, labels, video, notes)


def around(picture: Image.Image, faces: Sequence[Located]) -> tuple[Image.Image, list[Located]]:
    """The part of a photo around faces, at most 640 pixels long, and where they are in it."""
    corners = np.concatenate([face.square.part((0.5, 0.5), ROUND).corners for face in faces])
    low = np.floor(corners.min(axis=0)).clip(0, None)
    high = np.ceil(corners.max(axis=0)).clip(None, picture.size)
    left, top, right, bottom = (int(v) for v in (*low, *high))
    scale = min(1.0, SHOWN / float((high - low).max()))
    size = [max(1, round(float(side) * scale)) for side in high - low]
    part = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, (left, top, right, bottom), reducing_gap=3.0)
    factor = np.array(size) / (high - low)

    def moved(points: np.ndarray) -> np.ndarray:
        return (points + 0.5 - low) * factor - 0.5

    return part, [
        Located(Square(moved(face.square.corners)), eyes=None if face.eyes is None else moved(face.eyes))
        for face in faces
    ]


def _real(
    engine: Engine, row: Any, facts: dict[str, Any], request: AgesRequest, parts: list[Part]
) -> Generator[Progress, None, tuple[list[Stop], list[str]]]:
    """A stop for every age in years."""
    low, high = facts["ages"]
    years = tuple(request.ages) or tuple(np.linspace(max(FIRST, low), min(LAST, high), 7).round().tolist())
    routes = [route(row, facts, replace(request, target=float(age))) for age in years]
    made = yield from changed(engine, row, request, parts, [(a, b) for a, b, *_ in routes])
    stops = [Stop(f"{age:g}", faces, request.strength) for age, faces in zip(years, made, strict=True)]
    return stops, routes[0][3]


def _fixed(
    engine: Engine, row: Any, facts: dict[str, Any], request: AgesRequest, parts: list[Part]
) -> Generator[Progress, None, list[Stop]]:
    """Stops from the younger face to the photo as it is to the older one, as far as the network goes."""
    if request.ages:
        raise BadInput(f"'{row.id}' goes a fixed way and knows no ages; leave them out.")
    ways = [way for way in ("younger", "older") if way in facts["directions"]]
    routes = [route(row, facts, replace(request, direction=way, target=None)) for way in ways]
    made = yield from changed(engine, row, request, parts, [(a, b) for a, b, *_ in routes])
    steps = STRENGTHS if len(ways) == 1 else STRENGTHS // 2 + 1
    shares = np.linspace(0, 1, steps)[1:]
    stops = [Stop("as it is", [part.aligned.picture for part in parts], 0.0)]
    for way, faces in zip(ways, made, strict=True):
        more = [Stop(f"{way} {share:.0%}", faces, float(share) * request.strength) for share in shares]
        stops = [*reversed(more), *stops] if way == "younger" else [*stops, *more]
    return stops


def _drawn(picture: Image.Image, parts: Sequence[Part], mixed: Sequence[tuple[Stop, float]]) -> Image.Image:
    """A picture at a stop, or between two with their shares."""
    for number, part in enumerate(parts):
        picture = part.put(picture, *((stop.made[number], stop.strength * share) for stop, share in mixed))
    return picture


def _frames(
    picture: Image.Image, parts: Sequence[Part], stops: Sequence[Stop], request: AgesRequest
) -> Iterator[Image.Image]:
    for place in np.linspace(0, len(stops) - 1, request.frames):
        first = min(int(place), len(stops) - 2)
        share = float(place - first)
        image = _drawn(picture, parts, [(stops[first], 1 - share), (stops[first + 1], share)])
        yield mark(image) if request.mark else image


def _filmed(
    picture: Image.Image, parts: Sequence[Part], stops: Sequence[Stop], request: AgesRequest, about: dict[str, Any]
) -> Generator[Progress, None, None]:
    """Writes the video; it is removed where somebody stops it."""
    assert request.file is not None
    how = {**about, "frames": request.frames, "fps": request.fps}
    with VideoWriter(request.file, request.fps, how) as writer:
        for number, frame in enumerate(_frames(picture, parts, stops, request), 1):
            writer.add(frame)
            yield Progress(number, request.frames, f"{number} of {request.frames} frames")
