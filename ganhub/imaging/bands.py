"""Pictures written and resized from top to bottom, band by band, in memory that does not grow with their height.

PNG (ISO/IEC 15948): every row Paeth-filtered, deflated with run lengths only. On enlarged photos that makes
files as small as level 6 of Pillow at five times its speed.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from ganhub.errors import BadInput
from ganhub.imaging.photos import Photo
from ganhub.imaging.provenance import FORMATS, encode_image, png_info, write_whole

MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
MAX_COLLECTED = 100_000_000
"""Pixels of a JPEG or WebP, which are encoded in one piece."""
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
FILTER_BYTES = 2**17
"""Filtered at once: what the cache holds with all its intermediates."""
CHUNK_BYTES = 2**20
LANCZOS_REACH = 3


def output_format(photo: Photo) -> str:
    """The ending of an enlarged photo's file: `jpg` and `webp` stay what they are, all else becomes `png`."""
    return {"JPEG": "jpg", "WEBP": "webp"}.get(photo.format, "png")


def open_picture(
    file: str | Path,
    width: int,
    height: int,
    channels: int,
    depth: int = 8,
    *,
    provenance: dict[str, Any] | None = None,
    profile: bytes | None = None,
) -> PictureWriter:
    """A writer for a picture whose rows come from top to bottom; the ending (png, jpg, webp) says how it is written.

    PNG goes to the disk as it comes, losslessly and at any size. JPEG (quality 95, no subsampling) and WebP (lossless)
    are held in memory until all rows are there.

    Args:
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
        depth: bits a channel, 8 or 16.
        profile: the ICC profile that the colours are of; None is sRGB.

    Raises:
        BadInput: an unknown ending, a picture that the format cannot hold, or the file cannot be written.
    """
    file = Path(file)
    kind = FORMATS.get(file.suffix.lower().lstrip("."))
    if kind is None:
        raise BadInput(f"Pictures are written as png, jpg or webp, not as '{file.name[-40:]}'.")
    shape = (height, width, channels)
    if kind == "PNG":
        return _PngWriter(file, shape, depth, provenance, profile)
    if depth == 16 or (kind == "JPEG" and channels in (2, 4)):
        what = "16 bits a channel" if depth == 16 else "transparency"
        raise BadInput(f"{kind} knows no {what}; write {file.stem} as png.")
    if max(width, height) > MAX_SIDE[kind]:
        raise BadInput(
            f"The picture becomes {width}x{height}; {kind} ends at {MAX_SIDE[kind]:,} pixels a side; write it as png."
        )
    if width * height > MAX_COLLECTED:
        raise BadInput(
            f"The picture becomes {width}x{height}; {kind} is written up to {MAX_COLLECTED / 1e6:g} megapixels here; "
            "write it as png."
        )
    return _CollectingWriter(file, shape, depth, provenance, profile)


