"""LPIPS v0.1 (Zhang et al., 2018, https://arxiv.org/abs/1801.03924): how different two pictures look.

The published files (`lin0.model.1.weight`, ...) hold one weight for every channel of the activations of AlexNet or VGG
(`ganhub.models.vgg`), which is a file of its own: the row names it as its component `features`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import load_strictly

KEY = re.compile(r"lin(\d+)\.model\.1\.weight")


class Heads(nn.Module):
    """Two lists of activations [N, C, h, w] -> distances [N]: weighted squares of what differs, once each position's
    activations have the length 1; means over positions, summed over depths."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.config = {"widths": list(widths)}
        self.weights = nn.ParameterList(torch.zeros(1, width, 1, 1) for width in widths)

    def forward(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        found = [
            (weight * (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)) ** 2).sum(1).mean((1, 2))
            for weight, x, y in zip(self.weights, a, b, strict=True)
        ]
        return torch.stack(found).sum(0)


class LPIPS(nn.Module):
    """Two batches [N, 3, H, W] in [0, 1] -> distances [N]; differentiable with respect to both.

    Args:
        trunk: a `vgg.Trunk` whose depths have the widths of the heads.

    Raises:
        CheckpointError: they do not fit each other.
    """

    def __init__(self, trunk: Any, heads: Any):
        super().__init__()
        if trunk.widths != heads.config["widths"]:
            raise CheckpointError(
                f"These LPIPS heads are for activations of {heads.config['widths']} channels and the network gives "
                f"{trunk.widths}; name the network that they belong to as `components: {{features: ...}}` of their row."
            )
        self.trunk, self.heads = trunk, heads

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.heads(self.trunk(a), self.trunk(b))


def detect(raw: RawCheckpoint) -> bool:
    return any(network.tensors and all(map(KEY.fullmatch, network.tensors)) for network in raw.networks.values())


def read(raw: RawCheckpoint, part: str = "G") -> nn.Module:
    """The heads of a published file.

    Raises:
        CheckpointError: it holds something else, or a tensor does not fit.
    """
    if not detect(raw):
        raise CheckpointError(f"{raw.name} holds no heads of LPIPS ('lin0.model.1.weight', ...).")
    tensors = next(n.tensors for n in raw.networks.values() if n.tensors and all(map(KEY.fullmatch, n.tensors)))
    renamed = {f"weights.{int(KEY.fullmatch(key)[1])}": value for key, value in tensors.items()}  # type: ignore[index]
    if any(value.dim() != 4 for value in tensors.values()):
        raise CheckpointError(f"{raw.name} does not fit LPIPS: its weights must be [1, channels, 1, 1].")
    heads = Heads([value.shape[1] for _, value in sorted(renamed.items(), key=lambda item: int(item[0][8:]))])
    load_strictly(heads, renamed, raw.name)
    return heads


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Heads(**config)
