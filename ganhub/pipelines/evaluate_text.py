"""How well a generator listens to sentences: is it the fruit, the colour, the half that was asked for, and is it new.

Asked for is every kind of the set in every colour that its captions name, whole or cut open, in the words of the
captions; combinations that no caption of the training has are told apart. What is seen in a drawn picture is told by
what had no part in its making: a classifier of the pictures that trainings hold out, and the namer of colours
(`ganhub.data.describe`). Beside every figure stands what real pictures reach, and what pictures of other sentences do.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import ganhub
from ganhub import imaging
from ganhub.data.captions import CaptionedSet
from ganhub.data.describe import COLOURS, Body, Seen
from ganhub.data.recolour import PAINTS, recoloured
from ganhub.data.sentences import _NEVER_GREEN, CLUSTERS, colours_in, look_at, sentences, without_kind
from ganhub.errors import BadInput
from ganhub.metrics import distances, snapshots
from ganhub.metrics.features import Features, load_features
from ganhub.pipelines._work import load
from ganhub.pipelines.generate import GenerateRequest, generate
from ganhub.pipelines.imagine import WAYS, ImagineRequest, clip_for, imagine, way_of
from ganhub.pipelines.requests import PRECISIONS, Progress, choice, whole

if TYPE_CHECKING:
    from ganhub.engine import Engine

HOLD_OUT = 10
"""Trainings keep every so many-th picture apart, by default."""
LEAST_KIND, LEAST_COLOUR = 60, 20
"""Pictures from which on a kind, and a colour of whole or of cut fruit, is asked for."""
FOLDS = 5
PAINTED = 5
"""Other colours in which the second classifier of kinds sees every held-out picture."""
MARKS = "fruit by cross-validation, the mean over the kinds; colour as it is named with noise and compression"
ROWS, SEEDS = 30, 4
"""Sentences on a sheet, and pictures of each."""

_CUT = re.compile(r"\b(cut|half|inside)\b")
_HUE = "|".join(sorted(COLOURS, key=len, reverse=True))
_FLESH = re.compile(rf"\b((?:(?:{_HUE}) and )?(?:{_HUE})) flesh|flesh of the cut .* is (.*)$")


@dataclass(frozen=True)
class Ask:
    """One sentence, and what it asks for.

    Args:
        cut: cut open, or whole; None for kinds that are shown in clusters.
        seen: a caption of the training names this colour of this kind.
    """

    kind: str
    colour: str
    cut: bool | None
    seen: bool
    sentence: str


@dataclass(frozen=True)
class EvaluateTextRequest:
    """A checkpoint that draws from sentences, and a set with captions."""

    checkpoint: str
    data: CaptionedSet
    way: str | None = None
    """`stackgan`, `guided` or `instant`; None is the first that the checkpoint can."""
    count: int | None = None
    """Sentences, a picture each; None is 500, and 50 for guided and instant, which take longer."""
    sheet: bool = False
    """Also draw 30 sentences four times."""
    precision: str | None = None
    visitor: str = ""

    task = "evaluate"

    def __post_init__(self):
        choice("way", self.way, (*WAYS, None))
        choice("precision", self.precision, (*PRECISIONS, None))
        whole("number of sentences", self.count, distances.LEAST, 100_000)


@dataclass(frozen=True)
class EvaluateTextResult:
    """What was measured.

    Attributes:
        about: checkpoint, sha256, way, sentences, kinds, set and its sha256, version.
        figures: of `all` sentences, of `seen` and `unseen` combinations, and of pictures held against the sentences of
            `others`: sentences, and the shares of them whose picture is of the right fruit, colour and state (cut);
            nearest_... is the distance to the nearest picture of the training.
        real: what held-out pictures reach: fruit (cross-validation, mean over the kinds; `fruit_of_pictures`: over
            the pictures; `fruit_recoloured`: in other colours; `fruit_any_colour...`: the same of the classifier that
            has seen such), colour (named alike with noise and compression), and
            how near they are to the training.
        above: guided and instant: by how many standard deviations of random pictures' scores the pictures are above
            those: `fruit` by the classifier's log-probability of the kind, `colour` by how often it is there; and the
            shares of the random pictures.
        sheet: None where it was not asked for.
    """

    request: EvaluateTextRequest
    about: dict[str, Any]
    figures: dict[str, dict[str, float]]
    real: dict[str, float]
    above: dict[str, float]
    sheet: Image.Image | None = field(repr=False)

    def line(self) -> dict[str, Any]:
        """All of it as JSON; `metrics` has the figures that a row of the registry names."""
        metrics = {f"{name}_right": self.figures["all"][name] for name in ("fruit", "colour")}
        metrics |= {f"{name}_above_random": self.above[name] for name in ("fruit", "colour") if name in self.above}
        line = {**self.about, **self.figures["all"], "metrics": metrics}
        line |= {name: figures for name, figures in self.figures.items() if name != "all"}
        return line | {"real": self.real} | ({"above_random": self.above} if self.above else {})


def evaluate_text(engine: Engine, request: EvaluateTextRequest) -> Generator[Any, None, None]:
    """Progress, then an EvaluateTextResult.

    Raises:
        GanHubError: a checkpoint cannot be had or draws from no sentence, or the set does not fit it.
    """
    data, row = request.data, engine.registry.find(request.checkpoint)
    way = way_of(engine.registry, row, request.way)
    count = request.count or (500 if way == "stackgan" else 50)
    asked = asks(data, count)
    row, sha256, facts = yield from load(engine, row.id, request.precision, request.visitor)
    snapshots.check_size(data, facts["img_size"], f"'{row.id}'")
    features = load_features("small", engine.registry).to(engine.device)

    real = _Real(data, features)
    yield from real.reading()
    first = ImagineRequest(row.id, asked[0].sentence, way=way, precision=request.precision, visitor=request.visitor)
    wanted = [replace(first, text=ask.sentence, seeds=(i,)) for i, ask in enumerate(asked)]
    pictures = yield from _drawn(engine, wanted, "sentences")
    fake = features(np.stack(pictures))
    right = yield from _right(real, asked, pictures, fake, "drawn pictures looked at")
    near = real.nearest(fake)
    known = np.array([ask.seen for ask in asked])
    figures = {
        name: _figures(right, near, chosen)
        for name, chosen in (("all", known | True), ("seen", known), ("unseen", ~known))
        if chosen.any()
    }
    # Against the sentence of another picture: what hearing nothing would reach.
    order = np.random.RandomState(1).permutation(count)
    others = [asked[i] for i in np.roll(order, 1)[np.argsort(order)]]
    apart = yield from _right(real, others, pictures, fake, "pictures held against other sentences")
    figures["others"] = _figures(apart, None, known | True)
    above = {}
    if way != "stackgan":
        above = yield from _above(engine, request, facts, real, features, asked, fake, right["colour"])
    sheet = (yield from _sheet(engine, wanted)) if request.sheet else None
    look = {"text_encoder": row.components.get("text_encoder")}
    if way != "stackgan":
        look = {"clip": clip_for(engine.registry, row).id}
    about = {
        "checkpoint": row.id, "sha256": sha256, "way": way, **look, "precision": facts["precision"],
        "features": features.name, "kinds": real.kinds,
        "data": {"name": data.name, "sha256": data.sha256, "pictures": len(real.trained) + len(real.held)},
        "ganhub": ganhub.__version__,
    }  # fmt: skip
    yield EvaluateTextResult(request, about, figures, real.figures, above, sheet)


def asks(data: CaptionedSet, count: int, seed: int = 0) -> list[Ask]:
    """Sentences that ask for every combination equally often, in a random order, each time in other words.

    Raises:
        BadInput: the set has no kinds, or its captions name no colours.
    """
    kinds = kinds_of(data)
    named_of = [(data.classes[data.labels[i]], said(data, i)) for i in range(len(data)) if i % HOLD_OUT]  # type: ignore[index]
    known = {(kind, *one) for kind, colours in named_of for one in colours}
    total = {(colour, cut): 0 for colour in COLOURS for cut in (False, True)}
    for kind, colours in named_of:
        for one in colours if kind in kinds else ():
            total[one] += 1
    able = []
    for kind in kinds:
        for (colour, cut), pictures in total.items():
            if pictures < LEAST_COLOUR or (colour == "green" and kind in _NEVER_GREEN) or (kind in CLUSTERS and cut):
                continue
            words = wordings(kind, colour, cut)
            if words:
                state = None if kind in CLUSTERS else cut
                able.append([Ask(kind, colour, state, (kind, colour, cut) in known, sentence) for sentence in words])
    if not able:
        raise BadInput(
            f"The captions of {data.path} name no colour of {LEAST_COLOUR} pictures; write them with `ganhub data "
            "captions`."
        )
    rng = np.random.RandomState(seed)
    found: list[Ask] = []
    while len(found) < count:
        found += [able[i][rng.randint(len(able[i]))] for i in rng.permutation(len(able))]
    return found[:count]


def kinds_of(data: CaptionedSet) -> list[str]:
    """The kinds that are asked for.

    Raises:
        BadInput: there are not two of them.
    """
    if data.labels is None or data.labels.ndim != 1 or data.channels != 3:
        raise BadInput(
            f"{data.path} needs pictures in colour with classes; make it with `ganhub data prepare --label`."
        )
    every, held = (
        np.bincount(labels, minlength=len(data.classes)) for labels in (data.labels, data.labels[::HOLD_OUT])
    )
    kinds = [kind for kind, n, apart in zip(data.classes, every, held, strict=True) if n >= LEAST_KIND and apart > 1]
    if len(kinds) < 2:
        raise BadInput(f"{data.path} has fewer than two kinds of {LEAST_KIND} pictures, too few to tell kinds apart.")
    return kinds


def said(data: CaptionedSet, i: int) -> set[tuple[str, bool]]:
    """Colours that the captions of a picture name: of flesh (True), and of anything else (False)."""
    kind = data.classes[data.labels[i]]  # type: ignore[index]
    found = set()
    for caption in data.captions[i]:
        words = without_kind(caption, kind)
        flesh = " ".join(filter(None, (part for match in _FLESH.finditer(words) for part in match.groups())))
        found |= {(colour, True) for colour in colours_in(flesh)}
        found |= {(colour, False) for colour in colours_in(_FLESH.sub("", words))}
    return found


def wordings(kind: str, colour: str, cut: bool) -> list[str]:
    """All sentences that ask for a fruit of this colour as captions do; none where they would not name it."""
    seen = Seen((Body((colour,), None, cut, None, 0.2),), (colour,), False, False, False)
    every = sentences(kind, seen, np.random.RandomState(0), count=100)
    return [one for one in every if colour in without_kind(one, kind) and bool(_CUT.search(one)) == cut]


def named(ask: Ask, seen: Seen) -> set[str]:
    """Colours of what was asked for: of the fruits in the right state where there are any, else of all."""
    if ask.cut is None:
        return set(seen.colours)
    fitting = [body for body in seen.bodies if body.cut in (ask.cut, None)] or seen.bodies
    return {colour for body in fitting for colour in body.colours}


def _state(ask: Ask, seen: Seen) -> float:
    """Whether something is cut, or whole, as asked for; NaN where that was not asked."""
    return np.nan if ask.cut is None else float(any(body.cut is ask.cut for body in seen.bodies))


def _figures(right: dict[str, np.ndarray], near: np.ndarray | None, chosen: np.ndarray) -> dict[str, float]:
    figures: dict[str, float] = {"sentences": int(chosen.sum())}
    for name, values in right.items():
        asked = values[chosen].astype(float)
        asked = asked[~np.isnan(asked)]
        if len(asked):
            figures[name] = float(asked.mean())
    return figures | ({} if near is None else _nearness(near[chosen]))


def _nearness(distance: np.ndarray) -> dict[str, float]:
    return {key: value for key, value in snapshots.nearness(distance, distance).items() if not key.startswith("real_")}


class _Real:
    """The real pictures of the kinds; there once `reading` is through.

    Attributes:
        classifier: of kinds by features, fitted to the held-out pictures.
        any_colour: fitted to the same and, a third of the weight each time, what they are in other colours.
        figures: what those reach themselves.
    """

    def __init__(self, data: CaptionedSet, features: Features):
        self.data, self.features, self.kinds = data, features, kinds_of(data)
        of = [data.classes[label] for label in data.labels]  # type: ignore[union-attr]
        chosen = [i for i in range(len(data)) if of[i] in self.kinds]
        self.held = [i for i in chosen if i % HOLD_OUT == 0]
        self.trained = [i for i in chosen if i % HOLD_OUT]
        self.kind = np.array([of[i] for i in self.held])

    def reading(self) -> Generator[Progress, None, None]:
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.model_selection import StratifiedKFold

        blocks = []
        for at in range(0, len(self.trained), 128):
            pictures = self.data.pictures(self.trained[at : at + 128])
            blocks += [self.features(pictures), self.features(np.ascontiguousarray(pictures[:, :, ::-1]))]
            yield Progress(at, len(self.trained), f"{at} of {len(self.trained)} pictures of the training seen")
        self.seen = np.concatenate(blocks)
        pictures = self.data.pictures(self.held)
        held = self.features(pictures)
        yield Progress(0, 0, "Telling kinds apart")
        fewest = min(FOLDS, *np.unique(self.kind, return_counts=True)[1])
        folds = StratifiedKFold(fewest, shuffle=True, random_state=0)
        whose, other = self._painted(pictures)
        every = np.concatenate([held, other])
        of = np.concatenate([np.arange(len(held)), whose])
        weight = np.concatenate([np.full(len(held), 3.0), np.ones(len(whose))])
        told, robust = np.empty_like(self.kind[of]), np.empty_like(self.kind[of])
        for known, asked in folds.split(held, self.kind):
            rest, shown = np.isin(of, asked), np.isin(of, known)
            told[rest] = _classifier().fit(held[known], self.kind[known]).predict(every[rest])
            yield Progress(0, 0, "Telling kinds apart")
            robust[rest] = _any_colour(every[shown], self.kind[of[shown]], weight[shown]).predict(every[rest])
            yield Progress(0, 0, "Telling kinds apart")
        self.classifier = _classifier().fit(held, self.kind)
        self.any_colour = _any_colour(every, self.kind[of], weight)
        some = np.random.RandomState(0).permutation(len(held))[:200]
        looks = yield from _looked(self.kind[some], pictures[some], "real pictures looked at")
        worn = yield from _looked(self.kind[some], [_worn(pictures[i], i) for i in some], "worn pictures looked at")
        pairs = [(_colours(one), _colours(other)) for one, other in zip(looks, worn, strict=True)]
        alike = [bool(colours & others) for colours, others in pairs if colours]
        self.figures = {
            "pictures": len(held),
            "fruit": float(balanced_accuracy_score(self.kind, told[: len(held)])),
            "fruit_of_pictures": float((told[: len(held)] == self.kind).mean()),
            "fruit_recoloured": float(balanced_accuracy_score(self.kind[whose], told[len(held) :])),
            "fruit_any_colour": float(balanced_accuracy_score(self.kind, robust[: len(held)])),
            "fruit_any_colour_recoloured": float(balanced_accuracy_score(self.kind[whose], robust[len(held) :])),
            **({"colour": float(np.mean(alike))} if alike else {}),
            **_nearness(self.nearest(held)),
        }

    def _painted(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The held-out pictures in other colours: the place of each among them, and features."""
        found: list[np.ndarray] = []
        whose: list[int] = []
        for i, picture in enumerate(pictures):
            colours = [list(PAINTS)[k] for k in np.random.RandomState(i).permutation(len(PAINTS))]
            painted = [new for new in (recoloured(picture, colour) for colour in colours) if new is not None][:PAINTED]
            found += painted
            whose += [i] * len(painted)
        if not found:
            raise BadInput(f"What {self.data.path} holds out is no fruit on paper that could have other colours.")
        return np.array(whose), self.features(np.stack(found))

    def nearest(self, features: np.ndarray) -> np.ndarray:
        """Distance of each to the nearest picture of the training, or its mirror image."""
        return distances.nearest(features, self.seen)[0]

    def score(self, features: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
        """Log-probability of each kind (columns) in each picture (rows)."""
        places = np.searchsorted(self.classifier.classes_, kinds)
        return self.classifier.predict_log_proba(features)[:, places]


def _classifier(C: float = 0.01) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=2000))


