"""What a painted fruit looks like, in words: its colours, how many there are, whole or cut, leaf, stem, shape.

Pictures are those that `ganhub data prepare --crop page` cuts: subjects on paper, a few dozen pixels or more. What
is not sure is left unsaid: an attribute is None, or a tuple is empty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ganhub.errors import BadInput

COLOURS = (
    "white", "cream", "yellow", "orange", "red", "dark red", "pink", "purple", "blue", "green", "brown", "black",
    "grey",
)  # fmt: skip
"""All names that `colour_names` gives."""

_SHADES = (("red", "dark red"), ("white", "cream"), ("red", "pink"), ("purple", "black"), ("purple", "blue"))
_SECOND = 0.28
"""Share of the fruit from which on a second colour is named."""

_CUT = {
    "bias": -3.14, "pale": 3.03, "near paper": 1.3, "spread": -3.3, "lighter inside": 1.64, "lighter middle": -1.19,
    "other middle": 0.55, "lines in the middle": 2.55, "dark in the middle": 1.31, "chroma": 1.28, "mirrored": 0.86,
    "turned": 2.31, "paper in the middle": 2.22,
}  # fmt: skip
"""How much each measure of `_measures` speaks for a cut fruit: a logistic regression on 425 fruits marked by eye."""

_SURE = 1.4
"""Log odds from which on a fruit is called whole or cut."""


@dataclass(frozen=True)
class Body:
    """One fruit.

    Args:
        colours: one or two names of its skin, or of its flesh where it is cut; the first covers more.
        skin: the colour at the rim of one that is cut.
        cut: cut open; None where that cannot be told.
        shape: `round`, `flat` or `long`.
        area: share of the picture.
    """

    colours: tuple[str, ...]
    skin: str | None
    cut: bool | None
    shape: str | None
    area: float


@dataclass(frozen=True)
class Seen:
    """What is in a picture.

    Args:
        bodies: its fruits from the largest on; empty where nothing was found.
        colours: of all that is painted and no leaf.
        leaf: a leaf beside the fruit.
        only_leaf: the picture shows no fruit but leaves.
        stem: a stem stands up from the largest body.
    """

    bodies: tuple[Body, ...]
    colours: tuple[str, ...]
    leaf: bool
    only_leaf: bool
    stem: bool


def look(picture: np.ndarray, green: bool | None = None) -> Seen:
    """What is in a picture uint8 [H, W, 3] of fruit on paper.

    Args:
        green: whether the fruit is always green (then nothing green is a leaf by itself) or never (then all of it is).

    Raises:
        BadInput: scikit-image is missing.
    """
    try:
        from skimage.color import rgb2lab
    except ImportError as error:
        raise BadInput("Describing pictures needs scikit-image; install it with pip install 'ganhub[data]'.") from error

    lab = rgb2lab(picture)
    subject, paper, thin = _subject(picture)
    paper = rgb2lab(paper[None, None] / 255)[0, 0]
    if not subject.any():
        return Seen((), (), False, False, False)
    names = colour_names(lab)
    leafy = subject & (names == COLOURS.index("green"))
    if green is not False:
        leafy &= (lab[..., 0] < 74) & (_chroma(lab) < 44)
    core = _opened(subject, 0.6 * _inner(subject).max())
    outside = _opened(leafy & ~ndimage.binary_dilation(core, iterations=2), 1)
    much, some = leafy.sum() / subject.sum(), outside.sum() / subject.sum()
    only_leaf = bool(green is not True and much > (0.9 if green is False else 0.8) and not _is_smooth(lab, core))
    labels, count = ndimage.label(subject)
    largest = labels == 1 + np.argmax(ndimage.sum_labels(subject, labels, np.arange(1, count + 1)))
    green_fruit = green is None and (leafy & core).sum() > 0.2 * core.sum()
    leaf = bool(
        not only_leaf
        and green is not True
        and (some > (0.12 if green_fruit else 0.04) or much > (0.2 if green is False else 0.3) and _ragged(largest))
    )
    fruit = _opened(subject & ~leafy, 2 if green is None else 1) if leaf else subject
    if fruit.sum() < 0.1 * subject.sum():
        fruit = subject
    names[leafy & (leaf or green is False)] = COLOURS.index("grey")
    hulls = _bodies(fruit)
    bodies = tuple(_body(hull, lab, names, paper) for hull in hulls)
    stem = bool(hulls) and _has_stem(hulls[0], thin)
    return Seen(bodies, _dominant(names[_skin(fruit, lab, paper)]), leaf, only_leaf, stem)


def colour_names(lab: np.ndarray) -> np.ndarray:
    """Numbers of `COLOURS` for colours in CIELAB [..., 3]."""
    light, chroma = lab[..., 0], _chroma(lab)
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    rules = (  # the first that fits
        ("black", ((light < 16) & (chroma < 14)) | ((light < 30) & (chroma < 7))),
        ("grey", (light < 76) & (chroma < 8)),
        ("white", (light > 78) & (chroma < 14)),
        ("cream", (light > 74) & (chroma < 32) & (hue > 50) & (hue < 105)),
        ("purple", (light < 28) & (chroma < 22) & ((hue > 270) | (hue < 30))),
        ("purple", (hue > 292) & (hue < 348) & (chroma > 6)),
        ("purple", (light < 62) & (chroma < 15) & ((hue >= 348) | (hue < 15))),
        ("blue", (hue > 200) & (hue <= 292) & (chroma > 5)),
        ("pink", (light > 62) & (chroma >= 12) & ((hue >= 348) | (hue < 45))),
        ("brown", (light < 62) & (chroma < 26) & ((hue < 95) | (hue >= 348))),
        ("dark red", (light < 33) & ((hue >= 348) | (hue < 45))),
        ("red", (hue >= 348) | (hue < 46)),
        ("brown", (light < 52) & (hue < 90)),
        ("brown", (light < 66) & (chroma < 40) & (hue < 84)),
        ("orange", (hue < 70) & (chroma > 38)),
        ("cream", (hue < 92) & (light > 66) & (chroma < 38)),
        ("orange", (hue < 76) & (light < 78)),
        ("green", (hue >= 102) & (hue <= 200)),
        ("green", (hue >= 97) & (light < 74)),
        ("green", (hue >= 90) & (light < 58)),
        ("brown", (light < 58)),
        ("yellow", np.ones_like(hue, bool)),
    )
    return np.select([rule for _, rule in rules], [COLOURS.index(name) for name, _ in rules])


def _chroma(lab: np.ndarray) -> np.ndarray:
    return np.hypot(lab[..., 1], lab[..., 2])


def _dominant(names: np.ndarray) -> tuple[str, ...]:
    """One or two names of many pixels. Shades of one colour count together, and the more frequent one names both;
    grey is shadow."""
    names = names[names != COLOURS.index("grey")]
    if not names.size:
        return ()
    share = dict(zip(COLOURS, np.bincount(names, minlength=len(COLOURS)) / names.size, strict=True))
    for one, other in _SHADES:
        more, less = (one, other) if share[one] >= share[other] else (other, one)
        share[more] += share[less]
        share[less] = 0
    first, second = sorted(share, key=lambda name: -share[name])[:2]
    if share[second] > _SECOND and share[first] + share[second] > 0.6:
        return first, second
    return (first,) if share[first] > 0.45 else ()


def _subject(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The painted part [H, W] without holes, the paper's colour, and all that is darker than it, thin lines too."""
    pixels = picture.astype(np.float32)
    edge = np.ones(picture.shape[:2], bool)
    edge[4:-4, 4:-4] = False
    rim = pixels[edge]
    bright = rim[rim.min(axis=1) > 150]
    paper = np.median(bright if len(bright) > 0.05 * len(rim) else rim, axis=0)
    away = paper - pixels
    # Shadows and pencil darken all channels alike; paint does not.
    paint = (np.ptp(away.clip(0), axis=2) > 24) | (away.max(axis=2) > 110)
    scale = min(picture.shape[:2]) / 64
    reach = math.sqrt((4 * scale) ** 2 + 0.5)
    grown = _within(np.pad(ndimage.binary_opening(paint), math.ceil(reach)), reach)
    whole = (_inner(grown) > reach)[math.ceil(reach) : -math.ceil(reach), math.ceil(reach) : -math.ceil(reach)]
    return _opened(ndimage.binary_fill_holes(whole), 2 * scale), paper, away.max(axis=2) > 60


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """Opening with a disc; by distances, since large discs are slow otherwise."""
    within = math.sqrt(radius * radius + 0.5)
    return _within(_inner(mask) > within, within)


