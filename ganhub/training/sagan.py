"""Trains a SAGAN: convolutions, and one layer in each network in which every pixel sees all others.

    ganhub train sagan --data SET.zip --out runs/sagan [--resume [CHECKPOINT]]

"Self-Attention Generative Adversarial Networks" (Zhang et al., 2019, arXiv:1805.08318): hinge loss, spectral
normalisation in both networks, and a discriminator that learns four times as fast. The networks are those of
heykeetae/Self-Attention-GAN, which know no classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor, nn

from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.models import sagan
from ganhub.models._chain import Spec
from ganhub.training.options import option
from ganhub.training.pair import Pair, Shared, side
from ganhub.training.workers import Workers

KIMG, SNAP = 1000, 25


@dataclass(frozen=True)
class Settings(Shared):
    z_dim: int = option(128, "width of the latent")
    ngf: int = option(64, "channels of G before the picture; every halving of its side doubles them")
    ndf: int = option(64, "channels of D behind the picture; every halving of its side doubles them")
    attention: int = option(32, "side of the maps in which pixels see each other")
    loss: str = option("hinge", "hinge or bce (binary cross-entropy)")
    batch: int = option(64, "pictures of a step, over all processes")
    lr_g: float = option(1e-4, "learning rate of G")
    lr_d: float = option(4e-4, "learning rate of D")
    beta1: float = option(0.0, "of Adam")
    beta2: float = option(0.9, "of Adam")
    precision: str = option("auto", "float32 or bfloat16")


class Trainer(Pair):
    """Everything that a state of the training holds, and one step."""

    recipe = family = "sagan"

    def __init__(self, settings: Settings, data: PictureSet, workers: Workers | None = None):
        s, size = settings, side(data, least=16)
        sides = [4 << k for k in range(int(log2(size)) - 2)]
        if s.attention not in sides:
            raise BadInput(f"--attention is {s.attention}; maps of these networks have {sides} pixels a side.")
        torch.manual_seed(s.seed)
        common = {"img_channels": data.channels, "img_size": [size, size]}
        G: Any = sagan.build("G", {**common, "layers": generator(s, sides, data.channels), "z_dim": s.z_dim})
        D: Any = sagan.build("D", {**common, "layers": discriminator(s, sides, data.channels)})
        for network in (G, D):
            for layer in network.modules():
                if isinstance(layer, sagan._Spectral):
                    nn.init.orthogonal_(layer.weight_bar)
                    nn.init.zeros_(layer.bias)
                    layer.weight_u = nn.functional.normalize(torch.randn_like(layer.weight_u), dim=0)
                    layer.weight_v = nn.functional.normalize(torch.randn_like(layer.weight_v), dim=0)
            network.advance(15)
        super().__init__(s, data, workers, G, D)

    def step(self) -> dict[str, Tensor]:
        figures = super().step()
        for network in (self.G, self.D, self.average):
            network.advance()
        return figures


def generator(s: Settings, sides: list[int], channels: int) -> list[Spec]:
    """Layers of G: one pixel of the latent -> 4x4, then doubled up to the picture."""
    layers: list[Spec] = []
    before = s.z_dim
    for number, size in enumerate(sides):
        width = s.ngf << (len(sides) - 1 - number)
        layers += [["spectral_t", before, width, 4, *((2, 1) if number else (1, 0))], ["norm", width, 1e-5], ["relu"]]
        layers += [["attention", width, max(width // 8, 1)]] * (size == s.attention)
        before = width
    return [*layers, ["conv_t", before, channels, 4, 2, 1, 0, True], ["tanh"]]


def discriminator(s: Settings, sides: list[int], channels: int) -> list[Spec]:
    """Layers of D: halved from the picture down to 4x4, and that to one number."""
    layers: list[Spec] = []
    before = channels
    for number, size in enumerate(reversed(sides)):
        width = s.ndf << number
        layers += [["spectral", before, width, 4, 2, 1], ["leaky_relu", 0.1]]
        layers += [["attention", width, max(width // 8, 1)]] * (size == s.attention)
        before = width
    return [*layers, ["conv", before, 1, 4, 1, 0, True]]
