"""BlazeFace: faces of a picture with six points of each (Bazarevsky et al., 2019, https://arxiv.org/abs/1907.05047).

MediaPipe's two networks as they were turned to PyTorch (hollance/BlazeFace-PyTorch): `front`, for faces as near as a
selfie's, sees 128 pixels a side, `back` 256. Both look at 16x16 places for small faces and at 8x8 for large ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import load_strictly

POINTS = ("right eye", "left eye", "nose", "mouth", "right ear", "left ear")
"""Of the person who is seen: the right eye is the left one in the picture."""
_GRIDS = ((16, 2), (8, 6))
"""Places a side, and how many faces are told at each."""
_PLANS: dict[str, tuple[int, dict[str, list[tuple[int, int]]]]] = {
    "front": (
        128,
        {
            "backbone1": [(w, 2 if w in (32, 48) else 1) for w in (24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88)],
            "backbone2": [(96, 2), (96, 1), (96, 1), (96, 1), (96, 1)],
        },
    ),
    "back": (256, {"backbone": [(w, s) for w in (24, 24, 48, 96) for s in (2, *[1] * 7)][1:]}),
}
"""Side of the picture; width and stride of every block."""


class Block(nn.Module):
    """A convolution of each channel, one across them, and the sum with what went in: [N, before, h, w]."""

    def __init__(self, before: int, after: int, stride: int, residual: bool = True):
        super().__init__()
        self.stride, self.more, self.residual = stride, after - before, residual
        depthwise = nn.Conv2d(before, before, 3, stride, 1 if stride == 1 else 0, groups=before)
        self.convs = nn.Sequential(depthwise, nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x if self.stride == 1 else F.pad(x, (0, 2, 0, 2)))
        if self.residual:
            x = x if self.stride == 1 else F.max_pool2d(x, 2)
            y = y + F.pad(x, (0, 0, 0, 0, 0, self.more))
        return F.relu(y)


class BlazeFace(nn.Module):
    """Pictures [N, 3, side, side] in [-1, 1] -> faces [N, 896, 16] and their logits [N, 896].

    A face is the middle (x, y), width and height of its box and the (x, y) of six points (`POINTS`), all in shares of
    the side. Most of the 896 are none, many the same.
    """

    places: Tensor

    def __init__(self, model: str):
        super().__init__()
        self.config = {"model": model}
        self.side, stacks = _PLANS[model]
        self.stacks: list[str] = list(stacks)
        before = 24
        layers: list[nn.Module] = [nn.Conv2d(3, 24, 5, 2), nn.ReLU()]
        for name, blocks in stacks.items():
            for after, stride in blocks:
                layers.append(Block(before, after, stride))
                before = after
            self.add_module(name, nn.Sequential(*layers))
            layers = []
        if model == "back":
            self.final = Block(96, 96, 2, residual=False)
            self.stacks.append("final")
        for (_, count), width, name in zip(_GRIDS, (88 if model == "front" else 96, 96), ("8", "16"), strict=True):
            self.add_module(f"classifier_{name}", nn.Conv2d(width, count, 1))
            self.add_module(f"regressor_{name}", nn.Conv2d(width, 16 * count, 1))
        places = [
            torch.cartesian_prod(steps, steps).flip(1).repeat_interleave(count, dim=0)
            for grid, count in _GRIDS
            for steps in [(torch.arange(grid) + 0.5) / grid]
        ]
        self.register_buffer("places", torch.cat(places), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pad(x, (1, 2, 1, 2))
        faces: list[Tensor] = []
        logits: list[Tensor] = []
        for stack, name in zip(self.stacks, ("8", "16"), strict=True):
            x = self.get_submodule(stack)(x)
            for into, kind, width in ((faces, "regressor", 16), (logits, "classifier", 1)):
                out = self.get_submodule(f"{kind}_{name}")(x).permute(0, 2, 3, 1)
                into.append(out.reshape(len(x), -1, width))
        found = torch.cat(faces, dim=1).unflatten(2, (8, 2)) / self.side
        offsets = torch.ones(8, 1, device=x.device)
        offsets[1] = 0  # width and height count from nowhere
        return (found + offsets * self.places[:, None]).flatten(2), torch.cat(logits, dim=1)[..., 0]


def _model(raw: RawCheckpoint) -> tuple[str, dict[str, Tensor]] | None:
    for network in raw.networks.values():
        if "classifier_16.weight" in network.tensors and "regressor_8.weight" in network.tensors:
            return ("front" if "backbone1.0.weight" in network.tensors else "back"), network.tensors
    return None


def detect(raw: RawCheckpoint) -> bool:
    return _model(raw) is not None


def read(raw: RawCheckpoint, part: str = "G") -> nn.Module:
    """The network of a published state dict.

    Raises:
        CheckpointError: a tensor is missing, foreign or of another shape.
    """
    found = _model(raw)
    if found is None:
        raise CheckpointError(f"{raw.name} is no BlazeFace: it lacks its classifiers.")
    network = build(part, {"model": found[0]})
    load_strictly(network, found[1], raw.name)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return BlazeFace(**config)
