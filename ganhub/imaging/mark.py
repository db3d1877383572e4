"""A word in the corner that says that a picture is generated, for people who see it without its file."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

WORDS = ("AI-generated", "AI")
"""The first that leaves most of the picture free."""
HEIGHT = 1 / 32
"""Of the letters over the shorter side."""
SMALLEST = 9
"""Pixels below which nobody reads letters."""


def mark(picture: Image.Image) -> Image.Image:
    """A copy with the mark in its lower right corner: white on a dark plate that lets the picture shine through.

    Args:
        picture: RGB.
    """
    out = picture.copy()
    size = max(SMALLEST, round(min(picture.size) * HEIGHT))
    font, pad = ImageFont.load_default(size), round(size * 0.45)
    for words in WORDS:
        left, top, right, bottom = (round(v) for v in font.getbbox(words))
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        if width <= picture.width / 3:
            break
    corner = (picture.width - width, picture.height - height)
    plate = Image.new("RGB", (width, height), "black")
    ImageDraw.Draw(plate).text((pad - left, pad - top), words, "white", font)
    under = out.crop((*corner, *picture.size))
    letters = plate.convert("L").point(lambda level: max(level, 150))  # how much of the plate covers the picture
    out.paste(Image.composite(plate, under, letters), corner)
    return out
