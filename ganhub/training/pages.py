"""Cuts the painted subjects off scanned pages: no frame, no captions, one fruit to a picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

MARGIN = 1.16  # side of the cut over the longer side of the subject
SMALLEST = 36  # pixels; smaller subjects would be enlarged more than twice


def subjects(page: np.ndarray, smallest: int = SMALLEST) -> Iterator[np.ndarray]:
    """Square pictures of what is painted on a page, the rest of the page replaced by its paper.

    Args:
        page: uint8 [H, W, 3].
        smallest: subjects whose longer side is shorter than this many pixels are left out.

    Yields:
        uint8 [S, S, 3], S different for each.
    """
    colour = page.astype(np.float32)
    bright = colour.min(axis=2) > 150
    if bright.mean() < 0.2:
        return  # no paper to see
    paper = np.median(colour[bright], axis=0)
    away = paper - colour
    # Shadows and pencil darken all channels alike; paint does not.
    chroma = np.ptp(away, axis=2)
    paint = (chroma > 22) | (away.max(axis=2) > 110)
    frame = _touching_edge(away.max(axis=2) > 60)
    paint = ndimage.binary_opening(paint & ~frame, iterations=2)  # captions and frame lines are thin
    paint = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(paint, 4), iterations=3))[4:-4, 4:-4]
    labels, count = ndimage.label(paint, structure=np.ones((3, 3)))
    ground = np.where(ndimage.binary_dilation(frame, iterations=3)[..., None], paper, colour)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        height, width = (s.stop - s.start for s in box)
        own = labels == number
        if max(height, width) < smallest or min(height, width) < 0.5 * max(height, width):
            continue  # specks, twigs, two fruits that touch
        if own[box].mean() < 0.35:
            continue
        others = ndimage.binary_dilation(paint & ~own, iterations=4) & ~ndimage.binary_dilation(own, iterations=2)
        softly = ndimage.gaussian_filter(others.astype(np.float32), 1.5)[..., None]
        picture = ground * (1 - softly) + paper * softly
        side = round(max(height, width) * MARGIN)
        top = (box[0].start + box[0].stop - side) // 2
        left = (box[1].start + box[1].stop - side) // 2
        cut = _window(picture, top, left, side, paper)
        rim = np.ones((side, side), bool)
        rim[side // 25 + 1 : -(side // 25 + 1), side // 25 + 1 : -(side // 25 + 1)] = False
        if (np.ptp(paper - cut, axis=2)[rim] > 30).mean() > 0.08:
            continue  # the mask missed a part of it
        yield cut.round().clip(0, 255).astype(np.uint8)


def _touching_edge(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, edge[edge > 0])


def _window(picture: np.ndarray, top: int, left: int, side: int, paper: np.ndarray) -> np.ndarray:
    window = np.broadcast_to(paper, (side, side, 3)).copy()
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + side, picture.shape[0]), min(left + side, picture.shape[1])
    window[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    return window
