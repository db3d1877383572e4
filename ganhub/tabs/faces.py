"""Faces: from a selfie to an aligned, aged, edited and interpolated one; nothing of it is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ganhub import hub
from ganhub.data.landmarks import Located
from ganhub.errors import GanHubError
from ganhub.imaging import save_image
from ganhub.pipelines.faces import (
    AgeRequest,
    AgeResult,
    age,
    align,
    chosen,
    find_faces,
    marked,
    need_consent,
    plain,
    read_face_photo,
)
from ganhub.pipelines.faces_ages import AgesRequest, AgesResult, ages
from ganhub.pipelines.requests import Progress
from ganhub.tabs import Context, _faces_latent
from ganhub.tabs import _faces_api as api
from ganhub.tabs import _faces_view as view
from ganhub.tabs._faces_layout import EXAMPLES, Layout, example_file, years_of
from ganhub.tabs._faces_store import Kept, Store
from ganhub.tabs._runs import Runs
from ganhub.tabs._upscale_view import number_of, sentences_of
from ganhub.tabs._widgets import (
    QUIET,
    card,
    note,
    picker_choices,
    progress_bar,
    sentences,
    shown,
    size_words,
    visitor,
    work_folder,
)

TITLE = "Faces"
ORDER = 15
EVERY = 0.3
"""Seconds between two looks at how far a run is."""
NOTHING = "The registry has no network that changes ages; CONTRIBUTING.md tells how to add one."
SHOW_RESULTS = "() => { if (innerWidth < 700) document.querySelector('#faces-note').scrollIntoView() }"

Updates = Iterator[dict[Any, Any]]


def build(context: Context) -> None:
    """Lay out the tab inside the current block and join it to its events."""
    if not context.registry.for_task("age"):
        gr.Markdown(NOTHING)
        return
    tab = FacesTab(context)
    tab.layout.lay_out(tab.store.soon)
    tab.join()
    _faces_latent.build(context, tab)
    api.publish(context, tab.store, tab.layout.picker.choice.value)


class FacesTab:
    """What happens on each event."""

    def __init__(self, context: Context):
        self.context, self.layout = context, Layout(context)
        self.runs, self.store = Runs(), Store()
        self._first: AgeResult | None = None
        self._first_lock = threading.Lock()

    def join(self) -> None:
        it, context = self.layout, self.context
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        photo = [it.people, it.every, it.hand, it.by_hand, it.size, it.turn, it.crop, it.source, it.note]
        made = [it.aged, it.divider, it.download, it.strip, it.video, it.notes]
        place: dict[str, Any] = {
            "inputs": {it.every, it.hand, it.size, it.turn},
            "outputs": [it.people, it.by_hand, it.every, it.crop, it.note],
            **slow,
        }
        settings = {it.picker.choice, it.consent, it.direction, it.years, it.strength, it.source, it.mark, it.precision}
        run: dict[str, Any] = {"inputs": settings, "outputs": [it.note, it.stop, it.crop, *made], **slow}
        fit: dict[str, Any] = {
            "fn": self.fit,
            "inputs": [it.picker.choice, it.direction],
            "outputs": [it.picker.card, it.picker.choice, it.direction, it.years],
            **QUIET,
        }
        context.demo.load(self.first_sight, None, [it.note, it.crop, *made], **slow)
        context.demo.unload(self.left)
        it.consent.input(lambda agreed: gr.Column(visible=bool(agreed)), it.consent, it.intake, **QUIET)
        taken = [it.drop, *photo, *made]
        it.drop.input(self.took, {it.drop, it.consent, it.how}, taken, **slow)
        it.how.input(self.sought, it.how, [*photo, *made], **slow)
        it.examples.select(self.picked, it.how, taken, **slow)
        it.people.select(self.pointed, **place)
        it.every.input(self.placed, **place)
        it.hand.input(self.placed, **place)
        it.size.release(self.placed, **place)
        it.turn.release(self.placed, **place)
        it.picker.choice.input(**fit)
        it.run.click(self.change, **run).then(context.refresh, None, context.status, **QUIET).then(**fit)
        it.through.click(self.pass_through, **run).then(context.refresh, None, context.status, **QUIET).then(**fit)
        for button in (it.run, it.through):
            button.click(None, None, None, js=SHOW_RESULTS)
        it.stop.click(self.end_runs, None, it.stop, **QUIET)
        it.delete.click(self.forget, None, [it.stop, *taken], **slow)
        context.warm.append(self.first)

    # The photo and its faces

    def took(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """A photo was dropped or taken: its faces are found."""
        dropped: bytes | None = data[self.layout.drop]
        if dropped is None:
            return
        who = visitor(request)
        try:
            need_consent(data[self.layout.consent])
            yield {self.layout.note: progress_bar(0, 0, "Looking for faces")}
            photo = read_face_photo(dropped, api.MOST_PIXELS)
            found = find_faces(plain(photo), data[self.layout.how] or None)
            yield self._new(self.store.put(who, photo, found), "")
        except Exception as error:
            said = shown(error)
            yield {self.layout.drop: None, self.layout.note: note(said.message, "failed")}
            raise said from None

    def picked(self, how: str, event: gr.SelectData, request: gr.Request) -> Updates:
        name = list(EXAMPLES)[event.index]
        photo = read_face_photo(example_file(name))
        found = find_faces(plain(photo), how or None)
        yield self._new(self.store.put(visitor(request), photo, found, example=True), str(EXAMPLES[name][1]))

    def sought(self, how: str, request: gr.Request) -> Updates:
        """Faces are found in another way, which may have to be fetched first."""
        try:
            kept = self.store.get(visitor(request))
            yield {self.layout.note: progress_bar(0, 0, "Looking for faces")}
            found = find_faces(plain(kept.photo), how or None)
            new = self._new(self.store.put(visitor(request), kept.photo, found, kept.example), "")
            yield {part: value for part, value in new.items() if part not in (self.layout.drop, self.layout.source)}
        except Exception as error:
            said = shown(error)
            yield {self.layout.note: note(said.message, "failed")}
            raise said from None

    def _new(self, kept: Kept, source: str) -> dict[Any, Any]:
        """Everything of the photo that was there before goes."""
        it, picture = self.layout, plain(kept.photo)
        if not kept.found:
            kept.by_hand = (picture.width / 2, picture.height / 2, 0.35 * min(picture.size), 0.0)
        updates = self._crop(kept)
        updates[it.note] = note(view.found_words(kept)) if kept.found else note(view.found_words(kept), "failed")
        return {
            **self._cleared(),
            **updates,
            it.drop: None,
            it.people: gr.HTML(view.people_value(picture, len(kept.found)), marks=view.marks(kept)),
            it.every: gr.Checkbox(False, visible=len(kept.found) > 1),
            it.hand: gr.Checkbox(not kept.found, visible=True),
            it.by_hand: gr.Column(visible=not kept.found),
            it.size: 35,
            it.turn: 0,
            it.source: source,
        }

    def _cleared(self) -> dict[Any, Any]:
        """What was made of a photo, gone from the page."""
        it = self.layout
        return {
            it.aged: None,
            it.divider: gr.ImageSlider(None, visible=False),
            it.download: gr.DownloadButton(visible=False, value=None),
            it.strip: gr.Image(None, visible=False),
            it.video: gr.Video(None, visible=False),
            it.notes: "",
        }

    def pointed(self, data: dict[Any, Any], event: gr.EventData, request: gr.Request) -> Updates:
        """A face was chosen in the photo, or its middle was marked there."""
        kept, told = self.store.get(visitor(request)), event._data or {}
        if "face" in told:
            which = int(told["face"])
            kept.which, kept.by_hand = (which if 0 <= which < len(kept.found) else 0), None
            data = {**data, self.layout.every: False, self.layout.hand: False}
        elif kept.by_hand is not None:
            x, y = (min(max(float(told.get(key, 0.5)), 0.0), 1.0) for key in "xy")
            width, height = kept.photo.size
            kept.by_hand = (x * width, y * height, *kept.by_hand[2:])
        yield from self.placed(data, request)

    def placed(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """The frames and the crop, as the controls have them."""
        it = self.layout
        try:
            kept = self.store.get(visitor(request))
            if data[it.hand]:
                x, y = kept.by_hand[:2] if kept.by_hand else _middle(kept)
                kept.by_hand = (x, y, data[it.size] / 100 * min(kept.photo.size), float(data[it.turn] or 0))
            else:
                kept.by_hand = None
                if data[it.every] != (kept.which is None):
                    kept.which = None if data[it.every] else 0
            yield {
                it.people: gr.HTML(marks=view.marks(kept)),
                it.by_hand: gr.Column(visible=bool(data[it.hand])),
                it.every: kept.which is None,
                it.note: note("This is how the face is cut out." if _faces(kept) else view.found_words(kept)),
                **self._crop(kept),
            }
        except Exception as error:
            said = shown(error)
            yield {it.note: note(said.message, "failed")}
            raise said from None

    def _crop(self, kept: Kept) -> dict[Any, Any]:
        """The first of the chosen faces as FFHQ would have it; none where there is none yet."""
        faces = _faces(kept)
        if not faces:
            return {self.layout.crop: None}
        try:
            picture = align(plain(kept.photo), chosen(faces, None)[0]).picture
        except GanHubError as error:
            return {self.layout.crop: None, self.layout.note: note(error.message, "failed")}
        with kept.files() as folder:
            return {self.layout.crop: str(save_image(picture, folder / "face.png"))}

    # Making

    def change(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """The primary button."""
        yield from self._run(data, request, self._change)

    def pass_through(self, data: dict[Any, Any], request: gr.Request) -> Updates:
        """The strip and the video."""
        yield from self._run(data, request, self._pass)

    def _run(self, data: dict[Any, Any], request: gr.Request, work: Callable[..., Updates]) -> Updates:
        it, who = self.layout, visitor(request)
        with self.runs.started(who) as stop:
            try:
                yield {it.note: progress_bar(0, 0, "Waiting for a turn"), it.stop: gr.Button(interactive=True)}
                kept = self.store.get(who)
                last: dict[Any, Any] = {}
                for update in work(kept, self._request(kept, data, who), stop):
                    if last:
                        yield last
                    last = update
                if stop.is_set():
                    last = {**last, it.note: note("Stopped.")}
                # All at once: of two updates in quick succession the page may lose the first.
                yield {**last, it.stop: self.runs.button(who)}
            except Exception as error:
                said = shown(error)
                yield {it.note: note(said.message, "failed"), it.stop: self.runs.button(who)}
                raise said from None

    def _request(self, kept: Kept, data: dict[Any, Any], who: str) -> AgeRequest:
        it = self.layout
        row = self.context.registry.find(data[it.picker.choice])
        return AgeRequest(
            row.id,
            kept.photo,
            bool(data[it.consent]) or kept.example,
            target=None if years_of(row) is None else float(data[it.years]),
            direction=data[it.direction] or "older",
            source=number_of(data[it.source], "The age in the photo", float),
            face=None,
            faces=chosen(_faces(kept), None),
            strength=data[it.strength] / 100,
            mark=bool(data[it.mark]),
            precision=data[it.precision],
            visitor=who,
        )

    def _change(self, kept: Kept, request: AgeRequest, stop: threading.Event) -> Updates:
        began, result = time.monotonic(), None
        for event in self._followed(age(self.context.engine, request), stop):
            if isinstance(event, dict):
                yield event
            else:
                result = event
        if result is None:
            return
        with kept.files() as folder:
            words = f"Done in {time.monotonic() - began:.1f} s. Only the face has changed. AI-generated."
            yield self._shown(result, folder, words)

    def _shown(self, result: AgeResult, folder: Path, words: str) -> dict[Any, Any]:
        it, picture = self.layout, result.picture
        about, profile = picture.provenance, picture.profile
        file = picture.save(folder)
        before = replace(picture, image=view.beside(plain(result.request.photo)), provenance={}, name="before")
        after = replace(picture, image=view.beside(picture.image), provenance=about, name="after", profile=profile)
        return {
            it.crop: str(save_image(view.near(result.before[0]), folder / "face.png")),
            it.aged: str(save_image(view.near(result.after[0]), folder / "face_changed.png", about)),
            it.divider: gr.ImageSlider((str(before.save(folder)), str(after.save(folder))), visible=True),
            it.download: gr.DownloadButton(
                f"Download ({size_words(file.stat().st_size)})", value=str(file), visible=True
            ),
            it.notes: sentences_of(result.notes),
            it.note: note(words),
        }

    def _pass(self, kept: Kept, request: AgeRequest, stop: threading.Event) -> Updates:
        it, result = self.layout, None
        with kept.files() as folder:
            wanted = AgesRequest(**{**vars(request), "target": None}, file=folder / "ages.mp4")
            for event in self._followed(ages(self.context.engine, wanted), stop):
                if isinstance(event, dict):
                    yield event
                else:
                    result = event
            if result is None:
                return
            assert isinstance(result, AgesResult)
            yield {
                it.strip: gr.Image(str(result.strip.save(folder)), visible=True),
                it.video: gr.Video(str(result.video), visible=True),
                it.notes: sentences_of(result.notes),
                it.note: note(f"{len(result.pictures)} pictures and a video. AI-generated."),
            }

    def _followed(self, events: Iterator[Any], stop: threading.Event) -> Iterator[Any]:
        """Updates of the progress line, then the result; nothing more once a visitor stopped."""
        looked = 0.0
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if stop.is_set():
                    return
                if not isinstance(event, Progress):
                    yield event
                elif time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    bar = progress_bar(event.done, event.total, event.message, event.seconds_left)
                    yield {self.layout.note: bar, self.layout.stop: gr.Button(interactive=True)}

    def end_runs(self, request: gr.Request) -> Any:
        self.runs.end(visitor(request))
        return gr.Button(interactive=False)

    # Nothing stays

    @sentences
    def forget(self, request: gr.Request) -> dict[Any, Any]:
        """Everything of this visitor goes at once: from memory, from the folder and from the page."""
        it, who = self.layout, visitor(request)
        self.runs.end(who)
        was = self.store.forget(who)
        return {
            **self._cleared(),
            it.stop: gr.Button(interactive=False),
            it.drop: None,
            it.people: gr.HTML(None, marks=None),
            it.every: gr.Checkbox(False, visible=False),
            it.hand: gr.Checkbox(False, visible=False),
            it.by_hand: gr.Column(visible=False),
            it.crop: None,
            it.source: "",
            it.note: note("Your photos are deleted." if was else "There is no photo of yours here."),
        }

    def left(self, request: gr.Request) -> None:
        self.runs.end(visitor(request))
        self.store.leave(visitor(request))

    # What fits a network

    @sentences
    def fit(self, checkpoint: str, direction: str) -> list[Any]:
        row = self.context.registry.find(checkpoint)
        years, ways = years_of(row), ["older", "younger"]
        if years is None and hub.status(row).on_disk:
            ways = self.context.engine.describe(row.id)["directions"]
        choices = [(way.capitalize(), way) for way in ways]
        low, high = years or (10, 90)
        return [
            card(row),
            gr.Dropdown(picker_choices(self.context.registry, "age")),
            gr.Radio(choices, value=direction if direction in ways else ways[0], visible=years is None),
            gr.Slider(low, high, visible=years is not None),
        ]

    def face_of(self, request: gr.Request, preprocess: dict[str, Any] | None = None) -> tuple[Image.Image, bool]:
        """The chosen face of a visitor's photo as a network wants it, and whether it came with the app.

        Raises:
            BadInput: there is no photo any more, or no face is chosen in it.
        """
        kept = self.store.get(visitor(request))
        face = chosen(_faces(kept), None)[0]
        return align(plain(kept.photo), face, preprocess).picture, kept.example

    # When the page is opened

    def first(self) -> AgeResult | None:
        """What the page shows before the first click: the first example by a network that is on disk, made once."""
        with self._first_lock:
            row = self.context.registry.find(self.layout.picker.choice.value)
            if self._first is None and hub.status(row).on_disk:
                name = next(iter(EXAMPLES))
                photo = read_face_photo(example_file(name))
                years = years_of(row)
                request = AgeRequest(row.id, photo, True, None if years is None else 70.0, source=EXAMPLES[name][1])
                *_, self._first = age(self.context.engine, request)
        return self._first

    @sentences
    def first_sight(self) -> Updates:
        result = self.first()
        words = "A first look. Say that you agree and drop your photo, or choose one of these."
        if result is None:
            row = self.context.registry.find(self.layout.picker.choice.value)
            yield {self.layout.note: note(f"The first change fetches {row.title} ({size_words(row.bytes)}).")}
            return
        with work_folder() as folder:
            yield {
                **self._shown(result, folder, words),
                self.layout.download: gr.DownloadButton(visible=False),
            }


def _faces(kept: Kept) -> list[Located]:
    """The faces that a visitor chose."""
    if kept.by_hand is not None:
        return [marked(*kept.by_hand)]
    return kept.found if kept.which is None else kept.found[kept.which : kept.which + 1]


def _middle(kept: Kept) -> tuple[float, float]:
    """Where a frame begins that is moved by hand."""
    faces = _faces(kept)
    if not faces:
        return kept.photo.size[0] / 2, kept.photo.size[1] / 2
    x, y = faces[0].square.place(0.5, 0.54)
    return float(x), float(y)
