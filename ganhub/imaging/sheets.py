"""Many pictures on one sheet. Sheets above 64 megapixels are made of smaller pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganhub.errors import BadInput

Picture = Image.Image | np.ndarray
MAX_PIXELS = 64_000_000
LEAST_LABELLED = 96
"""Smaller pictures are enlarged on labelled sheets, so that the labels can be read."""


def grid(
    images: Sequence[Picture], columns: int | None = None, padding: int = 0, background: str = "white"
) -> Image.Image:
    """Pictures row by row; as square as it gets by default.

    Args:
        images: PIL images or uint8 [H, W, C]; places have the size of the largest.
        padding: pixels between and around.

    Raises:
        BadInput: there is no picture.
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    cells = _cells(images, rows * columns)
    width, height = _size(cells)
    size = (columns * (width + padding) + padding, rows * (height + padding) + padding)
    sheet = Image.new(_mode(cells), size, background)
    for i, cell in enumerate(cells):
        sheet.paste(cell, (padding + i % columns * (width + padding), padding + i // columns * (height + padding)))
    return sheet


def strip(images: Sequence[Picture], padding: int = 0) -> Image.Image:
    """Pictures side by side."""
    return grid(images, columns=len(images), padding=padding)


def cross_grid(rows: Sequence[Picture], cols: Sequence[Picture], cells: Sequence[Picture]) -> Image.Image:
    """Style-mixing sheet as NVIDIA's: sources of the columns above, of the rows at the left, a black corner.

    Args:
        cells: row by row, `len(rows) * len(cols)` of them.
    """
    corner = Image.new("RGB", _size(_pil(rows)), "black")
    lines: list[Picture] = [corner, *cols]
    for i, row in enumerate(rows):
        lines += [row, *cells[i * len(cols) : (i + 1) * len(cols)]]
    return grid(lines, columns=len(cols) + 1)


def labelled_grid(images: Sequence[Picture], columns: Sequence[str], rows: Sequence[str]) -> Image.Image:
    """Pictures row by row with a word above each column and before each row."""
    cells = _cells(images, len(images))
    width, height = _size(cells)
    factor = math.ceil(LEAST_LABELLED / width)
    if factor > 1:
        cells = [cell.resize((cell.width * factor, cell.height * factor), Image.Resampling.NEAREST) for cell in cells]
        width, height = width * factor, height * factor
    font = ImageFont.load_default(min(40, max(12, width // 12)))
    above = int(font.getbbox("Ag")[3] * 1.8)
    before = int(max((font.getlength(word) for word in rows), default=0) + above / 2) if rows else 0
    sheet = Image.new("RGB", (before + width * len(columns), above + height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, word in enumerate(columns):
        draw.text((before + (k + 0.5) * width, above / 2), word, "black", font, anchor="mm")
    for k, word in enumerate(rows):
        draw.text((above / 4, above + (k + 0.5) * height), word, "black", font, anchor="lm")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (before + i % len(columns) * width, above + i // len(columns) * height))
    return sheet


def _pil(images: Sequence[Picture]) -> list[Image.Image]:
    return [
        image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image).squeeze()) for image in images
    ]


def _cells(images: Sequence[Picture], places: int) -> list[Image.Image]:
    if not images:
        raise BadInput("There is no picture to put on a sheet.")
    cells = _pil(images)
    width, height = _size(cells)
    scale = math.sqrt(MAX_PIXELS / (width * height * places))
    if scale >= 1:
        return cells
    smaller = [(max(1, int(cell.width * scale)), max(1, int(cell.height * scale))) for cell in cells]
    lanczos = Image.Resampling.LANCZOS
    return [cell.resize(size, lanczos, reducing_gap=2.0) for cell, size in zip(cells, smaller, strict=True)]


def _size(cells: Sequence[Image.Image]) -> tuple[int, int]:
    return max(cell.width for cell in cells), max(cell.height for cell in cells)


def _mode(cells: Sequence[Image.Image]) -> str:
    return "L" if all(cell.mode == "L" for cell in cells) else "RGB"
