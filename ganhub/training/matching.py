"""Whether pictures fit their sentences, as a CLIP sees it, and sentences that name another kind than their picture's.

A pair of encoders has this word in the training of "AttnGAN" (Xu et al., 2018, arXiv:1711.10485); here it is a CLIP
that stays as it is. No picture shows a purple pear, but a sentence about a purple plum names one once its noun is
changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub import checkpoint, models
from ganhub.data.dataset import PictureSet
from ganhub.data.sentences import plural, singular
from ganhub.training.options import checkpoint_file

ALIKE = 0.95
"""Sentences whose features are nearer than this say the same."""

REMEMBERED = 20_000
"""Groups of sentences whose features are kept, the oldest go first; with 13 kinds 0.3 GB."""

_ARTICLE = re.compile(r"\ban? (?=(\w))")


class Heard:
    """What an encoder makes of sentences, the last ones remembered.

    What is made of a sentence must not depend on what happened to be read with it, or a training that goes on would not
    do what it had done.

    Args:
        encode: sentences -> [N, D].
        texts: those that will be asked for often; others are read when they come, one by one.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], texts: Iterable[str] = ()):
        self.encode = encode
        self.known: dict[str, Tensor] = {}
        self.groups: dict[tuple[str, ...], Tensor] = {}
        every = sorted(set(texts))
        for at in range(0, len(every), 256):
            some = every[at : at + 256]
            self.known |= dict(zip(some, self._read(some), strict=True))

    def _read(self, texts: list[str]) -> Tensor:
        with torch.no_grad():
            return self.encode(texts).float()

    def together(self, texts: list[str]) -> Tensor:
        """[N, D] of N sentences that are read with each other, whatever was read before."""
        key = tuple(texts)
        if key not in self.groups:
            if len(self.groups) >= REMEMBERED:
                del self.groups[next(iter(self.groups))]
            self.groups[key] = self._read(texts)
        return self.groups[key]

    def __call__(self, texts: list[str]) -> Tensor:
        """[N, D] of N sentences."""
        return torch.stack([self.known[text] if text in self.known else self.together([text])[0] for text in texts])


class Swaps:
    """Sentences of a set with the noun of each of some kinds in turn.

    Args:
        data: has classes.
        kinds: which of them.
    """

    def __init__(self, data: PictureSet, kinds: list[int]):
        names = [data.classes[kind] for kind in kinds]
        self.kinds = kinds
        self.nouns = [(singular(name), plural(name)) for name in names]
        self.place = {kind: k for k, kind in enumerate(kinds)}
        self.labels = [int(label) for label in data.labels] if data.labels is not None else []

    def __call__(self, text: str, picture: int) -> list[str]:
        """A sentence of a picture -> what it would be of each kind; empty where it does not name its own."""
        return self.of(text, self.labels[picture]) if self.labels else []

    def of(self, text: str, kind: int) -> list[str]:
        """The same of a sentence about a kind."""
        own = self.place.get(kind)
        if own is None:
            return []
        one, many = self.nouns[own]
        parts = re.split(rf"\b({re.escape(many)}|{re.escape(one)})\b", text)
        if len(parts) < 3:
            return []
        said = []
        for nouns in self.nouns:
            words = [nouns[part == many] if k % 2 else part for k, part in enumerate(parts)]
            said.append(_ARTICLE.sub(lambda m: "an " if m[1] in "aeiou" else "a ", "".join(words)))
        return said


class Matcher:
    """How badly pictures fit their sentences.

    Args:
        name: a CLIP, a file or an id of the registry.

    Raises:
        CheckpointError: the file is no CLIP.
    """

    def __init__(self, name: str, device: torch.device):
        network: Any = models.read(checkpoint.read(checkpoint_file(name)), "clip")
        self.clip: Any = network.to(device).eval().requires_grad_(False)
        self.scale = float(self.clip.clip.logit_scale.exp())
        self.of = Heard(lambda some: self.clip.encode_tokens(self.clip.words(some).to(device)))
        """Features [N, D] of sentences."""

    def __call__(
        self, pictures: Tensor, texts: list[str], nouns: list[list[str]], colours: list[list[str]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How badly pictures fit, as mean cross-entropies: among the sentences of the batch, those of every kind, and
        those of every colour.

        Args:
            pictures: [N, 3, H, W] in [-1, 1].
            texts: the sentence of each.
            nouns: each sentence with every kind's noun, or none of them.
            colours: each sentence in every colour, or none of them.
        """
        seen = self.clip.encode_image(pictures).float()
        wanted = torch.stack(
            [
                self.of.together(some)[some.index(text)] if some else self.of([text])[0]
                for text, some in zip(texts, nouns, strict=True)
            ]
        )
        own = torch.eye(len(wanted), dtype=torch.bool, device=wanted.device)
        same = (wanted @ wanted.T > ALIKE) & ~own
        scores = (seen @ wanted.T * self.scale).masked_fill(same, -torch.inf)
        batch = F.cross_entropy(scores, torch.arange(len(wanted), device=wanted.device))
        return batch, self._among(seen, texts, nouns), self._among(seen, texts, colours)

    def _among(self, seen: Tensor, texts: list[str], others: list[list[str]]) -> Tensor:
        named = [k for k, some in enumerate(others) if some]
        if not named:
            return torch.zeros((), device=seen.device)
        said = torch.stack([self.of.together(others[k]) for k in named])
        right = torch.tensor([others[k].index(texts[k]) for k in named], device=seen.device)
        return F.cross_entropy(torch.einsum("nd,nkd->nk", seen[named], said) * self.scale, right)
