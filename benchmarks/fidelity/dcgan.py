"""Arrays of DCGAN cases."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from .cases import Case
from .rules import Ask, Rules, Skip

RULES = Rules()


def config(case: Case) -> dict[str, Any]:
    """The picture's size, which names and shapes of some files leave open."""
    pictures = [a for k, a in {**case.inputs, **case.outputs}.items() if k.startswith("img") and a.ndim == 4]
    return {"img_size": list(pictures[0].shape[2:])} if pictures else {}


@RULES.on("G", r"img(?:_class(?P<label>\d+))?", given="z")
def img(ask: Ask) -> Tensor:
    return generate(ask, ask.net, "z")


@RULES.on("G", r"img_trainmode(?:_(?P<z>z\d*))?")
def img_trainmode(ask: Ask) -> Tensor:
    """What scripts that never call eval() give: normalised by the batch's own statistics."""
    first = ask.found["z"] or "z"
    named = [name for name in ask.case.inputs if name == f"{first}_trainmode"] or [first]
    return generate(ask, copy.deepcopy(ask.net).train(), named[0])


@RULES.on("D", r"D(?:_on_(?P<on>.+))?")
def verdict(ask: Ask) -> Tensor:
    """On the given pictures, else on those that the reference's own generator made."""
    name = ask.found["on"] or "img"
    pictures = ask.tensor(name) if name in ask.case.inputs else ask.stored(name)
    return ask.net(pictures).reshape(ask.shape)


def generate(ask: Ask, net: Any, z: str) -> Tensor:
    latents = ask.tensor(z)[: ask.shape[0]].flatten(1)
    label = ask.found.get("label")
    c = ask.classes(len(latents), None if label is None else int(label))
    if c is not None and len(c) != len(latents):
        raise Skip(f"the case gives {len(c)} classes for {len(latents)} latents")
    return net(latents) if c is None else net(latents, c)
