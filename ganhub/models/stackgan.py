"""StackGAN-v2 (Zhang et al., 2017, https://arxiv.org/abs/1710.10916) and StackGAN (v1, https://arxiv.org/abs/1612.03242).

A tree of stages, each twice the size of the one before and with a picture of its own. With text, a sentence's
embedding becomes a distribution (conditioning augmentation), of which every stage sees one sample; without, every stage
sees z. Any number of stages, widths and residual blocks, all read from shapes; the two stages of v1 are in
`_stackgan_v1.py`. Modules have the names of hanzhanggit/StackGAN-v2, whose files hold the averaged generator.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import _stackgan_v1, load_strictly
from ganhub.models._parts import tensors_of
from ganhub.models._stackgan_layers import Augmentation, Noise, ResBlock, conv3x3, filled_counts, up_block

Config = dict[str, Any]


class FirstStage(nn.Module):
    """Codes [N, inputs] -> features [N, C, H, W], from 4x4 pixels on."""

    def __init__(self, inputs: int, start: int, widths: list[int]):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(inputs, start * 32, bias=False), nn.BatchNorm1d(start * 32), nn.GLU(dim=1))
        self.ups = len(widths)
        for number, (before, width) in enumerate(zip([start, *widths], widths, strict=False), 1):
            self.add_module(f"upsample{number}", up_block(before, width))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.fc(codes).unflatten(1, (-1, 4, 4))
        for number in range(1, self.ups + 1):
            x = self.get_submodule(f"upsample{number}")(x)
        return x


class NextStage(nn.Module):
    """Features [N, C, H, W] of the stage before and the code [N, code_dim] -> features of twice the size."""

    def __init__(self, before: int, width: int, code_dim: int, residuals: int):
        super().__init__()
        self.jointConv = nn.Sequential(
            conv3x3(before + code_dim, before * 2), nn.BatchNorm2d(before * 2), nn.GLU(dim=1)
        )
        self.residual = nn.Sequential(*(ResBlock(before) for _ in range(residuals)))
        self.upsample = up_block(before, width)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        seen = code[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.upsample(self.residual(self.jointConv(torch.cat((seen, x), dim=1))))


class ToPicture(nn.Module):
    """Features [N, C, H, W] -> pictures [N, 3, H, W] in [-1, 1]."""

    def __init__(self, width: int):
        super().__init__()
        self.img = nn.Sequential(conv3x3(width, 3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.img(x)


class _Stages(nn.Module):
    """Config: `z_dim`; `text_dim`, 0 without text; `code_dim`; `start`, channels at 4x4; `widths`, a list of channels
    for each stage: after every doubling of the first, then one for every further stage; `residuals` of those."""

    img_channels = 3

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.z_dim: int = config["z_dim"]
        self.text_dim: int = config["text_dim"]
        self.code_dim: int = config["code_dim"]
        widths: list[list[int]] = config["widths"]
        side = 4 * 2 ** (len(widths[0]) + len(widths) - 1)
        self.img_size = (side, side)
        if self.text_dim:
            self.ca_net = Augmentation(self.text_dim, self.code_dim)
        inputs = self.z_dim + (self.code_dim if self.text_dim else 0)
        self.h_net1 = FirstStage(inputs, config["start"], widths[0])
        self.img_net1 = ToPicture(widths[0][-1])
        self.count = len(widths)
        for number in range(2, self.count + 1):
            before, width = widths[number - 2][-1], widths[number - 1][-1]
            stage = NextStage(before, width, self.code_dim, config["residuals"][number - 2])
            self.add_module(f"h_net{number}", stage)
            self.add_module(f"img_net{number}", ToPicture(width))

    def paint(self, z: Tensor, code: Tensor) -> list[Tensor]:
        """z [N, z_dim] and the code [N, code_dim] (z itself without text) -> pictures of all stages, each
        [N, 3, H, W] in [-1, 1]."""
        z, code = z.float(), code.float()
        x = self.h_net1(torch.cat((code, z), dim=1) if self.text_dim else z)
        pictures = [self.img_net1(x)]
        for number in range(2, self.count + 1):
            x = self.get_submodule(f"h_net{number}")(x, code)
            pictures.append(self.get_submodule(f"img_net{number}")(x))
        return pictures

    def _checked(self, z: Tensor) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise BadInput(f"This generator takes z of the shape [N, {self.z_dim}], not {list(z.shape)}.")
        return z


class TextGenerator(_Stages):
    """z [N, z_dim] and embeddings of sentences [N, text_dim] -> pictures [N, 3, H, W] in [-1, 1] of the last stage."""

    def condition(self, embedding: Tensor, noise: Noise = None) -> tuple[Tensor, Tensor, Tensor]:
        """Code, mean and logarithm of the variance [N, code_dim] of embeddings [N, text_dim].

        `noise` is a tensor [N, code_dim], a generator to draw it from, or None for the mean.

        Raises:
            BadInput: a shape does not fit.
        """
        return self.ca_net(embedding, noise)

    def stages(self, z: Tensor, embedding: Tensor, noise: Noise = None) -> list[Tensor]:
        """Pictures of all stages, from the smallest on; `noise` as for `condition`.

        Raises:
            BadInput: a shape does not fit.
        """
        return self.paint(self._checked(z), self.condition(embedding, noise)[0])

    def forward(self, z: Tensor, embedding: Tensor, noise: Noise = None) -> Tensor:
        return self.stages(z, embedding, noise)[-1]


class Generator(_Stages):
    """z [N, z_dim] -> pictures [N, 3, H, W] in [-1, 1] of the last stage."""

    c_dim = w_dim = num_ws = 0
    z_distribution = "normal"

    def stages(self, z: Tensor) -> list[Tensor]:
        """Pictures of all stages, from the smallest on.

        Raises:
            BadInput: z has another shape.
        """
        return self.paint(self._checked(z), z)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.stages(z)[-1]


class Discriminator(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1], of one stage, and codes [N, code_dim] -> how real they are.

    Config: `width`; `img_size`, 16 and more; `code_dim`, 0 without text.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.code_dim: int = config["code_dim"]
        width, side = config["width"], config["img_size"]
        self.img_size = (side, side)
        downs = side.bit_length() - 3  # down to 4x4
        plain = min(downs, 4)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for number in range(1, plain):
            layers += _down(width * 2 ** (number - 1), width * 2**number)
        trunk = {f"img_code_s{2**plain}": nn.Sequential(*layers)}
        for number in range(plain, downs):
            trunk[f"img_code_s{2 ** (number + 1)}"] = nn.Sequential(
                *_down(width * 2 ** (number - 1), width * 2**number)
            )
        for number in range(downs - plain):  # back to the width that a picture of 64 pixels has here
            wide = width * 2 ** (downs - 1 - number)
            trunk[f"img_code_s{2**downs}_{number + 1}"] = _joined(wide, wide // 2)
        self.trunk = list(trunk)
        for name, layer in trunk.items():
            self.add_module(name, layer)
        self.top = top = width * 2 ** (plain - 1)
        self.logits = _verdict(top)
        if self.code_dim:
            self.jointConv = _joined(top + self.code_dim, top)
            self.uncond_logits = _verdict(top)

    def features(self, pictures: Tensor) -> Tensor:
        """What it sees, [N, top, 4, 4], before it is told what there should be.

        Raises:
            BadInput: pictures have another shape.
        """
        if pictures.shape[1:] != (3, *self.img_size):
            raise BadInput(f"This discriminator takes pictures [N, 3, *{self.img_size}], not {list(pictures.shape)}.")
        x = pictures
        for name in self.trunk:
            x = self.get_submodule(name)(x)
        return x

    def scores(self, x: Tensor, code: Tensor | None = None) -> list[Tensor]:
        """Features -> logits [N] of "real and fits the code" and of "real"; without text of the latter only.

        Raises:
            BadInput: codes have another shape.
        """
        if not self.code_dim:
            return [self.logits[0](x).flatten()]
        if code is None or code.shape != (len(x), self.code_dim):
            raise BadInput(f"This discriminator needs a code of the shape [{len(x)}, {self.code_dim}].")
        seen = code[:, :, None, None].expand(-1, -1, 4, 4)
        joint = self.jointConv(torch.cat((seen, x), dim=1))
        return [self.logits[0](joint).flatten(), self.uncond_logits[0](x).flatten()]

    def forward(self, pictures: Tensor, code: Tensor | None = None) -> list[Tensor]:
        """The scores as probabilities [N]."""
        return [score.sigmoid() for score in self.scores(self.features(pictures), code)]


def _down(before: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True)
    ]  # fmt: skip


def _joined(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(before, width), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True))


def _verdict(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 1, 4, 4))


def detect(raw: RawCheckpoint) -> bool:
    keys = {key for network in raw.networks.values() for key in network.tensors}
    mine = ("h_net1.fc.0.weight", *(f"img_code_s{factor}.0.weight" for factor in (2, 4, 8, 16)))
    return any(key.endswith(mine) for key in keys) or _stackgan_v1.detect(keys)


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file: G, or the discriminator of one stage.

    Raises:
        CheckpointError: names or shapes are not those of such a network.
    """
    if config:
        raise CheckpointError(f"config.{min(config)} means nothing to this family, which reads all from shapes.")
    tensors = filled_counts(tensors_of(raw, part))
    try:
        facts = (_generator if part == "G" else _discriminator)(tensors)
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{raw.name} is no {part} of StackGAN: it lacks {error}.") from None
    network = build(part, facts)
    load_strictly(network, tensors, raw.name)
    return network


