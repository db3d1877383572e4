"""A photo's latent: the point of a StyleGAN's latent space whose picture looks most like it.

What looks alike is told by LPIPS where its networks are on this machine (`ganhub pull lpips-vgg vgg16`), else by the
small features of this project, which the result says.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from ganhub import checkpoint, hub, imaging, models
from ganhub.engine import Fit, Job
from ganhub.errors import BadInput
from ganhub.imaging.mark import mark
from ganhub.latents import Latents, z_from_seeds
from ganhub.pipelines._work import PATIENCE, gather, imaged, load, loading, provenance
from ganhub.pipelines.faces import need_consent
from ganhub.pipelines.requests import PRECISIONS, Picture, Progress, choice, whole
from ganhub.registry import Checkpoint, Registry

if TYPE_CHECKING:
    from ganhub.engine import Engine

SPACES = ("w+", "w")
STARTS = ("nearest", "mean", "seed")
METHODS = ("direct", "nvidia")
STEPS = {"direct": 200, "nvidia": 1000}
RATE = {"direct": 0.1, "nvidia": 0.1}
PSI = 0.7
"""Truncation of the latents that projections start from."""
MOST, LEAST = 2048, 32
"""Sampled latents among which the nearest is sought."""
BUDGET = {"cpu": 1.5e11, "gpu": 1.6e13}
"""Parameters times pixels of the longer side, of all of them: some seconds, and once for each engine. That is what
pictures cost within a factor of two, from 64 pixels and a million parameters to 1024 pixels and 30 million."""
SMALL = 64
"""Side at which the samples are kept."""
SHORTLIST = 128
"""Samples that are near in pixels, of which features choose."""
OTHERS = 16
"""Random pictures whose distances from the photo are told, so that its own means something."""
PIXELS, MEAN = 0.25, 0.025
"""Weights of the pixels and of the pull towards the mean latent, in units of how far random pictures are, because
measures differ in size. The pull costs a twenty-fifth of the distance and halves how much the layers of w+ differ."""


@dataclass(frozen=True)
class ProjectRequest:
    """A photo of which the latent is sought.

    Raises:
        BadInput: when made without consent, or with something that cannot be projected.
    """

    checkpoint: str
    target: Image.Image | np.ndarray
    """The photo, aligned as the generator's pictures are; of any size."""
    consent: bool = False
    """The person in the photo is an adult and agrees."""
    steps: int | None = None
    """None takes 200, or 1000 for the method `nvidia`."""
    space: str = "w+"
    """`w+` finds a latent for every layer and comes nearer; a latent of `w` is one that the generator draws itself."""
    start: str = "nearest"
    """`nearest` of some thousand sampled latents, the `mean`, or that of the `seed`."""
    method: str = "direct"
    """`direct`, or `nvidia`: the published projector, from the mean."""
    features: str | None = None
    """Row of what compares: LPIPS heads, or features; None is lpips-vgg where it is here, else features-small."""
    label: int | None = None
    seed: int = 0
    preview: int = 10
    """A picture every so many steps; 0 for none."""
    mark: bool = True
    """A word in the corner says that the picture is generated."""
    precision: str | None = None
    visitor: str = ""

    task = "project"

    def __post_init__(self):
        need_consent(self.consent)
        choice("space", self.space, SPACES)
        choice("start", self.start, STARTS)
        choice("method", self.method, METHODS)
        whole("number of steps", self.steps, 1, 5000)
        whole("class", self.label, 0, 1_000_000)
        whole("seed", self.seed, 0, 2**32 - 1, required=True)
        whole("preview", self.preview, 0, 5000, required=True)
        choice("precision", self.precision, (*PRECISIONS, None))
        if self.method == "nvidia":
            object.__setattr__(self, "start", "mean")
        if self.steps is None:
            object.__setattr__(self, "steps", STEPS[self.method])

    def parameters(self) -> dict[str, Any]:
        """Everything that decides what comes out, but for the photo, JSON-able."""
        names = ("steps", "space", "start", "method", "label", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Projected(Progress):
    """A picture on its way."""

    latent: np.ndarray | None = None
    """[num_ws, w_dim]."""
    distances: tuple[float, ...] = ()
    """From the photo, of every step so far."""


@dataclass(frozen=True)
class ProjectResult:
    """The latent of a photo, and how near its picture comes."""

    request: ProjectRequest
    latents: Latents
    picture: Picture
    pair: Picture
    """Photo, first and last picture side by side."""
    figures: dict[str, Any]
    """`measure` (what the distances are), `distance`, `rmse` (levels of 255), `start` (distance of the first picture),
    `others` (distances of random pictures: least, median), `steps`, `seconds`."""
    distances: list[float] = field(default_factory=list)
    """Of every step, as the method saw it."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the visitor."""


@dataclass(frozen=True)
class Eyes:
    """What compares two pictures."""

    row: Checkpoint
    heads: np.ndarray | None
    title: str


def eyes_for(registry: Registry, name: str | None = None) -> Eyes:
    """The network that compares, and the weights of its channels.

    Raises:
        BadInput: a row is no such network.
        RegistryError, FetchError, CheckpointError: it cannot be had.
    """
    if name is None:
        heads, trunk = registry.find("lpips-vgg"), registry.find("vgg16")
        name = "lpips-vgg" if hub.status(heads).on_disk and hub.status(trunk).on_disk else "features-small"
    row = registry.find(name)
    if row.family == "features":
        return Eyes(row, None, "distance in small features (no LPIPS)")
    if row.family == "vgg":
        return Eyes(row, None, f"distance in the features of {row.title}")
    if row.family != "lpips" or "features" not in row.components:
        raise BadInput(f"'{row.id}' does not compare pictures; choose lpips-vgg, lpips-alex or features-small.")
    weights = models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family)
    heads_of = [value.flatten() for value in weights.state_dict().values()]
    return Eyes(registry.find(row.components["features"]), np.concatenate(heads_of), f"LPIPS ({row.id[6:]})")


