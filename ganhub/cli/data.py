"""`ganhub data prepare`: a folder of pictures becomes a set that networks can be trained on."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ganhub.cli._shared import Json, app, meter_line, show_json
from ganhub.errors import BadInput

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Sets of pictures to train on.")
app.add_typer(data, name="data")


class How(str, Enum):
    centre = "centre"
    face = "face"
    saliency = "saliency"
    page = "page"


@data.callback()
def _group() -> None:
    """Sets of pictures to train on."""


@data.command()
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, in sub-folders too.")],
    out: Annotated[Path, typer.Option(metavar="SET.zip", help="The set; beside it come SET.crops.csv, .png and .md.")],
    size: Annotated[int, typer.Option(help="Side of its pictures, a power of two.")] = 64,
    crop: Annotated[How | None, typer.Option(help="What is taken of each picture (default: centre).")] = None,
    crops: Annotated[Path | None, typer.Option(metavar="FILE", help="Cut by this table instead of looking.")] = None,
    margin: Annotated[float, typer.Option(help="Side of a face's square over the distance of its eyes.")] = 2.6,
    smallest: Annotated[
        int | None, typer.Option(help="Leave out squares below so many pixels (default: --size, nothing is enlarged).")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Classes from labels.csv, or `folder`: from sub-folders.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="labels.csv that lies elsewhere.")] = None,
    license: Annotated[str, typer.Option(help="Licence of the pictures.")] = "",
    credit: Annotated[str, typer.Option(help="Whose pictures they are.")] = "",
    source: Annotated[str, typer.Option(help="Where they come from.")] = "",
    processes: Annotated[int | None, typer.Option(help="Work in so many processes.")] = None,
    as_json: Json = False,
) -> None:
    """Make a set: read, sort out, cut, resize, label, pack."""
    from ganhub.data.prepare import prepare as run

    if crop and crops:
        raise BadInput("--crops says what to cut; leave out --crop.")
    with meter_line() as meter:
        made = run(
            folder,
            out,
            size=size,
            crop=(crop or How.centre).value,
            crops=crops,
            margin=margin,
            smallest=smallest,
            label=label,
            labels=labels,
            license=license,
            credit=credit,
            source=source,
            processes=processes,
            progress=meter.show,
        )
    summary = made.summary
    if as_json:
        files = {key: str(getattr(made, key)) for key in ("set", "table", "sheet", "report")}
        counts = {"pictures": summary.kept, "files": summary.files, "classes": summary.classes}
        dropped = [{"file": row.file, "note": row.note} for row in summary.dropped]
        show_json({**files, "sha256": summary.sha256, **counts, "dropped": dropped})
        return
    for file in (made.set, made.table, made.sheet, made.report):
        print(file)


@data.command()
def caption(
    pictures: Annotated[Path, typer.Argument(metavar="SET", help="Set of `ganhub data prepare`, with classes.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.csv", help="The table `file,caption`; beside it come FILE.png and FILE.md.")
    ],
    seed: Annotated[int, typer.Option(help="Of the choice of words.")] = 0,
    as_json: Json = False,
) -> None:
    """Write sentences about pictures of fruit: kind, colours, whole or cut, how many, leaf, stem, shape."""
    from ganhub.data.dataset import PictureSet
    from ganhub.data.sentences import write_captions

    with meter_line() as meter:
        made = write_captions(PictureSet(pictures), out, seed, meter.show)
    if as_json:
        show_json({**{key: str(getattr(made, key)) for key in ("table", "sheet", "report")}, "counts": made.counts})
        return
    for file in (made.table, made.sheet, made.report):
        print(file)
