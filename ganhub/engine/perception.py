"""How different two pictures look to a network that sees.

The distance is that of LPIPS (Zhang et al., 2018, https://arxiv.org/abs/1801.03924): activations at several depths,
each position's of length 1, squares of what differs, weighted by channel, means over positions, summed over depths. The
networks are those with `activations` and `widths`: VGG and AlexNet, for which LPIPS has weights, and the small features
of this project, for which all weights are 1 (such a distance is no LPIPS and compares with nothing but itself).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub.errors import BadInput

LARGEST = 256
"""Pictures with a longer side are made so small before they are looked at, by area, as NVIDIA's projector does."""


def check_eyes(item: dict[str, Any], facts: dict[str, Any] | None) -> None:
    """A network that sees is there, and the weights of an item are its own.

    Raises:
        BadInput: it is not, or they are not.
    """
    if facts is None or not facts["widths"]:
        raise BadInput("Pictures are compared by a network of features; name one, such as features-small or vgg16.")
    heads = item.get("heads")
    if heads is not None and (not isinstance(heads, np.ndarray) or heads.shape != (sum(facts["widths"]),)):
        raise BadInput(f"'heads' must be {sum(facts['widths'])} weights, one for each channel that is compared.")
    if heads is not None and not (np.isfinite(heads).all() and (heads >= 0).all()):
        raise BadInput("'heads' must be finite weights that are not negative.")


def pixels_of(pictures: Iterable[np.ndarray], device: torch.device) -> Tensor:
    """uint8 [H, W, 1 or 3] each -> float32 [N, C, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.stack(list(pictures))).to(device).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def features(eyes: Any, images: Tensor, heads: Tensor) -> Tensor:
    """What is compared of pictures [N, 1 or 3, H, W] in [-1, 1], by weights [channels]: [N, K].

    The squared distance of two rows is the distance of their pictures.
    """
    x = ((images.float() + 1) / 2).expand(-1, 3, -1, -1)
    height, width = x.shape[2:]
    if max(height, width) > LARGEST:
        shrink = LARGEST / max(height, width)
        x = F.interpolate(x, (round(height * shrink), round(width * shrink)), mode="area")
    found = []
    for seen, weights in zip(eyes.activations(x), heads.split(eyes.widths), strict=True):
        unit = seen * (seen.square().sum(1, keepdim=True) + 1e-10).rsqrt()
        scale = (weights / (seen.shape[2] * seen.shape[3])).sqrt()
        found.append((unit * scale[:, None, None]).flatten(1))
    return torch.cat(found, 1)


def heads_of(item: dict[str, Any], eyes: Any, device: torch.device) -> Tensor:
    """An item's weights, else ones: [channels]."""
    heads = item.get("heads")
    return torch.ones(sum(eyes.widths), device=device) if heads is None else torch.from_numpy(heads).float().to(device)
