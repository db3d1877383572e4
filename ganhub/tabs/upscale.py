"""Any photo larger, by several networks side by side: a region first, then the whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from ganhub import hub
from ganhub.errors import BadInput
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale_files import FilesResult, VideoResult
from ganhub.registry import Checkpoint
from ganhub.tabs import Context, _upscale_api
from ganhub.tabs import _upscale_view as view
from ganhub.tabs._runs import Runs
from ganhub.tabs._upscale_preview import MOST_MODELS, VIDEOS, Preview, Wanted, photo_of, preview, scale_of
from ganhub.tabs._upscale_whole import shown_whole, whole
from ganhub.tabs._widgets import (
    QUIET,
    card,
    checkpoint_picker,
    divider,
    note,
    picker_choices,
    progress_bar,
    sentences,
    shown,
    size_words,
    visitor,
    work_folder,
)

TITLE = "4x super-resolution"
ORDER = 20

EXAMPLES = {
    path.stem.replace("_", " ").capitalize(): path
    for path in (Path(__file__).parent / "examples" / f"{name}.png" for name in ("cat", "coffee", "fruit"))
}
EVERY = 0.3
"""Seconds between two looks at how far a run is."""
MOST_FILES = 20
NOTHING = "The registry has no network that enlarges pictures; CONTRIBUTING.md tells how to add one."

SHOW_RESULTS = "() => { if (innerWidth < 700) document.querySelector('#upscale-note').scrollIntoView() }"


def build(context: Context) -> None:
    """Lay out the tab inside the current block and join it to its events."""
    if not context.registry.for_task("upscale"):
        gr.Markdown(NOTHING)
        return
    tab = UpscaleTab(context)
    tab.lay_out()
    tab.join()
    _upscale_api.publish(context, tab.picker.choice.value)


class UpscaleTab:
    """Components of the tab, and what happens on each event."""

    def __init__(self, context: Context):
        self.context = context
        self.runs = Runs()
        self._first: Preview | None = None
        self._first_lock = threading.Lock()

    # Layout

    def lay_out(self) -> None:
        gr.Markdown(
            "Your photo, four times larger, by several networks side by side. Drop one, or several, or a short video; "
            "or try one of these.",
            elem_classes="lead",
        )
        with gr.Row(elem_classes="workbench intake"):
            with gr.Column(scale=5, min_width=300):
                self._lay_out_drop()
            with gr.Column(scale=8, min_width=300):
                self._lay_out_examples()
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=300, elem_classes="controls"):
                self._lay_out_controls()
            with gr.Column(scale=8, min_width=300, elem_classes="results"):
                self._lay_out_results()

    def _lay_out_drop(self) -> None:
        self.drop = gr.File(
            file_count="multiple", file_types=["image", *VIDEOS], type="filepath", show_label=False, height=96,
            elem_id="upscale-drop",
        )  # fmt: skip

    def _lay_out_examples(self) -> None:
        self.examples = gr.Gallery(
            [(_icon(path), name) for name, path in EXAMPLES.items()], columns=len(EXAMPLES), height="auto",
            allow_preview=False, object_fit="cover", show_label=False, interactive=False, buttons=[], format="png",
            elem_id="upscale-examples", elem_classes="examples",
        )  # fmt: skip

    def _lay_out_controls(self) -> None:
        self.finder = view.finder()
        with gr.Row(elem_classes="actions"):
            self.run = gr.Button("Enlarge", variant="primary", scale=3, elem_id="upscale-run", min_width=120)
            self.stop = gr.Button("Stop", interactive=False, scale=1, elem_id="upscale-stop", min_width=70)
        self.picker = checkpoint_picker(self.context, "upscale")
        row = self.context.registry.find(self.picker.choice.value)
        self.others = gr.Dropdown(
            self._others(row.id), value=self._good_company(row), multiselect=True, max_choices=MOST_MODELS - 1,
            label="Compare with", info=f"Up to {MOST_MODELS - 1} more; bicubic is always there",
            elem_id="upscale-others",
        )  # fmt: skip
        self.small = gr.Checkbox(
            False, label="Make it small first", elem_id="upscale-small",
            info="Shrinks a good photo, enlarges it again and measures both against the photo itself",
        )  # fmt: skip
        with gr.Accordion("More", open=False, elem_id="upscale-more"):
            self._lay_out_more(row)

    def _lay_out_more(self, row: Checkpoint) -> None:
        with gr.Row():
            # Text: an empty number becomes 0 where it is first shown inside an accordion.
            self.scale = gr.Textbox(
                "", label="Times larger", info="Empty for all it can", placeholder="all", min_width=120,
                elem_id="upscale-scale",
            )  # fmt: skip
            self.width = gr.Textbox(
                "", label="Or width in pixels", info="Of the result", min_width=120, elem_id="upscale-width"
            )
        blend, words = self._blend(row)
        self.blend = gr.Slider(0, 1, 0, step=0.05, label="Blend", info=words, visible=blend, elem_id="upscale-blend")
        self.precision = gr.Radio(
            [("exact", "exact"), ("fast", "fast")], value="exact", label="Precision",
            info="Fast rounds more; no eye sees it.",
        )  # fmt: skip
        self.full = gr.Radio(
            [("as measured", False), ("all that the network sees", True)], value=False, label="Overlap of tiles",
            info="Measured: no seam above half a level of 255. All: none at all, for up to four times the work.",
        )  # fmt: skip
        gr.Markdown("The true picture, if you have it: the results are measured against it.", elem_classes="lead")
        self.true = gr.File(file_types=["image"], type="filepath", height=96, show_label=False, elem_id="upscale-true")

    def _lay_out_results(self) -> None:
        self.note = gr.HTML(note("A first look is on its way."), elem_id="upscale-note")
        self.divider = divider("upscale")
        self.panes = view.panes()
        self.figures = gr.HTML("", elem_id="upscale-figures")
        self.whole = gr.Image(
            visible=False, type="filepath", format="png", show_label=False, interactive=False,
            buttons=["fullscreen"], elem_id="upscale-whole",
        )  # fmt: skip
        self.video = gr.Video(
            visible=False, show_label=False, interactive=False, buttons=["download"], elem_id="upscale-video"
        )
        self.download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="upscale-download")
        self.notes = gr.HTML("", elem_id="upscale-notes")
        self.example = gr.State(next(iter(EXAMPLES)))
        """What stands in until a photo is dropped."""
        self.centre = gr.State((0.5, 0.5))
        """Of the region, in shares of the photo."""
        self.seen = gr.State(None)
        """What the preview on the page is of."""

    # Events

    def join(self) -> None:
        context, checkpoint = self.context, self.picker.choice
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        settings = [checkpoint, self.others, self.small, self.true, self.scale, self.width, self.blend]
        settings += [self.precision, self.full]
        region = [self.note, self.divider, self.panes, self.figures, self.finder, self.notes, self.seen, self.stop]
        look: dict[str, Any] = {
            "fn": self.look,
            "inputs": {self.drop, self.example, self.centre, self.seen, *settings},
            "outputs": region,
            **slow,
        }
        run = {**look, "fn": self.enlarge, "outputs": [*region, self.whole, self.video, self.download]}
        fit: dict[str, Any] = {
            "fn": self.fit,
            "inputs": [checkpoint, self.others],
            "outputs": [self.picker.card, checkpoint, self.others, self.blend],
            **QUIET,
        }
        taken = [self.drop, self.finder, self.centre, self.whole, self.video, self.download, self.note]
        context.demo.load(self.first_sight, None, region, **slow)
        for dropped in (self.drop.upload, self.drop.clear, self.drop.delete):
            dropped(self.took, [self.drop, self.example], taken, **slow).success(**look)
        self.examples.select(self.picked, None, [self.drop, self.example], **QUIET).then(
            self.took, [self.drop, self.example], taken, **slow
        ).success(**look)
        self.finder.select(self.moved, None, self.centre, **QUIET).then(**look)
        checkpoint.input(**fit).then(**look)
        for control in (self.others, self.small, self.precision):
            control.input(**look)
        self.blend.release(**look)
        self.true.upload(**look)
        self.true.clear(**look)
        for size in (self.scale, self.width):
            size.submit(**look)
            size.blur(**look)
        self.run.click(**run).then(context.refresh, None, context.status, **QUIET).then(**fit)
        self.run.click(None, None, None, js=SHOW_RESULTS)
        self.stop.click(self.end_runs, None, self.stop, **QUIET)
        context.warm.append(self.first)

    # What fits a checkpoint

    def _others(self, checkpoint: str) -> list[tuple[str, str]]:
        return [choice for choice in picker_choices(self.context.registry, "upscale") if choice[1] != checkpoint]

    def _good_company(self, row: Checkpoint) -> list[str]:
        """What is compared without being asked: the next network that is inside the package or on disk."""
        rows = (self.context.registry.find(name) for _, name in self._others(row.id))
        return [other.id for other in rows if hub.status(other).on_disk][:1]

    def _blend(self, row: Checkpoint) -> tuple[bool, str]:
        """Whether a network can be blended with another one, and what the ends of the slider are."""
        if "blend" not in row.components:
            return False, ""
        return True, f"0 is {row.title}, 1 is {self.context.registry.find(row.components['blend']).title}"

    @sentences
    def fit(self, checkpoint: str, others: list[str]) -> list[Any]:
        row = self.context.registry.find(checkpoint)
        blend, words = self._blend(row)
        kept = [other for other in others or () if other != checkpoint]
        return [
            card(row, {"scale": scale_of(row)}),
            gr.Dropdown(picker_choices(self.context.registry, "upscale")),
            gr.Dropdown(self._others(checkpoint), value=kept),
            gr.Slider(visible=blend, info=words) if blend else gr.Slider(visible=False, value=0),
        ]

    # The photo and the region

    def picked(self, event: gr.SelectData) -> tuple[None, str]:
        return None, list(EXAMPLES)[event.index]

    def took(self, files: list[str] | None, example: str) -> Iterator[dict[Any, Any]]:
        """A photo was dropped or chosen: it is shown, and what was made of another one goes."""
        try:
            if files and len(files) > MOST_FILES:
                raise BadInput(f"The page takes at most {MOST_FILES} files at a time, not {len(files)}.")
            with work_folder() as folder:
                yield {
                    self.finder: gr.HTML(view.finder_value(photo_of(_source(files, example)), folder)),
                    self.centre: (0.5, 0.5),
                    self.whole: gr.Image(None, visible=False),
                    self.video: gr.Video(None, visible=False),
                    self.download: gr.DownloadButton(visible=False),
                    self.note: progress_bar(0, 0, "A first look"),
                }
        except Exception as error:
            said = shown(error)
            yield {self.drop: (files or [])[:-1] or None, self.note: note(said.message, "failed")}
            raise said from None

    def moved(self, event: gr.EventData) -> tuple[float, float]:
        x, y = (min(max(float(event._data.get(key, 0.5)), 0.0), 1.0) for key in "xy")
        return x, y

    # Making

    def look(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The region by every network that is here; a new look ends the one before."""
        who = visitor(request)
        with self.runs.started(who, look=True) as stop:
            try:
                if data[self.seen] == self._key(data):
                    return
                with work_folder() as folder:
                    yield from self._look(data, who, stop, folder, fetch=False)
                if stop.is_set() and self.runs.newest(who, stop):
                    yield {self.note: note("Stopped."), self.stop: self.runs.button(who)}
            except Exception as error:
                yield self._failed(said := shown(error), who)
                raise said from None

    def enlarge(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The primary button: the region, where it is not there yet, then the whole."""
        who = visitor(request)
        with self.runs.started(who) as stop:
            try:
                yield {self.note: progress_bar(0, 0, "Waiting for a turn"), self.stop: gr.Button(interactive=True)}
                with work_folder() as folder:
                    if data[self.seen] != self._key(data):
                        yield from self._look(data, who, stop, folder, fetch=True)
                    if not stop.is_set():
                        yield {self.stop: gr.Button(interactive=True)}
                        yield from self._whole(data, who, stop, folder)
                if stop.is_set():
                    yield {self.note: note("Stopped."), self.stop: self.runs.button(who)}
            except Exception as error:
                yield self._failed(said := shown(error), who)
                raise said from None

    def _failed(self, said: gr.Error, who: str) -> dict[Any, Any]:
        return {self.note: note(said.message, "failed"), self.stop: self.runs.button(who)}

    def end_runs(self, request: gr.Request) -> Any:
        self.runs.end(visitor(request))
        return gr.Button(interactive=False)

    def _wanted(self, data: dict[Any, Any]) -> Wanted:
        return Wanted(
            checkpoint=data[self.picker.choice],
            others=tuple(data[self.others] or ()),
            scale=view.number_of(data[self.scale], "How many times larger", float),
            width=view.number_of(data[self.width], "The width", int),
            blend=data[self.blend] or 0.0,
            precision=data[self.precision],
            full=bool(data[self.full]),
            small=bool(data[self.small]),
            true=data[self.true],
        )

    def _key(self, data: dict[Any, Any]) -> tuple[Any, ...]:
        return (str(_source(data[self.drop], data[self.example])), self._wanted(data), tuple(data[self.centre]))

    def _look(
        self, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path, fetch: bool
    ) -> Iterator[dict[Any, Any]]:
        wanted = self._wanted(data)
        yield {self.note: progress_bar(0, 0, "Opening the photo"), self.stop: gr.Button(interactive=True)}
        photo = photo_of(_source(data[self.drop], data[self.example]))
        rows = [self.context.registry.find(model) for model in wanted.models]
        here = [row.id for row in rows if fetch or hub.status(row).on_disk]
        began, looked, made = time.monotonic(), 0.0, None
        events = preview(self.context.engine, photo, wanted, data[self.centre], ask=here, visitor=who)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if stop.is_set():
                    return
                if isinstance(event, Preview):
                    made = event
                    yield self._region(made, folder)
                elif time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    bar = progress_bar(event.done, event.total, event.message, event.seconds_left)
                    yield {self.note: bar, self.stop: gr.Button(interactive=True)}
        assert made is not None, "there is bicubic at least"
        words = f"The region in {time.monotonic() - began:.1f} s. Enlarge makes the whole picture."
        if missing := [] if fetch else [row for row in rows if row.id not in here]:
            words = f"Enlarge fetches {_listed(missing)} first."
        yield {
            self.note: note(words),
            self.seen: self._key(data) if made.whole else None,
            self.stop: self.runs.button(who),
        }

    def _region(self, made: Preview, folder: Path) -> dict[Any, Any]:
        return {
            self.divider: gr.ImageSlider(view.divider_value(made, folder), label=view.divider_label(made)),
            self.panes: view.panes_value(made, folder),
            self.figures: view.table(made) + view.sentences_of(made.remarks),
            self.finder: gr.HTML(box=list(made.box)),
            self.notes: view.sentences_of(made.notes),
        }

    def _whole(self, data: dict[Any, Any], who: str, stop: threading.Event, folder: Path) -> Iterator[dict[Any, Any]]:
        wanted, began, looked = self._wanted(data), time.monotonic(), 0.0
        result: Any = None
        files = data[self.drop] or [_source(None, data[self.example])]
        events = whole(self.context.engine, files, wanted, who, folder)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if stop.is_set():
                    return
                if not isinstance(event, Progress):
                    result = event
                elif time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    yield {self.note: progress_bar(event.done, event.total, event.message, event.seconds_left)}
        seconds = time.monotonic() - began
        if isinstance(result, VideoResult):
            words = f"{result.frames} frames of {result.size[0]} × {result.size[1]} in {seconds:.0f} s. AI-generated."
            yield {
                self.video: gr.Video(str(result.file), visible=True),
                self.note: note(words),
                self.stop: self.runs.button(who),
            }
            return
        yield {**self._files(result, seconds, folder), self.stop: self.runs.button(who)}

    def _files(self, result: FilesResult, seconds: float, folder: Path) -> dict[Any, Any]:
        """What is done, ready to be downloaded; the page shows the whole of a single photo."""
        file = result.archive or result.done[0][1]
        words = f"{len(result.done)} photos in {seconds:.0f} s. AI-generated."
        picture, notes = None, [said for found in result.notes.values() for said in found]
        if result.archive is None:
            size, picture = shown_whole(file, folder)
            words = f"{size[0]} × {size[1]} pixels in {seconds:.1f} s. AI-generated."
            if picture is None:
                notes.append("The picture is too large to be shown here; the file has all of it.")
        else:
            notes = [f"{name}: {said}" for name, found in result.notes.items() for said in found]
        notes += [f"{name}: {why}" for name, why in result.failed]
        return {
            self.whole: gr.Image(str(picture) if picture else None, visible=picture is not None),
            self.download: gr.DownloadButton(
                f"Download {file.name} ({size_words(file.stat().st_size)})", value=str(file), visible=True
            ),
            self.notes: view.sentences_of(notes),
            self.note: note(words),
        }

    # When the page is opened

    def first(self) -> Preview | None:
        """What the page shows before the first click: the first example by what is on disk, made once."""
        with self._first_lock:
            if self._first is None:
                photo = photo_of(next(iter(EXAMPLES.values())))
                wanted = Wanted(self.picker.choice.value, tuple(self.others.value))
                here = [m for m in wanted.models if hub.status(self.context.registry.find(m)).on_disk]
                *_, self._first = preview(self.context.engine, photo, wanted, ask=here)
        return self._first

    @sentences
    def first_sight(self) -> Iterator[dict[Any, Any]]:
        made = self.first()
        row = self.context.registry.find(self.picker.choice.value)
        with work_folder() as folder:
            words = "A first look. Drop a photo, or press Enlarge for the whole of this one."
            if not hub.status(row).on_disk:
                words = f"Enlarge fetches {_listed([row])} first."
            photo = photo_of(next(iter(EXAMPLES.values())))
            yield {
                **(self._region(made, folder) if made else {}),
                self.finder: gr.HTML(view.finder_value(photo, folder), box=list(made.box) if made else None),
                self.note: note(words),
            }


def _source(files: list[str] | None, example: str) -> str | Path:
    """The photo that the preview is of: what was dropped last."""
    return files[-1] if files else EXAMPLES.get(example) or next(iter(EXAMPLES.values()))


def _listed(rows: list[Checkpoint]) -> str:
    return ", ".join(f"{row.title} ({size_words(row.bytes)})" for row in rows)


def _icon(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.fit(image.convert("RGB"), (160, 160), Image.Resampling.LANCZOS)
