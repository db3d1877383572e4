"""Pictures that are there twice: the same file, or the same picture saved, resized or brightened again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ganhub.errors import BadInput

SIDE = 16
NEAR = 20
"""Differing bits of 256 up to which two pictures count as one. Saving, halving and brightening a picture again changes
20 bits at most. Of 2,149 portraits and 3,000 scanned pages, which are laid out alike, no two different ones come that
close, while the usual 64 bits take hundreds of them for one another."""
BLOCK = 1024


def fingerprint(image: Image.Image) -> bytes:
    """Perceptual hash of what a picture shows: 256 bits of its low frequencies (imagehash's pHash).

    Raises:
        BadInput: imagehash is not installed.
    """
    try:
        import imagehash
    except ImportError as error:
        raise BadInput('Preparing a set needs imagehash; install it with pip install "ganhub[data]".') from error
    return np.packbits(imagehash.phash(image, hash_size=SIDE).hash).tobytes()


def repeats(fingerprints: Sequence[bytes], near: int = NEAR) -> dict[int, tuple[int, int]]:
    """Which pictures show what an earlier one shows, the preferred first.

    Returns:
        {index: (index of the one to keep, differing bits)}. At most one entry a picture, and none of those to keep.
    """
    if not fingerprints:
        return {}
    bits = np.unpackbits(np.frombuffer(b"".join(fingerprints), np.uint8).reshape(len(fingerprints), -1), axis=1)
    signs = bits.astype(np.int8) * 2 - 1  # then a product of two rows tells how many bits differ
    found: dict[int, tuple[int, int]] = {}
    kept = np.empty(0, np.int64)
    for start in range(0, len(signs), BLOCK):
        own = np.arange(start, min(start + BLOCK, len(signs)))
        nearest, partner = np.full(len(own), near + 1), np.zeros(len(own), np.int64)
        for other in range(0, len(kept), BLOCK):
            chosen = kept[other : other + BLOCK]
            distance = _differing(signs[own], signs[chosen])
            best = distance.argmin(axis=1)
            closer = distance[np.arange(len(own)), best] < nearest
            nearest[closer], partner[closer] = distance[closer, best[closer]], chosen[best[closer]]
        among = _differing(signs[own], signs[own])
        fresh: list[int] = []
        for k, i in enumerate(own):
            if fresh and (least := among[k, fresh].min()) < nearest[k]:
                nearest[k], partner[k] = least, own[fresh[int(among[k, fresh].argmin())]]
            if nearest[k] <= near:
                found[int(i)] = (int(partner[k]), int(nearest[k]))
            else:
                fresh.append(k)
        kept = np.concatenate([kept, own[fresh]])
    return found


def _differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a.shape[1] - a.astype(np.float32) @ b.astype(np.float32).T) / 2).astype(np.int64)
