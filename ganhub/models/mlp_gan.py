"""The first GAN (Goodfellow et al., 2014, https://arxiv.org/abs/1406.2661): nothing but fully connected layers.

Reads any depth and width, with and without BatchNorm, conditional (learned embedding or one-hot) or not, among them
csinva/gan-vae-pretrained-pytorch and eriklindernoren/PyTorch-GAN. A row's `config` may say what shapes cannot:
`activation` (default: `relu`; `leaky_relu` in a discriminator or beside BatchNorm), `output` (default: `tanh` for
G, `sigmoid` for D), `img_size` and `img_channels` (default: a square of one channel, else of three), `norm_eps`
(default 0.8, as in PyTorch-GAN), `z_distribution`, `classes`, `label_first`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import _chain
from ganhub.models._chain import ChainDiscriminator, ChainGenerator, Found, Spec, Step
from ganhub.models._parts import tensors_of

OPTIONS = {"activation", "output", "img_size", "img_channels", "norm_eps", "z_distribution", "classes", "label_first"}


class Generator(ChainGenerator):
    pass


class Discriminator(ChainDiscriminator):
    pass


def plain(z_dim: int, widths: list[int], channels: int, size: int) -> dict[str, Any]:
    """Config of an unconditional generator with ReLU between its layers."""
    layers: list[Spec] = []
    for before, width in zip([z_dim, *widths], widths, strict=False):
        layers += [["linear", before, width, True], ["relu"]]
    layers += [["linear", widths[-1], channels * size * size, True], ["tanh"]]
    return {"layers": layers, "z_dim": z_dim, "img_channels": channels, "img_size": [size, size]}


def detect(raw: RawCheckpoint) -> bool:
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
    """The network as it is; the exact form needs microseconds."""
    return network


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file.

    Raises:
        CheckpointError: the layers are no chain of fully connected ones, or do not end (G) or begin (D) in a picture.
    """
    _chain.check_options(config, OPTIONS)
    modules = _chain.found(tensors_of(raw, part), raw.name)
    body, steps = _chain.first_fit(modules, lambda body: _steps(body, part, config), raw.name)
    layers = [spec for spec, _ in steps]
    end = body[-1] if part == "G" else body[0]
    pixels = end.shape[0] if part == "G" else end.shape[1]
    channels, height, width = _picture(pixels, end, config)
    facts: dict[str, Any] = {"layers": layers, "img_channels": channels, "img_size": [height, width]}
    if part == "G":
        facts["label"], facts["z_dim"] = _chain.label(modules, body[0].shape[1], config)
        facts["z_distribution"] = config.get("z_distribution", "normal")
        facts["unit_range"] = layers[-1] == ["sigmoid"]
    return _chain.filled(build(part, facts), steps, modules, raw.name)


def _steps(body: list[Found], part: str, config: dict[str, Any]) -> list[Step]:
    if len(body) < 2 or body[0].kind != "linear" or body[-1].kind != "linear":
        raise CheckpointError("its layers do not begin and end with a fully connected one")
    if part == "D" and body[-1].shape[0] != 1:
        raise body[-1].misfit(f"gives {body[-1].shape[0]} numbers, not one verdict")
    if part == "G" and body[-1].shape[0] < 64:
        raise body[-1].misfit(f"gives {body[-1].shape[0]} numbers, too few for a picture")
    normed = any(module.kind == "norm" for module in body)
    hidden = _chain.activation(config, "leaky_relu" if part == "D" or normed else "relu")
    steps: list[Step] = [] if part == "G" else [(["flatten"], None)]
    width, done = body[0].shape[1], False
    for number, module in enumerate(body):
        if module.kind == "conv":
            raise module.misfit("is a convolution")
        if module.kind == "linear":
            if module.shape[1] != width:
                raise module.misfit(f"takes {module.shape[1]} numbers where {width} come in")
            width, done = module.shape[0], False
        elif module.shape[0] not in ((width, 1) if module.kind == "prelu" else (width,)):
            raise module.misfit(f"has {module.shape[0]} channels where {width} come in")
        steps.append((_chain.spec_of(module, float(config.get("norm_eps", 0.8)), flat=True), module))
        after = body[number + 1] if number + 1 < len(body) else None
        done = done or module.kind == "prelu"
        if after is not None and _chain.active(module, after, done):
            steps.append((hidden, None))
            done = True
    last = config.get("output", "tanh" if part == "G" else "sigmoid")
    return steps + [([last], None)]


def _picture(pixels: int, end: Found, config: dict[str, Any]) -> tuple[int, int, int]:
    size = config.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        channels, rest = divmod(pixels, height * width)
        if rest or not channels:
            raise end.misfit(f"has {pixels} values, which pictures of {height}x{width} pixels have not")
        return channels, height, width
    for channels in (config["img_channels"],) if "img_channels" in config else (1, 3):
        side = math.isqrt(pixels // channels)
        if side * side * channels == pixels and side >= 8:
            return channels, side, side
    raise end.misfit(f"has {pixels} values, which no square picture of 1 or 3 channels has; say config.img_size")
