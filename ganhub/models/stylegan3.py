"""StyleGAN3, configurations T and R: Karras et al., "Alias-Free Generative Adversarial Networks" (2021).

Every layer works on a band-limited signal that is sampled a little denser than its content needs; the leaky ReLU,
which creates high frequencies, runs at twice that density between two low-pass filters. The first layer draws
sinusoids (Fourier features) on a plane that each latent, and the user, can shift and rotate.

The discriminator of these checkpoints is StyleGAN2's and comes from that family.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import load_strictly, stylegan2
from ganhub.models._stylegan2_layers import FullyConnected
from ganhub.models.stylegan2 import GeneratorMapping

GAIN = math.sqrt(2)
SMALL, STRIP = 192, 64
"""Samples per side that are filtered at once, and those of a strip, at the higher rate, of what is larger."""
CACHE = 1 << 20
"""Samples that a processor keeps at hand: so many are filtered up and down before the next."""
LAYER = re.compile(r"synthesis\.L(\d+)_(\d+)_(\d+)\.weight$")

HYPER = {
    "num_critical": 2,
    "first_cutoff": 2.0,
    "first_stopband": 2.0**2.1,
    "last_stopband_rel": 2.0**0.3,
    "margin_size": 10,
    "output_scale": 0.25,
    "conv_kernel": 3,
    "filter_size": 6,
    "lrelu_upsampling": 2,
    "use_radial_filters": False,
    "conv_clamp": 256.0,
}
"""What the paper chose (configuration T) for everything that a file may say otherwise."""


def detect(raw: RawCheckpoint) -> bool:
    """Whether a generator in the file starts with Fourier features."""
    return any("synthesis.input.freqs" in net.tensors for net in raw.networks.values())


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The averaged generator of a StyleGAN3 file, or its discriminator.

    Raises:
        CheckpointError: no such network inside, or a tensor is missing, foreign or of another shape.
    """
    if part == "D":
        return stylegan2.read(raw, "D", **config)
    network = _generator_of(raw)
    generator = build("G", {**_config(raw.name, network), **config})
    load_strictly(generator, network.tensors, raw.name)
    for key, tensor in network.tensors.items():
        if key.endswith("_filter") and not tensor.isfinite().all():
            raise CheckpointError(f"{raw.name} is damaged: '{key}' is no filter, some of its values are not finite.")
    return generator


