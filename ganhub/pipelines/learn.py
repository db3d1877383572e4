"""A direction from labels: gathered, learned, proved, and measured on pictures that move along it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

import ganhub
from ganhub import hub
from ganhub.directions import Direction, cosine, move, open_direction, orthogonal, save_direction
from ganhub.errors import BadInput, GanHubError
from ganhub.latents import SPACES, Latents, z_from_seeds
from ganhub.metrics import directions as stats
from ganhub.pipelines._sampling import Events, Source, opened
from ganhub.pipelines._work import load
from ganhub.pipelines.generate import fitted
from ganhub.pipelines.imagine import clip_for
from ganhub.pipelines.labels import Attribute, Marked, Piles, Sentences, attributes_of
from ganhub.pipelines.requests import PRECISIONS, Picture, Progress, choice, number, whole
from ganhub.pipelines.sentences import checked
from ganhub.registry import Checkpoint, Registry, added_file, append_row, home, make_row

if TYPE_CHECKING:
    from ganhub.engine import Engine

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Where the effect is measured."""
FAINT = 0.05
"""Standard deviations that a step changes an attribute by, below which it counts as unchanged."""
MOST_STRETCH = 6.0
"""How much longer or shorter a step becomes than the distance of the labelled latents, at most."""
FEATURES = "features-small"
"""Row of the features that tell how much of a picture stays."""


@dataclass(frozen=True)
class LearnRequest:
    """What is to be learned, of which generator, from which labels.

    Raises:
        BadInput: when made with something that cannot be learned.
    """

    checkpoint: str
    name: str
    """What the direction is called: `Sunglasses`."""
    source: Marked | Sentences | Attribute | Piles
    space: str | None = None
    """`z`, `w` or `w+`; None is w where the generator has one, or the space of the saved latents."""
    layers: tuple[int, int] | None = None
    """w+: learn from these layers only, first and last; in w the slider moves these only."""
    method: str = "svm"
    still: Sequence[str] = ()
    """Ids of directions that it is made independent of."""
    samples: int = 2000
    """Sentences, Attribute: pictures that are drawn and scored."""
    keep: float = 0.3
    """Share of the scored pictures that is learned from, on either side."""
    effect: int = 24
    """Pictures that its effect is measured on; 0 for none."""
    seed: int = 0
    """Of the samples, and of everything that is shuffled."""
    label: int | None = None
    precision: str | None = None
    visitor: str = ""

    task = "learn"

    def __post_init__(self):
        object.__setattr__(self, "name", checked(self.name)[:60])
        choice("space", self.space, (*SPACES, None))
        choice("method", self.method, stats.METHODS)
        choice("precision", self.precision, (*PRECISIONS, None))
        whole("number of samples", self.samples, 50, 20_000, required=True)
        whole("number of pictures", self.effect, 0, 256, required=True)
        whole("seed", self.seed, 0, 2**31)
        number("share that is kept", self.keep, 0.01, 0.5)
        if self.layers is not None:
            first, last = self.layers
            whole("first layer", first, 0, 63, required=True)
            whole("last layer", last, first, 63, required=True)
        if isinstance(self.source, Sentences):
            texts = {"text": checked(self.source.text), "against": checked(self.source.against)}
            object.__setattr__(self, "source", replace(self.source, **texts))


@dataclass(frozen=True)
class Judge:
    """What scores pictures: what a network sees in them, times a vector."""

    title: str
    network: str
    vector: np.ndarray
    agreement: float | None = None
    """AUC, where it was itself learned from the labelled pictures."""

    def scores(self, seen: np.ndarray) -> np.ndarray:
        return seen @ self.vector


@dataclass(frozen=True)
class Effect:
    """What moving along a direction does, as means over some pictures."""

    strengths: tuple[float, ...]
    attribute: str
    """Title of the first line."""
    lines: dict[str, list[float]]
    """Change of each score against strength 0, in standard deviations of it among this generator's pictures."""
    likeness: list[float]
    """1: the features are those of the unmoved picture; 0: as far from them as another picture's."""
    judge: str
    """What scored the attribute, in words."""

    def figures(self) -> dict[str, Any]:
        rounded = {name: [round(v, 3) for v in values] for name, values in self.lines.items()}
        likeness = [round(v, 3) for v in self.likeness]
        return {"strengths": list(self.strengths), "change": rounded, "likeness": likeness, "judge": self.judge}


