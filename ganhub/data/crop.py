"""Which square of a picture goes into a set, the table of these squares, and the cutting itself."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ganhub.data import pages
from ganhub.data.pages import Page
from ganhub.errors import BadInput
from ganhub.imaging.align import EYES_AT

HOW = ("centre", "face", "saliency", "page")
MARGIN = 2.6
"""Side of a face's square over the distance of its eyes: from the brow to below the chin, little of the backdrop."""
OVER = 0.1
"""Share of a face's square that may lie outside of the picture, where its edge is drawn out."""


@dataclass(frozen=True)
class Crop:
    """A square of a picture, in its pixels once it is upright; a row of the table."""

    file: str
    x: float = 0.0
    """Left and upper edge before the square is turned about its own centre."""
    y: float = 0.0
    size: float = 0.0
    angle: float = 0.0
    """Degrees, clockwise."""
    how: str = ""
    """Who chose it. A square of a `page` is cut without what lies around its subject."""
    keep: bool = True
    note: str = ""
    """Why it is not kept, or what a person should know."""

    def dropped(self, note: str) -> Crop:
        return replace(self, keep=False, note=note)


def propose(picture: np.ndarray, file: str, how: str, margin: float = MARGIN, smallest: int = 1) -> list[Crop]:
    """The squares of a picture; rows that are not kept say why.

    Args:
        picture: uint8 [H, W, 3].
        how: `centre`, `face` (eyes level, at 42 % of the height), `saliency` (the full shorter side, where most is to
            be seen) or `page` (every painted subject of a scanned page).
        smallest: side below which a square is not kept; of a page, not looked for.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    if how == "centre":
        return [_crop(file, (width - side) / 2, (height - side) / 2, side, 0, how)]
    if how == "saliency":
        return [_crop(file, *_salient(picture), side, 0, how)]
    if how == "page":
        found = [_crop(file, *box, 0, how) for box in Page(picture).boxes(round(smallest / pages.MARGIN))]
        return found or [Crop(file, how=how).dropped(f"no painted subject of {smallest} pixels found on the page")]
    crop = _face(picture, file, margin)
    if crop.keep and crop.size < smallest:
        return [crop.dropped(f"the face's square is too small: {crop.size:g} pixels a side")]
    return [crop]


def _crop(file: str, x: float, y: float, size: float, angle: float, how: str) -> Crop:
    x, y, size, angle = (round(float(v), 2) for v in (x, y, size, angle))  # as the table holds them
    return Crop(file, x, y, size, angle, how)


def _face(picture: np.ndarray, file: str, margin: float) -> Crop:
    from ganhub.data.faces import find_faces

    faces = find_faces(picture)
    if not faces:
        return Crop(file, how="face").dropped("no face found")
    crop = by_eyes(file, *faces[0].eyes, margin)
    over = _outside(crop, picture.shape[1], picture.shape[0])
    if over > OVER:
        return crop.dropped(f"{over:.0%} of the face's square lie outside of the picture")
    return replace(crop, note=f"the largest of {len(faces)} faces" if len(faces) > 1 else "")


def by_eyes(file: str, left: tuple[float, float], right: tuple[float, float], margin: float = MARGIN) -> Crop:
    """The square that brings two eyes (x, y), left and right as seen in the picture, to their places."""
    across, down = right[0] - left[0], right[1] - left[1]
    side = margin * math.hypot(across, down)
    turn = math.atan2(down, across)
    below = side * (0.5 - EYES_AT)  # from between the eyes to the middle of the square
    x = (left[0] + right[0]) / 2 - below * math.sin(turn)
    y = (left[1] + right[1]) / 2 + below * math.cos(turn)
    return _crop(file, x - side / 2, y - side / 2, side, math.degrees(turn), "face")


def _outside(crop: Crop, width: int, height: int) -> float:
    """Share of a square that no picture of this size covers, sampled on 50 x 50 places."""
    x, y = _places(crop, 50)
    return 1 - float(((x >= 0) & (x < width) & (y >= 0) & (y < height)).mean())


def _places(crop: Crop, n: int) -> tuple[np.ndarray, np.ndarray]:
    turn = math.radians(crop.angle)
    steps = ((np.arange(n) + 0.5) / n - 0.5) * crop.size
    u, v = np.meshgrid(steps, steps)
    middle_x, middle_y = crop.x + crop.size / 2, crop.y + crop.size / 2
    return middle_x + u * math.cos(turn) - v * math.sin(turn), middle_y + u * math.sin(turn) + v * math.cos(turn)


def _salient(picture: np.ndarray) -> tuple[float, float]:
    """Upper left corner of the square that holds most of the spectral residual (Hou and Zhang 2007)."""
    height, width = picture.shape[:2]
    scale = max(height, width) / 64
    small = (max(1, round(width / scale)), max(1, round(height / scale)))
    grey = np.asarray(Image.fromarray(picture).convert("L").resize(small, Image.Resampling.BOX), np.float64)
    spectrum = np.fft.fft2(grey)
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = amplitude - ndimage.uniform_filter(amplitude, 3, mode="wrap")
    seen = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    along = ndimage.gaussian_filter(seen, 2.5).sum(axis=0 if width >= height else 1)
    side, room = min(small), len(along) - min(small)
    sums = np.array([along[k : k + side].sum() for k in range(room + 1)])
    best = np.flatnonzero(sums >= sums.max() * (1 - 1e-6))  # where all is the same: nearest to the middle
    place = best[np.abs(best - room / 2).argmin()] / max(1, room) * abs(width - height)
    return (place, 0.0) if width >= height else (0.0, place)


def cut(image: Image.Image, crops: Iterable[Crop], size: int) -> Iterator[np.ndarray]:
    """The squares of a picture: uint8 [size, size, 3] each.

    Lanczos on the values as they are stored, not on linear light, as NVIDIA's tools and the papers' data have it.
    """
    page: Page | None = None
    for crop in crops:
        if _outside(crop, *image.size) > 0.5:
            raise BadInput(
                f"The square of {crop.file} at {crop.x:g}, {crop.y:g} of {crop.size:g} pixels lies outside of the "
                f"picture, which is {image.width}x{image.height}; correct it in the table."
            )
        if crop.how == "page":
            page = page or Page(np.asarray(image))
            square = Image.fromarray(page.cut(*(round(v) for v in (crop.x, crop.y, crop.size))))
            box = None
        else:
            square, box = _square(image, crop)
        yield np.asarray(square.resize((size, size), Image.Resampling.LANCZOS, box))


def _square(image: Image.Image, crop: Crop) -> tuple[Image.Image, tuple[float, float, float, float] | None]:
    """A picture and the box in it that the square fills, its edge drawn out where the square reaches over it."""
    reach = crop.size * (abs(math.cos(math.radians(crop.angle))) + abs(math.sin(math.radians(crop.angle)))) / 2
    rim = 3 if crop.angle else 0  # bicubic looks two pixels around
    middle_x, middle_y = crop.x + crop.size / 2, crop.y + crop.size / 2
    left, top = math.floor(middle_x - reach) - rim, math.floor(middle_y - reach) - rim
    right, bottom = math.ceil(middle_x + reach) + rim, math.ceil(middle_y + reach) + rim
    inside = (max(0, left), max(0, top), min(image.width, right), min(image.height, bottom))
    part = image.crop(inside)
    over = ((inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]), (0, 0))
    if any(v for pair in over for v in pair):
        part = Image.fromarray(np.pad(np.asarray(part), over, mode="edge"))
    x, y = crop.x - left, crop.y - top
    if not crop.angle:
        return part, (x, y, x + crop.size, y + crop.size)
    # Turned at its own size first, so that reducing filters as well as it does without turning.
    n = max(1, round(crop.size))
    step, turn = crop.size / n, math.radians(crop.angle)
    a, b = step * math.cos(turn), step * math.sin(turn)
    corner_x = middle_x - left - (a - b) * n / 2
    corner_y = middle_y - top - (b + a) * n / 2
    matrix = (a, -b, corner_x, b, a, corner_y)
    return part.transform((n, n), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC), None


COLUMNS = [field.name for field in fields(Crop)]
WORDS = {"yes": True, "y": True, "1": True, "true": True, "no": False, "n": False, "0": False, "false": False}


def table_of(crops: Iterable[Crop]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for crop in crops:
        row = ["yes" if v is True else "no" if v is False else v for v in astuple(crop)]
        writer.writerow([f"{v:g}" if isinstance(v, float) and v == int(v) else v for v in row])
    return out.getvalue()


def read_table(file: Path) -> list[Crop]:
    """A table of crops, as it was written or corrected by hand; `angle`, `how`, `keep` and `note` may be missing.

    Raises:
        BadInput: names the file and the line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS[:4] if name not in (reader.fieldnames or [])]
            if missing:
                raise BadInput(f"{file} has no column {', '.join(missing)}; its columns are {', '.join(COLUMNS)}.")
            return [_row(row, f"{file}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} cannot be read as a table of crops: {error}.") from error


def _row(row: dict[str, str], where: str) -> Crop:
    text = {name: (row.get(name) or "").strip() for name in COLUMNS}
    keep = WORDS.get(text["keep"].lower() or "yes")
    if keep is None:
        raise BadInput(f"{where}: `keep` is yes or no, not '{text['keep'][:40]}'.")
    try:
        x, y, size, angle = (float(text[name] or 0) for name in ("x", "y", "size", "angle"))
    except ValueError:
        raise BadInput(f"{where}: x, y, size and angle are numbers of pixels and degrees.") from None
    if not all(math.isfinite(v) and abs(v) < 1e5 for v in (x, y, size, angle)) or (keep and size < 1):
        raise BadInput(f"{where}: a square that is kept needs a size of at least one pixel, and x and y within reach.")
    return Crop(text["file"], x, y, size, angle, text["how"], keep, text["note"])
