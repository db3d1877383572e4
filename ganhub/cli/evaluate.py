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
    count: Annotated[
        int | None,
        typer.Option(
            help="Pictures to draw, 2000 by default, or of sentences 500; distances are compared at equal numbers only."
        ),
    ] = None,
    psi: Annotated[str, typer.Option(help="Truncations to measure, like 1,0.7,0.5.")] = "1",
    ppl: Annotated[bool, typer.Option("--ppl", help="Also measure the perceptual path length.")] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write the pictures that are nearest to a real one, above those."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", help="Sentences of the set: measure whether a checkpoint draws what they say."
        ),
    ] = None,
    way: Annotated[
        str | None, typer.Option(help="From sentences: stackgan, guided or instant; the first it can by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Write 30 sentences, drawn four times each; of ages, 40 faces before and after."
        ),
    ] = None,
    judges: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of ages: the networks that judge; read where it exists, else made."),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the figures in the folder of the run.")] = False,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Hold a checkpoint's pictures against real ones: distances, overlap, copies; PSNR and SSIM of enlarged ones; of
    those from sentences, whether they are what was asked for."""
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
    others = (features, psi, ppl, pairs) != ("small", "1", False, None)
    if captions is not None:
        if others or write:
            raise BadInput("With --captions there are no --features, --psi, --ppl, --pairs and --write.")
        _from_sentences(rows, row.id, data, captions, way, count, out, device, as_json)
        return
    if "age" in row.task:
        if others or count is not None or way is not None:
            raise BadInput(
                f"'{row.id}' changes ages; --features, --count, --psi, --ppl, --pairs and --way are of others."
            )
        line = _aged(rows, row.id, data, judges, run, out, device, as_json)
        if write:
            _keep(path / "evaluation.json", line)
        return
    if judges is not None:
        raise BadInput(f"'{row.id}' does not change ages; leave --judges out.")
    if way is not None or out is not None or row.task == ("text",):
        raise BadInput(
            f"What '{row.id}' makes of sentences is measured with those of the set; add --captions FILE.csv."
        )
    if "upscale" in row.task:
        if others or count is not None:
            raise BadInput(
                f"'{row.id}' enlarges pictures; --features, --count, --psi, --ppl and --pairs are of others."
            )
        line = _upscaled(rows, row.id, data, run, device, as_json)
        if write:
            _keep(path / "evaluation.json", line)
        return
    how: dict[str, Any] = {"features": features, "psis": floats("--psi", psi), "path_length": ppl}
    how |= {} if count is None else {"count": count}
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


def _aged(
    rows: Any, checkpoint: str, data: Path, judges: Path | None, run: dict[str, Any], out: Path | None,
    device: str | None, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Measure a network that changes ages, tell of it, and return its line."""
    from ganhub.engine import Engine
    from ganhub.pipelines import evaluate_aging as pipeline

    engine = Engine(rows, device=device)
    try:
        _, result = follow(pipeline.evaluate_aging(engine, pipeline.EvaluateAgingRequest(checkpoint, data, judges)))
    finally:
        engine.close(drain=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result.pairs.save(out)
    line = result.line() | ({"commit": run["commit"]} if run.get("commit") else {})
    if as_json:
        show_json(line)
        return line
    print(f"{line['checkpoint']} (sha256 {line['sha256'][:12]}), {line['precision']}")
    print(f"{line['data']['name']} (sha256 {line['data']['sha256'][:12]}), {line['data']['pictures']} held-out faces")
    for way, figures in result.ways.items():
        print(f"{way}, {figures['faces']:.0f} faces: {figures['years']:+.1f} years ({figures['years_low']:+.1f} to "
              f"{figures['years_high']:+.1f}), {figures['moved']:.0%} of them that way")  # fmt: skip
        print(f"  {figures['itself']:.0%} nearest to themselves (cosine {figures['cosine']:.2f}, the nearest other "
              f"{figures['cosine_other']:.2f}); change {figures['change']:.1f} levels in the face, "
              f"{figures['backdrop']:.0f} at most outside")  # fmt: skip
    known = result.judges
    print(f"the judge of ages errs by {known['age_error']:.1f} years on these people (their mean age by "
          f"{known['age_error_of_mean']:.1f}), correlation {known['age_correlation']:.2f}")  # fmt: skip
    if "another_is_nearest" in known:
        print(f"the judge of persons finds {known['another_is_nearest']:.0%} of {known['pictures_with_another']:.0f} "
              "faces by another picture of the same person")  # fmt: skip
    return line


def _from_sentences(
    rows: Any, checkpoint: str, data: Path, captions: Path, way: str | None, count: int | None, out: Path | None,
    device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure whether a checkpoint draws what sentences say, and tell of it."""
    from ganhub.data.captions import CaptionedSet
    from ganhub.engine import Engine
    from ganhub.pipelines import evaluate_text as pipeline

    request = pipeline.EvaluateTextRequest(
        checkpoint, CaptionedSet(data, captions), way=way, count=count, sheet=out is not None
    )
    engine = Engine(rows, device=device)
    try:
        _, result = follow(pipeline.evaluate_text(engine, request))
    finally:
        engine.close(drain=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result.sheet.save(out)
    line = result.line()
    if as_json:
        show_json(line)
        return
    print(f"{line['checkpoint']} (sha256 {line['sha256'][:12]}), {line['way']}, {line['precision']}")
    print(f"{line['data']['name']} (sha256 {line['data']['sha256'][:12]}), {len(line['kinds'])} kinds")
    columns = {"sentences": "", "fruit": "fruit", "fruit_any_colour": "any colour", "colour": "colour"}
    columns |= {"cut": "whole/cut", "nearest_median": "nearest", "nearest_1_percent": "nearest 1%"}
    titles = {"all": "all", "seen": "known to its training", "unseen": "never in its training"}
    titles |= {"others": "against other sentences"}
    print(" " * 26 + "".join(f"{title:>12}" for title in columns.values()))
    real = {key: value for key, value in result.real.items() if key in columns}
    for title, figures in (*((titles[name], result.figures[name]) for name in result.figures), ("real pictures", real)):
        cells = (f"{figures[key]:.4g}" if key in figures else "" for key in columns)
        print(title.ljust(26) + "".join(f"{cell:>12}" for cell in cells))
    print(f"real pictures: {result.real['pictures']:.0f} that trainings hold out; {pipeline.MARKS}")
    both = (f"{result.real[f'{name}_recoloured']:.4g}" for name in ("fruit", "fruit_any_colour"))
    print("real pictures in other colours: fruit {}, by the classifier of any colour {}".format(*both))
    for name in ("fruit", "colour"):
        if name in result.above:
            print(f"{name}: {result.above[name]:.2f} standard deviations above random pictures, of which "
                  f"{result.above[f'random_{name}']:.4g} are right")  # fmt: skip


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
