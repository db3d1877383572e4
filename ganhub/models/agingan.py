"""CycleGAN's residual networks that make faces older and younger: Fast-AgingGAN and its kin.

Zhu et al., 2017 (https://arxiv.org/abs/1703.10593): two halvings, residual blocks, two doublings. Fast-AgingGAN has 32
channels, nine blocks and batch normalisation; width, depth and normalisation are read from the tensors. Its training
leaves two such networks, from young to old (`genA2B`) and back (`genB2A`), and a discriminator of each; its published
file holds the first one by itself.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import load_strictly
from ganhub.models._ageing import DIRECTIONS, Cast, Years, check_sides, dtype_of

_NAMES = {
    "G": (re.compile(r"(net_?)?g(en)?_?a(2b)?", re.IGNORECASE), re.compile(r"(net_?)?g(en)?_?b(2a)?", re.IGNORECASE)),
    # what is old is judged by the discriminator of B
    "D": (re.compile(r"(net_?)?d(is)?(_?g)?_?b", re.IGNORECASE), re.compile(r"(net_?)?d(is)?(_?g)?_?a", re.IGNORECASE)),
}


class Block(nn.Module):
    """Two convolutions, and the sum with what went into them: x [N, width, h, w] -> the same shape."""

    def __init__(self, width: int, norm: str):
        super().__init__()
        first = (nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), _norm(norm, width), nn.ReLU())
        self.conv_block = nn.Sequential(*first, nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), _norm(norm, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else nn.InstanceNorm2d(width)


def _translator(ngf: int, blocks: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7), _norm(norm, ngf), nn.ReLU()]
    for width in (ngf * 2, ngf * 4):
        layers += [nn.Conv2d(width // 2, width, 3, stride=2, padding=1), _norm(norm, width), nn.ReLU()]
    layers += [Block(ngf * 4, norm) for _ in range(blocks)]
    for width in (ngf * 2, ngf):
        layers += [nn.ConvTranspose2d(width * 2, width, 3, stride=2, padding=1, output_padding=1)]
        layers += [_norm(norm, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh())


class Generator(nn.Module):
    """Faces [N, 3, H, W] in [-1, 1] -> older or younger ones, of the same shape and range.

    Config: `ngf`, `blocks`, `norm` (`batch` or `instance`), `directions`, `img_size`.
    """

    ages = None
    """It goes a fixed way, whatever the age."""
    multiple = 4
    """Both sides of a picture must be multiples of this."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.directions: tuple[str, ...] = tuple(config["directions"])
        self.img_size: tuple[int, int] = (config.get("img_size", 512),) * 2
        shape = (config["ngf"], config["blocks"], config["norm"])
        self.model = nn.ModuleDict({direction: _translator(*shape) for direction in self.directions})

    def forward(self, x: Tensor, source: Years = None, target: Years = None) -> Tensor:
        """See the class. Younger where `target` is less than `source`, else older; without ages, the first direction.

        Raises:
            BadInput: a side is no multiple of 4, or there is no network for this direction.
        """
        check_sides(x, self.multiple)
        if source is None or target is None:
            return self.model[self.directions[0]](x)
        younger = (torch.as_tensor(target) < torch.as_tensor(source)).to(x.device).expand(len(x))
        out = torch.empty_like(x)
        for direction, chosen in zip(DIRECTIONS, (~younger, younger), strict=True):
            if not chosen.any():
                continue
            if direction not in self.directions:
                raise BadInput(f"This network only makes faces {self.directions[0]}, not {direction}.")
            out[chosen] = self.model[direction](x[chosen])
        return out


