"""Where a picture comes from, written into its file and read back.

One JSON object: PNG text chunk `ganhub`, EXIF UserComment in JPEG and WebP, the `comment` of an MP4. Beside it an XMP
packet says in the press's own vocabulary (IPTC DigitalSourceType) that the picture was made by a trained algorithm.
"""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganhub.errors import BadInput

KEY = "ganhub"
MAX_JSON = 48 * 1024
"""A JPEG segment holds 64 kB."""
MAX_FILE_BYTES = 256 * 2**20
FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
LARGE = 2**22
"""Pixels above which a WebP takes its encoder seconds."""
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)
XMP_KEY = "XML:com.adobe.xmp"


def to_json(provenance: dict[str, Any]) -> str:
    """Provenance as it stands in a file: ASCII, one line.

    Raises:
        BadInput: it is longer than a file can carry.
    """
    text = json.dumps(provenance, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    if len(text) > MAX_JSON:
        raise BadInput(
            f"The settings are too long to be kept inside a file ({len(text) >> 10} kB); ask for less at once."
        )
    return text


def png_text(provenance: dict[str, Any]) -> dict[str, str]:
    """Text chunks of a PNG; put into `image.info`, PNG encoders that look there write them too."""
    return {KEY: to_json(provenance), XMP_KEY: XMP}


def png_info(provenance: dict[str, Any] | None) -> PngInfo:
    """The text chunks as Pillow writes them."""
    chunks = PngInfo()
    for key, text in png_text(provenance).items() if provenance else ():
        if key == XMP_KEY:
            chunks.add_itxt(key, text)
        else:
            chunks.add_text(key, text)
    return chunks


def encode_image(
    image: Image.Image | np.ndarray,
    format: str = "png",
    provenance: dict[str, Any] | None = None,
    profile: bytes | None = None,
) -> bytes:
    """A file's bytes: `png` and `webp` lossless, `jpg` at quality 95 without chroma subsampling.

    Args:
        profile: the ICC profile that the colours are of; None is sRGB.

    Raises:
        BadInput: an unknown format, or a picture that the format cannot hold.
    """
    format = format.lower().lstrip(".")
    kind = FORMATS.get(format)
    if kind is None:
        raise BadInput(f"Pictures are written as png, jpg or webp, not as '{format[:20]}'.")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image).squeeze())
    options: dict[str, Any] = {"icc_profile": profile}
    if kind == "PNG":
        options |= {"pnginfo": png_info(provenance), "compress_level": 6}
    else:
        if provenance:
            exif = Image.Exif()
            exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"ASCII\0\0\0" + to_json(provenance).encode()
            options |= {"exif": exif, "xmp": XMP.encode()}
        options |= {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
        if kind == "WEBP" and picture.width * picture.height > LARGE:
            options |= {"method": 1, "quality": 20}  # effort, not loss: 1 % larger, three times as fast
    out = io.BytesIO()
    try:
        picture.save(out, kind, **options)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"A picture of {picture.width}x{picture.height} cannot be written as {kind}: {error}."
        ) from error
    return out.getvalue()


def save_image(image: Image.Image | np.ndarray, file: str | Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write a picture; its name's ending (png, jpg, webp) says how. Whole or not at all; folders are made.

    Args:
        image: PIL image, or uint8 [H, W], [H, W, 1] or [H, W, 3].

    Raises:
        BadInput: an unknown ending, or the file cannot be written.
    """
    file = Path(file)
    return write_whole(file, encode_image(image, file.suffix, provenance))


def write_whole(file: Path, data: bytes) -> Path:
    """Write beside the file, then put it in its place.

    Raises:
        BadInput: the folder cannot be written.
    """
    part = file.with_name(f".{file.name}.{uuid4().hex[:8]}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise BadInput(f"{file} cannot be written: {error.strerror or error}.") from error
    return file


def read_provenance(file: str | Path | BinaryIO, name: str | None = None) -> dict[str, Any]:
    """What GAN Hub wrote into a PNG, JPEG, WebP or MP4; the pixels are not decoded.

    The values are somebody's file content: check them as you would check a form (`request_of` does).

    Raises:
        BadInput: no such file, nothing of GAN Hub inside, or damaged.
    """
    name = name or (Path(file).name if isinstance(file, (str, Path)) else "This file")
    try:
        if isinstance(file, (str, Path)):
            with open(file, "rb") as stream:
                text = _find(stream, name)
        else:
            text = _find(file, name)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or 'it is damaged'}.") from error
    if text is None:
        raise BadInput(f"{name} carries no settings of GAN Hub; some programs and sites remove them.", "no_provenance")
    return parse_provenance(text, name)


def parse_provenance(text: str, name: str = "This file") -> dict[str, Any]:
    """Provenance from its JSON.

    Raises:
        BadInput: it is none, or too long.
    """
    damaged = BadInput(f"The settings inside {name} are damaged.", "no_provenance")
    if len(text) > MAX_JSON:
        raise damaged
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(found, dict) or not all(isinstance(found.get(k), str) for k in ("ganhub", "task", "checkpoint")):
        raise damaged
    return found


def _no_constant(word: str) -> None:
    raise ValueError(word)


def _find(stream: BinaryIO, name: str) -> str | None:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    stream.seek(0)
    if head[4:8] == b"ftyp":
        return _mp4_comment(stream, size)
    if size > MAX_FILE_BYTES:
        raise BadInput(f"{name} is too large for a picture; the limit is {MAX_FILE_BYTES >> 20} MB.")
    try:
        with warnings.catch_warnings(), Image.open(stream, formats=("PNG", "JPEG", "WEBP")) as image:
            warnings.simplefilter("ignore")
            found = image.info.get(KEY)
            if found is None:
                comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
                if isinstance(comment, bytes) and comment.startswith(b"ASCII\0\0\0"):
                    found = comment[8:].decode("ascii", "replace")
    except Exception as error:  # decoders raise anything on damaged files
        raise BadInput(f"{name} is no PNG, JPEG, WebP or MP4, or it is damaged.", "no_provenance") from error
    return found if isinstance(found, str) else None


def _mp4_comment(stream: BinaryIO, size: int) -> str | None:
    """The text at moov/udta/meta/ilst/(c)cmt/data."""
    begin, end = 0, size
    for wanted in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        found = next(((b, e) for kind, b, e in _boxes(stream, begin, end) if kind == wanted), None)
        if found is None:
            return None
        begin, end = found
        if wanted == b"meta":
            begin += 4  # version and flags
    if not 8 < end - begin <= MAX_JSON + 8:
        return None
    stream.seek(begin + 8)  # type and locale
    return stream.read(end - begin - 8).decode("utf-8", "replace")


def _boxes(stream: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box."""
    for _ in range(10_000):
        if end - begin < 8:
            return
        stream.seek(begin)
        size, kind = struct.unpack(">I4s", stream.read(8))
        head = 8
        if size == 1 and end - begin >= 16:
            size, head = struct.unpack(">Q", stream.read(8))[0], 16
        elif size == 0:
            size = end - begin
        if size < head or begin + size > end:
            return
        yield kind, begin + head, begin + size
        begin += size
