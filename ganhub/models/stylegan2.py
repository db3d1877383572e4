"""StyleGAN2: config-f and its relatives, StyleGAN2-ADA, and the StyleGAN2 of the stylegan3 repository.

Written from "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958) and "Training Generative
Adversarial Networks with Limited Data" (arXiv:2006.06676). Modules carry the names of the published tensors
(`mapping.fc0`, `synthesis.b8.conv0`, `b4.mbstd`), so that an intermediate activation can be looked at by its name.

This is the plain form, differentiable twice: it is what one trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import _stylegan2_files as files
from ganhub.models import load_strictly
from ganhub.models._ops import act_in_place, conv2d_resample, setup_filter, split_gain, upsample2d
from ganhub.models._stylegan2_discriminator import Discriminator, DiscriminatorBlock
from ganhub.models._stylegan2_layers import Conv, FullyConnected, Mapping

Noise = Callable[[tuple[int, ...]], Tensor]

NOISE_MODES = ("const", "none", "random")


class GeneratorMapping(Mapping):
    """The mapping network with truncation: `mapping(z, c, psi, cutoff)` -> ws [N, num_ws, w_dim]."""

    def __init__(self, num_ws: int, **options: Any):
        super().__init__(**options)
        self.num_ws = num_ws

    def forward(  # type: ignore[override]
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        w = super().forward(z, c)
        if update_w_avg and self.w_avg_beta is not None:
            with torch.no_grad():
                self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        return truncate(ws, self.w_avg, psi, cutoff)


def truncate(ws: Tensor, w_avg: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
    """ws [N, num_ws, w_dim] drawn towards w_avg [w_dim] by `1 - psi`, in the first `cutoff` layers (None: all)."""
    if psi == 1:
        return ws
    drawn = w_avg.lerp(ws, psi)
    if cutoff is None:
        return drawn
    layers = torch.arange(ws.shape[1], device=ws.device)[:, None]
    return torch.where(layers < cutoff, drawn, ws)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor,
    demodulate: bool = True,
    up: int = 1,
    f: Tensor | None = None,
    noise: Tensor | None = None,
    gain: float = 1.0,
) -> Tensor:
    """Convolution whose input channels are scaled per picture, and whose output channels keep unit variance.

    Args:
        x: `[N, C_in, H, W]`.
        weight: `[C_out, C_in, k, k]`.
        styles: `[N, C_in]`.
        bias: `[C_out]`, added last.
        noise: `[N or 1, 1, H * up, W * up]`, added after the convolution.
        gain: of the sum of all.

    Returns:
        `[N, C_out, H * up, W * up]`.
    """
    if x.dtype == torch.float16 and demodulate:  # demodulation cancels any scale; half precision needs a small one
        peak = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
        weight = weight / (peak * sqrt(prod(weight.shape[1:])))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    y = x * styles.to(x.dtype)[:, :, None, None]
    resample: dict[str, Any] = {"up": up, "padding": weight.shape[-1] // 2, "flip_weight": up == 1}
    bias = (bias if gain == 1 else bias * gain).to(x.dtype)
    if not demodulate:
        weight = weight if gain == 1 else weight * gain
        return conv2d_resample(y, weight.to(x.dtype), f, **resample, bias=bias)
    y = conv2d_resample(y, weight.to(x.dtype), f, **resample)
    # Every pass over the pixels costs as much as the convolution on a CPU: the gain goes into the small factors.
    d = (styles.square() @ weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()
    d = (d if gain == 1 else d * gain).to(x.dtype)[:, :, None, None]
    b = bias[:, None, None]
    if noise is None:
        return torch.addcmul(b, y, d)
    return torch.addcmul((noise if gain == 1 else noise * gain).to(x.dtype), y, d).add_(b)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, activation."""

    noise_const: Tensor
    f: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        size: tuple[int, int],
        kernel: int = 3,
        up: int = 1,
        act: str = "lrelu",
        use_noise: bool = True,
        f: Tensor | None = None,
        clamp: float | None = None,
    ):
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.use_noise = use_noise
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise_const", torch.randn(size))
        self.register_buffer("f", f, persistent=False)
        self.size, self.up, self.act, self.clamp = size, up, act, clamp

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, noise: Noise, gain: float = 1.0) -> Tensor:
        drawn = None
        if self.use_noise and noise_mode != "none":
            drawn = self.noise_const if noise_mode == "const" else noise((x.shape[0], 1, *self.size)).to(x.device)
            drawn = drawn * self.noise_strength
        before, after = split_gain(self.act, gain, x.dtype)
        x = modulated_conv2d(x, self.weight, self.affine(w), self.bias, True, self.up, self.f, drawn, before)
        return act_in_place(x, self.act, after, None if self.clamp is None else self.clamp * gain)


