"""Pictures from a sentence, in three ways.

- `stackgan`: a network that was trained on sentences draws at once, in stages that sharpen.
- `guided`: the latent of any StyleGAN is moved, step by step, until a CLIP finds that its picture fits the sentence.
- `instant`: a CLIP looks at some hundred pictures of a StyleGAN once; for every sentence a line through its latents
  follows by ridge regression, and one step along it makes the picture.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ganhub import imaging
from ganhub.engine import Fit, Job
from ganhub.errors import BadInput, EngineError
from ganhub.latents import Latents, check_seeds, shape_of, z_from_seeds
from ganhub.pipelines._work import PATIENCE, answers_of, gather, imaged, load, loading, provenance
from ganhub.pipelines.requests import PRECISIONS, Picture, Progress, choice, number, whole
from ganhub.pipelines.sentences import checked
from ganhub.registry import Checkpoint, EmbeddedSource, Registry

if TYPE_CHECKING:
    from ganhub.engine import Engine

WAYS = ("stackgan", "guided", "instant")
SPACES = ("w", "w+", "s", "z")
SAMPLES = 512
"""Pictures that a CLIP looks at before it can answer at once."""
RIDGE = 0.02
"""Of the regression, in units of the latents' mean variance."""


@dataclass(frozen=True)
class ImagineRequest:
    """A sentence, and how it becomes pictures.

    Raises:
        BadInput: when made with something that no network can answer.
    """

    checkpoint: str
    text: str
    seeds: Sequence[int] = (0,)
    """One picture each."""
    way: str | None = None
    """`stackgan`, `guided` or `instant`; None is the first that the checkpoint can."""
    noise: bool = True
    """stackgan: draw the sentence's code from its distribution, not its mean."""
    clip: str | None = None
    """guided, instant: which CLIP looks; None is the one that the row names, else the one inside."""
    away: str = ""
    """guided, instant: what it should not look like."""
    steps: int = 60
    lr: float = 0.06
    space: str = "w"
    psi: float = 0.7
    candidates: int = 32
    """guided: pictures that are drawn and looked at first; each seed starts from the best of so many."""
    cutouts: int = 0
    away_weight: float = 0.5
    mean_weight: float = 0.02
    start_weight: float = 0.0
    noise_weight: float = 0.0
    start: Latents | None = None
    """guided: a saved latent to start from, in place of candidates."""
    strength: float = 2.0
    """instant: how far, in standard deviations of what the CLIP says of this network's pictures."""
    preview: int = 10
    """guided: a picture every so many steps; 0 for none."""
    precision: str | None = None
    visitor: str = ""

    task = "imagine"

    def __post_init__(self):
        object.__setattr__(self, "text", checked(self.text))
        if self.away:
            object.__setattr__(self, "away", checked(self.away))
        seeds = tuple(check_seeds(self.seeds))
        if not 1 <= len(seeds) <= 64:
            raise BadInput(f"There are {len(seeds)} seeds; this takes 1 to 64.")
        object.__setattr__(self, "seeds", seeds)
        choice("way", self.way, (*WAYS, None))
        choice("space", self.space, SPACES)
        whole("number of steps", self.steps, 1, 2000, required=True)
        whole("number of candidates", self.candidates, 1, 512, required=True)
        whole("number of cut-outs", self.cutouts, 0, 64, required=True)
        whole("preview", self.preview, 0, 2000, required=True)
        number("learning rate", self.lr, 1e-5, 10)
        number("psi", self.psi, -2, 2)
        number("strength", self.strength, -20, 20)
        for name in ("away_weight", "mean_weight", "start_weight", "noise_weight"):
            number(name.replace("_", " "), getattr(self, name), 0, 100)
        choice("precision", self.precision, (*PRECISIONS, None))

    def parameters(self) -> dict[str, Any]:
        """Everything that decides what the picture looks like, JSON-able."""
        outside = ("checkpoint", "visitor", "start", "seeds", "preview", "precision")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in outside}


@dataclass(frozen=True)
class Formed(Progress):
    """guided: a picture on its way."""

    latent: np.ndarray | None = None
    losses: tuple[tuple[float, ...], ...] = ()
    """Of every step so far, for each picture."""


