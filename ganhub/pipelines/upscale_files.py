"""Many photos, or the frames of a video, enlarged one after the other."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganhub.errors import BadInput, GanHubError
from ganhub.imaging import Photo, VideoWriter, read_photo
from ganhub.imaging.bands import MAX_COLLECTED, MAX_SIDE, output_format
from ganhub.imaging.photos import MAX_PIXELS
from ganhub.imaging.video import VideoSource
from ganhub.pipelines._work import load
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale import UpscaleRequest, upscale

if TYPE_CHECKING:
    from ganhub.engine import Engine

NOTHING = Photo(np.zeros((1, 1, 3), np.uint8))
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".avif")


@dataclass(frozen=True)
class FilesResult:
    """What became of every photo: one that fails loses none of the others."""

    done: list[tuple[str, Path]]
    """Name of the photo, and its enlarged file."""
    failed: list[tuple[str, str]]
    """Name of the photo, and why in a sentence."""
    notes: dict[str, tuple[str, ...]]
    archive: Path | None = None


@dataclass(frozen=True)
class VideoRequest:
    """A video whose frames are to be enlarged."""

    checkpoint: str
    source: str | Path
    file: str | Path
    """The MP4 to write; the sound is kept."""
    scale: float | None = None
    blend: float = 0.0
    precision: str | None = None
    visitor: str = ""


@dataclass(frozen=True)
class VideoResult:
    """The enlarged video."""

    file: Path
    frames: int
    size: tuple[int, int]
    provenance: dict[str, Any]


def photos_in(paths: Iterable[str | Path]) -> list[Path]:
    """The photos of files and folders (not of their subfolders), in the order given, those of a folder by name.

    Raises:
        BadInput: a path is not there, or a folder holds no photo.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.suffix.lower() in ENDINGS)
            if not inside:
                raise BadInput(f"{path} holds no photo ({', '.join(ENDINGS)}).")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise BadInput(f"There is no file {path}.")
    return found


def upscale_files(
    engine: Engine,
    photos: Iterable[str | Path],
    folder: str | Path,
    checkpoint: str,
    *,
    archive: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    **how: Any,
) -> Iterator[Any]:
    """Enlarge photos one after the other: progress in photos and tiles, last a FilesResult.

    The files are called `NAME_x4.png` (or .jpg, .webp where the photo is one), with a number where a name comes twice.

    Args:
        archive: a zip that takes the files in, which then do not stay in `folder`.
        max_pixels: of a photo; larger ones fail with a sentence.
        **how: of `UpscaleRequest`.

    Raises:
        GanHubError: the checkpoint cannot be had; nothing that a single photo does.
    """
    paths, folder = [Path(p) for p in photos], Path(folder)
    done: list[tuple[str, Path]] = []
    failed: list[tuple[str, str]] = []
    notes: dict[str, tuple[str, ...]] = {}
    # What is wrong with the request is told before any photo is read.
    given = UpscaleRequest(checkpoint, NOTHING, **how)
    _, _, facts = yield from load(engine, checkpoint, given.precision, given.visitor)
    with _Archive(archive) as into:
        for number, path in enumerate(paths):
            place = f"{path.name} ({number + 1} of {len(paths)}): " if len(paths) > 1 else ""
            try:
                photo = read_photo(path, max_pixels=max_pixels)
                request = UpscaleRequest(checkpoint, photo, **how)
                request = replace(request, file=_free(folder, name_of(photo, request, facts["scale"]), done))
                with closing(upscale(engine, request)) as events:
                    for event in events:
                        if isinstance(event, Progress):
                            yield replace(event, message=place + event.message)
                        else:
                            done.append((path.name, into.take(event.file)))
                            notes[path.name] = event.notes
            except BadInput as error:
                failed.append((path.name, error.message))
    if not done and len(failed) == 1:
        raise BadInput(f"{failed[0][0]}: {failed[0][1]}")
    yield FilesResult(done, failed, notes, into.file)


class _Archive:
    """A zip that appears when it is whole; without a file, nothing."""

    def __init__(self, file: str | Path | None):
        self.file = Path(file) if file else None
        self._part = self.file.with_name(f".{self.file.name}.part") if self.file else None
        self._zip: zipfile.ZipFile | None = None

    def __enter__(self) -> _Archive:
        if self._part is not None:
            try:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                self._zip = zipfile.ZipFile(self._part, "w", zipfile.ZIP_STORED)
            except OSError as error:
                raise BadInput(f"{self.file} cannot be written: {error.strerror}.") from error
        return self

    def take(self, file: Path) -> Path:
        if self._zip is not None:
            self._zip.write(file, file.name)
            file.unlink()
        return file

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._zip is None or self._part is None or self.file is None:
            return
        self._zip.close()
        if kind is None:
            self._part.replace(self.file)
        else:
            self._part.unlink(missing_ok=True)


def name_of(photo: Photo, request: UpscaleRequest, scale: int) -> str:
    """`NAME_x4.png`: the photo's own name, how much larger, and its own format where that can hold the result."""
    larger = f"{request.width}px" if request.width else f"x{request.scale or scale:g}"
    factor = request.width / photo.size[0] if request.width else request.scale or scale
    width, height = (round(side * factor) for side in photo.size)
    kind = output_format(photo)
    if kind != "png" and (max(width, height) > MAX_SIDE[photo.format] or width * height > MAX_COLLECTED):
        kind = "png"
    return f"{photo.name}_{larger}.{'png' if photo.alpha is not None and kind == 'jpg' else kind}"


def _free(folder: Path, name: str, done: list[tuple[str, Path]]) -> Path:
    taken, plain, number = {path for _, path in done}, Path(name), 1
    while (file := folder / (name if number == 1 else f"{plain.stem}_{number}{plain.suffix}")) in taken:
        number += 1
    return file


def upscale_video(engine: Engine, request: VideoRequest) -> Iterator[Any]:
    """Enlarge a video frame by frame, its sound kept: progress in frames, last a VideoResult.

    Raises:
        GanHubError: the checkpoint cannot be had, or the video cannot be read or written.
    """
    source = VideoSource(request.source)
    writer: VideoWriter | None = None
    about: dict[str, Any] = {}
    frames, size = 0, (0, 0)
    how: dict[str, Any] = {
        "scale": request.scale,
        "blend": request.blend,
        "precision": request.precision,
        "visitor": request.visitor,
    }
    try:
        for frame in source:
            with closing(upscale(engine, UpscaleRequest(request.checkpoint, Photo(frame), **how))) as events:
                for event in events:
                    if isinstance(event, Progress):
                        words = f"Frame {frames + 1} of about {source.frames}"
                        yield Progress(frames, max(source.frames, frames + 1), words) if event.done else event
                        continue
                    if writer is None:
                        about, size = event.provenance, event.size
                        writer = VideoWriter(request.file, source.fps, about, audio=source.file)
                    writer.add(event.pixels)
            frames += 1
        if writer is None:
            raise BadInput(f"{source.file.name} holds no frames.")
        writer.close()
    except (GanHubError, GeneratorExit):
        if writer is not None:
            writer.discard()
        raise
    yield VideoResult(Path(request.file), frames, size, about)
