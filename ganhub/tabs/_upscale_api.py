"""The super-resolution tab for programs: named endpoints over HTTP, and MCP tools that agents can see with.

`upscale` answers with the file and its provenance, `upscale_compare` with a sheet and figures. MCP hands pictures over
only where an endpoint has one single output, so each has a twin for agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ganhub.errors import BadInput
from ganhub.imaging import labelled_grid, save_image
from ganhub.pipelines.requests import PRECISIONS
from ganhub.pipelines.upscale import UpscaleRequest, upscale
from ganhub.pipelines.upscale_files import name_of
from ganhub.tabs import Context
from ganhub.tabs._api import described, over_http, sheet_of
from ganhub.tabs._upscale_preview import Preview, Wanted, most_pixels, photo_of, preview, scale_of, upscaler
from ganhub.tabs._widgets import sentences, visitor, work_folder


def publish(context: Context, first: str) -> None:
    """Add list_upscalers, upscale, upscale_compare and their twins for agents to the current page.

    Args:
        context: of the tab.
        first: checkpoint that answers where none is named.
    """
    api = Api(context)
    controls: dict[str, Any] = {
        "photo": gr.File(visible=False, type="filepath", file_types=["image"], label="photo"),
        "checkpoint": gr.Textbox(first, visible=False),
        "checkpoints": gr.Textbox(first, visible=False),
        "scale": gr.Number(None, minimum=1, maximum=16, visible=False),
        "blend": gr.Number(0, minimum=0, maximum=1, visible=False),
        "precision": gr.Dropdown(list(PRECISIONS), value="exact", visible=False),
        "x": gr.Number(0.5, minimum=0, maximum=1, visible=False),
        "y": gr.Number(0.5, minimum=0, maximum=1, visible=False),
        "small_first": gr.Checkbox(False, visible=False),
    }
    picture = gr.Image(visible=False, type="filepath", format="png", label="picture")
    file = gr.File(visible=False, label="file")
    about = gr.JSON(visible=False, label="provenance")
    whole = ["photo", "checkpoint", "scale", "blend", "precision"]
    compared = ["photo", "checkpoints", "x", "y", "small_first", "precision"]
    for function, name, names, outputs in (
        (api.upscale, "upscale", whole, [file, about]),
        (sheet_of(api.upscale, "upscale_one"), "upscale_one", whole, picture),
        (api.upscale_compare, "upscale_compare", compared, [picture, about]),
        (sheet_of(api.upscale_compare, "upscale_compare_sheet"), "upscale_compare_sheet", compared, picture),
    ):
        given = [controls[n] for n in names]
        gr.Button(visible=False).click(function, given, outputs, api_name=name, show_progress="hidden")
    gr.api(api.list_upscalers, api_name="list_upscalers")


class Api:
    """What the endpoints do. The docstrings are what an agent reads; the names of the methods are the tools'."""

    def __init__(self, context: Context):
        self.context = context

    @sentences
    def list_upscalers(self) -> list[dict[str, Any]]:
        """List the networks that enlarge pictures, with what their licences allow.

        Returns:
            One entry per checkpoint: id, title, description, how many times larger it makes pictures, licence,
            whether its file is on disk already and otherwise how many bytes have to be fetched first.
        """
        rows = self.context.registry.for_task("upscale")
        return [{**described(row), "scale": scale_of(row)} for row in rows]

    @over_http
    @sentences
    def upscale(
        self,
        photo: str,
        checkpoint: str,
        scale: float | None = None,
        blend: float = 0.0,
        precision: str = "exact",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Enlarge a photo with a network.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF.
            checkpoint: id of a network that enlarges pictures; list_upscalers names them.
            scale: how many times larger, at most as many times as the network makes it; empty for that.
            blend: 0 for the network itself, 1 for the one that its row names to be blended with.
            precision: exact, or fast, which rounds more.

        Returns:
            The enlarged photo, in its own format where that can hold it, and its provenance.
        """
        engine, row = self.context.engine, upscaler(self.context.registry, checkpoint)
        own = engine.describe(row.id, precision)["scale"]
        picture = photo_of(_given(photo), most_pixels(scale or own))
        wanted = UpscaleRequest(row.id, picture, scale, blend=blend, precision=precision, visitor=visitor(request))
        with work_folder() as folder:
            file = folder / name_of(picture, wanted, own)
            *_, result = upscale(engine, replace(wanted, file=file))
            yield str(file), {**result.provenance, "notes": list(result.notes)}

    @over_http
    @sentences
    def upscale_compare(
        self,
        photo: str,
        checkpoints: str,
        x: float = 0.5,
        y: float = 0.5,
        small_first: bool = False,
        precision: str = "exact",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Show a region of a photo enlarged by bicubic and by up to four networks, side by side.

        Args:
            photo: picture of at most 24 megapixels: JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF.
            checkpoints: ids with commas between; list_upscalers names them.
            x: middle of the region, from 0 (left) to 1 (right).
            y: middle of the region, from 0 (top) to 1 (bottom).
            small_first: make the photo small first, so that the results can be measured against it.
            precision: exact, or fast, which rounds more.

        Returns:
            A sheet of bicubic, the networks, the photo where it is made small first, and the map of what the first
            network invented; and the figures of each.
        """
        names = [name.strip() for name in checkpoints.split(",") if name.strip()]
        if not names:
            raise BadInput("Name at least one network; list_upscalers names them.")
        wanted = Wanted(names[0], tuple(names[1:]), small=small_first, precision=precision)
        made: Preview
        *_, made = preview(self.context.engine, photo_of(_given(photo)), wanted, (x, y), visitor=visitor(request))
        panes = made.shown
        about = {pane.name: {**(pane.provenance or {}), **(pane.figures or {})} for pane in panes}
        sheet = labelled_grid([pane.image.convert("RGB") for pane in panes], [pane.name for pane in panes], [""])
        with work_folder() as folder:
            first = next((pane.provenance for pane in panes if pane.provenance), None)
            file = save_image(sheet, folder / f"{Path(photo).stem}_compared.png", first)
            yield str(file), {"methods": about, "notes": [*made.notes, *made.remarks]}


def _given(photo: str | None) -> str:
    if not photo:
        raise BadInput("There is no photo; give one as a file.")
    return photo