def _inner(mask: np.ndarray) -> np.ndarray:
    """Distances to what is outside; beyond the picture all is."""
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def _within(mask: np.ndarray, distance: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask) <= distance if mask.any() else mask


def _bodies(mask: np.ndarray) -> list[np.ndarray]:
    """Fruits from the largest on, each as its convex hull; one where the parts look like pieces of it."""
    from skimage.morphology import convex_hull_image

    labels, count = ndimage.label(mask)
    parts = [part for n in range(1, count + 1) for part in _apart(labels == n)]
    smallest = max(0.25 * max(part.sum() for part in parts), 0.01 * mask.size)
    parts = sorted((part for part in parts if part.sum() >= smallest), key=np.sum, reverse=True)
    if len(parts) > 1 and any(_ragged(part) for part in parts) and not _is_tall(mask):
        parts = [mask] if not _ragged(mask, 0.6) else parts[:1]
    return [convex_hull_image(part) for part in parts]


def _is_tall(mask: np.ndarray) -> bool:
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    return bool(rows.stop - rows.start > 1.3 * (columns.stop - columns.start))


def _ragged(mask: np.ndarray, least: float = 0.86) -> bool:
    """A mask fills less than this of its convex hull."""
    from skimage.morphology import convex_hull_image

    return bool(mask.sum() < least * convex_hull_image(mask).sum())


