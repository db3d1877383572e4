"""CLIP-guided jobs together, one after another, and by a plain loop as public scripts have it. One JSON line.

    python -m benchmarks.guided [--jobs 8] [--steps 20] [--cutouts 0] [--generator stylegan2-fruit] [--clip clip-fruit]
    python -m benchmarks.guided --size 256      # a generator of random weights, larger than what the CLIP takes in

All three optimise the same latents towards the same sentences with Adam. `together` is this project's engine with a
slot for every job, `alone` the same engine with one slot, `plain` a loop that a script would have: the networks as
they are read, float32, in the usual layout, at full size, one job at a time. They take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ganhub import checkpoint, hub, models
from ganhub.checkpoint import Network
from ganhub.engine import Engine, Fit, Job
from ganhub.engine.device import choose
from ganhub.models import stylegan2
from ganhub.registry import Checkpoint, Registry, load_registry

SENTENCES = ("a red apple", "a green pear", "a purple plum", "an orange", "a yellow lemon", "a peach, cut open",
             "black grapes", "red strawberries")  # fmt: skip


def random_generator(size: int, folder: str) -> Checkpoint:
    """The row of a StyleGAN2 with a quarter of the published channels."""
    torch.manual_seed(0)
    G = stylegan2.build("G", stylegan2.standard_config("G", size, channel_base=8192, channel_max=128))
    file = Path(folder) / "random.safetensors"
    checkpoint.save(file, {"G": Network("Generator", G.config, G.state_dict())}, {"family": "stylegan2"})
    about = {"license": "none", "commercial_use": True, "credit": "none", "title": "Random weights"}
    return Checkpoint(id="random", task=["generate", "clip"], family="stylegan2", source={"path": str(file)}, **about)


def engine_of(slots: int, args: argparse.Namespace) -> Engine:
    engine = Engine(args.registry, device=args.device, precision=args.precision, slots=slots)
    engine.describe(args.generator)
    engine.describe(args.clip)
    return engine


def fits(engine: Engine, args: argparse.Namespace) -> list[Fit]:
    found = []
    for n in range(args.jobs):
        text = engine.run(Job(args.clip, "read", {"text": SENTENCES[n % len(SENTENCES)]}))
        item = {"text": text, "cutouts": args.cutouts, "psi": 0.7}
        found.append(Fit(args.generator, "guided", item, steps=args.steps, lr=0.05, seed=n, critic=args.clip,
                         precision=args.precision))  # fmt: skip
    return found


def through(engine: Engine, jobs: list[Fit]) -> float:
    """Seconds of all jobs, sent at once."""
    began = time.perf_counter()
    for ticket in [engine.optimise(fit) for fit in jobs]:
        ticket.result()
    return time.perf_counter() - began


class Plain:
    """The loop of a public script."""

    def __init__(self, args: argparse.Namespace):
        registry = args.registry

        def read(name: str) -> torch.nn.Module:
            row = registry.find(name)
            network = models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family, **row.config)
            return network.to(self.device).eval().requires_grad_(False)

        self.device = choose(args.device)
        self.G, self.clip, self.args = read(args.generator), read(args.clip), args

    def run(self) -> float:
        began = time.perf_counter()
        for n in range(self.args.jobs):
            z = torch.randn(1, self.G.z_dim, generator=torch.Generator().manual_seed(n)).to(self.device)
            w = self.G.mapping(z, psi=0.7)[:, :1].detach().clone().requires_grad_(True)
            optimizer = torch.optim.Adam([w], lr=0.05)
            for _ in range(self.args.steps):
                image = self.G.synthesis(w.expand(-1, self.G.num_ws, -1))
                seen = self.clip.encode_image(image)
                loss = 1 - (seen * self.clip.encode_text([SENTENCES[n % len(SENTENCES)]])).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        loss.item()  # a GPU may still be at work
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="stylegan2-fruit")
    parser.add_argument("--clip", default="clip-fruit")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cutouts", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--precision", choices=("exact", "fast"), default="exact", help="of the engine; the loop's is float32"
    )
    parser.add_argument("--device")
    parser.add_argument("--size", type=int, help="side of a generator of random weights, in place of --generator")
    args = parser.parse_args()
    args.registry = load_registry()
    with tempfile.TemporaryDirectory() as folder:
        if args.size:
            args.registry = Registry([*args.registry, random_generator(args.size, folder)])
            args.generator = "random"
        measure(args)


def measure(args: argparse.Namespace) -> None:
    together = engine_of(args.jobs, args)
    alone = engine_of(1, args)
    plain = Plain(args)
    jobs = fits(together, args)
    sides = {
        "together": lambda: through(together, jobs),
        "alone": lambda: through(alone, jobs),
        "plain": plain.run,
    }
    for run in sides.values():  # kernels are built, threads begin
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, run in sides.items():
            seconds[name].append(run())
    together.close(drain=False)
    alone.close(drain=False)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(
        json.dumps(
            {
                "generator": args.generator,
                "size": args.size,
                "clip": args.clip,
                "jobs": args.jobs,
                "steps": args.steps,
                "cutouts": args.cutouts,
                "precision": args.precision,
                "steps_per_second": {n: round(args.jobs * args.steps / s, 1) for n, s in median.items()},
                "against_alone": round(median["alone"] / median["together"], 2),
                "against_plain": round(median["plain"] / median["together"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
