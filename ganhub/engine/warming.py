"""The first forward of a network: builds its kernels, and tells what a picture costs in memory."""

from __future__ import annotations

from typing import Any

import torch

from ganhub import latents
from ganhub.engine import device as devices
from ganhub.engine.cache import Loaded
from ganhub.engine.operations import one_hot, to_device


def warm(entry: Loaded, device: torch.device, budget: int, most: int | None) -> None:
    """Runs a generator once and decides how many pictures its batches may have.

    Args:
        entry: a network that nobody uses yet; `per_item` and `largest` are set.
        device: where it lies.
        budget: bytes for weights and activations together.
        most: a limit on the batch, from the engine's settings.
    """
    G: Any = entry.network
    if entry.facts.get("scale"):
        _warm_upscaler(entry, device, budget, most)
        return
    if entry.facts.get("directions"):
        _warm_ager(entry, device, budget, most)
        return
    if not hasattr(G, "z_distribution"):  # no generator of pictures: nothing is known of its inputs
        small = any(entry.facts.get(kind) for kind in ("reads", "looks", "paints", "widths"))
        entry.largest = most or (SHORT if small else 1)
        return
    z = to_device(latents.z_from_seeds([0], G.z_dim, G.z_distribution), device).float()
    label = one_hot([{"label": 0}], G.c_dim, device)
    # Not inference_mode: what a network might keep from its first call must serve optimisation too.
    with torch.no_grad(), devices.arithmetic(device, entry.key.precision, True):
        entry.per_item = _measured(G, (z, label), device)
    height, width = G.img_size
    rule = max(1, min(16, 512 * 512 // (height * width))) if device.type == "cpu" else 32
    room = (budget - entry.weights) // max(1, entry.per_item)
    entry.largest = max(1, min(most or rule, room))


def _warm_upscaler(entry: Loaded, device: torch.device, budget: int, most: int | None) -> None:
    side = 64
    x = torch.zeros(1, entry.facts["img_channels"], side, side, device=device)
    with torch.no_grad(), devices.arithmetic(device, entry.key.precision, True):
        taken = _measured(entry.network, (x.contiguous(memory_format=torch.channels_last),), device)
    if device.type != "cuda":
        taken //= 2  # such networks work in place, so that no more than two large activations live at a time
    entry.per_item = taken * TILE**2 // side**2
    rule = 4 if device.type == "cpu" else 16
    entry.largest = max(1, min(most or rule, min(budget - entry.weights, ROOM) // entry.per_item))


def _warm_ager(entry: Loaded, device: torch.device, budget: int, most: int | None) -> None:
    height, width = entry.facts["img_size"]
    multiple = entry.facts["multiple"]
    side = max(multiple, min(128, height, width) // multiple * multiple)
    x = torch.zeros(1, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    ages = (torch.tensor([float(age)], device=device) for age in (entry.facts["ages"] or _ways(entry.facts)))
    with torch.no_grad(), devices.arithmetic(device, entry.key.precision, True):
        taken = _measured(entry.network, (x, *ages), device)
    entry.per_item = taken * height * width // side**2
    rule = max(1, min(8, 512 * 512 // (height * width))) if device.type == "cpu" else 16
    room = (budget - entry.weights) // max(1, entry.per_item)
    entry.largest = max(1, min(most or rule, room))


def _ways(facts: dict[str, Any]) -> tuple[float, float]:
    """Ages whose order is a way that the network goes."""
    return (30.0, 60.0) if "older" in facts["directions"] else (60.0, 30.0)


SHORT = 16
"""Sentences, or pictures to look at, of one batch."""
TILE = 208
"""Side of the tiles that a network which enlarges pictures is prepared for."""
ROOM = 1 << 30
"""Bytes of activations that such a batch may take at most, whatever the machine has: one visitor among many."""


def _measured(G: Any, inputs: tuple[Any, ...], device: torch.device) -> int:
    """Bytes of activations of one picture: the peak on a GPU; elsewhere four times the largest module's output."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        G(*inputs)
        torch.cuda.synchronize(device)
        return max(1, torch.cuda.max_memory_allocated(device) - before)
    largest = 1

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.numel() * output.element_size())

    hooks = [module.register_forward_hook(look) for module in G.modules()]
    try:
        G(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return 4 * largest