def project(engine: Engine, request: ProjectRequest) -> Generator[Any, None, None]:
    """Progress with pictures as they come nearer (`Projected`), then a `ProjectResult`.

    Raises:
        GanHubError: a checkpoint cannot be had, or the request does not fit it.
    """
    eyes = eyes_for(engine.registry, request.features)
    yield from load(engine, eyes.row.id, request.precision, request.visitor)
    row, sha256, facts = yield from load(engine, request.checkpoint, request.precision, request.visitor)
    if not facts["w_dim"]:
        raise BadInput(f"'{row.id}' has no intermediate latent to project into; choose a StyleGAN.")
    target, notes = brought(request.target, facts["img_size"], facts["img_channels"])
    label = 0 if facts["c_dim"] and request.label is None else request.label
    began = time.monotonic()
    work = _Work(engine, request, row, facts, eyes, target, label)
    known = yield from work.samples()
    others = yield from work.distances(known.shown, target)
    first = yield from work.start(known)
    before = yield from work.draw(first)
    scale = float(np.median(others))
    weights = {"pixel_weight": PIXELS * scale, "mean_weight": MEAN * scale} if request.method == "direct" else {}
    item = {"target": target, "space": request.space, "method": request.method, "heads": eyes.heads, "label": label}
    item |= weights | ({"start": first} if request.start != "mean" else {})
    steps = request.steps or STEPS[request.method]
    lr = RATE[request.method]
    fit = Fit(row.id, "project", item, steps, lr, request.seed, request.visitor, request.precision, None, eyes.row.id,
              request.preview)  # fmt: skip
    about = {**request.parameters(), "features": eyes.row.id, "precision": facts["precision"]}
    latent, told = yield from _followed(work, fit, provenance("project", row, sha256, about))
    pixels = yield from work.draw(latent)
    near = yield from work.distances([before, pixels], target)
    difference = pixels.astype(np.float64) - target
    figures = {
        "measure": eyes.title,
        "distance": round(near[1], 4),
        "rmse": round(float(np.sqrt(np.square(difference).mean())), 2),
        "start": round(near[0], 4),
        "others": {"least": round(min(others), 4), "median": round(float(np.median(others)), 4)},
        "samples": len(known.ws),
        "steps": steps,
        "seconds": round(time.monotonic() - began, 2),
    }
    latents = Latents("w+", latent[None].astype(np.float32), row.id, sha256, label=label)
    whole_about = provenance("project", row, sha256, about | {"figures": figures, "latents": latents.digest()})
    picture = shown(pixels, whole_about, f"{row.id}_projected", request.mark)
    sheet = imaging.labelled_grid([target, before, pixels], ["photo", "start", "found"], [""])
    pair = imaged(mark(sheet) if request.mark else sheet, whole_about, f"{row.id}_projected_pair")
    yield ProjectResult(request, latents, picture, pair, figures, told, notes)


