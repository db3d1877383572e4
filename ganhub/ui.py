"""The page: finds the tabs, puts them under one header, and serves them."""

from __future__ import annotations

import argparse
import html
import importlib
import logging
import os
import pkgutil
import shutil
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ganhub import zerogpu  # before torch and Gradio
from ganhub.errors import GanHubError
from ganhub.registry import Registry, load_registry

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger(__name__)

WAITING = 64
"""Requests that may wait in the page's queue; more are refused with a sentence."""
AT_ONCE = 64
"""Requests that may be under way. The engine, not the page, decides how many reach the device, and batches them."""
UPLOAD = "64mb"
FORGET = (600, 3600)
"""Every ten minutes, files made or dropped more than an hour ago are deleted (seconds)."""

DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}

FOOTER = (
    "Every picture here is made by a machine (AI-generated) and says so in its file. "
    "What you drop here is deleted after an hour and used for nothing else."
)


def options(arguments: list[str] | None = None) -> dict[str, Any]:
    """Command line of `python app.py`: what `build_app` and `launch` are given."""
    parser = argparse.ArgumentParser(prog="app.py", description="GAN Hub in your browser.")
    parser.add_argument("--registry", metavar="FILE", help="a YAML file with rows of your own")
    parser.add_argument("--port", dest="server_port", type=int, metavar="N", help="port of the page (default: 7860)")
    sys.excepthook = _tell
    return vars(parser.parse_args(arguments))


def build_app(
    only: list[str] | None = None, engine: Any = None, registry: Registry | str | Path | None = None
) -> gr.Blocks:
    """The whole page, or the tabs named in `only`.

    Args:
        only: names of tab files; all by default.
        engine: a running engine; one is started on the best device by default.
        registry: rows to offer, or a YAML file whose rows are added to the built-in ones.

    Raises:
        GanHubError: the registry or a tab is wrong; names the file.
    """
    if not isinstance(registry, Registry):
        registry = load_registry(registry)
    _environment()
    import gradio as gr

    from ganhub.tabs import Context
    from ganhub.tabs._widgets import QUIET, tab_of_address

    if engine is None:
        from ganhub.engine import Engine
        from ganhub.engine.elsewhere import call

        engine = Engine(registry, run_on_device=zerogpu.gpu(call) if zerogpu.ACTIVE else None)
    tabs = find_tabs(only)
    contexts = []
    with gr.Blocks(title="GAN Hub", analytics_enabled=False, delete_cache=FORGET, fill_width=True) as demo:
        with gr.Row(elem_id="masthead"):
            gr.HTML(
                '<h1><b>GAN</b> Hub</h1><p class="tagline">Pictures from the great generative networks</p>',
                elem_id="brand",
                min_width=200,
            )
            status = gr.HTML(status_line(engine), elem_id="status", min_width=200)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as bar:
            for slug, tab in tabs.items():
                with gr.Tab(tab.TITLE, id=slug, elem_id=f"tab-{slug}"):
                    context = Context(engine, registry, demo, slug, status, lambda: status_line(engine))
                    tab.build(context)
                    contexts.append(context)
        gr.HTML(f"<p>{html.escape(FOOTER)}</p>", elem_id="notice")
        demo.load(tab_of_address(list(tabs)), None, bar, **QUIET)
        gr.on([demo.load, gr.Timer(10).tick], lambda: status_line(engine), None, status, **QUIET)
    demo.engine = engine
    demo.warm = [task for context in contexts for task in context.warm]
    return demo


def launch(demo: gr.Blocks, **overrides: Any) -> Any:
    """Serve a page; `overrides` go to Gradio's own `launch`.

    Raises:
        GanHubError: the port is taken.
    """
    from ganhub.tabs._look import HEAD, ICON, STYLE, theme

    threading.Thread(target=_warm, args=(demo,), name="warm", daemon=True).start()
    demo.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    settings: dict[str, Any] = {
        "theme": theme(),
        "css_paths": [STYLE],
        "head": HEAD,
        "favicon_path": ICON,
        "mcp_server": True,
        "max_file_size": UPLOAD,
        "max_threads": AT_ONCE + 16,
        "allowed_paths": [],
        "show_error": False,
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "strict_cors": True,
        "state_session_capacity": 1000,
        "footer_links": ["api", "settings"],
    }
    settings |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return demo.launch(**settings)
    except OSError as error:
        if "empty port" not in str(error):
            raise
        port = settings.get("server_port") or os.environ.get("GRADIO_SERVER_PORT") or "7860 and those after it"
        raise GanHubError(f"The port {port} is taken; choose another with --port.", "port") from error


