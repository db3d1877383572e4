"""The convolutions of VGG (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556) and of AlexNet.

Read from torchvision's published files (`features.N.weight`), whose classifiers are left out. What comes out is what
perceptual distances compare: the activations before every pooling.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import load_strictly
from ganhub.models._fast_conv import bfloat16_pays

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pictures that torchvision's networks learned from."""
ALEXNET = (0, 3, 6, 8, 10)
"""Places of AlexNet's convolutions."""


class Trunk(nn.Module):
    """Pictures [N, 3, H, W] in [0, 1] -> activations [N, C, h, w] at every depth, from near to far.

    Args:
        architecture: `alexnet`, which gives the activations of its five convolutions, or `vgg`, which gives those
            before its poolings (relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 of VGG-16).
        stages: widths of the convolutions between two poolings.

    Attributes:
        widths: channels of each depth.
        least: pixels that a side needs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: str, stages: list[list[int]]):
        super().__init__()
        self.config = {"architecture": architecture, "stages": [list(stage) for stage in stages]}
        layers: list[nn.Module] = []
        self.depths: list[int] = []
        self.widths: list[int] = []
        before = 3
        for number, stage in enumerate(stages):
            for place, width in enumerate(stage):
                layers += [_convolution(architecture, sum(map(len, stages[:number])) + place, before, width), nn.ReLU()]
                before = width
                if architecture == "alexnet" or place == len(stage) - 1:
                    self.depths.append(len(layers) - 1)
                    self.widths.append(width)
            if number < len(stages) - 1:
                layers.append(nn.MaxPool2d(3, 2) if architecture == "alexnet" else nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.least = 31 if architecture == "alexnet" else 2 ** (len(stages) - 1)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        kind = next(self.features.parameters()).dtype
        x, found = ((x - self.mean) / self.std).to(kind), []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.depths:
                found.append(x.float())
        return found

    activations = forward


def _convolution(architecture: str, place: int, before: int, width: int) -> nn.Conv2d:
    if architecture == "alexnet" and place == 0:
        return nn.Conv2d(before, width, 11, 4, 2)
    side = 5 if architecture == "alexnet" and place == 1 else 3
    return nn.Conv2d(before, width, side, 1, side // 2)


def detect(raw: RawCheckpoint) -> bool:
    return any(_config(network.tensors) is not None for network in raw.networks.values())


def read(raw: RawCheckpoint, part: str = "G") -> nn.Module:
    """The convolutions of a published file; its classifier is left out.

    Raises:
        CheckpointError: it is neither VGG (without batch normalisation) nor AlexNet, or a tensor does not fit.
    """
    for network in raw.networks.values():
        config = _config(network.tensors)
        if config is not None:
            trunk = Trunk(**config)
            load_strictly(trunk, _features(network.tensors), raw.name)
            return trunk
    raise CheckpointError(f"{raw.name} holds no VGG or AlexNet of torchvision ('features.0.weight', ...).")


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """Convolutions in the layout of their kernels; in bfloat16 where the device gains by it, for the fast precision."""
    if precision == "fast" and bfloat16_pays(next(network.parameters()).device.type):
        network.features.to(torch.bfloat16)  # type: ignore[operator, union-attr]
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Trunk(**config)


def _features(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith("features.")}


def _config(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """What places and shapes tell; None for networks of other families."""
    found = _features(tensors)
    if any(not re.fullmatch(r"features\.\d+\.(weight|bias)", key) for key in found):
        return None
    weights = {int(key.split(".")[1]): value for key, value in found.items() if key.endswith("weight")}
    places = sorted(weights)
    if len(found) != 2 * len(places) or not places or any(w.dim() != 4 for w in weights.values()):
        return None
    sides = [tuple(weights[place].shape[2:]) for place in places]
    widths = [len(weights[place]) for place in places]
    if weights[places[0]].shape[1] != 3:
        return None
    if tuple(places) == ALEXNET and sides[:2] == [(11, 11), (5, 5)]:
        return {"architecture": "alexnet", "stages": [widths[:1], widths[1:2], widths[2:]]}
    steps = [after - place for place, after in zip(places, places[1:], strict=False)]
    if places[0] != 0 or set(sides) != {(3, 3)} or not set(steps) <= {2, 3} or 3 not in steps:
        return None
    stages = [[widths[0]]]
    for step, width in zip(steps, widths[1:], strict=True):
        if step == 3:
            stages.append([])
        stages[-1].append(width)
    return {"architecture": "vgg", "stages": stages}
