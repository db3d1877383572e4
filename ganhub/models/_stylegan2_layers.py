"""The layers that the StyleGAN2 generator and discriminator share: equalised learning rate, resampling, mapping."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.errors import BadInput
from ganhub.models._ops import act_in_place, bias_act, conv2d_resample, normalize_2nd_moment, split_gain


class FullyConnected(nn.Module):
    """`act(x @ W^T * gain + b * lr)`: weights of unit variance, scaled at run time (equalised learning rate)."""

    def __init__(self, inputs: int, outputs: int, act: str = "linear", lr: float = 1.0, bias: float | None = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), bias))
        self.act, self.lr, self.gain = act, lr, lr / sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.gain == self.lr == 1:
            return bias_act(F.linear(x, self.weight, self.bias), act=self.act)
        b = None if self.bias is None else self.bias * self.lr
        return bias_act(F.linear(x, self.weight * self.gain, b), act=self.act)

    def fold(self) -> None:
        """Scales the weights once and for all, for inference."""
        with torch.no_grad():
            self.weight.mul_(self.gain)
            if self.bias is not None:
                self.bias.mul_(self.lr)
        self.gain = self.lr = 1.0


class Conv(nn.Module):
    """Convolution with equalised learning rate, resampling, bias, activation and clamp."""

    f: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        act: str = "linear",
        up: int = 1,
        down: int = 1,
        f: Tensor | None = None,
        clamp: float | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("f", f, persistent=False)
        self.act, self.up, self.down, self.clamp = act, up, down, clamp
        self.gain, self.padding = 1 / sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        before, after = split_gain(self.act, gain, x.dtype)
        w = (self.weight * (self.gain * before)).to(x.dtype)
        b = None if self.bias is None else (self.bias if before == 1 else self.bias * before).to(x.dtype)
        late = b is not None and x.dtype == torch.float16  # rounded in between, as the published networks were
        x = conv2d_resample(
            x, w, self.f, self.up, self.down, self.padding, flip_weight=self.up == 1, bias=None if late else b
        )
        if b is not None and late:
            x = x + b[:, None, None]
        return act_in_place(x, self.act, after, None if self.clamp is None else self.clamp * gain)


class Mapping(nn.Module):
    """z [N, z_dim] and classes [N, c_dim] -> w [N, w_dim].

    `labels` tells how classes come in: `embed` (ADA: an embedding, normalised by itself) or `concat` (the first
    StyleGAN2: a matrix without bias, normalised together with z).
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        features: Sequence[int],
        embed_features: int = 0,
        lr: float = 0.01,
        act: str = "lrelu",
        labels: str = "embed",
        w_avg_beta: float | None = 0.995,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.labels, self.w_avg_beta = z_dim, c_dim, labels, w_avg_beta
        if c_dim:
            self.embed = FullyConnected(c_dim, embed_features, bias=0.0 if labels == "embed" else None)
        widths = [z_dim + (embed_features if c_dim else 0), *features]
        for i in range(len(features)):
            self.add_module(f"fc{i}", FullyConnected(widths[i], widths[i + 1], act, lr))
        self.num_layers = len(features)
        if w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(widths[-1]))

    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        dtype = next(self.parameters()).dtype
        parts = []
        if self.z_dim:
            if z is None or z.ndim != 2 or z.shape[1] != self.z_dim:
                shape = None if z is None else list(z.shape)
                raise BadInput(f"This network takes latents of shape [N, {self.z_dim}], not {shape}.")
            parts.append(z.to(dtype))
        if self.c_dim:
            if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
                shape = None if c is None else list(c.shape)
                raise BadInput(f"This network takes one-hot classes of shape [N, {self.c_dim}], not {shape}.")
            parts.append(self.embed(c.to(dtype)))
        if self.labels == "embed":
            x = torch.cat([normalize_2nd_moment(part) for part in parts], dim=1)
        else:
            x = normalize_2nd_moment(torch.cat(parts, dim=1))
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x
