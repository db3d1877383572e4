"""Where labels come from: a table, clicks with active learning, a pair of sentences, a network, two piles of photos."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ganhub.errors import BadInput
from ganhub.latents import Latents, check_seeds
from ganhub.metrics.directions import FEWEST, wilson
from ganhub.registry import Checkpoint, Registry

MOST_LABELS = 20_000
MAX_TABLE = 8 * 2**20
YES, NO = ("1", "1.0", "true", "yes", "with", "+"), ("0", "0.0", "-1", "-1.0", "false", "no", "without", "-")


@dataclass(frozen=True)
class Marked:
    """Seeds or saved latents, each with a label or a score.

    Raises:
        BadInput: when made of something that does not fit together.
    """

    values: Sequence[float]
    """0 and 1, or scores of which the highest and lowest are kept."""
    seeds: Sequence[int] = ()
    latents: Latents | None = None
    origin: str = "a table"

    def __post_init__(self):
        given = len(self.seeds) if self.latents is None else len(self.latents)
        if given != len(self.values) or (self.latents is not None and len(self.seeds)):
            raise BadInput(f"There are {len(self.values)} labels for {given} seeds or latents.")
        if not given or given > MOST_LABELS:
            raise BadInput(f"There are {given} labels; this takes 1 to {MOST_LABELS}.")
        if self.latents is None:
            object.__setattr__(self, "seeds", tuple(check_seeds(self.seeds)))

    @property
    def is_scores(self) -> bool:
        """Whether they are scores, not labels."""
        return not set(self.values) <= {0, 1}


@dataclass(frozen=True)
class Sentences:
    """What a CLIP should see in the pictures with the attribute, and what in those without."""

    text: str
    against: str
    clip: str | None = None


@dataclass(frozen=True)
class Attribute:
    """An answer of an attribute network."""

    network: str
    """Id of its row."""
    name: str


@dataclass(frozen=True)
class Piles:
    """Photos with and without the attribute, by name; they are aligned and projected."""

    photos: Sequence[tuple[str, Any]]
    """(name, file or bytes) of those with it."""
    others: Sequence[tuple[str, Any]]
    consent: bool = False
    """The people in the photos agree."""
    steps: int = 60


def attributes_of(registry: Registry, generator: Checkpoint) -> list[Attribute]:
    """What attribute networks can say of a generator's pictures: those that were trained on the same data."""
    rows = [row for row in registry if row.family == "attributes" and not row.planned]
    rows = [row for row in rows if row.dataset and row.dataset == generator.dataset]
    return [Attribute(row.id, str(name)) for row in rows for name in row.config.get("attributes", ())]


def read_table(file: str | Path | BinaryIO, latents: Latents | None = None, name: str | None = None) -> Marked:
    """Labels or scores from a CSV: a line each, `seed,label` or, with saved latents, `latent,label` (their places).

    Labels are 0 and 1 (or no and yes, without and with); other numbers are scores.

    Raises:
        BadInput: it cannot be read; names the line.
    """
    name = name or (Path(file).name if isinstance(file, (str, Path)) else "the table")
    try:
        data = Path(file).read_bytes() if isinstance(file, (str, Path)) else file.read(MAX_TABLE + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{name} cannot be read as a table of text; save it as CSV in UTF-8.") from error
    if len(data) > MAX_TABLE:
        raise BadInput(f"{name} is too large for a table of labels; the limit is {MAX_TABLE >> 20} MB.")
    first = text.split("\n", 1)[0]
    lines = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)))
    head = [cell.strip().lower() for cell in lines[0]] if lines else []
    if len(head) < 2 or head[0] not in ("seed", "latent") or head[1] not in ("label", "score"):
        raise BadInput(f"{name} begins with the line 'seed,label' (or latent,label, seed,score); then a line each.")
    if head[0] == "latent" and latents is None:
        raise BadInput(f"{name} names saved latents by their places; give the .npz file that holds them too.")
    if head[0] == "seed" and latents is not None:
        raise BadInput(f"{name} names seeds, so no saved latents are wanted beside it.")
    places, values = [], []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        try:
            places.append(int(line[0]))
            values.append(_value(line[1].strip().lower(), head[1]))
        except (ValueError, IndexError):
            raise BadInput(f"{name} cannot be read in line {number}: '{','.join(line)[:60]}'.") from None
        if len(places) > MOST_LABELS:
            raise BadInput(f"{name} has more than {MOST_LABELS} lines; that is more than is learned from.")
    if latents is None:
        return Marked(values, check_seeds(places), origin="a table of seeds")
    wrong = [place for place in places if not 0 <= place < len(latents)]
    if wrong:
        raise BadInput(f"{name} names the latent {wrong[0]}; the file holds 0 to {len(latents) - 1}.")
    chosen = Latents(latents.space, latents.values[places], latents.checkpoint, latents.sha256)
    return Marked(values, latents=chosen, origin="a table of saved latents")


