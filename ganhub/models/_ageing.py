"""What networks that change the age of a face share.

network.ages                 (lowest, highest) in years where it goes from age to age; None where it goes a fixed way
network.directions           `older`, `younger`, or both
network.img_size             (height, width) of the pictures that it was trained on
network.multiple             both sides of a picture must be multiples of this
network(x, source, target)   x [N, 3, H, W] in [-1, 1], ages in years -> the same shape and range
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ganhub.errors import BadInput

DIRECTIONS = ("older", "younger")
Years = float | Tensor | None
"""One age for all pictures, or one for each: [N]."""


def check_sides(x: Tensor, multiple: int) -> None:
    """Raises:
    BadInput: a side of pictures [N, C, H, W] is no multiple.
    """
    if x.shape[2] % multiple or x.shape[3] % multiple:
        raise BadInput(f"This network takes sides that are multiples of {multiple}, not {x.shape[3]}x{x.shape[2]}.")


def dtype_of(precision: str, network: nn.Module) -> torch.dtype:
    """The type in which a precision computes on the device of a network.

    `fast` is float16 where the device multiplies in it. Its three more bits are worth 17 dB against bfloat16, which
    after nine residual blocks is left with 43 dB; activations stay far below its largest number.
    """
    device = next(network.parameters()).device.type
    halves = device == "cuda" or (device == "cpu" and _cpu_multiplies_halves())
    return torch.float16 if precision == "fast" and halves else torch.float32


def _cpu_multiplies_halves() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()


class Cast(nn.Module):
    """To a type, channels last."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)
