"""Somebody's picture -> plain RGB pixels. Nothing in a file is believed before it is checked.

In this order: bytes, format by content, size from the header, shape, then decoding (JPEG at reduced size where that is
enough), orientation, bit depth, transparency, colour, and a copy that has nothing of the file but its pixels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ganhub.errors import BadInput

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
MAX_PIXELS_WEBP = 20_000_000
"""Its decoder holds two canvases of four bytes a pixel beside the picture."""
MAX_RATIO = 10
MIN_SIDE = 8

# What people upload and this does not read, by its first bytes: (offset, bytes, name).
_OTHERS = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftypavi", "AVIF"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
)


@dataclass(frozen=True)
class Upload:
    """A picture and what was done to it on the way."""

    image: Image.Image
    """RGB (RGBA where transparency is kept), without metadata."""
    format: str
    size: tuple[int, int]
    """(width, height) in the file, upright."""
    notes: tuple[str, ...] = ()
    """Sentences for the visitor."""


def load_image(file: str | Path | bytes | BinaryIO, **limits: int | bool | None) -> Image.Image:
    """Decode an upload; see `read_upload`."""
    return read_upload(file, **limits).image  # type: ignore[arg-type]


def read_upload(
    file: str | Path | bytes | BinaryIO,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    max_ratio: int = MAX_RATIO,
    min_side: int = MIN_SIDE,
    max_side: int | None = None,
    keep_alpha: bool = False,
) -> Upload:
    """Decode a JPEG, PNG or WebP: upright, 8 bits, transparent parts on white, first frame, no metadata.

    Args:
        max_side: larger pictures are made smaller, in proportion.
        keep_alpha: RGBA instead, for pictures that have transparency.

    Raises:
        BadInput: with the codes `too_many_bytes`, `not_an_image`, `too_many_pixels`, `too_small`, `too_thin`,
            `damaged`.
    """
    data = read_bytes(file, max_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning comes at a size that is refused here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Exception as error:  # decoders raise anything on hostile files
            raise not_an_image(data) from error
        with image:
            width, height = image.size
            most = min(max_pixels, MAX_PIXELS_WEBP) if image.format == "WEBP" else max_pixels
            if width * height > most:
                raise BadInput(
                    f"The picture is {width}x{height}; the limit is {most / 1e6:g} megapixels.", "too_many_pixels"
                )
            if min(width, height) < min_side:
                raise BadInput(f"The picture is {width}x{height}; each side needs {min_side} pixels.", "too_small")
            if max(width, height) > max_ratio * min(width, height):
                raise BadInput(
                    f"The picture is {width}x{height}; one side may be {max_ratio} times the other at most.", "too_thin"
                )
            notes = ("It is animated: only its first frame is used.",) if getattr(image, "is_animated", False) else ()
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            try:
                plain = _decode(image, max_side, keep_alpha)
            except Exception as error:
                raise BadInput("The picture is damaged or cut off; save it again and retry.", "damaged") from error
            upright = (height, width) if (plain.height > plain.width) != (height > width) else (width, height)
    return Upload(plain, kind, upright, notes)


def read_bytes(file: str | Path | bytes | BinaryIO, max_bytes: int) -> bytes:
    """All of a file, or BadInput (`not_an_image`, `too_many_bytes`)."""
    try:
        if isinstance(file, (str, Path)):
            with open(file, "rb") as stream:
                data = stream.read(max_bytes + 1)
        else:
            data = file if isinstance(file, bytes) else file.read(max_bytes + 1)
    except OSError as error:
        raise BadInput(f"The picture cannot be read: {error.strerror or error}.", "not_an_image") from error
    if len(data) > max_bytes:
        raise BadInput(f"The picture is too large; the limit is {max_bytes / 2**20:g} MB.", "too_many_bytes")
    return data


def not_an_image(data: bytes) -> BadInput:
    """The sentence for a file that no decoder takes; it names what the first bytes look like."""
    for offset, mark, name in _OTHERS:
        if data[offset : offset + len(mark)] == mark:
            return BadInput(f"This is a {name} file; save the picture as JPEG, PNG or WebP and retry.", "not_an_image")
    return BadInput("This is no picture that can be read here; choose a JPEG, PNG or WebP file.", "not_an_image")


def _decode(image: Image.Image, max_side: int | None, keep_alpha: bool) -> Image.Image:
    if max_side:
        image.draft("RGB", (max_side, max_side))  # JPEG only: decodes at a half, a quarter or an eighth
    image.load()
    if orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not keep_alpha:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    else:
        image = image.convert("RGB")
    if max_side and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.info = {}  # convert() made a copy that had only this of the file
    return image


def orientation(image: Image.Image) -> int:
    """1 (upright) to 8, as EXIF counts them; 1 where the file says nothing or nonsense."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF is no reason to refuse a good picture
        return 1
    return found if found in range(2, 9) else 1
