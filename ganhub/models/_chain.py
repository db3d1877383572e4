"""Networks that are one chain of layers, and how to find the chain in the names and shapes of a file.

A config lists every layer as `[kind, numbers...]`; the families `mlp_gan` and `dcgan` differ in how they get there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ganhub.errors import BadInput, CheckpointError
from ganhub.models import load_strictly
from ganhub.models._spectral import fold

Spec = list[Any]

ACTIVATIONS: dict[str, Any] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda slope=0.2: nn.LeakyReLU(slope, inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "selu": lambda: nn.SELU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}

_LAYERS: dict[str, Any] = {
    "linear": lambda i, o, bias: nn.Linear(i, o, bias=bias),
    "conv": lambda i, o, k, stride, pad, bias: nn.Conv2d(i, o, k, stride, pad, bias=bias),
    "conv_t": lambda i, o, k, stride, pad, extra, bias: nn.ConvTranspose2d(i, o, k, stride, pad, extra, bias=bias),
    "norm": lambda n, eps: nn.BatchNorm2d(n, eps=eps),
    "norm_1d": lambda n, eps: nn.BatchNorm1d(n, eps=eps),
    "prelu": nn.PReLU,
    "reshape": lambda *shape: nn.Unflatten(1, shape),
    "flatten": nn.Flatten,
    "dropout": nn.Dropout,
    "up": lambda factor, mode: nn.Upsample(scale_factor=factor, mode=mode),
    **ACTIVATIONS,
}


def sequence(specs: list[Spec], kinds: Mapping[str, Any] = MappingProxyType({})) -> nn.Sequential:
    """The layers of a config; `kinds` are those of a family beside the common ones.

    Raises:
        CheckpointError: a layer is of no known kind.
    """
    known = {**_LAYERS, **kinds}
    for kind, *_ in specs:
        if kind not in known:
            raise CheckpointError(f"There is no layer '{kind}'; there are {', '.join(known)}.")
    return nn.Sequential(*(known[kind](*numbers) for kind, *numbers in specs))


class ChainGenerator(nn.Module):
    """z [N, z_dim], and the class as one-hot c [N, c_dim] where there are classes -> [N, C, H, W] in [-1, 1].

    Config: `layers`; `z_dim`; `img_size` (height, width); `img_channels`; `z_distribution`; `unit_range` (true where
    the last layer gives 0 to 1); `label`: `{classes, dim, join, first}`, `join` being `concat` or `multiply` with a
    learned embedding, or `one_hot`; `first` tells whether the label stands before z.
    """

    w_dim = 0
    num_ws = 0
    kinds: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.z_dim: int = config["z_dim"]
        self.img_channels: int = config["img_channels"]
        self.img_size: tuple[int, int] = tuple(config["img_size"])  # type: ignore[assignment]
        self.z_distribution: str = config.get("z_distribution", "normal")
        self.unit_range: bool = config.get("unit_range", False)
        self.label: dict[str, Any] | None = config.get("label")
        self.c_dim: int = self.label["classes"] if self.label else 0
        if self.label and self.label["join"] != "one_hot":
            self.label_emb = nn.Embedding(self.c_dim, self.label["dim"])
        self.main = sequence(config["layers"], self.kinds)
        self.flat = config["layers"][0][0] in ("linear", "reshape")

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """See the class.

        Raises:
            BadInput: z or c has the wrong width, or c is missing.
        """
        z = z.flatten(1)
        if z.shape[1] != self.z_dim:
            raise BadInput(f"This generator takes z of width {self.z_dim}, not {z.shape[1]}.")
        if self.label:
            z = self._with_label(z, c, self.label)
        x = self.main(z if self.flat else z[:, :, None, None])
        x = x.view(-1, self.img_channels, *self.img_size)
        return x * 2 - 1 if self.unit_range else x

    def _with_label(self, z: Tensor, c: Tensor | None, label: dict[str, Any]) -> Tensor:
        if c is None or c.shape[1] != self.c_dim:
            raise BadInput(f"This generator needs a class, from 0 to {self.c_dim - 1}.")
        c = c.to(z.dtype)
        if label["join"] != "one_hot":
            c = c @ self.label_emb.weight
        if label["join"] == "multiply":
            return z * c
        return torch.cat((c, z) if label["first"] else (z, c), dim=1)


class ChainDiscriminator(nn.Module):
    """Pictures [N, C, H, W] in [-1, 1] -> [N, 1], what the last layer of the file's own network gives."""

    kinds: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.img_channels: int = config["img_channels"]
        self.img_size: tuple[int, int] = tuple(config["img_size"])  # type: ignore[assignment]
        self.main = sequence(config["layers"], self.kinds)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x.view(-1, self.img_channels, *self.img_size)).flatten(1)


