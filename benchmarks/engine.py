"""What the engine gives and what it costs: `python -m benchmarks.engine` prints one JSON line per measurement.

Networks are StyleGAN2 of random weights, so nothing has to be fetched. All figures are medians of interleaved
repeats: the two sides of a comparison take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ganhub import models
from ganhub.engine import Engine, Fit, Job, tune_allocator
from ganhub.engine.forward import compute
from ganhub.models import stylegan2
from ganhub.registry import Checkpoint, Registry

WIDTH = {"channel_base": 4096, "channel_max": 128}
SIZES = (64, 256)


def network(resolution: int) -> torch.nn.Module:
    """A StyleGAN2 of random weights, the same at every call."""
    torch.manual_seed(resolution)
    config = stylegan2.standard_config("G", resolution, **WIDTH)
    return models.family("stylegan2").build("G", config).float().eval().requires_grad_(False)


def engine(settings: argparse.Namespace, **more: Any) -> Engine:
    """An engine that knows the networks."""
    rows = [
        Checkpoint(
            id=f"random-{size}",
            task=("generate",),
            family="stylegan2",
            source={"path": "random"},  # type: ignore[arg-type]
            title=f"{size} px, random weights",
            license="none",
            commercial_use=True,
            resolution=size,
        )
        for size in SIZES
    ]
    return Engine(
        Registry(rows),
        settings.device,
        settings.precision,
        fetch=lambda row, progress=None: row.id,
        read=lambda row, path: network(row.resolution),
        **more,
    )


def job(size: int, seed: int, visitor: str = "") -> Job:
    """One picture of a seed."""
    item = {"z": np.random.RandomState(seed).randn(512), "psi": 0.7, "seed": seed}
    return Job(f"random-{size}", "generate", item, visitor)


def crowd(target: Engine, size: int, clients: int) -> tuple[float, float]:
    """Pictures per second, of the clock and of the processor's time, when so many clients, each a thread, ask for
    one picture at the same moment. The second figure is the steadier one where other programs are at work."""
    gate, failures = threading.Barrier(clients + 1), []

    def visit(number: int) -> None:
        gate.wait()
        try:
            target.run(job(size, number, f"visitor {number}"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return clients / (time.perf_counter() - began[0]), clients / (time.process_time() - began[1])


def interleaved(repeats: int, *measures: Callable[[], Any]) -> list[list[Any]]:
    """Each measure so many times, in turns."""
    return [list(column) for column in zip(*[[measure() for measure in measures] for _ in range(repeats)], strict=True)]


def batching(settings: argparse.Namespace) -> None:
    """Throughput of a crowd, with batches and without."""
    with engine(settings) as batched, engine(settings, max_batch=1) as single:
        for size in SIZES:
            crowd(batched, size, 8), crowd(single, size, 8)
            on, off = interleaved(
                settings.repeats,
                lambda size=size: crowd(batched, size, settings.clients),
                lambda size=size: crowd(single, size, settings.clients),
            )
            show(
                "batching",
                size=size,
                clients=settings.clients,
                batched=median([wall for wall, _ in on]),
                single=median([wall for wall, _ in off]),
                ratio=median([a / b for (a, _), (b, _) in zip(on, off, strict=True)]),
                cpu_ratio=median([a / b for (_, a), (_, b) in zip(on, off, strict=True)]),
                unit="pictures/s",
            )


def overhead(settings: argparse.Namespace) -> None:
    """What a job through the engine takes beyond a bare call of the same network in the caller's own thread."""
    with engine(settings) as target:
        facts = target.describe("random-64")
        bare_network = models.prepare("stylegan2", network(64).to(target.device), settings.precision)
        jobs = iter(range(10**9))

        def bare() -> float:
            item = job(64, next(jobs)).item
            began = time.perf_counter()
            with torch.inference_mode():
                compute(bare_network, facts, "generate", [item], target.device)
            return time.perf_counter() - began

        def through() -> float:
            request = job(64, next(jobs))
            began = time.perf_counter()
            target.run(request)
            return time.perf_counter() - began

        interleaved(10, bare, through)
        alone, inside = interleaved(settings.repeats * 40, bare, through)
    added = statistics.median(b - a for a, b in zip(alone, inside, strict=True))
    show(
        "overhead", size=64, bare=median(alone, 1e3), engine=median(inside, 1e3), added=round(added * 1e3, 3), unit="ms"
    )


def slots(settings: argparse.Namespace) -> None:
    """Steps per second of fits that share their steps, against the same fits one after the other."""
    with engine(settings, slots=settings.slots) as shared, engine(settings, slots=1) as alone:
        target = shared.run(job(64, 99))

        def fit(where: Engine) -> float:
            fits = [Fit("random-64", "fit", {"target": target}, settings.steps, 0.05, n) for n in range(settings.slots)]
            began = time.perf_counter()
            tickets = [where.optimise(f) for f in fits]
            for ticket in tickets:
                ticket.result()
            return settings.slots * settings.steps / (time.perf_counter() - began)

        interleaved(1, lambda: fit(shared), lambda: fit(alone))
        together, apart = interleaved(settings.repeats, lambda: fit(shared), lambda: fit(alone))
    ratio = statistics.median(a / b for a, b in zip(together, apart, strict=True))
    show(
        "slots",
        size=64,
        fits=settings.slots,
        together=median(together),
        one_by_one=median(apart),
        ratio=round(ratio, 3),
        unit="steps/s",
    )


def memory(settings: argparse.Namespace) -> None:
    """Resident memory before and after 100 pictures of each size, the first twenty not counted."""
    import psutil

    process = psutil.Process()
    with engine(settings) as target:
        for size in SIZES:
            list(target.stream(job(size, seed) for seed in range(20)))
            before = process.memory_info().rss
            list(target.stream(job(size, seed) for seed in range(20, 120)))
            after = process.memory_info().rss
            show("memory", size=size, before=before >> 20, after=after >> 20, grown=(after - before) >> 20, unit="MiB")


def median(values: list[float], scale: float = 1.0) -> float:
    """The median, with three digits."""
    return round(statistics.median(values) * scale, 3)


def show(name: str, **facts: Any) -> None:
    """One JSON line."""
    print(json.dumps({"benchmark": name, **facts}), flush=True)


MEASURES = {"batching": batching, "overhead": overhead, "slots": slots, "memory": memory}


def main() -> None:
    """Runs the measurements that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"some of {', '.join(MEASURES)}; all by default")
    parser.add_argument("--device")
    parser.add_argument("--precision", default="exact", choices=["exact", "fast"])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    settings = parser.parse_args()
    if unknown := set(settings.only) - set(MEASURES):
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}")
    tuned = tune_allocator()
    show(
        "machine",
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        allocator_tuned=tuned,
        precision=settings.precision,
        network={"family": "stylegan2", **WIDTH},
    )
    for name in settings.only or MEASURES:
        MEASURES[name](settings)


if __name__ == "__main__":
    main()
