"""Pictures from seeds, truncation sweeps, style mixing and interpolations."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from ganhub import hub, imaging
from ganhub.errors import BadInput
from ganhub.latents import Latents, load_latents, save_latents
from ganhub.pipelines.requests import GenerateResult, InterpolateResult, Picture, Progress, Result, request_of
from ganhub.registry import Checkpoint
from ganhub.tabs import Context, _api
from ganhub.tabs._generate_directions import DirectionSliders
from ganhub.tabs._settings import AUTO, DEFAULTS, MAKES, RUNS, checked, request_of_settings, settings_of_request
from ganhub.tabs._widgets import (
    QUIET,
    card,
    checkpoint_picker,
    class_choices,
    counted,
    drawn,
    note,
    picker_choices,
    progress_bar,
    seed_row,
    sentences,
    shelf,
    shown,
    size_words,
    visitor,
    work_folder,
)

TITLE = "Generate"
ORDER = 10

FIRST = "stylegan2-portraits"
"""Shown when the page opens: small, and inside the package."""
EVERY = 0.3
"""Seconds between two looks at what has been made so far."""
ACCEPTED = [".png", ".jpg", ".jpeg", ".webp", ".mp4", ".npz"]
LAYERS = {"Pose and shape": "0-3", "Features": "4-7", "Colours and texture": "8-13"}
NO_STYLES = "This network has no truncation and no styles to mix: its random numbers go straight in."

ADDRESS = """
(...values) => {
  const names = %s, defaults = %s;
  const address = new URL(window.location.href.split(/[?#]/)[0]);
  address.searchParams.set('tab', 'generate');
  names.forEach((name, i) => {
    const value = values[i];
    if (value === null || value === undefined || String(value) === String(defaults[name])) return;
    address.searchParams.set(name, value);
  });
  window.history.replaceState(window.history.state, '', address);
  if (%s) {
    const copied = navigator.clipboard ? navigator.clipboard.writeText(address.href) : Promise.reject();
    copied.catch(() => window.prompt('Copy this link', address.href));
  }
}
"""

SHOW_RESULTS = "() => { if (innerWidth < 700) document.querySelector('#generate-note').scrollIntoView() }"


def build(context: Context) -> None:
    """Lay out the tab inside the current block and join it to its events."""
    tab = GenerateTab(context)
    tab.lay_out()
    tab.join()
    _api.publish(context, tab.picker.choice.value)


class GenerateTab:
    """Components of the tab, and what happens on each event."""

    def __init__(self, context: Context):
        self.context = context
        self.directions = DirectionSliders(context)
        self.controls: dict[str, Any] = {}
        """By the names of `DEFAULTS`."""
        self.groups: dict[str, Any] = {}
        """Controls that one kind of making has for itself."""
        self._facts: dict[str, dict[str, Any]] = {}
        self._stops: dict[str, set[threading.Event]] = {}
        """By visitor: what ends each of his runs. Gradio's own cancel would leave the page as it last was."""
        self._example: Result | None = None
        self._example_lock = threading.Lock()

    # Layout

    def lay_out(self) -> None:
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=300, elem_classes="controls"):
                self._lay_out_controls()
            with gr.Column(scale=8, min_width=300, elem_classes="results"):
                self._lay_out_results()

    def _lay_out_controls(self) -> None:
        controls = self.controls
        gr.Markdown("Every number is a picture. Choose a network and name some numbers.", elem_classes="lead")
        self.picker = checkpoint_picker(self.context, "generate", FIRST)
        controls["checkpoint"] = self.picker.choice
        row = self.context.registry.find(self.picker.choice.value)
        styles, classes = self.has_styles(row), class_choices(row, None)
        self.seeds = seed_row("generate", DEFAULTS["seeds"])
        controls["seeds"] = self.seeds.text
        with gr.Row(visible=False, elem_classes="loaded") as self.from_file:
            self.from_file_words = gr.Markdown()
            self.forget = gr.Button("Back to seeds", size="sm", min_width=110, scale=0)
        controls["make"] = gr.Radio(
            self.possible(row),
            value="generate",
            label="Make",
            info=None if styles else NO_STYLES,
            elem_id="generate-make",
        )
        self._lay_out_groups()
        controls["psi"] = gr.Slider(
            -2,
            2,
            0.7 if styles else 1.0,
            step=0.05,
            visible=styles,
            label="Truncation (psi)",
            info="0.7 is a good middle, 1 is all it knows",
            elem_id="generate-psi",
        )
        controls["label"] = gr.Dropdown(
            classes, value=0 if classes else None, visible=bool(classes), label="Class", elem_id="generate-class"
        )
        self.directions.lay_out(row)
        controls["moves"] = self.directions.moves
        with gr.Row(elem_classes="actions"):
            self.run = gr.Button("Generate", variant="primary", scale=3, elem_id="generate-run", min_width=120)
            self.random = gr.Button("Random", scale=2, elem_id="generate-random", min_width=90)
            self.stop = gr.Button("Stop", interactive=False, scale=1, elem_id="generate-stop", min_width=70)
        with gr.Accordion("More", open=False, elem_id="generate-more"):
            controls["cutoff"] = gr.Textbox(
                "",
                label="Truncate only the first layers (cutoff)",
                info="How many; empty for all",
                placeholder="all",
                visible=styles,
            )
            controls["noise_mode"] = gr.Dropdown(
                [("the same in every picture", "const"), ("from the seed", "random"), ("none", "none")],
                value="const",
                visible=styles,
                label="Noise",
                info="The finest detail: hair, grain, leaves",
            )
            controls["precision"] = gr.Radio(
                [("exact", "exact"), ("fast", "fast")],
                value="exact",
                label="Precision",
                info="Fast rounds more; no eye sees it. Not every network has it.",
            )
        with gr.Accordion("Settings from a file", open=False, elem_id="generate-file"):
            gr.Markdown("Drop a picture, a video or latents made here, and every control is set as it was.")
            self.drop = gr.File(
                file_types=ACCEPTED, type="filepath", height=110, show_label=False, elem_id="generate-drop"
            )

    def _lay_out_groups(self) -> None:
        controls = self.controls
        with gr.Column(visible=False, elem_classes="group") as self.groups["sweep"]:
            controls["psis"] = gr.Textbox(
                DEFAULTS["psis"], label="Truncation of each column (psi)", info="0 is the average picture, 1 untouched"
            )
        with gr.Column(visible=False, elem_classes="group") as self.groups["mix"]:
            controls["cols"] = gr.Textbox(
                DEFAULTS["cols"],
                label="In the style of these seeds",
                info="A column each; the seeds above are the rows",
                elem_id="generate-cols",
            )
            with gr.Row():
                self.part = gr.Dropdown(list(LAYERS), value="Pose and shape", label="Take over", min_width=150)
                controls["layers"] = gr.Textbox(
                    DEFAULTS["layers"],
                    label="Layers",
                    info="From 0, the coarsest",
                    min_width=110,
                    elem_id="generate-layers",
                )
        with gr.Column(visible=False, elem_classes="group") as self.groups["interpolate"]:
            with gr.Row():
                controls["frames"] = gr.Slider(
                    1, 240, DEFAULTS["frames"], step=1, label="Frames from seed to seed", min_width=140
                )
                controls["fps"] = gr.Slider(1, 60, DEFAULTS["fps"], step=1, label="Frames per second", min_width=140)
            controls["loop"] = gr.Checkbox(DEFAULTS["loop"], label="Back to the first seed, as an endless loop")
            with gr.Row():
                controls["easing"] = gr.Dropdown(
                    [("even", "none"), ("slow at seeds", "smooth")], value="none", label="Pace", min_width=110
                )
                controls["space"] = gr.Dropdown(
                    [("best", AUTO), ("z", "z"), ("w", "w")], value=AUTO, label="Latent", min_width=80
                )
                controls["method"] = gr.Dropdown(
                    [("best", AUTO), ("line", "linear"), ("great circle", "slerp"), ("curve", "spline")],
                    value=AUTO,
                    label="Path",
                    min_width=110,
                )

    def _lay_out_results(self) -> None:
        self.note = gr.HTML(note("A first look is on its way."), elem_id="generate-note")
        self.video = gr.Video(
            visible=False,
            autoplay=True,
            loop=True,
            show_label=False,
            buttons=["download"],
            interactive=False,
            elem_id="generate-video",
        )
        self.sheet = gr.Image(
            visible=False,
            type="filepath",
            format="png",
            show_label=False,
            buttons=["download", "fullscreen"],
            interactive=False,
            elem_id="generate-sheet",
        )
        self.gallery = gr.Gallery(
            format="png",
            columns=4,
            height="auto",
            object_fit="contain",
            label="AI-generated pictures",
            show_label=False,
            interactive=False,
            buttons=["download", "download_all", "fullscreen"],
            elem_id="generate-gallery",
        )
        with gr.Row(elem_classes="tools"):
            self.use = gr.Button("Use this seed", interactive=False, size="sm", elem_id="generate-use", min_width=120)
            self.latents = gr.DownloadButton(
                "Save latents (.npz)", interactive=False, size="sm", elem_id="generate-latents", min_width=150
            )
            self.link = gr.Button("Copy link", size="sm", elem_id="generate-link", min_width=100)
        self.made = gr.State([])
        """Provenance of each picture in the gallery."""
        self.picked = gr.State(None)
        """Provenance of the picture that was clicked."""
        self.loaded = gr.State(None)
        """Latents from a file, which stand in for the seeds."""
        self.restored = gr.State(False)
        """The page's address named settings."""

    # Events

    def join(self) -> None:
        controls, seeds, context = self.controls, self.seeds, self.context
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        checkpoint, make = controls["checkpoint"], controls["make"]
        values = list(controls.values())
        fitted = [self.picker.card, make, *(controls[n] for n in ("psi", "cutoff", "noise_mode", "label"))]
        fit: dict[str, Any] = {
            "fn": self.fit,
            "inputs": [checkpoint, make, controls["label"]],
            "outputs": [*fitted, checkpoint, *self.directions.outputs],
            **slow,
        }
        run: dict[str, Any] = {
            "inputs": {*values, *self.directions.sliders, self.loaded, self.restored},
            "outputs": [
                self.note, self.gallery, self.sheet, self.video, self.latents, self.use, self.stop, self.made,
                self.directions.moves,
            ],
            **slow,
        }  # fmt: skip
        moved = self.directions
        chosen = [*fitted, moved.moves, *moved.outputs]
        checkpoint.input(self.chose, fit["inputs"], chosen, **QUIET).then(**fit)
        groups = [*self.groups.values(), controls["psi"], moved.box]
        make.change(self.show_group, [checkpoint, make], groups, **QUIET)
        self.part.input(LAYERS.get, self.part, controls["layers"], **QUIET)

        opened = context.demo.load(self.opened, None, [*values, seeds.count, *moved.outputs, self.restored], **QUIET)
        first = opened.then(self.first_sight, **run)
        first.then(**fit)
        clicks = [
            self.run.click(self.make, **run),
            seeds.text.submit(self.make, **run),
            self.random.click(drawn, seeds.count, seeds.text, **QUIET).then(self.make, **run),
            gr.on([slider.release for slider in moved.sliders], self.make, trigger_mode="always_last", **run),
            moved.still.click(moved.stilled, checkpoint, [moved.moves, *moved.sliders], **QUIET).then(self.make, **run),
        ]  # fmt: skip
        self.run.click(None, None, None, js=SHOW_RESULTS)
        self.stop.click(self.end_runs, None, self.stop, **QUIET)
        for click in clicks:
            click.success(None, values, None, js=self._address(copy=False))
            click.then(context.refresh, None, context.status, **QUIET).then(**fit)
        self.link.click(None, values, None, js=self._address(copy=True))

        self.gallery.select(self.selected, self.made, [self.use, self.picked], **QUIET)
        self.use.click(
            self.use_seed, [self.picked, controls["psi"]], [seeds.text, seeds.count, controls["psi"]], **QUIET
        )
        from_file = [*values, seeds.count, *moved.outputs, self.loaded, self.from_file, self.from_file_words, self.note]
        self.drop.upload(self.dropped, [self.drop, checkpoint], from_file, **slow).success(**fit)
        self.forget.click(lambda: (None, gr.Row(visible=False)), None, [self.loaded, self.from_file], **QUIET)
        context.warm.append(self.example)

    def _address(self, copy: bool) -> str:
        return ADDRESS % (json.dumps(list(self.controls)), json.dumps(DEFAULTS), json.dumps(copy))

    # What fits a checkpoint

    @sentences
    def chose(self, checkpoint: str, make: str, label: int | None) -> list[Any]:
        """At once, from what the row tells: card and controls, and a psi that shows the network well."""
        row = self.context.registry.find(checkpoint)
        fitting = self._fitting(row, None, make, label, psi=self.good_psi(row))
        return [*fitting, "", *self.directions.shown(row, make)]

    @sentences
    def fit(self, checkpoint: str, make: str, label: int | None) -> list[Any]:
        """The same from the network itself, where its file is here; what the visitor chose stays."""
        row = self.context.registry.find(checkpoint)
        choices = gr.Dropdown(picker_choices(self.context.registry, "generate"))
        return [*self._fitting(row, self.facts(row), make, label), choices, *self.directions.offered(row, make)]

    def _fitting(
        self, row: Checkpoint, facts: dict[str, Any] | None, make: str, label: int | None, psi: float | None = None
    ) -> list[Any]:
        # Values are sent only where they must change: the visitor may have chosen something else in the meantime.
        styles, classes, possible = self.has_styles(row), class_choices(row, facts), self.possible(row)
        value: dict[str, dict[str, Any]] = {"make": {}, "label": {}, "psi": {} if psi is None else {"value": psi}}
        if make not in [name for _words, name in possible]:
            make = "generate"
            value["make"] = {"value": make}
        if label not in (range(len(classes)) if classes else [None]):
            value["label"] = {"value": 0 if classes else None}
        return [
            card(row, facts),
            gr.Radio(possible, info=None if styles else NO_STYLES, **value["make"]),
            gr.Slider(visible=styles and make != "sweep", **value["psi"]),
            gr.Textbox(visible=styles),
            gr.Dropdown(visible=styles),
            gr.Dropdown(classes, visible=bool(classes), **value["label"]),
        ]

    def facts(self, row: Checkpoint) -> dict[str, Any] | None:
        """What the loaded network tells of itself; None as long as its file is not here."""
        if row.id not in self._facts and hub.status(row).on_disk:
            self._facts[row.id] = self.context.engine.describe(row.id)
        return self._facts.get(row.id)

    def has_styles(self, row: Checkpoint) -> bool:
        """Whether a network has an intermediate latent: as it says itself, or as its family usually has."""
        known = self._facts.get(row.id)
        return known["w_dim"] > 0 if known else row.family.startswith("stylegan")

    def good_psi(self, row: Checkpoint) -> float:
        return 0.7 if self.has_styles(row) else 1.0

    def possible(self, row: Checkpoint) -> list[tuple[str, str]]:
        """(words, name) of what a network can make."""
        styles = self.has_styles(row)
        return [(words, name) for name, words in MAKES.items() if styles or name not in ("sweep", "mix")]

    @sentences
    def show_group(self, checkpoint: str, make: str) -> list[Any]:
        """The controls of one kind of making; a sweep has a list of psi instead of one."""
        row = self.context.registry.find(checkpoint)
        styles = self.has_styles(row)
        return [
            *(gr.Column(visible=name == make) for name in self.groups),
            gr.Slider(visible=styles and make != "sweep"),
            gr.Accordion(visible=make == "generate" and bool(self.directions.known(row))),
        ]

    # Making

    def make(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The primary button: what has been made so far, three times a second, then the whole."""
        settings = {name: data[control] for name, control in self.controls.items()}
        who, stop = visitor(request), threading.Event()
        self._stops.setdefault(who, set()).add(stop)
        try:
            row, moved = self.context.registry.find(settings["checkpoint"]), self.directions
            settings["moves"] = moved.said(row, settings["moves"], [data[slider] for slider in moved.sliders])
            waiting = {self.note: progress_bar(0, 0, "Waiting for a turn"), self.stop: gr.Button(interactive=True)}
            yield {**waiting, moved.moves: settings["moves"]}
            with work_folder() as folder:
                yield from self._make(settings, data[self.loaded], who, stop, folder)
        except Exception as error:
            said = shown(error)
            yield {self.note: note(said.message, "failed"), self.stop: gr.Button(interactive=False)}
            raise said from None
        finally:
            self._stops[who].discard(stop)
            if not self._stops[who]:
                self._stops.pop(who, None)

    def _make(
        self, settings: dict[str, Any], latents: Latents | None, who: str, stop: threading.Event, folder: Path
    ) -> Iterator[dict[Any, Any]]:
        row = self.context.registry.find(settings["checkpoint"])
        if not self.has_styles(row):
            settings = {**settings, "psi": 1.0, "cutoff": "", "noise_mode": "const"}
        make = settings["make"]
        request = request_of_settings(settings, who, folder / f"{row.id}_interpolation.mp4", latents)
        began = looked = time.monotonic()
        pictures: list[Picture] = []
        result: Any = None
        with closing(RUNS[make](self.context.engine, request)) as events:
            for event in events:
                if stop.is_set():
                    break
                if not isinstance(event, Progress):
                    result = event
                    break
                if event.picture is not None:
                    pictures = [event.picture] if make == "interpolate" else [*pictures, event.picture]
                if time.monotonic() - looked >= EVERY:
                    looked = time.monotonic()
                    bar = progress_bar(event.done, event.total, event.message, event.seconds_left)
                    yield {self.note: bar, **(self._so_far(make, pictures, folder) if pictures else {})}
        if result is None:
            made = self._so_far(make, pictures, folder) if pictures else {}
            yield {
                **made,
                self.note: note("Stopped. What was made so far stays."),
                self.stop: gr.Button(interactive=False),
            }
        else:
            yield {**self._whole(result, folder), self.note: note(done_words(result, time.monotonic() - began))}

    def end_runs(self, request: gr.Request) -> Any:
        """Stop: each run of this visitor ends at its next step, and its jobs leave the engine."""
        for stop in tuple(self._stops.get(visitor(request), ())):
            stop.set()
        return gr.Button(interactive=False)

    def _so_far(self, make: str, pictures: list[Picture], folder: Path) -> dict[Any, Any]:
        if make == "interpolate":
            frame = str(pictures[-1].save(folder))
            return {self.sheet: gr.Image(frame, visible=True), self.gallery: gr.Gallery(visible=False)}
        hidden = {self.sheet: gr.Image(visible=False), self.video: gr.Video(visible=False)}
        return {**hidden, self.gallery: shelf(pictures, folder), self.made: [p.provenance for p in pictures]}

    def _whole(self, result: Result, folder: Path) -> dict[Any, Any]:
        """Every output of a finished request; its files lie in `folder` until Gradio has taken them over."""
        interpolated = result if isinstance(result, InterpolateResult) else None
        sheet = interpolated.strip if interpolated else result.grid
        video = interpolated.video if interpolated else None
        file = None
        if isinstance(result, GenerateResult) and result.latents is not None:
            file = folder / f"{result.request.checkpoint}_latents.npz"
            save_latents(file, result.latents)
        return {
            self.gallery: shelf(result.pictures, folder),
            self.sheet: gr.Image(str(sheet.save(folder)) if sheet else None, visible=sheet is not None),
            self.video: gr.Video(str(video) if video else None, visible=video is not None),
            self.latents: gr.DownloadButton(value=str(file) if file else None, interactive=file is not None),
            self.use: gr.Button("Use this seed", interactive=False),
            self.stop: gr.Button(interactive=False),
            self.made: result.provenance,
        }

    # When the page is opened

    def example(self) -> Result | None:
        """What the page shows before the first click: the first seeds of the default checkpoint, made once."""
        row = self.context.registry.find(self.picker.choice.value)
        with self._example_lock:
            facts = self.facts(row)
            if self._example is None and facts is not None:
                label = 0 if facts["c_dim"] else None
                settings = {**DEFAULTS, "checkpoint": row.id, "psi": self.good_psi(row), "label": label}
                *_, self._example = RUNS["generate"](self.context.engine, request_of_settings(settings, ""))
        return self._example

    def opened(self, request: gr.Request) -> list[Any]:
        """Controls as the page's address names them."""
        found, _refused = checked(dict(request.query_params), self.context.registry)
        if found:
            found = {**DEFAULTS, "checkpoint": self.picker.choice.value, **found}
        return [*self._restored(found), bool(found)]

    @sentences
    def first_sight(self, data: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """What an address that names settings asks for, where it is quickly made; else the example."""
        row = self.context.registry.find(data[self.controls["checkpoint"]])
        here = hub.status(row).on_disk
        if data[self.restored] and here and data[self.controls["make"]] != "interpolate":
            yield from self.make(data, request)
            return
        words = "A first look. Press Generate for more, or Random for a surprise."
        if data[self.restored]:
            fetched = "" if here else f" {row.title} ({size_words(row.bytes)}) is fetched first."
            words = f"All is set as in the link. Press Generate.{fetched}"
        example = self.example()
        with work_folder() as folder:
            yield {**(self._whole(example, folder) if example else {}), self.note: note(words if example else "")}

    def _restored(self, found: dict[str, Any]) -> list[Any]:
        """Updates of every control, and of the count of seeds."""
        row = self.context.registry.find(found.get("checkpoint", self.picker.choice.value))
        updates: dict[str, Any] = {name: gr.update(value=found[name]) for name in found}
        if found:
            possible = self.possible(row)
            make = found.get("make", "generate")
            updates["make"] = gr.Radio(possible, value=make if make in dict(possible).values() else "generate")
            classes = class_choices(row, self._facts.get(row.id))
            label = found.get("label")
            if label is not None and label not in range(len(classes)):
                classes = [*classes, (f"class {label}", label)]
            updates["label"] = gr.Dropdown(classes, value=label, visible=bool(classes))
        count = counted(found["seeds"]) if "seeds" in found else gr.skip()
        sliders = [gr.skip()] * len(self.directions.outputs)
        if found:
            sliders = self.directions.shown(row, found.get("make", "generate"), found.get("moves", ""))
            updates.setdefault("moves", "")
        return [*(updates.get(name, gr.skip()) for name in self.controls), count, *sliders]

    # Files dropped, pictures chosen

    @sentences
    def dropped(self, file: str, checkpoint: str) -> list[Any]:
        """All controls as they were when a file was made."""
        latents = None
        settings: dict[str, Any]
        if file.lower().endswith(".npz"):
            latents = load_latents(file, Path(file).name)
            settings = {"make": "generate", "checkpoint": latents.checkpoint or checkpoint, "psi": latents.psi}
            settings |= {"cutoff": latents.cutoff, "label": latents.label}
        else:
            settings = settings_of_request(request_of(imaging.read_provenance(file, Path(file).name)))
        found, refused = checked(settings, self.context.registry)
        if "checkpoint" in refused:
            raise BadInput(f"This file was made with '{settings['checkpoint'][:60]}', which is not in this registry.")
        words = f"All settings of {Path(file).name} are back. Press Generate."
        if refused:
            words = f"The settings of {Path(file).name} are back, but for {', '.join(refused)}: beyond this page."
        banner = f"**{len(latents)} latents** ({latents.space}) from {Path(file).name} are used." if latents else ""
        return [*self._restored(found), latents, gr.Row(visible=latents is not None), banner, note(words)]

    def selected(self, made: list[dict[str, Any]], event: gr.SelectData) -> tuple[Any, Any]:
        about = made[event.index] if event.index < len(made) else {}
        seed = about.get("seed", about.get("row"))
        words = "Use this seed" if seed is None else f"Use seed {seed}"
        return gr.Button(words, interactive=seed is not None), about

    def use_seed(self, about: dict[str, Any], psi: float) -> tuple[str, int, float]:
        """The seed of the clicked picture, and its psi."""
        seed = about.get("seed", about.get("row"))
        return str(seed), 1, float(about.get("psi", psi))


def done_words(result: Result, seconds: float) -> str:
    """What was made, and in what time."""
    took = f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    if isinstance(result, InterpolateResult):
        fps = result.about.get("fps", 30)
        return f"{result.frames} frames, {result.frames / fps:.1f} s of video, made in {took}. AI-generated."
    count = len(result.pictures)
    return f"{count} picture{'s' if count != 1 else ''} in {took}. Click one to use its seed. AI-generated."
