"""SAGAN (Zhang et al., 2019, https://arxiv.org/abs/1805.08318) in the form of heykeetae/Self-Attention-GAN.

That implementation turns its spectral normalisation one power iteration further on every forward call, in eval mode
too, so that its pictures depend on how many were made before. Here a network always answers as the original's first
call after loading does; `advance()` moves it on by a call, as the original does unasked. Files with torch's own
spectral normalisation (`weight_orig`, `weight_u`), which stands still in eval mode, have nothing to advance.

Widths, number of layers, place and widths of the attention are read from shapes; `config` may say `z_distribution`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import _chain, load_strictly
from ganhub.models._chain import ChainDiscriminator, ChainGenerator, Spec
from ganhub.models._parts import tensors_of
from ganhub.models._spectral import fold


class Attention(nn.Module):
    """Every pixel looks at all pixels: x [N, C, H, W] plus `gamma` times what it sees."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, width, 1)
        self.key_conv = nn.Conv2d(channels, width, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def map(self, x: Tensor) -> Tensor:
        """Where each pixel looks: [N, HW, HW], rows add up to 1."""
        query, key = self.query_conv(x).flatten(2), self.key_conv(x).flatten(2)
        return (query.transpose(1, 2) @ key).softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.value_conv(x).flatten(2) @ self.map(x).transpose(1, 2)
        return self.gamma * seen.view_as(x) + x


class _Spectral(nn.Module):
    """A convolution whose weight is divided by its largest singular value, estimated by one power iteration."""

    transposed = False

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.stride, self.padding = stride, padding
        shape = (inside, outside) if self.transposed else (outside, inside)
        self.weight_bar = nn.Parameter(torch.empty(*shape, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outside))
        # The rows of the original's matrix are always the first axis, whichever way the convolution goes.
        self.register_buffer("weight_u", torch.empty(shape[0]))
        self.register_buffer("weight_v", torch.empty(shape[1] * kernel * kernel))
        self.weight_u: Tensor
        self.weight_v: Tensor

    def iterated(self) -> tuple[Tensor, Tensor]:
        matrix = self.weight_bar.flatten(1)
        v = F.normalize(matrix.T @ self.weight_u, dim=0)
        return F.normalize(matrix @ v, dim=0), v

    def weight(self) -> Tensor:
        u, v = self.iterated()
        return self.weight_bar / torch.dot(u, self.weight_bar.flatten(1) @ v)

    @torch.no_grad()
    def advance(self) -> None:
        self.weight_u, self.weight_v = self.iterated()

    def forward(self, x: Tensor) -> Tensor:
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x, self.weight(), self.bias, self.stride, self.padding)


class SpectralConv(_Spectral):
    pass


class SpectralConvTranspose(_Spectral):
    transposed = True


_KINDS: dict[str, Any] = {"attention": Attention, "spectral": SpectralConv, "spectral_t": SpectralConvTranspose}


class _Advancing(nn.Module):
    kinds: Mapping[str, Any] = _KINDS

    def advance(self, calls: int = 1) -> None:
        """Moves the spectral normalisation on as `calls` forward calls of the original do."""
        for layer in self.modules():
            for _ in range(calls if isinstance(layer, _Spectral) else 0):
                layer.advance()  # type: ignore[operator]


class Generator(_Advancing, ChainGenerator):
    def attention(self, z: Tensor) -> list[Tensor]:
        """The attention maps [N, HW, HW] of the pictures of z [N, z_dim], from the coarsest on."""
        x, maps = z.flatten(1)[:, :, None, None], []
        for layer in self.main:
            if isinstance(layer, Attention):
                maps.append(layer.map(x))
            x = layer(x)
        return maps


class Discriminator(_Advancing, ChainDiscriminator):
    pass


