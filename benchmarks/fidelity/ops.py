"""Arrays of the operations below the StyleGAN families: filters, resampling, activations. No checkpoint is needed."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ganhub.models import _ops

from .cases import Case
from .rules import NOT_UNDERSTOOD, NUMBER, Ask, Rules, Skip, number

RULES = Rules()

# The orthogonal wavelet of Daubechies' least asymmetric family with six vanishing moments.
SYM6 = [
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
]
NAMED: dict[str, Any] = {"asym": [1, 2, 5, 7], "sym6": SYM6, "none": None}


def fits(case: Case) -> bool:
    return {"x", "b", "w1", "w3"} <= case.inputs.keys()


def taps(name: str) -> Any:
    """`1331` has one digit per tap, `3x4` counts up from 1 row by row."""
    if name in NAMED:
        return NAMED[name]
    if name.isdigit():
        return [int(digit) for digit in name]
    match = re.fullmatch(r"(\d+)x(\d+)", name)
    if not match:
        raise Skip(NOT_UNDERSTOOD)
    h, w = int(match[1]), int(match[2])
    return torch.arange(1, h * w + 1).reshape(h, w)


@RULES.on("", rf"filter_(?P<f>[^_]+)(?:_gain(?P<gain>{NUMBER}))?(?P<flip>_flip)?(?:_separable)?")
def setup_filter(ask: Ask) -> Tensor:
    gain = number(ask.found["gain"] or "1")
    return _ops.setup_filter(taps(ask.found["f"] or ""), flip=bool(ask.found["flip"]), gain=gain)


@RULES.on(
    "",
    rf"(?:up(?P<up>[\dx]+)_?)?(?:down(?P<down>[\dx]+)_?)?pad(?P<pad>neg|\d+)"
    rf"(?:_gain(?P<gain>{NUMBER}))?(?:_(?P<f>[^_]+))?(?P<flip>_flip)?",
)
def upfirdn2d(ask: Ask) -> Tensor:
    found = ask.found
    pad = [-1, 2, 0, -2] if found["pad"] == "neg" else [int(digit) for digit in found["pad"] or ""]
    f = _ops.setup_filter(taps(found["f"] or "3x4"))
    padding = pad[0] if len(pad) == 1 else pad
    gain = number(found["gain"] or "1")
    x, up, down = ask.tensor("x"), _factor(found["up"]), _factor(found["down"])
    return _ops.upfirdn2d(x, f, up=up, down=down, padding=padding, flip=bool(found["flip"]), gain=gain)


@RULES.on("", r"(?P<op>upsample2d|downsample2d|filter2d)_(?P<f>[^_]+)(?P<flip>_flip)?(?:_pad(?P<pad>-?\d+))?")
def resample(ask: Ask) -> Tensor:
    found = ask.found
    op, f = getattr(_ops, found["op"] or ""), _ops.setup_filter(taps(found["f"] or ""))
    x = ask.tensor("x")
    if found["pad"]:  # a negative padding takes off what an enlargement has added
        x = _ops.upsample2d(x, f)
    return op(x, f, padding=int(found["pad"] or 0), flip=bool(found["flip"]))


@RULES.on("", r"bias_act_(?P<act>[a-z]+)_defalpha_defgain")
def defaults(ask: Ask) -> Tensor:
    return torch.tensor(_ops.ACTIVATIONS[_known(ask)][1:], dtype=torch.float64)


@RULES.on(
    "",
    rf"bias_act_(?P<act>[a-z]+)(?:_alpha(?P<alpha>{NUMBER}))?(?:_gain(?P<gain>{NUMBER}))?"
    rf"(?:_clamp(?P<clamp>{NUMBER}))?",
)
def bias_act(ask: Ask) -> Tensor:
    options = {key: number(value) for key, value in ask.found.items() if key != "act" and value is not None}
    return _ops.bias_act(ask.tensor("x"), ask.tensor("b"), act=_known(ask), **options)


@RULES.on(
    "", r"conv2d_resample_k(?P<k>\d)(?:_up(?P<up>\d))?(?:_down(?P<down>\d))?(?P<flip>_flip|_noflip)?_(?P<f>[^_]+)"
)
def conv2d_resample(ask: Ask) -> Tensor:
    found = ask.found
    # Enlarging layers convolve, all others correlate, unless the name says otherwise.
    flip = found["flip"] == "_flip" if found["up"] or found["flip"] else True
    return _ops.conv2d_resample(
        ask.tensor("x"),
        ask.tensor(f"w{found['k']}"),
        _ops.setup_filter(taps(found["f"] or "")),
        up=int(found["up"] or 1),
        down=int(found["down"] or 1),
        padding=int(found["k"] or 1) // 2,
        flip_weight=flip,
    )


def _known(ask: Ask) -> str:
    act = ask.found["act"] or ""
    if act not in _ops.ACTIVATIONS:
        raise Skip(NOT_UNDERSTOOD)
    return act


def _factor(text: str | None) -> Any:
    """`2`, or `3x2` for (x, y)."""
    if text is None:
        return 1
    return int(text) if text.isdigit() else tuple(int(part) for part in text.split("x"))
