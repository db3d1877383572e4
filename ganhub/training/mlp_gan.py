"""Trains the first kind of GAN, on handwritten digits in minutes or on small pictures of any set, on a CPU.

    ganhub train mlp_gan --out runs/digits [--resume [CHECKPOINT]]
    ganhub train mlp_gan --data SET.zip --hidden 1024 --depth 3 --z-dim 128 --out runs/art

"Generative Adversarial Networks" (Goodfellow et al., 2014, arXiv:1406.2661). The networks and the latent are those of
csinva/gan-vae-pretrained-pytorch (64-256-256-784, ReLU, tanh). Its MNIST is replaced by the 1797 digits that come with
scikit-learn (UCI, 8x8 pixels), enlarged to 28x28, turned, stretched and moved a little, which so small a set needs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ganhub import hub
from ganhub.data.dataset import PictureSet, write_set
from ganhub.errors import BadInput
from ganhub.imaging import to_uint8
from ganhub.models import mlp_gan
from ganhub.models._chain import Spec
from ganhub.training.options import option
from ganhub.training.pair import Pair, Shared
from ganhub.training.workers import Workers

KIMG, SNAP, NEEDS_DATA = 4000, 250, False
LARGEST = 64


@dataclass(frozen=True)
class Settings(Shared):
    z_dim: int = option(64, "width of the latent")
    hidden: int = option(256, "width of the hidden layers")
    depth: int = option(2, "number of hidden layers")
    dropout: float = option(0.3, "share of D's hidden values that a step leaves out")
    loss: str = option("bce", "bce (binary cross-entropy) or hinge")
    batch: int = option(128, "pictures of a step, over all processes")
    lr_g: float = option(2e-4, "learning rate of G")
    lr_d: float = option(2e-4, "learning rate of D")
    beta1: float = option(0.5, "of Adam")
    beta2: float = option(0.999, "of Adam")
    precision: str = option("float32", "float32 or bfloat16")


def own_data() -> PictureSet:
    """The digits as a set, made where the hub keeps its files."""
    pictures, labels = digits()
    file = hub.home() / "sets" / "digits.zip"
    part = file.with_name(f"digits-{os.getpid()}.zip")  # several processes may make it at once
    write_set(
        part,
        to_uint8(torch.from_numpy(pictures)),
        names=[f"digit-{number}" for number in range(len(labels))],
        labels=[int(label) for label in labels],
        license="CC-BY-4.0",
        credit="Digits: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, as in scikit-learn",
        source="https://doi.org/10.24432/C50P49",
        settings={"jitter": True},
    )
    os.replace(part, file)
    return PictureSet(file)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """float32 [1797, 1, 28, 28] in [-1, 1], white on black, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    big = []
    for image in images.reshape(-1, 8, 8) * (255 / 16):
        large = Image.fromarray(image.round().astype(np.uint8)).resize((24, 24), Image.Resampling.BICUBIC)
        big.append(np.pad(np.asarray(large, dtype=np.float32) / 255, 2))
    grey = np.stack(big)[:, None]
    crisp = np.clip((grey - 0.35) / 0.5, 0, 1)  # 8 pixels enlarged are a blur; a pen leaves an edge
    return (crisp * crisp * (3 - 2 * crisp) * 2 - 1).astype(np.float32), labels


def jitter(x: Tensor, rng: torch.Generator) -> Tensor:
    """Each picture [N, 1, H, W] turned by up to 10 degrees, stretched by up to 10 % and moved by up to 2 pixels."""
    n = len(x)
    turn, wide, high, slant, dx, dy = (torch.rand(6, n, generator=rng) * 2 - 1).to(x.device).unbind()
    angle = turn * math.radians(10)
    cos, sin = angle.cos(), angle.sin()
    wide, high, slant = 1 + 0.1 * wide, 1 + 0.1 * high, 0.15 * slant
    reach = 4 / x.shape[-1]
    theta = torch.stack([wide * cos, slant - sin, dx * reach, sin, high * cos, dy * reach], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1  # zero outside is the background


class Trainer(Pair):
    """Everything that a state of the training holds, and one step."""

    recipe = family = "mlp_gan"

    def __init__(self, settings: Settings, data: PictureSet, workers: Workers | None = None):
        s, (height, width) = settings, data.size
        if height != width or height > LARGEST:
            raise BadInput(
                f"{data.path} holds pictures of {width}x{height}; this recipe takes squares up to {LARGEST}."
            )
        if s.depth < 1:
            raise BadInput(f"--depth is {s.depth}; the networks need a hidden layer.")
        torch.manual_seed(s.seed)
        widths = [s.hidden] * s.depth
        G = mlp_gan.build("G", mlp_gan.plain(s.z_dim, widths, data.channels, height))
        D = mlp_gan.build("D", discriminator(widths, s.dropout, data))
        super().__init__(s, data, workers, G, D)
        self.jittered = bool(data.settings.get("jitter"))

    def real(self, n: int) -> Tensor:
        return jitter(super().real(n), self.rng) if self.jittered else super().real(n)


def discriminator(widths: list[int], dropout: float, data: PictureSet) -> dict:
    """Config of a D that takes all values of a picture to one number."""
    layers: list[Spec] = [["flatten"]]
    for before, width in zip([data.channels * data.size[0] * data.size[1], *widths], widths, strict=False):
        layers += [["linear", before, width, True], ["leaky_relu", 0.2], ["dropout", dropout]]
    layers.append(["linear", widths[-1], 1, True])
    return {"layers": layers, "img_channels": data.channels, "img_size": list(data.size)}
