"""Super-resolution against other code on the same weights: `python -m benchmarks.upscale`.

The peers are spandrel's own call, and Real-ESRGAN's script: with `--peer DIR`, a checkout of xinntao/Real-ESRGAN, its
`RealESRGANer` (without tiles), else what that does on a CPU: the plain network, float32, contiguous, `model(x)`. Both
compute in float32 whatever is asked. All sides run in processes of their own and take turns, picture by picture, so
that a busy machine slows all of them; this project's have the tuned allocator, as it serves.

The networks are RRDB x4 (23 blocks of 64 channels, growth 32; random weights), the compact one x4 with 16 convolutions
(realesr-animevideov3's where GANHUB_SHARED has them) and with 32 (random). One JSON line per network, size, precision.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganhub import checkpoint, models
from ganhub.engine.device import tune_allocator

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "rrdb": ("rrdb", {"channels": 64, "blocks": 23, "growth": 32, "ups": [2, 2], "unshuffle": 1, "img_channels": 3}),
    "compact-16": ("compact", {"channels": 64, "convs": 16, "scale": 4, "activation": "prelu", "img_channels": 3}),
    "compact-32": ("compact", {"channels": 64, "convs": 32, "scale": 4, "activation": "prelu", "img_channels": 3}),
}
PEERS = ("spandrel", "script")
OWN = ("exact", "fast")


def main() -> None:
    settings = _arguments()
    if settings.side:
        _serve(settings)
        return
    for name in settings.networks:
        for size in settings.sizes:
            _compare(settings, name, size)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of xinntao/Real-ESRGAN")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of the picture")
    parser.add_argument("--side", choices=(*PEERS, *OWN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    return parser.parse_args()


def real_weights(name: str) -> Path | None:
    """The file of published weights of a network here, where there is one."""
    file = Path(os.environ.get("GANHUB_SHARED", "../shared")) / "weights/realesr/realesr-animevideov3.pth"
    return file if name == "compact-16" and file.exists() else None


@torch.no_grad()
def network_of(name: str, seed: int) -> torch.nn.Module:
    """Published weights, or random ones whose activations keep their size and whose pictures are in [0, 1] mostly."""
    family, config = NETWORKS[name]
    file = real_weights(name)
    if file is not None:
        return models.read(checkpoint.read(file), family)
    torch.manual_seed(seed)
    network = models.family(family).build("G", config)
    for value in network.parameters():
        if value.dim() == 4:
            value.normal_(0, (1.5 / value[0].numel()) ** 0.5)
        else:
            value.uniform_(0.05, 0.3)
    large = network(picture(24, seed))
    last: Any = list(network.modules())[-1]
    last.weight.mul_(0.2 / large.std())
    last.bias.fill_(0.0)
    last.bias.add_(0.5 - network(picture(24, seed)).mean())
    return network.eval().requires_grad_(False)


def picture(size: int, seed: int) -> torch.Tensor:
    """Smooth and rough places [1, 3, size, size] of 256 levels in [0, 1]."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, 3, size, size)
    for side in (4, 16, size):
        rough = torch.rand(1, 3, side, side, generator=draws)
        x += torch.nn.functional.interpolate(rough, size=(size, size), mode="bilinear") / 3
    return (x * 255).round() / 255