@dataclass(frozen=True)
class ImagineResult:
    """What a sentence became."""

    request: ImagineRequest
    pictures: list[Picture]
    stages: list[list[Picture]] = field(default_factory=list)
    """stackgan: of each picture, from the smallest on."""
    latents: Latents | None = None
    """guided, instant: of each picture, to go on from."""
    losses: list[list[float]] = field(default_factory=list)
    """guided: of every step, for each picture."""
    scores: list[float] = field(default_factory=list)
    """guided, instant: cosine of picture and sentence, as the CLIP sees them."""
    notes: tuple[str, ...] = ()


def way_of(registry: Registry, row: Checkpoint, way: str | None) -> str:
    """The way that a checkpoint goes.

    Raises:
        BadInput: it cannot go that way, or none.
    """
    ways = ["stackgan"] if "text" in row.task else []
    ways += ["guided", "instant"] if "clip" in row.task else []
    if not ways:
        raise BadInput(f"'{row.id}' draws from no sentence; `ganhub list` shows what does.")
    if way is None:
        return ways[0]
    if way not in ways:
        raise BadInput(f"'{row.id}' cannot go the way '{way}', only {' or '.join(ways)}.")
    return way


def clip_for(registry: Registry, row: Checkpoint, name: str | None = None) -> Checkpoint:
    """The CLIP that looks at a generator's pictures: the one asked for, the row's, else one that is inside.

    Raises:
        BadInput: there is none.
        RegistryError: the name is unknown.
    """
    name = name or row.components.get("clip")
    if name:
        return registry.find(name)
    for other in registry:
        if other.family == "clip" and not other.planned and isinstance(other.source, EmbeddedSource):
            return other
    raise BadInput(f"No CLIP is named for '{row.id}'; name one, such as clip-vit-b-32.")


def imagine(engine: Engine, request: ImagineRequest) -> Generator[Any, None, None]:
    """Progress with pictures as they form, then an ImagineResult.

    Raises:
        GanHubError: a checkpoint cannot be had, or the request does not fit it.
    """
    row = engine.registry.find(request.checkpoint)
    way = way_of(engine.registry, row, request.way)
    yield (yield from {"stackgan": _painted, "guided": _guided, "instant": _instant}[way](engine, request, row))


def _painted(engine: Engine, request: ImagineRequest, row: Checkpoint) -> Generator[Progress, None, ImagineResult]:
    if "text_encoder" not in row.components:
        raise BadInput(f"'{row.id}' names no text encoder; add `components: {{text_encoder: ...}}` to its row.")
    encoder = engine.registry.find(row.components["text_encoder"])
    yield from load(engine, encoder.id, request.precision, request.visitor)
    row, sha256, facts = yield from load(engine, row.id, request.precision, request.visitor)
    embedding = yield from _one(engine, encoder, _job(request, encoder, "read", text=request.text))
    z = z_from_seeds(request.seeds, facts["z_dim"], "normal")
    jobs = [
        _job(request, row, "paint", z=latent, embedding=embedding, seed=seed if request.noise else None)
        for latent, seed in zip(z, request.seeds, strict=True)
    ]
    pictures: list[Picture] = []
    every: list[list[Picture]] = []
    with closing(answers_of(engine, jobs)) as answers:
        for answer in answers:
            if answer is None:
                yield loading(engine, row)
                continue
            seed = request.seeds[len(pictures)]
            about = _about(request, row, sha256, facts, "stackgan", seed, text_encoder=encoder.id)
            stages = [
                imaged(imaging.to_pil(pixels), {**about, "stage": number}, f"{row.id}_seed{seed:04d}_stage{number}")
                for number, pixels in enumerate(answer, 1)
            ]
            last = imaged(imaging.to_pil(answer[-1]), about, f"{row.id}_seed{seed:04d}")
            every.append(stages)
            pictures.append(last)
            done = len(pictures)
            yield Progress(done, len(jobs), f"{done} of {len(jobs)} pictures", last, done - 1)
    return ImagineResult(request, pictures, every, notes=reading(encoder, request.text))


def reading(encoder: Checkpoint, text: str) -> tuple[str, ...]:
    """How a text encoder reads a sentence, in sentences: what it cannot see of it."""
    if encoder.family != "char_cnn_rnn":
        return ()
    from ganhub.models.char_cnn_rnn import LENGTH, encode_text

    _, read = encode_text(text)
    notes = []
    if read.unknown:
        notes.append(f"Not read, because they are no characters of its alphabet: {read.unknown}")
    if read.cut:
        notes.append(f"Only the first {LENGTH} characters are read, up to '{text[LENGTH - 20 : LENGTH]}'.")
    return tuple(notes)


