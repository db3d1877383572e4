"""Arrays of cases of fully connected GANs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import dcgan
from .cases import Case
from .rules import Ask, Rules, Skip

RULES = Rules()


def config(case: Case) -> dict[str, Any]:
    pictures = [a for k, a in {**case.inputs, **case.outputs}.items() if k.startswith("im") and a.ndim == 4]
    return {"img_size": list(pictures[0].shape[2:]), "img_channels": pictures[0].shape[1]} if pictures else {}


@RULES.on("G", r"raw", given="z")
def raw(ask: Ask) -> Tensor:
    """Rows of a picture one after the other, as the last layer gives them."""
    return dcgan.generate(ask, ask.net, "z").reshape(ask.shape)


@RULES.on("G", r"image_denorm", given="z")
def image_denorm(ask: Ask) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (dcgan.generate(ask, ask.net, "z") / 2 + 0.5).clamp(0, 1).reshape(ask.shape)


@RULES.on("D", r"D_noise_uniform")
def verdict_on_noise(ask: Ask) -> Tensor:
    net: Any = ask.net
    pixels = net.img_channels * net.img_size[0] * net.img_size[1]
    noise = 2 * np.random.RandomState(1).rand(ask.shape[0], pixels) - 1
    return net(torch.from_numpy(noise.astype(np.float32))).reshape(ask.shape)


@RULES.on("D", r"D")
def verdict(ask: Ask) -> Tensor:
    held = [name for name in ("raw", "img") if name in ask.case.outputs]
    pictures = ask.stored(held[0]) if held else ask.tensor("img")
    return ask.net(pictures).reshape(ask.shape)


@RULES.on("", r"lenet_.*")
def classifier(ask: Ask) -> Tensor:
    raise Skip("a classifier, not a family")


RULES += dcgan.RULES
