"""How long a direction takes: all of it, the learning alone, and a move of the slider. JSON lines.

    python -m benchmarks.directions [--generator stylegan2-portraits] [--attribute attributes-portraits:glasses]

`whole`: 2,000 pictures drawn and scored by a network, an SVM trained and proved, its effect measured, a strip drawn.
`learning`: `metrics.directions.learn` on 2,000 random latents of 512 numbers whose labels a known direction decides,
with noise; the cosine with it is told. `slider`: a picture at another strength, with its file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from ganhub.engine import Engine
from ganhub.metrics import directions as stats
from ganhub.pipelines.labels import Attribute
from ganhub.pipelines.learn import LearnRequest, learn
from ganhub.pipelines.slide import SlideRequest, slide
from ganhub.registry import load_registry


def timed(name: str, **facts: Any) -> None:
    print(json.dumps({"measure": name, **facts}), flush=True)


def last_of(events: Any) -> Any:
    *_, result = events
    return result


def learning(repeats: int) -> None:
    rng = np.random.RandomState(0)
    latents, true = rng.randn(2000, 512), rng.randn(512)
    true /= np.linalg.norm(true)
    labels = latents @ true + 0.5 * rng.randn(2000) > 0
    wall, used, found = [], [], None
    for _ in range(repeats):
        began, busy = time.perf_counter(), time.process_time()
        found = stats.learn(latents, labels)
        wall.append(time.perf_counter() - began)
        used.append(time.process_time() - busy)
    assert found is not None, "it was repeated at least once"
    cosine = float(found.vector @ true / np.linalg.norm(found.vector))
    timed("learning", seconds=round(statistics.median(wall), 2), cpu_seconds=round(statistics.median(used), 2),
          cosine=round(cosine, 3), accuracy=round(found.accuracy, 3))  # fmt: skip


def whole(engine: Engine, generator: str, attribute: str) -> Any:
    network, _, name = attribute.partition(":")
    for row in (generator, network, "features-small"):
        engine.describe(row)
    began, busy = time.perf_counter(), time.process_time()
    result = last_of(learn(engine, LearnRequest(generator, name, Attribute(network, name))))
    card = result.direction.card
    timed("whole", seconds=round(time.perf_counter() - began, 1), cpu_seconds=round(time.process_time() - busy, 1),
          generator=generator, accuracy=card["accuracy"], auc=card["auc"])  # fmt: skip
    return result.direction


def slider(engine: Engine, generator: str, direction: Any, moves: int) -> None:
    took = []
    with tempfile.TemporaryDirectory() as folder:
        for strength in np.linspace(-2, 2, moves):
            began = time.perf_counter()
            asked = SlideRequest(generator, direction, seeds=(7,), strengths=(float(strength),))
            last_of(slide(engine, asked)).pictures[0].save(folder)
            took.append(time.perf_counter() - began)
    ranked = sorted(took)
    timed("slider", median_ms=round(1000 * statistics.median(took), 1), most_ms=round(1000 * ranked[-1], 1),
          moves=moves)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="stylegan2-portraits")
    parser.add_argument("--attribute", default="attributes-portraits:glasses", help="NETWORK:NAME")
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    learning(args.repeats)
    engine = Engine(load_registry())
    try:
        direction = whole(engine, args.generator, args.attribute)
        slider(engine, args.generator, direction, args.moves)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
