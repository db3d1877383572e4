"""Somebody's photo -> all of its pixels: 8 or 16 bits, grey or colour, transparency and colour profile apart.

`uploads.py` makes every picture plain RGB; here nothing is lost that an enlarged picture can keep. As there, nothing in
a file is believed before it is checked: bytes, format by content, size from the header, then decoding.
"""

from __future__ import annotations

import io
import re
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile

from ganhub.errors import BadInput
from ganhub.imaging.uploads import not_an_image, orientation, read_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
MAX_PIXELS = 100_000_000
MAX_SIDE = 300_000
"""Decoders and resamplers hold a pointer or a table for each row and column."""
MAX_PROFILE = 2**20
FFMPEG_SECONDS = 120
PHOTOMETRIC_TAG = 262


@dataclass(frozen=True)
class Photo:
    """A picture as it is in its file, upright."""

    pixels: np.ndarray
    """uint8 or uint16 [H, W, 1 or 3]."""
    alpha: np.ndarray | None = None
    """Of the same type, [H, W]; None where nothing is transparent."""
    profile: bytes | None = None
    """ICC profile that the pixels' colours are of; None is sRGB."""
    format: str = "PNG"
    name: str = "picture"
    """Without its ending."""
    notes: tuple[str, ...] = ()
    """Sentences for the visitor."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def depth(self) -> int:
        """Bits a channel: 8 or 16."""
        return 8 * self.pixels.itemsize


def read_photo(file: str | Path | bytes | BinaryIO, name: str | None = None, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF of any size from 1x1.

    CMYK becomes sRGB. Of animations and pages the first is taken, of metadata the colour profile alone.

    Args:
        name: what the visitor calls the file, where `file` does not tell.

    Raises:
        BadInput: with the codes `too_many_bytes`, `not_an_image`, `too_many_pixels`, `too_thin`, `damaged`.
    """
    data = read_bytes(file, 8 * max_pixels + 16 * 2**20)
    name = name or (Path(file).name if isinstance(file, (str, Path)) else str(getattr(file, "name", "")))
    too_many = f"the limit is {max_pixels / 1e6:g} megapixels."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning comes at sizes that are welcome here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise BadInput(f"The picture is too large; {too_many}", "too_many_pixels") from error
        except Exception as error:  # decoders raise anything on hostile files
            raise not_an_image(data) from error
        with image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadInput(f"The picture is {width}x{height}; {too_many}", "too_many_pixels")
            if max(width, height) > MAX_SIDE:
                raise BadInput(
                    f"The picture is {width}x{height}; a side may have {MAX_SIDE:,} pixels at most.", "too_thin"
                )
            try:
                return _decode(image, data, _stem(name))
            except BadInput:
                raise
            except MemoryError as error:
                raise BadInput(
                    f"The picture is {width}x{height}, which does not fit into memory; make it smaller and retry.",
                    "too_many_pixels",
                ) from error
            except Exception as error:
                raise BadInput("The picture is damaged or cut off; save it again and retry.", "damaged") from error


def _decode(image: ImageFile.ImageFile, data: bytes, name: str) -> Photo:
    several = image.format != "MPO" and getattr(image, "is_animated", False)
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # a phone's JPEG with a second picture behind
    packed = str([tile.args for tile in image.tile])  # how the file packs its pixels: "RGB;16B", ...
    profile = image.info.get("icc_profile")
    turn = orientation(image) if kind == "TIFF" else 1  # forgotten below: Pillow turns a TIFF by itself
    image.load()
    to_turn = orientation(image)
    turn = max(turn, to_turn)
    notes = []
    if several:
        what = "has several pages: only the first" if kind == "TIFF" else "is animated: only its first frame"
        notes.append(f"It {what} is used.")
    if turn > 1:
        notes.append("It was turned upright, as its camera noted.")
    if image.mode == "CMYK":
        plain, note = _cmyk_to_srgb(image, profile)
        profile = None
        notes.append(note)
        pixels, alpha = _split(plain)
    else:
        pixels, alpha = _grey16(image) if image.mode.startswith("I;16") else _split(image)
    pixels, alpha = _upright(pixels, to_turn), None if alpha is None else _upright(alpha, to_turn)
    if ";16" in packed and pixels.dtype == np.uint8:
        words = None if "CMYK" in packed else _sixteen_bits(data, kind, turn, pixels)
        if words is None:
            notes.append("Only 8 of the 16 bits of its colours could be read.")
        else:
            pixels = np.ascontiguousarray(words[..., : 1 if "LA;16" in packed else 3])
            alpha = None if alpha is None else np.ascontiguousarray(words[..., 3])
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None
    if profile:
        profile, note = _kept(profile, pixels.shape[-1])
        notes.append(note)
    return Photo(pixels, alpha, profile or None, kind, name, tuple(notes))


