"""What every recipe needs around its steps: a folder, a log, a state to go on from, and a way to stop."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.imaging import to_uint8
from ganhub.latents import z_from_seeds


class Run:
    """The folder of a training. As a context, it turns an interrupt or a termination signal into `stopping`."""

    def __init__(self, out: Path):
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self.stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Run:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def log(self, **figures: float) -> None:
        """Prints a line of figures and adds it to `log.jsonl`."""
        line = json.dumps({key: round(value, 4) for key, value in figures.items()})
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def save(self, state: dict[str, Any]) -> None:
        """The state to go on from, written beside the old one and then moved over it."""
        torch.save(state, self.out / "state.pt.part")
        os.replace(self.out / "state.pt.part", self.out / "state.pt")

    def saved(self) -> dict[str, Any] | None:
        """The state that `save` wrote; None where there is none."""
        file = self.out / "state.pt"
        return torch.load(file, weights_only=True) if file.exists() else None

    def grid(self, G: nn.Module, name: str) -> None:
        grid(G).save(self.out / name)


class Clock:
    """Seconds spent between `start` and `stop`, added up."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.began = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap, which are added."""
        now = time.monotonic()
        lap, self.began = now - self.began, now
        self.seconds += lap
        return lap


@torch.no_grad()
def draw(G: Any, seeds: range) -> torch.Tensor:
    """The pictures of seeds as the hub draws them: uint8 [N, H, W, C]."""
    z = torch.from_numpy(z_from_seeds(seeds, G.z_dim, G.z_distribution)).float()
    return torch.from_numpy(to_uint8(torch.cat([G(part) for part in z.split(64)])))


def grid(G: Any, columns: int = 10, rows: int = 8, scale: int = 1) -> Image.Image:
    """The pictures of seeds 0, 1, 2, ... side by side."""
    pictures = draw(G, range(columns * rows))
    height, width, channels = pictures.shape[1:]
    sheet = pictures.view(rows, columns, height, width, channels).transpose(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels).squeeze(2)
    return Image.fromarray(sheet.numpy()).resize((columns * width * scale, rows * height * scale))


def lerp(average: nn.Module, network: nn.Module, steps: int, decay: float) -> None:
    """Moves an average of weights towards a network; it starts short, so that it forgets the first weights."""
    decay = min(decay, (1 + steps) / (10 + steps))
    with torch.no_grad():
        for mean, now in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)


def publish(G: Any, family: str, file: Path, **facts: Any) -> None:
    """Writes a generator as the hub ships it: matrices in half precision, everything else as it is."""
    tensors = {k: v.half() if v.dim() > 1 else v for k, v in G.state_dict().items()}
    network = Network(type(G).__name__, G.config, tensors)
    checkpoint.save(file, {"G": network}, {"family": family, **facts})
