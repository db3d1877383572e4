"""Spectral normalisation (Miyato et al., 2018) as published files keep it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_OLD = ("weight_orig", "weight_u", "weight_v")  # torch.nn.utils.spectral_norm
_NEW = ("parametrizations.weight.original", "parametrizations.weight.0._u", "parametrizations.weight.0._v")


def fold(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that torch's spectral normalisation gives in eval mode, under their plain names, in place."""
    folded = dict(tensors)
    for weight, u, v in (_OLD, _NEW):
        for key in [key for key in tensors if key.endswith(weight) and key.removesuffix(weight) + u in tensors]:
            prefix = key.removesuffix(weight)
            scale = sigma(tensors[key], tensors[prefix + u], tensors.get(prefix + v))
            folded = {prefix + "weight" if k == key else k: t for k, t in folded.items()}
            folded[prefix + "weight"] = tensors[key] / scale
            folded.pop(prefix + u)
            folded.pop(prefix + v, None)
    return folded


def sigma(weight: Tensor, u: Tensor, v: Tensor | None) -> Tensor:
    """The estimate of the largest singular value that u and v give; files of before 2019 keep u alone.

    u runs over the outputs, which are the second axis of a transposed convolution. Where both axes have the length
    of u, it is the axis along which u is nearer to a singular vector.
    """
    values = []
    for axis in (0, 1):
        if weight.dim() > axis and weight.shape[axis] == u.numel():
            matrix = weight.transpose(0, axis).reshape(u.numel(), -1)
            right = F.normalize(matrix.T @ u, dim=0, eps=1e-12) if v is None else v
            values.append(torch.dot(u, matrix @ right))
    return max(values, key=abs)