def _split(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 pixels and alpha of a picture of 8 bits or fewer."""
    if image.mode in ("F", "I", "LAB"):
        raise BadInput(
            "The picture has 32-bit or Lab colours; save it with 8 or 16 bits of RGB or grey and retry.", "not_an_image"
        )
    grey = image.mode in ("1", "L", "LA")
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of a 16-bit picture, which Pillow holds in 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    alpha = image.has_transparency_data
    pixels = np.asarray(image.convert(("L" if grey else "RGB") + "A" * alpha)).reshape(image.height, image.width, -1)
    colours = pixels[..., :-1] if alpha else pixels
    if image.mode == "P" and (colours == colours[..., :1]).all():  # which GIF has for grey as well
        colours = colours[..., :1]
    return np.ascontiguousarray(colours), np.ascontiguousarray(pixels[..., -1]) if alpha else None


def _grey16(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    pixels = np.asarray(image).astype(np.uint16)  # the file's byte order ends here
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_TAG) == 0:  # type: ignore[attr-defined]
        pixels = np.invert(pixels)  # white is zero; Pillow looks after this in 8 bits only
    clear = image.info.get("transparency")
    alpha = np.where(pixels == clear, 0, 65535).astype(np.uint16) if isinstance(clear, int) else None
    return pixels[..., None], alpha


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Undo the orientation that EXIF notes, 1 to 8, for [H, W, ...]."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _sixteen_bits(data: bytes, kind: str, turn: int, pixels: np.ndarray) -> np.ndarray | None:
    """uint16 [H, W, 4] of a PNG or TIFF of 16 bits a channel, of which Pillow keeps the upper half.

    Args:
        pixels: what Pillow made of it. Where ffmpeg sees something else (it takes tiles of a TIFF for strips), or
            nothing, the answer is None.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    height, width = pixels.shape[:2]
    command = [get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "pipe", "-threads", "1"]
    command += ["-max_pixels", str((height + 128) * (width + 128)), "-noautorotate", "-f", f"{kind.lower()}_pipe"]
    command += ["-frame_size", str(len(data))] if kind == "TIFF" else []  # which cannot be told from its bytes
    command += ["-i", "pipe:0", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgba64le", "pipe:1"]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=FFMPEG_SECONDS, start_new_session=True, check=True
        )
    except subprocess.SubprocessError:
        return None
    if len(done.stdout) != height * width * 8:
        return None
    lying = (width, height) if turn in (5, 6, 7, 8) else (height, width)
    words = _upright(np.frombuffer(done.stdout, "<u2").reshape(*lying, 4), turn)
    upper = words.view(np.uint8)[..., 1::2]
    same = all(np.array_equal(upper[y, :, : pixels.shape[-1]], pixels[y]) for y in range(height))
    return words.astype(np.uint16, copy=False) if same else None


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    if not profile:
        return image.convert("RGB"), "Its CMYK colours were converted to sRGB without a colour profile; it has none."
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # a damaged profile, or one of other colours
        return image.convert("RGB"), "Its CMYK colours were converted to sRGB plainly; its colour profile is damaged."
    assert converted is not None
    return converted, f"Its CMYK colours were converted to sRGB by its own colour profile{_title(own)}."


def _kept(profile: bytes, channels: int) -> tuple[bytes | None, str]:
    """The profile, where it can belong to such pixels, and a sentence."""
    if len(profile) > MAX_PROFILE:
        return None, f"Its colour profile is left out: it has over {MAX_PROFILE >> 20} MB."
    if profile[16:20] != (b"GRAY" if channels == 1 else b"RGB "):
        return None, "Its colour profile is left out: it belongs to other colours."
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except Exception:
        return None, "Its colour profile is left out: it is damaged."
    return profile, f"Its colour profile{_title(own)} is kept."


def _title(profile: ImageCms.ImageCmsProfile) -> str:
    try:
        title = ImageCms.getProfileDescription(profile)
    except Exception:
        return ""
    title = re.sub(r"[^\w .()-]", "", title).strip()[:60]
    return f" ({title})" if title else ""


def _stem(name: str) -> str:
    """Of a visitor's name for a file, what can be part of a file's name anywhere."""
    stem = Path(name.replace("\\", "/")).stem
    return re.sub(r"[^\w .,()+@-]", "", stem).strip(" .")[:100] or "picture"