class PictureWriter:
    """Takes rows from top to bottom; the file appears when all are there, and nothing remains otherwise."""

    def __init__(
        self,
        file: Path,
        shape: tuple[int, int, int],
        depth: int,
        provenance: dict[str, Any] | None,
        profile: bytes | None,
    ):
        self.file, self.shape = file, shape
        self.dtype: np.dtype[Any] = np.dtype({8: np.uint8, 16: np.uint16}[depth])
        self.provenance, self.profile = provenance, profile
        self.rows = 0

    def add(self, rows: np.ndarray) -> None:
        """Append uint8 or uint16 [h, W, C].

        Raises:
            ValueError: rows of another kind, or more than the picture has.
            BadInput: the file cannot be written.
        """
        height, *row = self.shape
        if rows.dtype != self.dtype or list(rows.shape[1:]) != row or self.rows + len(rows) > height:
            raise ValueError(f"{rows.dtype} {rows.shape} after {self.rows} rows of {self.dtype} {self.shape}")
        self._take(rows)
        self.rows += len(rows)

    def close(self) -> Path:
        """Finish the file and put it in its place.

        Raises:
            ValueError: rows are missing.
            BadInput: the file cannot be written.
        """
        try:
            if self.rows < self.shape[0]:
                raise ValueError(f"{self.rows} rows of {self.shape[0]}")
            self._finish()
        finally:
            self.discard()
        return self.file

    def discard(self) -> None:
        """Leave nothing behind of a picture that is not finished."""

    def _take(self, rows: np.ndarray) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _CollectingWriter(PictureWriter):
    """JPEG and WebP."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._pixels = np.empty(self.shape, self.dtype)

    def _take(self, rows: np.ndarray) -> None:
        self._pixels[self.rows : self.rows + len(rows)] = rows

    def _finish(self) -> None:
        image = Image.fromarray(self._pixels[..., 0] if self.shape[-1] == 1 else self._pixels)
        write_whole(self.file, encode_image(image, self.file.suffix, self.provenance, self.profile))

    def discard(self) -> None:
        self._pixels = np.empty((0, 0, 0), self.dtype)


class _PngWriter(PictureWriter):
    def __init__(self, *args: Any):
        super().__init__(*args)
        height, width, channels = self.shape
        self._step = channels * self.dtype.itemsize  # bytes from a sample to the one at its left
        self._above = np.zeros((1, self._step + width * self._step), np.uint8)
        self._deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
        self._waiting = bytearray()
        texts = [(kind, data) for kind, data, *_ in png_info(self.provenance).chunks]
        self._part = self.file.with_name(f".{self.file.name}.{uuid4().hex[:8]}.part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(self._part, "wb")  # noqa: SIM115  # closed in discard
            self._stream.write(b"\x89PNG\r\n\x1a\n")
            depth = 8 * self.dtype.itemsize
            self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[channels], 0, 0, 0))
            if self.profile:
                self._chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(self.profile))
            for kind, data in texts:
                self._chunk(kind, data)
        except OSError as error:
            raise self._failed(error) from error

    def _take(self, rows: np.ndarray) -> None:
        height = max(1, FILTER_BYTES // self._above.size)
        try:
            for top in range(0, len(rows), height):
                band = np.ascontiguousarray(rows[top : top + height], self.dtype.newbyteorder(">"))
                self._waiting += self._deflate.compress(self._filtered(band.view(np.uint8).reshape(len(band), -1)))
                if len(self._waiting) >= CHUNK_BYTES:
                    self._chunk(b"IDAT", self._waiting)
                    self._waiting.clear()
        except OSError as error:
            raise self._failed(error) from error

    def _filtered(self, rows: np.ndarray) -> memoryview:
        """Rows of bytes with the filter's number before each, less what Paeth expects from the left and above.

        The expected byte is whichever of left, above and corner lies nearest to left + above - corner: in bytes, the
        nearer of the two to the corner, except where the corner lies between them and nearer than that to their sum.
        """
        step = self._step
        padded = np.concatenate([self._above, np.pad(rows, ((0, 0), (step, 0)))])
        self._above = padded[-1:].copy()
        left, above, corner = padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]
        to_left = np.maximum(above, corner) - np.minimum(above, corner)  # |expected - left| is |above - corner|
        to_above = np.maximum(left, corner) - np.minimum(left, corner)
        nearest = np.minimum(to_left, to_above)
        between = (left > corner) != (above > corner)
        to_corner = np.maximum(to_left, to_above) - nearest  # where it lies between
        expected = np.where(to_left <= to_above, left, above)
        np.copyto(expected, corner, where=between & (to_corner < nearest))
        out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        out[:, 0] = 4
        np.subtract(rows, expected, out=out[:, 1:])
        return out.data

    def _chunk(self, kind: bytes, data: bytes | bytearray) -> None:
        self._stream.write(struct.pack(">I", len(data)) + kind)
        self._stream.write(data)
        self._stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))

    def _finish(self) -> None:
        try:
            self._chunk(b"IDAT", self._waiting + self._deflate.flush())
            self._chunk(b"IEND", b"")
            self._stream.close()
            os.replace(self._part, self.file)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BadInput:
        self.discard()
        return BadInput(f"{self.file} cannot be written: {error.strerror or error}.")

    def discard(self) -> None:
        with suppress(AttributeError, OSError):  # it was never opened; the disk is full and closing writes
            self._stream.close()
        with suppress(OSError):
            self._part.unlink()


class Resampler:
    """Lanczos from one size to another, larger or smaller, of rows that come from top to bottom.

    The same as Pillow's `resize` of the whole picture within a level of 8 bits; colours count by their alpha.

    Args:
        source: (width, height) of what comes in.
        target: (width, height) of what goes out.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int]):
        self.source, self.target = source, target
        self._scale = source[1] / target[1]
        self._reach = LANCZOS_REACH * max(1.0, self._scale) + 1
        self._held: np.ndarray | None = None
        self._top = 0  # the first row that is held
        self._received = 0
        self._done = 0  # rows given out

    def add(self, rows: np.ndarray) -> np.ndarray:
        """Rows in, rows that are ready out: uint8 or uint16 [h, W, C] -> [k, w, C]; k may be 0.

        Raises:
            ValueError: rows of another width, or more than the source has.
        """
        there = self._received + len(rows)
        if rows.shape[1] != self.source[0] or there > self.source[1]:
            raise ValueError(f"{rows.shape} after {self._received} rows of {self.source}")
        self._received = there
        if self.source == self.target:
            return rows
        self._held = rows if self._held is None else np.concatenate([self._held, rows])
        ready = self.target[1]
        if there < self.source[1]:
            ready = max(self._done, int((there - self._reach) / self._scale + 0.5))
        if ready == self._done:
            return np.empty((0, self.target[0], rows.shape[-1]), rows.dtype)
        low, high = self._done * self._scale - self._top, ready * self._scale - self._top
        out = _resize(self._held, (self.target[0], ready - self._done), low, min(high, len(self._held)))
        self._done = ready
        needless = max(0, int((ready + 0.5) * self._scale - self._reach) - self._top)
        self._held, self._top = self._held[needless:].copy(), self._top + needless
        return out


def _resize(rows: np.ndarray, size: tuple[int, int], low: float, high: float) -> np.ndarray:
    """Rows `low` to `high` of [h, W, C] as [size[1], size[0], C]; what lies around them is seen."""
    box = (0, low, rows.shape[1], high)
    channels = rows.shape[-1]
    if rows.dtype == np.uint8:
        image = Image.fromarray(rows[..., 0] if channels == 1 else rows)
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box)).reshape(size[1], size[0], channels)
    levels = rows.astype(np.float32)
    if channels in (2, 4):
        levels[..., :-1] *= levels[..., -1:] / 65535
    planes = [Image.fromarray(levels[..., k]).resize(size, Image.Resampling.LANCZOS, box) for k in range(channels)]
    out = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    if channels in (2, 4):
        out[..., :-1] *= 65535 / np.maximum(out[..., -1:], 1)
    return np.floor(out + 0.5).clip(0, 65535).astype(np.uint16)
