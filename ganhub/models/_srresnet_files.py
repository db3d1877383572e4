"""SRResNet files of others: their names of tensors -> those of `srresnet.SRResNet`."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

SUBPIXEL = ("tf", "torch")

_DIALECTS = (
    # Lornatang, from `conv_block1` and `conv_block` to `conv1` and `rcb`
    (r"conv(?:_block)?1\.([01])\.", r"first.\1."),
    (r"trunk\.(\d+)\.(?:conv_block|rc_block|rcb)\.", r"trunk.\1.body."),
    (r"conv(?:_block)?2\.([01])\.", r"middle.\1."),
    (r"conv(?:_block)?3\.", "last."),
    (r"upsampling\.", "ups."),
    # BasicSR's MSRResNet
    (r"conv_first\.", "first.0."),
    (r"body\.(\d+)\.conv1\.", r"trunk.\1.body.0."),
    (r"body\.(\d+)\.conv2\.", r"trunk.\1.body.2."),
    (r"upconv1\.", "ups.0."),
    (r"upconv2\.", "ups.3."),
    (r"conv_hr\.", "hr.0."),
    (r"conv_last\.", "last."),
)
_LEFTTHOMAS = {"conv1": 0, "bn1": 1, "prelu": 2, "conv2": 3, "bn2": 4}
_TENSORLAYER = {"filters": "weight", "biases": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
_TENSORLAYER |= {"moving_var": "running_var", "moving_variance": "running_var"}


def renamed(tensors: dict[str, Tensor], subpixel: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under the names of `SRResNet`, and what the names in the file say of the network.

    `subpixel` is the order of channels before a shuffle in TensorLayer's files, where it is not that of their layout.
    """
    said: dict[str, Any] = {"output": "plain", "signed": False, "base": "none", "activation": "relu"}
    if any(re.search(r"/filters(:0)?$", key) for key in tensors):
        return _tensorlayer(tensors, subpixel), {**said, "output": "tanh", "signed": True}
    if "block1.0.weight" in tensors:
        return _leftthomas(tensors), {**said, "output": "tanh"}
    if "conv_hr.weight" in tensors:
        said |= {"base": "bilinear", "activation": ["leaky_relu", "relu", "leaky_relu"]}
    if any(".upsample_block." in key for key in tensors):  # their code clamps since these names
        said["output"] = "clamp"
    found = {}
    for key, tensor in tensors.items():
        for old, new in _DIALECTS:
            if re.match(old, key):
                key = re.sub(old, new, key, count=1)
                break
        if m := re.match(r"ups\.(\d{1,4})\.upsample_block\.(\d)\.", key):
            key = f"ups.{3 * int(m[1]) + int(m[2])}.{key[m.end() :]}"
        found[key] = tensor
    return _without_norm(found), said


