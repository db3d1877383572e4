"""StyleGAN2 for inference: the same pictures as the plain form, sooner. Latents stay differentiable.

What pays, measured on CPUs: channels-last memory; styles that scale the activations where a layer has more weights
than pixels, and the weights of one picture at a time where it has more pixels; demodulation from a table of squared
weights; gains folded into scales (a leaky ReLU is homogeneous); epilogues in place; weights that lie in the layout
of the convolution kernels. The fast precision holds weights and activations in bfloat16; pictures, styles and sums
stay in float32.
"""

from __future__ import annotations

import copy
from math import sqrt
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.errors import BadInput, CheckpointError
from ganhub.models import stylegan2 as plain
from ganhub.models._fast_conv import Winograd, bfloat16_pays, convolve2d, fixed_conv
from ganhub.models._ops import ACTIVATIONS, bias_act, upsample2d
from ganhub.models._stylegan2_layers import FullyConnected

_SLOPES = {"linear": 1.0, "relu": 0.0, "lrelu": 0.2}
_PIXELS_PER_CHANNEL = 16
"""From so many pixels per input channel on, scaling the weights costs less than scaling the activations."""


class Layer(nn.Module):
    """A `SynthesisLayer`: x [N, C_in, H, W], styles, noise -> [N, C_out, H * up, W * up]."""

    weight: Tensor
    bias: Tensor
    squares: Tensor
    fir: Tensor
    noise: Tensor | None

    def __init__(self, layer: plain.SynthesisLayer, gain: float, dtype: torch.dtype):
        super().__init__()
        w, b = layer.weight.detach(), layer.bias.detach()
        self.affine, self.up, self.act, self.size = copy.deepcopy(layer.affine), layer.up == 2, layer.act, layer.size
        gain *= ACTIVATIONS[self.act][2]
        self.clamp = None if layer.clamp is None else layer.clamp * gain / ACTIVATIONS[self.act][2]
        # act(g * x) = g * act(x) for these, so that the gain costs nothing once it is part of scale, bias and noise.
        self.folded, self.left = (gain, 1.0) if self.act in _SLOPES else (1.0, gain)
        self.register_buffer("squares", w.square().sum(dim=(2, 3)).T.contiguous(), persistent=False)

        height, width = (n // layer.up for n in layer.size)
        conv = fixed_conv(w.to(dtype), (height, width), self.up)
        large = w.device.type == "cpu" and self.size[0] * self.size[1] > _PIXELS_PER_CHANNEL * w.shape[1]
        self.scale_weights = large and not isinstance(conv, Winograd)
        if self.scale_weights:
            self.register_buffer("weight", w.contiguous(memory_format=torch.channels_last), persistent=False)
        else:
            self.conv = conv
        # Where styles scale activations, those stay in float32 between the products, which halves the rounding error.
        self.dtype = dtype
        outside = dtype if self.scale_weights or w.device.type != "cpu" else torch.float32
        self.register_buffer("bias", (b * self.folded).to(outside), persistent=False)

        if self.up:
            f, k = layer.f, w.shape[-1]
            assert f is not None, "an enlarging layer has a filter"
            f = torch.outer(f, f) if f.ndim == 1 else f
            fir = f.flip((0, 1)) * 4
            self.register_buffer("fir", fir.to(outside).repeat(w.shape[0], 1, 1, 1), persistent=False)
            (fh, fw), p = f.shape, k // 2
            across = p + (fw + 1) // 2 - k + 1, p + (fw - 2) // 2 - k + 2
            self.sides = (*across, p + (fh + 1) // 2 - k + 1, p + (fh - 2) // 2 - k + 2)

        self.use_noise = layer.use_noise
        if self.use_noise:
            strength = layer.noise_strength.detach() * self.folded
            self.strength = float(strength)
            noise = (layer.noise_const * strength).to(outside)[None, None]
            self.register_buffer("noise", noise if self.strength else None, persistent=False)

    def demodulate(self, s: Tensor) -> Tensor:
        """Styles, the scales of the inputs [N, C_in] -> scales of the outputs [N, C_out]."""
        return (s.square() @ self.squares + 1e-8).rsqrt() * self.folded

    def noise_for(self, mode: str, draw: plain.Noise, n: int) -> Tensor | None:
        """What the layer adds to n pictures: [1 or n, 1, H, W], or None."""
        if mode == "none" or not self.use_noise:
            return None
        if mode == "const":
            return self.noise
        drawn = draw((n, 1, *self.size))  # drawn even where it counts for nothing, to keep the order of draws
        return (drawn * self.strength).to(self.bias) if self.strength else None

    def forward(self, x: Tensor, s: Tensor, d: Tensor, noise: Tensor | None) -> Tensor:
        bias = self.bias
        if self.scale_weights:
            w = (self.weight * (s[0][None, :, None, None] * d[0][:, None, None, None])).to(self.dtype)
            x = convolve2d(x.to(self.dtype), w, None if self.up else bias, self.up)
        else:
            x = self.conv((x * s[:, :, None, None].to(bias)).to(self.dtype))
            d = d[:, :, None, None].to(bias)
            x = x.mul_(d) if x.dtype == d.dtype else x * d
            x = x if self.up else x.add_(bias[:, None, None])
        if self.up:
            left, right, top, bottom = self.sides
            padding = (top, left) if left == right and top == bottom and min(left, top) >= 0 else (0, 0)
            x = x if any(padding) else F.pad(x, self.sides)
            x = F.conv2d(x, self.fir, bias, padding=padding, groups=x.shape[1])
        if noise is not None:
            x = x.add_(noise)
        if self.act == "lrelu":
            x = F.leaky_relu_(x, _SLOPES["lrelu"])
        elif self.act == "relu":
            x = x.relu_()
        elif self.act != "linear":
            return bias_act(x, act=self.act, gain=self.left, clamp=self.clamp)
        if self.clamp is None:
            return x
        return x.clamp(-self.clamp, self.clamp) if x.requires_grad else x.clamp_(-self.clamp, self.clamp)


class RGB(nn.Module):
    """A `ToRGB`: x [N, C, H, W] and styles [N, C] -> [N, img_channels, H, W] in float32, as a matrix product."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: plain.ToRGB, dtype: torch.dtype):
        super().__init__()
        self.affine, self.gain, self.clamp = copy.deepcopy(layer.affine), layer.gain, layer.clamp
        self.register_buffer("weight", layer.weight.detach()[:, :, 0, 0].clone(), persistent=False)
        self.register_buffer("bias", layer.bias.detach()[:, None, None].clone(), persistent=False)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        n, c, h, width = x.shape
        w = (self.weight * (s * self.gain)[:, None]).to(x.dtype)
        pixels = x.permute(0, 2, 3, 1).reshape(n, h * width, c)
        if n > 1:
            y = (pixels @ w.transpose(1, 2)).transpose(1, 2)
        elif x.dtype == torch.float32:
            y = F.conv2d(x, w[0, :, :, None, None])
        else:
            y = w[0] @ pixels[0].T
        y = y.reshape(n, -1, h, width).float() + self.bias
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """A `SynthesisBlock`."""

    const: Tensor
    f: Tensor
    skip: plain.Conv

    def __init__(self, block: plain.SynthesisBlock, dtype: torch.dtype):
        super().__init__()
        self.residual = block.architecture == "resnet" and hasattr(block, "skip")
        self.register_buffer("f", block.f, persistent=False)
        if hasattr(block, "conv0"):
            self.conv0 = Layer(block.conv0, 1.0, dtype)
        else:
            const = block.const.detach()[None].contiguous(memory_format=torch.channels_last)
            self.register_buffer("const", const, persistent=False)
        self.conv1 = Layer(block.conv1, sqrt(0.5) if self.residual else 1.0, dtype)
        if self.residual:
            self.skip = copy.deepcopy(block.skip)
        if hasattr(block, "torgb"):
            self.torgb = RGB(block.torgb, dtype)
        self.layers = [self.conv0, self.conv1] if hasattr(self, "conv0") else [self.conv1]
        self.one_by_one = any(layer.scale_weights for layer in self.layers)

    @property
    def affines(self) -> list[FullyConnected]:
        """What makes the styles: w [N, w_dim] -> [N, C], of the convolutions and then of the picture layer."""
        found = [layer.affine for layer in self.layers]
        return [*found, self.torgb.affine] if hasattr(self, "torgb") else found

    def forward(self, x: Tensor | None, img: Tensor | None, styles: list[Tensor], noise: list[Tensor | None]) -> Any:
        if x is None:
            x = self.const.expand(styles[0].shape[0], -1, -1, -1)
        y: Tensor | None = self.skip(x, gain=sqrt(0.5)) if self.residual else None
        for layer, s, n in zip(self.layers, styles, noise, strict=False):
            x = layer(x, s, layer.demodulate(s), n)
        x = x if y is None else y + x
        if img is not None:
            img = upsample2d(img, self.f)
        if hasattr(self, "torgb"):
            y = self.torgb(x, styles[-1])
            # Upsampling three channels is far faster in channels-last memory.
            img = y.contiguous(memory_format=torch.channels_last) if img is None else img + y
        return x, img


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> pictures [N, img_channels, H, W], float32.

    Resolutions with few pixels run as one batch; from the first layer on that scales its weights, every picture runs
    by itself, which costs nothing there and keeps memory that of one picture. In bfloat16 on a CPU every picture runs
    by itself throughout: kernels add in another order for another batch, and there a picture would show it.
    """

    def __init__(self, synthesis: plain.Synthesis, dtype: torch.dtype):
        super().__init__()
        self.num_ws, self.w_dim = synthesis.num_ws, synthesis.w_dim
        blocks = [Block(cast(plain.SynthesisBlock, block), dtype) for block in synthesis.children()]
        self.together = next((i for i, block in enumerate(blocks) if block.one_by_one), len(blocks))
        if dtype == torch.bfloat16 and blocks[0].const.device.type == "cpu":
            self.together = 0
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, ws: Tensor, noise_mode: str = "const", noise: plain.Noise | None = None, least: int | None = None
    ) -> Tensor:
        """`least`: a picture of this side or the next larger one is enough; where the network draws one at every
        resolution (`skip`), the layers beyond are left out."""
        plain.check_ws(ws, self.num_ws, self.w_dim, noise_mode)
        return self._paint(self._styles(ws), noise_mode, noise, least)

    @property
    def s_dim(self) -> int:
        """Width of the style space."""
        return sum(self._widths)

    @property
    def _widths(self) -> list[int]:
        return [len(affine.weight) for block in self._blocks for affine in block.affines]

    @property
    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def to_styles(self, ws: Tensor) -> Tensor:
        """ws [N, num_ws, w_dim] -> the styles of all layers in turn, pictures' layers too: [N, s_dim] ("StyleSpace
        Analysis", Wu et al., 2021, arXiv:2011.12799)."""
        plain.check_ws(ws, self.num_ws, self.w_dim, "none")
        return torch.cat([style for some in self._styles(ws) for style in some], dim=1)

    def from_styles(
        self, s: Tensor, noise_mode: str = "const", noise: plain.Noise | None = None, least: int | None = None
    ) -> Tensor:
        """s [N, s_dim] -> pictures, as `forward` draws them of ws.

        Raises:
            BadInput: the styles have another width.
        """
        if s.ndim != 2 or s.shape[1] != self.s_dim:
            raise BadInput(f"This network has {self.s_dim} styles, not {list(s.shape[1:])}.")
        parts = iter(s.float().split(self._widths, dim=1))
        return self._paint([[next(parts) for _ in block.affines] for block in self._blocks], noise_mode, noise, least)

    def _styles(self, ws: Tensor) -> list[list[Tensor]]:
        """Of every resolution: of its convolutions, and of its picture layer, which has the last w of those."""
        if self.together == 0 and len(ws) > 1:
            rows = [self._styles(w[None]) for w in ws]
            return [[torch.cat(parts) for parts in zip(*blocks, strict=True)] for blocks in zip(*rows, strict=True)]
        found = []
        for i, block in enumerate(self._blocks):
            own = ws.float()[:, max(2 * i - 1, 0) : 2 * i + 2].unbind(dim=1)
            which = [*range(len(block.layers)), len(own) - 1]
            found.append([affine(own[k]) for affine, k in zip(block.affines, which, strict=False)])
        return found

    def _paint(
        self, styles: list[list[Tensor]], noise_mode: str, noise: plain.Noise | None, least: int | None
    ) -> Tensor:
        count = len(styles[0][0])
        draw = noise or (lambda shape: torch.randn(shape, device=styles[0][0].device))
        blocks = self._blocks
        if least is not None:
            enough = (i for i, b in enumerate(blocks) if hasattr(b, "torgb") and min(b.conv1.size) >= least)
            blocks = blocks[: next(enough, len(blocks) - 1) + 1]
        drawn = [[layer.noise_for(noise_mode, draw, count) for layer in block.layers] for block in blocks]
        together = min(self.together, len(blocks))
        x, img = self._run(range(together), styles, None, None, drawn)
        if together == len(blocks):
            return img
        pictures = []
        for i in range(count):
            mine = [[n if n is None or len(n) == 1 else n[i : i + 1] for n in some] for some in drawn]
            own = [[style[i : i + 1] for style in some] for some in styles]
            y, picture = (None if t is None else t[i : i + 1] for t in (x, img))
            rest = range(together, len(blocks))
            pictures.append(self._run(rest, own, y, picture, mine)[1])
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)

    def _run(
        self, which: range, styles: list[list[Tensor]], x: Any, img: Any, noise: list[list[Tensor | None]]
    ) -> tuple[Any, Any]:
        for i in which:
            x, img = self.blocks[i](x, img, styles[i], noise[i])
        return x, img


