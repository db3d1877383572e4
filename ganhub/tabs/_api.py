"""The Generate tab for programs: named endpoints over HTTP, and MCP tools that agents can see with.

`generate`, `sweep`, `mix` and `interpolate` answer with a sheet, with every file as it was written, and with their
provenance as JSON. MCP hands pictures over only where an endpoint has one single output, so each has a twin for agents
that answers with its sheet alone. Components are hidden; their names are those of the functions' arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ganhub import hub
from ganhub.imaging import grid
from ganhub.pipelines._work import imaged
from ganhub.pipelines.requests import MAX_PSI, NOISE_MODES, PRECISIONS, InterpolateResult, Result
from ganhub.registry import Checkpoint
from ganhub.tabs import Context
from ganhub.tabs._settings import AUTO, DEFAULTS, MAKES, RUNS, request_of_settings
from ganhub.tabs._widgets import licence_words, sentences, visitor, work_folder

SHEETS = {
    "generate": "generate_sheet",
    "sweep": "sweep_sheet",
    "mix": "mix_sheet",
    "interpolate": "interpolation_strip",
}
"""Endpoints with several outputs, and their twins for agents."""


def publish(context: Context, first: str) -> None:
    """Add list_checkpoints, generate_one, generate, sweep, mix, interpolate and the twins to the current page.

    Args:
        context: of the tab.
        first: checkpoint that answers where none is named.
    """
    api = Api(context)
    controls = hidden(first)
    picture = gr.Image(visible=False, type="filepath", format="png", label="picture")
    files = gr.File(visible=False, file_count="multiple", label="files")
    about = gr.JSON(visible=False, label="provenance")
    video = gr.File(visible=False, label="video")
    shared = ["psi", "cutoff", "label", "noise_mode", "precision"]
    inputs = {
        "generate_one": ["checkpoint", "seed", *shared, "moves"],
        "generate": ["checkpoint", "seeds", *shared, "moves"],
        "sweep": ["checkpoint", "seeds", "psis", *shared[1:]],
        "mix": ["checkpoint", "rows", "cols", "layers", *shared],
        "interpolate": ["checkpoint", "seeds", "frames", "fps", "loop", "easing", "space", "method", *shared],
    }
    outputs: dict[str, list[Any]] = {"generate_one": [picture], "interpolate": [picture, video, about]}
    for name, wanted in inputs.items():
        function = getattr(api, name)
        given: dict[str, Any] = {"inputs": [controls[w] for w in wanted], "show_progress": "hidden"}
        gr.Button(visible=False).click(
            function, outputs=outputs.get(name, [picture, files, about]), api_name=name, **given
        )
        if name in SHEETS:
            twin = sheet_of(function, SHEETS[name])
            gr.Button(visible=False).click(twin, outputs=picture, api_name=SHEETS[name], **given)
    gr.api(api.list_checkpoints, api_name="list_checkpoints")


def hidden(first: str) -> dict[str, Any]:
    """Invisible components; their limits hold on the server."""

    def text(value: str) -> gr.Textbox:
        return gr.Textbox(value, visible=False)

    def whole(value: int | None, least: int, most: int) -> gr.Number:
        return gr.Number(value, precision=0, minimum=least, maximum=most, visible=False)

    def choice(value: str, *known: str) -> gr.Dropdown:
        return gr.Dropdown(list(known), value=value, visible=False)

    return {
        "checkpoint": text(first),
        "seed": whole(0, 0, 2**32 - 1),
        "seeds": text("0-7"),
        "rows": text("0-3"),
        "cols": text(DEFAULTS["cols"]),
        "layers": text(DEFAULTS["layers"]),
        "psis": text(DEFAULTS["psis"]),
        "moves": text(""),
        "psi": gr.Number(1.0, minimum=-MAX_PSI, maximum=MAX_PSI, visible=False),
        "cutoff": whole(None, 0, 64),
        "label": whole(None, 0, 1_000_000),
        "noise_mode": choice("const", *NOISE_MODES),
        "precision": choice("exact", *PRECISIONS),
        "frames": whole(DEFAULTS["frames"], 1, 240),
        "fps": whole(DEFAULTS["fps"], 1, 60),
        "loop": gr.Checkbox(DEFAULTS["loop"], visible=False),
        "easing": choice("none", "none", "smooth"),
        "space": choice(AUTO, AUTO, "z", "w"),
        "method": choice(AUTO, AUTO, "linear", "slerp", "spline"),
    }


def over_http(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps an endpoint out of the list of MCP tools, which take every named endpoint else."""
    function._mcp_type = "endpoint"  # type: ignore[attr-defined]
    return function


