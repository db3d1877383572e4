"""Where the eyes of a face are, and whether it is a face: a small convolutional network of this project.

It looks at grey windows that a detector cut around what may be a face (`ganhub.data.faces`), each by itself and
whatever its brightness and contrast. Trained by `ganhub.training.eyes`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.models import load_strictly

SIDE = 64
"""Of a window, in pixels."""
USUAL = [[0.344, 0.414], [0.656, 0.414]]
"""Where a face has its eyes in its window, in shares of the side."""


class Eyes(nn.Module):
    """Windows [N, 1, 64, 64], of any range -> eyes [N, 2, 2] and faces [N].

    Eyes are (x, y) of the left and of the right one as seen in the window, in shares of its side; faces are logits.
    """

    def __init__(self, widths: list[int]):
        super().__init__()
        self.config = {"widths": widths}
        layers: list[nn.Module] = []
        for before, width in zip([1, *widths], widths, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)
        side = SIDE // 2 ** len(widths)
        self.head = nn.Sequential(nn.Linear(widths[-1] * side * side, 64), nn.ReLU(inplace=True), nn.Linear(64, 5))

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        x = windows.flatten(1)
        x = (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 0.01)
        x = self.head(self.body(x.view(-1, 1, SIDE, SIDE)).flatten(1))
        return x[:, :4].view(-1, 2, 2) + x.new_tensor(USUAL), x[:, 4]


def detect(raw: RawCheckpoint) -> bool:
    return any(
        "head.2.bias" in network.tensors
        and network.tensors["head.2.bias"].shape == (5,)
        and network.tensors.get("body.0.weight", network.tensors["head.2.bias"]).shape[1:] == (1, 3, 3)
        for network in raw.networks.values()
    )


def read(raw: RawCheckpoint, part: str = "G") -> nn.Module:
    """The network of a state dict of `Eyes`.

    Raises:
        CheckpointError: a tensor is missing, foreign or of another shape.
    """
    tensors = next(network.tensors for network in raw.networks.values() if "head.2.bias" in network.tensors)
    convolutions = [t for key, t in tensors.items() if key.startswith("body.") and t.dim() == 4]
    network = build(part, {"widths": [len(t) for t in convolutions]})
    load_strictly(network, tensors, raw.name)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Eyes(**config)
