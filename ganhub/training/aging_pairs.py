"""Who is shown beside whom when networks learn to make faces older and younger, and what the ages differ in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub.data.ages import Aged
from ganhub.data.crop import EYES_AT
from ganhub.errors import BadInput
from ganhub.metrics.faces import Faces

PEERS = 12
"""How many faces that look alike a mean is of, as their weights go."""


class Pairs:
    """Young and old faces, drawn in pairs of the same source and gender.

    Args:
        faces: nobody of them is held out.
        young, old: years up to which and from which.

    Raises:
        BadInput: there are no two such faces.
    """

    def __init__(self, faces: Faces, young: int, old: int):
        self.faces = faces
        groups: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        for i, one in enumerate(faces.about):
            if one.age <= young or one.age >= old:
                groups.setdefault(group_of(one), ([], []))[int(one.age >= old)].append(i)
        self.groups = {key: both for key, both in sorted(groups.items()) if all(both)}
        self.left_out = {key: [len(one) for one in both] for key, both in groups.items() if not all(both)}
        if young >= old or not self.groups:
            raise BadInput(
                f"No source and gender has faces of at most {young} and of at least {old} years; choose other --young "
                "and --old, or add pictures."
            )
        self.weights = torch.tensor([min(map(len, both)) ** 0.5 for both in self.groups.values()])
        lists = [both for both in self.groups.values()]
        longest = max(len(one) for both in lists for one in both)
        self.counts = torch.tensor([[len(one) for one in both] for both in lists])  # [groups, 2]
        self.members = torch.tensor([[one + [0] * (longest - len(one)) for one in both] for both in lists])

    def __call__(self, n: int, rng: torch.Generator) -> Tensor:
        """Numbers of n young faces and of n old ones: [2, n]."""
        group = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        place = (torch.rand(n, 2, generator=rng) * self.counts[group]).long()
        return self.members[group].gather(2, place[:, :, None]).squeeze(2).T

    def balance(self, n: int = 20000) -> dict[str, Any]:
        """What is drawn on both sides: shares of source and gender, years of the photos, how far the sides differ."""
        drawn = self(n, torch.Generator().manual_seed(0)).tolist()
        sides: list[dict[str, Any]] = []
        for index in drawn:
            about = [self.faces.about[i] for i in index]
            shares: dict[str, float] = {}
            for one in about:
                name = " ".join(group_of(one)).strip() or "all"
                shares[name] = shares.get(name, 0) + 1 / n
            taken = [int(one.facts["photo_year"]) for one in about if one.facts.get("photo_year", "").isdigit()]
            sides.append({
                "faces": len(set(index)),
                "age": round(float(np.mean([one.age for one in about])), 1),
                **({"photo_year": round(float(np.mean(taken)), 1)} if taken else {}),
                "shares": {name: round(share, 3) for name, share in sorted(shares.items())},
            })  # fmt: skip
        young, old = sides[0], sides[1]
        names = {*young["shares"], *old["shares"]}
        apart = max(abs(young["shares"].get(name, 0) - old["shares"].get(name, 0)) for name in names)
        left = {" ".join(key): {"young": a, "old": b} for key, (a, b) in self.left_out.items()}
        return {"young": young, "old": old, "largest_difference": round(apart, 4), "one_side_only": left}


def changes(faces: Faces, groups: dict[tuple[str, str], tuple[list[int], list[int]]]) -> Tensor:
    """What the old ones who look like a face have and the young ones who do have not: float16 [N, 3, H, W], of colours
    in [-1, 1]; zero for faces of no group."""
    pictures = faces.pictures.float() / 127.5 - 1
    mask = F.interpolate(faces.mask[None, None], (16, 16), mode="area")

    def looks(x: Tensor) -> Tensor:
        x = F.interpolate(x, (16, 16), mode="area")
        light = (x * mask).sum((2, 3), keepdim=True) / mask.sum()
        return ((x - 0.7 * light) * mask).flatten(1)

    persons = faces.persons().to(pictures.device)
    found = torch.zeros(pictures.shape, dtype=torch.float16, device=pictures.device)
    for key, both in groups.items():
        of = torch.tensor([i for i, one in enumerate(faces.about) if group_of(one) == key], device=pictures.device)
        means = []
        for members in both:
            index = torch.tensor(members, device=pictures.device)
            theirs = torch.cat([pictures[index], pictures[index].flip(3)])
            far = torch.cdist(looks(pictures[of]), looks(theirs)) ** 2
            far = far.masked_fill(persons[of, None] == persons[index].repeat(2), torch.inf)
            means.append((_near(far) @ theirs.flatten(1)).view(-1, *pictures.shape[1:]))
        found[of] = (means[1] - means[0]).half()
    return found


def _near(far: Tensor) -> Tensor:
    """Distances [N, M] -> weights [N, M] that fall off with them so fast that about PEERS count."""
    far = far - far.amin(1, keepdim=True)
    low, high = torch.full_like(far[:, :1], 1e-6), torch.full_like(far[:, :1], 1e6)
    for _ in range(40):
        middle = (low * high).sqrt()
        weights = (-middle * far).softmax(1)
        many = 1 / (weights**2).sum(1, keepdim=True) > PEERS
        low, high = torch.where(many, middle, low), torch.where(many, high, middle)
    return weights


def mouth(side: int, margin: float) -> Tensor:
    """Where the mouth is on faces that stand as `ganhub data prepare --crop face --margin MARGIN` sets them: [side,
    side], 1 for what is certainly mouth."""
    place = (torch.arange(side) + 0.5) / side * margin  # in distances of the eyes
    x, y = place[None] - margin / 2, place[:, None] - EYES_AT * margin
    far = ((x / 0.62) ** 2 + ((y - 1.1) / 0.34) ** 2).sqrt()
    return ((1.35 - far) / 0.5).clamp(0, 1)


def group_of(one: Aged) -> tuple[str, str]:
    return one.facts.get("source", ""), one.facts.get("gender", "")