def facts(tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """Config from shapes, None where they are those of no such network."""
    named = [tensors.get(f"{name}.weight") for name in ("first.0", "trunk.0.body.0", "last")]
    if any(weight is None or weight.dim() != 4 for weight in named):
        return None
    first, _, last = (weight for weight in named if weight is not None)
    ups: list[list[int]] = []
    while (up := tensors.get(f"ups.{3 * len(ups)}.weight")) is not None and up.dim() == 4:
        following = tensors.get(f"ups.{3 * len(ups) + 3}.weight", tensors.get("hr.0.weight", last))
        if following.dim() != 4:
            return None
        ups.append([math.isqrt(up.shape[0] // following.shape[1]), following.shape[1]])
    return {
        "channels": first.shape[0],
        "blocks": len({key.split(".")[1] for key in tensors if key.startswith("trunk.")}),
        "ups": ups,
        "kernels": [first.shape[2], last.shape[2]],
        "norm": "trunk.0.body.1.running_mean" in tensors,
        "middle": "middle.0.weight" in tensors and ("active" if _slope(tensors, "middle.1") else True),
        "hr": "hr.0.weight" in tensors,
        "img_channels": first.shape[1],
    }


def activations(tensors: dict[str, Tensor], named: Any) -> Any:
    """`prelu` where there are tensors of one, else what is named: one for all, or [first, blocks, after the blocks]."""
    names = [named] * 3 if isinstance(named, str) else list(named)
    places = (["first.1"], ["trunk.0.body.1", "trunk.0.body.2"], ["ups.2", "hr.1", "middle.1"])
    told = ["prelu" if any(_slope(tensors, p) for p in place) else n for place, n in zip(places, names, strict=True)]
    return told[0] if told[0] == told[1] == told[2] else told


def completed(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors, with the biases that convolutions before a normalisation lack, and counts that old files lack."""
    added = {}
    for key, value in network.state_dict().items():
        path, _, name = key.rpartition(".")
        parent, _, place = path.rpartition(".")
        norm = f"{parent}.{int(place) + 1}" if name == "bias" and place.isdigit() else path
        if name in ("bias", "num_batches_tracked") and f"{norm}.running_mean" in tensors and key not in tensors:
            added[key] = torch.zeros(value.shape, dtype=value.dtype)
    return {**tensors, **added}


def _slope(tensors: dict[str, Tensor], place: str) -> bool:
    """The module at a place is a PReLU."""
    weight = tensors.get(f"{place}.weight")
    return weight is not None and weight.dim() == 1 and f"{place}.bias" not in tensors


def _leftthomas(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks are numbered through: the first convolution, the trunk, the middle, and all that enlarges."""
    numbers = [(int(m[1]), int(m[2] or 0)) for key in tensors if (m := re.match(r"block(\d{1,4})\.(\d{0,4})", key))]
    count, last = max(numbers)
    found = {}
    for key, tensor in tensors.items():
        block, _, rest = key.partition(".")
        number = int(block[5:]) if re.fullmatch(r"block\d{1,4}", block) else 0
        name, _, end = rest.partition(".")
        if number in (1, count - 1):
            key = f"{'first' if number == 1 else 'middle'}.{rest}"
        elif number == count and name == str(last):
            key = f"last.{end}"
        elif number == count:
            layer, _, end = end.partition(".")
            key = (
                f"ups.{3 * int(name) + (0 if layer == 'conv' else 2)}.{end}" if re.fullmatch(r"\d{1,4}", name) else key
            )
        elif name in _LEFTTHOMAS:
            key = f"trunk.{number - 2}.body.{_LEFTTHOMAS[name]}.{end}"
        found[key] = tensor
    return found


def _without_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lornatang's first files normalise what is to be shuffled, which is the same as another convolution."""
    if "ups.1.running_mean" not in tensors:
        return tensors
    found = {key: tensor for key, tensor in tensors.items() if not key.startswith("ups.")}
    number = 0
    while (weight := tensors.get(f"ups.{4 * number}.weight")) is not None:
        norm = [
            tensors.get(f"ups.{4 * number + 1}.{name}") for name in ("running_mean", "running_var", "weight", "bias")
        ]
        if any(tensor is None or tensor.shape != weight.shape[:1] for tensor in norm):
            return tensors
        mean, var, gain, shift = (tensor for tensor in norm if tensor is not None)
        bias = tensors.get(f"ups.{4 * number}.bias")
        fused = fuse_conv_bn_weights(weight, bias, mean, var, 1e-5, gain, shift)
        found |= {
            f"ups.{3 * number}.{name}": part.detach() for name, part in zip(("weight", "bias"), fused, strict=True)
        }
        if (slope := tensors.get(f"ups.{4 * number + 3}.weight")) is not None:
            found[f"ups.{3 * number + 2}.weight"] = slope
        number += 1
    return found


def _tensorlayer(tensors: dict[str, Tensor], subpixel: str | None) -> dict[str, Tensor]:
    """Layers by their order, whatever their numbers. TensorFlow's filters lie [k, k, C_in, C_out]."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, name = key.removesuffix(":0").rpartition("/")
        layers.setdefault(path, {})[_TENSORLAYER.get(name, name)] = tensor
    convolutions = [layer for layer in layers.values() if "running_mean" not in layer]
    norms = [layer for layer in layers.values() if "running_mean" in layer]
    width = [layer for layer in convolutions if "bias" in layer][:1]
    lies = "torch" if width and width[0]["weight"].shape[0] == len(width[0]["bias"]) else "tf"
    blocks = (len(norms) - 1) // 2
    names = ["first.0", *(f"trunk.{n}.body.{place}" for n in range(blocks) for place in (0, 3)), "middle.0"]
    names += [f"ups.{3 * n}" for n in range(len(convolutions) - len(names) - 1)] + ["last"]
    named = dict(zip(names, convolutions, strict=False))
    for name, layer in named.items():
        weight, bias = layer["weight"], layer.get("bias")
        weight = weight.permute(3, 2, 0, 1).contiguous() if lies == "tf" and weight.dim() == 4 else weight
        if (
            name.startswith("ups.") and (subpixel or lies) == "tf" and len(weight) % 4 == 0
        ):  # a pixel's channels together -> a channel's pixels
            weight = weight.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1)
            bias = None if bias is None or len(bias) % 4 else bias.view(4, -1).T.flatten()
        named[name] = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    places = [f"trunk.{n}.body.{place}" for n in range(blocks) for place in (1, 4)] + ["middle.1"]
    named |= dict(zip(places, norms, strict=False))
    return {f"{place}.{name}": tensor for place, layer in named.items() for name, tensor in layer.items()}
