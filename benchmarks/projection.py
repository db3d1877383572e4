"""How fast a photo's latent is found: against NVIDIA's procedure, and by itself on large networks. One JSON line.

    python -m benchmarks.projection --peer --data SET [--photos 3]     # embedded portraits, small features
    python -m benchmarks.projection --device cuda --size 1024          # random weights of full size

`--peer` is a plain loop of the published procedure (1000 steps, float32, one photo at a time, the networks as they are
read) with the same generator and the same features. Told are its seconds, the distance that it ends with, and when this
project's projections first come as near: in w+ from the nearest sample and from the mean, and in w. The 2048 samples
are drawn once for each process; their seconds are told beside, as those of the peer's ten thousand latents are.

With random weights, the target is a picture that the generator can draw; there is nothing to see, only time to measure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganhub import checkpoint, hub, models
from ganhub.engine import Engine, Fit, Job, perception, projection
from ganhub.models import stylegan2
from ganhub.models.vgg import Trunk
from ganhub.pipelines import project as pipeline
from ganhub.registry import Checkpoint, Registry, load_registry

GENERATOR, FEATURES = "stylegan2-portraits", "features-small"
VGG16 = [[64, 64], [128, 128], [256, 256, 256], [512, 512, 512], [512, 512, 512]]


def plain(target: np.ndarray, G: Any, eyes: Any, steps: int) -> dict[str, Any]:
    """NVIDIA's procedure as a script has it: seconds and distance of every step, and of the picture at the end."""
    began = time.perf_counter()
    z = torch.from_numpy(np.random.RandomState(123).randn(10_000, G.z_dim)).float()
    with torch.no_grad():
        ws = torch.cat([G.mapping(some)[:, :1] for some in z.split(1000)])
    mean = ws.mean(0, keepdim=True)
    spread = float((ws - mean).square().sum().div(len(ws)).sqrt())
    heads = torch.ones(sum(eyes.widths))
    photo = perception.pixels_of([target], torch.device("cpu"))
    with torch.no_grad():
        wanted = perception.features(eyes, photo, heads)
    maps = [torch.randn(1, *size).requires_grad_() for size in projection.map_sizes(G, torch.device("cpu"))]
    w = mean.clone().requires_grad_()
    optimizer = torch.optim.Adam([w, *maps], lr=0.1, betas=(0.9, 0.999))
    seconds, distances = [], []
    for step in range(steps):
        t = step / steps
        optimizer.param_groups[0]["lr"] = projection.Projection().rate(Fit("", "project", {}, steps, 0.1), step)
        noise = torch.randn_like(w) * spread * 0.05 * max(0.0, 1 - t / 0.75) ** 2
        queue = iter(maps)
        images = G.synthesis((w + noise).repeat(1, G.num_ws, 1), "random", lambda shape, q=queue: next(q)[None])
        distance = (perception.features(eyes, images, heads) - wanted).square().sum()
        loss = distance + 1e5 * torch.cat([projection.map_penalty(values) for values in maps]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for values in maps:
                values -= values.mean()
                values *= values.square().mean().rsqrt()
        seconds.append(time.perf_counter() - began)
        distances.append(float(distance.detach()))
    with torch.no_grad():
        images = G.synthesis(w.repeat(1, G.num_ws, 1), "const")
        picture = (perception.features(eyes, images, heads) - wanted).square().sum()
    return {"seconds": seconds, "distances": distances, "picture": float(picture)}


def own(engine: Engine, row: str, target: np.ndarray, **how: Any) -> tuple[list[float], list[float], Any]:
    """Seconds (from the request on) and distance of every step, and the result."""
    began = time.perf_counter()
    request = pipeline.ProjectRequest(row, target, True, preview=0, mark=False, **how)
    seconds: list[float] = []
    for event in pipeline.project(engine, request):
        if isinstance(event, pipeline.Projected):
            seconds.append(time.perf_counter() - began)
    return seconds, event.distances, event


def reached(seconds: list[float], distances: list[float], goal: float) -> float | None:
    """When a distance was first reached."""
    return next((round(s, 2) for s, d in zip(seconds, distances, strict=True) if d <= goal), None)


def against_peer(args: argparse.Namespace) -> dict[str, Any]:
    from ganhub.data import PictureSet

    registry = load_registry()

    def read(name: str) -> Any:
        row = registry.find(name)
        return models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family, **row.config)

    G, eyes = read(GENERATOR), read(FEATURES)
    pictures = PictureSet(args.data)
    numbers = np.linspace(0, len(pictures.names) - 1, args.photos + 2).astype(int)[1:-1]
    targets = [np.ascontiguousarray(pictures.picture(int(n))) for n in numbers]
    ways: dict[str, dict[str, Any]] = {
        "w+": {},
        "w+ from the mean": {"start": "mean"},
        "w": {"space": "w", "steps": 300},
    }
    rows: list[dict[str, Any]] = []
    with Engine(registry, device="cpu", precision=args.precision) as engine:
        began = time.perf_counter()
        own(engine, GENERATOR, targets[0], steps=2, features=FEATURES)
        once = time.perf_counter() - began
        own(engine, GENERATOR, targets[0], steps=2, features=FEATURES)
        for target in targets:
            peer = plain(target, G, eyes, args.steps)
            line: dict[str, Any] = {"peer": peer}
            for name, how in ways.items():
                seconds, distances, result = own(engine, GENERATOR, target, features=FEATURES, **how)
                goals = {"loop": peer["distances"][-1], "picture": peer["picture"]}
                line[name] = {goal: reached(seconds, distances, value) for goal, value in goals.items()}
                line[name] |= {"seconds": result.figures["seconds"], "distance": result.figures["distance"]}
            rows.append(line)
    took = [line["peer"]["seconds"][-1] for line in rows]
    told: dict[str, Any] = {
        "generator": GENERATOR,
        "features": FEATURES,
        "precision": args.precision,
        "threads": torch.get_num_threads(),
        "photos": len(rows),
        "peer": {
            "steps": args.steps,
            "seconds": [round(s, 1) for s in took],
            "distance": [round(line["peer"]["distances"][-1], 3) for line in rows],
            "distance_of_picture": [round(line["peer"]["picture"], 3) for line in rows],
        },
        "samples_once": round(once, 1),
    }
    for name in ways:
        told[name] = {key: [line[name][key] for line in rows] for key in ("loop", "picture", "seconds", "distance")}
        for goal in ("loop", "picture"):
            if all(line[name][goal] for line in rows):
                ratios = [s / line[name][goal] for s, line in zip(took, rows, strict=True)]
                told[name][f"times_faster_to_{goal}"] = round(statistics.median(ratios), 1)
    return told


