"""DCGAN (Radford et al., 2015, https://arxiv.org/abs/1511.06434) and its dialects: one chain of convolutions.

The chain is read from names and shapes: transposed convolutions (or upsampling and convolutions) from a latent of one
pixel or from a fully connected layer, any size, width and number of channels, with or without biases, BatchNorm,
spectral normalisation and classes. What shapes cannot tell has these defaults, and a row's `config` may say otherwise:

- `img_size`: kernels of even size double the picture, those of size 3 and more do too, except that one channel means
  28 pixels (digits) where the shapes allow 28;
- `geometry`: `[stride, padding]` or `[stride, padding, output_padding]` of every convolution of G, for anything else;
- `activation`: `relu` for G, `leaky_relu` for D and for the dialects that are known to use it;
- `output`: `tanh` for G, `sigmoid` for D; `norm_eps`: 1e-5, and 0.8 in the dialect of PyTorch-GAN;
- `first_activation`: whether one follows the first layer (not in the names `generator_deconv`);
- `z_distribution`: `normal` (`uniform` in the names `generator_deconv`); `classes`, `label_first`; `upsample`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import _chain
from ganhub.models._chain import ChainDiscriminator, ChainGenerator, Found, Spec, Step
from ganhub.models._parts import tensors_of

OPTIONS = {"img_size", "geometry", "activation", "first_activation", "output", "norm_eps", "z_distribution"}
OPTIONS |= {"classes", "label_first", "upsample"}

Geometry = tuple[int, int, int]  # stride, padding, output padding

COURSE = [[2, 0], [1, 0], [2, 0], [2, 0]]
"""Kernels of 3, 4, 3 and 4 are those of the GAN course of DeepLearning.AI, which pads nowhere: 3, 6, 13, 28 pixels."""


class Generator(ChainGenerator):
    pass


class Discriminator(ChainDiscriminator):
    pass


@dataclass(frozen=True)
class Dialect:
    """What the names in a file tell beyond its shapes."""

    activation: str = "relu"
    first_activation: bool = True
    z_distribution: str = "normal"
    norm_eps: float = 1e-5
    label_first: bool = True


def _dialect(body: list[Found], modules: list[Found]) -> Dialect:
    joined = any(module.kind == "embedding" and module.shape[1] < body[0].shape[1] for module in modules)
    names = {name for module in body for name in module.path.split(".")}
    if "generator_deconv" in names:  # fletchersarip93/face-generator
        return Dialect("leaky_relu", first_activation=False, z_distribution="uniform")
    if "conv_blocks" in names:  # eriklindernoren/PyTorch-GAN, whose 0.8 was meant as a momentum
        if joined:  # HayatoHongo/MNIST-Conditional-WGAN-gp
            return Dialect("relu", first_activation=False, norm_eps=0.8, label_first=False)
        return Dialect("leaky_relu", first_activation=False, norm_eps=0.8)
    if "layer_stack" in names:  # dennisjooo/DCGAN-on-MNIST
        return Dialect("leaky_relu")
    return Dialect()


def plain(z_dim: int, widths: list[int], channels: int) -> dict[str, Any]:
    """Config of the generator of the paper: 4x4 from the latent, then doubled by every layer."""
    layers: list[Spec] = []
    for number, (before, width) in enumerate(zip([z_dim, *widths], widths, strict=False)):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        layers += [["conv_t", before, width, 4, stride, padding, 0, False], ["norm", width, 1e-5], ["relu"]]
    layers += [["conv_t", widths[-1], channels, 4, 2, 1, 0, False], ["tanh"]]
    size = 4 * 2 ** len(widths)
    return {"layers": layers, "z_dim": z_dim, "img_channels": channels, "img_size": [size, size]}


def detect(raw: RawCheckpoint) -> bool:
    for part in ("G", "D"):
        try:
            modules = _chain.found(tensors_of(raw, part), raw.name)
            body, _ = _chain.first_fit(modules, lambda body, part=part: _shape(body, part), raw.name)  # type: ignore[misc]
        except CheckpointError:
            continue
        # The discriminators of other families end in such chains too, but in several parts.
        if part == "G" or len({module.path.rpartition(".")[0] for module in body}) == 1:
            return True
    return False


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Generator(config) if part == "G" else Discriminator(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """BatchNorm folded into the convolutions; the fast form is the exact one, which needs milliseconds."""
    return _chain.folded(network)


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file.

    Raises:
        CheckpointError: the layers are no such chain, or the shapes leave open what they do.
    """
    _chain.check_options(config, OPTIONS)
    modules = _chain.found(tensors_of(raw, part), raw.name)
    body, _ = _chain.first_fit(modules, lambda body: _shape(body, part), raw.name)
    try:
        steps, facts = (_generator if part == "G" else _discriminator)(body, modules, config)
    except CheckpointError as error:
        raise CheckpointError(f"{raw.name}: {error}", error.code) from error
    return _chain.filled(build(part, facts), steps, modules, raw.name)


