"""Trains a DCGAN on a folder of pictures, on a CPU, in an afternoon.

    ganhub train dcgan --data SET.zip --out runs/dcgan [--loss hinge --spectral] [--resume [CHECKPOINT]]

"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks" (Radford et al., 2015,
arXiv:1511.06434). By default the networks and the loss are the paper's. What makes it work on some ten thousand
pictures is the hinge loss with spectral normalisation (Miyato et al., 2018, arXiv:1802.05957), an average of the
generator's weights, and, where D learns the pictures by heart, `--aug ada`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ganhub.data.dataset import PictureSet
from ganhub.models import dcgan
from ganhub.models._chain import Spec
from ganhub.models._spectral import fold
from ganhub.training.options import option
from ganhub.training.pair import Pair, Shared, side
from ganhub.training.workers import Workers

KIMG, SNAP = 1000, 25


@dataclass(frozen=True)
class Settings(Shared):
    z_dim: int = option(100, "width of the latent")
    ngf: int = option(64, "channels of G before the picture; every halving of its side doubles them")
    ndf: int = option(64, "channels of D behind the picture; every halving of its side doubles them")
    loss: str = option("bce", "bce (binary cross-entropy) or hinge")
    spectral: bool = option(False, "spectral normalisation in D, in place of BatchNorm")
    batch: int = option(64, "pictures of a step, over all processes")
    lr_g: float = option(2e-4, "learning rate of G")
    lr_d: float = option(2e-4, "learning rate of D")
    beta1: float = option(0.5, "of Adam")
    beta2: float = option(0.999, "of Adam")
    precision: str = option("auto", "float32 or bfloat16")


class Trainer(Pair):
    """Everything that a state of the training holds, and one step."""

    recipe = family = "dcgan"

    def __init__(self, settings: Settings, data: PictureSet, workers: Workers | None = None):
        s, halvings = settings, int(log2(side(data, least=16))) - 2
        torch.manual_seed(s.seed)
        G = dcgan.build("G", dcgan.plain(s.z_dim, [s.ngf << k for k in reversed(range(halvings))], data.channels))
        D = dcgan.build("D", discriminator([s.ndf << k for k in range(halvings)], data, norm=not s.spectral))
        for layer in [*G.modules(), *D.modules()]:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
        if s.spectral:
            # The last layer is free: bounded as well, D stays inside the margin of its loss and learns slowly.
            for layer in [layer for layer in D.modules() if isinstance(layer, nn.Conv2d)][:-1]:
                nn.init.orthogonal_(layer.weight)
                spectral_norm(layer)
        super().__init__(s, data, workers, G, D)

    def networks(self) -> dict[str, nn.Module]:
        """D with its normalisation folded into the weights."""
        D = dcgan.build("D", self.D.config)
        D.load_state_dict(fold(self.D.state_dict()))
        return {"G_train": self.G, "D": D}


def discriminator(widths: list[int], data: PictureSet, norm: bool) -> dict:
    """Config of a D that halves the picture down to 4x4 and takes that to one number."""
    layers: list[Spec] = []
    for number, (before, width) in enumerate(zip([data.channels, *widths], widths, strict=False)):
        normed = norm and number > 0  # as in the paper, not behind the picture
        layers.append(["conv", before, width, 4, 2, 1, not normed])
        layers += [["norm", width, 1e-5]] * normed + [["leaky_relu", 0.2]]
    layers.append(["conv", widths[-1], 1, 4, 1, 0, True])
    return {"layers": layers, "img_channels": data.channels, "img_size": list(data.size)}
