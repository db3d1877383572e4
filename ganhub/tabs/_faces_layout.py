"""Where everything of the Faces tab stands, and what it says about photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ganhub.data.landmarks import NETWORKS
from ganhub.registry import Checkpoint
from ganhub.tabs import Context
from ganhub.tabs import _faces_view as view
from ganhub.tabs._faces_store import KEEP, photo_in
from ganhub.tabs._widgets import checkpoint_picker, divider, note, picker_choices

AGREED = "I am the adult in the photo, or have that person's permission."
KEPT = (
    f"Then drop a photo here. Nothing of it is kept: it is gone {KEEP // 60} minutes after your last click, or at once."
)
PRIVACY = (
    "Your photo stays in this machine's memory while you work on it, and pictures made of it in one private folder. "
    f"All of it is deleted {KEEP // 60} minutes after your last click, soon after you close the page, or at once with "
    "the button below. Place, time and name of the photo are dropped. It teaches no network. Every picture says that "
    "it is AI-generated."
)
EXAMPLES = {
    "Woman, 20": ("woman_20.jpg", 20),
    "Man, 40": ("man_40.jpg", 40),
    "Woman, 54": ("woman_54.jpg", 54),
}
"""File and age. People of the Face Research Lab London Set (CC BY 4.0), who agreed to be shown, also altered."""
CREDIT = "Faces: Face Research Lab London Set, L. DeBruine and B. Jones (CC BY 4.0)."
WAYS = {
    "landmarks": "68 landmarks (face-alignment)",
    "points": "eyes and mouth (BlazeFace)",
    "eyes": "eyes alone: faces from the front",
}
"""How faces are found, the most exact way first; what each is worth is measured in `ganhub.data.landmarks`."""


def example_file(name: str) -> Path:
    """File of an example."""
    return Path(__file__).parent / "examples" / EXAMPLES[name][0]


def years_of(row: Checkpoint) -> tuple[float, float] | None:
    """The ages that a network knows, as far as its row tells without its file; None where it goes a fixed way."""
    low, high = row.config.get("ages", (10, 90))
    return (low, high) if row.family == "fran" else None


class Layout:
    """Components of the tab."""

    def __init__(self, context: Context):
        self.context = context

    def lay_out(self, away: Callable[[Path], None]) -> None:
        """Args:
        away: what deletes the file of a photo, once it is read.
        """
        gr.Markdown("See yourself older or younger, in your own photo.", elem_classes="lead")
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=5, min_width=300, elem_classes="controls"):
                row = self.context.registry.find(picker_choices(self.context.registry, "age")[0][1])
                with gr.Column(elem_classes="first"):
                    self._lay_out_photo(away)
                    self._lay_out_wish(row)
                self._lay_out_controls(row)
            with gr.Column(scale=8, min_width=300, elem_classes="results"):
                self._lay_out_results()

    def _lay_out_photo(self, away: Callable[[Path], None]) -> None:
        self.consent = gr.Checkbox(False, label=AGREED, info=KEPT, elem_id="faces-consent")
        with gr.Column(visible=False, elem_classes="group") as self.intake:
            self.drop = photo_in(
                self.context.demo, away, sources=["upload", "webcam", "clipboard"], height=190, show_label=False,
                label="Photo or selfie", elem_id="faces-drop", buttons=[],
            )  # fmt: skip
        self.people = view.people()
        with gr.Row():
            self.every = gr.Checkbox(False, label="All faces", visible=False, elem_id="faces-every", min_width=120)
            self.hand = gr.Checkbox(
                False, label="Mark the face by hand", visible=False, elem_id="faces-hand", min_width=160
            )
        with gr.Column(visible=False, elem_classes="group") as self.by_hand:
            gr.Markdown("Click on the middle of the face, then make the frame reach from brow to chin.",
                        elem_classes="lead")  # fmt: skip
            with gr.Row():
                self.size = gr.Slider(
                    3, 100, 35, step=1, label="Size", info="% of the shorter side", min_width=130, elem_id="faces-size"
                )
                self.turn = gr.Slider(
                    -180, 180, 0, step=1, label="Turn", info="Degrees, clockwise", min_width=130, elem_id="faces-turn"
                )
        self.examples = gr.Gallery(
            [(_icon(name), name) for name in EXAMPLES], columns=len(EXAMPLES), height="auto", allow_preview=False,
            object_fit="cover", show_label=False, interactive=False, buttons=[], format="png", elem_id="faces-examples",
            elem_classes="examples",
        )  # fmt: skip
        gr.HTML(f'<p class="fine">{CREDIT}</p>')

    def _lay_out_wish(self, row: Checkpoint) -> None:
        years = years_of(row)
        low, high = years or (10, 90)
        self.direction = gr.Radio(
            [("Older", "older"), ("Younger", "younger")], value="older", show_label=False, visible=years is None,
            label="Direction", container=False, elem_id="faces-direction",
        )  # fmt: skip
        self.years = gr.Slider(
            low, high, 70, step=1, label="Age to become", visible=years is not None, elem_id="faces-years"
        )
        with gr.Row(elem_classes="actions"):
            self.run = gr.Button("Change the age", variant="primary", scale=3, elem_id="faces-run", min_width=130)
            self.stop = gr.Button("Stop", interactive=False, scale=1, elem_id="faces-stop", min_width=70)
        self.through = gr.Button("Through the ages: strip and video", elem_id="faces-through")

    def _lay_out_controls(self, row: Checkpoint) -> None:
        self.picker = checkpoint_picker(self.context, "age", row.id)
        self.strength = gr.Slider(
            0, 100, 100, step=5, label="Strength", info="% of what the network changes", elem_id="faces-strength"
        )
        with gr.Accordion("More", open=False, elem_id="faces-more"):
            self.source = gr.Textbox(
                "", label="Age in the photo", info="Only networks with real ages use it; kept nowhere",
                placeholder="unknown", elem_id="faces-source",
            )  # fmt: skip
            self.how = gr.Dropdown(
                [("the most exact way that is ready", ""), *((words, way) for way, words in WAYS.items())], value="",
                label="Faces are found by", elem_id="faces-how",
                info="Against points that people marked, squares are off by 2.8 % (eyes and mouth) or 3.1 % (eyes)",
            )  # fmt: skip
            assert set(WAYS) == set(NETWORKS)
            self.mark = gr.Checkbox(
                True, label="A corner says that it is AI-generated", elem_id="faces-mark",
                info="The file says so in any case. Leave it on where others will see the picture.",
            )  # fmt: skip
            self.precision = gr.Radio(["exact", "fast"], value="exact", label="Precision")
        with gr.Column(elem_id="faces-privacy", elem_classes="group"):
            gr.Markdown(PRIVACY, elem_classes="lead")
            self.delete = gr.Button("Delete my photos", size="sm", elem_id="faces-delete")

    def _lay_out_results(self) -> None:
        self.note = gr.HTML(note("A first look is on its way."), elem_id="faces-note")
        how: dict[str, Any] = {"type": "filepath", "format": "png", "interactive": False, "buttons": [], "height": 230}
        with gr.Row(elem_id="faces-crops"):
            self.crop = gr.Image(label="The face, cut out", min_width=130, elem_id="faces-crop", **how)
            self.aged = gr.Image(label="What becomes of it", min_width=130, elem_id="faces-aged", **how)
        self.divider = divider("faces", visible=False)
        self.download = gr.DownloadButton("Download", visible=False, variant="primary", elem_id="faces-download")
        self.strip = gr.Image(
            visible=False, type="filepath", format="png", label="Through the ages (AI-generated)", show_label=False,
            interactive=False, buttons=["download", "fullscreen"], elem_id="faces-strip",
        )  # fmt: skip
        self.video = gr.Video(
            visible=False, show_label=False, interactive=False, buttons=["download"], loop=True, elem_id="faces-video"
        )
        self.notes = gr.HTML("", elem_id="faces-notes")


def _icon(name: str) -> Image.Image:
    with Image.open(example_file(name)) as image:
        return image.convert("RGB").crop((96, 70, 416, 390)).resize((160, 160), Image.Resampling.LANCZOS)