def build(part: str, config: dict[str, Any]) -> nn.Module:
    """An empty network from its `config`."""
    if part == "D":
        return stylegan2.build("D", config)
    return StyleGAN3Generator(**config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """The network for inference; `fast` computes its convolutions in bfloat16."""
    for layer in network.modules():
        if isinstance(layer, Layer):
            layer.fast = precision == "fast"
    return network


def widths(
    img_resolution: int, num_layers: int = 14, channel_base: int = 32768, channel_max: int = 512, **hyper: Any
) -> list[int]:
    """Channels of each layer but the last: inversely proportional to the layer's cutoff, at most `channel_max`."""
    bands = Bands(img_resolution, num_layers, {**HYPER, **hyper})
    return [round(min(channel_base / 2 / cutoff, channel_max)) for cutoff in bands.cutoff[:-1]]


class Bands:
    """Cutoffs, transition bands, sampling rates and sizes of the layers 0 to `num_layers` (the last is ToRGB).

    Frequencies are in cycles, rates in samples per image side. Source: section 3 and appendix C of the paper.
    """

    def __init__(self, img_resolution: int, num_layers: int, hyper: dict[str, Any]):
        last_cutoff = img_resolution / 2
        first_stop, last_stop = hyper["first_stopband"], last_cutoff * hyper["last_stopband_rel"]
        growth = [min(i / (num_layers - hyper["num_critical"]), 1) for i in range(num_layers + 1)]
        self.cutoff = [hyper["first_cutoff"] * (last_cutoff / hyper["first_cutoff"]) ** e for e in growth]
        stop = [first_stop * (last_stop / first_stop) ** e for e in growth]
        self.rate = [2 ** math.ceil(math.log2(min(2 * s, img_resolution))) for s in stop]
        self.half_width = [max(s, r / 2) - c for s, r, c in zip(stop, self.rate, self.cutoff, strict=True)]
        self.size = [r + 2 * hyper["margin_size"] for r in self.rate]
        self.size[-2:] = [img_resolution] * 2


class StyleGAN3Generator(nn.Module):
    """z [N, z_dim], class c [N, c_dim] -> pictures [N, img_channels, R, R] in [-1, 1].

    Args:
        channels: channels of every layer but ToRGB (`widths` gives the paper's).
        hyper: anything of `HYPER`.
    """

    z_distribution = "normal"

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        img_resolution: int,
        channels: list[int],
        c_dim: int = 0,
        img_channels: int = 3,
        mapping_layers: int = 2,
        mapping_lr: float = 0.01,
        w_avg_beta: float = 0.998,
        **hyper: Any,
    ):
        super().__init__()
        unknown = hyper.keys() - HYPER.keys()
        if unknown:
            raise CheckpointError(f"StyleGAN3 has no setting '{min(unknown)}'; there are {', '.join(HYPER)}.")
        hyper = {**HYPER, **hyper}
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_channels, self.img_size = img_channels, (img_resolution, img_resolution)
        self.num_ws = len(channels) + 2
        self.config = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "channels": list(channels),
            "mapping_layers": mapping_layers,
            "mapping_lr": mapping_lr,
            "w_avg_beta": w_avg_beta,
            **hyper,
        }
        self.mapping = GeneratorMapping(
            self.num_ws,
            z_dim=z_dim,
            c_dim=c_dim,
            features=[w_dim] * mapping_layers,
            embed_features=w_dim,
            lr=mapping_lr,
            w_avg_beta=w_avg_beta,
        )
        self.synthesis = Synthesis(w_dim, img_resolution, img_channels, channels, hyper)

    @property
    def w_avg(self) -> Tensor:
        """Mean latent [w_dim], towards which psi < 1 pulls."""
        return self.mapping.w_avg

    def forward(
        self, z: Tensor, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None, **synthesis: Any
    ) -> Tensor:
        return self.synthesis(self.mapping(z, c, psi, cutoff), **synthesis)


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> pictures [N, img_channels, R, R]."""

    def __init__(self, w_dim: int, img_resolution: int, img_channels: int, channels: list[int], hyper: dict[str, Any]):
        super().__init__()
        last = len(channels)
        bands = Bands(img_resolution, last, hyper)
        self.output_scale = hyper["output_scale"]
        self.input = FourierFeatures(w_dim, channels[0], bands.size[0], bands.rate[0], bands.cutoff[0])
        self.layer_names = []
        for i, width in enumerate([*channels, img_channels]):
            before = max(i - 1, 0)
            layer = Layer(w_dim, channels[before], width, bands, before, i, last, hyper)
            name = f"L{i}_{bands.size[i]}_{width}"
            self.add_module(name, layer)
            self.layer_names.append(name)

    def forward(
        self, ws: Tensor, noise_mode: str = "const", noise: Any = None, transform: Tensor | None = None
    ) -> Tensor:
        """Pictures of latents.

        Args:
            noise_mode, noise: accepted as for the other families; these networks have no noise inputs.
            transform: user transform [3, 3] or [N, 3, 3], from picture to canvas coordinates (the inverse of the
                movement that is seen, one picture side = 1); the file's own by default.
        """
        x = self.input(ws[:, 0], transform)
        for i, name in enumerate(self.layer_names):
            x = self.get_submodule(name)(x, ws[:, i + 1])
        return x * self.output_scale


class FourierFeatures(nn.Module):
    """Sinusoids on a plane that the latent w [N, w_dim] shifts and rotates -> [N, channels, size, size]."""

    def __init__(self, w_dim: int, channels: int, size: int, rate: float, bandwidth: float):
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        direction = F.normalize(torch.randn(channels, 2), dim=1)
        radius = bandwidth * torch.rand(channels, 1).sqrt()  # uniform over the disc
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        self.affine.weight = nn.Parameter(torch.zeros(4, w_dim))  # at first every latent leaves the plane where it is
        self.affine.bias = nn.Parameter(torch.tensor([1.0, 0, 0, 0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", direction * radius)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.transform: Tensor
        self.freqs: Tensor
        self.phases: Tensor

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        user = self.transform if transform is None else transform.to(w)
        plane = self._learned(w) @ user  # [N, 3, 3]
        phases = self.phases + plane[:, :2, 2] @ self.freqs.T  # [N, C]
        freqs = self.freqs @ plane[:, :2, :2]  # [N, C, 2]

        # A user transform that enlarges the plane's frequencies must not alias.
        headroom = self.rate / 2 - self.bandwidth
        amplitude = (1 - (freqs.norm(dim=2) - self.bandwidth) / headroom).clamp(0, 1)

        axis = (torch.arange(self.size, dtype=w.dtype, device=w.device) + 0.5 - self.size / 2) / self.rate
        across = freqs[:, :, 0, None, None] * axis
        down = freqs[:, :, 1, None, None] * axis[:, None]
        x = torch.sin((across + down + phases[:, :, None, None]) * (2 * math.pi)) * amplitude[:, :, None, None]
        return F.conv2d(x, (self.weight / math.sqrt(len(self.weight)))[:, :, None, None])

    def _learned(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        cos, sin, dx, dy = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -dx, zero, one, -dy, zero, zero, one], 1).view(-1, 3, 3)
        return turn @ shift


class Layer(nn.Module):
    """Modulated convolution and filtered leaky ReLU; the last one (ToRGB) has neither demodulation nor filters."""

    def __init__(
        self, w_dim: int, inputs: int, outputs: int, bands: Bands, before: int, i: int, last: int, hyper: dict[str, Any]
    ):
        super().__init__()
        self.is_rgb = i == last
        critical = i >= last - hyper["num_critical"]
        kernel = 1 if self.is_rgb else hyper["conv_kernel"]
        self.affine = FullyConnected(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.magnitude_ema: Tensor
        self.clamp = hyper["conv_clamp"]
        self.fast = False

        rate = max(bands.rate[before], bands.rate[i]) * (1 if self.is_rgb else hyper["lrelu_upsampling"])
        self.up, self.down = rate // bands.rate[before], rate // bands.rate[i]
        taps = [hyper["filter_size"] * f if f > 1 and not self.is_rgb else 1 for f in (self.up, self.down)]
        radial = hyper["use_radial_filters"] and not critical
        self.register_buffer("up_filter", lowpass(taps[0], bands.cutoff[before], 2 * bands.half_width[before], rate))
        self.register_buffer("down_filter", lowpass(taps[1], bands.cutoff[i], 2 * bands.half_width[i], rate, radial))
        self.up_filter: Tensor | None
        self.down_filter: Tensor | None

        self.out_size = bands.size[i]
        self.wide = (self.out_size - 1) * self.down + taps[1]  # samples per side where the leaky ReLU runs
        padding = self.wide + taps[0] - 1 - (bands.size[before] + kernel - 1) * self.up
        self.offset = (padding + self.up) // 2  # an even number of taps must not move the picture's centre

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w)
        weight, gain = self.weight, self.magnitude_ema.rsqrt()
        kernel = weight.shape[-1]
        if self.is_rgb:
            x = F.conv2d(x * (styles * (gain / math.sqrt(weight.shape[1])))[:, :, None, None], weight)
            x = x + self.bias[:, None, None]
            return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        # Scaling the input instead of the weights lets a batch share one convolution.
        unit = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
        styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
        demodulation = (styles.square() @ unit.square().sum([2, 3]).T + 1e-8).rsqrt()
        x = x * (styles * gain)[:, :, None, None]
        if self.fast:  # the convolution alone: in bfloat16 the filters would alias
            x, unit = x.bfloat16(), unit.bfloat16()
        x = F.conv2d(x, unit, padding=kernel - 1)
        # The gain of the leaky ReLU goes in here, where the picture is smallest.
        x = torch.addcmul(self.bias[:, None, None] * GAIN, x.to(w.dtype), (demodulation * GAIN)[:, :, None, None])
        return self._filtered_lrelu(x)

    def _filtered_lrelu(self, x: Tensor) -> Tensor:
        """Up, leaky ReLU, down: [N, C, H, H] -> [N, C, out_size, out_size]."""
        wide, up, down = self.wide, self.up, self.down
        rise = _bands(_separable(self.up_filter, x) * up, wide, x.shape[-1], 1, up, self.offset)
        fall = _bands(_separable(self.down_filter, x), self.out_size, wide, down, 1, 0)

        def filtered(x: Tensor) -> Tensor:
            x = _filter(x, rise)
            x = F.leaky_relu(x, 0.2, inplace=not x.requires_grad)
            if self.clamp is not None:
                x = F.hardtanh(x, -self.clamp, self.clamp, inplace=not x.requires_grad)
            return _filter(x, fall)

        planes = x.flatten(0, 1)
        at_once = max(CACHE // wide**2, 1) if x.device.type == "cpu" else len(planes)
        return torch.cat([filtered(some) for some in planes.split(at_once)]).unflatten(0, x.shape[:2])


def user_transform(translate: tuple[float, float] = (0.0, 0.0), angle: float = 0.0) -> Tensor:
    """The `transform` [3, 3] for `synthesis` that moves the picture.

    Args:
        translate: (right, down), in picture sides.
        angle: counter-clockwise, in degrees.
    """
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    movement = [[cos, sin, translate[0]], [-sin, cos, translate[1]], [0.0, 0.0, 1.0]]
    return torch.linalg.inv(torch.tensor(movement, dtype=torch.float64)).float()


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """Low-pass filter by Kaiser's window, sum 1: [taps], or [taps, taps] when radially symmetric; None for 1 tap.

    Args:
        cutoff, width: end of the pass band and width of the transition, in the unit of `rate`.
    """
    if taps == 1:
        return None
    window = torch.kaiser_window(taps, False, _kaiser_beta(taps, width / (rate / 2)), dtype=torch.float64)
    x = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / rate
    if radial:
        r = torch.hypot(x, x[:, None])
        # The disc's counterpart of the sinc; its limit at 0 is the cutoff.
        jinc = torch.where(r > 0, torch.special.bessel_j1(2 * math.pi * cutoff * r) / (math.pi * r), cutoff)
        f = jinc * window * window[:, None]
    else:
        f = torch.sinc(2 * cutoff * x) * window
    return (f / f.sum()).float()


def _kaiser_beta(taps: int, width: float) -> float:
    """Kaiser's (1974) window parameter for a transition of `width` (1 = half the sampling rate)."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95  # in dB
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


