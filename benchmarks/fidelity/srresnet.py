"""Arrays of super-resolution cases: what a network makes of the small picture `lr`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .rules import Ask, Rules

RULES = Rules()


@RULES.on("G", r"sr", given="lr")
def sr(ask: Ask) -> Tensor:
    net: Any = ask.net
    return net(ask.tensor("lr"))


@RULES.on("G", r"sr_uint8_round", given="lr")
def sr_uint8_round(ask: Ask) -> Any:
    return (sr(ask).clamp(0, 1) * 255).round().numpy().astype(np.uint8)
