"""`ganhub project`, `edit` and `morph`: from a photo to its latent, and what can be done with a latent."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganhub.cli._shared import (
    Device,
    Exact,
    Format,
    Json,
    Kind,
    Moves,
    Out,
    Rows,
    app,
    engine_of,
    entry_of,
    follow,
    registry_of,
    sha256_of,
    show_json,
    tell,
)
from ganhub.errors import BadInput

if TYPE_CHECKING:
    from ganhub.latents import Latents


class Space(str, Enum):
    w_plus = "w+"
    w = "w"


class Start(str, Enum):
    nearest = "nearest"
    mean = "mean"
    seed = "seed"


class Method(str, Enum):
    direct = "direct"
    nvidia = "nvidia"


Model = Annotated[str, typer.Option(metavar="ID", help="Generator; `ganhub list --task project` shows all.")]
Mark = Annotated[bool, typer.Option(help="A word in the corner says that the picture is generated.")]
Saved = Annotated[Path, typer.Argument(metavar="FILE", help="Saved latents (.npz).")]


@app.command()
def project(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="Aligned as the generator's pictures are.")],
    model: Model = "stylegan2-portraits",
    consent: Annotated[
        bool, typer.Option("--consent", help="The person in the photo is an adult and agrees; needed.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Steps: 200 by default, 1000 for nvidia.")] = None,
    space: Annotated[Space, typer.Option(help="A latent for every layer, or one for all.")] = Space.w_plus,
    start: Annotated[Start, typer.Option(help="What to start from.")] = Start.nearest,
    method: Annotated[Method, typer.Option(help="nvidia is the published projector.")] = Method.direct,
    features: Annotated[
        str | None, typer.Option(metavar="ID", help="What compares: lpips-vgg where it is here, else features-small.")
    ] = None,
    label: Annotated[int | None, typer.Option("--class", help="Class of a conditional generator.")] = None,
    seed: Annotated[int, typer.Option(help="Of the start, and of what is random.")] = 0,
    tune: Annotated[int, typer.Option(help="Then tune a copy of the generator to the photo, so many steps.")] = 0,
    mark: Mark = True,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Kind = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Find the latent of a photo: writes its picture, photo and picture side by side, and the latent (.npz)."""
    from ganhub.imaging import load_image
    from ganhub.latents import save_latents
    from ganhub.pipelines.faces import need_consent
    from ganhub.pipelines.project import ProjectRequest
    from ganhub.pipelines.project import project as pipeline

    need_consent(consent)
    how: dict[str, Any] = {"steps": steps, "space": space.value, "start": start.value, "method": method.value}
    how |= {"features": features, "label": label, "seed": seed, "mark": mark, "preview": 0}
    how |= {"precision": precision.value if precision else None}
    request = ProjectRequest(model, load_image(photo), consent, **how)
    with engine_of(registry, device) as engine:
        _, result = follow(pipeline(engine, request))
    written = [entry_of(p.save(out, kind.value), p.provenance) for p in (result.picture, result.pair)]
    file = out / f"{result.picture.name}.npz"
    save_latents(file, result.latents)
    written.append({"path": str(file), "sha256": sha256_of(file)})
    if tune:
        written += _tuned(request, result.latents, tune, out, kind, device, registry)
    if as_json:
        show_json({"written": written, "figures": result.figures, "notes": result.notes})
        return
    tell(written, False)
    near, others = result.figures["distance"], result.figures["others"]["median"]
    typer.echo(f"{result.figures['measure']}: {near:g}; random pictures are {others:g} away.", err=True)
    for note in result.notes:
        typer.echo(note, err=True)


