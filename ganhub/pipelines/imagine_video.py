"""A video from the picture of one sentence to that of another."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ganhub import imaging
from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.latents import Latents, path, z_from_seeds
from ganhub.pipelines._work import answers_of, imaged, load, loading, provenance
from ganhub.pipelines.imagine import ImagineRequest, ImagineResult, imagine, of_latent, way_of
from ganhub.pipelines.requests import Picture, Progress, whole
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

FPS = 30
MOST_FRAMES = 1000
STRIP = 8
"""Pictures in the strip."""


@dataclass(frozen=True)
class BetweenResult:
    """A video, and pictures of its way side by side."""

    file: Path
    frames: int
    strip: Picture
    about: dict[str, Any]
    """Provenance of the whole."""


def between(
    engine: Engine,
    request_a: ImagineRequest,
    request_b: ImagineRequest,
    frames: int,
    file: str | Path,
    known: Latents | None = None,
) -> Generator[Any, None, None]:
    """Progress, then a BetweenResult: an MP4 from the first picture of one request to the first of another.

    A StackGAN goes through the sentences' embeddings and along a great circle through z; what it draws of a sentence's
    distribution stays that of the first seed. The other ways find both pictures, and go straight from one latent to the
    other, or along a great circle in z.

    Args:
        frames: of the video, the two pictures among them; it slows down at both.
        known: the latents that `request_a` was answered with before, so that they need not be found again.

    Raises:
        GanHubError: as `imagine`; BadInput where the requests have not one checkpoint, way and space.
    """
    whole("number of frames", frames, 2, MOST_FRAMES, required=True)
    row = engine.registry.find(request_a.checkpoint)
    way = way_of(engine.registry, row, request_a.way)
    other = engine.registry.find(request_b.checkpoint)
    if row.id != other.id or way != way_of(engine.registry, other, request_b.way) or request_a.space != request_b.space:
        raise BadInput("A video goes from one sentence to another by one checkpoint, one way and one space.")
    a, b = (replace(request, seeds=request.seeds[:1], way=way, preview=0) for request in (request_a, request_b))
    row, sha256, facts = yield from load(engine, row.id, a.precision, a.visitor)
    make = _painted if way == "stackgan" else _along
    jobs = yield from make(engine, row, facts, a, b, frames, known)
    ends = {"seed": a.seeds[0], "to": {**b.parameters(), "seed": b.seeds[0]}, "frames": frames, "fps": FPS}
    about = provenance("imagine_between", row, sha256, {**a.parameters(), **ends, "precision": facts["precision"]})
    shown = set(np.linspace(0, frames - 1, min(STRIP, frames)).round().astype(int).tolist())
    strip: list[Image.Image] = []
    done = 0
    with closing(answers_of(engine, jobs)) as answers, imaging.VideoWriter(file, FPS, about) as writer:
        for answer in answers:
            if answer is None:
                yield Progress(done, frames, f"{done} of {frames} frames") if done else loading(engine, row)
                continue
            image = imaging.to_pil(answer[-1] if way == "stackgan" else answer)
            writer.add(image)
            if done in shown:
                strip.append(image)
            done += 1
            yield Progress(
                done, frames, f"{done} of {frames} frames", Picture(image, about, f"{row.id}_frame"), done - 1
            )
    sheet = imaged(imaging.strip(strip), about, f"{row.id}_between")
    yield BetweenResult(Path(file), frames, sheet, about)


def _painted(
    engine: Engine,
    row: Checkpoint,
    facts: dict[str, Any],
    a: ImagineRequest,
    b: ImagineRequest,
    frames: int,
    known: Latents | None,
) -> Generator[Progress, None, Iterator[Job]]:
    if "text_encoder" not in row.components:
        raise BadInput(f"'{row.id}' names no text encoder; add `components: {{text_encoder: ...}}` to its row.")
    encoder, _, _ = yield from load(engine, row.components["text_encoder"], a.precision, a.visitor)
    embeddings = []
    with closing(answers_of(engine, [_job(a, encoder, "read", text=text) for text in (a.text, b.text)])) as answers:
        for answer in answers:
            if answer is None:
                yield loading(engine, encoder)
            else:
                embeddings.append(answer)
    z = z_from_seeds([a.seeds[0], b.seeds[0]], facts["z_dim"], "normal")
    way_of_z = path(z, frames - 1, method="slerp", easing="smooth")
    way_of_words = path(np.stack(embeddings), frames - 1, easing="smooth")
    seed = a.seeds[0] if a.noise else None
    return (
        _job(a, row, "paint", z=z, embedding=words.astype(np.float32), seed=seed)
        for z, words in zip(way_of_z, way_of_words, strict=True)
    )


def _along(
    engine: Engine,
    row: Checkpoint,
    facts: dict[str, Any],
    a: ImagineRequest,
    b: ImagineRequest,
    frames: int,
    known: Latents | None,
) -> Generator[Progress, None, Iterator[Job]]:
    first = known if known is not None else (yield from _found(engine, a, "The first picture"))
    last = yield from _found(engine, b, "The other picture")
    ends = [latents.values[0].astype(np.float32) for latents in (first, last)]
    if ends[0].shape != ends[1].shape:
        raise BadInput("The two pictures have latents of different spaces; choose one space for both.")
    method = "slerp" if last.space == "z" else "linear"
    way = path(np.stack(ends).astype(np.float64), frames - 1, method=method, easing="smooth")
    return (Job(row.id, *of_latent(last.space, latent, facts), a.visitor, a.precision) for latent in way)


def _found(engine: Engine, request: ImagineRequest, words: str) -> Generator[Progress, None, Latents]:
    """The latents of a request, telling which of the two pictures is looked for."""
    with closing(imagine(engine, request)) as events:
        for event in events:
            if isinstance(event, ImagineResult):
                assert event.latents is not None, "only stackgan has none"
                return event.latents
            yield replace(event, message=f"{words}: {event.message}", picture=None)
    raise AssertionError("a pipeline ends with its result")


def _job(request: ImagineRequest, row: Checkpoint, operation: str, **item: Any) -> Job:
    return Job(row.id, operation, item, request.visitor, request.precision)