@dataclass(frozen=True)
class LearnResult:
    """A direction, with everything that speaks for and against it."""

    request: LearnRequest
    direction: Direction
    row: Checkpoint
    """As it will stand in a registry; its source is the file that `keep` writes."""
    learned: stats.Learned
    effect: Effect | None
    strip: Picture | None
    """Pictures along the direction, a seed a line."""
    notes: tuple[str, ...] = ()


def learn(engine: Engine, request: LearnRequest) -> Generator[Any, None, None]:
    """Progress, then a LearnResult.

    Raises:
        BadInput: the labels are too few, one-sided, contradictory, or could be chance.
        GanHubError: a checkpoint cannot be had, or the request does not fit it.
    """
    source = yield from opened(engine, request.checkpoint, request.label, request.precision, request.visitor)
    notes: list[str] = []
    latents, labels, judge, origin = yield from _gathered(source, request, notes)
    space = _space(source, request)
    first, last = _layers(source, request, space)
    x = latents[:, first : last + 1] if space == "w+" else latents
    yield Progress(0, 0, f"Learning from {len(x)} latents")
    learned = stats.learn(x, labels, request.method, request.seed)
    vector = learned.vector
    if space == "w+":
        vector = np.zeros(latents.shape[1:])
        vector[first : last + 1] = learned.vector
    others = yield from _known(source, space)
    still = [_found(others, name, source) for name in request.still]
    if still:
        flat = [np.broadcast_to(other.vector, vector.shape).ravel() for other in still]
        vector = orthogonal(vector.ravel(), flat).reshape(vector.shape)
    between = (latents[labels == 1].mean(0) - latents[labels == 0].mean(0)) / 2
    direction = _direction(source, request, space, vector, between)
    cosines = {other.id: round(cosine(direction, other), 3) for other in others}
    direction.card.update(
        made_by=f"ganhub {ganhub.__version__}", checkpoint=source.row.id, labels=origin, **learned.figures()
    )
    direction.card.update(cosines=cosines, independent_of=[other.id for other in still])
    if still:  # the figures are those of the direction before; this is how well what is left still tells them apart
        along = (latents * direction.vector).reshape(len(latents), -1).sum(1)
        direction.card["auc_left"] = round(stats.area(along, labels == 1), 4)
    effect = strip = None
    if request.effect:
        if judge is None:
            judge = yield from _judge(source, request, latents, labels)
        direction, effect, words = yield from _calibrated(source, request, direction, judge)
        notes += words
        direction.card["effect"] = effect.figures()
        strip = yield from _strip(source, request, direction)
    yield LearnResult(
        request, direction, row_of(direction, source.row), learned, effect, strip, (*notes, *learned.notes)
    )


def _space(source: Source, request: LearnRequest) -> str:
    if request.space:
        return request.space
    if isinstance(request.source, Marked) and request.source.latents is not None:
        return request.source.latents.space
    return source.space


def _layers(source: Source, request: LearnRequest, space: str) -> tuple[int, int]:
    most = source.facts["num_ws"] - 1
    if request.layers is None:
        return 0, max(most, 0)
    if space == "z" or request.layers[1] > most:
        there = f"has the layers 0 to {most}" if space != "z" else "is moved in z, which has no layers"
        raise BadInput(f"'{source.row.id}' {there}; choose others.")
    return request.layers


# Labels


