"""`ganhub align` and `ganhub age`: faces out of photos, and older or younger in them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ganhub.cli._shared import (
    Device,
    Exact,
    Format,
    Id,
    Json,
    Out,
    Rows,
    app,
    engine_of,
    entry_of,
    floats,
    follow,
    sha256_of,
    show_json,
    tell,
)
from ganhub.errors import BadInput


class Direction(str, Enum):
    older = "older"
    younger = "younger"


class How(str, Enum):
    landmarks = "landmarks"
    points = "points"
    eyes = "eyes"


Consent = Annotated[bool, typer.Option("--consent", help="Everybody in the photos is an adult and agrees.")]
Face = Annotated[int, typer.Option(help="Which face of a photo, 0 for the largest.")]
Every = Annotated[bool, typer.Option("--all", help="All faces of a photo.")]
Box = Annotated[
    str | None, typer.Option(metavar="X,Y,SIDE[,DEGREES]", help="Where the face is, from brow to chin, in pixels.")
]
Found = Annotated[How | None, typer.Option(help="How faces are found; the most exact way that is ready by default.")]
Photos = Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photos of people.")]


@app.command("align")
def align_faces(
    photos: Photos,
    consent: Consent = False,
    size: Annotated[int, typer.Option(help="Side of the result in pixels.")] = 1024,
    face: Face = 0,
    every: Every = False,
    box: Box = None,
    how: Found = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format of the pictures.")] = Format.png,
    as_json: Json = False,
) -> None:
    """Cut faces out of photos, upright, as the pictures of FFHQ are cut."""
    from ganhub.imaging import save_image
    from ganhub.pipelines.faces import align, chosen, find_faces, need_consent, plain, read_face_photo

    need_consent(consent)
    written: list[dict[str, Any]] = []
    for file in photos:
        picture = plain(read_face_photo(file))
        found = [_marked(box)] if box else find_faces(picture, how.value if how else None)
        for number, one in enumerate(chosen(found, None if every else face)):
            name = f"{file.stem}_{number}" if every else file.stem
            path = save_image(align(picture, one, {"size": size}).picture, out / f"{name}_aligned.{kind.value}")
            corners = one.square.corners.round(2).tolist()
            written.append({"path": str(path), "corners": corners, "sha256": sha256_of(path)})
    tell(written, as_json)


@app.command("age")
def age_faces(
    checkpoint: Id,
    photos: Photos,
    consent: Consent = False,
    direction: Annotated[Direction, typer.Option(help="Where a network goes a fixed way.")] = Direction.older,
    to: Annotated[
        float | None, typer.Option(metavar="YEARS", help="Age to become, where a network knows ages.")
    ] = None,
    source: Annotated[float | None, typer.Option(metavar="YEARS", help="Age in the photo; written nowhere.")] = None,
    strength: Annotated[float, typer.Option(help="0 the photo as it is, 1 all that the network changes.")] = 1.0,
    face: Face = 0,
    every: Every = False,
    box: Box = None,
    how: Found = None,
    strip: Annotated[bool, typer.Option("--strip", help="Several ages side by side instead.")] = False,
    ages: Annotated[str, typer.Option(help="Of the strip or video, like 20,40,60.")] = "",
    video: Annotated[bool, typer.Option("--video", help="A video through the ages instead.")] = False,
    frames: Annotated[int, typer.Option(help="Of the video; 30 a second.")] = 90,
    mark: Annotated[bool, typer.Option(help="A corner says that the picture is AI-generated.")] = True,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format of the pictures.")] = Format.png,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Make faces in photos older or younger; nothing but the faces changes."""
    from dataclasses import replace

    from ganhub.pipelines.faces import AgeRequest, age, need_consent, read_face_photo
    from ganhub.pipelines.faces_ages import AgesRequest
    from ganhub.pipelines.faces_ages import ages as through

    need_consent(consent)
    written: list[dict[str, Any]] = []
    notes: dict[str, list[str]] = {}
    settings: dict[str, Any] = {
        "consent": consent,
        "direction": direction.value,
        "source": source,
        "face": None if every else face,
        "faces": [_marked(box)] if box else (),
        "how": how.value if how else None,
        "strength": strength,
        "mark": mark,
        "precision": precision.value if precision else None,
    }
    with engine_of(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        for file in photos:
            photo = read_face_photo(file)
            if strip or video:
                film = out / f"{file.stem}_ages.mp4" if video else None
                wanted = AgesRequest(row.id, photo, **settings, ages=floats("--ages", ages), file=film, frames=frames)
                _, result = follow(through(engine, wanted))
                pictures = [result.strip] if strip else []
                written += [entry_of(film, result.strip.provenance)] if film else []
            else:
                _, result = follow(age(engine, AgeRequest(row.id, photo, target=to, **settings)))
                pictures = [result.picture]
            for picture in pictures:
                named = replace(picture, name=f"{file.stem}_{picture.name.removeprefix(row.id + '_')}")
                written.append(entry_of(named.save(out, kind.value), picture.provenance))
            notes[file.name] = result.notes
    if as_json:
        show_json({"written": written, "notes": notes})
        return
    tell(written, False)
    for name, said in notes.items():
        for note in said:
            typer.echo(f"{name}: {note}", err=True)


def _marked(box: str) -> Any:
    from ganhub.pipelines.faces import marked

    numbers = floats("--box", box)
    if len(numbers) not in (3, 4):
        raise BadInput(f"--box takes X,Y,SIDE and perhaps DEGREES, not '{box[:40]}'.")
    return marked(*numbers)
