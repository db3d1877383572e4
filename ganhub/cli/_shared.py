"""What the commands share: options, the engine, progress, and how results are told."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganhub.errors import BadInput

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
Moves = Annotated[
    list[str] | None, typer.Option("--move", metavar="ID=STRENGTH", help="A direction and how far; also several.")
]
Noise = Annotated[NoiseMode, typer.Option(help="Fixed noise, drawn from the seed, or none.")]
Exact = Annotated[Precision | None, typer.Option(help="float32, or the family's fast form.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best one present by default.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures; it is made.")]
Kind = Annotated[Format, typer.Option(help="File format of the pictures.")]

given: dict[str, Path | None] = {"registry": None}


@app.callback()
def _options(registry: Rows = None) -> None:
    given["registry"] = registry


def registry_of(file: Path | None) -> Registry:
    from ganhub.registry import load_registry

    return load_registry(file or given["registry"])


@contextmanager
def engine_of(registry: Path | None, device: str | None) -> Iterator[Engine]:
    rows = registry_of(registry)  # a wrong registry is told before anything heavy is loaded
    from ganhub.engine import Engine

    engine = Engine(rows, device=device)
    try:
        yield engine
    finally:
        engine.close(drain=False)


def how_of(row: Checkpoint, label: str | None, **options: Any) -> dict[str, Any]:
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


def config_of(pairs: list[str]) -> dict[str, Any]:
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


def floats(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise BadInput(f"{name} cannot be read at '{text[:40]}'; write it like 0,0.5,1.") from None


def follow(
    events: Iterator[Any], out: Path | None = None, kind: Format = Format.png
) -> tuple[list[dict[str, Any]], Any]:
    """Run a pipeline: pictures are written as they come, progress is shown, the result is returned."""
    from ganhub.pipelines.requests import Progress

    written: list[dict[str, Any]] = []
    with meter_line() as meter:
        for event in events:
            if not isinstance(event, Progress):
                return written, event
            if event.picture is not None and out is not None:
                written.append(_written(event.picture, out, kind))
            rate = f", {event.speed:.1f}/s" if event.speed else ""
            meter.show(event.message + rate, event.done, event.total, event.seconds_left)
    raise AssertionError("a pipeline ends with its result")


def _written(picture: Picture, out: Path, kind: Format) -> dict[str, Any]:
    return entry_of(picture.save(out, kind.value), picture.provenance)


def entry_of(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    seed = {"seed": about["seed"]} if "seed" in about else {"seeds": about["seeds"]} if "seeds" in about else {}
    return {"path": str(path), **seed, "sha256": sha256_of(path), "provenance": about}


def sha256_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def tell(written: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json({"written": written})
    else:
        for entry in written:
            print(entry["path"])


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def facts_of(row: Checkpoint) -> dict[str, Any]:
    from ganhub import hub
    from ganhub.registry import ManualSource

    here = hub.status(row)
    facts = row.model_dump(mode="json")
    facts |= {"on_disk": here.on_disk, "path": str(here.path)}
    if isinstance(row.source, ManualSource):
        facts["put_file_at"] = str(hub.manual_path(row))
    return facts


def resolution_of(row: Checkpoint) -> str:
    if row.resolution is None:
        return ""
    height, width = (row.resolution, row.resolution) if isinstance(row.resolution, int) else row.resolution
    return f"{width}x{height}"


class Meter:
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
def meter_line() -> Iterator[Meter]:
    meter = Meter()
    try:
        yield meter
    finally:
        if meter.live and meter.width:
            print(file=sys.stderr)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
