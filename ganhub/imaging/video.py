"""Frames -> MP4 (H.264, yuv420p, fast start) and videos -> frames, one at a time, through the ffmpeg of imageio-ffmpeg.

ffmpeg opens only files of the container formats below: no address, and no playlist that leads to other files.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from ganhub.errors import BadInput
from ganhub.imaging.provenance import to_json

LEAST_SIDE = 256
"""Players show smaller videos as a stamp, or not at all; they are enlarged by a whole factor."""
MAX_SECONDS = 600
MAX_FRAME_PIXELS = 9_000_000
"""4096x2160."""
MAX_FPS = 120
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709"
PROBE_SECONDS = 60
SD_LINES = 576
"""Players take larger videos that name no colour matrix for BT.709, smaller ones for BT.601."""


class VideoSource:
    """The frames of a video, one at a time, upright and with square pixels; memory does not grow with its length.

    Iterating gives uint8 [H, W, 3], each time from the beginning; a picture that stands still longer than others comes
    several times, so that `fps` holds throughout.

    Attributes:
        size: (width, height).
        fps: frames per second, exactly.
        duration: seconds; 0 where the file does not tell.
        frames: about how many there are; 0 where the file does not tell.
        has_audio: whether there is sound, for `VideoWriter(audio=file)`.

    Args:
        max_seconds: longer videos are refused.
        max_pixels: of one frame; larger ones are refused.

    Raises:
        BadInput: no video that can be read, or over a limit.
    """

    def __init__(self, file: str | Path, *, max_seconds: float = MAX_SECONDS, max_pixels: int = MAX_FRAME_PIXELS):
        self.file, self.max_seconds = Path(file), max_seconds
        # The first stream of pictures that is no cover; turning as the file asks comes by itself.
        self._input = ["-max_pixels", str(2 * max_pixels), *_opened(self.file), "-map", "0:V:0"]  # codecs pad
        self._filters = "scale=iw*sar:ih:flags=lanczos,setsar=1"
        # One frame is decoded: its exact rate and its size after all turning stand before its checksum.
        look = ["-vf", self._filters, "-frames:v", "1", "-f", "framecrc", "pipe:1"]
        words, found = _ffmpeg([*self._input, *look], self.file)
        rate = re.search(r"^#tb 0: (\d+)/(\d+)", found, re.M)
        sides = re.search(r"^#dimensions 0: (\d+)x(\d+)", found, re.M)
        if not rate or not sides or not re.search(r"^0,", found, re.M):
            if "max pixel count" in words:
                raise BadInput(f"The frames of {self.file.name} are over {max_pixels / 1e6:g} megapixels; use less.")
            if "not on whitelist" in words:
                raise BadInput(f"{self.file.name} is no video that is read here; save it as MP4, MKV or WebM.")
            if _streams(words, "Audio") and not _streams(words, "Video"):
                raise BadInput(f"{self.file.name} has sound but no pictures.")
            raise BadInput(f"{self.file.name} cannot be read as a video: {_reason(words)}.")
        self.size = int(sides[1]), int(sides[2])
        self.fps = Fraction(int(rate[2]), int(rate[1]))
        if self.fps > MAX_FPS:  # the clock of a video whose frames come at any time
            average = re.search(r"([\d.]+) fps,", words)
            self.fps = min(Fraction(average[1]) if average else self.fps, Fraction(MAX_FPS))
        length = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", words, re.M)
        self.duration = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else 0.0
        self.frames = round(self.duration * self.fps)
        self.has_audio = bool(_streams(words, "Audio"))
        if self.size[1] > SD_LINES and not re.search(r"^  Stream #0:\d+.*?: Video: .*(bt|smpte|fcc|gbr)", words, re.M):
            self._filters = f"setparams=colorspace=bt709,{self._filters}"  # what players take it for; ffmpeg does not
        if self.size[0] * self.size[1] > max_pixels:
            raise BadInput(
                f"The frames of {self.file.name} are {self.size[0]}x{self.size[1]}; the limit is "
                f"{max_pixels / 1e6:g} megapixels."
            )
        if self.duration > max_seconds:
            raise BadInput(
                f"{self.file.name} lasts {self.duration:.0f} seconds; the limit is {max_seconds:g}. Cut it first."
            )

    def __iter__(self) -> Generator[np.ndarray, None, None]:
        from imageio_ffmpeg import get_ffmpeg_exe

        width, height = self.size
        command = [get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", *self._input, "-vf", self._filters]
        command += ["-r", str(self.fps), "-fps_mode", "cfr", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
        count = 0
        with (
            tempfile.TemporaryFile() as words,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, start_new_session=True) as process,
        ):
            assert process.stdout is not None
            try:
                while len(data := process.stdout.read(width * height * 3)) == width * height * 3:
                    if count >= self.max_seconds * self.fps + 1:  # the header told less, or nothing
                        raise BadInput(f"{self.file.name} lasts over {self.max_seconds:g} seconds. Cut it first.")
                    count += 1
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
                if process.wait() != 0 or not count:
                    words.seek(0)
                    reason = _reason(words.read().decode(errors="replace"))
                    raise BadInput(f"{self.file.name} cannot be read after {count} frames: {reason}.")
            finally:
                process.kill()


def _opened(file: Path) -> list[str]:
    return ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{file.absolute()}"]


def _ffmpeg(options: list[str], file: Path) -> tuple[str, str]:
    """What ffmpeg says and what it writes; its success shows in what it writes."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-hide_banner", "-nostdin", *options]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, start_new_session=True)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{file.name} cannot be read as a video within {PROBE_SECONDS} seconds.") from error
    return done.stderr.decode(errors="replace"), done.stdout.decode(errors="replace")


def _streams(words: str, kind: str) -> list[str]:
    """Codecs of the input's streams of a kind."""
    return re.findall(rf"^  Stream #0:\d+.*?: {kind}: (\w+)", words.partition("\nOutput #")[0], re.M)


def _reason(words: str) -> str:
    lines = words.strip().splitlines()
    return lines[-1].rpartition(": ")[2].rstrip(".") if lines else "ffmpeg ended"


class VideoWriter:
    """Writes frames as they come; the file appears when all is well, and nothing remains otherwise.

    Args:
        file: ends with `.mp4`.
        fps: frames per second.
        provenance: kept as the file's comment.
        crf: quality of x264, 0 (best) to 51.
        audio: a video or sound whose first sound is taken over: copied where it is AAC, else made AAC.

    Raises:
        BadInput: another ending, no frames, frames of different sizes, or the file cannot be written.
    """

    def __init__(
        self,
        file: str | Path,
        fps: float | Fraction = 30,
        provenance: dict[str, Any] | None = None,
        crf: int = 16,
        audio: str | Path | None = None,
    ):
        self.file = Path(file)
        if self.file.suffix.lower() != ".mp4":
            raise BadInput(f"A video is written as .mp4, not as '{self.file.name}'.")
        self.fps, self.crf = fps, crf
        self.audio = Path(audio) if audio else None
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
        command += ["-s", f"{width}x{height}", "-r", str(self.fps), "-i", "pipe:0"]
        if self.audio:
            sound = _streams(_ffmpeg(_opened(self.audio), self.audio)[0], "Audio")
            command += [*_opened(self.audio), "-map", "0:v", "-map", "1:a:0?", "-map_metadata", "-1"]
            command += ["-map_chapters", "-1", "-c:a", "copy" if sound[:1] == ["aac"] else "aac", "-b:a", "192k"]
        command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams=" + BT709]
        command += ["-c:v", "libx264", "-crf", str(self.crf), "-movflags", "+faststart"]
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