@dataclass(frozen=True)
class Found:
    """A module of a file that has tensors."""

    path: str
    kind: str  # linear, conv (of either direction), norm, prelu, embedding
    tensors: dict[str, Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensors["weight"].shape)

    @property
    def bias(self) -> bool:
        return "bias" in self.tensors

    def misfit(self, what: str) -> CheckpointError:
        return CheckpointError(f"'{self.path}' {what}.")


Step = tuple[Spec, "Found | None"]


def found(tensors: dict[str, Tensor], name: str) -> list[Found]:
    """The modules of a state dict, in its order; spectral normalisation is folded into the weights.

    `name` is that of the file, for messages.

    Raises:
        CheckpointError: a tensor belongs to no kind of module known here.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in fold(tensors).items():
        path, _, last = key.rpartition(".")
        modules.setdefault(path, {})[last] = tensor
    try:
        return [Found(path, _kind(path, parts), parts) for path, parts in modules.items()]
    except CheckpointError as error:
        raise CheckpointError(f"{name} is no chain of layers: {error}", error.code) from error


def _kind(path: str, parts: dict[str, Tensor]) -> str:
    names = set(parts)
    if "weight" not in names:
        raise CheckpointError(f"'{path}.{sorted(names)[0]}' belongs to no layer of a chain.")
    dims = parts["weight"].dim()
    if {"running_mean", "running_var"} <= names <= {"weight", "bias", "running_mean", "running_var", _COUNT}:
        return "norm"
    if names - {"weight", "bias"}:
        raise CheckpointError(f"'{path}.{sorted(names - {'weight', 'bias'})[0]}' belongs to no layer of a chain.")
    if dims == 4 and parts["weight"].shape[2] == parts["weight"].shape[3]:
        return "conv"
    if dims == 2:
        return "embedding" if names == {"weight"} and "emb" in path.lower() else "linear"
    if dims == 1 and names == {"weight"}:
        return "prelu"
    raise CheckpointError(f"'{path}.weight' has shape {list(parts['weight'].shape)}, which no layer of a chain has.")


_COUNT = "num_batches_tracked"


def orders(modules: list[Found]) -> Iterator[list[Found]]:
    """Orders in which the modules may follow each other: that of the file, of the numbers in the names, of any groups.

    Some files keep their tensors sorted by name, where `conv_blocks` comes before `l1`.
    """
    yield modules
    numbered = sorted(modules, key=lambda m: [(int(p), "") if p.isdigit() else (-1, p) for p in m.path.split(".")])
    yield numbered
    groups: dict[str, list[Found]] = {}
    for module in numbered:
        groups.setdefault(module.path.split(".")[0], []).append(module)
    if len(groups) <= 7:
        for order in itertools.permutations(groups.values()):
            yield list(itertools.chain(*order))


def hidden(before: Found, after: Found) -> int | None:
    """How many modules without tensors stand between two numbered neighbours; None where the names do not tell."""
    (a_parent, _, a), (b_parent, _, b) = before.path.rpartition("."), after.path.rpartition(".")
    if a_parent != b_parent or not (a.isdigit() and b.isdigit()):
        return None
    return int(b) - int(a) - 1


def active(before: Found, after: Found, done: bool) -> bool:
    """Whether an activation without tensors stands between two modules.

    `done` tells that one has stood since the last layer with a matrix of weights; a chain has no two of them.
    """
    if done or "prelu" in (before.kind, after.kind):
        return False
    between = hidden(before, after)
    return after.kind in ("conv", "linear") if between is None else between > 0


def first_fit(
    modules: list[Found], steps: Callable[[list[Found]], list[Step]], name: str
) -> tuple[list[Found], list[Step]]:
    """The modules, without embeddings, in the first order that `steps` can make a chain of, and that chain.

    Raises:
        CheckpointError: there is none; gives the reason that the file's own order failed for.
    """
    body = [module for module in modules if module.kind != "embedding"]
    reason: CheckpointError | None = None
    for order in orders(body):
        try:
            return order, steps(order)
        except CheckpointError as error:
            reason = reason or error
    raise CheckpointError(f"{name} is no chain of layers: {reason}".rstrip(".") + ".") from reason


def _count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_count(side) for side in value)


def _places(value: Any) -> bool:
    """[stride, padding] or [stride, padding, output_padding], one for each convolution."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(one, (list, tuple)) and len(one) in (2, 3) and _count(one[0]) and all(_count(n, 0) for n in one)
        for one in value
    )


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "activation": ("a name, or [name, slope]", lambda v: isinstance(v, (str, list, tuple)) and len(v) > 0),
    "output": ("tanh, sigmoid or none", lambda v: v in ("tanh", "sigmoid", "none")),
    "img_size": ("a number of pixels, or [height, width]", lambda v: _count(v) or _pair(v)),
    "img_channels": ("a number of channels", _count),
    "geometry": ("[stride, padding] or [stride, padding, output_padding] for each convolution", _places),
    "norm_eps": ("a number above 0", lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0),
    "z_distribution": ("normal or uniform", lambda v: v in ("normal", "uniform")),
    "classes": ("a number of classes", _count),
    "label_first": ("true or false", _is_bool),
    "first_activation": ("true or false", _is_bool),
    "upsample": ("nearest or bilinear", lambda v: v in ("nearest", "bilinear")),
}