def shown(pixels: np.ndarray, about: dict[str, Any], name: str, marked: bool) -> Picture:
    """A picture with its provenance, and with the mark where it is wanted."""
    image = imaging.to_pil(pixels)
    return imaged(mark(image.convert("RGB")) if marked else image, about, name)


def brought(photo: Image.Image | np.ndarray, size: tuple[int, int], channels: int) -> tuple[np.ndarray, list[str]]:
    """A photo in a generator's size, uint8 [H, W, C], and what was done to it in sentences.

    The largest part of the generator's shape is cut out of the middle; larger photos become smaller by area averaging.
    """
    image = photo if isinstance(photo, Image.Image) else imaging.to_pil(photo)
    image = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, image.width - left, image.height - top)
    notes = []
    if max(left, top) > 0.5:
        notes.append(f"The photo is not {width}:{height}; its middle was taken.")
    if scale < 1:
        notes.append(f"The photo is smaller than the {width}x{height} pixels of the generator, and was enlarged.")
    how = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BOX
    return np.atleast_3d(np.asarray(image.resize((width, height), how, box))), notes


@dataclass(frozen=True)
class Samples:
    """Latents that a generator was asked for, and their pictures."""

    ws: np.ndarray
    """[N, w_dim], truncated."""
    small: np.ndarray
    """uint8 [N, h, w, C], no longer than 64 pixels a side."""
    shown: list[np.ndarray]
    """The first pictures, whole."""


_samples: WeakKeyDictionary[Any, dict[tuple[str, int | None], Samples]] = WeakKeyDictionary()
"""Of each engine, by checkpoint and class."""


