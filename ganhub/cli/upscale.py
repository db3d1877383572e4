"""`ganhub upscale`: photos and videos, several times larger; `ganhub overlap`: how far its tiles must overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ganhub.cli._shared import Device, Exact, Id, Json, Rows, app, engine_of, entry_of, follow, show_json, tell
from ganhub.errors import BadInput

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@app.command()
def upscale(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Photos, videos, or folders of photos.")],
    model: Annotated[str, typer.Option(metavar="ID", help="Checkpoint; `ganhub list --task upscale` shows all.")],
    scale: Annotated[float | None, typer.Option(help="How many times larger; the network's own by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the result in pixels, in place of --scale.")] = None,
    blend: Annotated[float, typer.Option(help="0 this network, 1 the one its row names to be blended with.")] = 0.0,
    tile: Annotated[int | None, typer.Option(help="Side of a tile: memory grows with its square.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Of tiles, in pixels of the photo; else as measured.")] = None,
    precision: Exact = None,
    out: Annotated[Path, typer.Option(metavar="DIR|FILE.zip", help="Folder for the results, or a zip.")] = Path("out"),
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Make photos and videos several times larger."""
    from ganhub.imaging import read_provenance
    from ganhub.pipelines.upscale_files import VideoRequest, photos_in, upscale_files, upscale_video

    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    photos = photos_in(file for file in files if file not in videos)
    archive = out if out.suffix.lower() == ".zip" else None
    if videos and (archive or width or tile or overlap is not None):
        raise BadInput("Videos go into a folder, with --scale and --blend only.")
    folder = out.parent if archive else out
    how: dict[str, Any] = {"blend": blend, "precision": precision.value if precision else None, "scale": scale}
    written: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    with engine_of(registry, device) as engine:
        row = engine.registry.find(model)
        if photos:
            more: dict[str, Any] = {"width": width, "tile": tile, "overlap": overlap}
            _, result = follow(upscale_files(engine, photos, folder, row.id, archive=archive, **how, **more))
            failed += result.failed
            if result.archive:
                written.append({"path": str(result.archive), "files": [path.name for _, path in result.done]})
            else:
                for name, path in result.done:
                    written.append({**entry_of(path, read_provenance(path)), "notes": list(result.notes[name])})
        for source in videos:
            file = folder / f"{source.stem}_x{scale or engine.describe(row.id)['scale']:g}.mp4"
            _, made = follow(upscale_video(engine, VideoRequest(row.id, source, file, **how)))
            written.append({**entry_of(made.file, made.provenance), "frames": made.frames})
    if as_json:
        show_json({"written": written, "failed": [{"name": name, "error": text} for name, text in failed]})
    else:
        tell(written, False)
    if failed:
        raise BadInput(" ".join(f"{name}: {text}" for name, text in failed))


@app.command()
def overlap(
    checkpoint: Id,
    photos: Annotated[list[Path] | None, typer.Argument(metavar="[PHOTO]...", help="To measure on.")] = None,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Measure the smallest overlap of tiles that nobody can see, for a row's `preprocess`."""
    from ganhub.imaging import read_photo
    from ganhub.pipelines.overlap import measure

    with engine_of(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        _, found = follow(measure(engine, row.id, [read_photo(path) for path in photos or []]))
    if as_json:
        show_json({"checkpoint": row.id, "overlap": found.overlap, "reach": found.reach, "errors": found.errors})
    else:
        error = found.errors[found.overlap]
        print(f"preprocess: {{overlap: {found.overlap}}}  # {error:.2f} levels of 255; it sees {found.reach} pixels")
