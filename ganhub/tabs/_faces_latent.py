"""The part of the Faces tab below the ageing: a face in a generator's latent space, and what can be done with it there.

What was found of somebody is kept like a photo: in memory, for half an hour, by the tab's store.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ganhub import hub
from ganhub.errors import BadInput
from ganhub.imaging import save_image
from ganhub.imaging.mark import mark
from ganhub.latents import MAX_SEED, Latents, load_latents, parse_layers, save_latents
from ganhub.pipelines.edit import EditRequest, EditResult, MorphRequest, MorphResult, edit, morph
from ganhub.pipelines.faces import need_consent
from ganhub.pipelines.imagine import ImagineRequest, ImagineResult, imagine
from ganhub.pipelines.project import ProjectRequest, ProjectResult, project
from ganhub.pipelines.requests import Picture, Progress
from ganhub.registry import Checkpoint
from ganhub.tabs import Context, _faces_latent_api
from ganhub.tabs._faces_latent_layout import Held, LatentLayout, directions_words, side_of
from ganhub.tabs._faces_store import delete
from ganhub.tabs._upscale_view import sentences_of
from ganhub.tabs._widgets import QUIET, SLIDERS, card, note, progress_bar, sentences, shown, visitor

EVERY = 0.3
"""Seconds between two looks at how far a run is."""
GUIDED_STEPS = 60
FRAMES = 90
NEAR = 256
"""Smaller pictures are shown so large."""

Updates = Iterator[dict[Any, Any]]


def build(context: Context, tab: Any) -> None:
    """Lay out the part inside the current block and join it to its events.

    Args:
        tab: the Faces tab, for its `store`, its `runs`, `face_of(request, preprocess)` and `layout.consent`.
    """
    part = LatentPart(context, tab)
    if not part.generators():
        return
    part.lay_out()
    part.join()
    _faces_latent_api.publish(part, tab.store, part.checkpoint.value)


class LatentPart(LatentLayout):
    """What happens on each event; the components are in `LatentLayout`.

    Args:
        tab: as in `build`.
    """

    def __init__(self, context: Context, tab: Any):
        super().__init__(context)
        self.tab = tab

    def join(self) -> None:
        context = self.context
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        shown_now = [self.note, self.target, self.now, self.figures, self.save, self.changes, *self.sliders]
        run: dict[str, Any] = {"outputs": [*shown_now, self.stop, self.strip, self.video], **slow}
        search = {self.checkpoint, self.steps, self.space, self.start, self.tab.layout.consent}
        moved: dict[str, Any] = {
            "fn": self.moved,
            "inputs": {self.checkpoint, self.layers, *self.sliders},
            "outputs": [self.note, self.now, self.save],
            **slow,
        }
        self.checkpoint.input(self.fit, self.checkpoint, [self.card, self.none, self.changes, *self.sliders], **QUIET)
        self.find.click(self.found, search, **run).then(context.refresh, None, context.status, **QUIET)
        for slider in self.sliders:
            slider.release(**moved)
        self.layers.submit(**moved)
        self.mix.click(self.mixed, {self.checkpoint, self.other, self.mix_layers}, **run)
        self.guide.click(self.guided, {self.checkpoint, self.sentence}, **run)
        self.sentence.submit(self.guided, {self.checkpoint, self.sentence}, **run)
        self.morph.click(self.morphed, {self.checkpoint}, **run)
        self.load.upload(self.loaded, {self.load, self.checkpoint}, [self.checkpoint, self.card, *shown_now], **slow)
        for button, which in ((self.keep_a, "a"), (self.keep_b, "b")):
            button.click(self._keeper(which), None, [self.note, self.morph], **slow)
        self.stop.click(self.tab.end_runs, None, self.stop, **QUIET)
        everything = [*shown_now, self.strip, self.video, self.morph]
        self.tab.layout.delete.click(self.emptied, self.checkpoint, everything, **QUIET)

    # Finding

    def found(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """The face that was chosen above, in the generator."""
        yield from self._run(request, lambda who, stop: self._found(data, request, who, stop))

    def _found(self, data: dict[Any, Any], request: gr.Request, who: str, stop: threading.Event) -> Updates:
        row = self.context.registry.find(data[self.checkpoint])
        picture, example = self.tab.face_of(request, {"size": side_of(row), **row.preprocess})
        agreed = bool(data[self.tab.layout.consent]) or example
        need_consent(agreed)
        with self._files(who) as folder:
            yield {self.target: str(save_image(_near(picture), folder / "target.png")), self.now: None}
        wanted = ProjectRequest(
            row.id, picture, agreed, int(data[self.steps]), data[self.space], data[self.start],
            preview=max(1, int(data[self.steps]) // 20), visitor=who,
        )  # fmt: skip
        result, latent = None, None
        for event in self._followed(project(self.context.engine, wanted), stop):
            if isinstance(event, dict):
                yield event
            elif isinstance(event, ProjectResult):
                result = event
            elif event.latent is not None:
                latent = event.latent
                with self._files(who) as folder:
                    yield {self.now: self._saved(event.picture, folder)}
        self.tab.store.get(who)  # a photo that was deleted meanwhile leaves no latent
        if result is not None:
            self.tab.store.keep_latents(who, self._begun(who, result.latents))
            words = f"Found in {result.figures['seconds']:.0f} s. Sliders, seeds and sentences go on from here."
            yield self._all_of(who, row, result.latents, result.picture, words) | {
                self.figures: figures_words(result.figures) + sentences_of(result.notes)
            }
        elif latent is not None:
            kept = Latents("w+", latent[None].astype(np.float32), row.id, row.sha256 or "")
            self.tab.store.keep_latents(who, self._begun(who, kept))
            yield from self._drawn(who, row, kept, "Stopped. You can go on from how far it came.")

    def _begun(self, who: str, latents: Latents) -> Held:
        """A new place; what was kept for a morph stays where it is of the same generator."""
        try:
            before: Held = self.tab.store.latents_of(who)
        except BadInput:
            return Held(latents, latents)
        kept = {
            n: v for n in ("a", "b") if (v := getattr(before, n)) is not None and v.checkpoint == latents.checkpoint
        }
        return Held(latents, latents, **kept)

    # Changing

    @sentences
    def moved(self, data: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """All sliders at once, from the latent that was found."""
        who = visitor(request)
        row = self.context.registry.find(data[self.checkpoint])
        held: Held = self.tab.store.latents_of(who)
        self._check(held, row)
        layers = parse_layers(data[self.layers]) if (data[self.layers] or "").strip() else None
        known = self.directions(row)
        moves = [(one.id, float(data[slider])) for one, slider in zip(known, self.sliders, strict=False)]
        moves = [move for move in moves if move[1]]
        *_, result = edit(self.context.engine, EditRequest(row.id, held.base, moves, layers, visitor=who))
        assert isinstance(result, EditResult)
        self.tab.store.keep_latents(who, replace(held, now=result.latents))
        with self._files(who) as folder:
            words = ", ".join(f"{self.context.registry.find(name).title} {far:+g}" for name, far in moves)
            return {
                self.now: self._saved(result.pictures[0], folder),
                self.save: self._download(result.latents, folder),
                self.note: note(words or "As it was found."),
            }

    def mixed(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """Layers of a seed's latent, or of B, in place of one's own."""
        yield from self._run(request, lambda who, stop: self._mixed(data, who))

    def _mixed(self, data: dict[Any, Any], who: str) -> Updates:
        row = self.context.registry.find(data[self.checkpoint])
        held: Held = self.tab.store.latents_of(who)
        self._check(held, row)
        text = str(data[self.other] or "").strip()
        other: Latents | int | None = held.b if text.upper() == "B" else None
        if text.upper() == "B" and other is None:
            raise BadInput("There is no B yet; keep a face as B first, or write a seed.")
        if other is None:
            if text and not (text.isdecimal() and int(text) <= MAX_SEED):
                raise BadInput(f"'{text[:20]}' is no seed; write a whole number, B, or nothing for a random one.")
            other = int(text) if text else secrets.randbelow(1_000_000)
        wanted = EditRequest(row.id, held.now, mix=other, mix_layers=parse_layers(data[self.mix_layers]), visitor=who)
        *_, result = edit(self.context.engine, wanted)
        self.tab.store.keep_latents(who, replace(held, base=result.latents, now=result.latents))
        words = f"Mixed with seed {other}." if isinstance(other, int) else "Mixed with B."
        yield self._all_of(who, row, result.latents, result.pictures[0], words)

    def guided(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """Towards a sentence, as a CLIP sees it."""
        yield from self._run(request, lambda who, stop: self._guided(data, who, stop))

    def _guided(self, data: dict[Any, Any], who: str, stop: threading.Event) -> Updates:
        row = self.context.registry.find(data[self.checkpoint])
        held: Held = self.tab.store.latents_of(who)
        self._check(held, row)
        wanted = ImagineRequest(
            row.id, data[self.sentence] or "", way="guided", clip=self._clip(row), steps=GUIDED_STEPS, space="w+",
            start=held.now, start_weight=0.05, mean_weight=0.0, preview=10, visitor=who,
        )  # fmt: skip
        for event in self._followed(imagine(self.context.engine, wanted), stop):
            if isinstance(event, dict):
                yield event
            elif isinstance(event, ImagineResult):
                assert event.latents is not None
                new = replace(event.latents, seeds=())
                self.tab.store.keep_latents(who, replace(held, base=new, now=new))
                yield from self._drawn(who, row, new, f"{GUIDED_STEPS} steps towards “{wanted.text}”.")
            else:
                with self._files(who) as folder:
                    picture = replace(event.picture, image=mark(event.picture.image))
                    yield {self.now: self._saved(picture, folder)}

    def _clip(self, row: Checkpoint) -> str:
        """What sees faces and reads sentences: the row's own, else one that knows anything.

        Raises:
            BadInput: there is none on this machine.
        """
        if "clip" in row.components:
            return row.components["clip"]
        known = [one for one in self.context.registry if one.family == "clip" and not one.dataset and not one.planned]
        here = [one.id for one in known if hub.status(one).on_disk]
        if not here:
            raise BadInput(
                "Sentences about faces need a CLIP that knows them: `ganhub pull clip-vit-b-32`. The one inside knows "
                "fruit alone."
            )
        return here[0]

    def morphed(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """A strip of six and a video from A to B."""
        yield from self._run(request, lambda who, stop: self._morphed(data, who, stop))

    def _morphed(self, data: dict[Any, Any], who: str, stop: threading.Event) -> Updates:
        row = self.context.registry.find(data[self.checkpoint])
        held: Held = self.tab.store.latents_of(who)
        if held.a is None or held.b is None:
            raise BadInput("A morph goes from A to B; keep a face as each first.")
        self._check(held, row)
        with self._files(who) as folder:
            wanted = MorphRequest(row.id, held.a, held.b, frames=FRAMES, file=folder / "morph.mp4", visitor=who)
            for event in self._followed(morph(self.context.engine, wanted), stop):
                if isinstance(event, dict):
                    yield event
                elif isinstance(event, MorphResult):
                    yield {
                        self.strip: gr.Image(str(event.strip.save(folder)), visible=True),
                        self.video: gr.Video(str(event.video), visible=True),
                        self.note: note(f"{len(event.pictures)} steps and {FRAMES} frames. AI-generated."),
                    }

    def _keeper(self, which: str) -> Callable[..., Any]:
        @sentences
        def keep(request: gr.Request) -> list[Any]:
            who = visitor(request)
            held: Held = replace(self.tab.store.latents_of(who), **{which: self.tab.store.latents_of(who).now})
            self.tab.store.keep_latents(who, held)
            both = held.a is not None and held.b is not None
            return [note(f"Kept as {which.upper()}."), gr.Button(interactive=both)]

        return keep

    # Files, and what fits a generator

    @sentences
    def loaded(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """A latent that was saved before."""
        who, file = visitor(request), Path(data[self.load])
        try:
            saved = load_latents(file, "The file")
        finally:
            delete(file)
        names = [name for _, name in self.generators()]
        row = self.context.registry.find(saved.checkpoint or data[self.checkpoint])
        if row.id not in names:
            raise BadInput(f"These latents belong to '{row.id}', which draws no faces; use them in another tab.")
        *_, result = edit(self.context.engine, EditRequest(row.id, saved, visitor=who))
        values = result.latents.values[:1]
        latents = replace(result.latents, values=values)
        self.tab.store.keep_latents(who, self._begun(who, latents))
        updates = self._all_of(who, row, latents, result.pictures[0], "Loaded.")
        yield {**updates, self.checkpoint: row.id, self.card: card(row), self.target: None, self.figures: ""}

    @sentences
    def fit(self, checkpoint: str) -> list[Any]:
        row = self.context.registry.find(checkpoint)
        known = self.directions(row)
        return [card(row), directions_words(row, len(known)), gr.Column(visible=False), *self._sliders(row)]

    def emptied(self, checkpoint: str) -> dict[Any, Any]:
        """The page as it was before a face was found; the tab deletes what is behind it."""
        return {
            self.note: note("Your face from above is sought in the generator."),
            self.target: None,
            self.now: None,
            self.figures: "",
            self.save: gr.DownloadButton(value=None, visible=False),
            self.changes: gr.Column(visible=False),
            self.strip: gr.Image(None, visible=False),
            self.video: gr.Video(None, visible=False),
            self.morph: gr.Button(interactive=False),
            **dict(zip(self.sliders, self._sliders(self.context.registry.find(checkpoint)), strict=True)),
        }

    def _sliders(self, row: Checkpoint) -> list[Any]:
        known = self.directions(row)
        return [
            gr.Slider(value=0, label=known[i].title, visible=True) if i < len(known) else gr.Slider(0, visible=False)
            for i in range(SLIDERS)
        ]

    def _check(self, held: Held, row: Checkpoint) -> None:
        """Raises:
        BadInput: the visitor's latent is of another generator.
        """
        if held.base.checkpoint != row.id:
            raise BadInput(f"Your face was found in '{held.base.checkpoint}'; choose that, or find it in this one.")

    @contextmanager
    def _files(self, who: str) -> Iterator[Path]:
        """A private folder: the photo's where there is one."""
        try:
            shelf = self.tab.store.get(who)
        except BadInput:
            shelf = self.tab.store.answer(who)
        with shelf.files() as folder:
            yield folder

    def _saved(self, picture: Picture, folder: Path) -> str:
        return str(save_image(_near(picture.image), folder / f"{picture.name}.png", picture.provenance))

    def _download(self, latents: Latents, folder: Path) -> gr.DownloadButton:
        file = folder / f"{latents.checkpoint}_face.npz"
        save_latents(file, latents)
        return gr.DownloadButton(value=str(file), visible=True)

    def _all_of(self, who: str, row: Checkpoint, latents: Latents, picture: Picture, words: str) -> dict[Any, Any]:
        """A new place: its picture, sliders in the middle, its file."""
        with self._files(who) as folder:
            return {
                self.now: self._saved(picture, folder),
                self.save: self._download(latents, folder),
                self.changes: gr.Column(visible=True),
                self.note: note(words),
                **dict(zip(self.sliders, self._sliders(row), strict=True)),
            }

    def _drawn(self, who: str, row: Checkpoint, latents: Latents, words: str) -> Updates:
        *_, result = edit(self.context.engine, EditRequest(row.id, latents, visitor=who))
        yield self._all_of(who, row, latents, result.pictures[0], words)

    # Runs

    def _run(self, request: gr.Request, work: Callable[[str, threading.Event], Updates]) -> Updates:
        who = visitor(request)
        with self.tab.runs.started(who) as stop:
            try:
                yield {self.note: progress_bar(0, 0, "Waiting for a turn"), self.stop: gr.Button(interactive=True)}
                last: dict[Any, Any] = {}
                for update in work(who, stop):
                    if last:
                        yield last
                    last = update
                if stop.is_set() and self.changes not in last:
                    last = {**last, self.note: note("Stopped.")}
                # All at once: of two updates in quick succession the page may lose the first.
                yield {**last, self.stop: self.tab.runs.button(who)}
            except Exception as error:
                said = shown(error)
                yield {self.note: note(said.message, "failed"), self.stop: self.tab.runs.button(who)}
                raise said from None

    def _followed(self, events: Iterator[Any], stop: threading.Event) -> Iterator[Any]:
        """Updates of the progress line, pictures on their way, the result; nothing more once a visitor stopped."""
        looked = 0.0
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if stop.is_set():
                    return
                on_its_way = isinstance(event, Progress)
                if not on_its_way or (event.picture is not None and hasattr(event, "latent")):
                    yield event
                if on_its_way and time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    yield {self.note: progress_bar(event.done, event.total, event.message, event.seconds_left)}


def figures_words(figures: dict[str, Any]) -> str:
    """HTML: how near a picture came, and how far others are."""
    others = figures["others"]
    return (
        f"<p class='fine'>{figures['measure']}: <b>{figures['distance']:g}</b>. It began at {figures['start']:g}; "
        f"random pictures of this generator are {others['least']:g} to {others['median']:g} away (nearest and median "
        f"of 16). Pixels differ by {figures['rmse']:.0f} of 255 levels (root mean square).</p>"
    )


def _near(picture: Image.Image) -> Image.Image:
    """Small pictures are enlarged by whole factors, so that the browser does not blur them."""
    factor = NEAR // max(picture.size)
    return (
        picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        if factor > 1
        else picture
    )
