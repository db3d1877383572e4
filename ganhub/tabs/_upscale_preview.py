"""One region of a photo, enlarged by bicubic and by several networks, and measured where the truth is known."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from ganhub.errors import BadInput, GanHubError
from ganhub.imaging import Photo, VideoSource, encode_image, read_photo
from ganhub.pipelines._work import load
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale import UpscaleRequest, bicubic, departure, shrunk, upscale
from ganhub.registry import Checkpoint, Registry

MOST_PIXELS = 24_000_000
"""Pixels of a photo in the page."""
MOST_RESULT = 400_000_000
"""Pixels of a result made in the page."""
MOST_MODELS = 4
REGION = (152, 112)
"""(width, height) of the region in pixels of the photo, for a network that makes it four times larger."""
MARGIN = 16
"""Pixels around the region that the networks see as well, so that its rim looks as it will in the whole."""
VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
MAP = "Invented detail"
FIGURES = {"psnr_y": "PSNR", "ssim_y": "SSIM", "lpips": "LPIPS", "sharpness": "Sharpness"}


@dataclass(frozen=True)
class Wanted:
    """The tab's settings.

    Raises:
        BadInput: when made with more than the page gives, or with what contradicts itself.
    """

    checkpoint: str
    others: tuple[str, ...] = ()
    """Networks that are only compared."""
    scale: float | None = None
    width: int | None = None
    blend: float = 0.0
    precision: str = "exact"
    full: bool = False
    """The overlap of tiles is all that the network sees."""
    small: bool = False
    """The photo is made small first, and is the truth itself."""
    true: str | None = None
    """File of the true picture."""

    def __post_init__(self):
        if len(self.models) > MOST_MODELS:
            raise BadInput(f"The page compares at most {MOST_MODELS} networks at a time, not {len(self.models)}.")
        if self.small and self.true:
            raise BadInput("Make it small first, or give a true picture: both at once do not go together.")
        if self.small and (self.scale or self.width):
            raise BadInput("A photo that is made small first comes back in its own size; leave the size as it is.")

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.checkpoint, *self.others)))

    def request(self, model: str, photo: Photo, **more: Any) -> UpscaleRequest:
        """What is asked of the network that makes the whole picture, or of one that is compared."""
        first = model == self.checkpoint
        how = {"scale": self.scale, "width": self.width, "precision": self.precision, **more}
        return UpscaleRequest(model, photo, blend=self.blend if first else 0.0, **how)


@dataclass
class Pane:
    """The region, as one method shows it."""

    name: str
    words: str
    pixels: np.ndarray
    """uint8 [H, W, 1 to 4]."""
    provenance: dict[str, Any] | None = None
    figures: dict[str, float] | None = None

    profile: bytes | None = None

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels[..., 0] if self.pixels.shape[2] == 1 else self.pixels)

    @cached_property
    def png(self) -> bytes:
        """Its file, encoded once: a region is sent several times while it grows."""
        return encode_image(self.image, "png", self.provenance, self.profile)


@dataclass
class Preview:
    """What is there of a region so far."""

    box: tuple[float, float, float, float]
    """Left, top, width and height in shares of the photo."""
    panes: list[Pane]
    """Bicubic, then the networks in their order."""
    scale: int
    truth: Pane | None = None
    map: Pane | None = None
    """Where the first network departs from bicubic."""
    notes: list[str] = field(default_factory=list)
    """What was done to the photo, in sentences."""
    remarks: list[str] = field(default_factory=list)
    """What is missing here and why, in sentences."""
    waiting: list[str] = field(default_factory=list)
    """Networks that are still to answer."""

    @property
    def whole(self) -> bool:
        """Nothing is missing."""
        return not self.waiting and not self.remarks

    @property
    def shown(self) -> list[Pane]:
        """Everything that stands side by side."""
        return [*self.panes, *(pane for pane in (self.truth, self.map) if pane is not None)]


def photo_of(file: str | Path, max_pixels: int = MOST_PIXELS) -> Photo:
    """The photo of a file, or the first frame of a video.

    Raises:
        BadInput: it cannot be read, or is larger than the page takes.
    """
    if Path(file).suffix.lower() in VIDEOS:
        with closing(iter(VideoSource(file))) as frames:  # type: ignore[type-var]
            return Photo(next(frames), name=Path(file).stem)
    return read_photo(file, max_pixels=max_pixels)


def most_pixels(scale: float) -> int:
    """Pixels of a photo that the page makes so many times larger."""
    return min(MOST_PIXELS, int(MOST_RESULT / scale**2))


def upscaler(registry: Registry, name: str) -> Checkpoint:
    """The row of a network that enlarges pictures.

    Raises:
        GanHubError: there is no such row, or it does something else.
    """
    row = registry.find(name)
    if "upscale" not in row.task:
        raise BadInput(f"'{row.id}' does not enlarge pictures; choose one that does.")
    return row


def scale_of(row: Checkpoint) -> int:
    """How many times larger a network makes pictures, as far as its row tells without its file."""
    return int(row.config.get("scale", 4))


def preview(
    engine: Any,
    photo: Photo,
    wanted: Wanted,
    centre: tuple[float, float] = (0.5, 0.5),
    *,
    ask: Sequence[str] | None = None,
    visitor: str = "",
) -> Iterator[Any]:
    """Progress, and a `Preview` after each method.

    Args:
        centre: of the region, in shares of the photo.
        ask: the networks that may be asked, and fetched for it; None for all. Others are left out, with a note.

    Raises:
        GanHubError: the first network cannot do it. Others that cannot are left out, with a note.
    """
    rows = [upscaler(engine.registry, model) for model in wanted.models]
    asked = [row for row in rows if ask is None or row.id in ask]
    scale = scale_of(rows[0])
    if rows[0] in asked:
        *_, facts = yield from load(engine, rows[0].id, wanted.precision, visitor)
        scale = facts["scale"]
    small, truth = _truth(photo, wanted, scale)
    factor = wanted.width / small.size[0] if wanted.width else wanted.scale or scale
    if factor > scale:
        raise BadInput(f"'{rows[0].id}' makes pictures {scale} times larger at most; ask for less.")
    region = _Region(small, scale, factor, centre)
    made = Preview(region.box, [], scale, notes=list(photo.notes))
    plain = region.cut(bicubic(region.part, region.target))
    if truth is not None:
        name = "Your photo" if wanted.small else "True picture"
        made.truth = Pane(name, "the truth", region.true(truth), profile=truth.profile)
    made.panes.append(_measured(Pane("Bicubic", "no network", plain, profile=small.profile), made, engine))
    made.waiting = [row.id for row in asked]
    made.remarks += [f"{row.title} is not on this machine yet." for row in rows if row not in asked]
    yield made
    for row in asked:
        began = monotonic()
        large: Any = None
        try:
            *_, facts = yield from load(engine, row.id, wanted.precision, visitor)
            own = factor if factor < facts["scale"] else None
            request = wanted.request(row.id, region.part, scale=own, width=None, visitor=visitor)
            with closing(upscale(engine, request)) as events:
                for event in events:
                    if isinstance(event, Progress):
                        yield Progress(0, 0, f"{row.id} is at work")
                    else:
                        large = event
        except GanHubError as error:
            if row is rows[0]:
                raise
            made.waiting.remove(row.id)
            made.remarks.append(f"{row.title} is left out: {error.message}")
            yield made
            continue
        words = f"{row.title} · {row.license} · {monotonic() - began:.1f} s"
        if large.size != region.target:
            words += f" · {large.size[0] / region.part.size[0]:g}× by itself"
        pixels = region.cut(_fitted(large.pixels, region.target))
        if pixels.shape[2] != plain.shape[2]:
            pixels = np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], plain.shape[2]))
        pane = Pane(row.id, words, pixels, large.provenance, profile=small.profile)
        made.panes.append(_measured(pane, made, engine))
        if row is rows[0]:
            heat = np.asarray(departure(pixels, plain))
            made.map = Pane(MAP, f"{row.id} against bicubic", heat)
        made.waiting.remove(row.id)
        yield made


def _truth(photo: Photo, wanted: Wanted, scale: int) -> tuple[Photo, Photo | None]:
    """What the networks are given, and what it should become."""
    if wanted.small:
        return shrunk(photo, scale), photo
    if not wanted.true:
        return photo, None
    true = read_photo(wanted.true, max_pixels=MOST_PIXELS)
    size = (photo.size[0] * scale, photo.size[1] * scale)
    if not all(0 <= t - s < scale for t, s in zip(true.size, size, strict=True)):
        raise BadInput(
            f"The true picture is {true.size[0]}x{true.size[1]}; for this photo and this network it would be "
            f"{size[0]}x{size[1]}."
        )
    if wanted.scale or wanted.width:
        raise BadInput("With a true picture the result has its size; leave the size as it is.")
    return photo, true


class _Region:
    """Where the region lies, with what the networks see around it."""

    def __init__(self, photo: Photo, scale: int, factor: float, centre: tuple[float, float]):
        width, height = photo.size
        self.factor = factor
        self.size = tuple(max(1, min(n, side * 4 // scale)) for n, side in zip((width, height), REGION, strict=True))
        places = zip(centre, (width, height), self.size, strict=True)
        self.left, self.top = (round(min(max(at * n - side / 2, 0), n - side)) for at, n, side in places)
        self.box = (self.left / width, self.top / height, self.size[0] / width, self.size[1] / height)
        x, y = max(0, self.left - MARGIN), max(0, self.top - MARGIN)
        here = np.s_[y : self.top + self.size[1] + MARGIN, x : self.left + self.size[0] + MARGIN]
        alpha = None if photo.alpha is None else photo.alpha[here]
        self.part = replace(photo, pixels=photo.pixels[here], alpha=alpha, notes=())
        self.target = (max(1, round(self.part.size[0] * factor)), max(1, round(self.part.size[1] * factor)))
        self.offset = (self.left - x, self.top - y)

    def cut(self, large: np.ndarray) -> np.ndarray:
        """The region of the enlarged part, 8 bits a channel."""
        x, y = (round(n * self.factor) for n in self.offset)
        width, height = (max(1, round(n * self.factor)) for n in self.size)
        return _eight(large[y : y + height, x : x + width])

    def true(self, photo: Photo) -> np.ndarray:
        """The same region of the true picture."""
        x, y, width, height = (round(n * self.factor) for n in (self.left, self.top, *self.size))
        return _eight(photo.pixels[y : y + height, x : x + width])


def _eight(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))


def _fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The answer of a network that enlarges less than the first one, by bicubic from there."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return bicubic(Photo(pixels), size)


_lpips_lock = threading.Lock()
_lpips: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _measured(pane: Pane, made: Preview, engine: Any) -> Pane:
    """Figures of a pane, where the truth is known and there is enough of it to be measured."""
    if made.truth is None:
        return pane
    from ganhub.metrics import pictures

    true, pixels = made.truth.pixels, pane.pixels[..., : made.truth.pixels.shape[2]]
    if pixels.shape != true.shape:
        true = np.broadcast_to(true[..., :1], pixels.shape)
    try:
        pane.figures = dict(pictures.compare(pixels, true, made.scale))
        with _lpips_lock:
            if engine.registry not in _lpips:
                _lpips[engine.registry] = pictures.load_lpips(engine.registry)
            pane.figures["lpips"] = pictures.lpips(pixels, true, _lpips[engine.registry])
    except GanHubError as error:
        if error.message not in made.remarks:
            made.remarks.append(error.message)
    return pane