def _gathered(
    source: Source, request: LearnRequest, notes: list[str]
) -> Events[tuple[np.ndarray, np.ndarray, Judge | None, str]]:
    """Latents in the space of the request, labels 0 and 1, whoever scored them, and their origin in words."""
    given, space = request.source, _space(source, request)
    if isinstance(given, Piles):
        from ganhub.pipelines.piles import projected

        found, labels = yield from projected(source, given, space, notes)
        words = f"photos, {int(labels.sum())} with and {int((~labels).sum())} without, projected"
        return found, labels.astype(int), None, words
    if isinstance(given, Marked):
        if given.latents is None:
            latents = yield from source.latents(given.seeds, space)
        else:
            saved = fitted(given.latents, source.row, source.sha256, source.facts)
            latents = yield from _saved(source, saved, space)
        values = np.asarray(given.values, np.float64)
        if not given.is_scores:
            return latents, values.astype(int), None, given.origin
        places, labels = stats.top_and_bottom(values, request.keep)
        return latents[places], labels, None, f"{given.origin}, the highest and lowest of {len(values)} scores"
    judge = yield from _scorer(source, given)
    seeds = [(request.seed + n) % 2**32 for n in range(request.samples)]
    latents = yield from source.latents(seeds, space, words="Drawing latents")
    seen = yield from _looked(source, request, seeds, judge.network)
    places, labels = stats.top_and_bottom(judge.scores(seen), request.keep)
    return latents[places], labels, judge, f"{judge.title}, the highest and lowest of {request.samples} pictures"


_memory: WeakKeyDictionary[Any, dict[Any, np.ndarray]] = WeakKeyDictionary()
"""What networks saw in the samples, of each engine: another attribute or sentence needs no second look."""
MOST_REMEMBERED = 8


def _looked(source: Source, request: LearnRequest, seeds: list[int], network: str) -> Events[np.ndarray]:
    known = _memory.setdefault(source.engine, {})
    key = (source.row.id, source.sha256, network, request.samples, request.seed, request.label, request.precision)
    if key not in known:
        drawn = yield from source.latents(seeds, source.space)
        (seen,) = yield from source.looks(drawn, [network], f"Looking at {request.samples} pictures")
        known[key] = seen
        for old in list(known)[:-MOST_REMEMBERED]:
            known.pop(old, None)
    return known[key]


def _saved(source: Source, saved: Latents, space: str) -> Events[np.ndarray]:
    if (saved.space == "z") == (space == "z"):
        return _into(saved.values, space)
    if space == "z":
        raise BadInput(f"The saved latents are of the space {saved.space}, so z cannot be learned from them.")
    jobs = (source.job("map", z=z.astype(np.float64), psi=1.0, label=source.label) for z in saved.values)
    return _into(np.stack((yield from source.every(jobs, len(saved), "Mapping the latents"))), space)


def _into(values: np.ndarray, space: str) -> np.ndarray:
    if space == "w" and values.ndim == 3:
        return values.mean(1)
    if space == "w+" and values.ndim == 2:
        raise BadInput("These latents are the same in each layer; learn in the space w.")
    return values


def _scorer(source: Source, given: Sentences | Attribute) -> Events[Judge]:
    registry = source.engine.registry
    if isinstance(given, Attribute):
        row = registry.find(given.network)
        names = list(row.config.get("attributes", ()))
        if row.family != "attributes" or given.name not in names:
            raise BadInput(f"'{row.id}' says nothing of '{given.name[:40]}'; it knows {', '.join(names) or 'nothing'}.")
        return Judge(f"{given.name} by {row.id}", row.id, np.eye(len(names))[names.index(given.name)])
    eyes = clip_for(registry, source.row, given.clip)
    yield from load(source.engine, eyes.id, source.precision, source.visitor)
    jobs = [source.job("read", eyes, text=text) for text in (given.text, given.against)]
    one, other = yield from source.every(jobs, 2, "")
    return Judge(f"'{given.text}' against '{given.against}' by {eyes.id}", eyes.id, (one - other).astype(np.float64))


def _judge(source: Source, request: LearnRequest, latents: np.ndarray, labels: np.ndarray) -> Events[Judge]:
    """Who scores pictures where labels are all there is: the small features of the labelled pictures, told apart."""
    chosen = np.random.RandomState(request.seed).permutation(len(latents))[:400]
    drawn = latents[chosen]
    if source.facts["w_dim"] and latents.ndim == 2 and _space(source, request) == "z":
        jobs = (source.job("map", z=z, psi=1.0, label=source.label) for z in drawn.astype(np.float64))
        drawn = np.stack((yield from source.every(jobs, len(drawn), "")))[:, 0]
    (seen,) = yield from source.looks(drawn, [FEATURES], "Looking at the labelled pictures")
    try:
        learned = stats.learn(seen, labels[chosen], "logistic", request.seed)
    except BadInput:  # the features are blind to it: then they say nothing, which the figures show
        between = seen[labels[chosen] == 1].mean(0) - seen[labels[chosen] == 0].mean(0)
        return Judge("the labelled pictures, which the small features cannot tell apart", FEATURES, between, 0.5)
    words = f"the labelled pictures in small features (AUC {learned.auc:.2f})"
    return Judge(words, FEATURES, learned.vector, learned.auc)


