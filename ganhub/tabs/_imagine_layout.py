"""Where everything of the text-to-image tab stands."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ganhub.latents import parse_seeds
from ganhub.pipelines.imagine import SPACES
from ganhub.pipelines.sentences import MAX_LENGTH
from ganhub.registry import Checkpoint
from ganhub.tabs import Context
from ganhub.tabs import _imagine_view as view
from ganhub.tabs._imagine_ways import DEFAULTS, MOST_FRAMES, MOST_SEEDS, MOST_STEPS, Ways
from ganhub.tabs._widgets import card, note

ACCEPTED = [".png", ".jpg", ".jpeg", ".webp", ".mp4", ".npz"]


class Layout:
    """Components of the tab; `controls` by the names of an `ImagineRequest`'s settings."""

    def __init__(self, context: Context, ways: Ways):
        self.context, self.ways = context, ways
        self.controls: dict[str, Any] = {}
        self.groups: dict[tuple[str, ...], Any] = {}
        """Controls of some ways only, by those."""

    def lay_out(self) -> None:
        way = self.ways.first()
        row = self.ways.best(way)
        known = self.ways.vocabulary(row, way)
        with gr.Column(elem_classes="ask"):
            gr.Markdown("Write what you want to see.", elem_classes="lead")
            with gr.Row(elem_classes="actions"):
                self.controls["text"] = gr.Textbox(
                    known.examples[0], show_label=False, label="Sentence", lines=1, max_lines=4, scale=8, min_width=220,
                    placeholder=f"A sentence of at most {MAX_LENGTH} characters", elem_id="imagine-text",
                )  # fmt: skip
                self.run = gr.Button("Imagine", variant="primary", scale=2, min_width=120, elem_id="imagine-run")
                self.stop = gr.Button("Stop", interactive=False, scale=1, min_width=70, elem_id="imagine-stop")
            self.chips = view.chips("imagine-chips", known)
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=300, elem_classes="controls"):
                self._lay_out_controls(way, row)
            with gr.Column(scale=8, min_width=300, elem_classes="results"):
                self._lay_out_results()
        self.made = gr.State(None)
        self.picked = gr.State(0)
        """Place of the picture that was clicked."""
        self.start = gr.State(None)
        """A saved latent to start from."""
        self.whole = gr.State(False)
        """The chip was a whole sentence."""

    def _lay_out_controls(self, way: str, row: Checkpoint) -> None:
        controls = self.controls
        best = {one: self.ways.best(one).id for one in self.ways.possible()}
        count = len(parse_seeds(DEFAULTS["seeds"]))
        controls["way"] = gr.Radio(
            self.ways.labels(best, count, DEFAULTS["steps"]), value=way, label="Way", elem_id="imagine-way"
        )
        with gr.Column(visible=way == "instant", elem_classes="group") as self.groups["instant",]:
            controls["strength"] = gr.Slider(
                -10, 10, DEFAULTS["strength"], step=0.5, label="Strength", elem_id="imagine-strength",
                info="How far along the line; below 0 away from the sentence",
            )  # fmt: skip
        with gr.Group(), gr.Row():
            controls["seeds"] = gr.Textbox(
                DEFAULTS["seeds"], label="Seeds", info="Each is another picture of the sentence", max_lines=2, scale=3,
                min_width=150, elem_id="imagine-seeds",
            )  # fmt: skip
            self.count = gr.Number(
                count, label="Pictures", info=f"1 to {MOST_SEEDS}", precision=0, minimum=1, maximum=MOST_SEEDS, scale=1,
                min_width=90, elem_id="imagine-count",
            )  # fmt: skip
        controls["checkpoint"] = gr.Dropdown(
            self.ways.choices(way), value=row.id, label="Checkpoint", filterable=True, elem_id="imagine-checkpoint"
        )
        self.needs = gr.HTML(self.ways.needs(row, way), elem_id="imagine-needs")
        self.card = gr.HTML(card(row), elem_classes="card-holder")
        with gr.Accordion("From this sentence to another", open=False, elem_id="imagine-between"):
            self.to = gr.Textbox("", label="Another sentence", placeholder="a green pear", elem_id="imagine-to")
            self.frames = gr.Slider(10, MOST_FRAMES, 60, step=1, label="Frames", info="30 a second")
            self.film = gr.Button("Make the video", elem_id="imagine-film")
        with gr.Accordion("More", open=False, elem_id="imagine-more"):
            self._lay_out_more(way)
        with gr.Accordion("Settings from a file", open=False, elem_id="imagine-file"):
            gr.Markdown("Drop a picture or a video made here, and every control is set as it was; or saved latents, "
                        "and guided pictures start from the first of them.")  # fmt: skip
            self.drop = gr.File(
                file_types=ACCEPTED, type="filepath", height=110, show_label=False, elem_id="imagine-drop"
            )

    def _lay_out_more(self, way: str) -> None:
        controls = self.controls
        with gr.Column(visible=way == "stackgan", elem_classes="group") as self.groups["stackgan",]:
            controls["noise"] = gr.Checkbox(
                DEFAULTS["noise"], label="Draw from all that the sentence may mean",
                info="Off: from the middle of it, so that seeds differ less",
            )  # fmt: skip
        with gr.Column(visible=way != "stackgan", elem_classes="group") as self.groups["guided", "instant"]:
            controls["clip"] = gr.Dropdown(
                [("the one that fits best", ""), *self.ways.clips()], value="", label="CLIP that looks"
            )
            with gr.Row():
                controls["away"] = gr.Textbox(
                    "", label="Away from", info="What it should not look like", min_width=150, elem_id="imagine-away"
                )
                controls["away_weight"] = self._number("away_weight", 0, 3, 0.05, "Weight of that")
            controls["psi"] = self._number("psi", -1, 1.5, 0.05, "Truncation (psi)", "Of the start: 1 is all it knows")
        with gr.Column(visible=way == "guided", elem_classes="group") as self.groups["guided",]:
            self._lay_out_guided()

    def _lay_out_guided(self) -> None:
        controls = self.controls
        with gr.Row():
            controls["steps"] = gr.Slider(
                1, MOST_STEPS, DEFAULTS["steps"], step=1, label="Steps", min_width=140, elem_id="imagine-steps"
            )
            controls["lr"] = self._number("lr", 0.005, 0.5, 0.005, "Learning rate")
        controls["space"] = gr.Radio(
            list(SPACES), value=DEFAULTS["space"], label="Latent that is moved",
            info="w+ moves each layer for itself, s each channel (StyleGAN2): fits more, strays further",
        )  # fmt: skip
        with gr.Row():
            controls["candidates"] = gr.Slider(
                1, 128, DEFAULTS["candidates"], step=1, label="Candidates", info="The best one is the start",
                min_width=140,
            )  # fmt: skip
            controls["cutouts"] = gr.Slider(
                0, 32, DEFAULTS["cutouts"], step=1, label="Cut-outs", info="Random parts that CLIP sees", min_width=140
            )
        with gr.Row():
            controls["mean_weight"] = self._number("mean_weight", 0, 1, 0.01, "Pull to the average")
            controls["start_weight"] = self._number("start_weight", 0, 1, 0.01, "Pull to the start")
        controls["noise_weight"] = self._number(
            "noise_weight", 0, 1, 0.01, "Noise on the latent", "Gone by the middle of the steps"
        )

    def _number(
        self, name: str, low: float, high: float, step: float, label: str, info: str | None = None
    ) -> gr.Slider:
        return gr.Slider(low, high, DEFAULTS[name], step=step, label=label, info=info, min_width=140)

    def _lay_out_results(self) -> None:
        self.note = gr.HTML(note("A first look is on its way."), elem_id="imagine-note")
        self.video = gr.Video(
            visible=False, autoplay=True, loop=True, show_label=False, buttons=["download"], interactive=False,
            elem_id="imagine-video",
        )  # fmt: skip
        self.gallery = gr.Gallery(
            format="png", columns=4, height="auto", object_fit="contain", label="AI-generated pictures",
            show_label=False, interactive=False, buttons=["download", "download_all", "fullscreen"],
            elem_id="imagine-gallery",
        )  # fmt: skip
        with gr.Row(elem_classes="tools"):
            self.vary = gr.Button("Vary", interactive=False, size="sm", min_width=110, elem_id="imagine-vary")
            self.others = gr.Button("Other seeds", size="sm", min_width=110, elem_id="imagine-others")
            self.latents = gr.DownloadButton(
                "Save latents (.npz)", visible=False, size="sm", min_width=150, elem_id="imagine-latents"
            )
        self.formed = view.formed()
        self.reading = gr.HTML("", elem_id="imagine-reading")
