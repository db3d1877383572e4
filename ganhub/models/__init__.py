"""One file per network family; found by scanning this folder.

A family file holds the networks and four functions; nothing else has to be edited to add one:

    detect(raw) -> bool                      keys and shapes of the checkpoint are this family's
    read(raw, part, **config) -> nn.Module   a published file -> network, strictly loaded
    build(part, config) -> nn.Module         an empty network from its own `config`
    prepare(network, precision) -> nn.Module   optional: a faster form of the same network for inference

`part` is `G` (the averaged generator where a file has one) or `D`. A network carries `config`, a JSON-able dict
with which `build` makes it again. Generators of pictures follow the protocol `Generator`, networks that enlarge them
the protocol `Upscaler`. A family with `TAKES_THE_REST = True` is asked only where no other knows a file.
"""

from __future__ import annotations

import copy
import importlib
import json
from functools import cache
from types import ModuleType
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.registry import FAMILIES


@runtime_checkable
class Generator(Protocol):
    """What the latent tools, the engine and the pipelines know of a generator of pictures."""

    config: dict[str, Any]
    z_dim: int
    c_dim: int
    """Number of classes; 0 for an unconditional network."""
    w_dim: int
    """Width of the intermediate latent; 0 where there is none (then `mapping` and `synthesis` are absent)."""
    num_ws: int
    img_channels: int
    img_size: tuple[int, int]
    """(height, width) in pixels."""
    z_distribution: str
    """`normal` or `uniform` (-1 to 1)."""

    def __call__(self, z: Tensor, c: Tensor | None = None, **kwargs: Any) -> Tensor:
        """z [N, z_dim], c one-hot [N, c_dim] -> pictures [N, img_channels, H, W] in [-1, 1]."""
        ...


@runtime_checkable
class Upscaler(Protocol):
    """What the engine and the pipelines know of a network that makes pictures larger."""

    config: dict[str, Any]
    scale: int
    img_channels: int
    reach: int
    """Pixels of the input by which one pixel of the output can see; 0 where that is unknown or the whole picture."""
    multiple: int
    """Both sides of the input must be multiples of this."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, img_channels, h, w] in [0, 1] -> [N, img_channels, h * scale, w * scale], nominally in [0, 1]."""
        ...


@cache
def family(name: str) -> ModuleType:
    """The module of a family.

    Raises:
        CheckpointError: there is no such file, or the file lacks one of the functions.
    """
    if name not in FAMILIES:
        raise CheckpointError(f"There is no family '{name}' in ganhub/models; there are {', '.join(FAMILIES)}.")
    module = importlib.import_module(f"ganhub.models.{name}")
    missing = [f for f in ("detect", "read", "build") if not hasattr(module, f)]
    if missing:
        raise CheckpointError(f"ganhub/models/{name}.py lacks the function {missing[0]}().")
    return module


def detect(raw: RawCheckpoint) -> str:
    """Name of the family whose keys and shapes a checkpoint has.

    Raises:
        CheckpointError: none, or more than one; says what the file holds.
    """
    if raw.format == "ganhub" and "family" in raw.extra:
        return str(raw.extra["family"])
    rest = [name for name in FAMILIES if getattr(family(name), "TAKES_THE_REST", False)]
    found = [name for name in FAMILIES if name not in rest and family(name).detect(raw)]
    found = found or [name for name in rest if family(name).detect(raw)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"{raw.name} fits several families ({', '.join(found)}); name one with `family:`.")
    keys = [f"{part}:{key}" if part else key for part, net in raw.networks.items() for key in net.tensors]
    shown = ", ".join(keys[:3]) or "no tensors"
    raise CheckpointError(f"{raw.name} is of no family known here (it holds {shown}); see CONTRIBUTING.md to add one.")