@dataclass(frozen=True)
class _Work:
    """What every part of a projection needs."""

    engine: Engine
    request: ProjectRequest
    row: Checkpoint
    facts: dict[str, Any]
    eyes: Eyes
    target: np.ndarray
    label: int | None

    def job(self, row: Checkpoint, operation: str, **item: Any) -> Job:
        return Job(row.id, operation, item, self.request.visitor, self.request.precision)

    def maps(self, seeds: Any, psi: float) -> Generator[Progress, None, np.ndarray]:
        """The truncated w of seeds, [N, w_dim]."""
        z = z_from_seeds(seeds, self.facts["z_dim"], self.facts["z_distribution"])
        jobs = [self.job(self.row, "map", z=latent, psi=psi, label=self.label) for latent in z]
        return np.stack((yield from gather(self.engine, self.row, jobs, "Looking for a start")))[:, 0]

    def samples(self) -> Generator[Progress, None, Samples]:
        """Sampled once for each engine: as many as can be drawn in some seconds."""
        known = _samples.setdefault(self.engine, {})
        key = self.row.id, self.label
        if key not in known:
            budget = BUDGET["cpu" if self.engine.status()["device"] == "cpu" else "gpu"]
            count = int(budget / (self.facts["parameters"] * max(self.facts["img_size"])))
            count = max(LEAST, min(MOST, count))
            ws = yield from self.maps(range(count), PSI)
            size = small_size(self.facts["img_size"])
            small: list[np.ndarray] = []
            whole_ones: list[np.ndarray] = []
            words = f"Looking at {count} pictures of this network, once"
            for begin in range(0, count, 32):  # whole pictures of all would not fit into memory
                wide = np.repeat(ws[begin : begin + 32, None], self.facts["num_ws"], 1).astype(np.float32)
                jobs = [self.job(self.row, "synthesize", ws=w) for w in wide]
                pictures = yield from gather(self.engine, self.row, jobs, words)
                whole_ones += pictures[: max(0, OTHERS - len(whole_ones))]
                small += [brought(picture, size, picture.shape[2])[0] for picture in pictures]
                yield Progress(min(begin + 32, count), count, words)
            known[key] = Samples(ws, np.stack(small), whole_ones)
        return known[key]

    def start(self, known: Samples) -> Generator[Progress, None, np.ndarray]:
        """The latent to begin with, [num_ws, w_dim]."""
        if self.request.start == "mean":
            w = (yield from self.maps([0], 0.0))[0]
        elif self.request.start == "seed":
            w = (yield from self.maps([self.request.seed], PSI))[0]
        else:
            height, width, channels = known.small.shape[1:]
            target, _ = brought(self.target, (height, width), channels)
            apart = np.square(known.small.astype(np.float32) - target).mean((1, 2, 3))
            short = np.argsort(apart)[:SHORTLIST]
            seen = yield from self.distances([known.small[i] for i in short], target)
            w = known.ws[short[int(np.argmin(seen))]]
        return np.repeat(w[None], self.facts["num_ws"], 0).astype(np.float32)

    def draw(self, ws: np.ndarray) -> Generator[Progress, None, np.ndarray]:
        """The picture of a latent."""
        jobs = [self.job(self.row, "synthesize", ws=ws.astype(np.float32))]
        return (yield from gather(self.engine, self.row, jobs, ""))[0]

    def distances(self, pictures: list[np.ndarray], target: np.ndarray) -> Generator[Progress, None, list[float]]:
        """How far pictures are from a target of their size."""
        heads = self.eyes.heads
        jobs = [self.job(self.eyes.row, "differ", pixels=p, target=target, heads=heads) for p in pictures]
        return (yield from gather(self.engine, self.eyes.row, jobs, "Comparing"))


def small_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) with no side longer than 64."""
    shrink = min(1.0, SMALL / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _followed(
    work: _Work, fit: Fit, about: dict[str, Any]
) -> Generator[Progress, None, tuple[np.ndarray, list[float]]]:
    """The latent that a fit ends with, and what it told on its way."""
    engine, row = work.engine, work.row
    ticket = engine.optimise(fit)
    told: list[float] = []
    began = time.monotonic()
    try:
        while True:
            ended = ticket.done()  # asked first: whatever it told before its end is looked at once more
            for event in ticket.pending(PATIENCE):
                told.append(event.loss)
                left = (fit.steps - event.step) * (time.monotonic() - began) / event.step
                words = f"Step {event.step} of {fit.steps}, distance {event.loss:.3f}"
                picture = None
                if event.latent is not None:
                    pixels = yield from work.draw(event.latent)
                    name = f"{row.id}_projected_step{event.step:04d}"
                    picture = shown(pixels, {**about, "step": event.step}, name, work.request.mark)
                speed = event.step / (time.monotonic() - began)
                yield Projected(event.step, fit.steps, words, picture, 0, left, speed, event.latent, tuple(told))
            if ended:
                return ticket.result()["latent"], told
            if not told:
                yield loading(engine, row)
    finally:
        ticket.cancel()
