"""FRAN: a face of one age from the same face of another.

Zoss et al., 2022, "Production-Ready Face Re-Aging for Visual Effects" (https://doi.org/10.1145/3550454.3555520). A
U-Net sees the picture and two planes that hold the age that the face has and the age that it shall have, over 100; what
it gives is added to the picture. A maximum of neighbours, a binomial blur and a stride make its features smaller, a
transposed convolution and the same blur make them larger (Zhang, 2019, https://arxiv.org/abs/1904.11486). Names of
tensors are those of the open re-implementation (face_re-aging, MIT); widths and depth are read from them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import _upscale, load_strictly
from ganhub.models._ageing import DIRECTIONS, Years, check_sides, dtype_of

_SLOPE = 0.01
_TAPS = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """Every channel under a binomial filter of four by four, then every `stride`-th pixel: x [N, C, h, w]."""

    filter: Tensor

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.register_buffer("filter", binomial().repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 2, 1, 2), mode="reflect")
        return F.conv2d(x, self.filter, stride=self.stride, groups=x.shape[1])


def binomial() -> Tensor:
    """[1, 1, 4, 4], of sum one."""
    taps = torch.tensor(_TAPS)
    return (taps[:, None] * taps / taps.sum() ** 2)[None, None]


def _pair(before: int, after: int) -> list[nn.Module]:
    """Two convolutions with their activations."""
    first, second = (nn.Conv2d(width, after, 3, padding=1) for width in (before, after))
    return [first, nn.LeakyReLU(_SLOPE), second, nn.LeakyReLU(_SLOPE)]


class Down(nn.Module):
    """x [N, before, h, w] -> [N, after, h / 2, w / 2]."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.layer = nn.Sequential(nn.MaxPool2d(2, stride=1), Blur(before, 2), *_pair(before, after))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Up(nn.Module):
    """x [N, before, h, w] and what was seen before it was made smaller [N, after, 2h, 2w] -> the latter's shape."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.blur_upsample = nn.Sequential(nn.ConvTranspose2d(before, after, 2, stride=2), Blur(after, 1))
        self.layer = nn.Sequential(*_pair(2 * after, after))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        return self.layer(torch.cat((self.blur_upsample(x), seen), dim=1))


class Generator(nn.Module):
    """Faces [N, 3, H, W] in [-1, 1] and their ages -> the faces at other ages, of the same shape and range.

    Config: `widths` (channels at each size, the largest size first), `ages` (the lowest and the highest that it was
    trained with), `img_size`.
    """

    directions = DIRECTIONS

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        widths = config["widths"]
        low, high = config.get("ages", (10, 90))
        self.ages: tuple[float, float] = (low, high)
        self.img_size: tuple[int, int] = (config.get("img_size", 1024),) * 2
        self.levels = len(widths) - 1
        self.multiple = 2**self.levels
        self.init_conv = nn.Sequential(*_pair(5, widths[0]))
        for level in range(self.levels):
            before, after = widths[level : level + 2]
            self.add_module(f"down{level + 1}", Down(before, after))
            self.add_module(f"up{self.levels - level}", Up(after, before))
        self.final_conv = nn.Conv2d(widths[0], 3, 1)

    def forward(self, x: Tensor, source: Years = None, target: Years = None) -> Tensor:
        """See the class.

        Raises:
            BadInput: an age is missing, or a side is no multiple of `multiple`.
        """
        if source is None or target is None:
            raise BadInput("This network needs the age of the face and the age that it shall have.")
        check_sides(x, self.multiple)
        return (x + 2 * self.residual(with_ages((x + 1) / 2, source, target))).clamp(-1, 1)

    def residual(self, x: Tensor) -> Tensor:
        """Pictures in [0, 1] with their planes of ages [N, 5, H, W] -> what is added to the pictures [N, 3, H, W]."""
        seen = [self.init_conv(x)]
        for level in range(self.levels):
            seen.append(self.get_submodule(f"down{level + 1}")(seen[-1]))
        x = seen.pop()
        for level in range(self.levels):
            x = self.get_submodule(f"up{level + 1}")(x, seen.pop())
        return self.final_conv(x)


def with_ages(x: Tensor, source: Years, target: Years) -> Tensor:
    """x [N, 3, H, W] -> [N, 5, H, W], the last two planes being the ages over 100."""
    ages = (torch.as_tensor(age, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1) / 100 for age in (source, target))
    return torch.cat((x, *(age.expand(len(x), 1, *x.shape[2:]) for age in ages)), dim=1)


def _chosen(raw: RawCheckpoint) -> dict[str, Tensor]:
    """The tensors of the network; the filters of its blurs, which some files hold, only if they are not binomial."""
    return {
        key: tensor
        for key, tensor in _upscale.chosen(raw).items()
        if not (key.endswith(".filt") and tensor.shape[1:] == (1, 4, 4) and (tensor - binomial()).abs().max() < 1e-6)
    }


def _widths(tensors: dict[str, Tensor]) -> list[int] | None:
    """Channels at each size, None where names and shapes are those of another network."""
    first, last = tensors.get("init_conv.0.weight"), tensors.get("final_conv.weight")
    if first is None or last is None or first.shape[1:] != (5, 3, 3) or last.shape != (3, len(first), 1, 1):
        return None
    widths = [len(first)]
    while (weight := tensors.get(f"down{len(widths)}.layer.2.weight")) is not None:
        widths.append(len(weight))
    return widths


def detect(raw: RawCheckpoint) -> bool:
    return _widths(_upscale.chosen(raw)) is not None


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file; `config` may say `ages` and `img_size`, that it was trained with.

    Raises:
        CheckpointError: names or shapes are not those of such a network.
    """
    tensors = _chosen(raw)
    widths = _widths(tensors)
    if widths is None:
        raise CheckpointError(f"{raw.name} is no FRAN: it does not begin with five channels and end with three.")
    network = build(part, {"widths": widths, **config})
    load_strictly(network, tensors, raw.name)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Generator(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """`exact`: float32; `fast`: float16 or bfloat16 between the picture and what is added to it."""
    assert isinstance(network, Generator), "only a plain form is prepared"
    dtype = dtype_of(precision, network)
    return Prepared(network, _upscale.dtype_of(precision, network) if dtype == torch.float32 else dtype)


class Prepared(Generator):
    """A `Generator` for inference: channels last, every activation inside its convolution."""

    def __init__(self, network: Generator, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.config, self.ages, self.img_size = network.config, network.ages, network.img_size
        self.levels, self.multiple, self.dtype = network.levels, network.multiple, dtype
        for name, module in network.named_children():
            self.add_module(name, _fused(copy.deepcopy(module), dtype))
        self.eval().requires_grad_(False)

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x.to(self.dtype, memory_format=torch.channels_last)).float()


def _fused(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Every pair of convolutions as two calls; the rest of the type, channels last."""
    if isinstance(module, nn.Sequential):
        layers = [layer for layer in module if not isinstance(layer, nn.LeakyReLU)]
        return nn.Sequential(
            *(
                _upscale.Conv(*_upscale.parts(layer), dtype, _SLOPE)
                if isinstance(layer, nn.Conv2d)
                else layer.to(dtype)
                for layer in layers
            )
        )
    for name, child in list(module.named_children()):
        module.add_module(name, _fused(child, dtype))
    return module.to(dtype).to(memory_format=torch.channels_last)
