"""What several tabs share: the checkpoint picker with its card, the seed row, progress, and errors as sentences."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import random
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ganhub import hub
from ganhub.errors import BadInput, GanHubError
from ganhub.latents import MAX_SEED, parse_seeds
from ganhub.pipelines.requests import Picture
from ganhub.registry import Checkpoint, EmbeddedSource, ManualSource, PathSource, Registry
from ganhub.tabs import Context

log = logging.getLogger(__name__)

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
"""For events that only arrange the page: at once, and no endpoint of the API."""

MOST_SEEDS = 64
"""Seeds that the page takes at a time."""

FAMILIES = {
    "mlp_gan": "MLP-GAN",
    "dcgan": "DCGAN",
    "sagan": "SAGAN",
    "stylegan2": "StyleGAN2",
    "stylegan3": "StyleGAN3",
    "stackgan": "StackGAN",
    "srresnet": "SRResNet",
    "rrdb": "RRDBNet",
    "compact": "Compact",
    "agingan": "AgingGAN",
    "fran": "FRAN",
}

METRICS = {"fid50k": "FID (50k)", "fid": "FID", "kid": "KID", "precision": "Precision", "recall": "Recall"}


# Errors


def sentences(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose errors reach the visitor as one sentence; tracebacks go to the log only."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise shown(error) from None

    @functools.wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except Exception as error:
            raise shown(error) from None

    return iterate if inspect.isgeneratorfunction(function) else call


def shown(error: Exception) -> gr.Error:
    """What the page says of an error: its own sentence, or where in the log to look."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, GanHubError):
        return gr.Error(error.message, duration=12, title="That did not work", print_exception=False)
    reference = secrets.token_hex(3)
    log.error("Error %s in the page", reference, exc_info=error)
    text = f"Something went wrong here, not with your input. The log of the app tells more, under {reference}."
    return gr.Error(text, duration=12, title="That did not work", print_exception=False)


def tab_of_address(slugs: Sequence[str]) -> Callable[..., Any]:
    """An event handler that opens the tab which the page's address names."""

    def choose(request: gr.Request) -> Any:
        wanted = request.query_params.get("tab")
        return gr.Tabs(selected=wanted) if wanted in slugs else gr.skip()

    return choose


def visitor(request: gr.Request | None) -> str:
    """Whose turn the engine counts this as: the page's session, or the address of a bare API call."""
    session = getattr(request, "session_hash", None)
    return str(session or getattr(getattr(request, "client", None), "host", None) or "page")


# Checkpoints


def picker_choices(registry: Registry, task: Any) -> list[tuple[str, str]]:
    """(label, id) of the rows of a task: what is here first, then by what has to be fetched."""
    rows = registry.for_task(task)
    here = {row.id: hub.status(row).on_disk for row in rows}
    rows.sort(key=lambda row: (not isinstance(row.source, EmbeddedSource), not here[row.id]))
    names = [_name(row) for row in rows]
    labels = [name if names.count(name) == 1 else f"{name} ({row.id})" for name, row in zip(names, rows, strict=True)]
    return [(f"{name}  ·  {_availability(row, here[row.id])}", row.id) for name, row in zip(labels, rows, strict=True)]


def _name(row: Checkpoint) -> str:
    """Title, with family and size where the title does not tell them."""
    family = FAMILIES.get(row.family, row.family)
    height = row.resolution[0] if isinstance(row.resolution, tuple) else row.resolution
    more = [word for word in (family, f"{height} px" if height else "") if word and word not in row.title]
    return f"{row.title}, {' '.join(more)}" if more else row.title


def _availability(row: Checkpoint, here: bool) -> str:
    if here:
        return "ready"
    if isinstance(row.source, ManualSource):
        return "to be fetched by hand"
    if isinstance(row.source, PathSource):
        return "file missing"
    return f"{size_words(row.bytes)} to fetch" if row.bytes else "to be fetched"


