"""What a step of a StackGAN's training is shown: pictures and sentences, those that fit and those that do not.

Half of a set may be apples, and no picture shows a purple pear. So some pictures are painted in another colour, which
their sentences then name; some that do not fit get the colour that their sentence names, so that the noun alone is
wrong; and where a CLIP looks at what was drawn, sentences about every kind are asked for that need no picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ganhub.data.captions import CaptionedSet
from ganhub.data.dataset import PictureSet
from ganhub.data.recolour import PAINTS, recoloured
from ganhub.data.sentences import colours_in, in_colour, without_kind
from ganhub.errors import BadInput
from ganhub.training.matching import Swaps


@dataclass(frozen=True)
class Drawn:
    """What a step is shown.

    Args:
        chosen, wrong: numbers of the pictures, and of others that the sentences do not stand for.
        pictures, others: uint8 [N, 3, H, W], the same in the colours that they have now.
        texts: a sentence of each picture; empty without sentences.
        nouns: each sentence with every kind's noun; empty where it has none.
        asked: sentences that no picture need be there for; `asked_nouns` and `asked_kinds` (-1: none) are theirs.
        asked_colours: each of those in every colour; empty where it names none, or several.
    """

    chosen: list[int]
    wrong: list[int]
    pictures: Tensor
    others: Tensor
    texts: list[str] = field(default_factory=list)
    nouns: list[list[str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    asked_nouns: list[list[str]] = field(default_factory=list)
    asked_kinds: list[int] = field(default_factory=list)
    asked_colours: list[list[str]] = field(default_factory=list)


class Draws:
    """Draws them at random.

    Args:
        data: the set.
        trained: numbers of the pictures that may be drawn.
        shares: how often each of those, beside the others [len(trained)].
        recolour: share of the pictures that are painted in another colour, as far as their sentence names one.
        swaps: for sentences that no picture need be there for; None asks for none.
    """

    def __init__(
        self, data: PictureSet, trained: list[int], shares: Tensor, recolour: float = 0.0, swaps: Swaps | None = None
    ):
        self.data, self.trained, self.shares, self.recolour, self.swaps = data, trained, shares, recolour, swaps
        self.shown = torch.from_numpy(data.pictures()).permute(0, 3, 1, 2).contiguous()
        self.texts = data.captions if isinstance(data, CaptionedSet) else []

    def __call__(self, n: int, rng: torch.Generator) -> Drawn:
        drawn = self.pairs(n, rng)
        if not self.texts:
            return drawn
        others = self.some(n, rng).tolist()
        wrong = [self._unlike(text, k) for text, k in zip(drawn.texts, others, strict=True)]
        mismatched = self.shown[wrong]
        for at, i in enumerate(wrong):
            self._in_the_same_colour(mismatched, at, i, drawn.chosen[at], drawn.texts[at], rng)
        return replace(drawn, wrong=wrong, others=mismatched)

    def pairs(self, n: int, rng: torch.Generator) -> Drawn:
        """Without others: `wrong` are the pictures themselves."""
        chosen = [self.trained[i] for i in self.some(n, rng).tolist()]
        pictures = self.shown[chosen]
        drawn = Drawn(chosen, chosen, pictures, pictures)
        if not self.texts:
            return drawn
        for at, i in enumerate(chosen):
            text = self.texts[i][_below(len(self.texts[i]), rng)]
            drawn.texts.append(self._in_another_colour(pictures, at, i, text, rng) or text)
        if self.swaps is not None:
            drawn.nouns.extend(self.swaps(text, i) for text, i in zip(drawn.texts, chosen, strict=True))
            self._ask(drawn, rng)
        return drawn

    def some(self, n: int, rng: torch.Generator) -> Tensor:
        """Places [N] among the trained pictures."""
        return torch.multinomial(self.shares, n, replacement=True, generator=rng)

    def every_kind(self) -> list[int]:
        """Classes of which pictures are drawn."""
        drawn = [i for i, share in zip(self.trained, self.shares.tolist(), strict=True) if share > 0]
        return sorted(set(self.kinds(drawn).tolist()))

    def kinds(self, pictures: list[int]) -> Tensor:
        """Classes [N] of pictures."""
        return torch.as_tensor(self.data.labels[pictures])  # type: ignore[index]

    def _kind(self, i: int) -> str:
        return self.data.classes[int(self.data.labels[i])]  # type: ignore[index]

    def _unlike(self, text: str, k: int) -> int:
        """The next picture, from the place k on, that a sentence does not stand for."""
        for further in range(len(self.trained)):
            at = (k + further) % len(self.trained)
            if self.shares[at] > 0 and text not in self.texts[self.trained[at]]:
                break
        return self.trained[at]

    def _in_another_colour(self, pictures: Tensor, at: int, i: int, text: str, rng: torch.Generator) -> str:
        """Paints one of some pictures, now and then, and says so; else an empty text."""
        if torch.rand((), generator=rng) >= self.recolour:
            return ""
        colour = _colour(rng)
        said = in_colour(text, self._kind(i), colour)
        return said if said and _paint(pictures, at, colour) else ""

    def _in_the_same_colour(self, pictures: Tensor, at: int, i: int, own: int, text: str, rng: torch.Generator) -> None:
        """Paints a picture of another kind, now and then, in the colour that a sentence names."""
        if torch.rand((), generator=rng) < self.recolour and self._kind(i) != self._kind(own):
            named = set(colours_in(without_kind(text, self._kind(own))))
            if len(named) == 1 and named <= set(PAINTS):
                _paint(pictures, at, named.pop())

    def _ask(self, drawn: Drawn, rng: torch.Generator) -> None:
        """Adds for every sentence one about any kind, in any colour where those are changed."""
        assert self.swaps is not None
        for text, some in zip(drawn.texts, drawn.nouns, strict=True):
            kind = -1
            if some:
                k = _below(len(some), rng)
                text, kind = some[k], self.swaps.kinds[k]
                if torch.rand((), generator=rng) < self.recolour:
                    text = in_colour(text, self.data.classes[kind], _colour(rng)) or text
                some = self.swaps.of(text, kind)
            drawn.asked.append(text)
            drawn.asked_nouns.append(some)
            drawn.asked_kinds.append(kind)
            coloured = self.recolour > 0 and kind >= 0
            drawn.asked_colours.append(_in_every_colour(text, self.data.classes[kind]) if coloured else [])


def need_classes(data: PictureSet, **weights: float) -> None:
    """
    Raises:
        BadInput: the set has no named classes, and one of the options that need them is not 0.
    """
    for name, given in weights.items():
        if given and (data.labels is None or data.labels.ndim > 1):
            raise BadInput(f"{data.path} has no named classes for --{name}; prepare it with --label.")


def _below(n: int, rng: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=rng))


def _colour(rng: torch.Generator) -> str:
    return list(PAINTS)[_below(len(PAINTS), rng)]


def _in_every_colour(text: str, kind: str) -> list[str]:
    named = set(colours_in(without_kind(text, kind)))
    own = named.pop() if len(named) == 1 else ""
    said = [text if colour == own else in_colour(text, kind, colour) for colour in PAINTS]
    return said if own in PAINTS and all(said) else []


def _paint(pictures: Tensor, at: int, colour: str) -> bool:
    found = recoloured(pictures[at].permute(1, 2, 0).numpy(), colour)
    if found is not None:
        pictures[at] = torch.from_numpy(found).permute(2, 0, 1)
    return found is not None
