"""What a family's file is made of: rules from the name of an array to the answer of a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint

from .cases import Case


class Skip(Exception):
    """An array that nothing can be asked of, and why."""


NOT_UNDERSTOOD = "array name not understood"


@dataclass(frozen=True)
class Ask:
    """One array of a case, and the network that is to answer it."""

    name: str
    found: dict[str, str | None]
    """Named groups of the rule's pattern."""
    case: Case
    net: nn.Module | None
    raw: RawCheckpoint | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.case.outputs[self.name].shape

    def tensor(self, name: str) -> Tensor:
        """An input of the case."""
        if name not in self.case.inputs:
            raise Skip(f"the case has no input '{name}'")
        return torch.from_numpy(self.case.inputs[name])

    def classes(self, n: int | None = None, label: int | None = None) -> Tensor | None:
        """One-hot classes [N, c_dim] of the case, or of one label for all; None for an unconditional network."""
        c_dim = getattr(self.net, "c_dim", 0)
        if label is not None:
            return F.one_hot(torch.full([n or 1], label), c_dim).float()
        held = [self.case.inputs[name] for name in ("c", "labels", "label", "y") if name in self.case.inputs]
        if not held or held[0].ndim == 0 or (held[0].ndim == 2 and held[0].shape[1] == 0):
            return None
        c = torch.from_numpy(held[0])[:n]
        return F.one_hot(c.long().flatten(), c_dim).float() if c.ndim == 1 and c_dim else c

    def stored(self, name: str) -> Tensor:
        """Another output of the same case, when an array was made from it."""
        if name not in self.case.outputs:
            raise Skip(f"it is made from '{name}', which the case does not hold")
        return torch.from_numpy(self.case.outputs[name])


@dataclass(frozen=True)
class Rule:
    part: str
    """`G`, `D`, or "" when no network is needed."""
    pattern: re.Pattern[str]
    given: str
    """An input without which the rule does not apply; "" for none."""
    answer: Callable[[Ask], Any]


class Rules(list[Rule]):
    """The rules of a family, tried in order."""

    def on(self, part: str, pattern: str, given: str = "") -> Callable[[Callable[[Ask], Any]], Callable[[Ask], Any]]:
        """Lets a function answer the arrays whose whole name matches, in cases with the given input."""

        def register(answer: Callable[[Ask], Any]) -> Callable[[Ask], Any]:
            self.append(Rule(part, re.compile(pattern), given, answer))
            return answer

        return register

    def find(self, name: str, case: Case) -> tuple[Rule, dict[str, str | None]] | None:
        for rule in self:
            match = rule.pattern.fullmatch(name)
            if match and (not rule.given or rule.given in case.inputs):
                return rule, match.groupdict()
        return None


def words(name: str, grammar: dict[str, str]) -> dict[str, str]:
    """A name like `img_psi0.7_cutoff4_const` as {"img": "", "psi": "0.7", "cutoff": "4", "noise": "const"}.

    Args:
        grammar: word -> pattern of one group at most; a name is such words joined by underscores.

    Raises:
        Skip: some part of the name is none of the words.
    """
    said: dict[str, str] = {}
    at = 0
    while at < len(name):
        for word, pattern in grammar.items():
            match = re.compile(rf"(?:{pattern})(?=_|$)").match(name, at)
            if match and word not in said:
                said[word] = next((g for g in match.groups() if g is not None), "")
                at = match.end() + 1
                break
        else:
            raise Skip(NOT_UNDERSTOOD)
    return said


NUMBER = r"m?-?\d+(?:[._]\d+)?"


def number(text: str) -> float:
    """`0.7`, `0_7`, `-1` or `m1`."""
    return float(text.replace("_", ".").replace("m", "-"))


def layers(text: str) -> list[int]:
    """Layers of a style mix: `012` (one digit each), `0-3` or `0,1,2`."""
    if text.isdigit():
        return [int(digit) for digit in text]
    found = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@contextmanager
def watching(modules: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What modules give while a network runs, by the names they are given here."""
    seen: dict[str, Any] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