def read(raw: RawCheckpoint, name: str | None = None, part: str = "G", **config: Any) -> nn.Module:
    """The network of a checkpoint: float32, on the CPU, in eval mode, without gradients.

    Args:
        raw: what `ganhub.checkpoint.read` gave.
        name: family; recognised from keys and shapes by default.
        part: `G` or `D`.
        config: what tensor shapes cannot tell, from the registry row.

    Raises:
        CheckpointError: the file is not of that family, or a tensor is missing, foreign or of the wrong shape.
    """
    module = family(name or detect(raw))
    if isinstance(config.get("classes"), (list, tuple)):  # names, for people; some families want their number
        names = config.pop("classes")
        config |= {"classes": len(names)} if "classes" in getattr(module, "OPTIONS", ()) else {}
    if raw.format == "ganhub":
        if part not in raw.networks:
            raise CheckpointError(f"{raw.name} holds no network '{part}', only {', '.join(raw.networks)}.")
        saved = raw.networks[part]
        network = module.build(part, {**saved.kwargs, **config})
        load_strictly(network, saved.tensors, raw.name)
    else:
        network = module.read(raw, part, **config)
    return network.float().eval().requires_grad_(False)


def load_strictly(network: nn.Module, tensors: dict[str, Tensor], name: str, assign: bool = False) -> None:
    """`load_state_dict` that names the first tensor that does not fit.

    With `assign` the network takes copies for its own tensors, so that it can be built on the device `meta`: then no
    memory is spent on what a file merely pretends to hold.

    Raises:
        CheckpointError: a tensor is missing, foreign or of another shape.
    """
    own = network.state_dict()
    missing = [k for k in own if k not in tensors]
    foreign = [k for k in tensors if k not in own]
    wrong = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or foreign or wrong:
        if wrong:
            k = wrong[0]
            what = f"'{k}' has shape {list(tensors[k].shape)}, not {list(own[k].shape)}"
        else:
            what = f"'{missing[0]}' is missing" if missing else f"'{foreign[0]}' is foreign"
        more = len(missing) + len(foreign) + len(wrong) - 1
        raise CheckpointError(
            f"{name} does not fit {type(network).__name__}: {what}" + (f" (and {more} more)." if more else ".")
        )
    if assign:
        tensors = {key: tensors[key].to(value.dtype, copy=True) for key, value in own.items()}
    network.load_state_dict(tensors, assign=assign)


def header(name: str, network: nn.Module, part: str) -> dict[str, Any]:
    """What a converted file says of itself: family, part and config, all JSON-able."""
    config = network.config
    json.dumps(config)
    return {"family": name, "networks": {part: config}}


def prepare(name: str, network: nn.Module, precision: str) -> nn.Module:
    """The form of a network that answers fastest: `exact` keeps float32, `fast` may use bfloat16 (over 50 dB).

    Raises:
        CheckpointError: the family has no fast form.
    """
    module = family(name)
    if hasattr(module, "prepare"):
        return module.prepare(network, precision)
    if precision != "exact":
        raise CheckpointError(f"The family '{name}' has no fast form; use the exact one.")
    return network


def blend(a: nn.Module, b: nn.Module, weight: float) -> nn.Module:
    """A network between two of one architecture: `1 - weight` of the first, `weight` of the second.

    "Deep Network Interpolation" (Wang et al., 2019, https://arxiv.org/abs/1811.10515), which is how Real-ESRGAN sets
    its denoising strength. Both are plain forms, which stay as they are.

    Raises:
        CheckpointError: the networks differ in more than their weights.
    """
    first, second = (cast(dict[str, Any], network.config) for network in (a, b))
    if type(a) is not type(b) or first != second:
        keys = [k for k in {**first, **second} if first.get(k) != second.get(k)]
        what = f"they differ in {', '.join(keys)}" if keys else f"one is {type(a).__name__}, one {type(b).__name__}"
        raise CheckpointError(f"These two networks cannot be blended: {what}; choose two of the same architecture.")
    blended, other = copy.deepcopy(a), b.state_dict()
    with torch.no_grad():
        for key, tensor in blended.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(other[key], weight)
    return blended


def parameter_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
