"""Learn a direction of a latent space, see what speaks for it, and go along it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ganhub import hub
from ganhub.directions import Direction, read_direction, save_direction
from ganhub.errors import BadInput
from ganhub.latents import load_latents, parse_layers
from ganhub.metrics.plot import effect_plot
from ganhub.pipelines._sampling import opened
from ganhub.pipelines.found import find_directions
from ganhub.pipelines.labels import Attribute, Labelling, Piles, Sentences, read_table
from ganhub.pipelines.learn import LearnRequest, LearnResult, learn
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.sentences import checked
from ganhub.tabs import Context, _directions_api
from ganhub.tabs import _directions_view as view
from ganhub.tabs._directions_layout import POOL
from ganhub.tabs._directions_use import EVERY, Using, may_offer, whole
from ganhub.tabs._widgets import QUIET, card, note, progress_bar, sentences, shown, visitor, work_folder

TITLE = "Directions"
ORDER = 25
NOTHING = "The registry has no generator; CONTRIBUTING.md tells how to add one."
MOST_KEPT = 200
"""Directions of one visit."""

Updates = Generator[dict[Any, Any], None, dict[Any, Any]]


def build(context: Context) -> None:
    """Lay out the tab inside the current block and join it to its events."""
    if not context.registry.for_task("generate"):
        gr.Markdown(NOTHING)
        return
    tab = DirectionsTab(context)
    tab.lay_out()
    tab.join()
    _directions_api.publish(context, tab.checkpoint.value)


class DirectionsTab(Using):
    """Labelling and learning; the components are in `Layout`, going along a direction in `Using`."""

    def join(self) -> None:
        context = self.context
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        chosen = [self.card, self.attribute, self.direction, self.second, self.still, self.labelling, self.clicking,
                  self.estimate, self.begin]  # fmt: skip
        fit: dict[str, Any] = {"fn": self.fit, "inputs": [self.checkpoint, self.made], "outputs": chosen, **QUIET}
        look: dict[str, Any] = {"fn": self.look, "inputs": self.using(), "outputs": self.picture, **slow}
        live = {**look, "trigger_mode": "always_last"}
        context.demo.load(**fit).then(**look)
        context.demo.load(None, None, None, js=view.KEYS_JS)
        self.checkpoint.input(**fit).then(**look)
        for way, tab in self.tabs.items():
            tab.select(lambda way=way: way, None, self.way, **QUIET)
        clicking = [self.labelling, self.asked, self.shown, self.clicking, self.estimate, self.note]
        self.begin.click(self.start_clicking, [self.checkpoint, self.label], clicking, **slow)
        for button, answer in ((self.yes, True), (self.no, False), (self.skip, None)):
            self._answer(button, answer, slow)
        self.back.click(self.step_back, [self.checkpoint, self.label, self.labelling, self.asked],
                        [self.labelling, self.asked, self.shown, self.estimate], **slow)  # fmt: skip
        inputs: set[Any] = {
            self.checkpoint, self.name, self.way, self.labelling, self.text, self.against, self.clip, self.attribute,
            self.consent, self.photos, self.others, self.table, self.saved, self.how, self.count, self.space,
            self.layers, self.method, self.still, self.samples, self.share, self.label, self.made,
        }  # fmt: skip
        outputs = [self.note, self.stop, self.proof, self.plot, self.made, self.direction, self.second, self.strength,
                   self.still, self.sheet, self.video, self.download, self.offer, self.photos, self.others]  # fmt: skip
        self.run.click(self.make, inputs, outputs, **slow).then(context.refresh, None, context.status, **QUIET).then(
            **look
        )
        self.stop.click(self.end_runs, None, self.stop, **QUIET)
        about = [self.proof, self.plot, self.download, self.offer]
        self.direction.change(self.about, [self.checkpoint, self.direction, self.made], about, **QUIET).then(**look)
        for slider in (self.strength, self.second_strength, self.psi):
            slider.input(**live)
        for control in (self.seed, self.second, self.only, self.label):
            control.change(**live)
        taken = [self.latents, self.made, self.direction, self.second, self.note]
        self.drop.upload(self.dropped, [self.drop, self.checkpoint, self.made], taken, **slow).then(**look)
        self.drop.clear(lambda: None, None, self.latents, **QUIET).then(**look)
        there = [self.note, self.stop, self.sheet, self.video]
        for button, kind in ((self.strip, "strip"), (self.grid, "grid"), (self.film, "film")):
            button.click(self.wide(kind), self.using(), there, **slow)
        self.offer.click(self.offered, [self.checkpoint, self.direction, self.made], [self.note, self.offer], **slow)

    def _answer(self, button: gr.Button, answer: bool | None, slow: dict[str, Any]) -> None:
        @sentences
        def give(checkpoint: str, label: float | None, labelling: Labelling | None, asked: int | None,
                 request: gr.Request) -> Any:  # fmt: skip
            if labelling is None or asked is None:
                return [gr.skip()] * 4
            labelling.give(asked, answer)
            return self._next(checkpoint, label, labelling, visitor(request))

        button.click(
            give, [self.checkpoint, self.label, self.labelling, self.asked],
            [self.labelling, self.asked, self.shown, self.estimate], **slow,
        )  # fmt: skip

    # What fits a checkpoint

    @sentences
    def fit(self, checkpoint: str, made: dict[str, Direction]) -> list[Any]:
        row = self.context.registry.find(checkpoint)
        attributes = self.attributes(row)
        known = self.known(checkpoint, made)
        return [
            card(row),
            gr.Dropdown(attributes, value=attributes[0][1] if attributes else None),
            gr.Dropdown(known, value=known[0][1] if known else None),
            gr.Dropdown([("none", ""), *known], value=""),
            gr.Dropdown([choice for choice in known if choice[1] not in made], value=[]),
            None,
            gr.Column(visible=False),
            "",
            gr.Button("Start", interactive=True),
        ]

    @sentences
    def about(self, checkpoint: str, name: str | None, made: dict[str, Direction]) -> Iterator[Any]:
        """What is known of the chosen direction, and its file."""
        if not name:
            yield ["", gr.Image(visible=False), gr.DownloadButton(visible=False), gr.Button(visible=False)]
            return
        direction = made.get(name) or self._of_row(name)
        with work_folder() as folder:
            file = str(save_direction(direction, folder / f"{direction.id}.safetensors")) if direction else None
            effect = direction.card.get("effect") if direction else None
            if effect:
                effect_plot(effect).save(folder / "effect.png")
            new = name in made and may_offer()
            yield [
                view.proof(direction.card) if direction and direction.card else "",
                gr.Image(str(folder / "effect.png"), visible=True) if effect else gr.Image(visible=False),
                gr.DownloadButton(value=file, visible=file is not None),
                gr.Button(visible=new, interactive=True),
            ]

    def _of_row(self, name: str) -> Direction | None:
        """A known direction, if its file is here."""
        row = self.context.registry.find(name)
        return read_direction(row, hub.fetch(row)) if hub.status(row).on_disk else None

    # Clicking

    @sentences
    def start_clicking(self, checkpoint: str, label: float | None, request: gr.Request) -> Iterator[Any]:
        engine, who = self.context.engine, visitor(request)
        yield [gr.skip()] * 5 + [progress_bar(0, 0, "Drawing latents")]
        source = _result(opened(engine, checkpoint, whole(label), None, who))
        latents = _result(source.latents(range(POOL), source.space))
        found = self._next(checkpoint, label, Labelling(latents.astype(np.float64)), who)
        yield [*found[:3], gr.Column(visible=True), found[3], note("Left: without. Right: with. Down: skip.")]

    def _next(self, checkpoint: str, label: float | None, labelling: Labelling, who: str) -> list[Any]:
        chosen = labelling.next()
        words = view.estimate(labelling.estimate())
        if not chosen:
            return [labelling, None, None, words]
        source = _result(opened(self.context.engine, checkpoint, whole(label), None, who))
        (pixels,) = _result(source.pictures([labelling.latents[chosen[0]]], 1))
        return [labelling, chosen[0], pixels[..., 0] if pixels.shape[-1] == 1 else pixels, words]

    @sentences
    def step_back(self, checkpoint: str, label: float | None, labelling: Labelling | None, asked: int | None,
                  request: gr.Request) -> Any:  # fmt: skip
        if labelling is None or labelling.take_back() is None:
            return [gr.skip()] * 4
        return self._next(checkpoint, label, labelling, visitor(request))

    # Learning

    def make(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The primary button."""
        who = visitor(request)
        with self.runs.started(who) as stop:
            try:
                yield {self.note: progress_bar(0, 0, "Waiting for a turn"), self.stop: gr.Button(interactive=True)}
                with work_folder() as folder:
                    last = yield from self._learn(data, who, stop, folder)
                    yield {**last, self.stop: self.runs.button(who)}
            except Exception as error:
                said = shown(error)
                yield {self.note: note(said.message, "failed"), self.stop: self.runs.button(who),
                       self.photos: None, self.others: None}  # fmt: skip
                raise said from None

    def end_runs(self, request: gr.Request) -> gr.Button:
        self.runs.end(visitor(request))
        return gr.Button(interactive=False)

    def _learn(self, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path) -> Updates:
        began = looked = time.monotonic()
        row = self.context.registry.find(data[self.checkpoint])
        if data[self.way] == "found":
            events = find_directions(self.context.engine, row.id, data[self.how], int(data[self.count]),
                                     label=whole(data[self.label]), visitor=who)  # fmt: skip
        else:
            events = learn(self.context.engine, self._request(data, who))
        result: Any = None
        with closing(events):
            for event in events:
                if stop.is_set():
                    return {self.note: note("Stopped."), self.photos: None, self.others: None}
                if not isinstance(event, Progress):
                    result = event
                elif time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    yield {self.note: progress_bar(event.done, event.total, event.message, event.seconds_left)}
        seconds = time.monotonic() - began
        made = dict(data[self.made])
        new = result if isinstance(result, list) else [result.direction]
        for direction in new:
            made[direction.id] = direction
        if len(made) > MOST_KEPT:
            raise BadInput(f"This visit holds {MOST_KEPT} directions; save those that you want and load the page anew.")
        known = self.known(row.id, made)
        shown_now: dict[Any, Any] = {
            self.made: made,
            self.direction: gr.Dropdown(known, value=new[0].id),
            self.second: gr.Dropdown([("none", ""), *known]),
            self.strength: 1.0,
            self.video: gr.Video(visible=False),
            self.photos: None,
            self.others: None,
        }
        if isinstance(result, LearnResult):
            shown_now |= {
                self.proof: view.proof(result.direction.card, result.notes),
                self.sheet: gr.Image(str(result.strip.save(folder)), visible=True) if result.strip else gr.skip(),
            }
            words = f"Learned in {seconds:.1f} s. Move the slider; below stand four seeds along it."
        else:
            words = f"{len(new)} directions in {seconds:.1f} s, the strongest first. Look at each, then save it."
        return {**shown_now, self.note: note(words)}

    def _request(self, data: dict[Any, Any], who: str) -> LearnRequest:
        way, name = data[self.way], str(data[self.name] or "").strip()
        source: Any
        if way == "click":
            if data[self.labelling] is None:
                raise BadInput("No picture is labelled yet; press Start, or choose another way to label.")
            source = data[self.labelling].marked()
        elif way == "text":
            source = Sentences(checked(data[self.text]), checked(data[self.against]), data[self.clip] or None)
        elif way == "attribute":
            network, _, attribute = str(data[self.attribute] or "").partition(":")
            if not network:
                raise BadInput("No network knows this checkpoint's pictures; choose another way to label.")
            source, name = Attribute(network, attribute), name or attribute.capitalize()
        elif way == "photos":
            photos, others = ([("", _taken(f)) for f in data[pile] or ()] for pile in (self.photos, self.others))
            source = Piles(photos, others, bool(data[self.consent]))
        else:
            if not data[self.table]:
                raise BadInput("Drop a CSV of labels, or choose another way to label.")
            source = read_table(data[self.table], load_latents(data[self.saved]) if data[self.saved] else None)
        if not name:
            raise BadInput("Say what the direction is called, like Glasses.")
        return LearnRequest(
            data[self.checkpoint],
            name,
            source,
            space=data[self.space] or None,
            layers=_range(data[self.layers]),
            method=data[self.method],
            still=tuple(data[self.still] or ()),
            samples=int(data[self.samples]),
            keep=float(data[self.share]),
            label=whole(data[self.label]),
            visitor=who,
        )


def _result(events: Generator[Any, None, Any]) -> Any:
    """What a generator returns, its progress unseen."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def _range(text: str | None) -> tuple[int, int] | None:
    if not str(text or "").strip():
        return None
    layers = parse_layers(str(text))
    if layers != list(range(layers[0], layers[-1] + 1)):
        raise BadInput(f"The layers '{str(text)[:40]}' must be one range, like 0-6.")
    return layers[0], layers[-1]


def _taken(file: str) -> bytes:
    """A photo that was uploaded, whose file is gone from then on."""
    path = Path(file)
    try:
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
