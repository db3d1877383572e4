"""`ganhub list`, `info`, `pull`, `verify`, `convert`, `provenance`: the registry and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ganhub.cli._shared import (
    Id,
    Ids,
    Json,
    Rows,
    app,
    config_of,
    facts_of,
    meter_line,
    registry_of,
    resolution_of,
    show_json,
)
from ganhub.errors import BadInput, GanHubError


@app.command("list")
def list_rows(task: Annotated[str | None, typer.Option(help="Only what this task can use.")] = None,
              registry: Rows = None, as_json: Json = False) -> None:  # fmt: skip
    """Show the checkpoints of the registry."""
    from ganhub import hub

    rows = list(registry_of(registry))
    tasks = sorted({name for row in rows for name in row.task})
    if task is not None:
        if task not in tasks:
            raise BadInput(f"There is no task '{task}'; there are {', '.join(tasks)}.")
        rows = [row for row in rows if task in row.task]
    if as_json:
        show_json([facts_of(row) for row in rows])
        return
    table = [("ID", "FAMILY", "SIZE", "MB", "HERE", "LICENCE", "TITLE")]
    for row in rows:
        here = "yes" if hub.status(row).on_disk else "planned" if row.planned else "-"
        size = f"{row.bytes / 1e6:.1f}" if row.bytes else ""
        table.append((row.id, row.family, resolution_of(row), size, here, row.license, row.title))
    widths = [max(len(line[k]) for line in table) for k in range(6)]
    for line in table:
        print("  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[6]]))


@app.command()
def info(checkpoint: Id, registry: Rows = None, as_json: Json = False) -> None:
    """Show all that is known of one checkpoint."""
    row = registry_of(registry).find(checkpoint)
    facts = facts_of(row)
    if as_json:
        show_json(facts)
        return
    for key, value in facts.items():
        if value not in (None, "", [], {}):
            print(
                f"{key + ':':18}{json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value}"
            )


@app.command()
def pull(ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Checkpoints of the registry.")],
         registry: Rows = None, as_json: Json = False) -> None:  # fmt: skip
    """Fetch checkpoints, with the other rows that they need, and verify them."""
    from ganhub import hub

    rows = registry_of(registry)
    wanted = [rows.find(name) for name in ids]
    wanted += [rows.find(other) for row in wanted for other in row.components.values()]
    done = []
    for row in {row.id: row for row in wanted}.values():
        with meter_line() as meter:
            path = hub.fetch(row, progress=lambda event, row=row: meter.bytes(f"Fetching {row.id}", event))  # type: ignore[misc]
        found = hub.status(row)
        done.append({"id": row.id, "path": str(path), "bytes": found.bytes, "sha256": found.sha256})
        if not as_json:
            print(f"{row.id}: {path}")
    if as_json:
        show_json(done)


@app.command()
def verify(ids: Ids = None, registry: Rows = None, as_json: Json = False) -> None:
    """Read files again and hold them against the registry; all that are here by default."""
    from ganhub import hub

    rows = registry_of(registry)
    wanted = [rows.find(name) for name in ids] if ids else [row for row in rows if hub.status(row).on_disk]
    found: list[dict[str, Any]] = []
    for row in wanted:
        try:
            good = hub.verify(row)
            found.append({"id": row.id, "ok": True, "path": str(good.path), "bytes": good.bytes, "sha256": good.sha256,
                          "against": good.against})  # fmt: skip
        except GanHubError as error:
            found.append({"id": row.id, "ok": False, "code": error.code, "message": error.message})
        if not as_json:
            last = found[-1]
            print(f"{row.id}: ok ({last['against']})" if last["ok"] else f"{row.id}: {last['message']}")
    if as_json:
        show_json(found)
    bad = sum(not line["ok"] for line in found)
    if bad:
        raise BadInput(f"{bad} of {len(found)} files are not what the registry names.", "verify")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint of any kind.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
    family: Annotated[str | None, typer.Option(help="Family; recognised from the file by default.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="G (default) or D; may be repeated.")] = None,
    config: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="What shapes cannot tell.")] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as safetensors, and compare what both files draw."""
    from dataclasses import asdict

    from ganhub.pipelines.convert import convert as pipeline

    made = pipeline(file, out, family=family, parts=part or ["G"], config=config_of(config or []))
    if as_json:
        show_json({**asdict(made), "path": str(made.path)})
        return
    print(f"{made.path}: {made.family}, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    for name, difference in made.differences.items():
        print(f"{name}: largest difference to the source {difference:g}")


@app.command()
def provenance(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="PNG, JPEG, WebP or MP4.")]) -> None:
    """Show what GAN Hub wrote into pictures and videos, as JSON."""
    from ganhub.imaging import read_provenance

    found = [{"path": str(file), "provenance": read_provenance(file)} for file in files]
    show_json(found if len(found) > 1 else found[0])