def _compare(settings: argparse.Namespace, name: str, size: int) -> None:
    sides = (*PEERS, *OWN)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network_of(name, settings.seed).state_dict(), Path(folder) / "weights.pt")
        torch.save(picture(size, settings.seed), Path(folder) / "picture.pt")
        workers = {side: _start(settings, side, folder, name) for side in sides}
        for worker in workers.values():
            _ask(worker, "first")
        times: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(settings.repeats):
            for side, worker in workers.items():
                time.sleep(0.1)  # the threads of the side before spin a while before they sleep
                times[side].append(_ask(worker, "again"))
        for worker in workers.values():
            worker.communicate("stop\n")
        pictures = {side: np.load(Path(folder) / f"{side}.npy").astype(np.float64) for side in sides}
    wall, cpu = ({s: statistics.median(t[kind] for t in times[s]) for s in sides} for kind in ("wall_ms", "cpu_ms"))
    for precision in OWN:
        peers = {peer: pictures[peer] - pictures[precision].clip(0, 1) for peer in PEERS}
        error = np.square(pictures[precision] - pictures["exact"]).mean()
        line = {
            "benchmark": "upscale", "network": name, "weights": "published" if real_weights(name) else "random",
            "size": size, "precision": precision, "threads": settings.threads, "torch": torch.__version__,
            "repeats": settings.repeats,
            "wall_ms": {side: round(wall[side], 1) for side in (*PEERS, precision)},
            "cpu_ms": {side: round(cpu[side], 1) for side in (*PEERS, precision)},
            "ratio": {peer: round(wall[peer] / wall[precision], 2) for peer in PEERS},
            "ratio_cpu": {peer: round(cpu[peer] / cpu[precision], 2) for peer in PEERS},
            "difference": {peer: float(np.abs(off).max()) for peer, off in peers.items()},
            "psnr_db": round(-10 * float(np.log10(max(error, 1e-20))), 1),
            "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


def _start(settings: argparse.Namespace, side: str, folder: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.upscale", "--threads", str(settings.threads)]
    command += ["--peer", str(settings.peer)] if settings.peer else []
    command += ["--side", side, "--folder", folder, "--network", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: subprocess.Popen[str], question: str) -> dict[str, float]:
    assert worker.stdin and worker.stdout
    worker.stdin.write(question + "\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit("a side of the comparison stopped; its error stands above")


@torch.inference_mode()
def _serve(settings: argparse.Namespace) -> None:
    """One side, in a process of its own: enlarges the picture for every line that comes in."""
    torch.set_num_threads(settings.threads)
    if settings.side in OWN:
        tune_allocator()
    state = torch.load(settings.folder / "weights.pt", weights_only=True)
    x = torch.load(settings.folder / "picture.pt", weights_only=True)
    enlarge = SIDES.get(settings.side, _own)(settings, state, x)
    for question in sys.stdin:
        if question.strip() == "stop":
            return
        if question.strip() == "first":
            np.save(settings.folder / f"{settings.side}.npy", enlarge().numpy())
        wall, cpu = time.perf_counter(), time.process_time()
        enlarge()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3}), flush=True)


def _plain(settings: argparse.Namespace, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    family, config = NETWORKS[settings.network]
    network = models.family(family).build("G", config)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _own(settings: argparse.Namespace, state: dict[str, torch.Tensor], x: torch.Tensor) -> Callable[[], torch.Tensor]:
    prepared = models.prepare(NETWORKS[settings.network][0], _plain(settings, state), settings.side)
    return lambda: prepared(x)


def _spandrel(
    settings: argparse.Namespace, state: dict[str, torch.Tensor], x: torch.Tensor
) -> Callable[[], torch.Tensor]:
    import spandrel

    descriptor: Any = spandrel.ModelLoader().load_from_state_dict(state)
    return lambda: descriptor(x)


def _script(
    settings: argparse.Namespace, state: dict[str, torch.Tensor], x: torch.Tensor
) -> Callable[[], torch.Tensor]:
    network = _plain(settings, state)
    if settings.peer is None:
        return lambda: network(x).clamp(0, 1)
    # Its one need of basicsr is a function that downloads, which is never called here.
    downloads: Any = types.ModuleType("basicsr.utils.download_util")
    downloads.load_file_from_url = None
    for name in ("basicsr", "basicsr.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[downloads.__name__] = downloads
    spec: Any = importlib.util.spec_from_file_location("realesrgan_utils", settings.peer / "realesrgan/utils.py")
    utils: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    torch.save({"params": state}, settings.folder / "script.pth")
    script = utils.RealESRGANer(4, str(settings.folder / "script.pth"), model=network, pre_pad=0, device="cpu")
    bgr = (x[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    as_tensor = lambda image: torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255  # noqa: E731
    return lambda: as_tensor(script.enhance(bgr)[0])


SIDES: dict[str, Callable[..., Callable[[], torch.Tensor]]] = {"spandrel": _spandrel, "script": _script}


if __name__ == "__main__":
    main()
