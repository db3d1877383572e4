"""The command `ganhub`: pictures, checkpoints and the app from a terminal.

Results go to standard output (paths, or JSON with --json), progress to standard error. Bad input ends with one
sentence and the exit code 2, Ctrl-C with 130.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import Annotated

import typer

from ganhub.cli._shared import Rows, app, given
from ganhub.errors import GanHubError

for _file in sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")):
    importlib.import_module(f"{__name__}.{_file}")  # each file adds its commands to `app`


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: this machine only).")] = None,
    port: Annotated[int | None, typer.Option(help="Port (default: 7860).")] = None,
    registry: Rows = None,
) -> None:
    """Start the app."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from ganhub import ui

    ui.launch(ui.build_app(registry=registry or given["registry"]), server_name=host, server_port=port)


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