# Known directions


def _known(source: Source, space: str) -> Events[list[Direction]]:
    """Every direction of this generator that is here, or small enough to be fetched on the way."""
    found = []
    row = source.row.model_copy(update={"sha256": source.sha256 or None})
    for known in source.engine.registry.directions_for(row, source.facts["w_dim"] or None):
        if not hub.status(known).on_disk:
            continue
        try:
            direction = open_direction(source.engine.registry, known.id, row, source.facts["w_dim"] or None)
        except GanHubError:
            continue  # a damaged file of another direction is no reason not to learn this one
        if (direction.space == "z") == (space == "z"):
            found.append(direction)
    yield Progress(0, 0, "Comparing with known directions")
    return found


def _found(others: list[Direction], name: str, source: Source) -> Direction:
    for other in others:
        if other.id == name:
            return other
    known = ", ".join(other.id for other in others) or "none yet"
    raise BadInput(
        f"'{name[:60]}' is no direction of '{source.row.id}' that is here; there are {known}. "
        "`ganhub pull ID` fetches one."
    )


# The direction


def slug(name: str) -> str:
    """A name as part of an id: `Dark glasses!` -> `dark-glasses`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "direction"


def _direction(source: Source, request: LearnRequest, space: str, vector: np.ndarray, between: np.ndarray) -> Direction:
    unit = float((between * vector).sum()) / float((vector**2).sum())  # where a vector of length 1 is what is kept
    unit *= float(np.sqrt((vector**2).sum(-1).mean()))
    if unit <= 0:
        raise BadInput("Nothing of the attribute is left once the others are held still; hold fewer of them still.")
    return Direction(
        id=f"direction-{source.row.id}-{slug(request.name)}",
        title=request.name,
        space=space,
        vector=vector,
        unit=unit,
        layers=request.layers,
        generator=belonging(source, space),
    )


def belonging(source: Source, space: str) -> dict[str, Any]:
    """Whose direction it is: as much of the generator as is known."""
    row, w_dim = source.row, source.facts["w_dim"]
    generator: dict[str, Any] = {"family": row.family, "dataset": row.dataset, "space": space}
    generator |= {"w_dim": w_dim} if w_dim else {}
    generator |= {"resolution": row.resolution} if isinstance(row.resolution, int) else {}
    return generator | ({"sha256": source.sha256} if source.sha256 else {})


def row_of(direction: Direction, generator: Checkpoint, file: str | Path = "") -> Checkpoint:
    """The row of a direction, whose licence is that of the generator that it was learned from."""
    card = direction.card
    words = f"From {card['labels']}. " if card.get("labels") else ""
    if "accuracy" in card:
        words += f"Held-out accuracy {card['accuracy']:.0%}, AUC {card['auc']:.2f}."
    entry = {
        "id": direction.id,
        "task": ["direction"],
        "family": generator.family,
        "source": {"path": str(file or f"{direction.id}.safetensors")},
        "config": {"attribute": direction.title} | ({"layers": list(direction.layers)} if direction.layers else {}),
        "generator": direction.generator,
        "title": direction.title,
        "description": words.strip()[:1000],
        "license": generator.license,
        "commercial_use": generator.commercial_use,
        "credit": generator.credit,
        "dataset": generator.dataset,
    }
    return make_row(entry, f"{direction.id}.yaml")


def keep(direction: Direction, generator: Checkpoint, registry: Registry, file: Path | None = None) -> Checkpoint:
    """Save a direction with the owner's, so that it is offered wherever its generator is; its row.

    Args:
        registry: takes the row at once.
        file: registry file that takes it; the one that `ganhub add` writes by default.

    Raises:
        RegistryError: a row has this id already, or the registry file cannot be written.
        BadInput: the file cannot be written.
    """
    file = file or added_file()
    target = home() / "directions" / f"{direction.id}.safetensors"
    row = row_of(direction, generator, target)
    registry.add(row)
    try:
        save_direction(direction, target)
        append_row(file, row)
    except GanHubError:
        registry.remove(row.id)
        raise
    return row


# What it does


def measure(source: Source, direction: Direction, count: int, judge: Judge, seed: int = 0) -> Events[Effect]:
    """Scores of pictures that move along a direction: of the attribute, of all others known, and how alike they stay.

    Pictures are truncated by 0.7 where the generator can, as people look at them.
    """
    others = attributes_of(source.engine.registry, source.row)
    judges = [judge]
    for other in others:
        scorer = yield from _scorer(source, other)
        if scorer.network != judge.network or not np.array_equal(scorer.vector, judge.vector):
            judges.append(replace(scorer, title=other.name))
    networks = list(dict.fromkeys([*(j.network for j in judges), FEATURES]))
    start = yield from _starts(source, direction.space, count, seed)
    moved = [move(start, direction, strength) for strength in STRENGTHS]
    stack = np.concatenate(moved) if start.ndim == 3 or not source.facts["w_dim"] else None
    if stack is None:  # a direction in z of a generator with w
        z = np.concatenate(moved)
        jobs = (source.job("map", z=one, psi=0.7, label=source.label) for one in z)
        stack = np.stack((yield from source.every(jobs, len(z), "")))
    seen = dict(zip(networks, (yield from source.looks(stack, networks, "Measuring its effect")), strict=True))
    middle = STRENGTHS.index(0.0)
    lines = {}
    for each in judges:
        scores = each.scores(seen[each.network]).reshape(len(STRENGTHS), count)
        spread = max(float(scores[middle].std()), 1e-9)
        lines[each.title] = [float(v) for v in (scores - scores[middle]).mean(1) / spread]
    features = seen[FEATURES].reshape(len(STRENGTHS), count, -1)
    apart = np.linalg.norm(features - features[middle], axis=2).mean(1)
    strangers = np.linalg.norm(features[middle] - np.roll(features[middle], 1, 0), axis=1).mean()
    likeness = [float(1 - a / max(float(strangers), 1e-9)) for a in apart]
    return Effect(STRENGTHS, judge.title, lines, likeness, judge.title)


def _calibrated(
    source: Source, request: LearnRequest, direction: Direction, judge: Judge
) -> Events[tuple[Direction, Effect, list[str]]]:
    """The direction with a step that moves the attribute by one standard deviation, as far as that goes; its effect."""
    effect = yield from measure(source, direction, request.effect, judge, request.seed)
    change = effect.lines[effect.attribute]
    middle = STRENGTHS.index(0.0)
    slope = (change[middle + 1] - change[middle - 1]) / 2
    if slope < FAINT:
        return direction, effect, [f"The pictures hardly change along it, as {judge.title} sees them."]
    factor = float(np.clip(1 / slope, 1 / MOST_STRETCH, MOST_STRETCH))
    if abs(factor - 1) < 0.2:
        return direction, effect, []
    direction = replace(direction, unit=direction.unit * factor)
    effect = yield from measure(source, direction, request.effect, judge, request.seed)
    return direction, effect, []


def _starts(source: Source, space: str, count: int, seed: int) -> Events[np.ndarray]:
    """Latents that are moved: ws [N, num_ws, w_dim] truncated by 0.7, or z."""
    seeds = [(seed + 10**6 + n) % 2**32 for n in range(count)]  # none that was learned from
    if space == "z":
        return z_from_seeds(seeds, source.facts["z_dim"], source.facts["z_distribution"])
    return (yield from source.latents(seeds, "w+", psi=0.7))


def _strip(source: Source, request: LearnRequest, direction: Direction) -> Events[Picture]:
    from ganhub.pipelines.slide import SlideRequest, slide

    asked = SlideRequest(
        source.row.id, direction, seeds=range(4), strengths=STRENGTHS, label=request.label, psi=0.7,
        precision=request.precision, visitor=request.visitor,
    )  # fmt: skip
    for event in slide(source.engine, asked):
        if isinstance(event, Progress):
            yield replace(event, picture=None)
        else:
            return event.grid
    raise AssertionError("a pipeline ends with its result")