class OneByOne(nn.Module):
    """A mapping network whose latents do not depend on the batch, not even in their last bit."""

    def __init__(self, mapping: plain.GeneratorMapping):
        super().__init__()
        self.mapping = mapping

    @property
    def w_avg(self) -> Tensor:
        """The mean intermediate latent, [w_dim]."""
        return self.mapping.w_avg

    def forward(self, z: Tensor | None, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        rows = max(0 if t is None else len(t) for t in (z, c))
        if rows < 2:
            return self.mapping(z, c, psi, cutoff)
        one = [slice(i, i + 1) for i in range(rows)]
        return torch.cat(
            [self.mapping(None if z is None else z[i], None if c is None else c[i], psi, cutoff) for i in one]
        )


class Generator(nn.Module):
    """A `stylegan2.Generator` for inference, with the same interface; its weights are a copy.

    Args:
        precision: `exact` (float32) or `fast` (bfloat16 where the device gains by it, over 50 dB PSNR).

    Raises:
        CheckpointError: there is no such precision.
    """

    z_distribution = "normal"

    @torch.no_grad()
    def __init__(self, G: plain.Generator, precision: str):
        super().__init__()
        if precision not in ("exact", "fast"):
            raise CheckpointError(f"There is no precision '{precision}'; there are exact and fast.")
        device = G.w_avg.device
        fast = precision == "fast" and bfloat16_pays(device.type)
        self.config, self.img_size, self.img_channels = G.config, G.img_size, G.img_channels
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = G.z_dim, G.c_dim, G.w_dim, G.num_ws
        mapping = copy.deepcopy(G.mapping)
        self.mapping = OneByOne(mapping) if fast and device.type == "cpu" else mapping
        self.synthesis = Synthesis(G.synthesis, torch.bfloat16 if fast else torch.float32)
        for module in [*self.mapping.modules(), *self.synthesis.modules()]:
            if isinstance(module, FullyConnected):
                module.fold()
        self.eval().requires_grad_(False)

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
        noise: plain.Noise | None = None,
    ) -> Tensor:
        """z [N, z_dim], c one-hot [N, c_dim] -> pictures [N, img_channels, H, W], most of it in [-1, 1]."""
        return self.synthesis(self.mapping(z, c, psi, cutoff), noise_mode, noise)
