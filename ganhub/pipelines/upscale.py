"""A photo several times larger, tile by tile.

The picture is cut into tiles that overlap, each is a job of the engine, and what comes back is put together from top
to bottom and written as it comes: memory is that of a few rows of tiles, whatever the picture. Where the overlap
reaches as far as the network sees, nobody can tell the result from that of the whole picture in one piece.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ganhub.engine import Job
from ganhub.errors import BadInput, EngineError
from ganhub.imaging import Photo, png_text
from ganhub.imaging.bands import Resampler, open_picture
from ganhub.pipelines._work import answers_of, load, loading, provenance
from ganhub.pipelines.requests import PRECISIONS, Progress, choice, number, whole
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

MAX_IN_MEMORY = 100_000_000
"""Pixels of a result that is kept in memory; larger ones are written into a file while they are made."""
SMALLEST_TILE = 32
TILES = {"cpu": 192, "mps": 256, "cuda": 512}
"""Side of a tile where the request names none: what keeps the device busy within about a gigabyte."""
BLEND = 16
"""Overlap of networks that see the whole picture: no overlap makes their tiles equal, so neighbours are faded over."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class UpscaleRequest:
    """One photo to be enlarged.

    Raises:
        BadInput: when made with something that no network can answer.
    """

    checkpoint: str
    photo: Photo
    scale: float | None = None
    """How many times larger; None is what the network does, less is made from that by Lanczos."""
    width: int | None = None
    """Of the result in pixels, in place of `scale`."""
    tile: int | None = None
    """Side of a tile in pixels of the photo: memory grows with its square."""
    overlap: int | None = None
    """Pixels of the photo that a tile sees beyond itself; None is what the row says, else all that the network sees."""
    blend: float = 0.0
    """0 the network itself, 1 the one that its row names as `components: {blend: ...}`."""
    precision: str | None = None
    visitor: str = ""
    file: str | Path | None = None
    """Where the result is written while it is made; None keeps it in memory."""

    task = "upscale"

    def __post_init__(self):
        if self.scale is not None and self.width is not None:
            raise BadInput("Name either the scale or the width of the result, not both.")
        if self.scale is not None:
            number("scale", self.scale, 1, 16)
        whole("width", self.width, 1, 300_000)
        whole("tile", self.tile, SMALLEST_TILE, 4096)
        whole("overlap", self.overlap, 0, 512)
        number("blend", self.blend, 0, 1)
        choice("precision", self.precision, (*PRECISIONS, None))


@dataclass(frozen=True)
class UpscaleResult:
    """The enlarged photo: in memory, or in a file."""

    request: UpscaleRequest
    size: tuple[int, int]
    """(width, height)."""
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    """Sentences for the visitor: what was done to the photo, and to the request."""
    pixels: np.ndarray | None = None
    """uint8 or uint16 [H, W, 1 to 4]; None where there is a file."""
    file: Path | None = None

    @property
    def image(self) -> Image.Image:
        """The picture with 8 bits a channel, its provenance in `info`."""
        assert self.pixels is not None, "the result was written into a file"
        pixels = self.pixels if self.pixels.dtype == np.uint8 else (self.pixels >> 8).astype(np.uint8)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.info.update(png_text(self.provenance))
        return image

    def save(self, file: str | Path) -> Path:
        """Write the picture as PNG, JPEG or WebP, by the ending of the name, with provenance and colour profile.

        Raises:
            BadInput: the format cannot hold it, or the file cannot be written.
        """
        assert self.pixels is not None, "the result was written into a file"
        with _open(file, self.size, self.pixels.shape[2], self.request.photo, self.provenance) as writer:
            writer.add(self.pixels)
        return Path(file)


@dataclass
class _Plan:
    """What a request comes to with the network that answers it."""

    row: Checkpoint
    facts: dict[str, Any]
    request: UpscaleRequest
    tile: int
    overlap: int
    fade: int
    """Half of the width over which neighbouring tiles are faded; 0 where they are equal."""
    blend: tuple[str, float] | None
    pixels: np.ndarray
    """[H, W, C] as the network takes it, padded to its multiple."""
    alpha: np.ndarray | None
    height: int
    width: int
    target: tuple[int, int]
    """(width, height) of the result."""
    notes: list[str] = field(default_factory=list)

    @property
    def scale(self) -> int:
        return self.facts["scale"]