def _apart(mask: np.ndarray) -> list[np.ndarray]:
    """A fruit above another, which touch: the roundest part, and the rest where it is as wide, which the neck of a pear
    is not."""
    if not _is_tall(mask):
        return [mask]
    core = _opened(mask, 0.75 * _inner(mask).max())
    labels, count = ndimage.label(core)
    if count > 1:
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        return [mask & (labels[tuple(nearest)] == n) for n in range(1, count + 1)]
    rest, _ = ndimage.label(_opened(mask & ~core, 1))
    sizes = np.bincount(rest.ravel())
    sizes[0] = 0
    other = rest == sizes.argmax()
    if sizes.max() > 0.35 * core.sum() and np.ptp(np.nonzero(other)[1]) > 0.65 * np.ptp(np.nonzero(core)[1]):
        return [core, other]
    return [mask]


def _body(hull: np.ndarray, lab: np.ndarray, names: np.ndarray, paper: np.ndarray) -> Body:
    odds = _odds(hull, lab, paper)
    cut = None if abs(odds) < _SURE else odds > 0
    depth = _depth(hull)
    inside = hull & (depth > 0.2) & (depth < 0.65) if cut else hull & (depth > 0.08)  # a stone lies in the middle
    highlight = (lab[..., 0] > 88) & (_chroma(lab) < 20) & (cut is not True)
    colours = _dominant(names[inside & ~highlight])
    skin = _skin_of_cut(names[hull & (depth < 0.12)], colours) if cut else None
    return Body(colours, skin, cut, _shape(hull), float(hull.mean()))


def _skin_of_cut(rim: np.ndarray, flesh: tuple[str, ...]) -> str | None:
    """The colour of a thin rim, which paper makes paler; brown and grey may be an outline."""
    rim = np.where(rim == COLOURS.index("pink"), COLOURS.index("red"), rim)
    known = [name not in ("white", "cream", "brown", "black", "grey", *flesh) for name in COLOURS]
    skin = rim[np.array(known)[rim]]
    found = _dominant(skin)
    return found[0] if len(found) == 1 and skin.size > 0.2 * rim.size else None


