"""Sliders for the known directions of a generator, in the Generate tab: pictures of seeds, with a smile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ganhub.directions import parse_moves
from ganhub.registry import Checkpoint
from ganhub.tabs import Context
from ganhub.tabs._settings import moves_text
from ganhub.tabs._widgets import SLIDERS, direction_sliders, slider_directions


class DirectionSliders:
    """Components, and what stands on them."""

    def __init__(self, context: Context):
        self.context = context

    def known(self, row: Checkpoint) -> list[Checkpoint]:
        return slider_directions(self.context.registry, row)

    def lay_out(self, row: Checkpoint) -> None:
        known = self.known(row)
        with gr.Accordion("Directions", open=False, visible=bool(known), elem_id="generate-directions") as self.box:
            gr.Markdown("Move every picture, along several at once. 1 is a clear change.", elem_classes="lead")
            self.sliders = direction_sliders(known, "generate")
            self.still = gr.Button("All back to 0", size="sm", elem_id="generate-directions-still")
        self.moves = gr.Textbox("", visible=False)
        """What the sliders say, as the page's address and files have it; may name more than there are sliders for."""

    @property
    def outputs(self) -> list[Any]:
        return [self.box, *self.sliders]

    def shown(self, row: Checkpoint, make: str, moves: str = "") -> list[Any]:
        """Updates of `outputs`: the sliders of a generator, where some moves put them."""
        at = dict(parse_moves(moves))
        box: dict[str, Any] = {"visible": bool(self.known(row)) and make == "generate"}
        values: list[dict[str, Any]] = [{"value": at.get(one.id, 0)} for one in self.known(row)]
        return [gr.Accordion(**box, open=True) if at else gr.Accordion(**box), *self._sliders(row, values)]

    def offered(self, row: Checkpoint, make: str) -> list[Any]:
        """The same, but every slider stays where it is: directions may have been added meanwhile."""
        known = self.known(row)
        return [gr.Accordion(visible=bool(known) and make == "generate"), *self._sliders(row, [{}] * len(known))]

    def _sliders(self, row: Checkpoint, values: list[dict[str, Any]]) -> list[Any]:
        shown = [
            gr.Slider(label=one.title, visible=True, **how) for one, how in zip(self.known(row), values, strict=True)
        ]
        return shown + [gr.Slider(value=0, visible=False)] * (SLIDERS - len(shown))

    def said(self, row: Checkpoint, moves: str, values: Sequence[float]) -> str:
        """What the sliders say, and of the moves so far those that have no slider."""
        known = self.known(row)
        ids = [one.id for one in known]
        others = [(name, far) for name, far in parse_moves(moves) if name not in ids]
        return moves_text([*((name, round(far, 2)) for name, far in zip(ids, values, strict=False)), *others])

    def stilled(self, checkpoint: str) -> list[Any]:
        """No moves, and every slider back in its middle."""
        return ["", *self.shown(self.context.registry.find(checkpoint), "generate")[1:]]