def _guided(engine: Engine, request: ImagineRequest, row: Checkpoint) -> Generator[Progress, None, ImagineResult]:
    eyes, sha256, facts, text, away = yield from _ready(engine, request, row)
    if request.space != "z" and not facts["w_dim"]:
        raise BadInput(f"'{row.id}' has no intermediate latent; choose the space z.")
    shape_of(request.space, facts)
    starts = yield from _starts(engine, request, row, facts, eyes, text)
    pulls = {f"{n}_weight": getattr(request, f"{n}_weight") for n in ("away", "mean", "start", "noise")}
    item = {"text": text, "away": away, "space": request.space, "psi": request.psi, "cutouts": request.cutouts, **pulls}
    label = 0 if facts["c_dim"] else None
    fits = [
        Fit(row.id, "guided", {**item, "start": start, "label": label}, steps=request.steps, lr=request.lr, seed=seed,
            visitor=request.visitor, precision=request.precision, critic=eyes.id, preview=request.preview)
        for start, seed in zip(starts, request.seeds, strict=True)
    ]  # fmt: skip
    waiting, done = list(enumerate(fits)), {}
    running: dict[int, Any] = {}
    losses: list[list[float]] = [[] for _ in fits]
    began = time.monotonic()
    try:
        while waiting or running:
            while waiting:
                try:
                    running[waiting[0][0]] = engine.optimise(waiting[0][1])
                except EngineError as error:
                    if error.code not in ("queue_full", "visitor_limit") or not running:
                        raise
                    break
                waiting.pop(0)
            for index, ticket in list(running.items()):
                ended = ticket.done()  # asked first: whatever it told before its end is looked at once more
                for event in ticket.pending(PATIENCE / len(running)):
                    losses[index].append(event.loss)
                    if event.latent is not None:
                        seed = request.seeds[index]
                        about = _about(request, row, sha256, facts, "guided", seed, clip=eyes.id, step=event.step)
                        name = f"{row.id}_seed{seed:04d}_step{event.step:04d}"
                        drawing = _drawn(engine, request, row, facts, event.latent, about, name)
                        shown = yield from _meanwhile(drawing, _so_far(engine, losses, request, row))
                        steps = sum(map(len, losses))
                        total = request.steps * len(fits)
                        left = (total - steps) * (time.monotonic() - began) / max(steps, 1)
                        speed = steps / (time.monotonic() - began)
                        curves = tuple(map(tuple, losses))
                        words = f"Step {event.step} of {event.steps}"
                        yield Formed(steps, total, words, shown, index, left, speed, event.latent, curves)
                if ended:
                    done[index] = ticket.result()["latent"]
                    del running[index]
            yield _so_far(engine, losses, request, row)
    finally:
        for ticket in running.values():
            ticket.cancel()
    latents = np.stack([done[i] for i in range(len(fits))])
    return (yield from _finished(engine, request, row, sha256, facts, eyes, text, latents, "guided", losses))


def _so_far(engine: Engine, losses: list[list[float]], request: ImagineRequest, row: Checkpoint) -> Progress:
    least = min(map(len, losses))
    words = f"Step {least} of {request.steps}" if least else loading(engine, row).message
    return Progress(sum(map(len, losses)), request.steps * len(losses), words)