def upscale(engine: Engine, request: UpscaleRequest) -> Generator[Any, None, None]:
    """Progress in tiles, then the result.

    Raises:
        GanHubError: the checkpoint cannot be had, the request does not fit it, or the file cannot be written.
    """
    row = engine.registry.find(request.checkpoint)
    if "upscale" not in row.task:
        raise BadInput(f"'{row.id}' does not enlarge pictures; `ganhub list --task upscale` shows what does.")
    blend = _blend(engine, row, request.blend)
    row, sha256, facts = yield from load(engine, row.id, request.precision, request.visitor, blend)
    plan = _plan(engine, row, facts, request, blend)
    about = _about(plan, sha256)
    photo = request.photo
    channels = photo.pixels.shape[2] + (photo.alpha is not None)
    if request.file is None:
        if plan.target[0] * plan.target[1] > MAX_IN_MEMORY:
            raise BadInput(
                f"The result has {plan.target[0]}x{plan.target[1]} pixels, too many to be kept in memory; name a file."
            )
        bands = []
        with closing(_rows(engine, plan)) as rows:
            for event in rows:
                if isinstance(event, Progress):
                    yield event
                else:
                    bands.append(event)
        yield UpscaleResult(request, plan.target, about, tuple(plan.notes), np.concatenate(bands))
        return
    with (
        _open(request.file, plan.target, channels, photo, about) as writer,
        closing(_rows(engine, plan)) as rows,
    ):
        for event in rows:
            if isinstance(event, Progress):
                yield event
            else:
                writer.add(event)
    yield UpscaleResult(request, plan.target, about, tuple(plan.notes), file=Path(request.file))


