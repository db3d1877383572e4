"""A latent whose picture looks like a photo: projection into a generator's latent space.

Two methods. `nvidia` is the projector of StyleGAN2 (Karras et al., 2020, https://arxiv.org/abs/1912.04958, appendix
D): from the mean of ten thousand latents, with noise on the latent that fades, and with the generator's noise maps
fitted along, which a penalty keeps from carrying the picture; they are thrown away at the end. `direct` moves the
latent alone: no noise, the maps as they are, so that every step's picture is one that the latent draws again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub import latents
from ganhub.engine import perception
from ganhub.engine.guided import Turn
from ganhub.engine.operations import Facts, Item, check_array, check_label, one_hot, to_device
from ganhub.errors import BadInput

if TYPE_CHECKING:
    from ganhub.engine.tickets import Fit

METHODS = ("direct", "nvidia")
SPACES = ("w", "w+")
SAMPLES = 10_000
"""Latents that mean and spread are taken of."""
SAMPLES_SEED = 123
NOISE, NOISE_LENGTH = 0.05, 0.75
"""Noise on the latent, in units of the spread, and the share of the steps after which it is gone."""
RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""Shares of the steps over which the learning rate rises and falls."""
MAPS_WEIGHT = 1e5
"""Of the penalty on noise maps."""
COARSEST = 8
"""Side of the smallest noise map that the penalty looks at."""

_spreads: WeakKeyDictionary[Any, dict[tuple[int, int | None], tuple[Tensor, float]]] = WeakKeyDictionary()
_maps: WeakKeyDictionary[Any, list[tuple[int, int]]] = WeakKeyDictionary()


class Projection:
    """Finds the latent whose picture looks most like a target.

    Item: `target` uint8 [H, W, C] of the generator's own size; `space` `w` or `w+`; `method`; `heads`, weights of the
    network that is looked through (see `perception`), or None; `start`, a latent [num_ws, w_dim], or None for the mean;
    `pixel_weight` of the mean squared difference of pixels (of 0 to 1); `mean_weight` of the mean squared distance from
    the mean latent, in units of its spread; `label` for a network with classes.

    The loss that it tells is the distance as the network sees it; its gradient is that of all terms.
    """

    def check(self, item: Item, facts: Facts, critic: Facts | None) -> None:
        perception.check_eyes(item, critic)
        if not facts["w_dim"]:
            raise BadInput("This checkpoint has no mapping network, so there is no latent to project into.")
        shape = (*facts["img_size"], facts["img_channels"])
        target = item.get("target")
        if not isinstance(target, np.ndarray) or target.dtype != np.uint8 or target.shape != shape:
            raise BadInput(
                f"'target' must be a uint8 picture of shape {list(shape)}, the size that this checkpoint draws."
            )
        for name, known in (("space", SPACES), ("method", METHODS)):
            if item.get(name, known[0]) not in known:
                raise BadInput(f"There is no {name} '{item[name]}' to project by; choose {' or '.join(known)}.")
        if item.get("start") is not None:
            check_array(item, "start", (facts["num_ws"], facts["w_dim"]))
        for name in ("pixel_weight", "mean_weight"):
            weight = item.get(name, 0.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1000:
                raise BadInput(f"'{name}' must be a number from 0 to 1000, not {weight!r}.")
        check_label(item, facts)

    def group(self, item: Item) -> Any:
        return item.get("space", "w"), item.get("method", "direct")

    def start(
        self, G: Any, item: Item, seed: int, device: torch.device, critic: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean, spread = spread_of(G, item.get("label"), device)
        layers = self._layers(G, item)
        given = item.get("start")
        w = mean.expand(layers, -1) if given is None else to_device(given, device).float()
        w = w.mean(0, keepdim=True) if len(w) > layers else w
        parts = [w.flatten()]
        if item.get("method") == "nvidia":
            parts += [values.flatten().to(device) for values in first_maps(seed, map_sizes(G, device))]
        heads = perception.heads_of(item, critic, device)
        target = perception.pixels_of([item["target"]], device)
        constants = {
            "seen": perception.features(critic, target, heads)[0],
            "heads": heads,
            "target": target[0],
            "mean": mean,
            "spread": torch.tensor(spread, device=device),
            "weights": torch.tensor([float(item.get(f"{n}_weight", 0.0)) for n in ("pixel", "mean")], device=device),
        }
        return torch.cat(parts), constants

    def loss(
        self, G: Any, latent: Tensor, constants: dict[str, Tensor], item: Item, critic: Any, turns: list[Turn]
    ) -> Tensor:
        layers = self._layers(G, item)
        w, maps = latent[:, : layers * G.w_dim].unflatten(1, (layers, G.w_dim)), latent[:, layers * G.w_dim :]
        mean, spread = constants["mean"][:, None], constants["spread"]
        others = latent.new_zeros(len(latent))
        shown, values = w, []
        if item.get("method") == "nvidia":
            left = [max(0.0, 1 - turn.step / turn.steps / NOISE_LENGTH) ** 2 for turn in turns]
            size = torch.tensor(left, device=latent.device) * NOISE * spread
            shown = w + w_noise(turns, w.shape[1:]).to(w) * size[:, None, None]
            values = split_maps(maps, map_sizes(G, latent.device))
            others = others + MAPS_WEIGHT * sum((map_penalty(value) for value in values), start=others)
        queue = iter(values)
        images = G.synthesis(
            shown.expand(-1, G.num_ws, -1),
            noise_mode="random" if values else "const",
            noise=(lambda shape: next(queue)[:, None]) if values else None,
        ).float()
        seen = perception.features(critic, images, constants["heads"][0])
        distance = (seen - constants["seen"]).square().sum(1)
        pixel_weight, mean_weight = constants["weights"].unbind(1)
        if pixel_weight.any():
            others = others + pixel_weight * ((images - constants["target"]) / 2).square().flatten(1).mean(1)
        if mean_weight.any():
            away = (w - mean).square().sum(2).mean(1) / spread.square()
            others = others + mean_weight * away
        return distance + (others - others.detach())

    def rate(self, fit: Fit, step: int) -> float:
        """Nothing in the first step, up over the first twentieth, down a cosine over the last quarter."""
        t = step / fit.steps
        down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / RAMP_DOWN))
        return fit.lr * down * min(1.0, t / RAMP_UP)

    def settle(self, G: Any, latent: Tensor, item: Item) -> Tensor:
        """Noise maps keep mean 0 and variance 1 after every step."""
        if item.get("method") != "nvidia":
            return latent
        count = self._layers(G, item) * G.w_dim
        maps = [latent[:, :count]]
        for value in split_maps(latent[:, count:], map_sizes(G, latent.device)):
            value = value - value.mean((1, 2), keepdim=True)
            maps.append((value * value.square().mean((1, 2), keepdim=True).rsqrt()).flatten(1))
        return torch.cat(maps, 1)

    def answer(self, G: Any, latent: Tensor, item: Item) -> Tensor:
        """The w+ of one row, [num_ws, w_dim]."""
        layers = self._layers(G, item)
        return latent[: layers * G.w_dim].unflatten(0, (layers, G.w_dim)).expand(G.num_ws, -1)

    @staticmethod
    def _layers(G: Any, item: Item) -> int:
        return 1 if item.get("space", "w") == "w" else G.num_ws


