"""A training step of StyleGAN2 against NVIDIA's own: `python -m benchmarks.training --peer DIR --size 64`.

DIR is a checkout of NVlabs/stylegan2-ada-pytorch; on a CPU that code takes its pure PyTorch path. The same networks
and the same batch on every side: generator and discriminator steps, path length every 4 and R1 every 16 of them, the
optimisers and the running average. Without augmentation: that of the peer cannot be differentiated twice by the
PyTorch of today. Processes take turns, step by step, so that a busy machine slows all of them: the peer as it comes,
the peer with the tuned allocator, this project in float32 and in bfloat16 (on a GPU both in the mixed precision of
the paper).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganhub.data.dataset import PictureSet, write_set
from ganhub.engine.device import tune_allocator
from ganhub.training import stylegan2
from ganhub.training.workers import Workers

WIDTHS = {64: (2048, 64, 16), 128: (4096, 64, 8), 256: (8192, 64, 4)}
"""Size -> channel base, most channels, batch: what a CPU can train."""
KINDS = {"plain": 1, "path_length": 4, "both": 16}
"""Kind of a step -> the number of a step of that kind; of 16 steps, 12, 3 and 1 are of these kinds."""
SHARES = {"plain": 12, "path_length": 3, "both": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of NVlabs/stylegan2-ada-pytorch; own times only without")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channel-base", type=int)
    parser.add_argument("--channel-max", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    base, most, batch = WIDTHS.get(settings.size, (16384, 512, 8))
    settings.channel_base = settings.channel_base or base
    settings.channel_max = settings.channel_max or most
    settings.batch = settings.batch or batch
    _serve(settings) if settings.side else _compare(settings)


def _compare(settings: argparse.Namespace) -> None:
    sides = ["peer", "peer_tuned"] if settings.peer else []
    sides += ["float32", "bfloat16"] if settings.device == "cpu" else ["float16"]
    with tempfile.TemporaryDirectory() as folder:
        shape = (settings.size, settings.size, 3)
        pictures = (np.random.RandomState(i).randint(0, 256, shape, dtype=np.uint8) for i in range(64))
        write_set(Path(folder) / "set.zip", pictures, names=[str(i) for i in range(64)])
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training", *sys.argv[1:], "--folder", folder]
        workers = {side: subprocess.Popen([*command, "--side", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                          text=True) for side in sides}  # fmt: skip
        seconds: dict[str, dict[str, list[dict[str, float]]]] = {side: {kind: [] for kind in KINDS} for side in sides}
        for turn in range(settings.repeats + 1):  # the first one warms up
            for kind in KINDS:
                for side, worker in workers.items():
                    taken = _ask(worker, kind)
                    if turn:
                        seconds[side][kind].append(taken)
        for worker in workers.values():
            worker.communicate("stop\n")

    def speed(side: str, clock: str) -> float:
        medians = {kind: statistics.median(t[clock] for t in taken) for kind, taken in seconds[side].items()}
        return 16 * settings.batch / sum(SHARES[kind] * medians[kind] for kind in KINDS)

    wall, cpu = ({side: speed(side, clock) for side in sides} for clock in ("wall", "cpu"))
    line: dict[str, Any] = {
        "benchmark": "training",
        "size": settings.size,
        "batch": settings.batch,
        "channel_base": settings.channel_base,
        "channel_max": settings.channel_max,
        "device": settings.device if settings.device == "cpu" else torch.cuda.get_device_name(settings.device),
        "threads": settings.threads,
        "torch": torch.__version__,
        "repeats": settings.repeats,
        "pictures_per_second": {side: round(value, 2) for side, value in wall.items()},
        "load": round(os.getloadavg()[0], 1),
    }
    own = [side for side in sides if not side.startswith("peer")]
    if settings.peer:
        line["ratio"] = {f"{a}/{b}": round(wall[a] / wall[b], 2) for a in own for b in ("peer", "peer_tuned")}
        line["ratio_cpu"] = {f"{a}/{b}": round(cpu[a] / cpu[b], 2) for a in own for b in ("peer", "peer_tuned")}
    print(json.dumps(line), flush=True)


def _ask(worker: subprocess.Popen[str], kind: str) -> dict[str, float]:
    assert worker.stdin and worker.stdout
    worker.stdin.write(kind + "\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):  # the peer prints what it sets up
            return json.loads(line)
    raise SystemExit("a side of the comparison stopped; its error stands above")


def _serve(settings: argparse.Namespace) -> None:
    """One side, in a process of its own: makes a step of the kind that a line names."""
    torch.set_num_threads(settings.threads)
    if settings.side != "peer":
        tune_allocator()
    torch.set_flush_denormal(True)
    step = _peer(settings) if settings.side.startswith("peer") else _own(settings)
    wait = torch.cuda.synchronize if settings.device != "cpu" else lambda: None
    for line in sys.stdin:
        kind = line.strip()
        if kind == "stop":
            return
        wait()
        wall, cpu = time.perf_counter(), time.process_time()
        step(kind)
        wait()
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


def _own(settings: argparse.Namespace) -> Callable[[str], Any]:
    chosen = stylegan2.Settings(
        preset="auto", batch=settings.batch, channel_base=settings.channel_base, channel_max=settings.channel_max,
        z_dim=128, aug="noaug", precision=settings.side,
    )  # fmt: skip
    trainer = stylegan2.Trainer(chosen, PictureSet(settings.folder / "set.zip"), Workers(settings.device))

    def step(kind: str) -> None:
        trainer.steps = KINDS[kind]
        trainer.step()

    return step


def _peer(settings: argparse.Namespace) -> Callable[[str], Any]:
    """What NVIDIA's `training_loop` does between two batches of real pictures."""
    sys.path.insert(0, str(settings.peer.resolve()))
    from training import networks  # type: ignore[import-not-found]
    from training.loss import StyleGAN2Loss  # type: ignore[import-not-found]

    half = {"num_fp16_res": 4, "conv_clamp": 256} if settings.device != "cpu" else {}
    widths = {"channel_base": settings.channel_base, "channel_max": settings.channel_max, **half}
    device = torch.device(settings.device)
    torch.manual_seed(0)
    G = networks.Generator(128, 0, 128, settings.size, 3, {"num_layers": 2}, widths).train().to(device)
    D = networks.Discriminator(0, settings.size, 3, **widths, epilogue_kwargs={"mbstd_group_size": 4}).train()
    D = D.to(device)
    G_ema = copy.deepcopy(G).eval()
    loss = StyleGAN2Loss(device, G.mapping, G.synthesis, D, r1_gamma=0.0002 * settings.size**2 / settings.batch)

    def adam(net: torch.nn.Module, every: int) -> torch.optim.Optimizer:
        share = every / (every + 1)
        return torch.optim.Adam(net.parameters(), lr=0.0025 * share, betas=(0.0, 0.99**share), eps=1e-8)

    optimizers = {"G": adam(G, 4), "D": adam(D, 16)}
    pictures = torch.from_numpy(PictureSet(settings.folder / "set.zip").pictures()).permute(0, 3, 1, 2)
    none = torch.zeros(settings.batch, 0, device=device)

    def step(kind: str) -> None:
        phases = ["Gmain"] + (["Greg"] if kind != "plain" else []) + ["Dmain"] + (["Dreg"] if kind == "both" else [])
        real = pictures[torch.randint(64, (settings.batch,))].to(device).float() / 127.5 - 1
        for phase in phases:
            net, optimizer = (G, optimizers["G"]) if phase[0] == "G" else (D, optimizers["D"])
            optimizer.zero_grad(set_to_none=True)
            G.requires_grad_(net is G)
            D.requires_grad_(net is D)
            z = torch.randn(settings.batch, 128, device=device)
            gain = {"Greg": 4, "Dreg": 16}.get(phase, 1)
            loss.accumulate_gradients(
                phase=phase, real_img=real, real_c=none, gen_z=z, gen_c=none, sync=True, gain=gain
            )
            net.requires_grad_(False)
            for p in net.parameters():
                if p.grad is not None:
                    torch.nan_to_num(p.grad, nan=0, posinf=1e5, neginf=-1e5, out=p.grad)
            optimizer.step()
        with torch.no_grad():
            for mean, now in zip(G_ema.parameters(), G.parameters(), strict=True):
                mean.copy_(now.lerp(mean, 0.999))
            for mean, now in zip(G_ema.buffers(), G.buffers(), strict=True):
                mean.copy_(now)

    return step


if __name__ == "__main__":
    main()
