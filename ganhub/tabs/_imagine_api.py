"""The text-to-image tab for programs: named endpoints over HTTP, and MCP tools that agents can see with.

`imagine` answers with a sheet, with every file as it was written, and with provenance. MCP hands pictures over only
where an endpoint has one single output, so `imagine_one` and `imagine_sheet` answer with one picture alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ganhub.imaging import grid
from ganhub.latents import save_latents
from ganhub.pipelines._work import imaged
from ganhub.pipelines.imagine import ImagineResult, imagine
from ganhub.tabs import Context
from ganhub.tabs._api import described, over_http, sheet_of
from ganhub.tabs._imagine_ways import DEFAULTS, TASKS, Ways, request_of_settings
from ganhub.tabs._widgets import sentences, visitor, work_folder

BEST = "best"
"""The way that a checkpoint goes by itself."""


def publish(context: Context, ways: Ways, first: str) -> None:
    """Add list_imaginers, imagine, imagine_one and imagine_sheet to the current page.

    Args:
        context: of the tab.
        first: checkpoint that answers where none is named.
    """
    api = Api(context, ways)
    controls: dict[str, Any] = {
        "sentence": gr.Textbox(visible=False),
        "checkpoint": gr.Textbox(first, visible=False),
        "way": gr.Dropdown([BEST, *TASKS], value=BEST, visible=False),
        "seeds": gr.Textbox(DEFAULTS["seeds"], visible=False),
        "seed": gr.Number(0, precision=0, minimum=0, maximum=2**32 - 1, visible=False),
        "away": gr.Textbox("", visible=False),
        "clip": gr.Textbox("", visible=False),
        "steps": gr.Number(DEFAULTS["steps"], precision=0, visible=False),
        "psi": gr.Number(DEFAULTS["psi"], visible=False),
        "strength": gr.Number(DEFAULTS["strength"], visible=False),
        "noise": gr.Checkbox(DEFAULTS["noise"], visible=False),
    }
    picture = gr.Image(visible=False, type="filepath", format="png", label="picture")
    files = gr.File(visible=False, file_count="multiple", label="files")
    about = gr.JSON(visible=False, label="provenance")
    more = ["away", "clip", "steps", "psi", "strength", "noise"]
    many, one = ["sentence", "checkpoint", "way", "seeds", *more], ["sentence", "checkpoint", "way", "seed", *more]
    for function, name, names, outputs in (
        (api.imagine, "imagine", many, [picture, files, about]),
        (sheet_of(api.imagine, "imagine_sheet"), "imagine_sheet", many, picture),
        (api.imagine_one, "imagine_one", one, picture),
    ):
        given = [controls[n] for n in names]
        gr.Button(visible=False).click(function, given, outputs, api_name=name, show_progress="hidden")
    gr.api(api.list_imaginers, api_name="list_imaginers")


class Api:
    """What the endpoints do. The docstrings are what an agent reads; the names of the methods are the tools'."""

    def __init__(self, context: Context, ways: Ways):
        self.context, self.ways = context, ways

    @sentences
    def list_imaginers(self) -> list[dict[str, Any]]:
        """List the networks that draw from sentences, with what their licences allow.

        Returns:
            One entry per checkpoint: id, title, description, the ways that it can go (stackgan, guided, instant),
            sentences that it understands, licence, whether its file is on disk already and otherwise how many bytes
            have to be fetched first.
        """
        found: dict[str, dict[str, Any]] = {}
        for way in self.ways.possible():
            for row in self.ways.rows(way):
                entry = found.setdefault(row.id, {**described(row), "ways": []})
                entry["ways"].append(way)
                entry["examples"] = list(self.ways.vocabulary(row, way).examples)
        return list(found.values())

    @over_http
    @sentences
    def imagine(
        self,
        sentence: str,
        checkpoint: str,
        way: str,
        seeds: str,
        away: str = "",
        clip: str = "",
        steps: int = 60,
        psi: float = 0.7,
        strength: float = 2.0,
        noise: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Draw a sentence, one picture per seed.

        Args:
            sentence: what to draw, at most 500 characters; each network knows the words of its own pictures.
            checkpoint: id of a network that draws from sentences; list_imaginers names them.
            way: stackgan (paints at once), guided (a CLIP moves a latent step by step), instant (one leap along a
                line), or best for the first of these that the checkpoint can.
            seeds: list or range, like 0-3; at most 16.
            away: guided, instant: what it should not look like.
            clip: guided, instant: id of the CLIP that looks; empty for the checkpoint's own.
            steps: guided: number of steps, 1 to 300.
            psi: guided, instant: truncation of the start, 1 for none, 0.7 for safer pictures.
            strength: instant: how far to go, about -10 to 10.
            noise: stackgan: draw from all that the sentence may mean, not from the middle of it.

        Returns:
            All pictures on one sheet, each as a PNG file (and latents as .npz where there are any), and what the files
            say of themselves with notes on how the sentence was read.
        """
        values = {k: v for k, v in locals().items() if k not in ("self", "request")}
        result = self._run(values, request)
        with work_folder() as folder:
            files = [str(picture.save(folder)) for picture in result.pictures]
            if result.latents is not None:
                save_latents(folder / f"{result.request.checkpoint}_latents.npz", result.latents)
                files.append(str(folder / f"{result.request.checkpoint}_latents.npz"))
            yield (
                _sheet(result, folder, files),
                files,
                {
                    "pictures": [picture.provenance for picture in result.pictures],
                    "scores": result.scores,
                    "notes": list(result.notes),
                },
            )

    @sentences
    def imagine_one(
        self,
        sentence: str,
        checkpoint: str,
        way: str,
        seed: int,
        away: str = "",
        clip: str = "",
        steps: int = 60,
        psi: float = 0.7,
        strength: float = 2.0,
        noise: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[Any]:
        """Draw one picture of a sentence. The same sentence and seed give the same picture every time.

        Args:
            sentence: what to draw, at most 500 characters; each network knows the words of its own pictures.
            checkpoint: id of a network that draws from sentences; list_imaginers names them.
            way: stackgan (paints at once), guided (a CLIP moves a latent step by step), instant (one leap along a
                line), or best for the first of these that the checkpoint can.
            seed: whole number from 0 to 4294967295; each is another picture.
            away: guided, instant: what it should not look like.
            clip: guided, instant: id of the CLIP that looks; empty for the checkpoint's own.
            steps: guided: number of steps, 1 to 300.
            psi: guided, instant: truncation of the start, 1 for none, 0.7 for safer pictures.
            strength: instant: how far to go, about -10 to 10.
            noise: stackgan: draw from all that the sentence may mean, not from the middle of it.

        Returns:
            The picture as PNG, its provenance inside.
        """
        values = {k: v for k, v in locals().items() if k not in ("self", "request", "seed")}
        result = self._run({**values, "seeds": str(int(seed))}, request)
        with work_folder() as folder:
            yield str(result.pictures[0].save(folder))

    def _run(self, values: dict[str, Any], request: gr.Request | None) -> ImagineResult:
        way = None if values["way"] == BEST else values["way"]
        settings = {**values, "text": values["sentence"], "way": way}
        del settings["sentence"]
        asked = request_of_settings(settings, visitor(request), preview=0)
        *_, result = imagine(self.context.engine, asked)
        return result


def _sheet(result: ImagineResult, folder: Path, files: list[str]) -> str:
    if len(result.pictures) == 1:
        return files[0]
    about = {**result.pictures[0].provenance, "seeds": list(result.request.seeds)}
    about.pop("seed")
    whole = imaged(grid([picture.image for picture in result.pictures]), about, f"{result.request.checkpoint}_sheet")
    return str(whole.save(folder))