# Channels: which way every convolution goes ---------------------------------------------------------------------------


def _shape(body: list[Found], part: str) -> list[Step]:
    """Checks that channels run through the chain; the layer kinds of its modules, geometry still open."""
    convolutions = [module for module in body if module.kind == "conv"]
    if len(convolutions) < 2:
        raise CheckpointError("it has fewer than two convolutions")
    kinds = _up_kinds(body) if part == "G" else _down_kinds(body)
    return [([kind], module) for kind, module in zip(kinds, body, strict=True)]


def _up_kinds(body: list[Found]) -> list[str]:
    kinds, channels = [], 0
    pictures = [module for module in body if module.kind == "conv" and min(module.shape[:2]) in (1, 3)]
    if len(pictures) > 1:  # a network from pictures to pictures
        raise pictures[0].misfit("and another convolution have a picture at one end")
    if body[0].kind == "linear":
        kinds.append("linear")
        channels = _reshaped(body)
    elif body[0].kind != "conv" or body[0].shape[2] < 2:
        raise body[0].misfit("can be no first layer of a generator")
    for number, module in enumerate(body[len(kinds) :], len(kinds)):
        if module.kind == "linear":
            raise module.misfit("is a fully connected layer in the middle of the chain")
        if module.kind != "conv":
            _same_width(module, channels)
            kinds.append(module.kind)
            continue
        a, b, kernel, _ = module.shape
        if number == 0 or (a == channels and (b != channels or kernel % 2 == 0)):
            kinds.append("conv_t")
            channels = b
        elif b == channels and kernel % 2 == 1:
            kinds.append("conv")
            channels = a
        else:
            raise module.misfit(f"has shape {list(module.shape)}, which {channels} channels do not go into")
    if body[-1].kind != "conv" or channels not in (1, 3):
        raise body[-1].misfit(f"gives {channels} channels, not the 1 or 3 of a picture")
    return kinds