def detect(raw: RawCheckpoint) -> bool:
    if not any(re.search(r"(^|\.)attn\d+\.gamma$", key) for net in raw.networks.values() for key in net.tensors):
        return False
    for part in ("G", "D"):
        try:
            read(raw, part)
            return True
        except CheckpointError:
            pass
    return False


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Generator(config) if part == "G" else Discriminator(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """Spectral and batch normalisation folded into the convolutions; the fast form is the exact one."""
    for number, layer in enumerate(network.main):  # type: ignore[arg-type, var-annotated]
        if isinstance(layer, _Spectral):
            weight = layer.weight().detach()
            kind = nn.ConvTranspose2d if layer.transposed else nn.Conv2d
            inside, outside = weight.shape[:2] if layer.transposed else weight.shape[1::-1]
            plain = kind(inside, outside, weight.shape[2], layer.stride, layer.padding)
            plain.load_state_dict({"weight": weight, "bias": layer.bias})
            network.main[number] = plain.eval()  # type: ignore[index, operator, assignment]
    return _chain.folded(network)


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file.

    Raises:
        CheckpointError: names or shapes are not those of such a network.
    """
    _chain.check_options(config, {"z_distribution"})
    tensors = fold(tensors_of(raw, part))
    try:
        specs, renamed = _layers(tensors, part)
    except CheckpointError as error:
        raise CheckpointError(f"{raw.name} is no SAGAN: {error}", error.code) from error
    convolutions = [spec for spec in specs if spec[0] in ("spectral", "spectral_t", "conv", "conv_t")]
    size = convolutions[0 if part == "G" else -1][3] * 2 ** (len(convolutions) - 1)
    facts = {
        "layers": specs,
        "img_size": [size, size],
        "img_channels": convolutions[-1][2] if part == "G" else convolutions[0][1],
    }
    if part == "G":
        facts |= {"z_dim": convolutions[0][1], "z_distribution": config.get("z_distribution", "normal")}
    network = build(part, facts)
    load_strictly(network, {f"main.{k}": v for k, v in renamed.items()}, raw.name)
    return network


def _layers(tensors: dict[str, Tensor], part: str) -> tuple[list[Spec], dict[str, Tensor]]:
    """The layers, and the file's tensors under the layers' numbers."""
    stages = sorted({int(m[1]) for key in tensors if (m := re.match(r"l(\d+)\.", key))})
    if not stages or stages != list(range(1, len(stages) + 1)):
        raise CheckpointError("it has no layers l1, l2, ...")
    specs: list[Spec] = []
    renamed: dict[str, Tensor] = {}
    taken: set[str] = set()

    def add(spec: Spec, prefix: str = "") -> None:
        for key in (k for k in tensors if prefix and k.startswith(prefix) and k not in taken):
            renamed[f"{len(specs)}.{key.removeprefix(prefix)}"] = tensors[key]
            taken.add(key)
        specs.append(spec)

    attended = _attended(tensors, len(stages), part)
    for name in [*(f"l{number}" for number in stages), "last"]:
        prefix = f"{name}.0.module." if f"{name}.0.module.weight_bar" in tensors else f"{name}.0."
        spectral = prefix.endswith("module.")
        weight = tensors.get(prefix + ("weight_bar" if spectral else "weight"))
        if weight is None or weight.dim() != 4:
            raise CheckpointError(f"'{name}.0' has no weight of a convolution.")
        inside, outside = weight.shape[:2] if part == "G" else weight.shape[1::-1]
        whole = name == ("l1" if part == "G" else "last")  # from, or down to, one pixel
        kind = ("spectral" if spectral else "conv") + ("_t" if part == "G" else "")
        spec = [kind, inside, outside, weight.shape[2], 1 if whole else 2, 0 if whole else 1]
        if not spectral:
            spec += [0] * (part == "G") + [prefix + "bias" in tensors]
        add(spec, prefix)
        if name == "last":
            break
        if f"{name}.1.running_mean" in tensors:
            tensors.setdefault(f"{name}.1.num_batches_tracked", torch.tensor(0))
            add(["norm", outside, 1e-5], f"{name}.1.")
        add(["relu"] if part == "G" else ["leaky_relu", 0.1])
        if name in attended:
            add(["attention", outside, len(tensors[f"{attended[name]}.query_conv.weight"])], f"{attended[name]}.")
    if part == "G":
        add(["tanh"])
    left = [key for key in tensors if key not in taken]
    if left:
        raise CheckpointError(f"'{left[0]}' has no place in it.")
    return specs, renamed


def _attended(tensors: dict[str, Tensor], stages: int, part: str) -> dict[str, str]:
    """The attention after each layer that has one: the last layer of its width that no later attention follows."""
    found: dict[str, str] = {}
    numbers = {int(m[1]) for key in tensors if (m := re.match(r"attn(\d+)\.value_conv\.weight$", key))}
    below = stages + 1
    for attention in (f"attn{number}" for number in sorted(numbers, reverse=True)):
        width = len(tensors[f"{attention}.value_conv.weight"])
        if f"{attention}.query_conv.weight" not in tensors:
            raise CheckpointError(f"'{attention}' has no query_conv.")
        fits = [stage for stage in range(1, below) if _width(tensors, f"l{stage}", part) == width]
        if not fits:
            raise CheckpointError(f"'{attention}' is {width} wide, and no layer that it can follow is.")
        below = fits[-1]
        found[f"l{below}"] = attention
    return found


def _width(tensors: dict[str, Tensor], layer: str, part: str) -> int:
    for name in ("0.module.weight_bar", "0.weight"):
        weight = tensors.get(f"{layer}.{name}")
        if weight is not None and weight.dim() == 4:
            return weight.shape[1 if part == "G" else 0]
    return 0