def size_words(size: int | None) -> str:
    """Bytes as people write them: `127 MB`."""
    if not size:
        return "unknown size"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def card(row: Checkpoint, facts: dict[str, Any] | None = None) -> str:
    """HTML of a checkpoint's card; everything from the registry is escaped."""
    state = hub.status(row)
    size = row.resolution or (facts or {}).get("img_size")
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    chips = [FAMILIES.get(row.family, row.family)]
    if height:
        chips.append(f"{width} × {height} px")
    scale = (facts or {}).get("scale") or row.config.get("scale")
    if scale:
        chips.append(f"{scale}× larger")
    if facts and facts.get("c_dim"):
        chips.append(f"{facts['c_dim']} classes")
    if state.bytes or row.bytes:
        chips.append(size_words(state.bytes or row.bytes))
    details = [("Trained on", row.dataset), ("Made by", row.credit)]
    details += [(METRICS.get(name, name), f"{value:g}") for name, value in row.metrics.items()]
    if row.revision:
        details.append(("Commit", row.revision[:12]))
    if row.sha256:
        details.append(("sha256", row.sha256[:16] + "…"))
    if facts and facts.get("parameters"):
        details.append(("Parameters", f"{facts['parameters'] / 1e6:.1f} million"))
    details.append(("Id", row.id))
    links = [_link(row.source_url, "Source"), _link(row.paper, "Paper")]
    state_class = "here" if state.on_disk else "away"
    free = "free" if row.commercial_use else "bound"
    return (
        f'<article class="card"><header><h3>{_(row.title)}</h3>'
        f'<span class="state {state_class}">{_(_availability(row, state.on_disk))}</span></header>'
        + (f"<p>{_(row.description)}</p>" if row.description else "")
        + f'<ul class="chips">{"".join(f"<li>{_(chip)}</li>" for chip in chips)}</ul>'
        + f'<p class="licence {free}"><b>{_(row.license)}</b> {_(licence_words(row))}</p>'
        + "<details><summary>Data set, source, checksums</summary><dl>"
        + "".join(f"<div><dt>{_(name)}</dt><dd>{_(value)}</dd></div>" for name, value in details if value)
        + f"</dl><p class='links'>{' '.join(link for link in links if link)}</p></details></article>"
    )


def licence_words(row: Checkpoint) -> str:
    """What a licence allows, in words that need no lawyer; the licence itself is what counts."""
    name = row.license.lower()
    if name.startswith(("cc0", "public", "unlicense")):
        return "No conditions: use it for anything."
    if not row.commercial_use:
        if name.startswith("cc-by-nc"):
            more = ", and share what you make from it under the same licence" if "-sa" in name else ""
            return f"Not for commercial use; name the author{more}."
        if "nvidia" in name:
            return "For research and evaluation only, not for commercial use."
        if "unknown" in name or "unstated" in name:
            return "Its author states no licence: look, but ask before you publish or sell."
        return "Not for commercial use; read the licence before you publish."
    if name.startswith("cc-by"):
        more = ", and share what you make from it under the same licence" if "-sa" in name else ""
        return f"Free for any use, also commercial; name the author{more}."
    if "openrail" in name:
        return "Free for any use, also commercial, but for the harmful uses that the licence lists."
    return "Free for any use, also commercial; keep the copyright notice with the weights."


def _link(address: str, words: str) -> str:
    """A link out, where a row names a page; anything but http(s) stays text."""
    if not address:
        return ""
    if address.startswith("arXiv:"):
        address = f"https://arxiv.org/abs/{address.removeprefix('arXiv:')}"
    if not address.startswith(("https://", "http://")):
        return _(f"{words}: {address}")
    return f'<a href="{_(address)}" target="_blank" rel="noopener noreferrer">{words}</a>'


def _(text: object) -> str:
    return html.escape(str(text), quote=True)


def class_choices(row: Checkpoint, facts: dict[str, Any] | None) -> list[tuple[str, int]]:
    """(name, number) of each class; the names come from `config: {classes: [...]}` of the row."""
    names = row.class_names
    count = facts["c_dim"] if facts else len(names)
    return [(str(names[i]) if i < len(names) else f"class {i}", i) for i in range(count)]


@dataclass
class Picker:
    """The dropdown and its card."""

    choice: gr.Dropdown
    card: gr.HTML


def checkpoint_picker(context: Context, task: Any, default: str | None = None) -> Picker:
    """Dropdown of the checkpoints of a task, with the card of the chosen one below."""
    choices = picker_choices(context.registry, task)
    if not choices:
        raise GanHubError(f"The registry has no checkpoint for the task '{task}'; see CONTRIBUTING.md to add one.")
    ids = [value for _label, value in choices]
    value = default if default in ids else ids[0]
    choice = gr.Dropdown(
        choices, value=value, label="Checkpoint", filterable=True, elem_id=f"{context.slug}-checkpoint"
    )
    shown_card = gr.HTML(card(context.registry.find(value)), elem_classes="card-holder")
    return Picker(choice, shown_card)


# Seeds


@dataclass
class SeedRow:
    """Seeds as text, and how many there are."""

    text: gr.Textbox
    count: gr.Number


SLIDERS = 16
"""Directions that a tab has room for."""
FURTHEST = 3
"""Steps that their sliders go either way."""


def slider_directions(registry: Registry, row: Checkpoint) -> list[Checkpoint]:
    """Single directions that belong to a generator, as many as there are sliders."""
    return [one for one in registry.directions_for(row) if "count" not in one.config][:SLIDERS]


def direction_sliders(known: Sequence[Checkpoint], slug: str) -> list[gr.Slider]:
    """A slider for each of some directions, and hidden ones for those of other generators."""
    return [
        gr.Slider(
            -FURTHEST, FURTHEST, 0, step=0.1, label=known[i].title if i < len(known) else "", visible=i < len(known),
            elem_id=f"{slug}-direction-{i}",
        )
        for i in range(SLIDERS)
    ]  # fmt: skip


