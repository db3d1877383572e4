"""The command `ganhub`: pictures, checkpoints and the app from a terminal.

Results go to standard output (paths, or JSON with --json), progress to standard error. Bad input ends with one
sentence and the exit code 2, Ctrl-C with 130.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganhub.errors import BadInput, GanHubError

if TYPE_CHECKING:
    from ganhub.engine import Engine
    from ganhub.pipelines.requests import Picture
    from ganhub.registry import Checkpoint, Registry

app = typer.Typer(
    name="ganhub",
    help="GAN checkpoints of every era, working again.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class NoiseMode(str, Enum):
    const = "const"
    random = "random"
    none = "none"


class Precision(str, Enum):
    exact = "exact"
    fast = "fast"


class Format(str, Enum):
    png = "png"
    jpg = "jpg"
    webp = "webp"


Id = Annotated[str, typer.Argument(metavar="ID", help="Checkpoint of the registry; `ganhub list` shows all.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Checkpoints of the registry.")]
Rows = Annotated[
    Path | None, typer.Option("--registry", metavar="FILE", help="Add the rows of another YAML file (GANHUB_REGISTRY).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds, like 0-7,12.")]
Psi = Annotated[float, typer.Option(help="Truncation: 1 none, towards 0 the average picture.")]
Cutoff = Annotated[int | None, typer.Option(help="Truncate only the first layers, this many.")]
Label = Annotated[str | None, typer.Option("--class", help="Class of a conditional generator: number or name.")]
Noise = Annotated[NoiseMode, typer.Option(help="Fixed noise, drawn from the seed, or none.")]
Exact = Annotated[Precision | None, typer.Option(help="float32, or the family's fast form.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best one present by default.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures; it is made.")]
Kind = Annotated[Format, typer.Option(help="File format of the pictures.")]

_given: dict[str, Path | None] = {"registry": None}


@app.callback()
def _options(registry: Rows = None) -> None:
    _given["registry"] = registry


@app.command("list")
def list_rows(task: Annotated[str | None, typer.Option(help="Only what this task can use.")] = None,
              registry: Rows = None, as_json: Json = False) -> None:  # fmt: skip
    """Show the checkpoints of the registry."""
    from ganhub import hub

    rows = list(_registry(registry))
    tasks = sorted({name for row in rows for name in row.task})
    if task is not None:
        if task not in tasks:
            raise BadInput(f"There is no task '{task}'; there are {', '.join(tasks)}.")
        rows = [row for row in rows if task in row.task]
    if as_json:
        _print([_facts(row) for row in rows])
        return
    table = [("ID", "FAMILY", "SIZE", "MB", "HERE", "LICENCE", "TITLE")]
    for row in rows:
        here = "yes" if hub.status(row).on_disk else "planned" if row.planned else "-"
        size = f"{row.bytes / 1e6:.1f}" if row.bytes else ""
        table.append((row.id, row.family, _resolution(row), size, here, row.license, row.title))
    widths = [max(len(line[k]) for line in table) for k in range(6)]
    for line in table:
        print("  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[6]]))


@app.command()
def info(checkpoint: Id, registry: Rows = None, as_json: Json = False) -> None:
    """Show all that is known of one checkpoint."""
    row = _registry(registry).find(checkpoint)
    facts = _facts(row)
    if as_json:
        _print(facts)
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

    rows = _registry(registry)
    wanted = [rows.find(name) for name in ids]
    wanted += [rows.find(other) for row in wanted for other in row.components.values()]
    done = []
    for row in {row.id: row for row in wanted}.values():
        with _meter() as meter:
            path = hub.fetch(row, progress=lambda event, row=row: meter.bytes(f"Fetching {row.id}", event))  # type: ignore[misc]
        found = hub.status(row)
        done.append({"id": row.id, "path": str(path), "bytes": found.bytes, "sha256": found.sha256})
        if not as_json:
            print(f"{row.id}: {path}")
    if as_json:
        _print(done)


@app.command()
def verify(ids: Ids = None, registry: Rows = None, as_json: Json = False) -> None:
    """Read files again and hold them against the registry; all that are here by default."""
    from ganhub import hub

    rows = _registry(registry)
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
        _print(found)
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

    made = pipeline(file, out, family=family, parts=part or ["G"], config=_config(config or []))
    if as_json:
        _print({**asdict(made), "path": str(made.path)})
        return
    print(f"{made.path}: {made.family}, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    for name, difference in made.differences.items():
        print(f"{name}: largest difference to the source {difference:g}")


@app.command()
def provenance(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="PNG, JPEG, WebP or MP4.")]) -> None:
    """Show what GAN Hub wrote into pictures and videos, as JSON."""
    from ganhub.imaging import read_provenance

    found = [{"path": str(file), "provenance": read_provenance(file)} for file in files]
    _print(found if len(found) > 1 else found[0])


@app.command()
def generate(
    checkpoint: Id,
    seeds: Annotated[str, typer.Option(help="Seeds, like 0-7,12.")] = "",
    latents: Annotated[Path | None, typer.Option(metavar="FILE", help="Saved latents (.npz) instead of seeds.")] = None,
    psi: Annotated[float | None, typer.Option(help="Truncation: 1 none (default), towards 0 the average.")] = None,
    cutoff: Cutoff = None,
    label: Label = None,
    noise_mode: Noise = NoiseMode.const,
    precision: Exact = None,
    out: Out = Path("out"),
    kind: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    grid: Annotated[bool, typer.Option("--grid", help="Also write all pictures on one sheet.")] = False,
    save: Annotated[Path | None, typer.Option("--save-latents", metavar="FILE", help="Also write z as .npz.")] = None,
    device: Device = None,
    registry: Rows = None,
    as_json: Json = False,
) -> None:
    """Make one picture per seed."""
    from ganhub import imaging
    from ganhub.latents import load_latents, parse_seeds, save_latents
    from ganhub.pipelines import generate as pipeline
    from ganhub.pipelines.requests import GenerateRequest, Picture

    if bool(seeds) == (latents is not None):
        raise BadInput("Name either --seeds, like --seeds 0-7, or --latents FILE.")
    with _engine(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = _how(row, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision, keep=grid)
        if latents is None:
            request = GenerateRequest(row.id, seeds=parse_seeds(seeds), psi=1.0 if psi is None else psi, **how)
        else:
            named = {"psi": psi, "cutoff": how.pop("cutoff"), "label": how.pop("label")}
            changes = {k: v for k, v in named.items() if v is not None}
            request = GenerateRequest.from_latents(row.id, load_latents(latents), **changes, **how)
        written, result = _follow(pipeline.generate(engine, request), out, kind)
        if grid:
            sheet = imaging.grid(result.images)
            about = {k: v for k, v in result.provenance[0].items() if k not in ("seed", "index")}
            about["seeds"] = list(result.seeds)
            written.append(_entry(Picture(sheet, about, f"{row.id}_grid").save(out, kind.value), about))
        if save is not None:
            save_latents(save, result.latents)
            written.append({"path": str(save), "sha256": _sha256(save)})
        _tell(written, as_json)


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

    with _engine(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = _how(row, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision)
        request = SweepRequest(row.id, seeds=parse_seeds(seeds), psis=_floats("--psis", psis), **how)
        written, result = _follow(pipeline.sweep(engine, request), out, kind)
        written.append(_entry(result.grid.save(out, kind.value), result.grid.provenance))
        _tell(written, as_json)


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

    with _engine(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = _how(row, psi=psi, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision)
        chosen: dict[str, Any] = {"rows": parse_seeds(rows), "cols": parse_seeds(cols), "layers": parse_layers(layers)}
        written, result = _follow(pipeline.mix(engine, MixRequest(row.id, **chosen, **how)), out, kind)
        written.append(_entry(result.grid.save(out, kind.value), result.grid.provenance))
        _tell(written, as_json)


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

    with _engine(registry, device) as engine:
        row = engine.registry.find(checkpoint)
        how = _how(row, psi=psi, cutoff=cutoff, label=label, noise_mode=noise_mode, precision=precision)
        way: dict[str, Any] = {
            "frames": frames,
            "fps": fps,
            "space": space,
            "method": method,
            "loop": loop,
            "easing": easing,
        }
        request = InterpolateRequest(row.id, seeds=parse_seeds(seeds), file=out, strip=strip, **way, **how)
        _, result = _follow(pipeline.interpolate(engine, request))
        written = [_entry(result.video, result.about)]
        if result.strip:
            beside = save_image(result.strip.image, out.with_suffix(".png"), result.strip.provenance)
            written.append(_entry(beside, result.strip.provenance))
        _tell(written, as_json)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: this machine only).")] = None,
    port: Annotated[int | None, typer.Option(help="Port (default: 7860).")] = None,
    registry: Rows = None,
) -> None:
    """Start the app."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from ganhub import ui

    ui.launch(ui.build_app(registry=registry or _given["registry"]), server_name=host, server_port=port)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0, 2 for bad input, 130 for Ctrl-C."""
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == 130:  # the parser's own answer to Ctrl-C
            raise KeyboardInterrupt
    except GanHubError as error:
        code = _fail(error.message)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("Stopped.", 130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if not hasattr(error, "format_message"):  # what the parser of the command line raises
            raise
        code = _fail(f"{error.format_message().rstrip('.')}; `ganhub --help` tells more.")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 2) -> int:
    print(f"ganhub: {message}", file=sys.stderr)
    return code


def _registry(file: Path | None) -> Registry:
    from ganhub.registry import load_registry

    return load_registry(file or _given["registry"])


@contextmanager
def _engine(registry: Path | None, device: str | None) -> Iterator[Engine]:
    rows = _registry(registry)  # a wrong registry is told before anything heavy is loaded
    from ganhub.engine import Engine

    engine = Engine(rows, device=device)
    try:
        yield engine
    finally:
        engine.close(drain=False)


def _how(row: Checkpoint, label: str | None, **options: Any) -> dict[str, Any]:
    """Options as the request wants them: enums as text, the class as a number."""
    plain = {k: v.value if isinstance(v, Enum) else v for k, v in options.items()}
    return {**plain, "label": _class(row, label)}


def _class(row: Checkpoint, label: str | None) -> int | None:
    if label is None:
        return None
    names = row.class_names
    if label in names:
        return names.index(label)
    if label.isascii() and label.isdigit() and len(label) < 8:
        return int(label)
    known = f"; there are {', '.join(names[:20])}" if names else ""
    raise BadInput(f"'{row.id}' has no class '{label[:40]}'{known}; name one by number, from 0.")


def _config(pairs: list[str]) -> dict[str, Any]:
    """`key=value` pairs; a value is JSON where it reads as JSON, else text."""
    config: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise BadInput(f"--config takes key=value, not '{pair[:40]}'.")
        try:
            config[key] = json.loads(value)
        except ValueError:
            config[key] = value
    return config


def _floats(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise BadInput(f"{name} cannot be read at '{text[:40]}'; write it like 0,0.5,1.") from None


def _follow(
    events: Iterator[Any], out: Path | None = None, kind: Format = Format.png
) -> tuple[list[dict[str, Any]], Any]:
    """Run a pipeline: pictures are written as they come, progress is shown, the result is returned."""
    from ganhub.pipelines.requests import Progress

    written: list[dict[str, Any]] = []
    with _meter() as meter:
        for event in events:
            if not isinstance(event, Progress):
                return written, event
            if event.picture is not None and out is not None:
                written.append(_written(event.picture, out, kind))
            rate = f", {event.speed:.1f}/s" if event.speed else ""
            meter.show(event.message + rate, event.done, event.total, event.seconds_left)
    raise AssertionError("a pipeline ends with its result")


def _written(picture: Picture, out: Path, kind: Format) -> dict[str, Any]:
    return _entry(picture.save(out, kind.value), picture.provenance)


def _entry(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    seed = {"seed": about["seed"]} if "seed" in about else {"seeds": about["seeds"]} if "seeds" in about else {}
    return {"path": str(path), **seed, "sha256": _sha256(path), "provenance": about}


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tell(written: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print({"written": written})
    else:
        for entry in written:
            print(entry["path"])


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _facts(row: Checkpoint) -> dict[str, Any]:
    from ganhub import hub
    from ganhub.registry import ManualSource

    here = hub.status(row)
    facts = row.model_dump(mode="json")
    facts |= {"on_disk": here.on_disk, "path": str(here.path)}
    if isinstance(row.source, ManualSource):
        facts["put_file_at"] = str(hub.manual_path(row))
    return facts


def _resolution(row: Checkpoint) -> str:
    if row.resolution is None:
        return ""
    height, width = (row.resolution, row.resolution) if isinstance(row.resolution, int) else row.resolution
    return f"{width}x{height}"


class _Meter:
    """One line on standard error: rewritten in place on a terminal, now and then a new one elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = time.monotonic()
        self.width = 0

    def show(self, message: str, done: int = 0, total: int = 0, seconds_left: float | None = None) -> None:
        now = time.monotonic()
        finished = bool(total) and done >= total
        if now - self.last < (0.1 if self.live else 5.0) and not finished:
            return
        self.last = now
        words = message + (f", {_duration(seconds_left)} left" if seconds_left else "")
        if self.live:
            print(f"\r{words.ljust(self.width)}", end="", file=sys.stderr, flush=True)
            self.width = len(words)
        else:
            print(words, file=sys.stderr, flush=True)

    def bytes(self, message: str, event: Any) -> None:
        speed = f", {event.speed / 1e6:.1f} MB/s" if event.speed else ""
        words = f"{message}: {event.done / 1e6:.1f} of {(event.total or 0) / 1e6:.1f} MB{speed}"
        self.show(words, event.done, event.total or 0, event.seconds_left)


@contextmanager
def _meter() -> Iterator[_Meter]:
    meter = _Meter()
    try:
        yield meter
    finally:
        if meter.live and meter.width:
            print(file=sys.stderr)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