def bicubic(photo: Photo, size: tuple[int, int]) -> np.ndarray:
    """What every model is compared with: [h, w, C] of the photo's type at (width, height), without any network."""
    channels = [photo.pixels[..., i] for i in range(photo.pixels.shape[2])]
    channels += [photo.alpha] if photo.alpha is not None else []
    if photo.depth == 8:
        large = [np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in channels]
    else:
        float_ones = (Image.fromarray(c.astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for c in channels)
        large = [np.asarray(c).round().clip(0, 65535).astype(np.uint16) for c in float_ones]
    return np.stack(large, 2)


def departure(made: np.ndarray, plain: np.ndarray) -> Image.Image:
    """Where a model departs from bicubic, and how far: black nothing, white 64 levels and more.

    What lies there was not in the photo: the network has added it from what it knows of photos.

    Args:
        made, plain: uint8 [H, W, C].
    """
    apart = np.abs(made[..., :3].astype(np.int16) - plain[..., :3].astype(np.int16)).max(2)
    heat = (apart.clip(0, 64) * 255 // 64).astype(np.uint8)
    stops = np.array([[0, 0, 0], [90, 20, 110], [220, 60, 60], [250, 180, 40], [255, 255, 230]], np.float32)
    table = np.stack([np.interp(np.arange(256), np.linspace(0, 255, 5), stops[:, c]) for c in range(3)], 1)
    return Image.fromarray(table.round().astype(np.uint8)[heat])


def shrunk(photo: Photo, scale: int) -> Photo:
    """The photo made small by MATLAB's bicubic, as the test pictures of super-resolution are: what a network gets back
    of it can be compared with the photo itself."""
    from ganhub.metrics.pictures import imresize

    height, width = (side - side % scale for side in photo.pixels.shape[:2])
    if not height or not width:
        raise BadInput(f"The photo is too small to be made {scale} times smaller.")
    pixels = photo.pixels[:height, :width]
    if photo.depth == 16:
        pixels = (pixels >> 8).astype(np.uint8)
    return replace(photo, pixels=imresize(pixels, 1 / scale), alpha=None)


def _blend(engine: Engine, row: Checkpoint, share: float) -> tuple[str, float] | None:
    if not share:
        return None
    if "blend" not in row.components:
        raise BadInput(f"'{row.id}' names no second network to be blended with; leave the blend at 0.")
    return engine.registry.find(row.components["blend"]).id, round(share, 2)


def _plan(
    engine: Engine, row: Checkpoint, facts: dict[str, Any], request: UpscaleRequest, blend: tuple[str, float] | None
) -> _Plan:
    photo, multiple, scale = request.photo, facts["multiple"], facts["scale"]
    height, width = photo.pixels.shape[:2]
    target = (width * scale, height * scale)
    if request.scale is not None:
        target = (max(1, round(width * request.scale)), max(1, round(height * request.scale)))
    elif request.width is not None:
        target = (request.width, max(1, round(height * request.width / width)))
    if target[0] > width * scale or target[1] > height * scale:
        raise BadInput(
            f"'{row.id}' makes pictures {scale} times larger, {width * scale}x{height * scale} here, not "
            f"{target[0]}x{target[1]}; ask for less, or choose a network with a larger scale."
        )
    reach, known = facts["reach"], row.preprocess.get("overlap")
    overlap = request.overlap if request.overlap is not None else reach if known is None else int(known)
    overlap, fade = (max(overlap, BLEND), BLEND // 2) if not reach else (overlap, 0)
    notes = list(photo.notes)
    if not reach:
        notes.append("This network sees all of a picture at once: its tiles are faded into each other, not equal.")
    tile = request.tile or TILES.get(engine.device.type, 256)
    up = [n + -n % multiple for n in (overlap, tile, fade)]
    pixels = photo.pixels
    if pixels.shape[2] != facts["img_channels"]:
        pixels = pixels[..., :1].repeat(3, 2) if pixels.shape[2] == 1 else _luma(pixels)
    return _Plan(row, facts, request, up[1], up[0], up[2], blend, _padded(pixels, multiple),
                 None if photo.alpha is None else _padded(photo.alpha[..., None], multiple)[..., 0],
                 height, width, target, notes)  # fmt: skip


def _luma(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) @ LUMA).round().astype(pixels.dtype)[..., None]


def _padded(pixels: np.ndarray, multiple: int) -> np.ndarray:
    """Sides that the network takes: what is missing at the right and at the bottom is mirrored."""
    more = [(0, -side % multiple) for side in pixels.shape[:2]]
    return np.pad(pixels, [*more, (0, 0)], mode="reflect") if any(m for _, m in more) else pixels


def _about(plan: _Plan, sha256: str) -> dict[str, Any]:
    request = plan.request
    how: dict[str, Any] = {
        "scale": request.scale or plan.scale,
        "size": list(plan.target),
        "source_size": [plan.width, plan.height],
        "overlap": plan.overlap,
        "precision": plan.facts["precision"],
    }
    if plan.blend:
        how["blend"] = {plan.blend[0]: plan.blend[1]}
    return provenance("upscale", plan.row, sha256, how)


def _open(file: str | Path, size: tuple[int, int], channels: int, photo: Photo, about: dict[str, Any]) -> Any:
    return open_picture(file, *size, channels, photo.depth, provenance=about, profile=photo.profile)


def _rows(engine: Engine, plan: _Plan) -> Generator[Any, None, None]:
    """Progress, and the rows of the result from top to bottom, of the photo's type."""
    native = (plan.width * plan.scale, plan.height * plan.scale)
    resampler = Resampler(native, plan.target) if plan.target != native else None
    with closing(_bands(engine, plan)) as bands:
        for event in bands:
            if isinstance(event, Progress):
                yield event
                continue
            rows = event if resampler is None else resampler.add(event)
            if len(rows):
                yield rows


@dataclass(frozen=True)
class Span:
    """One tile along one side of the picture: what it computes, and which part of that is kept."""

    start: int
    size: int
    keep: tuple[int, int]
    """Begin and end in the picture; with fading, beyond the border to the neighbours."""


def spans(length: int, tile: int, overlap: int, fade: int = 0, multiple: int = 1, begin: int = 0) -> list[Span]:
    """Tiles of one side from `begin` on. All compute the same size, so that they can share batches.

    The tiles at the rim see exactly what the whole picture sees there: they are moved inwards, never padded.
    """
    if length <= tile + 2 * overlap and begin == 0:
        return [Span(0, length, (0, length))]
    count = math.ceil((length - begin) / tile)
    step = math.ceil((length - begin) / count)
    step += -step % multiple
    window = min(length, step + 2 * overlap)
    starts = list(range(begin, length, step))
    if fade and len(starts) > 1 and length - starts[-1] < 2 * fade:  # too narrow to be faded on both sides
        starts.pop()
    found = []
    for a, b in zip(starts, [*starts[1:], length], strict=True):
        start = min(max(0, a - overlap), length - window)
        first, last = max(0, a - fade) if a else 0, min(length, b + fade) if b < length else length
        found.append(Span(start, window, (first, last)))
    return found


def _bands(engine: Engine, plan: _Plan) -> Generator[Any, None, None]:
    """Progress, and bands of rows at the network's own scale; out of memory halves the tile and goes on."""
    began, done, row = time.monotonic(), 0, 0
    ramp = _Ramp(plan)
    while row < plan.height:
        down = spans(plan.pixels.shape[0], plan.tile, plan.overlap, plan.fade, plan.facts["multiple"], row)
        across = spans(plan.pixels.shape[1], plan.tile, plan.overlap, plan.fade, plan.facts["multiple"])
        total = done + len(down) * len(across)
        yield Progress(done, total, f"{done} of {total} tiles" if done else "The first tile")
        tiles = _tiles(engine, plan, down, across)
        try:
            with closing(tiles):
                for band in down:
                    parts: list[np.ndarray] = []
                    for tile in tiles:
                        if tile is None:
                            left = (time.monotonic() - began) / done * (total - done) if done else None
                            yield (
                                Progress(done, total, f"{done} of {total} tiles", seconds_left=left)
                                if done
                                else loading(engine, plan.row)
                            )
                            continue
                        parts.append(tile)
                        done += 1
                        speed = done / max(time.monotonic() - began, 1e-6)
                        yield Progress(
                            done,
                            total,
                            f"{done} of {total} tiles",
                            seconds_left=(total - done) / speed,
                            speed=speed,
                        )
                        if len(parts) == len(across):
                            break
                    finished = ramp.put(band, across, parts)
                    row = band.keep[1] - (plan.fade if band.keep[1] < plan.pixels.shape[0] else 0)
                    yield finished
        except EngineError as error:
            if error.code != "out_of_memory" or plan.tile <= SMALLEST_TILE:
                raise
            plan.tile = max(SMALLEST_TILE, plan.tile // 2)
            done = 0
            plan.notes.append(f"The device ran out of memory: the picture goes on in tiles of {plan.tile} pixels.")


def _tiles(engine: Engine, plan: _Plan, down: list[Span], across: list[Span]) -> Generator[Any, None, None]:
    """[h, w, C] of every tile, row by row, as `_Ramp` wants them; None as a sign of life."""
    grey = plan.request.photo.pixels.shape[2] == 1
    depth = 32 if plan.fade or grey else plan.request.photo.depth
    places = [(v, h) for v in down for h in across]
    clear = [_constant(plan, v, h) for v, h in places]

    def jobs() -> Iterator[Job]:
        for (v, h), level in zip(places, clear, strict=True):
            yield _job(plan, plan.pixels, v, h, depth)
            if plan.alpha is not None and level is None:
                channels = plan.facts["img_channels"]
                yield _job(plan, plan.alpha[..., None].repeat(channels, 2), v, h, 32)

    with closing(answers_of(engine, jobs())) as answers:
        for level in clear:
            colour = None
            while colour is None:
                colour = next(answers)
                if colour is None:
                    yield None
            if grey:
                colour = colour.clip(0, 1) @ LUMA if colour.shape[2] == 3 else colour[..., 0]
                colour = colour[..., None]
            if plan.alpha is not None:
                alpha = None
                if level is not None:
                    alpha = np.full((*colour.shape[:2], 1), level, np.float32)
                while alpha is None:
                    alpha = next(answers)
                    if alpha is None:
                        yield None
                alpha = (alpha.clip(0, 1) @ LUMA)[..., None] if alpha.shape[2] == 3 else alpha[..., :1]
                if colour.dtype != np.float32:
                    alpha = _levels(alpha, colour.dtype)
                colour = np.concatenate([colour, alpha.astype(colour.dtype)], 2)
            yield colour


def _constant(plan: _Plan, v: Span, h: Span) -> float | None:
    """The opacity of a tile that is equally opaque all over, in [0, 1]: no network is asked for it."""
    if plan.alpha is None:
        return None
    part = plan.alpha[v.start : v.start + v.size, h.start : h.start + h.size]
    most = 255.0 if part.dtype == np.uint8 else 65535.0
    return float(part.flat[0]) / most if (part == part.flat[0]).all() else None


def _job(plan: _Plan, pixels: np.ndarray, v: Span, h: Span, depth: int) -> Job:
    part = np.ascontiguousarray(pixels[v.start : v.start + v.size, h.start : h.start + h.size])
    crop = (v.keep[0] - v.start, h.keep[0] - h.start, v.keep[1] - v.keep[0], h.keep[1] - h.keep[0])
    item = {"pixels": part, "crop": crop, "depth": depth}
    request = plan.request
    return Job(plan.row.id, "upscale", item, request.visitor, request.precision, blend=plan.blend)


def _levels(values: np.ndarray, kind: Any) -> np.ndarray:
    most = np.float32(np.iinfo(kind).max)
    return np.floor(values.clip(0, 1) * most + np.float32(0.5)).astype(kind)


class _Ramp:
    """Puts the tiles of a row side by side; where they are faded, adds them up under weights that are one in sum."""

    def __init__(self, plan: _Plan):
        self.plan = plan
        self.kind = plan.request.photo.pixels.dtype
        self.carry: np.ndarray | None = None

    def put(self, band: Span, across: list[Span], parts: list[np.ndarray]) -> np.ndarray:
        """The rows that are finished: [h, w, C] of the photo's type, without what was padded."""
        plan, scale = self.plan, self.plan.scale
        width = plan.width * scale
        if not plan.fade:
            rows = np.concatenate(parts, 1)[:, :width]
            end = min(band.keep[1], plan.height) - band.keep[0]
            rows = rows[: end * scale]
            return rows if rows.dtype == self.kind else _levels(rows, self.kind)
        height, fade = band.keep[1] - band.keep[0], 2 * plan.fade * scale
        total = np.zeros((height * scale, plan.pixels.shape[1] * scale, parts[0].shape[2]), np.float32)
        for span, part in zip(across, parts, strict=True):
            weight = _weights(span, plan.pixels.shape[1], fade, scale)
            total[:, span.keep[0] * scale : span.keep[1] * scale] += part * weight[None, :, None]
        total *= _weights(band, plan.pixels.shape[0], fade, scale)[:, None, None]
        if self.carry is not None:
            total[: len(self.carry)] += self.carry
        last = band.keep[1] == plan.pixels.shape[0]
        self.carry = None if last else total[-fade:].copy()
        rows = total if last else total[:-fade]
        if last:
            rows = rows[: len(rows) - (plan.pixels.shape[0] - plan.height) * scale]
        return _levels(rows[:, :width], self.kind)


def _weights(span: Span, length: int, fade: int, scale: int) -> np.ndarray:
    weights = np.ones((span.keep[1] - span.keep[0]) * scale, np.float32)
    up = (np.arange(fade, dtype=np.float32) + 0.5) / fade
    if span.keep[0] > 0:
        weights[:fade] = up
    if span.keep[1] < length:
        weights[-fade:] = np.minimum(weights[-fade:], up[::-1])
    return weights
