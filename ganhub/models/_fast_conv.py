"""Convolutions of fixed weights for inference on a CPU. They stay differentiable in their input."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TILES = 1024
"""So many 2x2 tiles at a time keep Winograd's intermediate values in the cache."""


@cache
def bfloat16_pays(kind: str) -> bool:
    """A device of this kind multiplies in bfloat16 faster than in float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fixed_conv(weight: Tensor, size: tuple[int, int], up: bool = False) -> nn.Module:
    """The fastest module for `convolve2d` with a weight [C_out, C_in, k, k] and inputs of `size` (height, width)."""
    wide = min(weight.shape[:2]) >= 256 and weight.shape[2:] == (3, 3) and size[0] * size[1] >= 256
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and wide and not up:
        return Winograd(weight)
    return Packed(weight, size, up)


def convolve2d(x: Tensor, w: Tensor, b: Tensor | None = None, up: bool = False) -> Tensor:
    """`conv2d` that keeps the size, or `conv_transpose2d` of stride 2; w [C_out, C_in, k, k] for both."""
    if up:
        return F.conv_transpose2d(x, w.transpose(0, 1), b, stride=2)
    return F.conv2d(x, w, b, padding=w.shape[-1] // 2)


@cache
def _can_pack(kind: str) -> bool:
    names = [f"_reorder_convolution_{n}" for n in ("weight", "transpose_weight")]
    names += [f"_convolution_{n}" for n in ("pointwise", "transpose_pointwise")]
    return kind == "cpu" and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, n) for n in names)


class Packed(nn.Module):
    """Weights that lie in the layout of the CPU's kernels, which else are reordered at every call."""

    weight: Tensor

    def __init__(self, weight: Tensor, size: tuple[int, int], up: bool = False):
        super().__init__()
        self.up, self.padding = up, 0 if up else weight.shape[-1] // 2
        self.packed = _can_pack(weight.device.type)
        weight = weight.contiguous(memory_format=torch.channels_last)
        pair, shape = [self.padding] * 2, [1, weight.shape[1], *size]
        if self.packed and up:
            reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
            weight = reorder(weight.transpose(0, 1), pair, [0, 0], [2, 2], [1, 1], 1, shape)
        elif self.packed:
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, pair, [1, 1], [1, 1], 1, shape)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pair, w = [self.padding] * 2, self.weight
        if self.packed and not (torch.is_grad_enabled() and x.requires_grad):
            if self.up:
                convolve = torch.ops.mkldnn._convolution_transpose_pointwise
                return convolve(x, w, None, pair, [0, 0], [2, 2], [1, 1], 1, "none", [], "")
            return torch.ops.mkldnn._convolution_pointwise(x, w, None, pair, [1, 1], [1, 1], 1, "none", [], "")
        return convolve2d(x, w.to_dense() if self.packed else w, up=self.up)


class Winograd(nn.Module):
    """A 3x3 convolution by F(2x2, 3x3): 16 products for 4 pixels instead of 36, and a smaller rounding error.

    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308). Twice as fast where there
    are many channels, which is where moving the transformed values costs little against the products.
    """

    weight: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        out, inputs = weight.shape[:2]
        g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
        w = torch.einsum("ap,oipq,bq->abio", g, weight.double(), g).reshape(16, inputs, out)
        self.register_buffer("weight", w.to(weight.dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        if (torch.is_grad_enabled() and x.requires_grad) or h % 2 or w % 2:
            return convolve2d(x, self.dense())
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        out = x.new_empty(n, h, w, self.weight.shape[2])
        at_once, rows = max(1, _TILES // (h * w // 4)), max(1, _TILES // (w // 2))
        for i in range(0, n, at_once):
            for r in range(0, h, 2 * rows):
                self._tiles(padded[i : i + at_once, r : r + 2 * rows + 2], out[i : i + at_once, r : r + 2 * rows])
        return out.permute(0, 3, 1, 2)

    def dense(self) -> Tensor:
        """The weight [C_out, C_in, 3, 3]."""
        w = self.weight.reshape(4, 4, *self.weight.shape[1:])
        w = torch.stack([w[0], w[1] - w[2], w[3]])
        w = torch.stack([w[:, 0], w[:, 1] - w[:, 2], w[:, 3]], dim=1)
        return w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def _tiles(self, x: Tensor, out: Tensor) -> None:
        """x [n, h + 2, w + 2, C_in] -> out [n, h, w, C_out]."""
        n, h, w, channels = out.shape
        even, odd = x[:, 0::2], x[:, 1::2]
        e0, e1, o0, o1 = even[:, :-1], even[:, 1:], odd[:, :-1], odd[:, 1:]
        v = x.new_empty(4, 4, n, h // 2, w // 2, x.shape[3])
        for a, row in enumerate((e0 - e1, o0 + e1, e1 - o0, o0 - o1)):
            even, odd = row[:, :, 0::2], row[:, :, 1::2]
            e0, e1, o0, o1 = even[:, :, :-1], even[:, :, 1:], odd[:, :, :-1], odd[:, :, 1:]
            torch.sub(e0, e1, out=v[a, 0])
            torch.add(o0, e1, out=v[a, 1])
            torch.sub(e1, o0, out=v[a, 2])
            torch.sub(o0, o1, out=v[a, 3])
        m = torch.bmm(v.view(16, -1, x.shape[3]), self.weight).view(4, 4, n, h // 2, w // 2, channels)
        upper = (m[:, 0] + m[:, 1]).add_(m[:, 2])
        lower = (m[:, 1] - m[:, 2]).sub_(m[:, 3])
        for b, column in enumerate((upper, lower)):
            torch.add(column[0], column[1], out=out[:, 0::2, b::2]).add_(column[2])
            torch.sub(column[1], column[2], out=out[:, 1::2, b::2]).sub_(column[3])