def _value(text: str, kind: str) -> float:
    if kind == "label" and text in (*YES, *NO):
        return float(text in YES)
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(text)
    return value


@dataclass
class Labelling:
    """Generated pictures labelled one by one, the next ones where the classifier is least certain.

    Every fourth picture is drawn at random: how well its label was foretold before it was given is an honest estimate,
    which the uncertain ones alone, the hardest of all, would spoil.
    """

    latents: np.ndarray
    """Of the seeds 0 to N - 1 [N, dim]."""
    seed: int = 0
    labels: dict[int, bool | None] = field(default_factory=dict)
    """By seed; None was skipped."""
    foretold: list[bool] = field(default_factory=list)
    """Whether the label of each random picture was foretold, once there was something to foretell it by."""
    _drawn: set[int] = field(default_factory=set)
    """Random pictures that were shown."""

    def next(self, count: int = 1) -> list[int]:
        """The seeds to be labelled next."""
        rng = np.random.RandomState((self.seed + 7919 * len(self.labels)) % 2**32)
        free = np.array([i for i in range(len(self.latents)) if i not in self.labels])
        if not len(free):
            return []
        shuffled = rng.permutation(free)
        scores = self._scores()
        if scores is None:
            return [int(i) for i in shuffled[:count]]
        uncertain = free[np.abs(scores[free]).argsort()]
        chosen: list[int] = []
        for place in range(min(count, len(free))):
            random = (len(self.labels) + place) % 4 == 3
            seed = next(int(i) for i in (shuffled if random else uncertain) if int(i) not in chosen)
            chosen.append(seed)
            if random:
                self._drawn.add(seed)
        return chosen

    def give(self, seed: int, label: bool | None) -> None:
        """A label; None skips the picture. A second one replaces the first.

        Raises:
            BadInput: there is no such picture.
        """
        if not 0 <= seed < len(self.latents):
            raise BadInput(f"There is no picture {seed}; the seeds are 0 to {len(self.latents) - 1}.")
        if seed in self._drawn and label is not None and seed not in self.labels:
            scores = self._scores()
            if scores is not None:
                self.foretold.append(bool(scores[seed] > 0) == label)
        self.labels[seed] = label

    def take_back(self) -> int | None:
        """Forget the last label; the seed that it belonged to, or None."""
        return self.labels.popitem()[0] if self.labels else None

    @property
    def counts(self) -> tuple[int, int]:
        """Pictures without and with."""
        given = list(self.labels.values())
        return given.count(False), given.count(True)

    def estimate(self) -> str:
        """How far the labelling is, in a sentence."""
        zeros, ones = self.counts
        words = f"{ones} with, {zeros} without"
        if min(zeros, ones) < FEWEST:
            return f"{words}. At least {FEWEST} of either are needed, twenty are better."
        if len(self.foretold) < 5:
            return f"{words}. Enough to learn from; more make it surer."
        share = float(np.mean(self.foretold))
        low, high = wilson(share, len(self.foretold))
        return (
            f"{words}. Of {len(self.foretold)} random pictures {share:.0%} were foretold "
            f"(the truth lies between {low:.0%} and {high:.0%})."
        )

    def marked(self) -> Marked:
        """What was labelled, to learn from."""
        given = {seed: label for seed, label in self.labels.items() if label is not None}
        if not given:
            raise BadInput("No picture is labelled yet: say of some whether they have the attribute.", "few")
        return Marked([float(label) for label in given.values()], list(given), origin="pictures labelled by clicking")

    def _scores(self) -> np.ndarray | None:
        """What ridge regression foretells of every picture, above 0 with the attribute; None with less than two of
        either kind to learn from."""
        given = [(seed, label) for seed, label in self.labels.items() if label is not None]
        y = np.array([label for _, label in given], bool)
        if min(y.sum(), (~y).sum()) < 2:
            return None
        spread = self.latents.std(0)
        x = (self.latents - self.latents.mean(0)) / np.maximum(spread, 1e-6 * float(spread.max()))
        known = x[[seed for seed, _ in given]]
        weights = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
        middle = weights @ known
        centred = (known - middle) * np.sqrt(weights)[:, None]
        target = np.where(y, 1.0, -1.0) * np.sqrt(weights)
        gram = centred @ centred.T
        slope = centred.T @ np.linalg.solve(gram + 0.3 * float(np.trace(gram)) / len(y) * np.eye(len(y)), target)
        return (x - middle) @ slope