def spread_of(G: Any, label: int | None, device: torch.device) -> tuple[Tensor, float]:
    """Mean [w_dim] and spread of ten thousand latents (of a class): the root of their mean squared distance from it."""
    known = _spreads.setdefault(G, {})
    if (SAMPLES, label) not in known:
        z = np.random.RandomState(SAMPLES_SEED).randn(SAMPLES, G.z_dim).astype(np.float32)
        if G.z_distribution != "normal":
            z = latents.z_from_seeds(range(SAMPLES), G.z_dim, G.z_distribution).astype(np.float32)
        mapping = getattr(G.mapping, "mapping", G.mapping)  # the form that goes one by one takes seconds here
        parts = []
        with torch.no_grad():
            for some in to_device(z, device).split(1000):
                classes = one_hot([{"label": label}] * len(some), G.c_dim, device)
                parts.append(mapping(some, classes)[:, 0].float())
        ws = torch.cat(parts).cpu().numpy()
        mean = ws.mean(0)  # NumPy's sum, as NVIDIA takes it: what differs in the seventh digit, Adam makes large
        spread = float((np.square(ws - mean).sum() / len(ws)) ** 0.5)
        known[SAMPLES, label] = torch.from_numpy(mean).to(device), spread
    return known[SAMPLES, label]


def map_sizes(G: Any, device: torch.device) -> list[tuple[int, int]]:
    """Sizes of a generator's noise maps in the order in which it asks for them; none where it has no such maps."""
    if G not in _maps:
        sizes: list[tuple[int, int]] = []

        def ask(shape: Any) -> Tensor:
            sizes.append((int(shape[2]), int(shape[3])))
            return torch.zeros(shape, device=device)

        with torch.no_grad():
            G.synthesis(G.w_avg.float().expand(1, G.num_ws, -1), noise_mode="random", noise=ask)
        _maps[G] = sizes
    return _maps[G]


def first_maps(seed: int, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """The noise maps that a projection begins with."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=draw) for size in sizes]


def w_noise(turns: list[Turn], shape: Any) -> Tensor:
    """Noise on the latents of a step: [N, layers, w_dim]."""
    return torch.stack([torch.randn(tuple(shape), generator=turn.generator()) for turn in turns])


def split_maps(flat: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Noise maps of rows [N, all] -> [N, H, W] each."""
    parts = flat.split([height * width for height, width in sizes], 1)
    return [part.unflatten(1, size) for part, size in zip(parts, sizes, strict=True)]


def map_penalty(value: Tensor) -> Tensor:
    """How much neighbours in noise maps [N, H, W] tell of each other, at every scale: [N]."""
    total = value.new_zeros(len(value))
    while True:
        for axis in (1, 2):
            total = total + (value * value.roll(1, axis)).mean((1, 2)).square()
        if value.shape[1] <= COARSEST:
            return total
        value = F.avg_pool2d(value[:, None], 2)[:, 0]
