"""`ganhub imagine`: pictures from a sentence, and a video from one sentence to another."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ganhub.cli._shared import (
    Device,
    Exact,
    Format,
    Json,
    Out,
    Rows,
    app,
    engine_of,
    entry_of,
    follow,
    sha256_of,
    show_json,
    tell,
)


class Way(str, Enum):
    stackgan = "stackgan"
    guided = "guided"
    instant = "instant"


class Space(str, Enum):
    w = "w"
    w_plus = "w+"
    s = "s"
    z = "z"


@app.command()
def imagine(
    sentence: Annotated[str, typer.Argument(metavar="SENTENCE", help='What to draw, like "two red apples".')],
    model: Annotated[str, typer.Option(metavar="ID", help="Checkpoint; `ganhub list --task text` or clip shows all.")],
    seeds: Annotated[str, typer.Option(help="Seeds, like 0-3: a picture each.")] = "0",
    way: Annotated[Way | None, typer.Option(help="How; the first that the checkpoint can by default.")] = None,
    noise: Annotated[bool, typer.Option(help="stackgan: draw from what the sentence may mean, not its mean.")] = True,
    clip: Annotated[str | None, typer.Option(metavar="ID", help="guided, instant: the CLIP that looks.")] = None,
    away: Annotated[str, typer.Option(metavar="SENTENCE", help="guided, instant: what not to look like.")] = "",
    steps: Annotated[int, typer.Option(help="guided: steps.")] = 60,
    lr: Annotated[float, typer.Option(help="guided: learning rate.")] = 0.06,
    space: Annotated[Space, typer.Option(help="guided: the latent that is moved.")] = Space.w,
    psi: Annotated[float, typer.Option(help="Truncation of the start: 1 none, towards 0 the average picture.")] = 0.7,
    candidates: Annotated[int, typer.Option(help="guided: start from the best of so many pictures.")] = 32,
    cutouts: Annotated[int, typer.Option(help="guided: random cut-outs that the CLIP looks at; 0 for none.")] = 0,
    away_weight: Annotated[float, typer.Option(help="guided, instant: of --away.")] = 0.5,
    mean_weight: Annotated[float, typer.Option(help="guided: pull towards the average picture.")] = 0.02,
    start_weight: Annotated[float, typer.Option(help="guided: pull towards the start.")] = 0.0,
    noise_weight: Annotated[float, typer.Option(help="guided: noise on the latent, gone by the middle.")] = 0.0,
    start: Annotated[
        Path | None, typer.Option(metavar="FILE", help="guided: saved latents (.npz) to start from.")
    ] = None,
    strength: Annotated[float, typer.Option(help="instant: how far to go.")] = 2.0,
    to: Annotated[str | None, typer.Option(metavar="SENTENCE", help="Make a video to this sentence instead.")] = None,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 60,
    save: Annotated[
        Path | None, typer.Option("--save-latents", metavar="FILE", help="Also write latents (.npz).")
    ] = None,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Draw a sentence: one picture per seed, or a video to another sentence."""
    from dataclasses import replace

    from ganhub.errors import BadInput
    from ganhub.latents import load_latents, parse_seeds, save_latents
    from ganhub.pipelines.imagine import ImagineRequest, way_of
    from ganhub.pipelines.imagine import imagine as pipeline
    from ganhub.pipelines.imagine_video import between

    pulls = {"away_weight": away_weight, "mean_weight": mean_weight}
    pulls |= {"start_weight": start_weight, "noise_weight": noise_weight}
    how: dict[str, Any] = {"noise": noise, "clip": clip, "away": away, "steps": steps, "lr": lr, "space": space.value}
    how |= {"psi": psi, "candidates": candidates, "cutouts": cutouts, "strength": strength, "preview": 0, **pulls}
    how |= {"way": way.value if way else None, "precision": precision.value if precision else None}
    how["start"] = load_latents(start) if start else None
    with engine_of(registry, device) as engine:
        row = engine.registry.find(model)
        request = ImagineRequest(row.id, sentence, parse_seeds(seeds), **how)
        if save is not None and (to is not None or way_of(engine.registry, row, request.way) == "stackgan"):
            raise BadInput("--save-latents goes with the pictures of the ways guided and instant.")
        if to is not None:
            file = out if out.suffix.lower() == ".mp4" else out / f"{row.id}_seed{request.seeds[0]:04d}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            _, made = follow(between(engine, request, replace(request, text=to), frames, file))
            tell([entry_of(made.file, made.about)], as_json)
            return
        written, result = follow(pipeline(engine, request), out, kind)
    for place, entry in enumerate(written):
        entry |= {"score": round(result.scores[place], 4)} if result.scores else {}
    if save is not None:
        save_latents(save, result.latents)
        written.append({"path": str(save), "sha256": sha256_of(save)})
    if as_json:
        show_json({"written": written, "notes": list(result.notes)})
        return
    tell(written, False)
    for note in result.notes:
        typer.echo(note, err=True)