class ToRGB(nn.Module):
    """Features -> picture: a modulated 1x1 convolution without demodulation."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, clamp: float | None = None):
        super().__init__()
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain, self.clamp = 1 / sqrt(inputs), clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_conv2d(x, self.weight, self.affine(w) * self.gain, self.bias, demodulate=False)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: x [N, C_in, H/2, W/2] and its ws [N, 2 or 3, w_dim] -> x [N, C_out, H, W] and the picture."""

    f: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        size: tuple[int, int],
        img_channels: int,
        last: bool,
        half_precision: bool,
        architecture: str,
        f: Tensor,
        rgb_f: Tensor,
        clamp: float | None,
        **layer: Any,
    ):
        super().__init__()
        self.architecture, self.dtype = architecture, torch.float16 if half_precision else None
        self.register_buffer("f", rgb_f, persistent=False)
        if inputs:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, size, up=2, f=f, clamp=clamp, **layer)
            if architecture == "resnet":
                self.skip = Conv(inputs, outputs, 1, up=2, f=f, bias=False)
        else:
            self.const = nn.Parameter(torch.randn(outputs, *size))
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, size, clamp=clamp, **layer)
        if last or architecture == "skip":
            self.torgb = ToRGB(outputs, img_channels, w_dim, clamp)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise_mode: str, noise: Noise, force_fp32: bool
    ) -> tuple[Tensor, Tensor | None]:
        dtype = ws.dtype if force_fp32 or self.dtype is None else self.dtype
        if x is None:
            x = self.const.to(dtype).repeat(ws.shape[0], 1, 1, 1)
            x = self.conv1(x, ws[:, 0], noise_mode, noise)
        else:
            x = x.to(dtype)
            residual = self.architecture == "resnet"
            y = self.skip(x, gain=sqrt(0.5)) if residual else None
            x = self.conv0(x, ws[:, 0], noise_mode, noise)
            x = self.conv1(x, ws[:, 1], noise_mode, noise, gain=sqrt(0.5) if residual else 1.0)
            x = x if y is None else y + x
        if img is not None:
            img = upsample2d(img, self.f)
        if hasattr(self, "torgb"):
            y = self.torgb(x, ws[:, -1]).to(ws.dtype)
            img = y if img is None else img + y
        return x, img


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> pictures [N, img_channels, H, W]."""

    def __init__(
        self,
        w_dim: int,
        img_channels: int,
        const: Sequence[int],
        channels: Sequence[int],
        architecture: str,
        num_fp16_res: int,
        resample_filter: Any,
        rgb_filter: Any,
        conv_clamp: float | None,
        **layer: Any,
    ):
        super().__init__()
        f = setup_filter(resample_filter)
        rgb_f = f if rgb_filter is None else setup_filter(rgb_filter)
        # The first resolution has one convolution, every other one two; a picture layer shares the w of the
        # convolution that follows it, and the last one has its own.
        self.w_dim, self.num_ws = w_dim, 2 * len(channels)
        for i, outputs in enumerate(channels):
            size = (const[0] << i, const[1] << i)
            block = SynthesisBlock(
                channels[i - 1] if i else 0,
                outputs,
                w_dim,
                size,
                img_channels,
                last=i == len(channels) - 1,
                half_precision=i >= max(len(channels) - num_fp16_res, 1),
                architecture=architecture,
                f=f,
                rgb_f=rgb_f,
                clamp=conv_clamp,
                **layer,
            )
            self.add_module(f"b{size[0]}", block)

    def forward(
        self, ws: Tensor, noise_mode: str = "const", noise: Noise | None = None, force_fp32: bool = True
    ) -> Tensor:
        """`force_fp32=False` computes the layers that were trained in half precision in half precision."""
        check_ws(ws, self.num_ws, self.w_dim, noise_mode)
        ws = ws.to(next(self.parameters()).dtype)
        draw = noise or (lambda shape: torch.randn(shape, device=ws.device))
        x = img = None
        for i, block in enumerate(self.children()):
            x, img = block(x, img, ws[:, max(2 * i - 1, 0) : 2 * i + 2], noise_mode, draw, force_fp32)
        return cast(Tensor, img)


def check_ws(ws: Tensor, num_ws: int, w_dim: int, noise_mode: str) -> None:
    """Raises BadInput unless ws is [N, num_ws, w_dim] and the noise mode is one of `NOISE_MODES`."""
    if ws.ndim != 3 or ws.shape[1:] != (num_ws, w_dim):
        raise BadInput(f"This network takes latents of shape [N, {num_ws}, {w_dim}], not {list(ws.shape)}.")
    if noise_mode not in NOISE_MODES:
        raise BadInput(f"The noise mode '{noise_mode}' is none of {', '.join(NOISE_MODES)}.")


class Generator(nn.Module):
    """The StyleGAN2 generator.

    Args:
        z_dim, c_dim, w_dim: widths of the latents; number of classes, 0 for none.
        img_channels: 3 for colour, 1 for grey.
        const: (height, width) of the constant input; the picture is `2 ** (len(channels) - 1)` times as large.
        channels: width of every resolution, from the constant up.
        architecture: `skip` (a picture at every resolution, summed), `resnet` or `orig`.
        mapping_features: width of every layer of the mapping network, the last one w_dim.
        embed_features: width of the class embedding.
        mapping_lr: learning-rate multiplier of the mapping network, which scales its weights and biases.
        labels: `embed` (ADA) or `concat` (the first StyleGAN2).
        num_fp16_res: how many of the highest resolutions compute in half precision unless `force_fp32`.
        conv_clamp: limit of every convolution's output; None for none.
        resample_filter: taps, one row or a rectangle.
        rgb_filter: the taps that enlarge pictures, where they differ.
    """

    z_distribution = "normal"

    def __init__(
        self,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_channels: int = 3,
        const: Sequence[int] = (4, 4),
        channels: Sequence[int] = (512, 512, 512, 512, 512, 256, 128, 64, 32),
        architecture: str = "skip",
        mapping_features: Sequence[int] = (512,) * 8,
        embed_features: int = 512,
        mapping_lr: float = 0.01,
        mapping_activation: str = "lrelu",
        labels: str = "embed",
        w_avg_beta: float = 0.995,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        resample_filter: Any = (1, 3, 3, 1),
        rgb_filter: Any = None,
        activation: str = "lrelu",
        kernel_size: int = 3,
        use_noise: bool = True,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.img_channels = z_dim, c_dim, w_dim, img_channels
        scale = 2 ** (len(channels) - 1)
        self.img_size = (const[0] * scale, const[1] * scale)
        self.synthesis = Synthesis(
            w_dim,
            img_channels,
            const,
            channels,
            architecture,
            num_fp16_res,
            resample_filter,
            rgb_filter,
            conv_clamp,
            kernel=kernel_size,
            act=activation,
            use_noise=use_noise,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = GeneratorMapping(
            self.num_ws,
            z_dim=z_dim,
            c_dim=c_dim,
            features=mapping_features,
            embed_features=embed_features,
            lr=mapping_lr,
            act=mapping_activation,
            labels=labels,
            w_avg_beta=w_avg_beta,
        )

    @property
    def w_avg(self) -> Tensor:
        """The mean intermediate latent, [w_dim]."""
        return self.mapping.w_avg

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: str = "const",
        noise: Noise | None = None,
        force_fp32: bool = True,
    ) -> Tensor:
        """z [N, z_dim], c one-hot [N, c_dim] -> pictures [N, img_channels, H, W], most of it in [-1, 1]."""
        return self.synthesis(self.mapping(z, c, psi, cutoff), noise_mode, noise, force_fp32)


def standard_config(
    part: str, resolution: int = 1024, channel_base: int = 32768, channel_max: int = 512, **others: Any
) -> dict[str, Any]:
    """The published architecture at a resolution: config for `build`; `others` are arguments of the network."""
    sizes = [4]
    while sizes[-1] < resolution:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] != resolution:
        raise CheckpointError(f"A square StyleGAN2 has a side of 4, 8, 16, ... pixels, not {resolution}.")
    channels = [min(channel_base // size, channel_max) for size in sizes]
    return {"channels": channels if part == "G" else channels[::-1], **others}


def compute_in(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Chooses the type that every resolution computes in unless `force_fp32`; None is that of the weights."""
    for block in network.modules():
        if isinstance(block, (SynthesisBlock, DiscriminatorBlock)):
            block.dtype = dtype


