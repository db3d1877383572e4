"""Distances between two sets of features [N, D] and [M, D], and how much they overlap.

The Fréchet and the kernel distance are torchmetrics'; neighbours are searched by scikit-learn, in blocks, so that
10,000 features of 2048 numbers on either side fit into 2 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganhub.errors import BadInput

BLOCK = 64
"""MB of distances in memory at a time."""
LEAST = 16
"""Fewer features than this on one side say nothing."""
Features = np.ndarray | Tensor


def frechet_distance(a: Features, b: Features) -> float:
    """Fréchet distance of the normal distributions that fit both sets (Heusel et al., 2017): FID on Inception features.

    Covariances divide by N - 1, as torch-fidelity's do. Fewer features than dimensions are allowed.

    Raises:
        BadInput: the features do not fit each other, or torchmetrics is not installed.
    """
    a, b = _both(a, b)
    # In a training of several processes only the first one measures; it must not wait for the others to join in.
    fid = _torchmetrics("fid").FrechetInceptionDistance(_Given(a.shape[1]), sync_on_compute=False)
    fid.set_dtype(torch.float64)
    for features, real in ((a, True), (b, False)):
        for block in torch.from_numpy(features).split(1024):
            fid.update(block, real=real)
    return float(fid.compute())


def kernel_distance(
    a: Features, b: Features, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Binkowski et al., 2018): KID in Inception's.

    Args:
        subsets, size: how often, and how many features of each side, are drawn; all of the smaller side at most.
        seed: of the draws, which are torch-fidelity's.

    Returns:
        Mean and standard deviation over the subsets. The mean is unbiased, so it may be a little below zero.

    Raises:
        BadInput: as `frechet_distance`.
    """
    a, b = _both(a, b)
    size = min(size, len(a), len(b))
    poly_mmd = _torchmetrics("kid").poly_mmd
    draws = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        some = [torch.from_numpy(x[draws.choice(len(x), size, replace=False)]) for x in (a, b)]
        found.append(float(poly_mmd(*some)))
    return float(np.mean(found)), float(np.std(found))


def precision_recall(real: Features, fake: Features, k: int = 3) -> tuple[float, float]:
    """Share of fakes that lie among the real ones, and of real ones among the fakes (Kynkäänniemi et al., 2019).

    A point lies among others where it is as near to one of them as that one's own k-th neighbour.

    Raises:
        BadInput: the features do not fit each other.
    """
    real, fake = _both(real, fake)

    def share(points: np.ndarray, others: np.ndarray) -> float:
        reach = _reach(others, k)
        return float(np.mean(_blocks(points, others, lambda distances, _: np.any(distances <= reach, axis=1))))

    return share(fake, real), share(real, fake)


def density_coverage(real: Features, fake: Features, k: int = 5) -> tuple[float, float]:
    """How many real neighbourhoods a fake lies in, over k; and the share of them that hold a fake (Naeem et al., 2020).

    Two sets of one distribution have a density of 1 and a coverage of 1 - 2^-k.

    Raises:
        BadInput: the features do not fit each other.
    """
    real, fake = _both(real, fake)
    reach = _reach(real, k)
    held = _blocks(fake, real, lambda distances, _: (distances < reach).sum(axis=1))
    found, _ = nearest(real, fake)
    return float(held.mean() / k), float((found < reach).mean())


def nearest(points: Features, others: Features) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each point to the nearest of the others, and its index.

    Raises:
        BadInput: the features do not fit each other.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    points, others = _both(points, others, least=1)
    index, distance = pairwise_distances_argmin_min(points, others)
    return distance, index


def next_of_kind(real: Features, mirrored: Features) -> np.ndarray:
    """Distance of each real one to the nearest other one or its mirror image: what a generator should not go below."""
    real, mirrored = _both(real, mirrored)

    def least(distances: np.ndarray, start: int) -> np.ndarray:
        own = np.arange(len(distances))
        distances[own, start + own] = np.inf
        return distances.min(axis=1)

    return np.minimum(_blocks(real, real, least), _blocks(real, mirrored, least))


def compare(real: Features, fake: Features) -> dict[str, float]:
    """All of the above in one: frechet, kernel, kernel_std, precision, recall, density, coverage."""
    kernel, deviation = kernel_distance(real, fake)
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    return {
        "frechet": frechet_distance(real, fake),
        "kernel": kernel,
        "kernel_std": deviation,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def check_library() -> None:
    """Raises BadInput where torchmetrics is not installed: better before the pictures are drawn than after."""
    _torchmetrics("fid")


class _Given(torch.nn.Module):
    """What torchmetrics takes for a feature network, where the features are there already."""

    def __init__(self, dim: int):
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features


def _torchmetrics(part: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"torchmetrics.image.{part}")
    except ImportError as error:
        raise BadInput(
            f"Measuring needs the package torchmetrics, which cannot be imported ({error}); "
            "install it with `pip install 'ganhub[metrics]'`.",
            "not_installed",
        ) from error


def _both(a: Features, b: Features, least: int = LEAST) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for x in (a, b):
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        if array.ndim != 2 or len(array) < least:
            raise BadInput(f"There are features of shape {list(array.shape)}; this takes at least {least} rows.")
        if not np.isfinite(array).all():
            raise BadInput("Some features are not finite; the pictures or the feature network are broken.")
        # In single precision a point on the rim of a neighbourhood falls inside or outside by chance.
        arrays.append(np.ascontiguousarray(array, dtype=np.float64))
    if arrays[0].shape[1] != arrays[1].shape[1]:
        sizes = " and ".join(str(array.shape[1]) for array in arrays)
        raise BadInput(f"Features of {sizes} numbers cannot be compared; both sides need the same feature network.")
    return arrays[0], arrays[1]


def _blocks(points: np.ndarray, others: np.ndarray, reduce: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    from sklearn.metrics import pairwise_distances_chunked

    return np.concatenate(
        list(pairwise_distances_chunked(points, others, reduce_func=reduce, working_memory=BLOCK, n_jobs=1))
    )


def _reach(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of each point to its k-th neighbour; the point itself is at place 0."""
    return _blocks(points, points, lambda distances, _: np.partition(distances, k, axis=1)[:, k])
