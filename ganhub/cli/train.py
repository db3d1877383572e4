"""`ganhub train`: a recipe, a set, a folder for the run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from ganhub import training
from ganhub.cli._shared import app
from ganhub.errors import BadInput

_HELP = ("--help", "-h")


def recipes() -> dict[str, str]:
    """Name and first line of every recipe; read from the source, since importing one takes seconds."""
    found = {}
    for file in sorted(Path(training.__file__).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\nclass Settings" in text and "\nclass Trainer" in text:
            found[file.stem] = text.lstrip('"').splitlines()[0]
    return found


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Without options: the list of recipes.")] = "--help",
) -> None:
    """Train a network on a set; `ganhub train RECIPE --help` lists the options of a recipe."""
    known = recipes()
    if recipe in _HELP:
        print("Usage: ganhub train RECIPE --data SET.zip --out RUN [options]\n")
        for name, line in known.items():
            print(f"  {name:12} {line}")
        print("\n`ganhub train RECIPE --help` lists the options of a recipe.")
        return
    recipe = recipe.replace("-", "_")
    if recipe not in known:
        raise BadInput(f"There is no recipe '{recipe[:40]}'; there are {', '.join(known)}.")
    from ganhub.training import options

    print(options.run(importlib.import_module(f"ganhub.training.{recipe}"), recipe, context.args))
