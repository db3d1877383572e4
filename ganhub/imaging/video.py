"""Frames -> MP4 (H.264, yuv420p, fast start), one at a time, through the ffmpeg of imageio-ffmpeg."""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from ganhub.errors import BadInput
from ganhub.imaging.provenance import to_json

LEAST_SIDE = 256
"""Players show smaller videos as a stamp, or not at all; they are enlarged by a whole factor."""


class VideoWriter:
    """Writes frames as they come; the file appears when all is well, and nothing remains otherwise.

    Args:
        file: ends with `.mp4`.
        fps: frames per second.
        provenance: kept as the file's comment.
        crf: quality of x264, 0 (best) to 51.

    Raises:
        BadInput: another ending, no frames, frames of different sizes, or the file cannot be written.
    """

    def __init__(self, file: str | Path, fps: float = 30, provenance: dict[str, Any] | None = None, crf: int = 16):
        self.file = Path(file)
        if self.file.suffix.lower() != ".mp4":
            raise BadInput(f"A video is written as .mp4, not as '{self.file.name}'.")
        self.fps, self.crf = fps, crf
        self.comment = to_json(provenance) if provenance else ""
        self.frames = 0
        self._part = self.file.with_name(f".{self.file.stem}.{uuid4().hex[:8]}.part.mp4")
        self._size = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, frame: Image.Image | np.ndarray) -> None:
        """Append a frame: PIL image, or uint8 [H, W, 1 or 3]."""
        image = frame if isinstance(frame, Image.Image) else Image.fromarray(np.asarray(frame).squeeze())
        if self._process is None:
            self._start(image.size)
        elif image.size != self._size:
            raise BadInput(f"The frames of {self.file.name} have different sizes.")
        factor = math.ceil(LEAST_SIDE / min(image.size))
        if factor > 1:
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        pixels = np.asarray(image.convert("RGB"))
        odd = (pixels.shape[0] % 2, pixels.shape[1] % 2)
        if any(odd):  # yuv420p halves both sides
            pixels = np.pad(pixels, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(pixels.tobytes())
        except OSError as error:
            raise self._failed() from error
        self.frames += 1

    def _start(self, size: tuple[int, int]) -> None:
        from imageio_ffmpeg import get_ffmpeg_exe

        factor = max(1, math.ceil(LEAST_SIDE / min(size)))
        width, height = (side * factor + side * factor % 2 for side in size)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{self.file} cannot be written: {error.strerror}.") from error
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{width}x{height}", "-r", str(self.fps), "-i", "pipe:0", "-an", "-c:v", "libx264"]
        command += ["-crf", str(self.crf), "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        command += ["-metadata", f"comment={self.comment}"] if self.comment else []
        self._size = size
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  # closed in _end
        self._process = subprocess.Popen(
            [*command, str(self._part)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._words,
            start_new_session=True,  # a Ctrl-C is ours to handle
        )

    def close(self) -> Path:
        """Finish the file and put it in its place."""
        if self._process is None:
            raise BadInput(f"There is no frame for {self.file.name}.")
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError as error:
            raise self._failed() from error
        if self._process.wait() != 0:
            raise self._failed()
        try:
            os.replace(self._part, self.file)
        except OSError as error:
            raise BadInput(f"{self.file} cannot be written: {error.strerror}.") from error
        finally:
            self.discard()
        return self.file

    def discard(self) -> None:
        """Stop ffmpeg and leave nothing behind."""
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):
                if self._process.stdin:
                    self._process.stdin.close()
            self._process.wait()
            self._words.close()
            self._process = None
        with suppress(OSError):
            self._part.unlink()

    def _failed(self) -> BadInput:
        assert self._process is not None
        self._process.wait()
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return BadInput(f"{self.file} cannot be written: {lines[-1] if lines else 'ffmpeg ended'}.")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()


def write_video(
    frames: Iterable[Image.Image | np.ndarray],
    file: str | Path,
    fps: float = 30,
    provenance: dict[str, Any] | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write frames as MP4 while they are made; memory stays flat.

    Args:
        frames: PIL images or uint8 [H, W, C], all of one size; odd sides get one more pixel, and pictures under 256
            pixels are enlarged by a whole factor.
        progress: called with the number of frames written.

    Raises:
        BadInput: no frames, or the file cannot be written.
    """
    with VideoWriter(file, fps, provenance) as writer:
        for frame in frames:
            writer.add(frame)
            if progress:
                progress(writer.frames)
    return Path(file)
