"""Where everything of the latent part of the Faces tab stands, and what is known of a visitor there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ganhub.latents import Latents
from ganhub.registry import Checkpoint
from ganhub.tabs import Context
from ganhub.tabs._widgets import card, direction_sliders, note, picker_choices, slider_directions

FACES = ("FFHQ", "CelebA", "MetFaces", "Portraits")
"""What the data sets of generators of faces begin with."""
FIRST = "stylegan2-portraits"


@dataclass(frozen=True)
class Held:
    """A visitor's place in a latent space."""

    base: Latents
    """Before the sliders moved it."""
    now: Latents
    a: Latents | None = None
    b: Latents | None = None
    """Two that he kept, for a morph."""


def side_of(row: Checkpoint) -> int:
    """The longer side of a generator's pictures, as far as its row tells."""
    return row.resolution if isinstance(row.resolution, int) else max(row.resolution or (256, 256))


class LatentLayout:
    """Components of the part."""

    def __init__(self, context: Context):
        self.context = context

    def generators(self) -> list[tuple[str, str]]:
        """(label, id) of those that draw faces."""
        registry = self.context.registry
        labelled = picker_choices(registry, "project")
        faces = [entry for entry in labelled if (registry.find(entry[1]).dataset or "").startswith(FACES)]
        return faces or labelled

    def directions(self, row: Checkpoint) -> list[Checkpoint]:
        """Those that have a slider."""
        return slider_directions(self.context.registry, row)

    def lay_out(self) -> None:
        choices = self.generators()
        ids = [name for _, name in choices]
        row = self.context.registry.find(FIRST if FIRST in ids else ids[0])
        gr.Markdown("Or find your face in a generator, and change it there.", elem_classes="lead")
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=300, elem_classes="controls"):
                self._lay_out_search(choices, row)
                self._lay_out_changes(row)
            with gr.Column(scale=8, min_width=300, elem_classes="results"):
                self._lay_out_results()

    def _lay_out_search(self, choices: list[tuple[str, str]], row: Checkpoint) -> None:
        self.checkpoint = gr.Dropdown(
            choices, value=row.id, label="Generator", filterable=True, elem_id="faces-generator"
        )
        self.card = gr.HTML(card(row), elem_classes="card-holder")
        with gr.Row(elem_classes="actions"):
            self.find = gr.Button("Find my face", variant="primary", scale=3, elem_id="faces-find", min_width=130)
            self.stop = gr.Button("Stop", interactive=False, scale=1, elem_id="faces-find-stop", min_width=70)
        with gr.Accordion("How it is found", open=False):
            self.steps = gr.Slider(20, 1000, 200, step=10, label="Steps", elem_id="faces-find-steps")
            self.space = gr.Radio(
                [("one latent for each layer: nearer", "w+"), ("one for all: what the generator draws itself", "w")],
                value="w+", label="Latent", elem_id="faces-find-space",
            )  # fmt: skip
            self.start = gr.Radio(
                [("the nearest of many pictures", "nearest"), ("the average face", "mean")], value="nearest",
                label="Begin with", elem_id="faces-find-start",
            )  # fmt: skip
        with gr.Row(elem_classes="tools"):
            self.save = gr.DownloadButton("Save the latent (.npz)", visible=False, size="sm", elem_id="faces-save")
            self.load = gr.UploadButton("Load a latent", file_types=[".npz", ".npy"], size="sm", elem_id="faces-load")

    def _lay_out_changes(self, row: Checkpoint) -> None:
        known = self.directions(row)
        with gr.Column(visible=False, elem_classes="group") as self.changes:
            self.none = gr.Markdown(directions_words(row, len(known)), elem_classes="lead")
            self.sliders = direction_sliders(known, "faces")
            self.layers = gr.Textbox("", label="Only these layers move", placeholder="all, or like 0-7",
                                     elem_id="faces-layers")  # fmt: skip
            with gr.Row():
                self.other = gr.Textbox("", label="Mix with seed", placeholder="random, or B", min_width=110,
                                        elem_id="faces-mix-seed")  # fmt: skip
                self.mix_layers = gr.Textbox(
                    "4-9", label="Layers taken over", min_width=110, elem_id="faces-mix-layers"
                )
            self.mix = gr.Button("Mix", size="sm", elem_id="faces-mix")
            self.sentence = gr.Textbox("", label="Or say what to go towards", placeholder="a smiling face",
                                       max_lines=2, elem_id="faces-sentence")  # fmt: skip
            self.guide = gr.Button("Go there", size="sm", elem_id="faces-guide")
            with gr.Row(elem_classes="tools"):
                self.keep_a = gr.Button("Keep as A", size="sm", elem_id="faces-keep-a", min_width=80)
                self.keep_b = gr.Button("Keep as B", size="sm", elem_id="faces-keep-b", min_width=80)
                self.morph = gr.Button("From A to B", size="sm", interactive=False, elem_id="faces-morph", min_width=80)

    def _lay_out_results(self) -> None:
        self.note = gr.HTML(note("Your face from above is sought in the generator."), elem_id="faces-latent-note")
        how: dict[str, Any] = {"type": "filepath", "format": "png", "interactive": False, "height": 270}
        with gr.Row():
            self.target = gr.Image(label="The photo, as the generator would have it", min_width=130, buttons=[],
                                   elem_id="faces-target", **how)  # fmt: skip
            self.now = gr.Image(label="In the generator (AI-generated)", min_width=130,
                                buttons=["download", "fullscreen"], elem_id="faces-now", **how)  # fmt: skip
        self.figures = gr.HTML("", elem_id="faces-figures")
        how["buttons"] = ["download", "fullscreen"]
        self.strip = gr.Image(
            visible=False, label="From A to B (AI-generated)", elem_id="faces-morph-strip", **{**how, "height": None}
        )
        self.video = gr.Video(
            visible=False, show_label=False, height=270, interactive=False, buttons=["download"], loop=True,
            elem_id="faces-morph-video",
        )  # fmt: skip


def directions_words(row: Checkpoint, count: int) -> str:
    """What stands above the sliders."""
    if count:
        return "Move along known directions, several at once."
    return f"No directions are known for {row.title}. Mix it, say where to go, or learn some in the tab Directions."
