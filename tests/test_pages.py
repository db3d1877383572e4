"""Painted subjects of scanned pages."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ganhub.data.pages import subjects


def page(size=(127, 192), discs=((60, 50, 24),), colour=(200, 30, 20)):
    """A scanned page: black edge, yellowish paper, a caption, and discs (x, y, radius)."""
    picture = Image.new("RGB", size, (12, 10, 8))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((5, 5, size[0] - 6, size[1] - 6), fill=(250, 244, 226))
    draw.text((20, size[1] - 25), "Malus domestica", fill=(90, 80, 70))
    for x, y, radius in discs:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return picture


def test_subjects_are_cut_off_their_page():
    cuts = list(subjects(np.asarray(page(discs=((60, 50, 24), (62, 120, 21))))))
    assert len(cuts) == 2
    for cut, radius in zip(cuts, (24, 21), strict=True):
        assert cut.shape[0] == cut.shape[1] == pytest.approx(2 * radius * 1.16, abs=2)
        middle = cut.shape[0] // 2
        assert abs(cut[middle, middle].astype(int) - (200, 30, 20)).max() <= 2
        rim = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]]).astype(int)
        assert abs(rim - (250, 244, 226)).max() <= 12  # paper all round: no edge, no caption, no neighbour


def test_pages_without_a_subject_give_nothing():
    assert not list(subjects(np.asarray(page(discs=()))))
    assert not list(subjects(np.asarray(page(discs=((60, 60, 8),)))))  # too small
    assert not list(subjects(np.zeros((100, 80, 3), np.uint8)))  # no paper