def _any_colour(features: np.ndarray, kinds: np.ndarray, weight: np.ndarray) -> Any:
    return _classifier(C=0.003).fit(features, kinds, logisticregression__sample_weight=weight)


def _worn(picture: np.ndarray, seed: int) -> np.ndarray:
    """A picture with noise of eight levels, as a JPEG of quality 75."""
    noise = np.random.RandomState(seed).randn(*picture.shape) * 8
    file = io.BytesIO()
    Image.fromarray((picture + noise).round().clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=75)
    return np.asarray(Image.open(file))


def _colours(seen: Seen) -> set[str]:
    return {colour for body in seen.bodies for colour in body.colours}


def _looked(
    kinds: Sequence[str] | np.ndarray, pictures: Sequence[np.ndarray] | np.ndarray, words: str
) -> Generator[Progress, None, list[Seen]]:
    found = []
    for kind, picture in zip(kinds, pictures, strict=True):
        found.append(look_at(kind, picture))
        if len(found) % 20 == 0:
            yield Progress(len(found), len(pictures), f"{len(found)} of {len(pictures)} {words}")
    return found


def _drawn(engine: Engine, wanted: Sequence[ImagineRequest], words: str) -> Generator[Progress, None, list[np.ndarray]]:
    """A picture uint8 [H, W, 3] of each, as any visitor gets it."""
    pictures: list[np.ndarray] = []
    began, total = time.monotonic(), len(wanted)
    for done, request in enumerate(wanted):
        left = (time.monotonic() - began) / done * (total - done) if done else None
        with closing(imagine(engine, request)) as events:
            for event in events:
                if isinstance(event, Progress):
                    yield Progress(done, total, f"{done} of {total} {words}: {event.message}", seconds_left=left)
                else:
                    pictures.append(np.asarray(event.pictures[0].image.convert("RGB")))
    return pictures


