"""Learns the directions that ship with the embedded generators again, and measures them on ten seeds.

    python -m benchmarks.embed_directions [--only stylegan2-portraits] [--samples 4000] [--dry]

Of each it writes the file in `ganhub/embedded`, the row in `weights.yaml`, the line of the table and the sheet in
`docs/models`, and prints a JSON line. What tells less than 80 % of held-out latents right is not shipped, nor is what
others are only made independent of. To be run again whenever an embedded generator or attribute network is trained
anew: a direction belongs to one file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from typing import Any

from PIL import Image

from ganhub.directions import Direction, save_direction
from ganhub.engine import Engine
from ganhub.imaging import grid
from ganhub.pipelines.labels import Attribute
from ganhub.pipelines.learn import LearnRequest, LearnResult, learn, row_of
from ganhub.pipelines.slide import SlideRequest, slide
from ganhub.registry import Checkpoint, Registry, builtin_file, dump_row, load_registry, make_row

ROOT = Path(__file__).parent.parent
CARD = ROOT / "docs" / "models" / "directions.md"
LEAST = 0.8
"""Accuracy on held-out latents below which a direction is not shipped."""
SEEDS = range(10)
BEFORE = "# --- Small and early GANs of other people"
"""Line of weights.yaml that the rows stand above."""


@dataclass(frozen=True)
class Wanted:
    """A direction: its name, what the network calls it, what is held still, and the layers that move."""

    title: str
    attribute: str
    still: tuple[str, ...] = ()
    finest: int | None = None
    """Pixels of the finest layers that move; None for all."""
    ships: bool = True
    """False for what others are only made independent of."""
    keep: float = 0.2
    """Share of the scored pictures on either side."""


SHIPPED = {
    "stylegan2-portraits": [
        Wanted("Congress", "congress", ships=False),
        Wanted("Gender expression", "gender", ("congress",)),
        Wanted("Glasses", "glasses", ("congress", "gender-expression"), 32),
        Wanted("Smile", "smile", ("congress", "gender-expression", "glasses"), 32),
        Wanted("Age", "age", ("congress", "gender-expression", "glasses", "smile"), keep=0.1),
    ],
    "stylegan2-fruit": [
        Wanted("Cut open", "cut"),
        Wanted("Red", "red", ("cut-open",)),
        Wanted("Green", "green", ("cut-open",)),
        Wanted("Several", "several", ("cut-open",), 16),
    ],
}


def name_of(generator: str, title: str) -> str:
    return f"direction-{generator.removeprefix('stylegan2-')}-{title.lower().replace(' ', '-')}"


def last_of(events: Iterator[Any]) -> Any:
    *_, result = events
    return result


def learned(engine: Engine, generator: Checkpoint, wanted: Wanted, samples: int) -> LearnResult:
    network = f"attributes-{generator.id.removeprefix('stylegan2-')}"
    still = [name_of(generator.id, part) for part in wanted.still]
    layers = None if wanted.finest is None else (0, 2 * int(log2(wanted.finest)) - 4)
    source = Attribute(network, wanted.attribute)
    request = LearnRequest(
        generator.id, wanted.title, source, layers=layers, still=still, samples=samples, keep=wanted.keep, effect=32
    )
    return last_of(learn(engine, request))


def shipped_row(direction: Direction, generator: Checkpoint) -> Checkpoint:
    file = ROOT / "ganhub" / "embedded" / f"{direction.id}.safetensors"
    save_direction(direction, file)
    file.chmod(0o644)
    data = file.read_bytes()
    row = row_of(direction, generator).model_dump(mode="json", exclude_defaults=True)
    row |= {"source": {"embedded": file.name}, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    order = ["id", "task", "family", "source", "sha256", "bytes", "config", "generator"]
    return make_row({**{key: row[key] for key in order}, **row}, "weights.yaml")


def write_rows(rows: list[Checkpoint], gone: set[str]) -> None:
    """In place of rows of the same ids; the others stay as they are, letter by letter."""
    file = builtin_file()
    text = file.read_text(encoding="utf-8")
    for name in gone | {row.id for row in rows}:
        text = re.sub(rf"(?ms)^- id: {re.escape(name)}\n.*?(?=^- id: |^# ---)", "", text)
    new = "".join(dump_row(row) + "\n" for row in rows)
    file.write_text(text.replace(BEFORE, new + BEFORE, 1), encoding="utf-8")


def line_of(direction: Direction) -> str:
    """A line of the table."""
    card = direction.card
    change = card["effect"]["change"]
    own = next(iter(change.values()))
    middle = len(own) // 2
    others = ", ".join(f"{name} {values[middle + 1]:+.1f}" for name, values in list(change.items())[1:])
    low, high = card["accuracy_interval"]
    layers = "all" if direction.layers is None else f"{direction.layers[0]}-{direction.layers[1]}"
    left = card.get("auc_left", card["auc"])
    cells = [
        f"`{direction.id}`",
        f"{card['accuracy']:.0%} ({low:.0%} to {high:.0%})",
        f"{card['auc']:.3f} / {left:.3f}",
        layers,
        f"{own[middle - 1]:+.1f} / {own[middle + 1]:+.1f}",
        others,
        f"{card['effect']['likeness'][middle + 1]:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| direction | held-out accuracy | AUC / left | layers | change at -1 / +1 | of others at +1 | likeness at +1 |\n"
    "|---|---|---|---|---|---|---|\n"
)


def write_table(generator: str, directions: list[Direction]) -> None:
    """The section of a generator in the card, between its two marks."""
    text = CARD.read_text(encoding="utf-8")
    body = HEAD + "\n".join(line_of(direction) for direction in directions) + "\n"
    mark = f"<!-- {generator} -->\n"
    before, _, after = text.split(mark)
    CARD.write_text(before + mark + body + mark + after, encoding="utf-8")


def sheet_of(engine: Engine, generator: str, direction: Direction) -> Image.Image:
    """Ten seeds at -2, 0 and 2, for the eye."""
    asked = SlideRequest(generator, direction, seeds=SEEDS, strengths=(-2, -1, 0, 1, 2))
    return last_of(slide(engine, asked)).grid.image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SHIPPED, help="one of the generators")
    parser.add_argument("--samples", type=int, default=4000, help="pictures that are scored (default: %(default)s)")
    parser.add_argument("--dry", action="store_true", help="write nothing but the sheets, into the current folder")
    args = parser.parse_args()
    for generator in [args.only] if args.only else list(SHIPPED):
        names = {name_of(generator, wanted.title) for wanted in SHIPPED[generator]}
        registry = Registry(row for row in load_registry() if row.id not in names)
        engine = Engine(registry)
        row, rows, kept, sheets, made_files = registry.find(generator), [], [], [], []
        for wanted in SHIPPED[generator]:
            began = time.monotonic()
            result = learned(engine, row, wanted, args.samples)
            direction = replace(result.direction, id=name_of(generator, wanted.title))
            card = direction.card
            ships = wanted.ships and card["accuracy"] >= LEAST
            figures = {k: card[k] for k in ("accuracy", "auc", "chance", "effect")}
            print(json.dumps({"id": direction.id, "ships": ships, "seconds": round(time.monotonic() - began, 1),
                              **figures}), flush=True)  # fmt: skip
            made = shipped_row(direction, row)
            registry.add(made)  # what follows may be held apart from it
            made_files.append(ROOT / "ganhub" / "embedded" / made.source.embedded)
            if ships:
                sheets.append(sheet_of(engine, generator, direction))
                rows.append(made)
                kept.append(direction)
        engine.close()
        for file in made_files:
            if args.dry or file.stem not in {one.id for one in kept}:
                file.unlink()
        where = Path() if args.dry else CARD.parent
        sheet = grid(sheets, columns=2).convert("RGB")
        sheet.thumbnail((1000, 4000), Image.Resampling.LANCZOS)
        sheet.save(where / f"directions-{generator}.jpg", quality=80)
        if not args.dry:
            write_rows(rows, names)
            write_table(generator, kept)


if __name__ == "__main__":
    main()