def _meanwhile(events: Generator[Progress, None, Picture], shown: Progress) -> Generator[Progress, None, Picture]:
    """What some events lead to, with one progress shown in place of theirs."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value
        yield shown


def _instant(engine: Engine, request: ImagineRequest, row: Checkpoint) -> Generator[Progress, None, ImagineResult]:
    eyes, sha256, facts, text, away = yield from _ready(engine, request, row)
    if not facts["w_dim"]:
        raise BadInput(f"'{row.id}' has no intermediate latent, so there is no line to go along; choose guided.")
    ws, seen = yield from _known(engine, request, row, facts, eyes)
    wanted = text if away is None else text - request.away_weight * away
    step = direction(ws, seen, wanted)
    z = z_from_seeds(request.seeds, facts["z_dim"], facts["z_distribution"])
    label = 0 if facts["c_dim"] else None
    jobs = [_job(request, row, "map", z=latent, psi=request.psi, label=label) for latent in z]
    starts = yield from gather(engine, row, jobs, "Mapping the seeds")
    latents = np.stack([start[0] + request.strength * step for start in starts]).astype(np.float32)
    return (yield from _finished(engine, request, row, sha256, facts, eyes, text, latents, "instant", []))


def direction(ws: np.ndarray, seen: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The step in w that raises the score of a sentence by one standard deviation, staying where latents lie.

    Ridge regression of the scores on the latents; the step is the slope seen through the latents' covariance, so that
    it leads along what varies and not out of it.

    Args:
        ws: latents [N, w_dim].
        seen: features of their pictures [N, D].
        text: features of the sentence [D].
    """
    scores = seen @ text
    centred, target = ws - ws.mean(0), scores - scores.mean()
    covariance = centred.T @ centred / len(ws)
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    slope = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), centred.T @ target / len(ws))
    step = covariance @ slope
    return (step * target.std() / max(float(slope @ step), 1e-12)).astype(np.float32)


_looked: WeakKeyDictionary[Any, dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]] = WeakKeyDictionary()
"""What a CLIP saw in a generator's pictures, of each engine."""


def _known(
    engine: Engine, request: ImagineRequest, row: Checkpoint, facts: dict[str, Any], eyes: Checkpoint
) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray]]:
    known = _looked.setdefault(engine, {})
    if (row.id, eyes.id) not in known:
        z = z_from_seeds(range(SAMPLES), facts["z_dim"], facts["z_distribution"])
        label = 0 if facts["c_dim"] else None
        jobs = [_job(request, row, "map", z=latent, psi=1.0, label=label) for latent in z]
        ws = np.stack((yield from gather(engine, row, jobs, "Learning what this network draws, once")))[:, 0]
        features = yield from _features(engine, request, row, facts, eyes, ws, "Learning what this network draws, once")
        known[row.id, eyes.id] = ws.astype(np.float64), features.astype(np.float64)
    return known[row.id, eyes.id]


def _ready(
    engine: Engine, request: ImagineRequest, row: Checkpoint
) -> Generator[Progress, None, tuple[Checkpoint, str, dict[str, Any], np.ndarray, np.ndarray | None]]:
    """The CLIP, the generator's sha256 and facts, and the features of what is asked for and of what is not."""
    eyes = clip_for(engine.registry, row, request.clip)
    yield from load(engine, eyes.id, request.precision, request.visitor)
    _, sha256, facts = yield from load(engine, row.id, request.precision, request.visitor)
    text = yield from _one(engine, eyes, _job(request, eyes, "read", text=request.text))
    away = None
    if request.away:
        away = yield from _one(engine, eyes, _job(request, eyes, "read", text=request.away))
    return eyes, sha256, facts, text, away


def _starts(
    engine: Engine, request: ImagineRequest, row: Checkpoint, facts: dict[str, Any], eyes: Checkpoint, text: np.ndarray
) -> Generator[Progress, None, list[np.ndarray | None]]:
    """The latent that each seed begins with: the best of its candidates, or the one that was given."""
    if request.start is not None:
        return [_fitting(request.start, request.space, row, facts)] * len(request.seeds)
    if request.candidates == 1 or request.space == "z":
        return [None] * len(request.seeds)
    found: list[np.ndarray | None] = []
    for seed in request.seeds:
        seeds = [(seed + 7919 * n) % 2**32 for n in range(request.candidates)]
        z = z_from_seeds(seeds, facts["z_dim"], facts["z_distribution"])
        label = 0 if facts["c_dim"] else None
        jobs = [_job(request, row, "map", z=latent, psi=request.psi, label=label) for latent in z]
        ws = np.stack((yield from gather(engine, row, jobs, "Looking for a start")))
        features = yield from _features(engine, request, row, facts, eyes, ws[:, 0], "Looking for a start")
        best = ws[int(np.argmax(features @ text))]
        found.append((best[0] if request.space == "w" else best).astype(np.float32))
    return found


