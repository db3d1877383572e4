"""What two pictures differ in for a network that has learned to see, instead of pixel by pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ganhub import checkpoint, hub, models
from ganhub.errors import BadInput
from ganhub.registry import load_registry


class SmallFeatures(nn.Module):
    """The two lower depths of this project's `features-small`: the substitute where VGG's file is absent.

    It saw fruit, digits and portraits and not a million photographs, so it knows edges, grain and colour, and hardly
    any objects.
    """

    name = "features-small"

    def __init__(self) -> None:
        super().__init__()
        net: Any = _network(self.name)
        self.stages = nn.ModuleList([net.low[0], net.low[1], net.middle])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures [N, 3, H, W] in [0, 1] -> activations at three depths."""
        x, found = x * 2 - 1, []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class VGGFeatures(nn.Module):
    """VGG-16 before its poolings, as the published SRGANs use such a network; half a gigabyte."""

    name = "vgg16"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _network(self.name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures [N, 3, H, W] in [0, 1] -> activations at five depths."""
        return self.trunk(x)


FEATURES: dict[str, Any] = {"small": SmallFeatures, "vgg": VGGFeatures}


def _network(row_id: str) -> nn.Module:
    row = load_registry().find(row_id)
    return models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family, **row.config)


class Perceptual(nn.Module):
    """The mean distance of two batches of pictures [N, 3, H, W] in [0, 1] in a network's activations.

    Every depth counts the same: its distance is divided by the mean activation of the true pictures there.

    Args:
        features: `small` or `vgg`.

    Raises:
        BadInput: there are no such features.
        FetchError: their file cannot be had.
    """

    def __init__(self, features: str):
        super().__init__()
        if features not in FEATURES:
            raise BadInput(f"--perceptual is '{features}'; choose {' or '.join(FEATURES)}.")
        self.features = FEATURES[features]().eval().requires_grad_(False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(true)
        parts = [
            (a.float() - b.float()).abs().mean() / (b.float().abs().mean() + 1e-6)
            for a, b in zip(self.features(made), wanted, strict=True)
        ]
        return torch.stack(parts).mean()
