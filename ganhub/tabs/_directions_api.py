"""The Directions tab for programs: named endpoints over HTTP, and MCP tools that agents can see with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ganhub import hub
from ganhub.directions import read_direction, save_direction
from ganhub.errors import BadInput
from ganhub.pipelines.labels import Attribute, Sentences, attributes_of, read_table
from ganhub.pipelines.learn import LearnRequest, learn
from ganhub.pipelines.slide import SlideRequest, slide
from ganhub.tabs import Context
from ganhub.tabs._api import described, over_http, sheet_of
from ganhub.tabs._directions_layout import MOST_SAMPLES
from ganhub.tabs._widgets import page_seeds, sentences, visitor, work_folder

MOST_SEEDS = 16


def publish(context: Context, first: str) -> None:
    """Add list_directions, learn_direction, learn_direction_strip and direction_sheet to the current page.

    Args:
        first: checkpoint that answers where none is named.
    """
    api = Api(context)

    def text(value: str = "") -> gr.Textbox:
        return gr.Textbox(value, visible=False)

    controls: dict[str, Any] = {
        "checkpoint": text(first),
        "name": text(),
        "attribute": text(),
        "sentence": text(),
        "against": text(),
        "table": gr.File(visible=False, type="filepath", label="table"),
        "samples": gr.Number(2000, precision=0, minimum=50, maximum=MOST_SAMPLES, visible=False),
        "direction": text(),
        "seeds": text("0-3"),
        "strengths": text("-2,-1,0,1,2"),
        "across": text(),
        "psi": gr.Number(0.7, minimum=-2, maximum=2, visible=False),
    }
    sheet = gr.Image(visible=False, type="filepath", format="png", label="sheet")
    files = gr.File(visible=False, label="direction")
    about = gr.JSON(visible=False, label="card")
    learning = ["checkpoint", "name", "attribute", "sentence", "against", "table", "samples"]
    using = ["checkpoint", "direction", "seeds", "strengths", "across", "psi"]
    twin = sheet_of(api.learn_direction, "learn_direction_strip")
    for function, name, names, outputs in (
        (api.learn_direction, "learn_direction", learning, [sheet, files, about]),
        (twin, "learn_direction_strip", learning, sheet),
        (api.direction_sheet, "direction_sheet", using, sheet),
    ):
        given = [controls[n] for n in names]
        gr.Button(visible=False).click(function, given, outputs, api_name=name, show_progress="hidden")
    gr.api(api.list_directions, api_name="list_directions")


class Api:
    """What the endpoints do. The docstrings are what an agent reads; the names of the methods are the tools'."""

    def __init__(self, context: Context):
        self.context = context

    @sentences
    def list_directions(self, checkpoint: str) -> dict[str, Any]:
        """List the directions of a generator, and the attributes that can be learned by name.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.

        Returns:
            `directions`, with what is known of each (accuracy on held-out latents, where it was learned here), and
            `attributes`, each NETWORK:NAME as learn_direction takes it.
        """
        registry = self.context.registry
        row = registry.find(checkpoint)
        found = []
        for one in registry.directions_for(row.model_copy(update={"sha256": row.sha256 or hub.status(row).sha256})):
            entry = {**described(one), "layers": one.config.get("layers")}
            if entry["on_disk"]:
                card = read_direction(one, hub.fetch(one)).card
                entry |= {k: card[k] for k in ("accuracy", "auc", "chance", "with", "without") if k in card}
            found.append(entry)
        attributes = [f"{a.network}:{a.name}" for a in attributes_of(registry, row)]
        return {"directions": found, "attributes": attributes}

    @over_http
    @sentences
    def learn_direction(
        self,
        checkpoint: str,
        name: str,
        attribute: str = "",
        sentence: str = "",
        against: str = "",
        table: str | None = None,
        samples: int = 2000,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Learn a direction of a generator's latent space from one source of labels.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            name: what the direction is called.
            attribute: NETWORK:NAME, as list_directions tells; the network scores generated pictures.
            sentence: what a CLIP should see in pictures with the attribute; goes with `against`.
            against: what it should see in pictures without it.
            table: a CSV file that begins with `seed,label` (1 with, 0 without) or `seed,score`.
            samples: pictures that are drawn and scored, 50 to 4000.

        Returns:
            A strip of four seeds along the direction, its file, and its card: accuracy and AUC on held-out latents with
            intervals, how often shuffled labels do as well, cosines with known directions, what moves along with it.
        """
        ways: list[Any] = []
        if attribute:
            network, _, answer = attribute.partition(":")
            ways.append(Attribute(network, answer))
        if sentence or against:
            ways.append(Sentences(sentence, against))
        if table:
            ways.append(read_table(table))
        if len(ways) != 1:
            raise BadInput("Name one source of labels: an attribute, a sentence and its opposite, or a table.")
        if not 50 <= int(samples) <= MOST_SAMPLES:
            raise BadInput(f"The page scores 50 to {MOST_SAMPLES} pictures; the command line takes more.")
        asked = LearnRequest(checkpoint, name, ways[0], samples=int(samples), visitor=visitor(request))
        *_, result = learn(self.context.engine, asked)
        with work_folder() as folder:
            file = save_direction(result.direction, folder / f"{result.direction.id}.safetensors")
            yield str(result.strip.save(folder)), str(file), {**result.direction.card, "notes": list(result.notes)}

    @sentences
    def direction_sheet(
        self,
        checkpoint: str,
        direction: str,
        seeds: str = "0-3",
        strengths: str = "-2,-1,0,1,2",
        across: str = "",
        psi: float = 0.7,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Move pictures along a direction of their generator's latent space: older, with glasses, riper.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            direction: id of a direction; list_directions names those of a generator.
            seeds: list or range, like 0-3; at most 16.
            strengths: how far, like -2,-1,0,1,2; 1 is a clear change, below 0 the other way.
            across: id of a second direction: then each seed becomes a grid over both.
            psi: truncation, 1 for none, 0.7 for safer pictures.

        Returns:
            One sheet, a seed a line, the strengths in the columns.
        """
        try:
            steps = tuple(float(part) for part in strengths.split(",") if part.strip())
        except ValueError:
            raise BadInput(f"The strengths cannot be read at '{strengths[:40]}'; write them like -2,0,2.") from None
        asked = SlideRequest(
            checkpoint, direction, page_seeds(seeds, most=MOST_SEEDS), strengths=steps, across=across or None, psi=psi,
            across_strengths=steps, visitor=visitor(request),
        )  # fmt: skip
        *_, result = slide(self.context.engine, asked)
        with work_folder() as folder:
            yield str(result.grid.save(folder))
