"""`ganhub evaluate`: how good a checkpoint is, in figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ganhub.cli._shared import Device, Json, Rows, app, floats, follow, registry_of, show_json
from ganhub.errors import BadInput


@app.command()
def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="ID|FILE|RUN", help="Checkpoint of the registry, a file, or the folder of a run.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="SET.zip|FOLDER",
            help="Real pictures: a set of `ganhub data prepare`; for a network that enlarges, a folder (Set5, ...).",
        ),
    ],
    features: Annotated[str, typer.Option(help="small, or inception (FID; weights of 96 MB are fetched).")] = "small",
    count: Annotated[int, typer.Option(help="Pictures to draw; distances are compared at equal numbers only.")] = 2000,
    psi: Annotated[str, typer.Option(help="Truncations to measure, like 1,0.7,0.5.")] = "1",
    ppl: Annotated[bool, typer.Option("--ppl", help="Also measure the perceptual path length.")] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write the pictures that are nearest to a real one, above those."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in the folder of the run.")] = False,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Hold a checkpoint's pictures against real ones: distances, overlap, copies; PSNR and SSIM of enlarged ones."""
    from ganhub.engine import Engine
    from ganhub.pipelines import evaluate as pipeline
    from ganhub.registry import Registry

    path = Path(target)
    if write and not path.is_dir():
        raise BadInput(f"--write keeps figures in the folder of a run, and {target[:80]} is none.")
    rows, run = registry_of(registry), {}  # type: ignore[var-annotated]
    if path.exists() or len(path.parts) > 1:
        row, run = pipeline.row_of(path)
        rows = Registry([*rows, row])
    else:
        row = rows.find(target)
    if "upscale" in row.task:
        if (features, count, psi, ppl, pairs) != ("small", 2000, "1", False, None):
            raise BadInput(
                f"'{row.id}' enlarges pictures; --features, --count, --psi, --ppl and --pairs are of others."
            )
        line = _upscaled(rows, row.id, data, run, device, as_json)
        if write:
            _keep(path / "evaluation.json", line)
        return
    how: dict[str, Any] = {"features": features, "count": count, "psis": floats("--psi", psi), "path_length": ppl}
    request = pipeline.EvaluateRequest(row.id, data=data, **how)
    engine = Engine(rows, device=device)
    try:
        _, result = follow(pipeline.evaluate(engine, request))
    finally:
        engine.close(drain=False)
    line = result.line() | ({"commit": run["commit"]} if run.get("commit") else {})
    if write:
        pairs = pairs or path / "nearest.png"
        _keep(path / "evaluation.json", line)
    if pairs is not None:
        pairs.parent.mkdir(parents=True, exist_ok=True)
        result.pairs.save(pairs)
    if as_json:
        show_json(line)
    else:
        _show(result, line)


def _upscaled(
    rows: Any, checkpoint: str, data: Path, run: dict[str, Any], device: str | None, as_json: bool
) -> dict[str, Any]:
    """Measure a network that enlarges pictures, tell of it, and return its line."""
    from ganhub.engine import Engine
    from ganhub.pipelines import evaluate_upscale as pipeline

    apart = pipeline.held_out(run, data)
    request = pipeline.EvaluateUpscaleRequest(
        checkpoint, apart or data, name=f"{data.resolve().name} (held out)" if apart else ""
    )
    engine = Engine(rows, device=device)
    try:
        _, result = follow(pipeline.evaluate_upscale(engine, request))
    finally:
        engine.close(drain=False)
    line = result.line() | ({"commit": run["commit"]} if run.get("commit") else {})
    if as_json:
        show_json(line)
        return line
    print(f"{line['checkpoint']} (sha256 {line['sha256'][:12]}), x{line['scale']}, {line['precision']}")
    print(f"{line['data']['name']} (sha256 {line['data']['sha256'][:12]}), {line['data']['pictures']} pictures")
    print(f"protocol: {line['protocol']}")
    width = max(12, *(len(one["name"]) for one in result.pictures))
    columns = {"psnr_y": "PSNR-Y", "ssim_y": "SSIM-Y", "sharpness": "sharp", "lpips": "LPIPS"}
    shown = [key for key in columns if key in result.mean["model"]]
    print(" " * width + "".join(f"{columns[key]:>9}{'bicubic':>9}" for key in shown))
    means = {"name": "mean", **result.mean}
    for one in (*result.pictures, means):
        cells = (f"{one[who][key]:9.{2 if key == 'psnr_y' else 4}f}" for key in shown for who in ("model", "bicubic"))
        print(str(one["name"]).ljust(width) + "".join(cells))
    for note in result.notes:
        print(note)
    return line


def _keep(file: Path, line: dict[str, Any]) -> None:
    """Put a line in place of the earlier one in the same features, or of the same set."""
    try:
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    except ValueError as error:
        raise BadInput(f"{file} is no JSON ({error}); remove it and evaluate again.") from error
    kept = [entry for entry in before if _kind(entry) != _kind(line)]
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps([*kept, line], indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(part, file)


def _kind(line: dict[str, Any]) -> str:
    return line["features"] if "features" in line else line["data"]["name"]


def _show(result: Any, line: dict[str, Any]) -> None:
    from ganhub.metrics.features import TITLES

    commit = f", commit {line['commit'][:12]}" if "commit" in line else ""
    print(f"{line['checkpoint']} (sha256 {line['sha256'][:12]}{commit}), {line['pictures']} generated pictures")
    print(f"{line['data']['name']} (sha256 {line['data']['sha256'][:12]}), {line['data']['pictures']} real pictures")
    print(f"features: {line['features']}")
    columns = [(f"psi {psi:g}", figures) for psi, figures in result.figures.items()]
    first = next(iter(result.figures))
    columns += [(f"psi {first:g}, half", result.half), ("real, half", result.real)]
    names = [key for key in result.figures[first] if not key.startswith("real_")]
    titles = {**{key: key.replace("_", " ") for key in names}, **TITLES[line["features"]]}
    for key in ("nearest_median", "nearest_1_percent"):
        columns[-1][1][key] = result.figures[first][f"real_{key}"]
    width = max(len(title) for title in titles.values())
    print(" " * width + "".join(f"{name:>16}" for name, _ in columns))
    for key in names:
        cells = (f"{figures[key]:.4g}" if key in figures else "" for _, figures in columns)
        print(titles[key].ljust(width) + "".join(f"{cell:>16}" for cell in cells))
    print(f"half: {result.half['pictures']} pictures on either side; no generator can be expected to beat real ones")
    if result.path_length is not None:
        print(f"perceptual path length ({line['features']} features): {result.path_length:.4g}")
