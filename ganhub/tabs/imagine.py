"""Pictures from a visitor's own sentence, in three ways."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ganhub import hub, zerogpu
from ganhub.imaging import read_provenance
from ganhub.latents import MAX_SEED, Latents, load_latents, save_latents
from ganhub.pipelines.imagine import Formed, ImagineRequest, ImagineResult, imagine, way_of
from ganhub.pipelines.imagine_video import BetweenResult, between
from ganhub.pipelines.requests import Picture
from ganhub.tabs import Context, _imagine_api
from ganhub.tabs import _imagine_view as view
from ganhub.tabs._imagine_layout import Layout
from ganhub.tabs._imagine_ways import MOST_SEEDS, VARIED, Made, Ways, request_of_settings, settings_of
from ganhub.tabs._imagine_words import strange, with_word
from ganhub.tabs._runs import Runs
from ganhub.tabs._widgets import (
    QUIET,
    card,
    counted,
    drawn,
    note,
    progress_bar,
    resized,
    seeds_text,
    sentences,
    shown,
    visitor,
    work_folder,
)

TITLE = "Text to image"
ORDER = 15

EVERY = 0.3
"""Seconds between two looks at what has been made so far."""
STAGE = 0.25
"""Seconds that a stage of a StackGAN is shown for."""
NOTHING = "The registry has no network that draws from sentences; CONTRIBUTING.md tells how to add one."

Updates = Generator[dict[Any, Any], None, dict[Any, Any]]
"""What the page shows on the way, and at the end."""

SHOW_RESULTS = "() => { if (innerWidth < 700) document.querySelector('#imagine-note').scrollIntoView() }"


def build(context: Context) -> None:
    """Lay out the tab inside the current block and join it to its events."""
    ways = Ways(context.registry, context.engine)
    if not ways.possible():
        gr.Markdown(NOTHING)
        return
    tab = ImagineTab(context, ways)
    tab.lay_out()
    tab.join()
    _imagine_api.publish(context, ways, tab.controls["checkpoint"].value)


class ImagineTab(Layout):
    """What happens on each event; the components are in `Layout`."""

    def __init__(self, context: Context, ways: Ways):
        super().__init__(context, ways)
        self.runs = Runs()
        self._first: ImagineResult | None = None
        self._first_lock = threading.Lock()

    def join(self) -> None:
        controls, context = self.controls, self.context
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        text, way, checkpoint, seeds = (controls[name] for name in ("text", "way", "checkpoint", "seeds"))
        inputs = {*controls.values(), self.start, self.made, self.picked, self.to, self.frames, self.whole}
        shown_there = [self.note, self.gallery, self.video, self.formed, self.reading, self.latents, self.vary]
        run: dict[str, Any] = {"inputs": inputs, "outputs": [*shown_there, self.stop, self.made, self.picked], **slow}
        timed = [controls[name] for name in ("checkpoint", "way", "seeds", "steps", "clip")]
        times: dict[str, Any] = {"fn": self.times, "inputs": timed, "outputs": [way, self.needs], **QUIET}
        fit: dict[str, Any] = {
            "fn": self.fit,
            "inputs": [way, checkpoint, controls["clip"]],
            "outputs": [checkpoint, self.card, self.chips, *self.groups.values()],
            **QUIET,
        }
        context.demo.load(self.first_sight, None, run["outputs"], **slow).then(**times)
        way.input(**fit).then(**times)
        checkpoint.input(**fit).then(**times)
        controls["clip"].input(**fit).then(**times)
        controls["steps"].release(**times)
        self.count.input(resized, [seeds, self.count], seeds, **QUIET).then(**times)
        seeds.blur(counted, seeds, self.count, **QUIET).then(**times)
        clicks = [
            self.run.click(self.make, **run),
            text.submit(self.make, **run),
            self.others.click(drawn, self.count, seeds, **QUIET).then(self.make, **run),
            self.chips.select(self.chosen, [text, way, checkpoint, controls["clip"]], [text, self.whole], **QUIET).then(
                self.make_if_whole, **run
            ),
            controls["strength"].release(self.make, **run),
            self.vary.click(self.around, [self.made, self.picked, self.count], [seeds, self.count], **QUIET).then(
                self.variations, **run
            ),
            self.film.click(self.make_video, **run),
        ]
        for button in (self.run, self.film):
            button.click(None, None, None, js=SHOW_RESULTS)
        self.stop.click(self.end_runs, None, self.stop, **QUIET)
        for click in clicks:
            click.then(context.refresh, None, context.status, **QUIET).then(**times)
        self.gallery.select(self.selected, self.made, [self.formed, self.vary, self.picked], **QUIET)
        from_file = [*controls.values(), self.count, self.start, self.note]
        self.drop.upload(self.dropped, self.drop, from_file, **QUIET).success(**fit).then(**times)
        self.drop.clear(lambda: None, None, self.start, **QUIET)
        context.warm.append(self.first)
        if not zerogpu.ACTIVE:  # where a device is lent to a visitor, it is not for this
            context.warm.append(self.rehearse)

    # What fits a way and a checkpoint

    @sentences
    def fit(self, way: str, checkpoint: str, clip: str | None) -> list[Any]:
        choices = self.ways.choices(way)
        if checkpoint not in [name for _, name in choices]:
            checkpoint = choices[0][1]
        row = self.context.registry.find(checkpoint)
        return [
            gr.Dropdown(choices, value=checkpoint),
            card(row),
            gr.HTML(view.chips_value(self.ways.vocabulary(row, way, clip))),
            *(gr.Column(visible=way in ways) for ways in self.groups),
        ]

    @sentences
    def times(self, checkpoint: str, way: str, seeds: str, steps: int, clip: str | None) -> list[Any]:
        count = counted(seeds)
        pictures = count if isinstance(count, int) else 1
        best = {one: self.ways.best(one).id for one in self.ways.possible()} | {way: checkpoint}
        row = self.context.registry.find(checkpoint)
        words = self.ways.needs(row, way, clip)
        return [gr.Radio(self.ways.labels(best, pictures, steps)), words]

    @sentences
    def chosen(self, text: str, way: str, checkpoint: str, clip: str | None, event: gr.EventData) -> tuple[str, bool]:
        """A chip: a whole sentence, or a word for the one that is there."""
        word = str(event._data.get("word", ""))[:200]
        if event._data.get("whole"):
            return word, True
        known = self.ways.vocabulary(self.context.registry.find(checkpoint), way, clip)
        return with_word(text, word, known), False

    # Making

    def make(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The primary button: what has been made so far, three times a second, then the whole."""
        yield from self._run(data, request, self._make)

    def make_if_whole(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """After a chip that was a whole sentence."""
        if data[self.whole]:
            yield from self.make(data, request)
        else:
            yield {self.note: gr.skip()}

    def variations(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The same sentence by the seeds around a picture, or, guided, from where that picture ended."""
        yield from self._run(data, request, self._vary)

    def make_video(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """From the chosen picture to one of another sentence."""
        yield from self._run(data, request, self._film)

    def end_runs(self, request: gr.Request) -> Any:
        self.runs.end(visitor(request))
        return gr.Button(interactive=False)

    def _run(self, data: dict[Any, Any], request: gr.Request, work: Any) -> Iterator[dict[Any, Any]]:
        who = visitor(request)
        with self.runs.started(who) as stop:
            try:
                yield {self.note: progress_bar(0, 0, "Waiting for a turn"), self.stop: gr.Button(interactive=True)}
                with work_folder() as folder:
                    last = yield from work(data, who, stop, folder)
                    # All at once: of two updates in quick succession the page may lose the first.
                    yield {**last, self.stop: self.runs.button(who)}
            except Exception as error:
                said = shown(error)
                yield {self.note: note(said.message, "failed"), self.stop: self.runs.button(who)}
                raise said from None

    def _wanted(self, data: dict[Any, Any], who: str) -> ImagineRequest:
        settings = {name: data[control] for name, control in self.controls.items()}
        request = request_of_settings(settings, who)
        guided = self.ways.way_of(request) == "guided"
        return replace(request, start=data[self.start]) if guided and data[self.start] is not None else request

    def _make(self, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path) -> Updates:
        return (yield from self._imagine(self._wanted(data, who), stop, folder))

    def _vary(self, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path) -> Updates:
        made: Made = data[self.made]
        changes: dict[str, Any] = {"visitor": who, "seeds": self._wanted(data, who).seeds}
        if self.ways.way_of(made.request) == "guided" and made.latents is not None:
            latents = made.latents
            changes |= {"start": replace(latents, values=latents.values[data[self.picked]][None], seeds=()), **VARIED}
        return (yield from self._imagine(replace(made.request, **changes), stop, folder))

    def _imagine(self, request: ImagineRequest, stop: threading.Event, folder: Path) -> Updates:
        way = self.ways.way_of(request)
        request = replace(request, preview=max(1, request.steps // 8))
        forming = view.Forming(request.steps if way == "guided" else 0)
        pictures: dict[int, Picture] = {}
        latents: dict[int, np.ndarray] = {}
        began = looked = time.monotonic()
        result: ImagineResult | None = None
        yield {
            self.reading: view.reading(request.text, self._remarks(request, way, ())),
            self.video: gr.Video(visible=False),
        }
        with closing(imagine(self.context.engine, request)) as events:
            for event in events:
                if stop.is_set():
                    break
                if isinstance(event, ImagineResult):
                    result = event
                    break
                picture, index = event.picture, event.index
                if picture is not None and index is not None:
                    pictures[index] = picture
                    if isinstance(event, Formed) and event.latent is not None:
                        latents[index] = event.latent
                        forming.curves = event.losses
                        forming.add(index, picture, event.message.split(" of ")[0].lower())
                if time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    bar = progress_bar(event.done, event.total, event.message, event.seconds_left)
                    yield {self.note: bar, **self._so_far(pictures, forming, folder)}
        if result is None:
            return self._stopped(request, pictures, latents, forming, folder)
        self.ways.took(request, way, seconds := time.monotonic() - began)
        yield from self._stages(result, folder, stop)
        forming.finish(result)
        return self._whole(result, forming, folder, view.done_words(result, seconds))

    def _so_far(self, pictures: dict[int, Picture], forming: view.Forming, folder: Path) -> dict[Any, Any]:
        if not pictures:
            return {}
        found: dict[Any, Any] = {self.gallery: view.shelf([pictures[i] for i in sorted(pictures)], folder)}
        found |= {self.made: None, self.vary: gr.Button(interactive=False)}
        if forming.total:
            found[self.formed] = gr.HTML(forming.value(folder, with_pictures=False), index=0)
        return found

    def _stages(self, result: ImagineResult, folder: Path, stop: threading.Event) -> Iterator[dict[Any, Any]]:
        """A StackGAN's pictures as they sharpened, from its first stage on."""
        for pictures in list(zip(*result.stages, strict=True))[:-1]:
            yield {
                self.gallery: view.shelf(pictures, folder),
                self.note: progress_bar(0, 0, f"{pictures[0].image.width} px"),
            }
            stop.wait(STAGE)

    def _stopped(
        self,
        request: ImagineRequest,
        pictures: dict[int, Picture],
        latents: dict[int, np.ndarray],
        forming: view.Forming,
        folder: Path,
    ) -> dict[Any, Any]:
        """What was made until a Stop, to go on from."""
        order = sorted(latents)
        if not order or set(order) != set(pictures):
            found = self._so_far(pictures, forming, folder)
            return {**found, self.note: note("Stopped. What was made so far stays." if found else "Stopped.")}
        row = self.context.registry.find(request.checkpoint)
        sha256 = row.sha256 or hub.status(row).sha256 or ""
        seeds = tuple(request.seeds[i] for i in order)
        kept = Latents(request.space, np.stack([latents[i] for i in order]), row.id, sha256, seeds=seeds)
        forming.seen = {place: forming.seen[i] for place, i in enumerate(order)}
        forming.names = {place: forming.names[i] for place, i in enumerate(order)}
        forming.curves = [forming.curves[i] for i in order]
        shown_now = [pictures[i] for i in order]
        return self._shown(Made(request, seeds, kept), shown_now, forming, folder) | {
            self.note: note("Stopped. These are the pictures of the last look; vary one to go on from it.")
        }

    def _whole(self, result: ImagineResult, forming: view.Forming, folder: Path, words: str) -> dict[Any, Any]:
        request = result.request
        way = self.ways.way_of(request)
        made = Made(request, tuple(request.seeds), result.latents)
        return self._shown(made, result.pictures, forming, folder, result.scores) | {
            self.note: note(words),
            self.reading: view.reading(request.text, self._remarks(request, way, result.notes)),
        }

    def _shown(
        self,
        made: Made,
        pictures: list[Picture],
        forming: view.Forming,
        folder: Path,
        scores: list[float] | None = None,
    ) -> dict[Any, Any]:
        file = None
        if made.latents is not None:
            file = folder / f"{made.request.checkpoint}_latents.npz"
            save_latents(file, made.latents)
        return {
            self.gallery: view.shelf(pictures, folder, scores),
            self.formed: gr.HTML(forming.value(folder), index=0),
            self.latents: gr.DownloadButton(
                value=str(file) if file else None, interactive=file is not None, visible=file is not None
            ),
            self.vary: gr.Button(f"Vary seed {made.seeds[0]}", interactive=True),
            self.video: gr.Video(visible=False),
            self.made: made,
            self.picked: 0,
        }

    def _remarks(self, request: ImagineRequest, way: str, notes: tuple[str, ...]) -> list[str]:
        row = self.context.registry.find(request.checkpoint)
        known = self.ways.vocabulary(row, way, request.clip)
        return [*notes, strange(request.text, known)]

    # Variations and videos

    @sentences
    def around(self, made: Made | None, picked: int, count: int) -> Any:
        """The seeds that follow the chosen picture's, itself the first."""
        if made is None:
            return gr.skip(), gr.skip()
        count = min(max(int(count or 1), 4), MOST_SEEDS)
        return seeds_text([(made.seeds[picked] + n) % (MAX_SEED + 1) for n in range(count)]), count

    def _film(self, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path) -> Updates:
        a, made, known = self._wanted(data, who), data[self.made], None
        a = replace(a, seeds=a.seeds[:1])
        if made is not None and data[self.picked] < len(made.seeds) and made.differs_in_seeds(a):
            a = replace(a, seeds=(made.seeds[data[self.picked]],))
            if made.latents is not None:
                values = made.latents.values[data[self.picked]][None]
                known = replace(made.latents, values=values, seeds=())
        b = replace(a, text=data[self.to])
        file, began, looked = folder / f"{a.checkpoint}_between.mp4", time.monotonic(), 0.0
        result: BetweenResult | None = None
        with closing(between(self.context.engine, a, b, int(data[self.frames]), file, known)) as events:
            for event in events:
                if stop.is_set():
                    break
                if isinstance(event, BetweenResult):
                    result = event
                elif time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    yield {self.note: progress_bar(event.done, event.total, event.message, event.seconds_left)}
        if result is None:
            return {self.note: note("Stopped.")}
        seconds = time.monotonic() - began
        return {
            self.video: gr.Video(str(result.file), visible=True),
            self.reading: view.reading(f"{a.text} → {b.text}", ()),
            self.note: note(f"{result.frames} frames in {seconds:.1f} s. AI-generated."),
        }

    # Files and pictures chosen

    @sentences
    def dropped(self, file: str) -> list[Any]:
        """All controls as they were when a file was made here, or a saved latent to start from."""
        name, start = Path(file).name, None
        if file.lower().endswith(".npz"):
            start = load_latents(file, name)
            found: dict[str, Any] = {"way": "guided", "space": start.space}
            found |= {"checkpoint": start.checkpoint} if start.checkpoint else {}
            words = f"Guided pictures start from the latent in {name}. Press Imagine."
        else:
            about = read_provenance(file, name)
            found, words = settings_of(about), f"All settings of {name} are back. Press Imagine."
            if "start" in about:
                words = f"The settings of {name} are back; it began from a saved latent: drop that too."
        row = self.context.registry.find(found.get("checkpoint") or self.ways.best("guided").id)
        way = way_of(self.context.registry, row, found["way"])
        found |= {"checkpoint": gr.Dropdown(self.ways.choices(way), value=row.id), "way": way}
        updates = [found.get(name, gr.skip()) for name in self.controls]
        return [*updates, counted(found["seeds"]) if "seeds" in found else gr.skip(), start, note(words)]

    def selected(self, made: Made | None, event: gr.SelectData) -> list[Any]:
        """A picture of the gallery: how it formed, and its variations."""
        place = int(event.index)
        if made is None or place >= len(made.seeds):
            return [gr.skip(), gr.skip(), 0]
        return [gr.HTML(index=place), gr.Button(f"Vary seed {made.seeds[place]}", interactive=True), place]

    # When the page is opened

    def first(self) -> ImagineResult | None:
        """What the page shows before the first click: the first example by what is on disk, made once."""
        with self._first_lock:
            way, row = self.controls["way"].value, self.context.registry.find(self.controls["checkpoint"].value)
            if self._first is None and not self.ways.missing(row, way):
                for one in (row, *self.ways.helpers(row, way)):
                    self.context.engine.describe(one.id)  # opened first: the time that is told is that of drawing
                settings = {"text": self.controls["text"].value, "checkpoint": row.id, "way": way}
                request = request_of_settings(settings, "", preview=0)
                began = time.monotonic()
                *_, self._first = imagine(self.context.engine, request)
                self.ways.took(request, way, time.monotonic() - began)
        return self._first

    def rehearse(self) -> None:
        """Tries the other ways for a moment, so that the page can tell how long they take."""
        for way, settings in (("instant", {}), ("instant", {}), ("guided", {"steps": 15})):
            if way in self.ways.possible() and not self.ways.missing(row := self.ways.best(way), way):
                text = self.ways.vocabulary(row, way).examples[0]
                request = request_of_settings(
                    {"text": text, "checkpoint": row.id, "way": way, **settings}, "", preview=0
                )
                began = time.monotonic()
                deque(imagine(self.context.engine, request), maxlen=0)
                self.ways.took(request, way, time.monotonic() - began)

    @sentences
    def first_sight(self) -> Iterator[dict[Any, Any]]:
        result = self.first()
        if result is None:
            yield {self.note: note("Write a sentence and press Imagine.")}
            return
        forming = view.Forming(result.request.steps if result.losses else 0)
        with work_folder() as folder:
            forming.finish(result)
            yield self._whole(
                result, forming, folder, "A first look. Write a sentence of your own, or try one of these."
            )
