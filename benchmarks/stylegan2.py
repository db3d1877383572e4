"""StyleGAN2 against NVIDIA's own code on the same weights: `python -m benchmarks.stylegan2 --peer DIR --size 256`.

DIR is a checkout of NVlabs/stylegan2-ada-pytorch; on a CPU that code takes its pure PyTorch path. Three processes
take turns, picture by picture, so that a busy machine slows all of them: the peer as it comes, the peer with the
tuned allocator, and this project (with the tuned allocator, as it serves). Weights are random, all of them
non-trivial, and scaled so that pictures fill [-1, 1] as trained ones do (standard deviation 0.5).

`--memory` prints the resident memory after 10 and after 100 pictures instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganhub.engine.device import tune_allocator
from ganhub.models import stylegan2

SIDES = ("peer", "peer_tuned", "own")


def main() -> None:
    settings = _arguments()
    if settings.side:
        _serve(settings)
    elif settings.memory:
        _memory(settings)
    else:
        _compare(settings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", type=Path, help="checkout of NVlabs/stylegan2-ada-pytorch; without it, own times only"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=("exact", "fast"), default="exact")
    parser.add_argument("--channel-base", type=int, help="16384 up to 256 px and 32768 above, as published, by default")
    parser.add_argument("--channel-max", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    settings.channel_base = settings.channel_base or (16384 if settings.size <= 256 else 32768)
    return settings


@torch.no_grad()
def random_generator(settings: argparse.Namespace) -> stylegan2.Generator:
    """A generator whose weights, biases and noise are all random, and whose pictures have a deviation of 0.5."""
    torch.manual_seed(settings.seed)
    widths = {"channel_base": settings.channel_base, "channel_max": settings.channel_max}
    G: Any = stylegan2.build("G", stylegan2.standard_config("G", settings.size, **widths))
    for name, value in G.named_parameters():
        if name.endswith("noise_strength") or (name.endswith("bias") and "affine" not in name):
            value.copy_(torch.randn(value.shape) * 0.2)
    G.eval().requires_grad_(False)
    deviation = G(latents(settings)).std()
    for name, value in G.named_parameters():
        if name.endswith(("torgb.weight", "torgb.bias")):
            value.mul_(0.5 / deviation)
    return G


def latents(settings: argparse.Namespace) -> torch.Tensor:
    """The z [batch, 512] of the pictures that are drawn."""
    return torch.randn(settings.batch, 512, generator=torch.Generator().manual_seed(settings.seed))


def _compare(settings: argparse.Namespace) -> None:
    G = random_generator(settings)
    sides = SIDES if settings.peer else ("own",)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(G.state_dict(), Path(folder) / "weights.pt")
        torch.save(G.mapping(latents(settings)), Path(folder) / "ws.pt")
        workers = {side: _start(side, folder) for side in sides}
        first = {side: _ask(worker, "first") for side, worker in workers.items()}
        times: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(settings.repeats):
            for side, worker in workers.items():
                time.sleep(0.1)  # the threads of the side before spin a while before they sleep
                times[side].append(_ask(worker, "again"))
        for worker in workers.values():
            worker.communicate("stop\n")
        pictures = {side: np.load(Path(folder) / f"{side}.npy").astype(np.float64) for side in sides}

    wall = {side: statistics.median(t["wall_ms"] for t in times[side]) for side in sides}
    cpu = {side: statistics.median(t["cpu_ms"] for t in times[side]) for side in sides}
    line: dict[str, Any] = {
        "benchmark": "stylegan2",
        "size": settings.size,
        "batch": settings.batch,
        "precision": settings.precision,
        "device": settings.device if settings.device == "cpu" else torch.cuda.get_device_name(settings.device),
        "threads": settings.threads,
        "torch": torch.__version__,
        "channel_base": settings.channel_base,
        "seed": settings.seed,
        "repeats": settings.repeats,
        "wall_ms": {side: round(ms, 1) for side, ms in wall.items()},
        "cpu_ms": {side: round(ms, 1) for side, ms in cpu.items()},
        "tuned_allocator": {side: first[side]["tuned"] for side in sides},
        "load": round(os.getloadavg()[0], 1),
    }
    if settings.peer:
        difference = pictures["own"] - pictures["peer"]
        line["ratio"] = {side: round(wall[side] / wall["own"], 2) for side in ("peer", "peer_tuned")}
        line["ratio_cpu"] = {side: round(cpu[side] / cpu["own"], 2) for side in ("peer", "peer_tuned")}
        line["difference"] = float(np.abs(difference).max())
        line["largest"] = float(np.abs(pictures["peer"]).max())
        line["psnr_db"] = round(10 * float(np.log10(4 / max(np.square(difference).mean(), 1e-20))), 1)
    print(json.dumps(line), flush=True)


def _start(side: str, folder: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.stylegan2", *sys.argv[1:]]
    command += ["--side", side, "--folder", folder]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: subprocess.Popen[str], question: str) -> dict[str, float]:
    assert worker.stdin and worker.stdout
    worker.stdin.write(question + "\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):  # the peer prints what it sets up
            return json.loads(line)
    raise SystemExit("a side of the comparison stopped; its error stands above")


@torch.no_grad()
def _serve(settings: argparse.Namespace) -> None:
    """One side, in a process of its own: draws a picture for every line that comes in."""
    torch.set_num_threads(settings.threads)
    tuned = settings.side != "peer" and tune_allocator()
    state = torch.load(settings.folder / "weights.pt", weights_only=True)
    ws = torch.load(settings.folder / "ws.pt", weights_only=True).to(settings.device)
    draw = _own(settings, state, ws) if settings.side == "own" else _peer(settings, state, ws)
    wait = torch.cuda.synchronize if ws.is_cuda else lambda: None
    for question in sys.stdin:
        if question.strip() == "stop":
            return
        if question.strip() == "first":
            for _ in range(2):
                images = draw()
            np.save(settings.folder / f"{settings.side}.npy", images.float().cpu().numpy())
        wait()
        wall, cpu = time.perf_counter(), time.process_time()
        draw()
        wait()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3, "tuned": tuned}), flush=True)


def _own(settings: argparse.Namespace, state: dict[str, torch.Tensor], ws: torch.Tensor) -> Any:
    widths = {"channel_base": settings.channel_base, "channel_max": settings.channel_max}
    G = stylegan2.build("G", stylegan2.standard_config("G", settings.size, **widths))
    G.load_state_dict(state)
    G = G.eval().requires_grad_(False).to(settings.device)
    prepared: Any = stylegan2.prepare(G, settings.precision)
    return lambda: prepared.synthesis(ws, "const")


def _peer(settings: argparse.Namespace, state: dict[str, torch.Tensor], ws: torch.Tensor) -> Any:
    sys.path.insert(0, str(settings.peer.resolve()))
    from training import networks  # type: ignore[import-not-found]

    half = ws.is_cuda and settings.precision == "fast"
    synthesis = {"channel_base": settings.channel_base, "channel_max": settings.channel_max}
    if half:
        synthesis.update(num_fp16_res=4, conv_clamp=256)
    G = networks.Generator(512, 0, 512, settings.size, 3, {"num_layers": 8}, synthesis)
    missing, foreign = G.load_state_dict(state, strict=False)
    assert not foreign and all(key.endswith("resample_filter") for key in missing), (missing, foreign)
    G = G.eval().requires_grad_(False).to(settings.device)
    return lambda: G.synthesis(ws, noise_mode="const", force_fp32=not half)


@torch.no_grad()
def _memory(settings: argparse.Namespace) -> None:
    torch.set_num_threads(settings.threads)
    tuned = tune_allocator()
    prepared: Any = stylegan2.prepare(random_generator(settings), settings.precision)
    line: dict[str, Any] = {"benchmark": "stylegan2 memory", "size": settings.size, "batch": settings.batch}
    line |= {"precision": settings.precision, "tuned_allocator": tuned, "torch": torch.__version__}
    for n in range(1, 101):
        z = torch.randn(settings.batch, prepared.z_dim, generator=torch.Generator().manual_seed(n))
        prepared(z, psi=0.7)
        if n in (10, 100):
            line[f"resident_mb_after_{n}"] = _resident() // 1_000_000
    print(json.dumps(line), flush=True)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
