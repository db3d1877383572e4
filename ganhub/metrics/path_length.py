"""Perceptual path length (Karras et al., 2019): how far a picture moves when its latent moves by a hair."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-4
"""Length of the step, as a share of the way from one latent to another."""


def steps(ws: np.ndarray) -> np.ndarray:
    """Latents [2N, ...] -> the beginnings of N ways between two of them, each with its point one step on; [2N, ...]."""
    start, end = ws[0::2], ws[1::2]
    pairs = np.stack([start, start + (end - start) * EPSILON], axis=1)
    return pairs.reshape(-1, *ws.shape[1:])


def path_length(features: np.ndarray) -> float:
    """Mean of the squared distances, over the squared step, without the lowest and the highest hundredth.

    Args:
        features: [2N, D], of the pictures of `steps`.
    """
    moved = features[0::2].astype(np.float64) - features[1::2]
    length = np.square(moved).sum(axis=1) / EPSILON**2
    low, high = np.percentile(length, 1, method="lower"), np.percentile(length, 99, method="higher")
    return float(length[(low <= length) & (length <= high)].mean())