def _reshaped(body: list[Found]) -> int:
    """Channels of the small picture that the output of the fully connected layer is seen as."""
    width = body[0].shape[0]
    after = next(module for module in body[1:] if module.kind != "prelu")
    options = after.shape[:2] if after.kind == "conv" else after.shape[:1]
    if after.kind == "norm" and after.shape[0] == width:  # normalised before it is reshaped
        options = next(module for module in body[1:] if module.kind == "conv").shape[:2]
    for channels in options:
        side = math.isqrt(width // channels)
        if side > 1 and side * side * channels == width:
            return channels
    raise body[0].misfit(f"gives {width} numbers, which make no square picture of {options[0]} channels")


def _down_kinds(body: list[Found]) -> list[str]:
    channels = body[0].shape[1] if body[0].kind == "conv" else 0
    if channels not in (1, 3):
        raise body[0].misfit("does not take a picture of 1 or 3 channels")
    for number, module in enumerate(body):
        if module.kind == "conv":
            if module.shape[1] != channels or module.shape[2] < 3 or module.shape[2] > 5:
                raise module.misfit(f"has shape {list(module.shape)}, which is no layer of such a discriminator")
            channels = module.shape[0]
        elif module.kind == "linear":
            if number != len(body) - 1 or module.shape[0] != 1 or module.shape[1] % channels:
                raise module.misfit("is no verdict of one number")
            channels = 1
        else:
            _same_width(module, channels)
    if channels != 1 or body[-1].kind not in ("conv", "linear"):
        raise body[-1].misfit(f"gives {channels} numbers, not one verdict")
    return [module.kind for module in body]


def _same_width(module: Found, channels: int) -> None:
    if module.kind == "norm" and channels and module.shape[0] % channels == 0:
        return  # on the channels, or on the numbers before they are reshaped
    if module.kind != "prelu" or module.shape[0] not in (1, channels):
        raise module.misfit(f"has {module.shape[0]} values for {channels} channels")


# Generator ------------------------------------------------------------------------------------------------------------


def _generator(body: list[Found], modules: list[Found], config: dict[str, Any]) -> tuple[list[Step], dict[str, Any]]:
    dialect = _dialect(body, modules)
    kinds = _up_kinds(body)
    hidden = _chain.activation(config, dialect.activation)
    first_active = config.get("first_activation", dialect.first_activation)
    flat = body[0].kind == "linear"
    channels = _reshaped(body) if flat else 0
    start = math.isqrt(body[0].shape[0] // channels) if flat else 1
    doubled = _doubled(body, kinds, config, bool(first_active))
    picture = body[-1].shape[1 if kinds[-1] == "conv_t" else 0]
    geometry = _geometry(body, kinds, doubled, start, picture, config)

    steps: list[Step] = []
    norms, size, reshaped, done = 0, start, not flat, False
    for number, (kind, module) in enumerate(zip(kinds, body, strict=True)):
        if not reshaped and number and not (kind == "norm" and module.shape[0] == body[0].shape[0]):
            steps.append((["reshape", channels, start, start], None))
            reshaped = True
        if doubled[number]:
            steps.append((["up", 2, config.get("upsample", "nearest")], None))
            size *= 2
        if module.kind == "conv":
            stride, padding, extra = geometry[number]
            inside, outside, kernel = module.shape[kind == "conv"], module.shape[kind != "conv"], module.shape[2]
            places = [stride, padding, extra] if kind == "conv_t" else [stride, padding]
            steps.append(([kind, inside, outside, kernel, *places, module.bias], module))
            size = _grown(kind, size, kernel, geometry[number])
            if size < 1:
                raise module.misfit("leaves no pixel of the picture; see config.geometry")
        else:
            eps = config.get("norm_eps", dialect.norm_eps)
            if module.kind == "norm":
                norms += 1
                if norms == 1 and flat and "norm_eps" not in config:
                    eps = 1e-5
            steps.append((_chain.spec_of(module, float(eps), flat=not reshaped), module))
        if number + 1 == len(body):
            break
        done = module.kind == "prelu" or (done and module.kind == "norm")
        first = not any(m.kind == "conv" for m in body[int(not flat) : number + 1])
        if _chain.active(module, body[number + 1], done) and (first_active or not first):
            steps.append((hidden, None))
            done = True
    last = config.get("output", "tanh")
    steps.append(([last], None))

    taken = body[0].shape[1] if flat else body[0].shape[0]
    label, z_dim = _chain.label(modules, taken, config, dialect.label_first)
    facts = {
        "layers": [spec for spec, _ in steps], "z_dim": z_dim, "label": label, "unit_range": last == "sigmoid",
        "img_channels": picture, "img_size": [size, size],
        "z_distribution": config.get("z_distribution", dialect.z_distribution),
    }  # fmt: skip
    return steps, facts


def _doubled(body: list[Found], kinds: list[str], config: dict[str, Any], first_active: bool) -> list[bool]:
    """Before which convolutions the picture is upsampled: numbered modules leave a gap for it beside the activation."""
    doubled = [False]
    for before, after, kind in zip(body, body[1:], kinds[1:], strict=False):
        gap = _chain.hidden(before, after) or 0
        # In PyTorch-GAN nothing but the upsampling stands between the first BatchNorm and the first convolution.
        alone = gap == 1 and not first_active and not any(doubled) and before.kind == "norm"
        doubled.append(kind == "conv" and (gap >= 2 or alone))
    return doubled


def _geometry(
    body: list[Found], kinds: list[str], doubled: list[bool], start: int, picture: int, config: dict[str, Any]
) -> dict[int, Geometry]:
    """Stride and padding of every convolution, by its place in the chain.

    Raises:
        CheckpointError: none, or several, give the size that was asked for.
    """
    places = [number for number, module in enumerate(body) if module.kind == "conv"]
    given = config.get("geometry")
    if given is None and "img_size" not in config and start == 1 and picture == 1:
        given = COURSE if [body[number].shape[2] for number in places] == [3, 4, 3, 4] else None
    if given is not None:
        if len(given) != len(places):
            raise CheckpointError(
                f"config.geometry must give [stride, padding] or [stride, padding, output_padding] for each of the "
                f"{len(places)} convolutions."
            )
        if any(len(one) == 3 and one[2] >= one[0] for one in given):
            raise CheckpointError("config.geometry: an output_padding must be smaller than its stride.")
        return {number: (*one, 0)[:3] for number, one in zip(places, given, strict=True)}  # type: ignore[misc]
    choices = [
        _choices(kinds[number], body[number].shape[2], first=number == 0, last=number == len(body) - 1)
        for number in places
    ]
    if math.prod(len(options) for options in choices) > 10_000:
        raise CheckpointError("its shapes leave too much open; say config.geometry for every convolution.")
    sizes: dict[int, list[tuple[Geometry, ...]]] = {}
    for chosen in itertools.product(*choices):
        size = start
        for number, one in zip(places, chosen, strict=True):
            size = _grown(kinds[number], size * (2 if doubled[number] else 1), body[number].shape[2], one)
        sizes.setdefault(size, []).append(chosen)
    wanted = config.get("img_size")
    if wanted is not None and not isinstance(wanted, int):
        if wanted[0] != wanted[1]:
            raise CheckpointError("config.img_size must be square for this family.")
        wanted = wanted[0]
    if wanted is None:
        wanted = 28 if picture == 1 and 28 in sizes else max(sizes)
    if wanted not in sizes:
        raise CheckpointError(
            f"its layers give pictures of {', '.join(str(s) for s in sorted(sizes))} pixels, not of {wanted}; "
            "say config.geometry, the [stride, padding] of every convolution."
        )
    fits = sizes[wanted]
    if len(fits) > 1:
        raise CheckpointError(
            f"its shapes allow {len(fits)} ways to {wanted} pixels; say config.geometry, the [stride, padding] of "
            "every convolution."
        )
    return dict(zip(places, fits[0], strict=True))


def _choices(kind: str, kernel: int, first: bool, last: bool) -> list[Geometry]:
    if kind == "conv":
        return [(1, (kernel - 1) // 2, 0)]
    if first:
        return [(1, 0, 0)]
    if kernel == 1:  # csinva/gan-vae-pretrained-pytorch cuts 32 pixels down to 28 by a padding of 2
        return [(1, 0, 0), (1, 2, 0)] if last else [(1, 0, 0)]
    if kernel % 2 == 0:
        return [(2, (kernel - 2) // 2, 0)]
    middle = (kernel - 1) // 2
    return [(2, middle, 1), (2, middle, 0), (1, middle, 0)]


def _grown(kind: str, size: int, kernel: int, geometry: Geometry) -> int:
    stride, padding, extra = geometry
    if kind == "conv":
        return (size + 2 * padding - kernel) // stride + 1
    return (size - 1) * stride - 2 * padding + kernel + extra


# Discriminator --------------------------------------------------------------------------------------------------------


def _discriminator(
    body: list[Found], modules: list[Found], config: dict[str, Any]
) -> tuple[list[Step], dict[str, Any]]:
    """Every convolution halves the picture; the last one, or a fully connected layer, sees what is left at once."""
    if len(body) < len(modules):
        raise CheckpointError("a discriminator with classes is not known here.")
    hidden = _chain.activation(config, "leaky_relu")
    size, geometry = _halvings(body, config)
    convolutions = iter(geometry)
    steps: list[Step] = []
    done = False
    for number, module in enumerate(body):
        if module.kind == "conv":
            outside, inside, kernel, _ = module.shape
            steps.append((["conv", inside, outside, kernel, *next(convolutions), module.bias], module))
        else:
            if module.kind == "linear":
                steps.append((["flatten"], None))
            steps.append((_chain.spec_of(module, float(config.get("norm_eps", 1e-5))), module))
        done = module.kind == "prelu" or (done and module.kind == "norm")
        if number + 1 < len(body) and _chain.active(module, body[number + 1], done):
            steps.append((hidden, None))
            done = True
    steps.append(([config.get("output", "sigmoid")], None))
    facts = {"layers": [spec for spec, _ in steps], "img_channels": body[0].shape[1], "img_size": [size, size]}
    return steps, facts


def _halvings(body: list[Found], config: dict[str, Any]) -> tuple[int, list[tuple[int, int]]]:
    convolutions = [module for module in body if module.kind == "conv"]
    if "geometry" in config:
        raise CheckpointError("config.geometry is for generators; a discriminator halves the picture.")
    flat = body[-1].kind == "linear"
    halving = len(convolutions) if flat else len(convolutions) - 1
    geometry = [(2, (module.shape[2] - 1) // 2) for module in convolutions[:halving]]
    left = math.isqrt(body[-1].shape[1] // convolutions[-1].shape[0]) if flat else convolutions[-1].shape[2]
    size = left * 2**halving
    if not flat and size == 32 and convolutions[0].shape[1] == 1:
        size = 28  # digits
    wanted = config.get("img_size", size)
    size = wanted if isinstance(wanted, int) else wanted[0]
    now = size
    for module, (stride, padding) in zip(convolutions, geometry, strict=False):
        now = (now + 2 * padding - module.shape[2]) // stride + 1
    if now == left:
        return size, geometry if flat else [*geometry, (1, 0)]
    if not flat and now + 2 >= left > now:  # 28 -> 14 -> 7 -> 3: the last kernel of 4 needs a border
        return size, [*geometry, (2, 1)]
    raise CheckpointError(f"its layers leave {now} of {size} pixels where the last one sees {left}; say img_size.")
