"""The command line of a recipe, made from the fields of its settings."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from ganhub.errors import BadInput


def option(default: Any, text: str) -> Any:
    """A field of a recipe's settings, with its help text."""
    return field(default=default, metadata={"help": text})


def parser(recipe: ModuleType, name: str) -> argparse.ArgumentParser:
    """Options of a recipe: those of every training, then its own."""
    made = _Parser(prog=f"ganhub train {name}", description=recipe.__doc__, allow_abbrev=False,
                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    needs_data = getattr(recipe, "NEEDS_DATA", True)
    made.add_argument("--data", type=Path, required=needs_data, metavar="SET", help="set of `ganhub data prepare`")
    made.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    for flag, default, text in (
        (
            "--kimg",
            getattr(recipe, "KIMG", 25000),
            "thousand real pictures to show to D, those of earlier runs included",
        ),
        ("--snap", getattr(recipe, "SNAP", 50), "thousand pictures between two snapshots"),
    ):
        made.add_argument(flag, type=float, default=default, help=f"{text} (default: %(default)s)")
    resume = "go on from the state in --out; with a file or an id of the registry, start from its weights"
    made.add_argument("--resume", nargs="?", const="", metavar="CHECKPOINT", help=resume)
    drawn = "pictures that are drawn and measured at every snapshot; 0 for none (default: %(default)s)"
    made.add_argument("--measure", type=int, default=2000, metavar="N", help=drawn)
    made.add_argument("--features", choices=("small", "inception"), default="small", help="what distances are taken in")
    made.add_argument("--device", help="cuda, mps or cpu; the best one present by default")
    hints = get_type_hints(recipe.Settings)
    for entry in fields(recipe.Settings):
        _add(made, entry, hints[entry.name])
    return made


def _add(made: argparse.ArgumentParser, entry: Field, kind: Any) -> None:
    flag = "--" + entry.name.replace("_", "-")
    text = entry.metadata.get("help", "")
    default = entry.default if entry.default is not MISSING else None
    if kind is bool:
        made.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        return
    plain = next((t for t in (int, float, str) if t is kind or t in getattr(kind, "__args__", ())), str)
    shown = "" if default is None else f" (default: {default})"
    made.add_argument(flag, type=plain, default=default, metavar=plain.__name__.upper(), help=text + shown)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise BadInput(f"{message[:1].upper()}{message[1:]}; `{self.prog} --help` lists the options.")


def run(recipe: ModuleType, name: str, arguments: list[str]) -> Path:
    """Trains as the command line says; returns the run folder."""
    from ganhub.data.dataset import PictureSet
    from ganhub.engine.device import tune_allocator
    from ganhub.training import loop
    from ganhub.training.workers import Workers

    given = parser(recipe, name).parse_args(arguments)
    settings = recipe.Settings(**{f.name: getattr(given, f.name) for f in fields(recipe.Settings)})
    tune_allocator()
    import torch

    torch.set_flush_denormal(True)
    if hasattr(recipe, "open_data"):
        data = recipe.open_data(given.data, settings)
    else:
        data = PictureSet(given.data) if given.data else recipe.own_data()
    trainer = recipe.Trainer(settings, data, Workers(given.device))
    if given.resume:
        for part, words in trainer.transfer(checkpoint_file(given.resume)).items():
            print(f"{part}: {words} from {given.resume}", file=sys.stderr)
    measure = getattr(trainer, "measure", None)
    if given.measure and measure is None:
        from ganhub.metrics import snapshots

        measure = snapshots.measure(data, given.measure, given.out / "nearest.png", given.features)
    loop.train(trainer, given.out, images=round(given.kimg * 1000), snap=round(given.snap * 1000), data=data,
               resume=given.resume == "", origin=given.resume or None, measure=measure)  # fmt: skip
    return given.out


def checkpoint_file(name: str) -> Path:
    """The file of a path or of an id of the registry."""
    if Path(name).exists():
        return Path(name)
    from ganhub import hub
    from ganhub.registry import load_registry

    return hub.fetch(load_registry().find(name))
