"""Where everything of the Directions tab stands."""

from __future__ import annotations

import gradio as gr

from ganhub import hub
from ganhub.metrics.directions import FEWEST
from ganhub.pipelines.labels import attributes_of
from ganhub.pipelines.piles import MOST_PHOTOS
from ganhub.registry import Checkpoint, EmbeddedSource
from ganhub.tabs import Context
from ganhub.tabs._widgets import card, note, picker_choices, size_words

SLIDER = 4.0
"""Steps of the sliders either way."""
POOL = 1000
"""Generated pictures among which the next one to be labelled is chosen."""
MOST_SAMPLES = 4000
WAYS = {
    "click": "Click",
    "text": "Sentences",
    "attribute": "Network",
    "photos": "Photos",
    "table": "Table",
    "found": "No labels",
}


class Layout:
    """Components of the tab."""

    def __init__(self, context: Context):
        self.context = context

    def lay_out(self) -> None:
        choices = picker_choices(self.context.registry, "generate")
        ids = [value for _, value in choices]
        first = next((row for row in self.context.registry.for_task("directions") if row.id in ids), None)
        row = first if first and hub.status(first).on_disk else self.context.registry.find(ids[0])
        gr.Markdown("Find out where in a generator's space an attribute lies, and go there.", elem_classes="lead")
        with gr.Row(elem_classes="workbench"):
            with gr.Column(scale=6, min_width=300, elem_classes="controls"):
                self.checkpoint = gr.Dropdown(
                    choices, value=row.id, label="Checkpoint", filterable=True, elem_id="directions-checkpoint"
                )
                self.card = gr.HTML(card(row), elem_classes="card-holder")
                self.name = gr.Textbox("", label="What it is called", placeholder="Glasses", max_lines=1,
                                       elem_id="directions-name")  # fmt: skip
                self._lay_out_ways(row)
                with gr.Accordion("More", open=False):
                    self._lay_out_more()
                with gr.Row(elem_classes="actions"):
                    self.run = gr.Button("Learn", variant="primary", scale=3, elem_id="directions-learn")
                    self.stop = gr.Button("Stop", interactive=False, scale=1, min_width=70, elem_id="directions-stop")
                self.note = gr.HTML(note("Label some pictures, or let a network do it, and press Learn."),
                                    elem_id="directions-note")  # fmt: skip
                self.proof = gr.HTML("", elem_id="directions-proof")
                self.plot = gr.Image(
                    visible=False, show_label=False, interactive=False, type="filepath", format="png",
                    buttons=["fullscreen"], elem_id="directions-plot",
                )  # fmt: skip
            with gr.Column(scale=7, min_width=300, elem_classes="results"):
                self._lay_out_use(row)
        self.labelling = gr.State(None)
        self.asked = gr.State(None)
        """Seed of the picture that is to be labelled."""
        self.made = gr.State({})
        """Directions of this visit, by id."""
        self.latents = gr.State(None)

    def _lay_out_ways(self, row: Checkpoint) -> None:
        self.way = gr.State("click")
        self.tabs: dict[str, gr.Tab] = {}
        with gr.Tabs(elem_id="directions-ways"):
            for way, words in WAYS.items():
                with gr.Tab(words, id=way) as self.tabs[way]:
                    getattr(self, f"_lay_out_{way}")(row)

    def _lay_out_click(self, row: Checkpoint) -> None:
        gr.Markdown(
            "Say of generated pictures whether they have it, by the buttons or the arrow keys. The next one is where "
            "the answer is least certain; every fourth is drawn at random, to see how well the answers are foretold."
        )
        self.begin = gr.Button("Start", elem_id="directions-begin")
        with gr.Column(visible=False, elem_id="directions-clicking") as self.clicking:
            self.shown = gr.Image(
                show_label=False, label="Picture to label", interactive=False, type="filepath", format="png",
                height=260, buttons=[], elem_id="directions-shown",
            )  # fmt: skip
            with gr.Row(elem_classes="actions"):
                self.no = gr.Button("← Without", elem_id="directions-no", min_width=90)
                self.skip = gr.Button("↓ Skip", elem_id="directions-skip", min_width=70)
                self.yes = gr.Button("With →", elem_id="directions-yes", min_width=90)
                self.back = gr.Button("Back", elem_id="directions-back", size="sm", min_width=60)
        self.estimate = gr.HTML("", elem_id="directions-estimate")

    def _lay_out_text(self, row: Checkpoint) -> None:
        gr.Markdown("A CLIP looks at some thousand generated pictures; those that fit one sentence best are held "
                    "against those that fit the other.")  # fmt: skip
        self.text = gr.Textbox("", label="With", placeholder="a red apple", max_lines=2, elem_id="directions-text")
        self.against = gr.Textbox(
            "", label="Without", placeholder="a green apple", max_lines=2, elem_id="directions-against"
        )
        rows = [r for r in self.context.registry if r.family == "clip" and not r.planned]
        inside = [r.id for r in rows if isinstance(r.source, EmbeddedSource)]
        self.clip = gr.Dropdown(
            [("the checkpoint's own, or the one inside", ""), *((self._clip(r), r.id) for r in rows)],
            value="", label="CLIP that looks", visible=bool(rows),
            info="The one inside knows fruit only" if inside else None,
        )  # fmt: skip

    @staticmethod
    def _clip(row: Checkpoint) -> str:
        return row.title if hub.status(row).on_disk else f"{row.title}  ·  {size_words(row.bytes)} to fetch"

    def _lay_out_attribute(self, row: Checkpoint) -> None:
        gr.Markdown("A network that was trained on labelled pictures of the same kind scores the generated ones.")
        self.attribute = gr.Dropdown(
            self.attributes(row), label="Attribute", elem_id="directions-attribute",
            value=next((value for _, value in self.attributes(row)), None),
        )  # fmt: skip

    def attributes(self, row: Checkpoint) -> list[tuple[str, str]]:
        """(label, `network:name`) of what networks can say of a generator's pictures."""
        return [
            (f"{a.name}  ·  {a.network}", f"{a.network}:{a.name}") for a in attributes_of(self.context.registry, row)
        ]

    def _lay_out_photos(self, row: Checkpoint) -> None:
        gr.Markdown(
            f"Two piles of photos, at least {FEWEST} each, better twenty, {MOST_PHOTOS} at most together: the latent "
            "of each is sought. They are deleted as soon as they are read."
        )
        self.consent = gr.Checkbox(
            False, label="The people in the photos are adults and agree", elem_id="directions-consent"
        )
        with gr.Row():
            self.photos = gr.File(file_count="multiple", file_types=["image"], label="With", height=130, min_width=140)
            self.others = gr.File(
                file_count="multiple", file_types=["image"], label="Without", height=130, min_width=140
            )

    def _lay_out_table(self, row: Checkpoint) -> None:
        gr.Markdown(
            "A CSV that begins with `seed,label` (1 with, 0 without) or `seed,score`; or `latent,label` with the "
            "places of saved latents."
        )
        with gr.Row():
            self.table = gr.File(file_types=[".csv"], label="CSV", height=110, min_width=140)
            self.saved = gr.File(file_types=[".npz"], label="Saved latents (.npz)", height=110, min_width=140)

    def _lay_out_found(self, row: Checkpoint) -> None:
        gr.Markdown(
            "The strongest directions of the space, which nobody labelled: look at them, and name them yourself."
        )
        self.how = gr.Radio(
            [("SeFa: from the weights", "sefa"), ("GANSpace: from latents", "ganspace")], value="sefa", label="Way"
        )
        self.count = gr.Slider(1, 16, 8, step=1, label="How many")

    def _lay_out_more(self) -> None:
        with gr.Row():
            self.space = gr.Dropdown([("by itself", ""), "w", "w+", "z"], value="", label="Space", min_width=110)
            self.layers = gr.Textbox(
                "", label="Layers", info="Like 0-6; empty is all", min_width=110, elem_id="directions-layers"
            )
            self.label = gr.Number(None, precision=0, minimum=0, label="Class", info="Where there are", min_width=90)
            self.method = gr.Dropdown(
                [("linear SVM", "svm"), ("logistic regression", "logistic"), ("difference of means", "mean")],
                value="svm", label="Method", min_width=150,
            )  # fmt: skip
        self.still = gr.Dropdown(
            [], multiselect=True, label="Keep still", info="Directions that it is made independent of"
        )
        with gr.Row():
            self.samples = gr.Slider(200, MOST_SAMPLES, 2000, step=100, label="Pictures that are scored", min_width=140)
            self.share = gr.Slider(0.05, 0.5, 0.3, step=0.05, label="Share kept on either side", min_width=140)

    def _lay_out_use(self, row: Checkpoint) -> None:
        self.direction = gr.Dropdown([], label="Direction", elem_id="directions-direction", allow_custom_value=False)
        self.strength = gr.Slider(
            -SLIDER, SLIDER, 0, step=0.1, label="Strength", info="1 is a clear change", elem_id="directions-strength"
        )
        with gr.Row():
            self.seed = gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed", min_width=100,
                                  elem_id="directions-seed")  # fmt: skip
            self.psi = gr.Slider(0, 1, 0.7, step=0.05, label="Truncation (psi)", min_width=140)
        self.picture = gr.Image(
            show_label=False, label="AI-generated picture", interactive=False, type="filepath", format="png",
            height=320, buttons=["download", "fullscreen"], elem_id="directions-picture",
        )  # fmt: skip
        with gr.Accordion("A second direction, other layers, a latent of yours", open=False):
            with gr.Row():
                self.second = gr.Dropdown([("none", "")], value="", label="Second direction", min_width=140)
                self.second_strength = gr.Slider(-SLIDER, SLIDER, 0, step=0.1, label="Its strength", min_width=140)
            self.only = gr.Textbox("", label="Only these layers", placeholder="0-6", info="Empty: as each says")
            self.drop = gr.File(
                file_types=[".npz", ".safetensors"], type="filepath", height=100,
                label="Saved latents (.npz), or a direction (.safetensors)", elem_id="directions-drop",
            )  # fmt: skip
        with gr.Row(elem_classes="tools"):
            self.strip = gr.Button("Strip", size="sm", min_width=80, elem_id="directions-strip")
            self.grid = gr.Button("Grid over two", size="sm", min_width=110, elem_id="directions-grid")
            self.film = gr.Button("Video", size="sm", min_width=80, elem_id="directions-film")
            self.download = gr.DownloadButton("Save direction", size="sm", min_width=120, visible=False,
                                              elem_id="directions-save")  # fmt: skip
            self.offer = gr.Button("Offer it here", size="sm", min_width=110, visible=False,
                                   elem_id="directions-offer")  # fmt: skip
        self.sheet = gr.Image(
            visible=False, show_label=False, interactive=False, type="filepath", format="png",
            buttons=["download", "fullscreen"], elem_id="directions-sheet",
        )  # fmt: skip
        self.video = gr.Video(
            visible=False, autoplay=True, loop=True, show_label=False, buttons=["download"], interactive=False,
            elem_id="directions-video",
        )  # fmt: skip