def _fitting(start: Latents, space: str, row: Checkpoint, facts: dict[str, Any]) -> np.ndarray:
    latent = start.values[0]
    if start.checkpoint not in ("", row.id, *row.aliases):
        raise BadInput(f"The saved latent belongs to '{start.checkpoint[:60]}', not to '{row.id}'.")
    if (start.space == "z") != (space == "z"):
        raise BadInput(f"The saved latent is of the space {start.space}; choose that space.")
    want = shape_of(start.space if space == "s" else space, facts)
    if space in ("w+", "s") and latent.shape == (facts["w_dim"],):
        want = shape_of("w+", facts)
        latent = np.repeat(latent[None], facts["num_ws"], 0)
    if latent.shape != want:
        raise BadInput(f"The saved latent has the shape {list(latent.shape)}; the space {space} wants {list(want)}.")
    return latent.astype(np.float32)


def _features(
    engine: Engine,
    request: ImagineRequest,
    row: Checkpoint,
    facts: dict[str, Any],
    eyes: Checkpoint,
    ws: np.ndarray,
    words: str,
) -> Generator[Progress, None, np.ndarray]:
    """What a CLIP sees in the pictures of latents [N, w_dim]: [N, D]."""
    wide = np.repeat(ws[:, None], facts["num_ws"], 1).astype(np.float32)
    pictures = yield from gather(engine, row, [_job(request, row, "synthesize", ws=w) for w in wide], words)
    looks = yield from gather(engine, eyes, [_job(request, eyes, "look", pixels=p) for p in pictures], words)
    return np.stack(looks)


def _finished(
    engine: Engine,
    request: ImagineRequest,
    row: Checkpoint,
    sha256: str,
    facts: dict[str, Any],
    eyes: Checkpoint,
    text: np.ndarray,
    latents: np.ndarray,
    way: str,
    losses: list[list[float]],
) -> Generator[Progress, None, ImagineResult]:
    pictures, looks = [], []
    for seed, latent in zip(request.seeds, latents, strict=True):
        about = _about(request, row, sha256, facts, way, seed, clip=eyes.id)
        picture = yield from _drawn(engine, request, row, facts, latent, about, f"{row.id}_seed{seed:04d}")
        pictures.append(picture)
        pixels = np.atleast_3d(np.asarray(picture.image))
        looks.append(_job(request, eyes, "look", pixels=pixels))
        done = len(pictures)
        yield Progress(done, len(latents), f"{done} of {len(latents)} pictures", picture, done - 1)
    seen = yield from gather(engine, eyes, looks, "Looking at the result")
    space = "w" if way == "instant" else request.space
    saved = Latents(space, latents.astype(np.float32), row.id, sha256, seeds=tuple(request.seeds))
    return ImagineResult(request, pictures, [], saved, losses, [float(look @ text) for look in seen])


def _drawn(
    engine: Engine,
    request: ImagineRequest,
    row: Checkpoint,
    facts: dict[str, Any],
    latent: np.ndarray,
    about: dict[str, Any],
    name: str,
) -> Generator[Progress, None, Picture]:
    """The picture of a latent."""
    space = request.space if about["way"] == "guided" else "w"
    job = Job(row.id, *of_latent(space, latent, facts), request.visitor, request.precision)
    pixels = yield from _one(engine, row, job)
    return imaged(imaging.to_pil(pixels), about, name)


def of_latent(space: str, latent: np.ndarray, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Operation and item that draw the picture of a latent."""
    if space == "z":
        return "generate", {"z": latent.astype(np.float64), "label": 0 if facts["c_dim"] else None}
    if space == "s":
        return "synthesize", {"s": latent.astype(np.float32)}
    ws = np.repeat(latent[None], facts["num_ws"], 0) if space == "w" else latent
    return "synthesize", {"ws": ws.astype(np.float32)}


def _about(
    request: ImagineRequest, row: Checkpoint, sha256: str, facts: dict[str, Any], way: str, seed: int, **more: Any
) -> dict[str, Any]:
    how = {**request.parameters(), "way": way, "seed": seed, "precision": facts["precision"], **more}
    if request.start is not None:
        how["start"] = request.start.digest()
    return provenance("imagine", row, sha256, how)


def _job(request: ImagineRequest, row: Checkpoint, operation: str, **item: Any) -> Job:
    return Job(row.id, operation, item, request.visitor, request.precision)


def _one(engine: Engine, row: Checkpoint, job: Job) -> Generator[Progress, None, Any]:
    return (yield from gather(engine, row, [job], ""))[0]