def random_vgg() -> Trunk:
    torch.manual_seed(1)
    trunk = Trunk("vgg", VGG16)
    for value in trunk.parameters():
        value.data.normal_(std=0.1) if value.ndim == 1 else torch.nn.init.kaiming_normal_(value, nonlinearity="relu")
    return trunk.eval().requires_grad_(False)


def random_generator(size: int) -> Any:
    torch.manual_seed(0)
    G: Any = stylegan2.build("G", stylegan2.standard_config("G", size))
    with torch.no_grad():
        for name, value in G.named_parameters():
            if name.endswith("noise_strength"):
                value.fill_(0.1)
            elif name.endswith("torgb.weight"):
                value.mul_(0.3)
        G.mapping.w_avg.copy_(G.mapping(torch.randn(1000, G.z_dim))[:, 0].mean(0))
    return G.eval().requires_grad_(False)


def large(args: argparse.Namespace) -> dict[str, Any]:
    networks = {"large": ("stylegan2", random_generator(args.size)), "eyes": ("vgg", random_vgg())}

    def row(name: str) -> Checkpoint:
        return Checkpoint(id=name, task=("generate",), family=networks[name][0], title=name, license="none",
                          commercial_use=True, source={"path": f"/nowhere/{name}"})  # type: ignore[arg-type] # fmt: skip

    def fetch(row: Checkpoint, progress: Any = None) -> Path:
        return Path(row.id)

    def read(row: Checkpoint, path: Path) -> Any:
        return networks[row.id][1]

    told: dict[str, Any] = {"device": args.device, "size": args.size, "steps": args.steps}
    told["threads"] = torch.get_num_threads()
    if args.device != "cpu":
        told["card"] = torch.cuda.get_device_name()
    for precision in args.precisions:
        engine = Engine(Registry(map(row, networks)), args.device, precision, fetch=fetch, read=read)
        with engine:
            began = time.perf_counter()
            target = engine.run(Job("large", "generate", {"z": np.random.RandomState(10_000).randn(512), "psi": 0.7}))
            opened = time.perf_counter() - began
            seconds, _, first = own(engine, "large", target, features="eyes", steps=args.steps)
            again, distances, second = own(engine, "large", target, features="eyes", steps=args.steps)
            told[precision] = {
                "opened": round(opened, 2),
                "samples": first.figures["samples"],
                "first_projection": first.figures["seconds"],
                "projection": second.figures["seconds"],
                "of_it_steps": round(again[-1] - again[0], 2),
                "start": second.figures["start"],
                "distance": second.figures["distance"],
                "others": second.figures["others"],
            }
            began = time.perf_counter()
            item = {"target": target, "space": "w+", "pixel_weight": 1.0}
            fits = [Fit("large", "project", item, args.steps, 0.1, n, critic="eyes") for n in range(args.together)]
            for ticket in [engine.optimise(fit) for fit in fits]:
                ticket.result()
            told[precision]["together"] = {"photos": len(fits), "seconds": round(time.perf_counter() - began, 2)}
            if args.device != "cpu":
                told[precision]["gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--data", type=Path, help="prepared set of portraits, for --peer")
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of the peer (1000), or of each projection of a large network (200)")
    parser.add_argument("--precision", choices=("exact", "fast"), default="exact", help="beside the peer")
    parser.add_argument("--precisions", nargs="+", default=["exact", "fast"], help="of a large network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--together", type=int, default=4, help="photos that share their steps on a large network")
    args = parser.parse_args()
    args.steps = args.steps or (1000 if args.peer else 200)
    if args.peer and args.data is None:
        parser.error("--peer needs --data")
    print(json.dumps(against_peer(args) if args.peer else large(args)))


if __name__ == "__main__":
    main()