def _separable(f: Tensor | None, like: Tensor) -> Tensor:
    """A filter as the sum of K products of a vertical and a horizontal one: [2, K, taps].

    A radial filter needs about half as many products as it has taps.
    """
    if f is None:
        return like.new_ones(2, 1, 1)
    if f.ndim == 1:
        return f.expand(2, 1, -1)
    u, s, v = torch.linalg.svd(f.double())
    k = s > 1e-8 * s[0]
    return torch.stack([u.T[k], v[k]]).mul(s[k, None].sqrt()).to(like.dtype)


Band = tuple[int, int, Tensor]


def _bands(f: Tensor, rows: int, columns: int, row_step: int, column_step: int, offset: int) -> list[Band]:
    """Matrices [2, K, rows, columns] that convolve with f [2, K, taps], as strips: (first column, last + 1, blocks).

    They read `columns` samples that stand at every `column_step`-th place behind `offset`, and write every
    `row_step`-th place. All but a narrow band of them is zero, so that strips of rows cost little more than the taps
    alone, at the speed of matrix products.
    """
    bands = []
    taps, last_tap = f.flip(2), f.shape[2] - 1
    strip = STRIP // row_step if max(rows, columns) > SMALL else rows
    for top in range(0, rows, strip):
        bottom = min(top + strip, rows)
        first = max(-((offset - top * row_step) // column_step), 0)
        end = min(((bottom - 1) * row_step + last_tap - offset) // column_step + 1, columns)
        at = torch.arange(first, max(first, end), device=f.device) * column_step + offset
        at = at - torch.arange(top, bottom, device=f.device)[:, None] * row_step
        inside = (at >= 0) & (at <= last_tap)
        bands.append((first, max(first, end), torch.where(inside, taps[:, :, at.clamp(0, last_tap)], 0)))
    return bands


def _filter(x: Tensor, bands: list[Band]) -> Tensor:
    """x [P, H, W] through the bands of both directions, rows first: [P, rows, rows]."""
    p, h, _ = x.shape
    k = bands[0][2].shape[1]
    runs = [(x[:, :, first:end] @ blocks[1].flatten(0, 1).T).view(p, h, k, -1) for first, end, blocks in bands]
    x = torch.cat(runs, 3)  # [P, H, K, rows]
    falls = [blocks[0].permute(1, 2, 0).flatten(1) for _, _, blocks in bands]  # [rows, columns * K]
    return torch.cat([f @ x[:, b[0] : b[1]].flatten(1, 2) for f, b in zip(falls, bands, strict=True)], 1)


def _generator_of(raw: RawCheckpoint) -> Network:
    """The averaged generator where there is one."""
    found = {name: net for name, net in raw.networks.items() if "synthesis.input.freqs" in net.tensors}
    for name in ("G_ema", "g_ema"):
        if name in found:
            return found[name]
    if not found:
        raise CheckpointError(f"{raw.name} holds no StyleGAN3 generator.")
    return found["G"] if "G" in found else next(iter(found.values()))


def _config(name: str, network: Network) -> dict[str, Any]:
    """Sizes from the tensors, and the rest from what the file says of itself (the paper's values without that)."""
    tensors, said = network.tensors, network.kwargs
    mapping_said = said.get("mapping_kwargs") or {}
    layers = sorted((int(m[1]), int(m[2]), int(m[3])) for m in map(LAYER.match, tensors) if m)
    mapping = sorted(k for k in tensors if re.fullmatch(r"mapping\.fc\d+\.weight", k))
    if not layers or not mapping:
        raise CheckpointError(f"{name} is no whole StyleGAN3 generator: it lacks mapping or synthesis layers.")
    first, embed = tensors["mapping.fc0.weight"], tensors.get("mapping.embed.weight")
    w_dim = first.shape[0]
    hyper = {key: said[key] for key in HYPER if key in said}
    if "conv_kernel" not in hyper:
        hyper["conv_kernel"] = tensors[_layer_name(layers[0]) + ".weight"].shape[-1]
    if "use_radial_filters" not in hyper:
        filters = [tensors.get(_layer_name(layer) + ".down_filter") for layer in layers]
        hyper["use_radial_filters"] = any(f is not None and f.ndim == 2 for f in filters)
    return {
        "z_dim": first.shape[1] - (w_dim if embed is not None else 0),
        "c_dim": 0 if embed is None else embed.shape[1],
        "w_dim": w_dim,
        "img_resolution": layers[-1][1],
        "img_channels": layers[-1][2],
        "channels": [width for _, _, width in layers[:-1]],
        "mapping_layers": len(mapping),
        "mapping_lr": mapping_said.get("lr_multiplier", 0.01),
        "w_avg_beta": mapping_said.get("w_avg_beta", 0.998),
        **hyper,
    }


def _layer_name(layer: tuple[int, int, int]) -> str:
    return "synthesis.L{}_{}_{}".format(*layer)