def _odds(hull: np.ndarray, lab: np.ndarray, paper: np.ndarray) -> float:
    """How sure it is that a fruit is cut open; 0 for one too small to tell."""
    if _inner(hull).max() < 7:
        return 0.0
    return _CUT["bias"] + float(np.dot(_measures(hull, lab, paper), list(_CUT.values())[1:]))


def _depth(hull: np.ndarray) -> np.ndarray:
    """0 at the rim of a mask and outside, 1 in its middle."""
    depth = _inner(hull)
    return depth / depth.max()


def _distance(lab: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.linalg.norm(lab - colour, axis=-1)


def _measures(hull: np.ndarray, lab: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """What tells a cut fruit from a whole one, in the order of `_CUT`: all around 1 in size."""
    depth = _depth(hull)
    inner, rim = hull & (depth > 0.25), hull & (depth < 0.15)
    ring, middle = hull & (depth > 0.3) & (depth < 0.6), hull & (depth > 0.7)
    light, chroma, away = lab[..., 0], _chroma(lab), _distance(lab, paper)
    of_rim, of_ring, of_middle = (np.median(lab[where], axis=0) for where in (rim, ring, middle))
    lines = np.hypot(ndimage.sobel(light, 0), ndimage.sobel(light, 1))
    rows, columns = ndimage.find_objects(hull.astype(int))[0]
    box, inside = light[rows, columns], hull[rows, columns] & (depth[rows, columns] > 0.15)
    return np.nan_to_num([
        ((light > 70) & (chroma < 40))[inner].mean(),
        (away < 20)[inner].mean(),
        light[inner].std() / 20,
        (of_ring - of_rim)[0] / 20,
        (of_middle - of_ring)[0] / 20,
        np.linalg.norm(of_middle - of_ring) / 20,
        lines[middle].mean() / 40,
        (light[middle] < of_ring[0] - 25).mean(),
        np.median(chroma[inner]) / 40,
        _alike(box, inside, np.s_[:, ::-1]),
        _alike(box, inside, np.s_[::-1, ::-1]),
        (away < 20)[middle].mean(),
    ])  # fmt: skip


def _alike(light: np.ndarray, inside: np.ndarray, turned: Any) -> float:
    """Correlation of a picture with itself, mirrored or turned."""
    both = inside & inside[turned]
    return float(np.corrcoef(light[both], light[turned][both])[0, 1]) if both.any() else 0.0


def _ratio(mask: np.ndarray) -> float:
    """Short over long, from the moments of a mask, whichever way it lies."""
    if mask.sum() < 3:
        return 1.0
    spread = np.linalg.eigvalsh(np.cov(np.nonzero(mask)))
    return float(np.sqrt(max(spread[0], 0) / spread[1]))


def _shape(hull: np.ndarray) -> str | None:
    ratio = _ratio(hull)
    if ratio > 0.9:
        return "round"
    if ratio < 0.72:
        return "long"
    rows, columns = ndimage.find_objects(hull.astype(int))[0]
    return "flat" if ratio < 0.84 and columns.stop - columns.start > rows.stop - rows.start else None


def _skin(fruit: np.ndarray, lab: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """The pixels of the fruit that are no paper between its parts."""
    return fruit & (_distance(lab, paper) > 10)


def _is_smooth(lab: np.ndarray, core: np.ndarray) -> bool:
    """Green as a fruit, not as a leaf: round, and not dark."""
    return _ratio(core) > 0.8 and bool(np.median(lab[..., 0][core & (_depth(core) > 0.2)]) > 40)


def _has_stem(body: np.ndarray, dark: np.ndarray) -> bool:
    """Something thin stands on the middle of a fruit."""
    rows, columns = ndimage.find_objects(body.astype(int))[0]
    height, width = rows.stop - rows.start, columns.stop - columns.start
    lines = dark & ~body
    lines[rows.start + height // 4 :] = False
    lines[:, : columns.start + width // 4] = lines[:, columns.stop - width // 4 :] = False
    labels, _ = ndimage.label(lines | body, structure=np.ones((3, 3)))
    stalk = (labels == labels[body][0]) & lines
    high = int(stalk.any(axis=1).sum())
    return bool(high >= max(3, 0.07 * height) and stalk.sum() <= 0.15 * width * high)
