"""Going along directions in the Directions tab: the slider's picture, strips, grids, videos, files, and offering."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ganhub import hub
from ganhub.directions import Direction, load_direction
from ganhub.errors import BadInput
from ganhub.latents import Latents, load_latents, parse_layers
from ganhub.pipelines.learn import keep, row_of
from ganhub.pipelines.slide import SlideRequest, SlideResult, slide
from ganhub.registry import Checkpoint, check_direction
from ganhub.tabs import Context
from ganhub.tabs._directions_layout import Layout
from ganhub.tabs._runs import Runs
from ganhub.tabs._widgets import note, progress_bar, sentences, shown, visitor, work_folder

EVERY = 0.3
"""Seconds between two looks at how far a run is."""
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
FRAMES = 45


def may_offer() -> bool:
    """Whether a visitor may put a direction into the owner's registry: not where the page is everybody's."""
    return os.environ.get("SYSTEM") != "spaces" and not os.environ.get("GANHUB_READ_ONLY")


def whole(label: float | None) -> int | None:
    """A class as the page gives it."""
    return None if label is None else int(label)


class Using(Layout):
    """What happens when a direction is used."""

    def __init__(self, context: Context):
        super().__init__(context)
        self.runs = Runs()

    def using(self) -> set[Any]:
        """What decides the picture."""
        return {self.checkpoint, self.direction, self.strength, self.seed, self.psi, self.second, self.second_strength,
                self.only, self.label, self.latents, self.made}  # fmt: skip

    def hashed(self, checkpoint: str) -> Checkpoint:
        """A generator's row with the hash of its file, as far as that is known."""
        row = self.context.registry.find(checkpoint)
        return row.model_copy(update={"sha256": row.sha256 or hub.status(row).sha256})

    def known(self, checkpoint: str, made: dict[str, Direction]) -> list[tuple[str, str]]:
        """(label, id) of the directions of a generator: those of this visit first."""
        row = self.hashed(checkpoint)
        mine = [(f"{d.title}  ·  new", name) for name, d in made.items() if d.card.get("checkpoint") == row.id]
        rows = [one for one in self.context.registry.directions_for(row) if one.id not in made]
        return mine + [(one.title if hub.status(one).on_disk else f"{one.title}  ·  to fetch", one.id) for one in rows]

    @sentences
    def look(self, data: dict[Any, Any], request: gr.Request) -> Iterator[Any]:
        """The picture where the sliders stand; whoever moves on before it is drawn sees the next one only."""
        who = visitor(request)
        if not data[self.direction]:
            yield None
            return
        with self.runs.started(who, look=True) as stop:
            moves: dict[str, Any] = {"strengths": (float(data[self.strength]),)}
            if data[self.second]:
                second = data[self.made].get(data[self.second], data[self.second])
                moves["with_"] = ((second, float(data[self.second_strength])),)
            *_, result = slide(self.context.engine, self._asked(data, who, **moves))
            if not self.runs.newest(who, stop):
                yield gr.skip()
                return
            with work_folder() as folder:
                yield str(result.pictures[0].save(folder))

    def _asked(self, data: dict[Any, Any], who: str, **changes: Any) -> SlideRequest:
        name, latents, only = data[self.direction], data[self.latents], str(data[self.only] or "").strip()
        if not name:
            raise BadInput("There is no direction of this checkpoint yet: learn one, or find one without labels.")
        given: dict[str, Any] = {"seeds": (int(data[self.seed] or 0),)}
        if latents is not None:
            given = {"latents": latents, "seeds": ()}
        how = {"psi": float(data[self.psi]), "label": whole(data[self.label]), "visitor": who}
        layers = parse_layers(only) if only else None
        along = data[self.made].get(name, name)
        return SlideRequest(data[self.checkpoint], along, **{**given, **how, "layers": layers, **changes})

    def wide(self, kind: str) -> Any:
        """The handler of a button that shows more than a picture: `strip`, `grid` or `film`."""

        def show(data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
            who = visitor(request)
            with self.runs.started(who) as stop:
                try:
                    yield {self.note: progress_bar(0, 0, "Waiting for a turn"), self.stop: gr.Button(interactive=True)}
                    with work_folder() as folder:
                        yield from self._wide(kind, data, who, stop, folder)
                except Exception as error:
                    said = shown(error)
                    yield {self.note: note(said.message, "failed"), self.stop: self.runs.button(who)}
                    raise said from None

        return show

    def _wide(
        self, kind: str, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path
    ) -> Iterator[dict[Any, Any]]:
        second = data[self.second]
        changes: dict[str, Any] = {"strengths": STRENGTHS}
        if kind == "strip" and data[self.latents] is None:
            changes["seeds"] = tuple((int(data[self.seed] or 0) + n) % 2**32 for n in range(4))
        elif kind == "grid":
            if not second:
                raise BadInput("A grid goes along two directions: choose a second one.")
            changes |= {"across": data[self.made].get(second, second), "across_strengths": STRENGTHS}
        elif kind == "film":
            changes |= {"strengths": (-2.0, 2.0), "frames": FRAMES, "file": folder / "along.mp4"}
        looked, result = 0.0, None
        with closing(slide(self.context.engine, self._asked(data, who, **changes))) as events:  # type: ignore[type-var]
            for event in events:
                if stop.is_set():
                    break
                if isinstance(event, SlideResult):
                    result = event
                elif time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    yield {self.note: progress_bar(event.done, event.total, event.message, event.seconds_left)}
        if result is None:
            yield {self.note: note("Stopped."), self.stop: self.runs.button(who)}
            return
        sheet = str(result.grid.save(folder)) if result.grid else None
        yield {
            self.sheet: gr.Image(sheet, visible=sheet is not None),
            self.video: gr.Video(str(result.video) if result.video else None, visible=result.video is not None),
            self.note: note("AI-generated."),
            self.stop: self.runs.button(who),
        }

    @sentences
    def dropped(self, file: str, checkpoint: str, made: dict[str, Direction]) -> list[Any]:
        """Saved latents to move, or a direction that somebody saved."""
        name = Path(file).name
        if file.endswith(".safetensors"):
            direction, row = load_direction(file, name), self.hashed(checkpoint)
            check_direction(row_of(direction, row), row)
            direction = replace(direction, card={**direction.card, "checkpoint": row.id})
            made = {**made, direction.id: direction}
            known = self.known(checkpoint, made)
            words = f"{direction.title} is a direction of this checkpoint."
            both = [gr.Dropdown(known, value=direction.id), gr.Dropdown([("none", ""), *known])]
            return [gr.skip(), made, *both, note(words)]
        latents: Latents = load_latents(file, name)
        first = replace(latents, values=latents.values[:1], seeds=latents.seeds[:1])
        words = f"The first latent of {name} is moved in place of a seed."
        return [first, gr.skip(), gr.skip(), gr.skip(), note(words)]

    @sentences
    def offered(self, checkpoint: str, name: str | None, made: dict[str, Direction]) -> list[Any]:
        """Put a direction of this visit among the owner's."""
        if not may_offer():
            raise BadInput("On this page directions are saved as files; its owner adds them to the registry.")
        if not name or name not in made:
            raise BadInput("Only a direction that was learned or dropped here can be offered.")
        row = keep(made[name], self.context.registry.find(checkpoint), self.context.registry)
        words = f"'{row.id}' is offered wherever this generator is, here and after a restart."
        return [note(words), gr.Button(interactive=False)]
