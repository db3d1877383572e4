"""Arrays of StyleGAN3 cases."""

from __future__ import annotations

import re

from torch import Tensor

from ganhub.models.stylegan3 import user_transform

from . import stylegan2
from .rules import Ask, Rules, Skip, watching

RULES = Rules()


@RULES.on("G", r"transform_(?P<user>.+)")
def transform(ask: Ask) -> Tensor:
    return user_transform(*_movement(ask.found["user"] or ""))


@RULES.on("G", r"input_features")
def input_features(ask: Ask) -> Tensor:
    return _watch(ask, "input")


@RULES.on("G", r"after_layer(?P<layer>\d+)")
def after_layer(ask: Ask) -> Tensor:
    names = ask.net.synthesis.layer_names
    return _watch(ask, names[int(ask.found["layer"] or 0)])


@RULES.on("G", r"img_(?P<user>.+)")
def img_moved(ask: Ask) -> Tensor:
    held = f"transform_{ask.found['user']}"
    if held not in ask.case.outputs and held not in ask.case.inputs:
        return stylegan2.image(ask)
    user = ask.stored(held) if held in ask.case.outputs else ask.tensor(held)
    return ask.net.synthesis(stylegan2.latents(ask, {}), transform=user)


RULES += stylegan2.RULES


def _watch(ask: Ask, module: str) -> Tensor:
    n = ask.shape[0]
    with watching({module: ask.net.synthesis.get_submodule(module)}) as seen:
        ask.net.synthesis(stylegan2.latents(ask, {})[:n])
    return seen[module]


def _movement(name: str) -> tuple[tuple[float, float], float]:
    """`t_03_m02_r30` is a move by (0.3, -0.2) picture sides and a turn by 30 degrees; `t0` is no move."""
    match = re.fullmatch(r"t(?:0|_(m?\d+)_(m?\d+))_r(m?\d+)", name)
    if not match:
        raise Skip("a user transform that its name does not tell: it is what other arrays are given")
    x, y, turn = match.groups()
    return (_decimal(x), _decimal(y)), float(turn.replace("m", "-"))


def _decimal(text: str | None) -> float:
    """`03` is 0.3, `m02` -0.2, `1` 1."""
    if text is None:
        return 0.0
    digits = text.removeprefix("m")
    value = float(f"0.{digits[1:]}") if digits.startswith("0") and len(digits) > 1 else float(digits)
    return -value if text.startswith("m") else value