def _right(
    real: _Real, asked: list[Ask], pictures: list[np.ndarray], fake: np.ndarray, words: str
) -> Generator[Progress, None, dict[str, np.ndarray]]:
    """Whether each picture is of the fruit, the colour and the state that were asked for."""
    kinds = [ask.kind for ask in asked]
    looks = yield from _looked(kinds, pictures, words)
    return {
        "fruit": real.classifier.predict(fake) == kinds,
        "fruit_any_colour": real.any_colour.predict(fake) == kinds,
        "colour": np.array([ask.colour in named(ask, look) for ask, look in zip(asked, looks, strict=True)]),
        "cut": np.array([_state(ask, look) for ask, look in zip(asked, looks, strict=True)]),
    }


def _above(
    engine: Engine, request: EvaluateTextRequest, facts: dict[str, Any], real: _Real, features: Features,
    asked: list[Ask], fake: np.ndarray, colour: np.ndarray,
) -> Generator[Progress, None, dict[str, float]]:  # fmt: skip
    """How far pictures score above as many random ones of their generator, with the same psi."""
    how = GenerateRequest(
        request.checkpoint, psi=ImagineRequest.psi, label=0 if facts["c_dim"] else None, seeds=range(len(asked)),
        precision=request.precision, visitor=request.visitor,
    )  # fmt: skip
    result: Any = None
    with closing(generate(engine, how)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Progress):
                yield Progress(event.done, event.total, f"Random pictures: {event.message}")
            result = event
    random = [np.asarray(picture.image.convert("RGB")) for picture in result.pictures]
    kinds = [ask.kind for ask in asked]
    seen = features(np.stack(random))
    scores = real.score(seen, kinds)  # [random pictures, sentences]
    own = np.diagonal(real.score(fake, kinds))
    looks = {}
    for kind in sorted(set(kinds)):
        looks[kind] = yield from _looked([kind] * len(random), random, "random pictures looked at")
    hits = np.array([[ask.colour in named(ask, look) for look in looks[ask.kind]] for ask in asked], float)
    told = real.classifier.predict(seen)
    spread = scores.std(0)
    above = {
        "pictures": len(random),
        "random_fruit": float(np.mean([told == kind for kind in kinds])),
        "random_colour": float(hits.mean()),
    }
    # Where all random pictures score alike there is no measure to tell a difference in.
    above |= {"fruit": float(((own - scores.mean(0)) / spread).mean())} if spread.all() else {}
    return above | ({"colour": float((colour.mean() - hits.mean()) / hits.std())} if hits.std() else {})


def _sheet(engine: Engine, wanted: Sequence[ImagineRequest]) -> Generator[Progress, None, Image.Image]:
    rows = wanted[:ROWS]
    every = [replace(request, seeds=(seed,)) for request in rows for seed in range(SEEDS)]
    pictures = yield from _drawn(engine, every, "pictures of the sheet")
    columns = [f"seed {seed}" for seed in range(SEEDS)]
    return imaging.labelled_grid(pictures, columns, [request.text for request in rows])
