"""Pictures that move along directions: one, a strip, a grid over two directions, a video there and back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganhub import imaging
from ganhub.directions import MAX_STRENGTH, Direction, move, open_direction
from ganhub.errors import BadInput
from ganhub.latents import Latents, check_seeds, truncate
from ganhub.pipelines._sampling import Events, Source, opened
from ganhub.pipelines._work import answers_of, imaged, loading, provenance
from ganhub.pipelines.generate import fitted
from ganhub.pipelines.requests import PRECISIONS, Picture, Progress, choice, number, whole
from ganhub.registry import check_direction

if TYPE_CHECKING:
    from ganhub.engine import Engine

MOST = 1024
"""Pictures of one request."""
Which = Direction | str


@dataclass(frozen=True)
class SlideRequest:
    """Seeds or a saved latent, and where they go.

    Raises:
        BadInput: when made with something that nothing can move along.
    """

    checkpoint: str
    along: Which
    """A direction, or the id of its row (`ID:3` for a component)."""
    seeds: Sequence[int] = (0,)
    latents: Latents | None = None
    """In place of seeds."""
    strengths: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    across: Which | None = None
    """A second direction: then each seed becomes a grid over both."""
    across_strengths: Sequence[float] = (-2.0, 0.0, 2.0)
    with_: Sequence[tuple[Which, float]] = ()
    """Directions that all pictures are moved along first."""
    layers: Sequence[int] | None = None
    """Which layers move; None is what each direction is meant for."""
    psi: float = 0.7
    label: int | None = None
    frames: int = 0
    """Above 0: a video with so many frames from the first strength to the last, and back."""
    file: str | Path | None = None
    """The MP4 to write."""
    fps: int = 30
    precision: str | None = None
    visitor: str = ""

    task = "slide"

    def __post_init__(self):
        count = len(self.latents) if self.latents is not None else len(self.seeds)
        if self.latents is None:
            object.__setattr__(self, "seeds", tuple(check_seeds(self.seeds)))
        for name in ("strengths", "across_strengths"):
            values = tuple(getattr(self, name))
            for value in (*values, *(strength for _, strength in self.with_)):
                number("strength", value, -MAX_STRENGTH, MAX_STRENGTH)
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if not self.strengths or (self.across is not None and not self.across_strengths):
            raise BadInput("Name at least one strength, like -2,-1,0,1,2.")
        many = len(self.strengths) * (len(self.across_strengths) if self.across is not None else 1) * count
        if many > MOST:
            raise BadInput(f"That makes {many} pictures; at most {MOST} at a time.")
        number("psi", self.psi, -2, 2)
        whole("number of frames", self.frames, 0, 1000, required=True)
        whole("frames per second", self.fps, 1, 120, required=True)
        choice("precision", self.precision, (*PRECISIONS, None))
        if self.frames and (self.file is None or len(self.strengths) < 2 or self.across is not None):
            raise BadInput("A video goes along one direction, from one strength to another, into a file.")


@dataclass(frozen=True)
class SlideResult:
    """Pictures row by row: each seed at every strength; with a second direction, a grid for each seed."""

    request: SlideRequest
    pictures: list[Picture] = field(default_factory=list)
    grid: Picture | None = None
    video: Path | None = None
    frames: int = 0
    about: dict[str, Any] = field(default_factory=dict)


def slide(engine: Engine, request: SlideRequest) -> Iterator[Any]:
    """Progress with the pictures as they come, then a SlideResult.

    Raises:
        RegistryError: a direction belongs to another generator (`wrong_generator`).
        GanHubError: a checkpoint cannot be had, or the request does not fit it.
    """
    source = yield from opened(engine, request.checkpoint, request.label, request.precision, request.visitor)
    along = _direction(source, request.along)
    across = None if request.across is None else _direction(source, request.across)
    fixed = [(_direction(source, which), strength) for which, strength in request.with_]
    spaces = {d.space == "z" for d in (along, *([across] if across else []), *(d for d, _ in fixed))}
    if len(spaces) > 1:
        raise BadInput("These directions are of different spaces, z and w, which no latent is in at once.")
    start = yield from _start(source, request, along.space)
    for direction, strength in fixed:
        start = move(start, direction, strength, request.layers)
    if request.frames:
        yield (yield from _film(source, request, along, start))
        return
    cells = [
        (i, a, b)
        for i in range(len(start))
        for b in (request.across_strengths if across else (0.0,))
        for a in request.strengths
    ]
    jobs = []
    for i, a, b in cells:
        moved = move(start[i : i + 1], along, a, request.layers)
        moved = move(moved, across, b, request.layers) if across else moved
        jobs.append(_drawing(source, request, moved[0], _seed(request, i)))
    abouts = [_about(source, request, along, across, i, a, b) for i, a, b in cells]
    pictures = yield from _drawn(source, jobs, abouts)
    sheet = imaged(_sheet(request, along, across, pictures), _whole(source, request), f"{source.row.id}_{along.id}")
    yield SlideResult(request, pictures, sheet, about=sheet.provenance)


def _direction(source: Source, which: Which) -> Direction:
    """The direction, once it is certain that it belongs to this generator.

    Raises:
        RegistryError: it does not.
    """
    row = source.row.model_copy(update={"sha256": source.sha256 or None})
    w_dim = source.facts["w_dim"] or None
    if isinstance(which, str):
        return open_direction(source.engine.registry, which, row, w_dim)
    if which.generator:
        from ganhub.pipelines.learn import row_of

        check_direction(row_of(which, source.row), row, w_dim)
    return which


def _start(source: Source, request: SlideRequest, space: str) -> Events[np.ndarray]:
    """Where the pictures begin: ws [N, num_ws, w_dim], truncated; or z [N, z_dim] for a direction in z."""
    wide = "z" if space == "z" else "w+"
    if request.latents is None:
        return (yield from source.latents(request.seeds, wide, request.psi if wide == "w+" else 1.0))
    saved = fitted(request.latents, source.row, source.sha256, source.facts)
    if (saved.space == "z") != (space == "z"):
        if space == "z":
            raise BadInput(f"The saved latents are of the space {saved.space}; this direction moves z.")
        jobs = (source.job("map", z=z.astype(np.float64), psi=request.psi, label=source.label) for z in saved.values)
        return np.stack((yield from source.every(jobs, len(saved), "")))
    if space == "z":
        return saved.values
    ws = saved.values if saved.space == "w+" else np.repeat(saved.values[:, None], source.facts["num_ws"], 1)
    if saved.psi == 1 or not saved.seeds:  # a photo's latent is drawn as it is
        return ws
    (mean,) = yield from source.every(
        [source.job("map", z=np.zeros(source.facts["z_dim"]), psi=0.0, label=source.label)], 1, ""
    )
    return truncate(ws, mean[0], saved.psi, saved.cutoff)


def _drawing(source: Source, request: SlideRequest, latent: np.ndarray, seed: int) -> Any:
    if latent.ndim == 1 and source.facts["w_dim"]:  # a direction in z of a generator with w
        return source.job("generate", z=latent.astype(np.float64), label=source.label, psi=request.psi, seed=seed)
    return source.drawing(latent, seed)


def _seed(request: SlideRequest, i: int) -> int:
    seeds = request.seeds if request.latents is None else request.latents.seeds
    return seeds[i] if i < len(seeds) else 0


def _about(
    source: Source, request: SlideRequest, along: Direction, across: Direction | None, i: int, a: float, b: float
) -> tuple[dict[str, Any], str]:
    moves = [{"direction": d if isinstance(d, str) else d.id, "strength": s} for d, s in request.with_]
    moves.append({"direction": along.id, "strength": a})
    moves += [{"direction": across.id, "strength": b}] if across else []
    about = {**_whole(source, request), "moves": moves}
    for name in ("along", "across", "strengths", "across_strengths", "seeds"):
        about.pop(name, None)
    own = {"seed": request.seeds[i]} if request.latents is None else {"index": i}
    name = f"seed{request.seeds[i]:04d}" if request.latents is None else f"latent{i:04d}"
    return {**about, **own}, f"{source.row.id}_{name}_{a:+g}" + (f"_{b:+g}" if across else "")


def _whole(source: Source, request: SlideRequest) -> dict[str, Any]:
    """Provenance of all pictures together."""
    known = [request.along, *([] if request.across is None else [request.across])]
    names = [which if isinstance(which, str) else which.id for which in known]
    how: dict[str, Any] = {"along": names[0], "strengths": list(request.strengths), "psi": request.psi}
    how |= {"across": names[1], "across_strengths": list(request.across_strengths)} if len(names) > 1 else {}
    how |= {"layers": list(request.layers)} if request.layers is not None else {}
    how |= {"label": request.label, "precision": source.facts["precision"]}
    if request.latents is None:
        how["seeds"] = list(request.seeds)
    else:
        how["latents"] = request.latents.digest()
    return provenance("slide", source.row, source.sha256, how)


def _drawn(source: Source, jobs: Sequence[Any], abouts: Sequence[tuple[dict[str, Any], str]]) -> Events[list[Picture]]:
    pictures: list[Picture] = []
    began = time.monotonic()
    with closing(answers_of(source.engine, jobs)) as answers:
        for pixels in answers:
            if pixels is None:
                yield loading(source.engine, source.row)
                continue
            about, name = abouts[len(pictures)]
            pictures.append(imaged(imaging.to_pil(pixels), about, name))
            done = len(pictures)
            left = (len(jobs) - done) * (time.monotonic() - began) / done
            yield Progress(done, len(jobs), f"{done} of {len(jobs)} pictures", pictures[-1], done - 1, left)
    return pictures


def _sheet(request: SlideRequest, along: Direction, across: Direction | None, pictures: list[Picture]) -> Any:
    images = [picture.image for picture in pictures]
    if len(images) == 1:
        return images[0].copy()
    columns = [f"{strength:+g}" if strength else "0" for strength in request.strengths]
    columns[0] = f"{along.title[:20]} {columns[0]}"
    count = len(images) // len(columns)
    if across is None:
        seeds = request.seeds if request.latents is None else range(count)
        rows = [f"{'seed' if request.latents is None else 'latent'} {seed}" for seed in seeds]
    else:
        many = len(request.across_strengths)
        rows = [f"{across.title[:20]} {request.across_strengths[k % many]:+g}" for k in range(count)]
    return imaging.labelled_grid(images, columns, rows)


def _film(source: Source, request: SlideRequest, along: Direction, start: np.ndarray) -> Events[SlideResult]:
    """From the first strength to the last and back, all seeds side by side."""
    there = np.linspace(request.strengths[0], request.strengths[-1], request.frames)
    strengths = np.concatenate([there, there[-2:0:-1]])
    about = {**_whole(source, request), "frames": len(strengths)}
    jobs = (
        _drawing(source, request, move(start[i : i + 1], along, strength, request.layers)[0], _seed(request, i))
        for strength in strengths
        for i in range(len(start))
    )
    assert request.file is not None, "a video has a file"
    writer = imaging.VideoWriter(request.file, request.fps, about)
    frame: list[np.ndarray] = []
    done = 0
    with closing(answers_of(source.engine, jobs)) as answers, writer:
        for pixels in answers:
            if pixels is None:
                yield loading(source.engine, source.row)
                continue
            frame.append(pixels)
            if len(frame) == len(start):
                writer.add(imaging.grid(frame))
                frame, done = [], done + 1
                yield Progress(done, len(strengths), f"{done} of {len(strengths)} frames")
    return SlideResult(request, video=Path(request.file), frames=len(strengths), about=about)
