"""A network of our own that says of a picture what it shows: one number for each attribute, above 0 where it has it.

Its trunk is that of the small features (`features.py`); beside their means it reads where in the picture they are, so
that it sees what is small and stands in one place, such as glasses. `ganhub/training/attributes.py` trains it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models.features import FeatureNet


class AttributeNet(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1] -> log odds [N, K] of its attributes.

    Args:
        attributes: their names, in order.
        widths: of the trunk.
        size: side at which it looks.
        places: numbers that it reads at each of 8 x 8 places.
    """

    def __init__(self, attributes: list[str], widths: list[int], size: int = 64, places: int = 8):
        super().__init__()
        self.config = {"attributes": list(attributes), "widths": list(widths), "size": size, "places": places}
        self.attributes = list(attributes)
        self.trunk = FeatureNet(list(widths), size)
        self.places = nn.Conv2d(widths[2], places, 1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(self.trunk.dim + places * (size // 8) ** 2, len(attributes))

    def encode_image(self, x: Tensor) -> Tensor:
        """As the engine asks what a network sees."""
        return self(x)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.trunk.size, self.trunk.size)
        x = F.interpolate(x, size, mode="bilinear", antialias=True) if x.shape[2:] != size else x
        _, low, middle, high = self.trunk._depths(x)
        seen = torch.cat([low.mean((2, 3)), high.mean((2, 3)), F.relu(self.places(middle)).flatten(1)], 1)
        return self.head(self.drop(seen))


def detect(raw: RawCheckpoint) -> bool:
    return False  # only files of our own, whose header says it


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    raise CheckpointError(f"{raw.name} is no network of attributes written by this project.")


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """Small enough to stay as it is in either precision."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return AttributeNet(**config)
