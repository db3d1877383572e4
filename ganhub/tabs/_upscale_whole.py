"""The whole of what a visitor dropped, larger: photos, a photo that is made small first, a video; within limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganhub.imaging import VideoSource
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale import MAX_IN_MEMORY, shrunk, upscale
from ganhub.pipelines.upscale_files import FilesResult, VideoRequest, name_of, upscale_files, upscale_video
from ganhub.tabs._upscale_preview import VIDEOS, Wanted, most_pixels, photo_of

MOST_SECONDS = 20
"""Of a video made in the page."""
MOST_FRAME = 1_000_000
"""Pixels of such a video's frames."""
SHOWN = 1600
"""Longest side of the whole result as the page shows it; the file to download has all pixels."""


def whole(engine: Any, files: Sequence[str | Path], wanted: Wanted, visitor: str, folder: Path) -> Iterator[Any]:
    """Progress, then a FilesResult, or a VideoResult where the last file is a video. That, and a photo that is made
    small first, goes alone.

    Raises:
        GanHubError: the network cannot be had, or there is not one file that can be enlarged.
    """
    facts = engine.describe(wanted.checkpoint, wanted.precision)
    scale = wanted.scale or facts["scale"]
    how: dict[str, Any] = {"scale": wanted.scale, "blend": wanted.blend, "precision": wanted.precision}
    how["visitor"] = visitor
    if Path(files[-1]).suffix.lower() in VIDEOS:
        VideoSource(files[-1], max_seconds=MOST_SECONDS, max_pixels=MOST_FRAME)  # which refuses what is over them
        file = folder / f"{Path(files[-1]).stem}_x{scale:g}.mp4"
        yield from upscale_video(engine, VideoRequest(wanted.checkpoint, files[-1], file, **how))
        return
    how["overlap"] = facts["reach"] or None if wanted.full else None
    if not wanted.small:
        archive = folder / "enlarged.zip" if len(files) > 1 else None
        how |= {"width": wanted.width, "archive": archive, "max_pixels": most_pixels(scale)}
        yield from upscale_files(engine, files, folder, wanted.checkpoint, **how)
        return
    small = shrunk(photo_of(files[-1]), facts["scale"])
    request = wanted.request(wanted.checkpoint, small, visitor=visitor, overlap=how["overlap"])
    file = folder / name_of(small, request, facts["scale"])
    for event in upscale(engine, replace(request, file=file)):
        done = [(small.name, file)]
        yield event if isinstance(event, Progress) else FilesResult(done, [], {small.name: event.notes})


def shown_whole(file: Path, folder: Path) -> tuple[tuple[int, int], Path | None]:
    """Size of an enlarged photo, and a picture of it that a page can show; None where it is too large to be opened."""
    with Image.open(file) as opened:
        size = opened.size
        if size[0] * size[1] > MAX_IN_MEMORY:
            return size, None
        picture = folder / f"{file.stem}_shown.png"
        opened.draft("RGB", (SHOWN, SHOWN))
        grey16 = opened.mode.startswith("I")
        image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)) if grey16 else opened
        image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image.save(picture, icc_profile=opened.info.get("icc_profile"))
    return size, picture
