"""Which tensors of a file are the generator, and which the discriminator."""

from __future__ import annotations

import re

from torch import Tensor

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError

_NAMES = {
    "G": re.compile(r"(net_?|model_?)?g|g_?ema|ema_?g|(net)?gen(erator)?(_?ema)?|ema", re.IGNORECASE),
    "D": re.compile(r"(net_?|model_?)?d|(net)?dis(c|criminator)?|critic", re.IGNORECASE),
}
_AVERAGED = re.compile(r"ema|averag", re.IGNORECASE)
_OPTIMISER = re.compile(r"(^|[._])optim|(^|[._])opt(_?[gd])?([._]|$)", re.IGNORECASE)
_WRAPPED = re.compile(r"(^|[._])(state_?dict|params|model|weights)$", re.IGNORECASE)


def tensors_of(raw: RawCheckpoint, part: str) -> dict[str, Tensor]:
    """The tensors of `G` or `D` in a file, without the prefix that says which they are.

    A file may hold one state dict, several (`{"G": ..., "D": ...}`), or one in which the names begin with
    `netG.`, `generator.` and the like. An averaged generator is preferred to a raw one.

    Raises:
        CheckpointError: the file holds several networks and none is called after this part.
    """
    named = {name: net.tensors for name, net in raw.networks.items() if net.tensors and not _OPTIMISER.search(name)}
    split: dict[str, dict[str, Tensor]] = {}
    for name, tensors in named.items():
        for key, tensor in tensors.items():
            first, dot, rest = key.partition(".")
            role = dot and any(_last(first, pattern) for pattern in _NAMES.values())
            place = f"{name}.{first}" if role else name
            split.setdefault(place, {})[rest if role else key] = tensor
    other = "D" if part == "G" else "G"
    mine = [name for name in split if _called(name, part)]
    others = [name for name in split if not _called(name, other)]
    choices = mine or others
    choices = [name for name in choices if _AVERAGED.search(name)] or choices
    if len(choices) == 1:
        return split[choices[0]]
    if not choices:
        raise CheckpointError(f"{raw.name} holds {', '.join(split) or 'no network'}; none of them is its {part}.")
    raise CheckpointError(f"{raw.name} holds {', '.join(split)}; which of them is its {part} is not to be told.")


def _last(name: str, pattern: re.Pattern[str]) -> bool:
    return pattern.fullmatch(name) is not None


def _called(name: str, part: str) -> bool:
    return any(_last(word, _NAMES[part]) for word in _WRAPPED.sub("", name).split(".") if word)
