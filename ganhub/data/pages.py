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
    sheet = Page(page)
    for box in sheet.boxes(smallest):
        yield sheet.cut(*box)


class Page:
    """What is paper, frame and paint on a page.

    Args:
        page: uint8 [H, W, 3].
    """

    def __init__(self, page: np.ndarray):
        colour = page.astype(np.float32)
        bright = colour.min(axis=2) > 150
        self.has_paper = bool(bright.mean() >= 0.2)
        self.paper = np.median(colour[bright], axis=0) if self.has_paper else np.full(3, 255, np.float32)
        away = self.paper - colour
        # Shadows and pencil darken all channels alike; paint does not.
        chroma = np.ptp(away, axis=2)
        paint = (chroma > 22) | (away.max(axis=2) > 110)
        frame = _touching_edge(away.max(axis=2) > 60)
        paint = ndimage.binary_opening(paint & ~frame, iterations=2)  # captions and frame lines are thin
        self.paint = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(paint, 4), iterations=3))[4:-4, 4:-4]
        self.labels, _ = ndimage.label(self.paint, structure=np.ones((3, 3)))
        self.ground = np.where(ndimage.binary_dilation(frame, iterations=3)[..., None], self.paper, colour)

    def boxes(self, smallest: int = SMALLEST) -> Iterator[tuple[int, int, int]]:
        """Squares around the subjects: (x, y, side), which may reach over the edge of the page."""
        if not self.has_paper:
            return
        for number, box in enumerate(ndimage.find_objects(self.labels), 1):
            height, width = (s.stop - s.start for s in box)
            if max(height, width) < smallest or min(height, width) < 0.5 * max(height, width):
                continue  # specks, twigs, two fruits that touch
            if (self.labels[box] == number).mean() < 0.35:
                continue
            side = round(max(height, width) * MARGIN)
            y = (box[0].start + box[0].stop - side) // 2
            x = (box[1].start + box[1].stop - side) // 2
            rim = np.ones((side, side), bool)
            rim[side // 25 + 1 : -(side // 25 + 1), side // 25 + 1 : -(side // 25 + 1)] = False
            cut = _window(self._alone(number), y, x, side, self.paper)
            if (np.ptp(self.paper - cut, axis=2)[rim] > 30).mean() > 0.08:
                continue  # the mask missed a part of it
            yield x, y, side

    def cut(self, x: int, y: int, side: int) -> np.ndarray:
        """The square alone on its paper: the subject that fills most of it, without its neighbours.

        Returns:
            uint8 [side, side, 3].
        """
        inside = _window(self.labels[..., None], y, x, side, np.zeros(1, self.labels.dtype))
        counts = np.bincount(inside.ravel())
        counts[0] = 0
        cut = _window(self._alone(int(counts.argmax())), y, x, side, self.paper)
        return cut.round().clip(0, 255).astype(np.uint8)

    def _alone(self, number: int) -> np.ndarray:
        own = self.labels == number
        if not number or not own.any():
            return self.ground
        others = ndimage.binary_dilation(self.paint & ~own, iterations=4) & ~ndimage.binary_dilation(own, iterations=2)
        softly = ndimage.gaussian_filter(others.astype(np.float32), 1.5)[..., None]
        return self.ground * (1 - softly) + self.paper * softly


def _touching_edge(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, edge[edge > 0])


def _window(picture: np.ndarray, top: int, left: int, side: int, around: np.ndarray) -> np.ndarray:
    window = np.broadcast_to(around, (side, side, picture.shape[2])).copy()
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + side, picture.shape[0]), min(left + side, picture.shape[1])
    if y1 > y0 and x1 > x0:
        window[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    return window
