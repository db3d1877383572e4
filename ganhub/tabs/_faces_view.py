"""What the Faces tab draws itself: the photo with a frame around every face, to be chosen or moved.

The photo reaches the page inside the answer, not as a file: none of it lies on a disk before something is made of it.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ganhub.pipelines.faces import ALIGNED, marked
from ganhub.tabs._faces_store import Kept

SHOWN = (640, 480)
BESIDE = 1280
"""Longest side of the two photos that the divider compares."""

PEOPLE_JS = """
const board = element.querySelector('.people'), frames = element.querySelector('.people svg');
const space = 'http://www.w3.org/2000/svg';
const told = (what) => trigger('select', what);
const draw = () => {
  const value = props.value, marks = props.marks || {faces: []};
  board.hidden = !value;
  if (!value) { frames.replaceChildren(); board.querySelector('img').removeAttribute('src'); return; }
  const picture = board.querySelector('img');
  if (picture.src !== value.picture) picture.src = value.picture;
  picture.alt = value.words;
  board.classList.toggle('by-hand', Boolean(marks.hand));
  const shape = (points, name, chosen, kind) => {
    const frame = document.createElementNS(space, 'polygon');
    frame.setAttribute('points', points.map(([x, y]) => `${x * 1000},${y * 1000}`).join(' '));
    frame.setAttribute('class', kind + (chosen ? ' chosen' : ''));
    frame.setAttribute('tabindex', '0');
    frame.setAttribute('role', 'button');
    frame.setAttribute('aria-label', name);
    frame.setAttribute('aria-pressed', String(chosen));
    frame.setAttribute('vector-effect', 'non-scaling-stroke');
    return frame;
  };
  const drawn = marks.faces.map((points, i) => {
    const chosen = !marks.hand && marks.chosen.includes(i);
    const frame = shape(points, `Face ${i + 1} of ${marks.faces.length}`, chosen, 'found');
    const choose = () => told({face: i});
    frame.addEventListener('click', (event) => { if (!props.marks.hand) { event.stopPropagation(); choose(); } });
    frame.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(); }
    });
    return frame;
  });
  if (marks.hand) {
    const frame = shape(marks.hand, 'The face, marked by hand; move it with the arrows', true, 'hand');
    frame.addEventListener('keydown', (event) => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (!step) return;
      event.preventDefault();
      const middle = [0, 1].map((k) => marks.hand.reduce((sum, point) => sum + point[k], 0) / 4);
      told({x: middle[0] + step[0] * 0.02, y: middle[1] + step[1] * 0.02});
    });
    drawn.push(frame);
  }
  const held = frames.contains(document.activeElement) ? [...frames.children].indexOf(document.activeElement) : -1;
  frames.replaceChildren(...drawn);
  if (held >= 0 && frames.children[held]) frames.children[held].focus();
};
board.addEventListener('click', (event) => {
  if (!props.marks || !props.marks.hand) return;
  const area = board.getBoundingClientRect();
  told({x: (event.clientX - area.left) / area.width, y: (event.clientY - area.top) / area.height});
});
watch(['value', 'marks'], draw);
draw();
"""


def people() -> gr.HTML:
    """The photo and its faces; `select` tells which one a visitor chose, or where he marked one, in shares."""
    svg = '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none"></svg>'
    return gr.HTML(
        None, marks=None, elem_id="faces-people", js_on_load=PEOPLE_JS,
        html_template=f'<div class="people" hidden><img draggable="false">{svg}</div>',
    )  # fmt: skip


def people_value(picture: Image.Image, found: int) -> dict[str, Any]:
    """The photo, small, inside of the answer."""
    small = picture.copy()
    small.info.clear()
    small.thumbnail(SHOWN, Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    words = f"Your photo with {found} face{'' if found == 1 else 's'} found in it"
    return {"picture": "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), "words": words}


def marks(kept: Kept) -> dict[str, Any]:
    """Where the faces are, which are chosen, and the one that was marked by hand: corners in shares of the photo."""
    size = np.array(kept.photo.size, float)

    def shares(corners: np.ndarray) -> list[list[float]]:
        return np.round((corners + 0.5) / size, 5).tolist()

    chosen = list(range(len(kept.found))) if kept.which is None else [kept.which]
    hand = None
    if kept.by_hand is not None:
        hand = shares(marked(*kept.by_hand).square.part((0.5, 0.54), 0.55).corners)
    faces = [shares(face.square.part((0.5, 0.54), 0.7).corners) for face in kept.found]
    return {"faces": faces, "chosen": chosen, "hand": hand}


def beside(image: Image.Image) -> Image.Image:
    """A photo as the divider shows it."""
    small = image.copy()
    small.thumbnail((BESIDE, BESIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return small


def near(face: Image.Image) -> Image.Image:
    """A face as the page shows it: what a network sees small is enlarged, so that people see it too."""
    scale = max(1, -(-ALIGNED // face.width))
    return face.resize((face.width * scale, face.height * scale), Image.Resampling.BICUBIC) if scale > 1 else face


def found_words(kept: Kept) -> str:
    """What was found, and what a visitor can do now."""
    count = len(kept.found)
    if count == 0:
        return "There is no face that is found here. Mark it by hand, or have it found in another way (More)."
    if count == 1:
        return "One face found. This is how it is cut out."
    return f"{count} faces found, the largest is chosen. Choose another in the photo, or all."
