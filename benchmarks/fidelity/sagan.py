"""Arrays of SAGAN cases: the answers of the first, second, ... call after loading differ."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from .rules import NOT_UNDERSTOOD, Ask, Rules, Skip

RULES = Rules()


def at_call(ask: Ask) -> Any:
    """The network as it stands when the original is called for the n-th time."""
    net: Any = copy.deepcopy(ask.net)
    net.advance(int(ask.found.get("call") or 1) - 1)
    return net


@RULES.on("G", r"img(?:_call(?P<call>\d+))?", given="z")
def img(ask: Ask) -> Tensor:
    return at_call(ask)(ask.tensor("z")[: ask.shape[0]])


@RULES.on("D", r"D(?:_call(?P<call>\d+))?")
def verdict(ask: Ask) -> Tensor:
    held = [name for name in ("img_call1", "img") if name in ask.case.outputs]
    pictures = ask.stored(held[0]) if held else ask.tensor("img")
    return at_call(ask)(pictures[: ask.shape[0]]).reshape(ask.shape)


@RULES.on("G", r"attn(?P<layer>\d+)(?:_row(?P<row>\d+))?(?:_sample(?P<sample>\d+))?(?:_call(?P<call>\d+))?", given="z")
def attention(ask: Ask) -> Tensor:
    maps = at_call(ask).attention(ask.tensor("z"))
    layer = int(ask.found["layer"] or 1)
    if layer > len(maps):
        raise Skip(f"the network has {len(maps)} attention layers")
    seen = maps[layer - 1]
    if ask.found["sample"] is not None:
        seen = seen[int(ask.found["sample"])]
    if ask.found["row"] is None:
        return seen
    first = int(ask.found["row"])
    return seen[..., first : first + ask.shape[-2], :]


@RULES.on("G", r"(?P<kind>[uv])_(?:l(?P<layer>\d+)|(?P<last>last))_after_call(?P<call>\d+)")
def singular_vector(ask: Ask) -> Tensor:
    net = at_call(ask)
    net.advance()
    spectral = [layer for layer in net.main if hasattr(layer, "weight_u")]
    place = -1 if ask.found["last"] else int(ask.found["layer"] or 1) - 1
    if place >= len(spectral):
        raise Skip(NOT_UNDERSTOOD)
    return getattr(spectral[place], f"weight_{ask.found['kind']}")
