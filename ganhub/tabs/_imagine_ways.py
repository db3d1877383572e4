"""The ways from a sentence to a picture: which rows can go them, what each needs and how long it takes here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from ganhub import hub
from ganhub.errors import BadInput, GanHubError
from ganhub.latents import Latents
from ganhub.pipelines.imagine import ImagineRequest, clip_for, way_of
from ganhub.registry import Checkpoint, ManualSource, Registry
from ganhub.tabs._imagine_words import Vocabulary, vocabulary
from ganhub.tabs._widgets import page_seeds, picker_choices, size_words, time_words

TASKS = {"stackgan": "text", "guided": "clip", "instant": "clip"}
NAMES = {"stackgan": "Painted", "guided": "Guided", "instant": "Instant"}
ABOUT = {
    "stackgan": "A StackGAN that learned from sentences paints it, in stages.",
    "guided": "A CLIP pushes a StyleGAN's picture, step by step, until it fits.",
    "instant": "One leap along the line that a CLIP sees through a StyleGAN.",
}
MOST_SEEDS = 16
"""Pictures of one sentence in the page."""
MOST_STEPS = 300
MOST_FRAMES = 300

DEFAULTS: dict[str, Any] = {
    "seeds": "0-3",
    "noise": True,
    "clip": None,
    "away": "",
    "steps": 60,
    "lr": 0.06,
    "space": "w",
    "psi": 0.7,
    "candidates": 32,
    "cutouts": 0,
    "away_weight": 0.5,
    "mean_weight": 0.02,
    "start_weight": 0.0,
    "noise_weight": 0.0,
    "strength": 2.0,
}
"""Every setting beside sentence, checkpoint and way."""
VARIED = {"start_weight": 0.02, "noise_weight": 0.25}
"""How a guided picture is varied: from its latent, stirred anew for each seed, and held near it."""


def request_of_settings(settings: Mapping[str, Any], visitor: str, **changes: Any) -> ImagineRequest:
    """What the controls ask for.

    Args:
        settings: `text`, `checkpoint` and, where they differ from `DEFAULTS`, the others.

    Raises:
        BadInput: a setting cannot be read, or asks for more than the page gives.
    """
    values = {**DEFAULTS, **settings, **changes}
    seeds = page_seeds(values["seeds"], most=MOST_SEEDS)
    for name in ("steps", "candidates", "cutouts"):
        values[name] = _whole(name, values[name])
    if values["steps"] > MOST_STEPS:
        raise BadInput(f"The page takes at most {MOST_STEPS} steps; the command line takes more.")
    values |= {"clip": values["clip"] or None, "away": str(values["away"] or "").strip()}
    return ImagineRequest(**{**values, "seeds": seeds, "visitor": visitor})


def settings_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a file was made with, from what `imaging.read_provenance` found in it.

    Raises:
        BadInput: it was made by something else, or its settings are none that the page can show.
    """
    if about.get("task") not in ("imagine", "imagine_between"):
        raise BadInput(f"This file was made by the task '{str(about.get('task'))[:40]}', not from a sentence.")
    names = ("text", "checkpoint", "way", *DEFAULTS)
    found = {name: about[name] for name in names if name in about} | {"seeds": str(about.get("seed", 0))}
    try:
        request_of_settings(found, "")
    except TypeError:
        raise BadInput("The settings inside this file are damaged.") from None
    return {"way": None, **found, "clip": found.get("clip") or ""}


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadInput(f"The number of {name.replace('cutouts', 'cut-outs')} must be a whole number.")
    return value


@dataclass(frozen=True)
class Made:
    """What the page shows: the request, the seeds of its pictures, and their latents where they have any."""

    request: ImagineRequest
    seeds: tuple[int, ...]
    latents: Latents | None

    def differs_in_seeds(self, other: ImagineRequest) -> bool:
        """Whether another request asks for the same, but for its seeds."""
        alike = {"seeds": (0,), "visitor": "", "preview": 0, "start": None}
        return replace(self.request, **alike) == replace(other, **alike)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Taken:
    """Seconds of a run, and of how many pictures and steps."""

    seconds: float
    pictures: int
    steps: int


