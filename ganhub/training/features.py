"""Trains the small feature network that generators are measured with where the standard Inception is not at hand.

    python -m ganhub.training.features --fruit fruit.zip --portraits portraits.zip --out runs/features-small

One trunk, one linear head for each question: which fruit, which digit, and of a portrait the gender, the decade of the
age and the source. A last head names what was done to the picture (blurred, noised, patches swapped, a grid laid over
it), because a judge of generators must see such things. Pictures that a question does not fit are left out of its
loss. The sets are made by `ganhub data prepare`; their rows have what labels.csv said: `fruit`, and `source`, `age`,
`gender` of the portraits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.data import PictureSet
from ganhub.errors import BadInput
from ganhub.models.features import FeatureNet
from ganhub.training import mlp_gan
from ganhub.training.loop import Run, ship

DAMAGES = ("none", "blur", "noise", "swapped patches", "grid")


@dataclass(frozen=True)
class Recipe:
    widths: tuple[int, ...] = (32, 64, 128, 192)
    size: int = 64
    batch: int = 96  # a half of fruit, a quarter of digits, a quarter of portraits
    lr: float = 3e-3
    weight_decay: float = 0.02
    smoothing: float = 0.05
    damaged: float = 0.4  # share of the pictures
    held_out: float = 0.15
    fewest: int = 60  # pictures of a fruit
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """One kind of pictures: uint8 [N, 3, size, size], answers by head (-1 where unknown), how often each is drawn."""

    pictures: Tensor
    answers: dict[str, Tensor]
    held_out: Tensor
    weights: Tensor


def numbered(values: list[str], fewest: int = 1) -> tuple[Tensor, list[str]]:
    """Answers as numbers, -1 for empty and rare ones; and their names."""
    names, counts = np.unique([value for value in values if value], return_counts=True)
    kept = [str(name) for name, count in zip(names, counts, strict=True) if count >= fewest]
    return torch.tensor([kept.index(value) if value in kept else -1 for value in values]), kept


def held_out(groups: list[str], share: float, seed: int) -> Tensor:
    """Which pictures are kept for the test: whole groups (a page, a person), the same ones every time."""
    draws = {g: int(hashlib.sha256(f"{seed} {g}".encode()).hexdigest()[:8], 16) / 16**8 for g in set(groups)}
    return torch.tensor([draws[group] < share for group in groups])


def fruit(data: PictureSet, recipe: Recipe) -> tuple[Part, dict[str, list[str]]]:
    answers, kinds = numbered([row.get("fruit", "") for row in data.rows], recipe.fewest)
    if not kinds:
        raise BadInput(f"No fruit in {data.path} has {recipe.fewest} pictures; make the set with its labels.csv.")
    counts = torch.bincount(answers.clamp(min=0))
    weights = torch.where(answers >= 0, counts[answers.clamp(min=0)].double() ** -0.5, 0.0)
    apart = held_out(data.names, recipe.held_out, recipe.seed)
    return Part(_tensor(data, recipe), {"fruit": answers}, apart, weights), {"fruit": kinds}


def portraits(data: PictureSet, recipe: Recipe) -> tuple[Part, dict[str, list[str]]]:
    """The same person smiling and not is one group."""
    ages = [row.get("age", "") for row in data.rows]
    values = {
        "gender": [row.get("gender", "") for row in data.rows],
        "decade": [f"{min(max(int(age) // 10, 2), 7)}0s" if age else "" for age in ages],
        "source": [re.sub("_.*", "", row.get("source", "")) for row in data.rows],
    }
    answers, names = {}, {}
    for head, column in values.items():
        answers[head], names[head] = numbered(column)
        if len(names[head]) < 2:
            raise BadInput(f"{data.path} says no {head} of its portraits; make the set with its labels.csv.")
    apart = held_out([re.sub("neutral|smiling", "", name) for name in data.names], recipe.held_out, recipe.seed)
    return Part(_tensor(data, recipe), answers, apart, torch.ones(len(data)).double()), names


def digits(recipe: Recipe) -> tuple[Part, dict[str, list[str]]]:
    grey, labels = mlp_gan.digits()
    large = F.interpolate(torch.from_numpy(grey), (recipe.size, recipe.size), mode="bilinear", antialias=True)
    pictures = ((large + 1) * 127.5).round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
    apart = held_out([str(i) for i in range(len(labels))], recipe.held_out, recipe.seed)
    answers = {"digit": torch.from_numpy(labels).long()}
    return Part(pictures, answers, apart, torch.ones(len(labels)).double()), {"digit": [str(i) for i in range(10)]}


def _tensor(data: PictureSet, recipe: Recipe) -> Tensor:
    x = torch.from_numpy(data.pictures()).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    if x.shape[2:] == (recipe.size, recipe.size):
        return x
    size = (recipe.size, recipe.size)
    parts = [F.interpolate(part.float(), size, mode="bilinear", antialias=True) for part in x.split(256)]
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])


def vary(x: Tensor, mirror: bool, rng: torch.Generator) -> Tensor:
    """Pictures [N, 3, H, W] in [0, 255], each mirrored, turned, enlarged, moved, and its colours a little changed."""
    n = len(x)
    turn, zoom, dx, dy = (torch.rand(4, n, generator=rng) * 2 - 1).unbind()
    flip = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0) if mirror else torch.ones(n)
    angle, zoom = turn * 0.15, 1 + 0.12 * zoom
    cos, sin, nothing = angle.cos() * zoom, angle.sin() * zoom, 0.1
    theta = torch.stack([flip * cos, -sin, dx * nothing, flip * sin, cos, dy * nothing], 1).view(n, 2, 3)
    x = F.grid_sample(
        x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False
    )
    gain, lift = (torch.rand(2, n, 1, 1, 1, generator=rng) - 0.5).unbind()
    return (x * (1 + 0.3 * gain) + 40 * lift).clamp(0, 255)


def damage(x: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, H, W] in [0, 255], a share of them damaged, and what was done to each (`DAMAGES`)."""
    n, _, height, width = x.shape
    kind = torch.where(
        torch.rand(n, generator=rng) < share, torch.randint(1, len(DAMAGES), (n,), generator=rng), torch.zeros(n).long()
    )
    x = x.clone()
    for i in kind.nonzero()[:, 0].tolist():
        strength = 0.25 + 0.75 * float(torch.rand((), generator=rng))
        one = x[i : i + 1]
        if kind[i] == 1:
            side = round(height / (1 + 3 * strength))
            x[i] = F.interpolate(
                F.interpolate(one, (side, side), mode="bilinear", antialias=True), (height, width), mode="bicubic"
            )[0]
        elif kind[i] == 2:
            x[i] += torch.randn(one.shape[1:], generator=rng) * 30 * strength
        elif kind[i] == 3:
            side = height // 4
            for _ in range(1 + round(3 * strength)):
                (a, b, c, d) = torch.randint(0, height - side, (4,), generator=rng).tolist()
                here, there = x[i, :, a : a + side, b : b + side].clone(), x[i, :, c : c + side, d : d + side].clone()
                x[i, :, a : a + side, b : b + side], x[i, :, c : c + side, d : d + side] = there, here
        else:
            wave = torch.zeros(height, width)
            wave[::2, ::2] += 1
            wave[1::2, 1::2] -= 1
            x[i] += wave * 40 * strength
    return x.clamp(0, 255), kind