def build(part: str, config: dict[str, Any]) -> nn.Module:
    """An untrained `Generator` (part `G`) or `Discriminator` (`D`) from its config, e.g. from `standard_config`.

    Raises:
        CheckpointError: the config names something that the network does not have.
    """
    kind = Generator if part == "G" else Discriminator
    try:
        network = kind(**config)
    except TypeError as error:
        raise CheckpointError(f"The config of a StyleGAN2 {kind.__name__} is wrong: {error}.") from error
    network.config = dict(config)  # type: ignore[assignment]
    return network


def detect(raw: RawCheckpoint) -> bool:
    """True for the tensors of a StyleGAN2 generator, or of a discriminator that comes alone."""
    return files.find(raw, "G") is not None or (files.only_discriminator(raw) and files.find(raw, "D") is not None)


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The averaged generator (`G`) or the discriminator (`D`) of a published file.

    Knows NVIDIA's pickles of both eras, bare tensors by NVIDIA's names, and the layout of
    rosinality/stylegan2-pytorch. Architecture comes from the tensors, what they cannot tell from the file's own
    arguments and then from `config`. A file without a mean latent (rosinality's training files) gets the mean of
    4096 latents drawn from seed 0; one without noise gets noise from seed 0.

    Raises:
        CheckpointError: a tensor is missing, foreign or of the wrong shape.
    """
    settings, tensors = files.convert(raw, part, config)
    network = build(part, settings)
    if part == "G":
        _fill(network, tensors)
    load_strictly(network, tensors, raw.name)
    return network


@torch.no_grad()
def _fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts noise and mean latent where a file has none, the same at every reading."""
    g = torch.Generator().manual_seed(0)
    own = network.state_dict()
    for key, value in own.items():
        if key.endswith(".noise_const") and key not in tensors:
            tensors[key] = torch.randn(value.shape, generator=g)
    if "mapping.w_avg" in tensors:
        return
    tensors["mapping.w_avg"] = own["mapping.w_avg"]
    load_strictly(network, tensors, "this file")
    mapping: Any = network.mapping
    z = torch.randn(4096, mapping.z_dim, generator=g)
    c = torch.eye(mapping.c_dim)[torch.arange(4096) % mapping.c_dim] if mapping.c_dim else None
    tensors["mapping.w_avg"] = Mapping.forward(mapping, z, c).mean(dim=0)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """A generator's form for inference: `exact` (float32) or `fast` (bfloat16, over 50 dB PSNR); see `_stylegan2_fast`.

    Other networks come back as they are.
    """
    from ganhub.models import _stylegan2_fast as fast

    return fast.Generator(network, precision) if isinstance(network, Generator) else network