class Ways:
    """What the rows of a registry can do, and how long it took in this process."""

    def __init__(self, registry: Registry, engine: Any):
        self.registry, self.engine = registry, engine
        self._taken: dict[tuple[str, str], Taken] = {}

    def rows(self, way: str) -> list[Checkpoint]:
        """Rows that can go this way, with what they need beside themselves."""
        return [row for row in self.registry.for_task(TASKS[way]) if self.helpers(row, way)]  # type: ignore[arg-type]

    def possible(self) -> list[str]:
        """Ways that at least one row can go."""
        return [way for way in TASKS if self.rows(way)]

    def best(self, way: str) -> Checkpoint:
        """The checkpoint that a way begins with."""
        return self.registry.find(self.choices(way)[0][1])

    def first(self) -> str:
        """The way that the page opens with: one that needs nothing to be fetched, where there is one."""
        ways = self.possible()
        return next((way for way in ways if not self.missing(self.best(way), way)), ways[0])

    def missing(self, row: Checkpoint, way: str, clip: str | None = None) -> list[Checkpoint]:
        """What is not on this machine yet."""
        return [one for one in (row, *self.helpers(row, way, clip)) if not hub.status(one).on_disk]

    def helpers(self, row: Checkpoint, way: str, clip: str | None = None) -> list[Checkpoint]:
        """The text encoder or CLIP that a row needs; empty where there is none."""
        try:
            if way == "stackgan":
                return [self.registry.find(row.components["text_encoder"])]
            return [clip_for(self.registry, row, clip)]
        except (GanHubError, KeyError):
            return []

    def choices(self, way: str) -> list[tuple[str, str]]:
        """(label, id) for the checkpoint picker: what its CLIP was trained for first."""
        rows = {row.id: row for row in self.rows(way)}
        found = [choice for choice in picker_choices(self.registry, TASKS[way]) if choice[1] in rows]
        return sorted(found, key=lambda choice: way != "stackgan" and bool(self.foreign(rows[choice[1]])))

    def foreign(self, row: Checkpoint) -> str:
        """What the CLIP of a row knows, where that is something else than the row draws; else empty."""
        helpers = self.helpers(row, "guided")
        known = vocabulary(*(helper.dataset for helper in helpers))
        return known.about if "clip" not in row.components and known is not vocabulary(row.dataset) else ""

    def clips(self) -> list[tuple[str, str]]:
        """(label, id) of all CLIPs."""
        rows = [row for row in self.registry if row.family == "clip" and not row.planned]
        return [(f"{row.title}  ·  {_state(row)}", row.id) for row in rows]

    def vocabulary(self, row: Checkpoint, way: str, clip: str | None = None) -> Vocabulary:
        """Words that whoever reads the sentence was trained on, and the generator's where it reads anything."""
        return vocabulary(*(helper.dataset for helper in self.helpers(row, way, clip)), row.dataset)

    # How long

    def took(self, request: ImagineRequest, way: str, seconds: float) -> None:
        row = self.registry.find(request.checkpoint)
        self._taken[row.id, way] = Taken(seconds, len(request.seeds), request.steps)

    def time(self, checkpoint: str, way: str, pictures: int, steps: int) -> str:
        """How long some pictures take here: as measured, or reckoned from what was measured."""
        taken = self._taken.get((checkpoint, way))
        if taken is None:
            return "not timed here yet"
        share = pictures / taken.pictures * (steps / taken.steps if way == "guided" else 1)
        seconds = taken.seconds * share
        words = "0.1 s" if seconds < 0.15 else f"{seconds:.1f} s" if seconds < 9.5 else time_words(seconds)
        words = f"less than {words}" if seconds < 0.1 else words
        return words if share == 1 else f"about {words}"

    def labels(self, checkpoints: Mapping[str, str], pictures: int, steps: int) -> list[tuple[str, str]]:
        """(words, name) of the ways, for a radio: name, what it does and how long it takes here."""
        found = []
        for way, checkpoint in checkpoints.items():
            time = self.time(checkpoint, way, pictures, steps)
            found.append((f"{NAMES[way]} · {time}\n{ABOUT[way]}", way))
        return found

    def needs(self, row: Checkpoint, way: str, clip: str | None = None) -> str:
        """What a way needs with this checkpoint, in a sentence, and who is before."""
        helpers = self.helpers(row, way, clip)
        words = f"{row.title} with {' and '.join(helper.title for helper in helpers)}: "
        away = self.missing(row, way, clip)
        by_hand = [one for one in away if isinstance(one.source, ManualSource)]
        if by_hand:
            words += f"{' and '.join(one.id for one in by_hand)} must be fetched by hand; `ganhub info ID` tells how."
        elif away:
            words += f"fetches {', '.join(f'{one.title} ({size_words(one.bytes)})' for one in away)} first."
        else:
            words += "all here."
        if way != "stackgan" and not clip and (about := self.foreign(row)):
            words += f" This CLIP knows {about} only; More offers others."
        if way != "stackgan" and find_spec("open_clip") is None:
            words += ' CLIP needs one more package: pip install "ganhub[clip]".'
        waiting = self.engine.status()["waiting"]
        return words + (f" {waiting} request{'s' * (waiting > 1)} before you." if waiting else "")

    def way_of(self, request: ImagineRequest) -> str:
        return way_of(self.registry, self.registry.find(request.checkpoint), request.way)


def _state(row: Checkpoint) -> str:
    if hub.status(row).on_disk:
        return "ready"
    return f"{size_words(row.bytes)} to fetch" if row.bytes else "to be fetched"
