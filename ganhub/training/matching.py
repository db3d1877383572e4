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

_ARTICLE = re.compile(r"\ban? (?=(\w))")


class Heard:
    """What an encoder makes of sentences: each is read once.

    Args:
        encode: sentences -> [N, D].
        texts: those that will be asked for. Others are read when they come, one by one: what is made of a sentence
            must not depend on what it is read with, or a training that goes on would not do what it had done.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], texts: Iterable[str]):
        self.encode = encode
        self.known: dict[str, Tensor] = {}
        every = sorted(set(texts))
        for at in range(0, len(every), 256):
            self._read(every[at : at + 256])

    def _read(self, texts: list[str]) -> None:
        with torch.no_grad():
            self.known |= dict(zip(texts, self.encode(texts).float(), strict=True))

    def read(self, texts: list[str]) -> None:
        """Reads sentences that always come together."""
        if texts and texts[0] not in self.known:
            self._read(texts)

    def __call__(self, texts: list[str]) -> Tensor:
        """[N, D] of N sentences."""
        for text in texts:
            if text not in self.known:
                self._read([text])
        return torch.stack([self.known[text] for text in texts])


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
    """How badly pictures fit their sentences: among those of the batch, and among the kinds that they could name.

    Args:
        name: a CLIP, a file or an id of the registry.
        texts: sentences that it will be asked about.

    Raises:
        CheckpointError: the file is no CLIP.
    """

    def __init__(self, name: str, texts: Iterable[str], device: torch.device):
        network: Any = models.read(checkpoint.read(checkpoint_file(name)), "clip")
        self.clip: Any = network.to(device).eval().requires_grad_(False)
        self.of = Heard(lambda some: self.clip.encode_tokens(self.clip.words(some).to(device)), texts)
        """Features [N, D] of sentences."""

    def __call__(self, pictures: Tensor, texts: list[str], others: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, H, W] in [-1, 1], the sentence of each, and the same of every kind (or none of them) ->
        mean cross-entropies among the sentences of the batch and among the kinds."""
        for some in others:
            self.of.read(some)
        scale = self.clip.clip.logit_scale.exp()
        seen, wanted = self.clip.encode_image(pictures).float(), self.of(texts)
        own = torch.eye(len(wanted), dtype=torch.bool, device=wanted.device)
        same = (wanted @ wanted.T > ALIKE) & ~own
        scores = (seen @ wanted.T * scale).masked_fill(same, -torch.inf)
        batch = F.cross_entropy(scores, torch.arange(len(wanted), device=wanted.device))
        named = [k for k, some in enumerate(others) if some]
        if not named:
            return batch, torch.zeros_like(batch)
        kinds = self.of([text for k in named for text in others[k]]).unflatten(0, (len(named), -1))
        right = torch.tensor([others[k].index(texts[k]) for k in named], device=wanted.device)
        return batch, F.cross_entropy(torch.einsum("nd,nkd->nk", seen[named], kinds) * scale, right)
