"""Curves of a training over the pictures it has seen, drawn with nothing but Pillow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ganhub.errors import BadInput
from ganhub.metrics.features import TITLES

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("frechet", (("frechet", ""),)),
    ("kernel", (("kernel", ""),)),
    ("Overlap", (("precision", "precision"), ("recall", "recall"))),
    ("Neighbourhoods", (("density", "density"), ("coverage", "coverage"))),
    (
        "Distance to the nearest real picture, median",
        (("nearest_median", "generated"), ("real_nearest_median", "real")),
    ),
    (
        "Distance to the nearest real picture, 1 %",
        (("nearest_1_percent", "generated"), ("real_nearest_1_percent", "real")),
    ),
)
COLOURS = ("#1f6fb2", "#d1603d", "#3f8f4f", "#8a5fb0", "#8a8a2a", "#3aa0a0", "#777777")
WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 50, 52
INK, FAINT = "#222222", "#dddddd"


def plot(file: Path) -> Image.Image:
    """The curves of a `metrics.jsonl`: a panel for each measure, thousand pictures seen along the bottom.

    Raises:
        BadInput: the file cannot be read, or holds no line.
    """
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as lines of JSON: {error}.") from error
    if not lines:
        raise BadInput(f"{file} holds no measures yet.")
    last = lines[-1]
    titles = TITLES.get(last.get("features"), {})
    sheet = Image.new("RGB", (2 * WIDTH, math.ceil(len(PANELS) / 2) * HEIGHT + 30), "white")
    words = f"{last.get('pictures', '?')} generated pictures, features: {last.get('features', '?')}"
    ImageDraw.Draw(sheet).text((sheet.width / 2, 18), words, INK, ImageFont.load_default(16), anchor="mm")
    for i, (title, curves) in enumerate(PANELS):
        title = titles.get(title, title).replace("é", "e")  # Pillow's own font has no accents
        drawn = _panel(title, [(words, _points(lines, key)) for key, words in curves])
        sheet.paste(drawn, (i % 2 * WIDTH, 30 + i // 2 * HEIGHT))
    return sheet


def _points(lines: Iterable[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = [(line.get("kimg"), line.get(key)) for line in lines]
    return [(float(x), float(y)) for x, y in pairs if x is not None and y is not None and math.isfinite(y)]


def effect_plot(effect: dict[str, Any]) -> Image.Image:
    """What a direction does along its slider: the scores that change, and how alike the pictures stay.

    Args:
        effect: `strengths`, `change` (a list for each score, in standard deviations) and `likeness`.
    """
    strengths = effect["strengths"]
    changes = [(name, list(zip(strengths, values, strict=True))) for name, values in effect["change"].items()]
    words = changes[0][0]
    changes[0] = ("the attribute", changes[0][1])
    sheet = Image.new("RGB", (2 * WIDTH, HEIGHT + 26), "white")
    sheet.paste(_panel("Change, in standard deviations", changes, "strength"), (0, 0))
    alike = [("", list(zip(strengths, effect["likeness"], strict=True)))]
    sheet.paste(_panel("Likeness to the unmoved picture", alike, "strength"), (WIDTH, 0))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(sheet).text((LEFT, HEIGHT + 10), f"Attribute: {words}", "#555555", font, anchor="lm")
    return sheet


def _panel(
    title: str,
    curves: Sequence[tuple[str, list[tuple[float, float]]]],
    below: str = "kimg (thousand real pictures seen)",
) -> Image.Image:
    panel = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(panel)
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    draw.text((LEFT, 12), title, INK, font)
    every = [point for _, points in curves for point in points]
    if not every:
        draw.text((WIDTH / 2, HEIGHT / 2), "not measured", "#888888", font, anchor="mm")
        return panel
    across = ticks(min(x for x, _ in every), max(x for x, _ in every))
    up = ticks(min(0.0, *(y for _, y in every)), max(y for _, y in every))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)
        high = (y - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, HEIGHT - BOTTOM - high

    for y in up:
        _, at = place(across[0], y)
        draw.line([(LEFT, at), (WIDTH - RIGHT, at)], FAINT)
        draw.text((LEFT - 8, at), f"{y:g}", INK, small, anchor="rm")
    for x in across:
        at, floor = place(x, up[0])
        draw.line([(at, floor), (at, floor + 5)], INK)
        draw.text((at, floor + 16), f"{x:g}", INK, small, anchor="mm")
    draw.line([(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK)
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14), below, INK, small, anchor="mm")
    key = WIDTH - RIGHT
    for (words, points), colour in reversed(list(zip(curves, COLOURS, strict=False))):
        spots = [place(*point) for point in points]
        if len(spots) > 1:
            draw.line(spots, colour, 2, joint="curve")
        for x, y in spots:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
        if words:
            draw.text((key, 40), words, colour, small, anchor="rm")
            key -= int(small.getlength(words)) + 18
    return panel


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers around a range: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