class Trainer:
    """Trunk, heads, and one step."""

    def __init__(self, recipe: Recipe, parts: dict[str, Part], names: dict[str, list[str]], steps: int):
        self.recipe, self.parts, self.names = recipe, parts, {**names, "damage": list(DAMAGES)}
        torch.manual_seed(recipe.seed)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.trunk = FeatureNet(list(recipe.widths), recipe.size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.heads = nn.ModuleDict({head: nn.Linear(self.trunk.dim, len(kinds)) for head, kinds in self.names.items()})
        own = [*self.trunk.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(own, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, recipe.lr, steps, pct_start=0.1)
        self.done = 0

    def batch(self) -> tuple[Tensor, dict[str, Tensor]]:
        pictures, answers = [], {head: [] for head in self.names}  # type: ignore[var-annotated]
        for (name, part), share in zip(self.parts.items(), (2, 4, 4), strict=True):
            n = self.recipe.batch // share
            weights = torch.where(part.held_out, 0.0, part.weights)
            index = torch.multinomial(weights, n, replacement=True, generator=self.rng)
            pictures.append(vary(part.pictures[index].float(), name != "digits", self.rng))
            for head in self.names:
                known = part.answers[head][index] if head in part.answers else torch.full((n,), -1)
                answers[head].append(known)
        x, kind = damage(torch.cat(pictures), self.recipe.damaged, self.rng)
        return x, {**{head: torch.cat(values) for head, values in answers.items()}, "damage": kind}

    def step(self) -> float:
        x, answers = self.batch()
        with torch.autocast("cpu", torch.bfloat16):
            features = self.trunk(x.contiguous(memory_format=torch.channels_last)).float()
        # Every question weighs the same, however many of the pictures it fits.
        loss = torch.stack(
            [
                F.cross_entropy(
                    head(features), answers[name], ignore_index=-1, label_smoothing=self.recipe.smoothing
                ).nan_to_num()
                for name, head in self.heads.items()
            ]
        ).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        return float(loss.detach())

    @torch.no_grad()
    def accuracy(self) -> dict[str, dict[str, float]]:
        """On what was held out, by head: share that is right, share of the commonest answer, number of pictures."""
        self.trunk.eval()
        found: dict[str, list[tuple[Tensor, Tensor]]] = {head: [] for head in self.names}
        rng = torch.Generator().manual_seed(self.recipe.seed + 1)
        for part in self.parts.values():
            x, kind = damage(part.pictures[part.held_out].float(), self.recipe.damaged, rng)
            whole = torch.cat([self.trunk(batch) for batch in part.pictures[part.held_out].float().split(256)])
            broken = torch.cat([self.trunk(batch) for batch in x.split(256)])
            found["damage"].append((self.heads["damage"](broken).argmax(1), kind))
            for head, answers in part.answers.items():
                known = answers[part.held_out]
                found[head].append((self.heads[head](whole).argmax(1)[known >= 0], known[known >= 0]))
        self.trunk.train()
        result = {}
        for head, pairs in found.items():
            said, true = (torch.cat(column) for column in zip(*pairs, strict=True))
            result[head] = {
                "right": float((said == true).float().mean()),
                "commonest": float(torch.bincount(true).max() / len(true)),
                "pictures": len(true),
            }
        return result


def train(fruit_set: PictureSet, portrait_set: PictureSet, out: Path, recipe: Recipe, *, steps: int) -> FeatureNet:
    """Trains for a number of steps, or until it is asked to stop; returns the trunk.

    Writes `log.jsonl`, `accuracy.json` and `G.safetensors` (matrices in half precision) into `out`.

    Raises:
        BadInput: a set does not say what its pictures show.
    """
    torch.set_flush_denormal(True)
    made = {"fruit": fruit(fruit_set, recipe), "digits": digits(recipe), "portraits": portraits(portrait_set, recipe)}
    names = {head: kinds for _, heads in made.values() for head, kinds in heads.items()}
    trainer = Trainer(recipe, {name: part for name, (part, _) in made.items()}, names, steps)
    with Run(out) as run:
        began, losses = time.monotonic(), []
        while trainer.done < steps and not run.stopping:
            losses.append(trainer.step())
            if len(losses) == 200 or trainer.done == steps:
                seconds = time.monotonic() - began
                run.log(step=trainer.done, seconds=seconds, loss=float(np.mean(losses)))
                losses = []
    ship(trainer.trunk, "features", out / "G.safetensors", steps=trainer.done, seed=recipe.seed)
    (out / "accuracy.json").write_text(json.dumps(trainer.accuracy(), indent=1))
    return trainer.trunk.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fruit", type=Path, required=True, help="prepared set of fruit")
    parser.add_argument("--portraits", type=Path, required=True, help="prepared set of portraits")
    parser.add_argument("--out", type=Path, required=True, help="folder for log, accuracy and the network")
    parser.add_argument("--steps", type=int, default=6000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(PictureSet(args.fruit), PictureSet(args.portraits), args.out, Recipe(seed=args.seed), steps=args.steps)
    print((args.out / "accuracy.json").read_text())


if __name__ == "__main__":
    main()
