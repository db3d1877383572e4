"""`ganhub publish`, `add`: from a training to the Hub, and from the Hub to the own registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ganhub.cli._shared import Device, Json, Rows, app, given, meter_line, registry_of, show_json


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training, or file of a saved direction.")],
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Repository on the Hub; it is made.")],
    title: Annotated[str | None, typer.Option(help="Title of the card (default: NAME in words).")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, like cc0-1.0 or apache-2.0.")] = None,
    description: Annotated[str, typer.Option(help="A sentence or two on what it draws.")] = "",
    send: Annotated[bool, typer.Option("--push", help="Send it; without, only the folder is written.")] = False,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Write card, preview and row of a training or a direction into a folder, and with --push send them to the Hub."""
    from ganhub.pipelines import publish as pipeline

    if run.suffix == ".safetensors":
        from ganhub.pipelines.publish_direction import publish_direction

        rows = registry_of(registry)
        made = publish_direction(run, to, rows, license=license, description=description)
    else:
        print("Drawing the preview ...", file=sys.stderr)
        made = pipeline.publish(run, to, title=title, license=license, description=description, device=device)
    sizes = {name: (made.folder / name).stat().st_size for name in made.files}
    pushed = None
    if send:
        print(f"Sending {sum(sizes.values()) / 1e6:.1f} MB to {made.repository} ...", file=sys.stderr)
        pushed = pipeline.push(made)
    if as_json:
        files = [{"file": name, "bytes": size} for name, size in sizes.items()]
        where = {"page": pushed.page, "commit": pushed.commit} if pushed else {"page": None, "commit": None}
        row = made.row.model_dump(mode="json", exclude_defaults=True)
        show_json({"folder": str(made.folder), "repository": made.repository, "files": files, "row": row, **where})
        return
    for name, size in sizes.items():
        print(f"{made.folder / name}  {size / 1e3:,.1f} kB")
    allowed = "allowed" if made.row.commercial_use else "not allowed, going by the licences of weights and pictures"
    print(f"id {made.row.id}, licence {made.row.license}, commercial use {allowed}")
    if pushed is None:
        print(f"Nothing was sent. Read {made.folder / 'README.md'}, then repeat with --push to publish it.")
    else:
        print(f"{pushed.page} at commit {pushed.commit}; others add it with: ganhub add hf://{made.repository}")


@app.command()
def add(
    address: Annotated[str, typer.Argument(metavar="hf://OWNER/NAME[@REVISION]", help="A model on the Hub.")],
    name: Annotated[str | None, typer.Option("--id", help="Call it otherwise than its owner does.")] = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Fetch a checkpoint from the Hub, check it and what it draws, and add its row to the registry."""
    from ganhub.pipelines.add import add as pipeline
    from ganhub.registry import added_file

    file = registry or given["registry"] or added_file()
    with meter_line() as meter:
        made = pipeline(address, file, id=name, progress=lambda event: meter.bytes(f"Fetching {address}", event))
    row = made.row
    if as_json:
        facts = row.model_dump(mode="json", exclude_defaults=True)
        show_json({"row": facts, "registry": str(file), "path": str(made.path), "difference": made.difference})
        return
    print(f"{row.id}: {row.title}, {row.family}, licence {row.license}")
    print(f"added to {file}, pinned to commit {row.revision}; the file is {made.path}")
    if made.difference is None:
        print("Its owner shows no picture to compare with.")
    elif made.difference <= 1:
        print("It draws the picture that its owner saw.")
    else:
        print(
            f"Look before you use it: the picture of its seed {row.golden['seed']} differs from the one that its owner "
            f"saw by {made.difference} of 255 levels."
        )