def _tuned(
    request: Any, latents: Latents, steps: int, out: Path, kind: Format, device: str | None, registry: Path | None
) -> list[dict[str, Any]]:
    """A copy of the generator, its row, its picture and the latent of the copy."""
    from ganhub.latents import save_latents
    from ganhub.pipelines.tune import TuneRequest
    from ganhub.pipelines.tune import tune as pipeline

    how = {"features": request.features, "device": device, "mark": request.mark}
    wanted = TuneRequest(request.checkpoint, request.target, latents, out, request.consent, steps, **how)
    _, result = follow(pipeline(registry_of(registry), wanted))
    file = out / f"{result.row.id}.npz"
    save_latents(file, result.latents)
    (far, _), (near, _) = result.figures["before"], result.figures["after"]
    typer.echo(f"Tuned from {far:g} to {near:g}; edit it with --registry {result.registry}.", err=True)
    files = [{"path": str(path), "sha256": sha256_of(path)} for path in (result.file, result.registry, file)]
    return [entry_of(result.picture.save(out, kind.value), result.picture.provenance), *files]


@app.command()
def edit(
    latents: Saved,
    model: Annotated[str | None, typer.Option(metavar="ID", help="Generator; the file names it by default.")] = None,
    move: Moves = None,
    layers: Annotated[str | None, typer.Option(help="Only these layers move, like 0-7.")] = None,
    mix: Annotated[str | None, typer.Option(metavar="SEED|FILE", help="Seed or latents to take layers from.")] = None,
    mix_layers: Annotated[str | None, typer.Option(help="Layers that are taken, like 4-9.")] = None,
    mark: Mark = True,
    save: Annotated[
        Path | None, typer.Option("--save-latents", metavar="FILE", help="Also write the new latents (.npz).")
    ] = None,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Kind = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Move latents along directions, or mix them with others."""
    from ganhub.directions import parse_moves
    from ganhub.latents import load_latents, parse_layers, save_latents
    from ganhub.pipelines.edit import EditRequest
    from ganhub.pipelines.edit import edit as pipeline

    saved = load_latents(latents)
    other: Latents | int | None = None
    if mix is not None:
        other = int(mix) if mix.isdecimal() and len(mix) < 11 else load_latents(mix)
    request = EditRequest(
        _model(model, saved, latents),
        saved,
        parse_moves(",".join(move or ())),
        parse_layers(layers) if layers else None,
        other,
        parse_layers(mix_layers) if mix_layers else (),
        mark,
        precision.value if precision else None,
    )
    with engine_of(registry, device) as engine:
        written, result = follow(pipeline(engine, request), out, kind)
    if save is not None:
        save_latents(save, result.latents)
        written.append({"path": str(save), "sha256": sha256_of(save)})
    tell(written, as_json)


@app.command()
def morph(
    a: Saved,
    b: Annotated[Path, typer.Argument(metavar="FILE", help="Saved latents (.npz) of the other.")],
    model: Annotated[str | None, typer.Option(metavar="ID", help="Generator; the file names it by default.")] = None,
    steps: Annotated[int, typer.Option(help="Pictures from one to the other.")] = 6,
    video: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an MP4.")] = None,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 60,
    fps: Annotated[int, typer.Option(help="Of the video.")] = 30,
    mark: Mark = True,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Kind = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Turn one latent into another: pictures in steps, all on one strip, and a video."""
    from ganhub.latents import load_latents
    from ganhub.pipelines.edit import MorphRequest
    from ganhub.pipelines.edit import morph as pipeline

    first, second = load_latents(a), load_latents(b)
    how: dict[str, Any] = {"steps": steps, "frames": frames, "fps": fps, "mark": mark, "file": video}
    how |= {"precision": precision.value if precision else None}
    request = MorphRequest(_model(model, first, a), first, second, **how)
    if video is not None:
        video.parent.mkdir(parents=True, exist_ok=True)
    with engine_of(registry, device) as engine:
        written, result = follow(pipeline(engine, request), out, kind)
    written.append(entry_of(result.strip.save(out, kind.value), result.about))
    if result.video is not None:
        written.append(entry_of(result.video, result.about))
    tell(written, as_json)


def _model(model: str | None, saved: Latents, file: Path) -> str:
    if model is None and not saved.checkpoint:
        raise BadInput(f"{file.name} does not say which generator it is of; name it with --model.")
    return model or saved.checkpoint