class Discriminator(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1] -> [N, 1], the mean over all places; towards 1 for what looks real.

    Config: `ndf`.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        w = config["ndf"]
        self.model = nn.Sequential(
            *(nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(w, 2 * w, 4, 2, 1), nn.BatchNorm2d(2 * w), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(2 * w, 4 * w, 4, 2, 1), nn.InstanceNorm2d(4 * w), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(4 * w, 8 * w, 4, 1, 1), nn.InstanceNorm2d(8 * w), nn.LeakyReLU(0.2)),
            nn.Conv2d(8 * w, 1, 4, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).mean(dim=(2, 3))


def _found(raw: RawCheckpoint, part: str) -> dict[str, dict[str, Tensor]]:
    """Tensors by direction, without the `model.` before their names; a network by itself stands under the name ``."""
    shape = {"G": ("1.weight", (7, 7)), "D": ("0.weight", (4, 4))}[part]
    found: dict[str, dict[str, Tensor]] = {}
    for name, network in raw.networks.items():
        split: dict[str, dict[str, Tensor]] = {}
        for key, tensor in network.tensors.items():
            owner, marker, rest = key.rpartition("model.")
            if marker:
                split.setdefault(owner.rstrip(".") or name, {})[rest] = tensor
        for owner, tensors in split.items():
            first = tensors.get(shape[0])
            if first is not None and first.dim() == 4 and first.shape[1:] == (3, *shape[1]):
                words = owner.split(".")
                called = [d for d, p in zip(DIRECTIONS, _NAMES[part], strict=True) if any(map(p.fullmatch, words))]
                found[called[0] if called else ""] = tensors
    return found


def _config(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """Config from names and shapes, None where they are those of no such generator."""
    ngf = len(tensors["1.weight"])
    halved, block = tensors.get("4.weight"), tensors.get("10.conv_block.1.weight")
    if halved is None or halved.shape != (2 * ngf, ngf, 3, 3) or block is None:
        return None
    blocks = len({key.split(".")[0] for key in tensors if ".conv_block." in key})
    last = tensors.get(f"{blocks + 17}.weight")
    if last is None or last.shape != (3, ngf, 7, 7):
        return None
    return {"ngf": ngf, "blocks": blocks, "norm": "batch" if "2.running_mean" in tensors else "instance"}


def detect(raw: RawCheckpoint) -> bool:
    return any(_config(tensors) for tensors in _found(raw, "G").values())


def read(raw: RawCheckpoint, part: str = "G", direction: str | None = None, **config: Any) -> nn.Module:
    """The network of a published file, with all directions that it has.

    Args:
        direction: `older` or `younger`: what a file with one network does, or which of several is wanted.
        config: `img_size`, that the network was trained at.

    Raises:
        CheckpointError: names or shapes are not those of such a network, or it lacks this direction.
    """
    if direction is not None and direction not in DIRECTIONS:
        raise CheckpointError(f"config.direction is 'older' or 'younger', not '{direction}'.")
    found = _found(raw, part)
    if "" in found and len(found) == 1:
        found = {direction or "older": found[""]}
    found = {d: found[d] for d in DIRECTIONS if d in found and direction in (d, None)}
    if not found:
        wanted = f"that makes faces {direction}" if direction else "of this family"
        raise CheckpointError(f"{raw.name} holds no {'generator' if part == 'G' else 'discriminator'} {wanted}.")
    if part == "D":
        tensors = next(iter(found.values()))
        network: nn.Module = Discriminator({"ndf": len(tensors["0.weight"])})
        load_strictly(network, {f"model.{key}": tensor for key, tensor in tensors.items()}, raw.name)
        return network
    facts = [_config(tensors) for tensors in found.values()]
    if facts[0] is None or any(fact != facts[0] for fact in facts):
        raise CheckpointError(f"{raw.name} is no network of this family: its layers are not those of a CycleGAN.")
    network = build(part, {**facts[0], "directions": list(found), **config})
    named = {f"model.{d}.{key}": tensor for d, tensors in found.items() for key, tensor in tensors.items()}
    load_strictly(network, named, raw.name)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Generator(config) if part == "G" else Discriminator(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """`exact`: float32; `fast`: float16 between picture and picture."""
    assert isinstance(network, Generator), "only a plain form is prepared"
    dtype = dtype_of(precision, network)
    prepared = Generator({**network.config, "directions": []})
    prepared.config, prepared.directions = network.config, network.directions
    for direction, layers in network.model.items():
        *body, tanh = _folded(layers)  # type: ignore[arg-type]
        body = [layer.to(dtype).to(memory_format=torch.channels_last) for layer in body]
        prepared.model[direction] = nn.Sequential(Cast(dtype), *body, Cast(torch.float32), tanh)
    return prepared.eval().requires_grad_(False)


def _folded(layers: nn.Sequential) -> nn.Sequential:
    """Copies of layers, each batch normalisation inside the convolution before it, ReLUs in place."""
    out: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            conv: Any = out[-1]
            out[-1] = fuse_conv_bn_eval(conv, layer, transpose=isinstance(conv, nn.ConvTranspose2d))
            continue
        layer = nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) else copy.deepcopy(layer)
        if isinstance(layer, Block):
            layer.conv_block = _folded(layer.conv_block)
        out.append(layer)
    return nn.Sequential(*out)
