"""Arrays of StyleGAN2 cases: NVlabs' and rosinality's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ganhub.checkpoint import RawCheckpoint
from ganhub.imaging import to_uint8

from .rules import NUMBER, Ask, Rules, Skip, layers, number, watching, words

RULES = Rules()

GRAMMAR = {
    "img": r"img|image",
    "wplus": r"wplus",
    "latent": r"latent",
    "w": r"w",
    "through": r"G",
    "given": r"input_is_latent",
    "psi": rf"(?:psi|trunc)({NUMBER})",
    "cutoff": r"cutoff(\d+)",
    "class": r"class(\d+)",
    "noise": r"(const|none|random|fixednoise)|(?:buffers(?:_noise)?)",
    "seed": r"(?:torch)?seed(\d+)",
    "batch": r"batch(\d+)",
    "sample": r"sample(\d+)",
    "mix": r"mix",
    "row": r"row(\d+)",
    "col": r"col(\d+)",
    "inject": r"inject(\d+)",
    "layers": r"(?:styles|layers)?(\d+(?:[,-]\d+)*)",
    "uint8": r"uint8",
    "float32": r"force_fp32",
    "fusing": r"(?:un)?fused_modconv",
}


@RULES.on("G", r"(?:img|image)(?:_.*)?")
def image(ask: Ask) -> Tensor:
    said = words(ask.name, GRAMMAR)
    mode = said.get("noise", "const") or "const"
    noise = _noise(ask, said)
    ws = latents(ask, said)[: ask.shape[0]]
    if "through" in said and not {"mix", "wplus", "row"} & said.keys() and "latent_avg" not in ask.case.inputs:
        img = ask.net(
            ask.tensor("z"), classes(ask, said), **_truncation(said), noise_mode=mode, noise=noise, **precision(ask)
        )
    else:
        mode = "random" if mode == "fixednoise" else mode
        img = ask.net.synthesis(ws, noise_mode=mode, noise=noise, **precision(ask))
    return torch.as_tensor(to_uint8(img)) if "uint8" in said else img


@RULES.on("G", r"(?:w|wplus|latent)(?:_.*)?")
def w(ask: Ask) -> Tensor:
    ws = latents(ask, words(ask.name, GRAMMAR))
    if len(ask.shape) == 3:
        return ws[: ask.shape[0]]
    return ws[:, 0] if len(ws) == ask.shape[0] and len(ws) > 1 else ws[0]


@RULES.on("D", r"logits(?:_n(?P<n>\d+))?(?:_force_fp32)?")
def logits(ask: Ask) -> Tensor:
    n = int(ask.found["n"]) if ask.found["n"] else None
    return ask.net(ask.tensor("img")[:n], ask.classes(n), **precision(ask))


@RULES.on("G", r"(?P<module>(?:mapping|synthesis)\..+)", given="z")
def activation(ask: Ask) -> Tensor:
    return _activation(ask, ask.tensor("z"), noise_mode="const")


@RULES.on("D", r"(?P<module>mapping\..+|b\d+(?:\..+)?)", given="img")
def activation_of_discriminator(ask: Ask) -> Tensor:
    return _activation(ask, ask.tensor("img"))


def _activation(ask: Ask, x: Tensor, **options: Any) -> Tensor:
    """What a module gives, by its name in NVlabs' code; `.x` and `.img` are the two things that a block gives."""
    path = ask.found["module"] or ""
    inside, _, last = path.rpartition(".")
    name = inside if last in ("x", "img") else path
    try:
        module = ask.net.get_submodule(name)
    except AttributeError:
        raise Skip(f"there is no module '{name}' in the network") from None
    with watching({name: module}) as seen:
        ask.net(x, ask.classes(), **options, **precision(ask))
    given = seen[name]
    return given[last == "img"] if isinstance(given, tuple) else given


def half(raw: RawCheckpoint | None) -> bool:
    """Whether the reference computed some layers in float16.

    The code of stylegan2-ada-pytorch (whose generators have nested arguments) does so on a CPU too, the StyleGAN2 of
    the stylegan3 repository only on a GPU.
    """
    kwargs = [net.kwargs for net in raw.networks.values()] if raw else []
    return any("synthesis_kwargs" in k for k in kwargs) and any(
        (group.get("num_fp16_res") or 0) > 0 for k in kwargs for group in (k, k.get("synthesis_kwargs") or {})
    )


def precision(ask: Ask) -> dict[str, Any]:
    return {"force_fp32": False} if half(ask.raw) and "force_fp32" not in ask.name else {}


def latents(ask: Ask, said: dict[str, str]) -> Tensor:
    """ws [N, num_ws, w_dim] of the case's z, truncated and mixed as a name says."""
    z, avg = ask.tensor("z"), ask.case.inputs.get("latent_avg")
    if avg is None or "psi" not in said:
        ws = ask.net.mapping(z, classes(ask, said), **_truncation(said))
    else:  # training checkpoints hold no mean latent: the case gives it
        ws = ask.net.mapping(z, classes(ask, said))
        cut = int(said.get("cutoff", ws.shape[1]))
        near = torch.from_numpy(avg).lerp(ws, number(said["psi"]))
        ws = torch.cat([near[:, :cut], ws[:, cut:]], 1)
    if "inject" in said:
        first = int(said["inject"])
        return torch.cat([ws[:1, :first], ws[1:2, first:]], 1)
    if "row" in said:
        mixed = ws[int(said["row"])].clone()
        chosen = layers(said["layers"])
        mixed[chosen] = ws[int(said["col"]), chosen]
        return mixed[None]
    if "wplus" in said:
        each = torch.arange(ws.shape[1])
        return ws[each % len(ws), each][None]
    return ws[[int(said["sample"])]] if "sample" in said else ws


def classes(ask: Ask, said: dict[str, str]) -> Tensor | None:
    return ask.classes(len(ask.tensor("z")), int(said["class"]) if "class" in said else None)


def _truncation(said: dict[str, str]) -> dict[str, Any]:
    cutoff = int(said["cutoff"]) if "cutoff" in said else None
    return {"psi": number(said["psi"]) if "psi" in said else 1.0, "cutoff": cutoff}


def _noise(ask: Ask, said: dict[str, str]) -> Any:
    """The draws of each layer: from torch's generator, or from the case's own list."""
    if said.get("noise") == "random":
        if "seed" not in said:
            raise Skip("random noise without a seed in the name cannot be drawn again")
        generator = torch.Generator().manual_seed(int(said["seed"]))
        return lambda shape: torch.randn(shape, generator=generator)
    if said.get("noise") == "fixednoise":
        held = sorted((k for k in ask.case.inputs if k.startswith("noise")), key=lambda k: int(k[5:]))
        draws = iter([ask.tensor(k) for k in held])
        return lambda shape: next(draws).expand(shape)
    return None
