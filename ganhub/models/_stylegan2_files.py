"""Published StyleGAN2 files -> config and tensors of `stylegan2`.

Every dialect is first brought to one set of names, NVIDIA's; the architecture is then read from the shapes. Facts
of the layouts: NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan3 (pickles), NVlabs/stylegan2 (TensorFlow variables),
rosinality/stylegan2-pytorch (MIT).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models._ops import setup_filter

Tensors = dict[str, Tensor]
Ask = Callable[..., Any]
"""`ask(name, default)`: what the file states of a setting, else the row of the registry, else the default."""

SETTINGS = (
    "activation",
    "conv_clamp",
    "mapping_activation",
    "mapping_lr",
    "mbstd_group_size",
    "num_fp16_res",
    "resample_filter",
    "size",
    "w_avg_beta",
)
"""What shapes cannot tell, and a row of the registry therefore may."""

_WHERE = ("", "G_ema.", "g_ema.", "G.", "generator.", "decoder.", "D.", "discriminator.")
_SIGNS: dict[str, dict[str, tuple[str, ...]]] = {
    "G": {
        "nvidia": (r"synthesis\.b\d+\.const", r"synthesis\.b\d+\.conv1\.affine\.weight"),
        "rosinality": (r"input\.input", r"conv1\.conv\.modulation\.weight"),
        "tf": (r"(?:\w+/)*\d+x\d+/Const/const", r"(?:\w+/)*\d+x\d+/Conv/mod_weight"),
    },
    "D": {
        "nvidia": (r"b\d+\.fc\.weight", r"b\d+\.conv\.weight", r"b\d+\.conv0\.weight"),
        "rosinality": (r"final_linear\.0\.weight", r"convs\.1\.conv1\.0\.weight"),
        "tf": (r"(?:\w+/)*Output/weight", r"(?:\w+/)*\d+x\d+/Dense0/weight", r"(?:\w+/)*\d+x\d+/Conv1_down/weight"),
    },
}


class Found(NamedTuple):
    """A network of this family inside a file; `tensors` without the prefix they have there."""

    dialect: str
    class_name: str
    kwargs: dict[str, Any]
    tensors: Tensors


def find(raw: RawCheckpoint, part: str) -> Found | None:
    """The generator (the averaged one first) or the discriminator of a file, None where there is none."""

    def rank(name: str) -> tuple[bool, bool]:
        last = name.lower().rpartition(".")[2]
        return not ("ema" in last or last == "gs"), last not in ("g", "d")

    for name in sorted(raw.networks, key=rank):
        network = raw.networks[name]
        for prefix in _WHERE:
            tensors = {k[len(prefix) :]: v for k, v in network.tensors.items() if k.startswith(prefix)}
            for dialect, signs in _SIGNS[part].items():
                if all(any(re.fullmatch(sign, key) for key in tensors) for sign in signs):
                    return Found(dialect, network.class_name, network.kwargs, tensors)
    return None


def only_discriminator(raw: RawCheckpoint) -> bool:
    """True where a file holds no generator of any family beside a discriminator of this one."""
    return not any(name.lower() in ("g", "g_ema", "gs") for name in raw.networks)


def convert(raw: RawCheckpoint, part: str, given: dict[str, Any]) -> tuple[dict[str, Any], Tensors]:
    """Config for `stylegan2.build`, and the tensors that its network takes.

    Raises:
        CheckpointError: there is no such network, or a tensor that tells its shape is missing.
    """
    unknown = [key for key in given if key not in SETTINGS]
    if unknown:
        raise CheckpointError(
            f"'{unknown[0]}' is no setting of a StyleGAN2 file; its row may state {', '.join(SETTINGS)}."
        )
    found = find(raw, part)
    if found is None:
        what = {"G": "generator", "D": "discriminator"}.get(part, f"part '{part}'")
        raise CheckpointError(f"{raw.name} holds no StyleGAN2 {what}.")
    try:
        if found.dialect == "nvidia":
            tensors, ask = dict(found.tensors), _nvidia_settings(raw, found, part, given)
        elif found.dialect == "tf":
            tensors, ask = _tf_names(found.tensors, part), _tf_settings(found, given)
        else:
            tensors = _rosinality_generator(raw, found) if part == "G" else _rosinality_discriminator(found.tensors)
            ask = _settings([], {}, given)
        return _generator(tensors, ask) if part == "G" else _discriminator(tensors, ask, raw)
    except KeyError as error:
        raise CheckpointError(f"{raw.name} is no complete StyleGAN2: the tensor {error} is missing.") from error
    except (IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{raw.name} is no StyleGAN2: its tensors do not fit together ({error}).") from error


def _settings(groups: list[dict[str, Any]], names: dict[str, str], given: dict[str, Any]) -> Ask:
    def ask(name: str, default: Any) -> Any:
        for group in groups:
            if names.get(name, name) in group:
                return group[names.get(name, name)]
        return given.get(name, default)

    return ask


# ---------------------------------------------------------------------------------------------------------------
# Architecture from shapes, once the names are NVIDIA's


def _generator(t: Tensors, ask: Ask) -> tuple[dict[str, Any], Tensors]:
    heights = _heights(t, r"synthesis\.b(\d+)\.")
    const = t[f"synthesis.b{heights[0]}.const"]
    own = [const.shape[1] << i for i in range(len(heights))]
    t = _renumbered(t, "synthesis.", heights, own)
    blocks = [f"synthesis.b{h}" for h in own]

    mapping = _mapping(t)
    w_dim = t[f"{blocks[0]}.conv1.affine.weight"].shape[1]
    embed = mapping.get("embed_features", 0)
    inputs = t["mapping.fc0.weight"].shape[1] if mapping["mapping_features"] else w_dim
    if f"{blocks[0]}.torgb.weight" in t:
        architecture = "skip"
    else:
        architecture = "resnet" if any(f"{b}.skip.weight" in t for b in blocks) else "orig"
    config = {
        "z_dim": inputs - embed,
        "w_dim": w_dim,
        "img_channels": t[f"{blocks[-1]}.torgb.weight"].shape[0],
        "const": list(const.shape[1:]),
        "channels": [t[f"{b}.conv1.weight"].shape[0] for b in blocks],
        "architecture": architecture,
        "kernel_size": t[f"{blocks[0]}.conv1.weight"].shape[2],
        "use_noise": f"{blocks[0]}.conv1.noise_strength" in t,
        **mapping,
        **_common(t, ask),
        "w_avg_beta": ask("w_avg_beta", 0.995),
    }
    if not config["use_noise"]:
        t = {k: v for k, v in t.items() if not k.endswith(".noise_const")}
    return config, t


def _discriminator(t: Tensors, ask: Ask, raw: RawCheckpoint) -> tuple[dict[str, Any], Tensors]:
    heights = _heights(t, r"b(\d+)\.(?:conv|fc|conv0)\.")
    last = f"b{heights[0]}"
    out, inputs = t[f"{last}.conv.weight"].shape[:2]
    size = ask("size", None) or _last_size(raw, t[f"{last}.fc.weight"].shape[1] // out, heights[0])
    own = [size[0] << i for i in range(len(heights))]
    t = _renumbered(t, "", heights, own)
    blocks, last = [f"b{h}" for h in own[:0:-1]], f"b{own[0]}"

    if f"{last}.fromrgb.weight" in t:
        architecture = "skip"
    else:
        architecture = "resnet" if any(f"{b}.skip.weight" in t for b in blocks) else "orig"
    config = {
        "img_channels": t[f"{blocks[0]}.fromrgb.weight"].shape[1],
        "size": list(size),
        "channels": [t[f"{b}.conv0.weight"].shape[0] for b in blocks] + [out],
        "architecture": architecture,
        "mbstd_group_size": ask("mbstd_group_size", 4),
        "mbstd_channels": inputs - out,
        **_mapping(t),
        **_common(t, ask),
    }
    if not config["c_dim"] and t[f"{last}.out.weight"].shape[0] > 1:
        config.update(c_dim=t[f"{last}.out.weight"].shape[0], labels="concat")
    return config, t


def _mapping(t: Tensors) -> dict[str, Any]:
    layers = _heights(t, r"mapping\.fc(\d+)\.weight", at_least=0)
    config: dict[str, Any] = {"c_dim": 0, "mapping_features": [t[f"mapping.fc{i}.weight"].shape[0] for i in layers]}
    if "mapping.embed.weight" in t:
        config["embed_features"], config["c_dim"] = t["mapping.embed.weight"].shape
        config["labels"] = "embed" if "mapping.embed.bias" in t else "concat"
    return config


def _common(t: Tensors, ask: Ask) -> dict[str, Any]:
    """Settings that shapes cannot tell; takes the filters out of the tensors, which the config carries."""
    filters = {key: t.pop(key) for key in list(t) if key.endswith("resample_filter")}
    stated = ask("resample_filter", [1, 3, 3, 1])
    own = _taps(filters, r"b\d+\.resample_filter$", stated)
    # Only layers that resample use theirs; the others hold the default, which says nothing.
    inside = (
        r"conv0\.resample_filter$" if any(key.startswith("synthesis.") for key in t) else r"conv1\.resample_filter$"
    )
    taps = _taps(filters, inside, own)
    clamp = ask("conv_clamp", None)
    return {
        "mapping_lr": float(ask("mapping_lr", 0.01)),
        "mapping_activation": ask("mapping_activation", "lrelu"),
        "activation": ask("activation", "lrelu"),
        "num_fp16_res": int(ask("num_fp16_res", 0) or 0),
        "conv_clamp": None if clamp is None else float(clamp),
        "resample_filter": taps,
        **({"rgb_filter": own} if own != taps else {}),
    }


def _taps(filters: Tensors, pattern: str, stated: Any) -> list[Any] | None:
    """The taps of the filters of that name, in the words of `stated` where those are right."""
    used = [f for key, f in filters.items() if re.search(pattern, key)]
    if used:
        expected = setup_filter(stated)
        if used[-1].shape != expected.shape or not torch.allclose(used[-1].float(), expected, atol=1e-6):
            return used[-1].tolist()
    return stated if stated is None else list(stated)


def _last_size(raw: RawCheckpoint, area: int, height: int) -> tuple[int, int]:
    """(height, width) of the last features: like the generator's constant, else by the block's name."""
    generator = find(raw, "G")
    if generator is not None:
        for key, value in generator.tensors.items():
            if re.search(r"(\.const|/const|input\.input)$", key) and value[..., :, :].shape[-2:].numel() == area:
                return value.shape[-2], value.shape[-1]
    if area % height:
        raise ValueError(f"{area} positions are no {height} rows; state size: [height, width]")
    return height, area // height


def _heights(t: Tensors, pattern: str, at_least: int = 1) -> list[int]:
    found = sorted({int(m[1]) for key in t if (m := re.match(pattern, key))})
    if len(found) < at_least:
        raise KeyError(pattern)
    return found


def _renumbered(t: Tensors, prefix: str, old: list[int], new: list[int]) -> Tensors:
    if old == new:
        return t
    names = {f"{prefix}b{a}.": f"{prefix}b{b}." for a, b in zip(old, new, strict=True)}
    return {re.sub(r"^(?:synthesis\.)?b\d+\.", lambda m: names.get(m[0], m[0]), key): v for key, v in t.items()}


# ---------------------------------------------------------------------------------------------------------------
# NVIDIA, torch


def _nvidia_settings(raw: RawCheckpoint, found: Found, part: str, given: dict[str, Any]) -> Ask:
    kwargs = found.kwargs
    groups = [kwargs] + [kwargs.get(g) or {} for g in ("synthesis_kwargs", "block_kwargs", "epilogue_kwargs")]
    ask = _settings(groups, {}, given)
    mapping = _settings(
        [kwargs.get("mapping_kwargs") or {}], {"mapping_lr": "lr_multiplier", "mapping_activation": "activation"}, given
    )
    # The stylegan3 repository changed the defaults; its generators have their arguments flat.
    g = kwargs if part == "G" else next((n.kwargs for k, n in raw.networks.items() if k in ("G_ema", "G")), {})
    flat = bool(g) and "synthesis_kwargs" not in g and any(k in g for k in ("channel_base", "channel_max"))
    changed = {"conv_clamp": 256, "num_fp16_res": 4, "w_avg_beta": 0.998} if flat else {}

    def answer(name: str, default: Any) -> Any:
        where = mapping if name in ("mapping_lr", "mapping_activation", "w_avg_beta") else ask
        return where(name, changed.get(name, default))

    return answer


# ---------------------------------------------------------------------------------------------------------------
# NVIDIA, TensorFlow

_TF_LAYERS = {
    "Conv": "conv1",
    "Conv0_up": "conv0",
    "Conv0": "conv0",
    "Conv1": "conv1",
    "Conv1_down": "conv1",
    "ToRGB": "torgb",
    "FromRGB": "fromrgb",
    "Skip": "skip",
    "Dense0": "fc",
}
_TF_VALUES = {"mod_weight": "affine.weight", "mod_bias": "affine.bias"}


def _tf_settings(found: Found, given: dict[str, Any]) -> Ask:
    groups = [found.kwargs] + [v for v in found.kwargs.values() if isinstance(v, dict)]
    groups += [v for group in groups[1:] for v in group.values() if isinstance(v, dict)]
    names = {
        "mapping_lr": "mapping_lrmul",
        "mapping_activation": "mapping_nonlinearity",
        "activation": "nonlinearity",
        "resample_filter": "resample_kernel",
    }
    ask = _settings(groups, names, given)
    defaults: dict[str, Any] = {}
    if any(re.fullmatch(r"(?:\w+/)*Output/weight", key) for key in found.tensors):
        defaults["mapping_lr"] = 0.1
        if found.class_name.rpartition(".")[2] == "D_main":  # ADA's discriminator compares the whole batch
            defaults["mbstd_group_size"] = None
    return lambda name, default: ask(name, defaults.get(name, default))


def _tf_names(variables: Tensors, part: str) -> Tensors:
    """TensorFlow variables -> NVIDIA's torch names: dense [in, out] -> [out, in], [kh, kw, in, out] -> [out, in, ...].

    A style's bias is stored without its 1, and the kernel of an up-convolution turned round.
    """
    names = [re.sub(r"^(?:(?:G|D|Gs|mapping|synthesis)/)+", "", key).removesuffix(":0") for key in variables]
    top = max(int(m[1]) for name in names if (m := re.match(r"(\d+)x\d+/", name)))
    floor = min(int(m[1]) for name in names if (m := re.match(r"(\d+)x\d+/", name)))
    t: Tensors = {}
    for name, value in zip(names, variables.values(), strict=True):
        if m := re.fullmatch(r"To(?:RGB)_lod(\d+)/(\w+)", name):
            if int(m[1]):
                continue  # pictures of lower resolutions, used only while a network grew
            name = f"{top}x{top}/ToRGB/{m[2]}"
        if name == "lod":
            continue
        if name == "dlatent_avg":
            t["mapping.w_avg"] = value
        elif m := re.fullmatch(r"noise(\d+)", name):
            i = int(m[1])  # 0 for the lowest resolution, then two for each
            t[f"synthesis.b{floor << (i + 1) // 2}.conv{1 if i % 2 == 0 else 0}.noise_const"] = value[0, 0]
        elif m := re.fullmatch(r"LabelEmbed/(\w+)", name):
            t[f"mapping.embed.{m[1]}"] = value.T if value.ndim == 2 else value
        elif name == "LabelConcat/weight":
            t["mapping.embed.weight"] = value.T * value.shape[0] ** 0.5  # stored without equalised learning rate
        elif m := re.fullmatch(r"(?:Dense|Mapping)(\d+)/(\w+)", name):
            t[f"mapping.fc{m[1]}.{m[2]}"] = value.T if value.ndim == 2 else value
        elif m := re.fullmatch(r"Output/(\w+)", name):
            t[f"b{floor}.out.{m[1]}"] = value.T if value.ndim == 2 else value
        elif m := re.fullmatch(r"(\d+)x\d+/Const/const", name):
            t[f"synthesis.b{m[1]}.const"] = value[0]
        elif (m := re.fullmatch(r"(\d+)x\d+/(\w+)/(\w+)", name)) and m[2] in _TF_LAYERS:
            layer = "conv" if part == "D" and m[2] == "Conv" else _TF_LAYERS[m[2]]
            if value.ndim == 4:
                value = (value.flip((0, 1)) if m[2] == "Conv0_up" else value).permute(3, 2, 0, 1)
            elif value.ndim == 2:
                value = value.T
            if m[3] == "mod_bias":
                value = value + 1
            block = f"b{m[1]}" if part == "D" else f"synthesis.b{m[1]}"
            t[f"{block}.{layer}.{_TF_VALUES.get(m[3], m[3])}"] = value
        else:
            t[name] = value  # no StyleGAN2 has it: the strict load will name it
    return {key: value.contiguous() for key, value in t.items()}


# ---------------------------------------------------------------------------------------------------------------
# rosinality/stylegan2-pytorch


def _rosinality_generator(raw: RawCheckpoint, found: Found) -> Tensors:
    const = found.tensors["input.input"][0]
    height = const.shape[1]
    t: Tensors = {"synthesis." + f"b{height}.const": const}
    mean = found.tensors.get("latent_avg", _latent_avg(raw))
    if mean is not None:
        t["mapping.w_avg"] = mean.reshape(-1, mean.shape[-1]).mean(dim=0)
    for key, value in found.tensors.items():
        if m := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
            t[f"mapping.fc{int(m[1]) - 1}.{m[2]}"] = value
        elif m := re.fullmatch(r"noises\.noise_(\d+)", key):
            i = int(m[1])
            t[f"synthesis.b{height << (i + 1) // 2}.conv{1 if i % 2 == 0 else 0}.noise_const"] = value[0, 0]
        elif m := re.fullmatch(r"(conv1|convs\.(\d+)|to_rgb1|to_rgbs\.(\d+))\.(.+)", key):
            convs, rgbs, rest = m[2], m[3], m[4]
            level = (int(convs) // 2 if convs else int(rgbs)) + 1 if convs or rgbs else 0
            layer = "torgb" if m[1].startswith("to_rgb") else f"conv{int(convs) % 2 if convs else 1}"
            name = f"synthesis.b{height << level}"
            if rest in ("conv.blur.kernel", "upsample.kernel"):
                inside = ".conv0" if rest.startswith("conv") else ""
                t[f"{name}{inside}.resample_filter"] = value / 4  # stored with the gain of the enlargement
                continue
            rest = {"noise.weight": "noise_strength", "activate.bias": "bias"}.get(rest, rest)
            rest = rest.replace("conv.modulation.", "affine.").removeprefix("conv.")
            if rest in ("bias", "noise_strength"):
                value = value.reshape(-1) if rest == "bias" else value.reshape(())
            t[f"{name}.{layer}.{rest}"] = value[0] if rest == "weight" else value
        elif key not in ("input.input", "latent_avg"):
            t[key] = value
    return t


def _rosinality_discriminator(tensors: Tensors) -> Tensors:
    top = max(int(m[1]) for key in tensors if (m := re.match(r"convs\.(\d+)\.", key)))
    names = {
        "final_conv.0.weight": "b4.conv.weight",
        "final_conv.1.bias": "b4.conv.bias",
        "final_linear.0.weight": "b4.fc.weight",
        "final_linear.0.bias": "b4.fc.bias",
        "final_linear.1.weight": "b4.out.weight",
        "final_linear.1.bias": "b4.out.bias",
        "convs.0.0.weight": f"b{4 << top}.fromrgb.weight",
        "convs.0.1.bias": f"b{4 << top}.fromrgb.bias",
    }
    inside = {
        "conv1.0.weight": "conv0.weight",
        "conv1.1.bias": "conv0.bias",
        "conv2.0.kernel": "resample_filter",
        "conv2.1.weight": "conv1.weight",
        "conv2.2.bias": "conv1.bias",
        "skip.0.kernel": "resample_filter",
        "skip.1.weight": "skip.weight",
    }
    t: Tensors = {}
    for key, value in tensors.items():
        m = re.fullmatch(r"convs\.(\d+)\.(.+)", key)
        if m and m[2] in inside:
            t[f"b{4 << (top - int(m[1]) + 1)}.{inside[m[2]]}"] = value
        else:
            t[names.get(key, key)] = value
    return t


def _latent_avg(raw: RawCheckpoint) -> Tensor | None:
    for name in ("latent_avg", "mean_latent", "w_avg"):
        for network, key in (("", name), (name, "")):
            if network in raw.networks and key in raw.networks[network].tensors:
                return raw.networks[network].tensors[key]
    return None