def build(part: str, config: Config) -> nn.Module:
    if part.startswith("D"):
        return Discriminator(config)
    if config.get("version") == 1:
        return _stackgan_v1.Generator(config)
    return TextGenerator(config) if config["text_dim"] else Generator(config)


def _generator(tensors: dict[str, Tensor]) -> Config:
    if _stackgan_v1.detect(tensors):
        return _stackgan_v1.config_of(tensors)
    rows, inputs = tensors["h_net1.fc.0.weight"].shape
    code_dim = text_dim = 0
    if "ca_net.fc.weight" in tensors:
        code_dim, text_dim = tensors["ca_net.fc.weight"].shape[0] // 4, tensors["ca_net.fc.weight"].shape[1]
    count = sum(re.fullmatch(r"img_net\d+\.img\.0\.weight", key) is not None for key in tensors)
    ups = sum(re.fullmatch(r"h_net1\.upsample\d+\.1\.weight", key) is not None for key in tensors)
    widths = [[len(tensors[f"h_net1.upsample{number}.1.weight"]) // 2 for number in range(1, ups + 1)]]
    widths += [[len(tensors[f"h_net{number}.upsample.1.weight"]) // 2] for number in range(2, count + 1)]
    if not ups:
        raise KeyError("h_net1.upsample1.1.weight")
    blocks = [re.compile(rf"h_net{number}\.residual\.\d+\.block\.0\.weight") for number in range(2, count + 1)]
    return {
        "z_dim": inputs - code_dim,
        "text_dim": text_dim,
        "code_dim": code_dim or inputs,
        "start": rows // 32,
        "widths": widths,
        "residuals": [sum(block.fullmatch(key) is not None for key in tensors) for block in blocks],
    }


def _discriminator(tensors: dict[str, Tensor]) -> Config:
    if "encode_img.0.weight" in tensors:
        raise CheckpointError("Discriminators of StackGAN (v1) are not read; only its generators are.")
    shrunk = [int(m[1]) for key in tensors if (m := re.match(r"img_code_s(\d+)\.0\.weight", key))]
    first = tensors[f"img_code_s{min(shrunk, default=16)}.0.weight"]
    joint = tensors.get("jointConv.0.weight")
    code_dim = 0 if joint is None else joint.shape[1] - joint.shape[0]
    return {"width": len(first), "img_size": 4 * max(shrunk), "code_dim": code_dim}


# The form that answers fastest ----------------------------------------------------------------------------------------


MOST_DOUBLED = 256
"""Channels; where there are more, the pixels are so few that reading the larger weights takes the time."""


class SplitJoint(nn.Module):
    """The first convolution of a stage, without a picture of the code: its share differs at the edges only."""

    def __init__(self, joint: nn.Conv2d, code_dim: int):
        super().__init__()
        weight = joint.weight.detach()
        self.register_buffer("code_weight", weight[:, :code_dim].clone())
        self.register_buffer("weight", weight[:, code_dim:].contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", joint.bias.detach() if joint.bias is not None else None)
        self.code_weight: Tensor
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        corners = F.conv2d(code[:, :, None, None].expand(-1, -1, 3, 3), self.code_weight, self.bias, padding=1)
        centre = corners[:, :, 1:2, 1:2]
        edges, y = corners - centre, F.conv2d(x, self.weight, padding=1).add_(centre)
        y[:, :, :: y.shape[2] - 1, 1:-1] += edges[:, :, ::2, 1:2]
        y[:, :, 1:-1, :: y.shape[3] - 1] += edges[:, :, 1:2, ::2]
        y[:, :, :: y.shape[2] - 1, :: y.shape[3] - 1] += edges[:, :, ::2, ::2]
        return y


class FastNextStage(nn.Module):
    """A `NextStage` whose norms are folded already."""

    def __init__(self, stage: NextStage, code_dim: int):
        super().__init__()
        self.joint = SplitJoint(stage.jointConv[0], code_dim)  # type: ignore[arg-type]
        self.rest = nn.Sequential(nn.GLU(dim=1), stage.residual, stage.upsample)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.rest(self.joint(x, code))


class InHalf(nn.Module):
    """A module that computes in bfloat16 between float32 and float32."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.bfloat16()).float()


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """BatchNorm folded, doubling and convolution in one, the code's share apart, channels last.

    The fast form computes the first stage in bfloat16, where most of the work is: pictures stay within 54 dB. The
    residual blocks of later stages would cost another 8 dB for little time. Version 1 has no other fast form.
    """
    _fold(network)
    if isinstance(network, _Stages):
        for name, stage in list(network.named_children()):
            if isinstance(stage, NextStage):
                network.add_module(name, FastNextStage(stage, network.code_dim))
    network.to(memory_format=torch.channels_last)
    if isinstance(network, _Stages) and precision == "fast":
        network.add_module("h_net1", InHalf(network.h_net1))
    return network.requires_grad_(False)


def _fold(network: nn.Module) -> None:
    for name, child in list(network.named_children()):
        if not isinstance(child, nn.Sequential):
            _fold(child)
            continue
        layers: list[nn.Module] = []
        for layer in child:
            _fold(layer)
            before = layers[-1] if layers else None
            if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
                layers[-1] = fuse_conv_bn_eval(before, layer)
                if len(layers) > 1 and isinstance(layers[-2], nn.Upsample) and before.in_channels <= MOST_DOUBLED:
                    layers[-2:] = [_doubling(layers[-1])]  # type: ignore[arg-type]
            elif isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
                layers[-1] = fuse_linear_bn_eval(before, layer)
            else:
                layers.append(layer)
        setattr(network, name, nn.Sequential(*layers))


def _doubling(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """Nearest-neighbour doubling and a 3x3 convolution as one, with 16 products for 4 pixels instead of 36."""
    weight = conv.weight.detach().flip(2, 3).transpose(0, 1)
    both = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, 2, 1)
    both.weight.data = sum(F.pad(weight, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1))  # type: ignore[assignment]
    assert conv.bias is not None and both.bias is not None
    both.bias.data = conv.bias.detach()
    return both.eval()
