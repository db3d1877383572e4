"""What is measured of a generator against the set that it learns from: distances, overlap, and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image

from ganhub import imaging
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.latents import z_from_seeds
from ganhub.metrics import distances
from ganhub.metrics.features import Features, load_features
from ganhub.registry import load_registry

MOST = 20_000
"""Real pictures that are compared with; of larger sets as many, drawn once."""


class Real:
    """The features of a set and of its mirror images; there once `reading` is through.

    Attributes:
        index: of the pictures in the set.
        features, mirrored: float32 [N, D].
        own: distance of each picture to the nearest other one or its mirror image, [N].

    Raises:
        BadInput: the set has too few pictures.
    """

    def __init__(self, data: PictureSet, seed: int = 0):
        if len(data) < 2 * distances.LEAST:
            raise BadInput(
                f"{data.path} has {len(data)} pictures; to measure against it takes at least {2 * distances.LEAST}."
            )
        self.index = np.random.RandomState(seed).permutation(len(data))[:MOST]

    def reading(self, data: PictureSet, network: Features) -> Iterator[tuple[int, int]]:
        """Takes the features, telling how many of how many pictures are done."""
        straight, mirrored = [], []
        for at in range(0, len(self.index), 128):
            pictures = data.pictures(self.index[at : at + 128])
            straight.append(network(pictures))
            mirrored.append(network(np.ascontiguousarray(pictures[:, :, ::-1])))
            yield min(at + 128, len(self.index)), len(self.index)
        self.features, self.mirrored = np.concatenate(straight), np.concatenate(mirrored)
        self.own = distances.next_of_kind(self.features, self.mirrored)

    def nearest(self, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each fake: distance to the nearest real picture or its mirror image, its number in the set, and whether
        it is mirrored."""
        distance, place = distances.nearest(fake, np.concatenate([self.features, self.mirrored]))
        count = len(self.features)
        return distance, self.index[place % count], place >= count

    def halves(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Two parts of the set without a common picture, of at most so many each: the marks that nothing beats."""
        count = min(count, len(self.features) // 2)
        return self.features[:count], self.features[count : 2 * count]


_known: WeakKeyDictionary[PictureSet, dict[str, Real]] = WeakKeyDictionary()


def real_of(data: PictureSet, features: Features) -> Real:
    """The features of a set, taken once as long as the set is in memory."""
    known = _known.setdefault(data, {})
    if features.name not in known:
        real = Real(data)
        for _ in real.reading(data, features):
            pass
        known[features.name] = real
    return known[features.name]


def snapshot_metrics(
    G: Any, real_set: PictureSet, features: Features, count: int = 2000, pairs: Path | None = None
) -> dict[str, Any]:
    """Figures of a generator in training, for a line of `metrics.jsonl`.

    Args:
        G: a generator (`ganhub.models.Generator`); its pictures are those of the seeds 0, 1, 2, ..., with the classes
            of pictures of the set drawn at random.
        real_set: pictures of the size that G draws.
        count: pictures drawn.
        pairs: a PNG to write: the generated pictures that are nearest to a real one, above those.

    Returns:
        features, pictures; frechet, kernel, precision, recall, density, coverage; nearest_median and nearest_1_percent
        (distance of a generated picture to the nearest real or mirrored one) and the same of real pictures among
        themselves (real_nearest_...): a generator that copies is far below them.

    Raises:
        BadInput: the set does not fit the generator, or is too small.
    """
    check_size(real_set, G.img_size, "the generator")
    real = real_of(real_set, features)
    labels = classes_of(real_set, G.c_dim, count)
    fake = np.concatenate([features(block) for block in draw(G, range(count), labels)])
    distance, index, mirrored = real.nearest(fake)
    if pairs is not None:
        first = np.argsort(distance)[:8]
        some = None if labels is None else labels[first]
        drawn = np.concatenate(list(draw(G, [int(i) for i in first], some)))
        pairs_sheet(drawn, real_set, index[first], mirrored[first], distance[first]).save(pairs)
    figures = distances.compare(real.features, fake)
    del figures["kernel_std"]
    return {"features": features.name, "pictures": count, **figures, **nearness(distance, real.own)}


def measure(
    data: PictureSet, count: int, pairs: Path | None = None, name: str = "small"
) -> Callable[[Any], dict[str, Any]]:
    """`snapshot_metrics` for a training: the features are loaded once, and lie on the device of the generator."""
    distances.check_library()
    features = load_features(name, load_registry())
    return lambda G: snapshot_metrics(G, data, features.to(next(G.parameters()).device), count, pairs)


def nearness(distance: np.ndarray, own: np.ndarray) -> dict[str, float]:
    figures = {}
    for name, values in (("nearest", distance), ("real_nearest", own)):
        figures[f"{name}_median"] = float(np.median(values))
        figures[f"{name}_1_percent"] = float(np.quantile(values, 0.01))
    return figures


def check_size(data: PictureSet, img_size: tuple[int, int], who: str) -> None:
    """Raises BadInput where a set has another size than what is drawn."""
    if tuple(data.size) != tuple(img_size):
        raise BadInput(
            f"The pictures of {data.path} are {data.size[1]}x{data.size[0]} and {who} draws "
            f"{img_size[1]}x{img_size[0]}; make a set of that size with `ganhub data prepare`."
        )


def classes_of(data: PictureSet, c_dim: int, count: int) -> np.ndarray | None:
    """Labels of `count` pictures, as often as in the set: float32 [count, c_dim]; None for a network without classes.

    Raises:
        BadInput: the set has other labels.
    """
    if not c_dim:
        return None
    if data.c_dim != c_dim:
        raise BadInput(f"The generator knows {c_dim} classes and {data.path} has {data.c_dim}; use the set it learned.")
    return data.one_hot(np.random.RandomState(0).randint(len(data), size=count))


@torch.no_grad()
def draw(G: Any, seeds: Sequence[int], labels: np.ndarray | None, batch: int = 32) -> Iterator[np.ndarray]:
    """Pictures of seeds as the hub draws them: blocks of uint8 [N, H, W, C]."""
    device = next(G.parameters()).device
    z = torch.from_numpy(z_from_seeds(seeds, G.z_dim, G.z_distribution)).float()
    for at in range(0, len(z), batch):
        c = None if labels is None else torch.from_numpy(labels[at : at + batch]).to(device)
        yield imaging.to_uint8(G(z[at : at + batch].to(device), c))


def pairs_sheet(
    drawn: np.ndarray, data: PictureSet, index: np.ndarray, mirrored: np.ndarray, distance: np.ndarray
) -> Image.Image:
    """Generated pictures above the real ones (mirrored where that is nearer) that they are nearest to."""
    real = data.pictures(index)
    real[mirrored] = real[mirrored][:, :, ::-1].copy()
    cells = [imaging.to_pil(picture) for picture in (*drawn, *real)]
    return imaging.labelled_grid(cells, columns=[f"{d:.3g}" for d in distance], rows=["generated", "real"])