def sheet_of(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The twin of an endpoint that answers with its first output alone."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for answer in function(*args, **kwargs):
            yield answer[0]

    call.__name__ = name
    call._mcp_type = "tool"  # type: ignore[attr-defined]
    return call


def described(row: Checkpoint) -> dict[str, Any]:
    """What a program is told of a checkpoint."""
    return {
        "id": row.id,
        "title": row.title,
        "description": row.description,
        "dataset": row.dataset,
        "license": row.license,
        "commercial_use": row.commercial_use,
        "allowed": licence_words(row),
        "on_disk": hub.status(row).on_disk,
        "bytes": row.bytes,
    }


class Api:
    """What the endpoints do. The docstrings are what an agent reads; the names of the methods are the tools'."""

    def __init__(self, context: Context):
        self.context = context

    @sentences
    def list_checkpoints(self) -> list[dict[str, Any]]:
        """List the generators that can be asked for pictures, with what their licences allow.

        Returns:
            One entry per checkpoint: id, title, description, data set, resolution, licence, whether its file is on
            disk already and otherwise how many bytes have to be fetched first; and `directions`, ids and titles of what
            its pictures can be moved along.
        """
        registry = self.context.registry
        return [
            {
                **described(row),
                "resolution": row.resolution,
                "classes": list(row.class_names),
                "directions": [{"id": d.id, "title": d.title} for d in registry.directions_for(row)],
            }
            for row in registry.for_task("generate")
        ]

    @sentences
    def generate_one(
        self,
        checkpoint: str,
        seed: int,
        psi: float,
        cutoff: int | None = None,
        label: int | None = None,
        noise_mode: str = "const",
        precision: str = "exact",
        moves: str = "",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Generate one picture from one seed. The same seed gives the same picture every time.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            seed: whole number from 0 to 4294967295.
            psi: truncation, 1 for none, 0.7 for safer pictures. Leave at 1 for networks without truncation (DCGAN).
            cutoff: truncate only the first layers, this many; empty for all.
            label: number of the class, for generators that have classes.
            noise_mode: const, random or none; the finest detail of StyleGAN pictures.
            precision: exact, or fast where the network has a fast form.
            moves: directions and how far to go, like direction-smile=1.5, direction-age=-1; list_checkpoints names
                those of each generator. 1 is a clear change.

        Returns:
            The picture as PNG, its provenance inside.
        """
        values = _values(locals(), make="generate", seeds=str(int(seed)))
        with work_folder() as folder:
            result = self._run(values, request, folder)
            yield str(result.pictures[0].save(folder))

    @over_http
    @sentences
    def generate(
        self,
        checkpoint: str,
        seeds: str,
        psi: float,
        cutoff: int | None = None,
        label: int | None = None,
        noise_mode: str = "const",
        precision: str = "exact",
        moves: str = "",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Generate one picture per seed.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            seeds: list or range, like 0-7,12; at most 64.
            psi: truncation, 1 for none, 0.7 for safer pictures. Leave at 1 for networks without truncation (DCGAN).
            cutoff: truncate only the first layers, this many; empty for all.
            label: number of the class, for generators that have classes.
            noise_mode: const, random or none; the finest detail of StyleGAN pictures.
            precision: exact, or fast where the network has a fast form.
            moves: directions and how far to go, like direction-smile=1.5, direction-age=-1; list_checkpoints names
                those of each generator. 1 is a clear change.

        Returns:
            All pictures on one sheet, each as a PNG file, and the provenance of each.
        """
        yield from self._sheet(_values(locals(), make="generate"), request)

    @over_http
    @sentences
    def sweep(
        self,
        checkpoint: str,
        seeds: str,
        psis: str,
        cutoff: int | None = None,
        label: int | None = None,
        noise_mode: str = "const",
        precision: str = "exact",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Show what truncation does: a row per seed, a column per value of psi. Needs a StyleGAN.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            seeds: list or range, like 0-3.
            psis: values of psi from -2 to 2, like 0, 0.5, 1; 0 is the average picture.
            cutoff: truncate only the first layers, this many; empty for all.
            label: number of the class, for generators that have classes.
            noise_mode: const, random or none.
            precision: exact, or fast where the network has a fast form.

        Returns:
            The labelled sheet, each picture as a PNG file, and the provenance of each.
        """
        yield from self._sheet(_values(locals(), make="sweep", psi=1.0), request)

    @over_http
    @sentences
    def mix(
        self,
        checkpoint: str,
        rows: str,
        cols: str,
        layers: str,
        psi: float,
        cutoff: int | None = None,
        label: int | None = None,
        noise_mode: str = "const",
        precision: str = "exact",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Mix styles: the picture of each row with the named layers of each column. Needs a StyleGAN.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            rows: seeds of the rows, like 0-3.
            cols: seeds of the columns, like 100-103.
            layers: layers taken from the column, from 0; 0-3 pose and shape, 4-7 features, 8 and up colours.
            psi: truncation, 1 for none, 0.7 for safer pictures.
            cutoff: truncate only the first layers, this many; empty for all.
            label: number of the class, for generators that have classes.
            noise_mode: const, random or none.
            precision: exact, or fast where the network has a fast form.

        Returns:
            The sheet with the sources as its first row and column, each picture as a PNG file, and the provenance.
        """
        yield from self._sheet(_values(locals(), make="mix", seeds=rows), request)

    @over_http
    @sentences
    def interpolate(
        self,
        checkpoint: str,
        seeds: str,
        frames: int,
        fps: int,
        loop: bool,
        easing: str,
        space: str,
        method: str,
        psi: float,
        cutoff: int | None = None,
        label: int | None = None,
        noise_mode: str = "const",
        precision: str = "exact",
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Make a video that goes from seed to seed.

        Args:
            checkpoint: id of a generator; list_checkpoints names them.
            seeds: list or range of at least two, like 0,5,9.
            frames: number of frames from one seed to the next.
            fps: frames per second of the video.
            loop: return to the first seed at the end.
            easing: none for an even pace, smooth to slow down at each seed.
            space: z, w, or auto for w where the generator has one.
            method: linear, slerp, spline, or auto.
            psi: truncation, 1 for none. Leave at 1 for networks without truncation (DCGAN).
            cutoff: truncate only the first layers, this many; empty for all.
            label: number of the class, for generators that have classes.
            noise_mode: const, random or none.
            precision: exact, or fast where the network has a fast form.

        Returns:
            A strip of eight frames, the video (H.264 MP4), and the provenance.
        """
        values = _values(locals(), make="interpolate")
        with work_folder() as folder:
            result = self._run(values, request, folder)
            assert isinstance(result, InterpolateResult)
            strip = str(result.strip.save(folder)) if result.strip else None
            yield strip, str(result.video), result.about

    def _sheet(self, values: dict[str, Any], request: gr.Request | None) -> Iterator[Any]:
        with work_folder() as folder:
            result = self._run(values, request, folder)
            files = [str(picture.save(folder)) for picture in result.pictures]
            sheet = files[0]
            if result.grid:
                sheet = str(result.grid.save(folder))
            elif len(files) > 1:
                about = {**result.provenance[0], "seeds": [p["seed"] for p in result.provenance]}
                about.pop("seed")
                whole = imaged(grid(result.images), about, f"{result.request.checkpoint}_sheet")
                sheet = str(whole.save(folder))
            yield sheet, files, result.provenance

    def _run(self, values: dict[str, Any], request: gr.Request | None, folder: Any) -> Result:
        row = self.context.registry.find(values["checkpoint"])
        video = folder / f"{row.id}_interpolation.mp4"
        wanted = request_of_settings({**values, "checkpoint": row.id}, visitor(request), video)
        *_, result = RUNS[values["make"]](self.context.engine, wanted)
        return result


def _values(arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Settings as the page has them: an endpoint's arguments over the defaults."""
    assert more["make"] in MAKES
    return {**DEFAULTS, **{k: v for k, v in arguments.items() if k in DEFAULTS}, **more}
