"""The StyleGAN2 discriminator, see `stylegan2`."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from ganhub.errors import BadInput
from ganhub.models._ops import downsample2d, setup_filter
from ganhub.models._stylegan2_layers import Conv, FullyConnected, Mapping


class MinibatchStd(nn.Module):
    """Appends to x [N, C, H, W] how much the pictures of a group differ, as `channels` constant planes.

    Raises:
        BadInput: the batch is no multiple of the group.
    """

    def __init__(self, group: int | None, channels: int):
        super().__init__()
        self.group, self.channels = group, channels

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        group = n if self.group is None else min(self.group, n)
        if n % group:
            raise BadInput(f"This discriminator takes pictures in groups of {group}; a batch of {n} is no multiple.")
        y = x.reshape(group, n // group, self.channels, c // self.channels, h, w)
        y = (y - y.mean(dim=0)).square().mean(dim=0)
        y = (y + 1e-8).sqrt().mean(dim=(2, 3, 4))
        planes = y[:, :, None, None].repeat(group, 1, h, w)
        return torch.cat([x, planes], dim=1)


class DiscriminatorBlock(nn.Module):
    """One resolution of the discriminator: x [N, C_in, H, W] -> [N, C_out, H/2, W/2]."""

    f: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        img_channels: int,
        first: bool,
        half_precision: bool,
        architecture: str,
        act: str,
        f: Tensor,
        clamp: float | None,
    ):
        super().__init__()
        self.architecture, self.dtype = architecture, torch.float16 if half_precision else None
        self.register_buffer("f", f, persistent=False)
        if first or architecture == "skip":
            self.fromrgb = Conv(img_channels, inputs, 1, act, clamp=clamp)
        self.conv0 = Conv(inputs, inputs, 3, act, clamp=clamp)
        self.conv1 = Conv(inputs, outputs, 3, act, down=2, f=f, clamp=clamp)
        if architecture == "resnet":
            self.skip = Conv(inputs, outputs, 1, down=2, f=f, bias=False)

    def forward(self, x: Tensor | None, img: Tensor | None, force_fp32: bool) -> tuple[Tensor, Tensor | None]:
        dtype = self.conv0.weight.dtype if force_fp32 or self.dtype is None else self.dtype
        if x is not None:
            x = x.to(dtype)
        if img is not None and hasattr(self, "fromrgb"):
            img = img.to(dtype)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.f) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=sqrt(0.5))
            return y + self.conv1(self.conv0(x), gain=sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """The lowest resolution of the discriminator: x [N, C, h, w] -> logits [N, 1]."""

    def __init__(
        self,
        inputs: int,
        size: Sequence[int],
        outputs: int,
        img_channels: int,
        architecture: str,
        act: str,
        clamp: float | None,
        mbstd_group_size: int | None,
        mbstd_channels: int,
    ):
        super().__init__()
        if architecture == "skip":
            self.fromrgb = Conv(img_channels, inputs, 1, act)
        if mbstd_channels:
            self.mbstd = MinibatchStd(mbstd_group_size, mbstd_channels)
        self.conv = Conv(inputs + mbstd_channels, inputs, 3, act, clamp=clamp)
        self.fc = FullyConnected(inputs * size[0] * size[1], inputs, act)
        self.out = FullyConnected(inputs, outputs)

    def forward(self, x: Tensor, img: Tensor | None, target: Tensor | None) -> Tensor:
        x = x.to(self.fc.weight.dtype)
        if img is not None and hasattr(self, "fromrgb"):
            x = x + self.fromrgb(img.to(x.dtype))
        if hasattr(self, "mbstd"):
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        return x if target is None else (x * target).sum(dim=1, keepdim=True)


class Discriminator(nn.Module):
    """The StyleGAN2 discriminator.

    Args:
        size: (height, width) of the last features, `2 ** (len(channels) - 1)` times smaller than the picture.
        channels: width of every resolution, from the picture down.
        mbstd_group_size: how many pictures are compared with each other; None for the whole batch.
        mbstd_channels: planes that tell the difference; 0 for none.
        cmap_dim: width of the mapped class.
        mapping_features, embed_features, mapping_lr, labels, others: as in `Generator`.
    """

    def __init__(
        self,
        c_dim: int = 0,
        img_channels: int = 3,
        size: Sequence[int] = (4, 4),
        channels: Sequence[int] = (32, 64, 128, 256, 512, 512, 512, 512, 512),
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_channels: int = 1,
        mapping_features: Sequence[int] = (512,) * 8,
        embed_features: int = 512,
        mapping_lr: float = 0.01,
        mapping_activation: str = "lrelu",
        labels: str = "embed",
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        resample_filter: Any = (1, 3, 3, 1),
        activation: str = "lrelu",
    ):
        super().__init__()
        self.c_dim, self.img_channels, self.labels = c_dim, img_channels, labels
        blocks = len(channels) - 1
        self.img_size = (size[0] << blocks, size[1] << blocks)
        f = setup_filter(resample_filter)
        common: dict[str, Any] = {"architecture": architecture, "act": activation, "clamp": conv_clamp}
        self.blocks = [f"b{size[0] << (blocks - i)}" for i in range(blocks)]
        for i, name in enumerate(self.blocks):
            half = blocks - i >= max(blocks + 1 - num_fp16_res, 1)
            block = DiscriminatorBlock(channels[i], channels[i + 1], img_channels, i == 0, half, f=f, **common)
            self.add_module(name, block)
        outputs = 1
        if c_dim and labels == "embed":
            self.mapping = Mapping(
                0, c_dim, mapping_features, embed_features, mapping_lr, mapping_activation, w_avg_beta=None
            )
            outputs = mapping_features[-1] if mapping_features else embed_features
        elif c_dim:
            outputs = c_dim
        self.epilogue = f"b{size[0]}"
        epilogue = DiscriminatorEpilogue(
            channels[-1],
            size,
            outputs,
            img_channels,
            mbstd_group_size=mbstd_group_size,
            mbstd_channels=mbstd_channels,
            **common,
        )
        self.add_module(self.epilogue, epilogue)

    def forward(self, img: Tensor, c: Tensor | None = None, force_fp32: bool = True) -> Tensor:
        """img [N, img_channels, H, W] in [-1, 1], c one-hot [N, c_dim] -> logits [N, 1].

        Raises:
            BadInput: pictures or classes of another shape, or a batch that is no multiple of the group.
        """
        if img.shape[1:] != (self.img_channels, *self.img_size):
            want = ", ".join(str(n) for n in (self.img_channels, *self.img_size))
            raise BadInput(f"This discriminator takes pictures of shape [N, {want}], not {list(img.shape)}.")
        x: Tensor | None = None
        rest: Tensor | None = img
        for name in self.blocks:
            x, rest = self.get_submodule(name)(x, rest, force_fp32)
        target = c
        if self.c_dim and self.labels == "embed":
            mapped = self.mapping(None, c)
            target = mapped / sqrt(mapped.shape[1])
        return self.get_submodule(self.epilogue)(x, rest, target if self.c_dim else None)
