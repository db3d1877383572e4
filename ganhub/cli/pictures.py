"""`ganhub generate`, `sweep`, `mix`, `interpolate`: pictures and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ganhub.cli._shared import (
    Cutoff,
    Device,
    Exact,
    Format,
    Id,
    Json,
    Label,
    Moves,
    Noise,
    NoiseMode,
    Out,
    Psi,
    Rows,
    Seeds,
    app,
    engine_of,
    entry_of,
    floats,
    follow,
    how_of,
    sha256_of,
    tell,
)
from ganhub.errors import BadInput


@app.command()
def generate(
    checkpoint: Id,
    seeds: Annotated[str, typer.Option(help="Seeds, like 0-7,12.")] = "",
    latents: Annotated[Path | None, typer.Option(metavar="FILE", help="Saved latents (.npz) instead of seeds.")] = None,
    psi: Annotated[float | None, typer.Option(help="Truncation: 1 none (default), towards 0 the average.")] = None,
    cutoff: Cutoff = None,
    label: Label = None,
    move: Moves = None,
    noise_mode: Noise = NoiseMode.const,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    grid: Annotated[bool, typer.Option("--grid", help="Also write all pictures on one sheet.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save-latents", metavar="FILE", help="Also write the latents as .npz.")
    ] = None,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Make one picture per seed."""
    from ganhub import imaging
    from ganhub.directions import parse_moves
    from ganhub.latents import load_latents, parse_seeds, save_latents
    from ganhub.pipelines import generate as pipeline
    from ganhub.pipelines.requests import GenerateRequest, Picture

    if bool(seeds) == (latents is not None):
        raise BadInput("Name either --seeds, like --seeds 0-7, or --latents FILE.")
    with engine_of(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = how_of(row, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision, keep=grid)
        how["moves"] = parse_moves(",".join(move or ()))
        if latents is None:
            request = GenerateRequest(row.id, seeds=parse_seeds(seeds), psi=1.0 if psi is None else psi, **how)
        else:
            named = {"psi": psi, "cutoff": how.pop("cutoff"), "label": how.pop("label")}
            changes = {k: v for k, v in named.items() if v is not None}
            request = GenerateRequest.from_latents(row.id, load_latents(latents), **changes, **how)
        written, result = follow(pipeline.generate(engine, request), out, kind)
        if grid:
            sheet = imaging.grid(result.images)
            about = {k: v for k, v in result.provenance[0].items() if k not in ("seed", "index")}
            about["seeds"] = list(result.seeds)
            written.append(entry_of(Picture(sheet, about, f"{row.id}_grid").save(out, kind.value), about))
        if save is not None:
            save_latents(save, result.latents)
            written.append({"path": str(save), "sha256": sha256_of(save)})
        tell(written, as_json)


@app.command()
def sweep(
    checkpoint: Id,
    seeds: Seeds,
    psis: Annotated[str, typer.Option(help="Truncations, comma-separated.")] = "0,0.25,0.5,0.75,1",
    cutoff: Cutoff = None,
    label: Label = None,
    noise_mode: Noise = NoiseMode.const,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Make every seed at every truncation, and a labelled sheet."""
    from ganhub.latents import parse_seeds
    from ganhub.pipelines import generate as pipeline
    from ganhub.pipelines.requests import SweepRequest

    with engine_of(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = how_of(row, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision)
        request = SweepRequest(row.id, seeds=parse_seeds(seeds), psis=floats("--psis", psis), **how)
        written, result = follow(pipeline.sweep(engine, request), out, kind)
        written.append(entry_of(result.grid.save(out, kind.value), result.grid.provenance))
        tell(written, as_json)


@app.command()
def mix(
    checkpoint: Id,
    rows: Annotated[str, typer.Option(help="Seeds of the rows, like 0-3.")],
    cols: Annotated[str, typer.Option(help="Seeds of the columns, like 4-9.")],
    layers: Annotated[str, typer.Option("--layers", "--styles", help="Layers taken from the columns.")] = "0-6",
    psi: Psi = 1.0,
    cutoff: Cutoff = None,
    label: Label = None,
    noise_mode: Noise = NoiseMode.const,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Mix the styles of two sets of seeds, and make a sheet of them."""
    from ganhub.latents import parse_layers, parse_seeds
    from ganhub.pipelines import generate as pipeline
    from ganhub.pipelines.requests import MixRequest

    with engine_of(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = how_of(row, psi=psi, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision)
        chosen: dict[str, Any] = {"rows": parse_seeds(rows), "cols": parse_seeds(cols), "layers": parse_layers(layers)}
        written, result = follow(pipeline.mix(engine, MixRequest(row.id, **chosen, **how)), out, kind)
        written.append(entry_of(result.grid.save(out, kind.value), result.grid.provenance))
        tell(written, as_json)


@app.command()
def interpolate(
    checkpoint: Id,
    seeds: Seeds,
    frames: Annotated[int, typer.Option(help="Frames from one seed to the next.")] = 60,
    fps: Annotated[int, typer.Option(help="Frames per second.")] = 30,
    space: Annotated[str | None, typer.Option(help="z or w; w where there is one.")] = None,
    method: Annotated[str | None, typer.Option(help="linear, slerp or spline.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Go back to the first seed.")] = False,
    easing: Annotated[str, typer.Option(help="none, or smooth: slow down at each seed.")] = "none",
    psi: Psi = 1.0,
    cutoff: Cutoff = None,
    label: Label = None,
    noise_mode: Noise = NoiseMode.const,
    precision: Exact = None,
    out: Annotated[Path, typer.Option(metavar="FILE.mp4", help="The video to write.")] = Path("out.mp4"),
    strip: Annotated[int, typer.Option(help="Also write a strip of so many pictures beside the video.")] = 0,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Make a video from seed to seed."""
    from ganhub.imaging import save_image
    from ganhub.latents import parse_seeds
    from ganhub.pipelines import generate as pipeline
    from ganhub.pipelines.requests import InterpolateRequest

    with engine_of(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = how_of(row, psi=psi, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision)
        way: dict[str, Any] = {
            "frames": frames,
            "fps": fps,
            "space": space,
            "method": method,
            "loop": loop,
            "easing": easing,
        }
        request = InterpolateRequest(row.id, seeds=parse_seeds(seeds), file=out, strip=strip, **way, **how)
        _, result = follow(pipeline.interpolate(engine, request))
        written = [entry_of(result.video, result.about)]
        if result.strip:
            beside = save_image(result.strip.image, out.with_suffix(".png"), result.strip.provenance)
            written.append(entry_of(beside, result.strip.provenance))
        tell(written, as_json)
