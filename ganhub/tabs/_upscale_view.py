"""What the super-resolution tab draws itself: where the region lies, the methods side by side, the table of figures.

The two components are HTML with a script of their own; pictures reach them as files of Gradio's cache, like all others.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ganhub.errors import BadInput
from ganhub.imaging import Photo
from ganhub.tabs._upscale_preview import FIGURES, MAP, Preview

THUMBNAIL = (560, 360)
BETTER = {"psnr_y": 1, "ssim_y": 1, "lpips": -1}
"""Which way a figure is better; sharpness has none, as noise counts for detail."""
DIGITS = {"psnr_y": 2, "ssim_y": 3, "lpips": 3, "sharpness": 2}

FINDER_JS = """
const sheet = element.querySelector('.finder'), frame = element.querySelector('.frame');
let centre = [0.5, 0.5], held = false;
const place = (x, y) => {
  const box = props.box || [0, 0, 1, 1];
  const [left, top] = [[x, box[2]], [y, box[3]]].map(([at, side]) => Math.min(Math.max(at - side / 2, 0), 1 - side));
  centre = [left + box[2] / 2, top + box[3] / 2];
  frame.style.cssText = `left:${left * 100}%;top:${top * 100}%;width:${box[2] * 100}%;height:${box[3] * 100}%`;
};
const draw = () => {
  const value = props.value, picture = element.querySelector('.finder img');
  if (!value || !value.file) return;
  picture.src = value.file.url;
  picture.alt = value.name;
  sheet.hidden = false;
  const box = props.box || [0, 0, 1, 1];
  place(box[0] + box[2] / 2, box[1] + box[3] / 2);
};
const moved = (event) => {
  const area = sheet.getBoundingClientRect();
  place((event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
};
const told = () => trigger('select', {x: centre[0], y: centre[1]});
sheet.addEventListener('pointerdown', (event) => {
  held = true;
  if (event.pointerType === 'mouse' || event.target === frame) sheet.setPointerCapture(event.pointerId);
  if (event.pointerType === 'mouse') moved(event);
});
sheet.addEventListener('pointermove', (event) => {
  if (held && sheet.hasPointerCapture(event.pointerId)) moved(event);
});
sheet.addEventListener('pointercancel', () => { held = false; });
sheet.addEventListener('pointerup', (event) => { if (held) { held = false; moved(event); told(); } });
frame.addEventListener('keydown', (event) => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!step) return;
  event.preventDefault();
  place(centre[0] + step[0] * 0.04, centre[1] + step[1] * 0.04);
  clearTimeout(frame.waiting);
  frame.waiting = setTimeout(told, 400);
});
watch(['value', 'box'], draw);
draw();
"""

PANES_JS = """
const board = element.querySelector('.panes');
const views = () => [...board.querySelectorAll('.view')];
let pinned = false, pressed = null;
const draw = () => {
  const panes = (props.value && props.value.panes) || [];
  pinned = false;
  board.style.setProperty('--count', Math.max(panes.length, 1));
  board.dataset.count = panes.length;
  board.replaceChildren(...panes.map((pane) => {
    const figure = document.createElement('figure'), view = document.createElement('div');
    const picture = new Image(), words = document.createElement('figcaption'), name = document.createElement('b');
    view.className = pane.waiting ? 'view waiting' : 'view';
    view.tabIndex = 0;
    view.style.aspectRatio = pane.size.join(' / ');
    picture.src = pane.file.url;
    picture.alt = `The region by: ${pane.name}`;
    picture.draggable = false;
    name.textContent = pane.name;
    words.append(name, ' ' + pane.words);
    view.append(picture);
    figure.append(view, words);
    return figure;
  }));
};
const look = (x, y) => {  // the same place of all, pixel by pixel of the screen
  const ratio = window.devicePixelRatio || 1;
  for (const view of views()) {
    const picture = view.firstChild, area = view.getBoundingClientRect();
    let width = picture.naturalWidth / ratio;
    if (width <= area.width * 1.05) width *= 2;
    const height = width * picture.naturalHeight / picture.naturalWidth;
    const snap = (at, start) => Math.round((start + at) * ratio) / ratio - start;
    const left = snap(x * (view.clientWidth - width), area.left);
    const top = snap(y * (view.clientHeight - height), area.top);
    picture.style.cssText = `width:${width}px;height:${height}px;transform:translate(${left}px,${top}px)`;
  }
  board.classList.add('near');
};
const away = () => {
  pinned = false;
  board.classList.remove('near', 'pinned');
  for (const view of views()) view.firstChild.style.cssText = '';
};
const at = (event, view) => {
  const area = view.getBoundingClientRect();
  const share = (v, start, side) => Math.min(Math.max((v - start) / side, 0), 1);
  return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
};
board.addEventListener('pointermove', (event) => {
  const view = event.target.closest('.view');
  if (view && (event.pointerType === 'mouse' || pinned)) look(...at(event, view));
});
board.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') away(); });
board.addEventListener('pointerdown', (event) => { pressed = [event.clientX, event.clientY, pinned]; });
board.addEventListener('pointerup', (event) => {  // touch: a tap goes near, moving looks around, a tap goes away
  const view = event.target.closest('.view');
  if (event.pointerType === 'mouse' || !view || !pressed) return;
  const tapped = Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 8;
  if (tapped && pressed[2]) away();
  else if (tapped) { pinned = true; board.classList.add('pinned'); look(...at(event, view)); }
});
let spot = [0.5, 0.5];
board.addEventListener('keydown', (event) => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (event.key === 'Escape') away();
  if (!step) return;
  event.preventDefault();
  spot = spot.map((v, i) => Math.min(Math.max(v + step[i] * 0.05, 0), 1));
  look(...spot);
});
board.addEventListener('focusout', () => { if (!pinned) away(); });
watch('value', draw);
draw();
"""


def finder() -> gr.HTML:
    """The photo with the region as a frame on it; `select` tells where a visitor wants it, in shares of the photo."""
    frame = '<div class="frame" tabindex="0" role="slider" aria-label="Region of the preview; move it with the arrows"'
    return gr.HTML(
        None, box=None, elem_id="upscale-finder", js_on_load=FINDER_JS,
        html_template=f'<div class="finder" hidden><img draggable="false">{frame} aria-valuenow="0"></div></div>',
    )  # fmt: skip


def panes() -> gr.HTML:
    """The region by every method, with one magnifier for all."""
    return gr.HTML(
        None, elem_id="upscale-panes", js_on_load=PANES_JS,
        html_template='<div class="panes"></div>',
    )  # fmt: skip


def finder_value(photo: Photo, folder: Path) -> dict[str, Any]:
    """The photo, small, for the finder."""
    pixels = photo.pixels if photo.depth == 8 else (photo.pixels >> 8).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if photo.alpha is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(photo.alpha if photo.depth == 8 else (photo.alpha >> 8).astype(np.uint8)))
    image.thumbnail(THUMBNAIL, Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=85, icc_profile=photo.profile)
    return {"file": _file(folder / "photo.webp", out.getvalue()), "name": f"{photo.name}, {size_of(photo)}"}


def size_of(photo: Photo) -> str:
    """`451 × 300`."""
    return f"{photo.size[0]} × {photo.size[1]}"


def panes_value(made: Preview, folder: Path) -> dict[str, Any]:
    """All methods, the truth and the map, as the component draws them; what is still to come keeps its place."""
    drawn = []
    for number, pane in enumerate(made.shown):
        file = _file(folder / f"region_{number}.png", pane.png)
        size = [pane.pixels.shape[1], pane.pixels.shape[0]]
        drawn.append({"name": pane.name, "words": pane.words, "size": size, "file": file})
    to_come = [*made.waiting, *([MAP] if made.waiting and made.map is None else [])]
    later = [{**drawn[0], "name": name, "words": "is coming", "waiting": True} for name in to_come]
    methods = len(made.panes)
    return {"panes": [*drawn[:methods], *later[: len(made.waiting)], *drawn[methods:], *later[len(made.waiting) :]]}


def divider_label(made: Preview) -> str:
    """What lies left and right of the divider."""
    return " | ".join(pane.name for pane in made.panes[:2])


def divider_value(made: Preview, folder: Path) -> tuple[str, str]:
    """Before and after: bicubic, and the first network where it is there already."""
    plain, after = made.panes[0], made.panes[min(1, len(made.panes) - 1)]
    sides = (folder / "before.png", folder / "after.png")
    for file, pane in zip(sides, (plain, after), strict=True):
        file.write_bytes(pane.png)
    return str(sides[0]), str(sides[1])


def _file(file: Path, data: bytes) -> dict[str, Any]:
    """A file that Gradio takes into its cache and gives an address of its own."""
    file.write_bytes(data)
    return {"path": str(file), "meta": {"_type": "gradio.FileData"}}


def table(made: Preview) -> str:
    """HTML of the figures against the truth, the best of each printed bold; empty where there is no truth."""
    rows = [pane for pane in made.panes if pane.figures]
    if not rows:
        return ""
    known = [name for name in FIGURES if any(name in (pane.figures or {}) for pane in rows)]
    best = {
        name: max(((pane.figures or {}).get(name, -np.inf * sign) * sign for pane in rows), default=None)
        for name, sign in BETTER.items()
    }
    head = "".join(f'<th scope="col">{FIGURES[name]}{_unit(name)}</th>' for name in known)
    lines = []
    for pane in rows:
        cells = []
        for name in known:
            value = (pane.figures or {}).get(name)
            text = "" if value is None else f"{value:.{DIGITS[name]}f}"
            top = value is not None and name in BETTER and value * BETTER[name] == best[name]
            cells.append(f"<td>{f'<b>{text}</b>' if top else text}</td>")
        lines.append(f'<tr><th scope="row">{html.escape(pane.name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="figures"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f"<p>Of the region above, against the truth: luma, {made.scale} pixels cut off at the rim. SSIM as Wang et al. "
        "(2004). Sharpness: 1 is that of the truth. A network trained for looks has lower PSNR than one trained for "
        "PSNR, by its nature.</p></div>"
    )


def _unit(name: str) -> str:
    return {"psnr_y": ", dB ↑", "ssim_y": " ↑", "lpips": " ↓"}.get(name, "")


def sentences_of(notes: Sequence[str]) -> str:
    """HTML of what was done to the photo."""
    found = (re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(note)) for note in dict.fromkeys(notes))
    items = "".join(f"<li>{note}</li>" for note in found)
    return f'<ul class="notes">{items}</ul>' if items else ""


def number_of(text: str | None, what: str, kind: Any) -> Any:
    """What a visitor wrote; None where he wrote nothing.

    Raises:
        BadInput: it is no number.
    """
    if not str(text or "").strip():
        return None
    try:
        return kind(str(text).strip().replace(",", "."))
    except ValueError as error:
        raise BadInput(f"{what} must be a {'whole ' * (kind is int)}number, not '{str(text)[:20]}'.") from error