def check_options(config: dict[str, Any], known: set[str]) -> None:
    """The row's config holds nothing but what the family knows, each of its kind.

    Raises:
        CheckpointError: it does not; names the key.
    """
    for key, value in config.items():
        if key not in known:
            raise CheckpointError(f"config.{key} means nothing to this family; it knows {', '.join(sorted(known))}.")
        kind, fits = _OPTIONS[key]
        if not fits(value):
            raise CheckpointError(f"config.{key} must be {kind}, not {value!r}.")


def activation(config: dict[str, Any], default: str) -> Spec:
    """The hidden activation that a row names (`relu`, or `[leaky_relu, 0.1]`).

    Raises:
        CheckpointError: there is no such activation.
    """
    named = config.get("activation", default)
    spec = list(named) if isinstance(named, (list, tuple)) else [named]
    known = spec[0] in ACTIVATIONS
    slope = spec[1:] == [] or (spec[0] == "leaky_relu" and len(spec) == 2 and isinstance(spec[1], (int, float)))
    if not (known and slope):
        raise CheckpointError(
            f"config.activation {named!r} is unknown; there are {', '.join(ACTIVATIONS)}, and [leaky_relu, slope]."
        )
    return spec


def label(
    modules: list[Found], width: int, config: dict[str, Any], first: bool = True
) -> tuple[dict[str, Any] | None, int]:
    """How the class enters, and the width of z, from the embedding and the `width` that the first layer takes.

    `first` tells whether the label stands before z where the row's config (`label_first`) does not.

    Raises:
        CheckpointError: the embedding does not fit the first layer.
    """
    embeddings = [m for m in modules if m.kind == "embedding"]
    if len(embeddings) > 1:
        raise embeddings[1].misfit("is a second embedding; one is all that a chain takes")
    first = bool(config.get("label_first", first))
    if not embeddings:
        classes = config.get("classes", 0)
        if not classes:
            return None, width
        if classes >= width:
            raise CheckpointError(f"config.classes {classes} leaves nothing of the {width} numbers for z.")
        return {"classes": classes, "dim": classes, "join": "one_hot", "first": first}, width - classes
    classes, dim = embeddings[0].shape
    if dim > width:
        raise embeddings[0].misfit(f"is wider ({dim}) than the first layer ({width})")
    join = "multiply" if dim == width else "concat"
    return {"classes": classes, "dim": dim, "join": join, "first": first}, width if dim == width else width - dim


def spec_of(module: Found, eps: float = 1e-5, flat: bool = False) -> Spec:
    """The layer of a `linear`, `norm` or `prelu` module."""
    if module.kind == "linear":
        return ["linear", module.shape[1], module.shape[0], module.bias]
    if module.kind == "norm":
        return ["norm_1d" if flat else "norm", module.shape[0], eps]
    return ["prelu", module.shape[0]]


def filled(network: nn.Module, steps: list[Step], modules: list[Found], name: str) -> nn.Module:
    """A network of `steps` with the tensors of the modules that they came from.

    Raises:
        CheckpointError: a tensor does not fit.
    """
    tensors = {}
    for number, (_, module) in enumerate(steps):
        if module is not None:
            tensors.update({f"main.{number}.{key}": value for key, value in module.tensors.items()})
            if module.kind == "norm":  # files of before 2018 do not count batches
                tensors.setdefault(f"main.{number}.{_COUNT}", torch.tensor(0))
    for module in modules:
        if module.kind == "embedding":
            tensors["label_emb.weight"] = module.tensors["weight"]
    load_strictly(network, tensors, name)
    return network


def folded(network: nn.Module) -> nn.Module:
    """The same network with every BatchNorm that follows a convolution folded into it."""
    layers: list[nn.Module] = []
    for layer in network.main:  # type: ignore[union-attr]
        before = layers[-1] if layers else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, (nn.Conv2d, nn.ConvTranspose2d)):
            transposed = isinstance(before, nn.ConvTranspose2d)
            layers[-1] = fuse_conv_bn_eval(before, layer, transpose=transposed)  # type: ignore[arg-type]
        else:
            layers.append(layer)
    network.main = nn.Sequential(*layers)
    return network.requires_grad_(False)
