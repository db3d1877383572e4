"""Measures a small generator against the pictures that it was trained on, without any other network.

    python -m ganhub.training.measure G.safetensors pictures.npz

Pictures are compared as 16x16 pixels, which says something of shape and colour and nothing of texture. Precision is
the share of generated pictures that lie among real ones, recall the share of real ones that lie among generated ones
(Kynkaanniemi et al., 2019, 3 neighbours); two halves of the real set give the marks that nothing can beat by much.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub import checkpoint, models
from ganhub.training.loop import draw


def features(pictures: Tensor, side: int = 16) -> Tensor:
    """uint8 [N, H, W, C] -> float [N, side * side * C], so that a distance is a root-mean-square of levels 0 to 1."""
    x = pictures.permute(0, 3, 1, 2).float() / 255
    return F.interpolate(x, size=(side, side), mode="area").flatten(1) / (side * side * x.shape[1]) ** 0.5


def within(points: Tensor, others: Tensor, neighbours: int = 3) -> float:
    """Share of `points` that lie nearer to one of `others` than that one's own third neighbour among `others`."""
    radius = torch.cdist(others, others).kthvalue(neighbours + 1, dim=1).values
    return float((torch.cdist(points, others) <= radius).any(dim=1).float().mean())


def measure(G: torch.nn.Module, real: Tensor, known: Tensor, count: int = 2000, seed: int = 0) -> dict[str, float]:
    """Figures of a generator.

    Args:
        G: the generator.
        real: uint8 [N, H, W, C], drawn as the training draws them.
        known: uint8 [M, H, W, C], all pictures of the training; the nearest is sought among them and their mirrors.
        count: pictures drawn; at most half of `real`.
        seed: of the halving of `real`.
    """
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    count = min(count, len(real) // 2)
    first, second = (features(real[order[part]]) for part in (slice(count), slice(count, 2 * count)))
    drawn = features(draw(G, range(count)))
    everything = features(torch.cat([known, known.flip(2)]))
    nearest = torch.cdist(drawn, everything).min(dim=1).values
    own = torch.cdist(first, everything).kthvalue(2, dim=1).values
    return {
        "pictures": count,
        "precision": within(drawn, first),
        "recall": within(first, drawn),
        "precision_of_real": within(second, first),
        "recall_of_real": within(first, second),
        "nearest_real_median": float(nearest.median()),
        "nearest_real_1_percent": float(nearest.quantile(0.01)),
        "real_to_next_real_median": float(own.median()),
        "real_to_next_real_1_percent": float(own.quantile(0.01)),
        "spread_over_seeds": float(drawn.std(dim=0).norm()),
        "spread_of_real": float(first.std(dim=0).norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path, help="a file of ours")
    parser.add_argument("pictures", type=Path, help="pictures.npz of its training")
    args = parser.parse_args()
    with np.load(args.pictures) as saved:
        kinds, kind, counts = np.unique(saved["labels"], return_inverse=True, return_counts=True)
        # Drawn as the training draws them: kinds by the square root of their share.
        weights = counts[kind] ** -0.5 * (counts[kind] >= 60)
        chosen = np.random.RandomState(0).choice(len(kind), 4000, replace=False, p=weights / weights.sum())
        known = torch.from_numpy(saved["pictures"])
    figures = measure(models.read(checkpoint.read(args.generator)), known[chosen], known)
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
