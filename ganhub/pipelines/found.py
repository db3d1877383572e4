"""Directions that nobody labelled: principal components of the latents (GANSpace), and of the weights (SeFa)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

import ganhub
from ganhub import checkpoint, hub, models
from ganhub.directions import Direction
from ganhub.errors import BadInput
from ganhub.metrics import directions as stats
from ganhub.pipelines._sampling import Source, opened
from ganhub.pipelines.learn import belonging
from ganhub.pipelines.requests import Progress, choice, whole

if TYPE_CHECKING:
    from ganhub.engine import Engine

WAYS = ("sefa", "ganspace")


def find_directions(
    engine: Engine,
    generator: str,
    way: str = "sefa",
    count: int = 8,
    samples: int = 2000,
    label: int | None = None,
    visitor: str = "",
) -> Generator[Any, None, None]:
    """Progress, then a list of Directions in w, the strongest first, each still to be named.

    A step is two standard deviations of the latents along it.

    Args:
        way: `sefa` (closed form, from the weights) or `ganspace` (principal components of sampled latents).
        samples: latents that are drawn.

    Raises:
        BadInput: the generator has no intermediate latent, or not so many directions.
        GanHubError: it cannot be had.
    """
    choice("way", way, WAYS)
    whole("number of directions", count, 1, 64, required=True)
    whole("number of samples", samples, 50, 20_000, required=True)
    source = yield from opened(engine, generator, label, None, visitor)
    ws = yield from source.latents(range(samples), "w", words="Drawing latents")
    yield Progress(0, 0, "Looking for directions")
    if way == "sefa":
        vectors, sizes = stats.factorised(_styles(source), count)
    else:
        vectors, sizes = stats.principal(ws, count)
    spread = (ws @ vectors.T).std(0)
    title = {"sefa": "SeFa", "ganspace": "GANSpace"}[way]
    yield [
        Direction(
            id=f"direction-{source.row.id}-{way}-{k}",
            title=f"{title} {k}",
            space="w",
            vector=vector,
            unit=2 * float(spread[k]),
            generator=belonging(source, "w"),
            card={
                "made_by": f"ganhub {ganhub.__version__}",
                "checkpoint": source.row.id,
                "labels": f"nobody: {title}, number {k}",
                "size": round(float(sizes[k]), 4),
                "share": round(float(sizes[k] ** 2 / np.square(sizes).sum()), 4),
            },
        )
        for k, vector in enumerate(vectors)
    ]


def _styles(source: Source) -> list[np.ndarray]:
    """The matrices of a StyleGAN that make styles of w, those of the colours at the end apart.

    Raises:
        BadInput: it has none.
    """
    row = source.row
    network = models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family, **row.config)
    found = []
    for name, module in network.named_modules():
        weight = getattr(getattr(module, "affine", None), "weight", None)
        if weight is not None and not name.endswith(("torgb", "input")) and weight.shape[1] == source.facts["w_dim"]:
            found.append(weight.detach().double().numpy())
    if not found:
        raise BadInput(f"'{row.id}' makes no styles of its latent; take ganspace.")
    return found
