"""What the text-to-image tab draws itself: words to click, and how a picture formed.

The two components are HTML with a script of their own; pictures reach them as files of Gradio's cache, like all others.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ganhub.pipelines.imagine import ImagineResult
from ganhub.pipelines.requests import Picture
from ganhub.tabs._imagine_words import Vocabulary

THUMBNAIL = 192
"""Longest side of the pictures on the way."""

CHIPS_JS = """
const board = element.querySelector('.words');
const draw = () => {
  const groups = (props.value && props.value.groups) || [];
  board.replaceChildren(...groups.map((group) => {
    const line = document.createElement('div'), name = document.createElement('span');
    line.className = 'line';
    name.textContent = group.name;
    line.append(name, ...group.words.map((word) => {
      const chip = document.createElement('button');
      chip.type = 'button';
      chip.textContent = word;
      if (group.name === 'Colour') {
        const dot = document.createElement('i');
        dot.style.background = word.replaceAll(' ', '');
        chip.prepend(dot);
      }
      chip.addEventListener('click', () => trigger('select', {word, whole: group.whole}));
      return chip;
    }));
    return line;
  }));
};
watch('value', draw);
draw();
"""

FORMED_JS = """
const board = element.querySelector('.formed');
const made = (kind, className, text) => {
  const found = document.createElement(kind);
  if (className) found.className = className;
  if (text) found.textContent = text;
  return found;
};
const svg = (kind, attributes) => {
  const found = document.createElementNS('http://www.w3.org/2000/svg', kind);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  return found;
};
const curve = (curves, chosen, total) => {
  const all = curves.flat(), low = Math.min(...all), high = Math.max(...all), wide = 640, tall = 120;
  const x = (i) => 4 + (wide - 8) * i / Math.max(total - 1, 1);
  const y = (v) => 6 + (tall - 12) * (high - v) / Math.max(high - low, 1e-9);
  const line = (values) => values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(' ');
  const words = `How far from the sentence at each step: from ${high.toFixed(3)} to ${low.toFixed(3)}`;
  const sheet = svg('svg', {viewBox: `0 0 ${wide} ${tall}`, role: 'img', 'aria-label': words});
  sheet.append(...curves.filter((c, i) => c.length && i !== chosen).map((c) => svg('polyline', {points: line(c)})));
  const own = curves[chosen] || [];
  if (own.length) {
    sheet.append(svg('polyline', {points: line(own), class: 'own'}));
    sheet.append(svg('circle', {cx: x(own.length - 1), cy: y(own[own.length - 1]), r: 4}));
  }
  return sheet;
};
const draw = () => {
  const value = props.value, pictures = (value && value.pictures) || [];
  const chosen = Math.min(props.index || 0, Math.max(pictures.length - 1, 0)), picture = pictures[chosen];
  board.hidden = !picture;
  if (!picture) { board.replaceChildren(); return; }
  const parts = [made('h3', '', `How ${picture.name} formed`)];
  if (picture.steps.length) {
    const line = made('div', 'line');
    line.append(...picture.steps.map((step, number) => {
      const figure = made('figure'), image = new Image();
      figure.style.animationDelay = `${number * 90}ms`;
      image.src = step.file.url;
      image.alt = `${picture.name}, ${step.words}`;
      figure.append(image, made('figcaption', '', step.words));
      return figure;
    }));
    parts.push(line);
  }
  const curves = pictures.map((p) => p.curve);
  if (curves.some((c) => c.length > 1)) {
    const own = picture.curve, told = own.length ? `loss ${own[0].toFixed(3)} → ${own[own.length - 1].toFixed(3)}` : '';
    const words = made('p', 'told', `${own.length} of ${value.total} steps, ${told}`);
    parts.push(curve(curves, chosen, value.total), words);
  }
  board.replaceChildren(...parts);
};
watch(['value', 'index'], draw);
draw();
"""


def chips(elem_id: str, known: Vocabulary) -> gr.HTML:
    """Examples and words; `select` tells which was clicked, and whether it is a whole sentence."""
    return gr.HTML(chips_value(known), elem_id=elem_id, js_on_load=CHIPS_JS, html_template='<div class="words"></div>')


def chips_value(known: Vocabulary) -> dict[str, Any]:
    groups = [{"name": "Try", "words": list(known.examples), "whole": True}]
    groups += [{"name": name, "words": list(words), "whole": False} for name, words in known.groups.items()]
    return {"groups": groups}


def formed() -> gr.HTML:
    """How the chosen picture formed: its stages or steps, and the loss of all."""
    return gr.HTML(
        None, index=0, elem_id="imagine-formed", js_on_load=FORMED_JS,
        html_template='<section class="formed" hidden></section>',
    )  # fmt: skip


@dataclass
class Forming:
    """What has been seen of each picture so far.

    Args:
        total: steps of a guided run; 0 for other ways.
    """

    total: int = 0
    seen: dict[int, list[tuple[Image.Image, dict[str, Any], str]]] = field(default_factory=dict)
    """By the picture's place: small pictures with provenance and words."""
    curves: Sequence[Sequence[float]] = ()
    names: dict[int, str] = field(default_factory=dict)

    def add(self, index: int, picture: Picture, words: str) -> None:
        small = picture.image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        self.seen.setdefault(index, []).append((small, picture.provenance, words))
        self.names[index] = f"seed {picture.provenance['seed']}"

    def finish(self, result: ImagineResult) -> None:
        """The stages of all pictures, or the last step of each."""
        for index, stages in enumerate(result.stages):
            for stage in stages:
                self.add(index, stage, f"{stage.image.width} px")
        self.curves = result.losses
        if result.losses:
            for index, picture in enumerate(result.pictures):
                self.add(index, picture, f"step {len(result.losses[index])}")

    def value(self, folder: Path, with_pictures: bool = True) -> dict[str, Any]:
        """For the component; the files lie in `folder`."""
        pictures = []
        for index in sorted({*self.seen, *range(len(self.curves))}):
            steps = []
            for number, (image, about, words) in enumerate(self.seen.get(index, ()) if with_pictures else ()):
                file = Picture(image, about, f"formed_{index}_{number}").save(folder)
                steps.append({"words": words, "file": {"path": str(file), "meta": {"_type": "gradio.FileData"}}})
            curve = [round(loss, 4) for loss in self.curves[index]] if index < len(self.curves) else []
            pictures.append({"name": self.names.get(index, f"picture {index + 1}"), "steps": steps, "curve": curve})
        return {"pictures": pictures, "total": self.total}


def shelf(pictures: Any, folder: Path, scores: list[float] | None = None) -> gr.Gallery:
    """A gallery of pictures, each a PNG with its provenance inside and its seed below."""
    items = []
    for place, picture in enumerate(pictures):
        words = f"seed {picture.provenance['seed']}"
        words += f" · fits {scores[place]:.2f}" if scores else ""
        file = folder / f"{picture.name}.png"
        items.append((str(file if file.exists() else picture.save(folder)), words))
    columns = 4 if len(items) > 4 or len(items) == 4 else max(len(items), 2)
    return gr.Gallery(items, columns=columns, visible=bool(items), selected_index=None)


def done_words(result: ImagineResult, seconds: float) -> str:
    """What was made, and in what time."""
    took = f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    count = len(result.pictures)
    return f"{count} picture{'s' if count != 1 else ''} in {took}. Click one to see how it formed. AI-generated."


def reading(text: str, notes: Sequence[str]) -> str:
    """HTML of how a sentence was read."""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in dict.fromkeys(notes) if note)
    return f'<div class="read"><q>{html.escape(text)}</q>{f"<ul>{items}</ul>" if items else ""}</div>'