def seed_row(slug: str, value: str = "0-7") -> SeedRow:
    """Seeds as text, with a count that extends or shortens the list; the two follow each other."""
    with gr.Group(), gr.Row():
        text = gr.Textbox(
            value, label="Seeds", info="A list or a range, like 0-7, 12", elem_id=f"{slug}-seeds", max_lines=2, scale=3,
            min_width=170,
        )  # fmt: skip
        count = gr.Number(
            len(parse_seeds(value)), label="Count", info=f"1 to {MOST_SEEDS}", precision=0, minimum=1,
            maximum=MOST_SEEDS, elem_id=f"{slug}-count", scale=1, min_width=90,
        )  # fmt: skip
    count.input(resized, [text, count], text, **QUIET)
    text.blur(counted, text, count, **QUIET)
    return SeedRow(text, count)


@sentences
def resized(text: str, count: int | None) -> str:
    """The list of seeds, shortened or continued until it has `count`."""
    count = min(max(int(count or 1), 1), MOST_SEEDS)
    try:
        seeds = parse_seeds(text)
    except BadInput:
        seeds = [0]
    following = (seed % (MAX_SEED + 1) for seed in range(seeds[-1] + 1, seeds[-1] + 1 + count))
    return seeds_text([*seeds[:count], *following][:count])


def counted(text: str) -> Any:
    """The count follows the text, as long as the text can be read."""
    try:
        return min(len(parse_seeds(text)), MOST_SEEDS)
    except BadInput:
        return gr.skip()


def drawn(count: int | None) -> str:
    """`count` random seeds of at most six digits, so that people can read them out to each other."""
    return seeds_text(sorted(random.sample(range(1_000_000), int(count or 1))))


def seeds_text(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 7] -> `0-2, 7`."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a}, {b}" for a, b in runs)


def page_seeds(text: str, least: int = 1, most: int = MOST_SEEDS) -> tuple[int, ...]:
    """Seeds that a visitor wrote.

    Raises:
        BadInput: not readable, or too few or too many for the page.
    """
    seeds = parse_seeds(str(text or ""))
    if len(seeds) < least:
        raise BadInput(f"This takes at least {least} seeds; write them like 0-7, 12.")
    if len(seeds) > most:
        raise BadInput(f"The page takes at most {most} seeds at a time, not {len(seeds)}; the command line takes more.")
    return tuple(seeds)


# Files and progress


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for files on their way out: Gradio copies what a handler yields into its own.

    It must not lie inside Gradio's folder: files there are taken for copies already, and would be gone too soon.
    """
    with tempfile.TemporaryDirectory(prefix="ganhub-") as folder:
        yield Path(folder)


def shelf(pictures: Sequence[Picture], folder: Path) -> gr.Gallery:
    """A gallery of pictures, each a PNG with its provenance inside and its name below."""
    items = [(str(picture.save(folder)), caption(picture.provenance)) for picture in pictures]
    about = pictures[0].provenance if pictures else {}
    columns = len(about.get("psis") or about.get("cols") or ()) or (
        4 if len(items) < 10 else 5 if len(items) < 26 else 6
    )
    return gr.Gallery(items, columns=min(max(columns, 2), 8), visible=bool(items), selected_index=None)


def caption(about: dict[str, Any]) -> str:
    """What stands below a picture; also what a screen reader says of it."""
    if "row" in about:
        return f"{about['row']} × {about['col']}"
    words = f"seed {about['seed']}" if "seed" in about else f"latent {about.get('index', 0)}"
    return f"{words}, psi {about['psi']:g}" if about.get("task") == "sweep" else words


def divider(slug: str, visible: bool = True) -> gr.ImageSlider:
    """Two pictures over each other, with a line that is moved between them."""
    return gr.ImageSlider(
        type="filepath", format="png", label="Before and after", interactive=False, buttons=["fullscreen"],
        max_height=480, elem_id=f"{slug}-divider", elem_classes="divider", visible=visible,
    )  # fmt: skip


def progress_bar(done: int, total: int, words: str, seconds_left: float | None = None) -> str:
    """HTML of a progress line; `total` 0 means that nobody knows."""
    share = f'value="{done}" max="{total}"' if total else ""
    left = f", {time_words(seconds_left)} left" if seconds_left is not None and seconds_left >= 1 else ""
    return f'<div class="progress" role="status"><span>{_(words)}{left}</span><progress {share}></progress></div>'


def note(words: str, kind: str = "done") -> str:
    """HTML of the line that stands where the progress was; `kind` is `done` or `failed`."""
    return f'<div class="progress {kind}" role="status"><span>{_(words)}</span></div>'


def time_words(seconds: float) -> str:
    """`4 s`, `2 min`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