def find_tabs(only: list[str] | None = None) -> dict[str, ModuleType]:
    """Tab files of `ganhub/tabs` by name, in the order of their `ORDER`.

    Raises:
        GanHubError: a file cannot be loaded, lacks something, or has the title of another; names the file.
    """
    import ganhub.tabs

    names = sorted(m.name for m in pkgutil.iter_modules(ganhub.tabs.__path__) if not m.name.startswith("_"))
    if only is not None:
        if unknown := [name for name in only if name not in names]:
            raise GanHubError(f"There is no tab '{unknown[0]}'; there are {', '.join(names)}.", "tab")
        names = [name for name in names if name in only]
    found: dict[str, ModuleType] = {}
    for name in names:
        file = f"ganhub/tabs/{name}.py"
        try:
            tab = importlib.import_module(f"ganhub.tabs.{name}")
        except Exception as error:
            raise GanHubError(f"The tab {file} cannot be loaded: {type(error).__name__}: {error}.", "tab") from error
        for part in ("TITLE", "ORDER", "build"):
            if not hasattr(tab, part):
                raise GanHubError(f"The tab {file} lacks {part}; CONTRIBUTING.md shows a whole one.", "tab")
        for other, module in found.items():
            if module.TITLE == tab.TITLE:
                raise GanHubError(f"The tabs {file} and ganhub/tabs/{other}.py are both called '{tab.TITLE}'.", "tab")
        found[name] = tab
    return dict(sorted(found.items(), key=lambda item: item[1].ORDER))


def status_line(engine: Any) -> str:
    """Device, networks in memory and the length of the queue, as HTML."""
    state = engine.status()
    loaded = {network["checkpoint"] for network in state["loaded"]}
    words = [DEVICES.get(state["device"].partition(":")[0], state["device"])]
    if loaded:
        size = sum(network["bytes"] for network in state["loaded"]) / 1e6
        words.append(f"{len(loaded)} network{'s' if len(loaded) > 1 else ''} in memory ({size:.0f} MB)")
    if state["loading"]:
        words.append(f"loading {state['loading'][0]['checkpoint']}")
    busy = state["running"] + state["waiting"]
    words.append(f"{state['waiting']} waiting" if state["waiting"] else "at work" if busy else "free")
    kind = "lost" if not state["healthy"] else "busy" if busy else "free"
    if not state["healthy"]:
        words = [state["reason"] or "the engine has stopped"]
    return f'<p><span class="dot {kind}"></span>{html.escape("  ·  ".join(words))}</p>'


def _warm(demo: Any, patience: float = 60) -> None:
    """What the first visitor should not wait for, once the page is up: before, it would only be up later."""
    end = time.monotonic() + patience
    while not demo.is_running and time.monotonic() < end:
        time.sleep(0.05)
    for task in demo.warm:
        try:
            task()
        except Exception:
            log.exception("Preparing the page's example failed.")


def _tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An error that ends the app: its sentence, and a traceback only where it has none."""
    if isinstance(error, GanHubError):
        sys.stderr.write(f"{error.message}\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _environment() -> None:
    """What Gradio reads from the environment while it is imported: no telemetry, and a folder of its own for files.

    The folder lies in `ganhub`'s home, named by process. What a killed process left behind is deleted here.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if "GRADIO_TEMP_DIR" in os.environ or "gradio" in sys.modules:
        return
    from ganhub import hub

    folder = hub.home() / "page"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if not _alive(old.name) or old.name == str(os.getpid()):
            shutil.rmtree(old, ignore_errors=True)
    own = folder / str(os.getpid())
    own.mkdir(mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(own)


def _alive(name: str) -> bool:
    """A process with this number runs, or nobody can tell."""
    if os.name != "posix":  # there, signal 0 would end the process
        return True
    try:
        os.kill(int(name), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
