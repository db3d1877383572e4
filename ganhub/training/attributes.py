"""Trains a network that says what the pictures of a prepared set show; directions are learned from what it says.

    python -m ganhub.training.attributes --portraits portraits.zip --marks docs/models/portraits-marks.csv
    python -m ganhub.training.attributes --fruit fruit.zip

Portraits: age and gender as the set's labels.csv tells them; glasses and teeth (a smile) as marked by eye in a table,
and the expression where the set tells it; and whether a portrait was taken for the Congress, whose light and colours
go together with smiles, so that directions can be made independent of them. Fruit: colour, number and whether it is
cut, as `data/describe.py` sees them. The trunk begins as the small features; what is unknown of a picture is left out
of the loss. The held-out pictures are those that the small features did not learn from either: whole people, whole
pages.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub import checkpoint, hub
from ganhub.data import PictureSet
from ganhub.errors import BadInput
from ganhub.models.attributes import AttributeNet
from ganhub.registry import load_registry
from ganhub.training.features import held_out, vary
from ganhub.training.loop import Run, ship

PORTRAITS = ("age", "gender", "glasses", "smile", "congress")
FRUIT = ("red", "green", "several", "cut")
MIDDLE_AGE, SPREAD = 50.0, 8.0
"""The log odds of age are 0 at this many years, and 1 so many years later."""


@dataclass(frozen=True)
class Recipe:
    batch: int = 64
    steps: int = 900
    lr: float = 2e-3
    weight_decay: float = 0.05
    held_out: float = 0.15  # as `features.Recipe` has it
    seed: int = 0


def portraits(data: PictureSet, marks: Path) -> tuple[np.ndarray, list[str]]:
    """Probabilities [N, 5], nan where unknown, and which person each picture shows.

    Raises:
        BadInput: the table cannot be read.
    """
    try:
        with marks.open(encoding="utf-8") as file:
            marked = {row["file"]: row for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise BadInput(f"{marks} cannot be read as a table of marks (file,glasses,teeth).") from error
    answers = np.full((len(data), len(PORTRAITS)), np.nan)
    for i, (name, row) in enumerate(zip(data.names, data.rows, strict=True)):
        mark = marked.get(name, {})
        if row.get("age"):
            answers[i, 0] = 1 / (1 + np.exp((MIDDLE_AGE - float(row["age"])) / SPREAD))
        answers[i, 1] = {"male": 1, "female": 0}.get(row.get("gender", ""), np.nan)
        answers[i, 2] = float(mark["glasses"]) if mark.get("glasses") else np.nan
        told = {"smiling": 1.0, "neutral": 0.0}.get(row.get("expression", ""), np.nan)
        answers[i, 3] = float(mark["teeth"]) if mark.get("teeth") else told
        answers[i, 4] = row.get("source") == "congress"
    return answers, [re.sub("neutral|smiling", "", name) for name in data.names]


def fruit(data: PictureSet, count: int = 3000) -> tuple[np.ndarray, list[str]]:
    """The same of fruit, as far as `describe.look` is sure; it looks at so many pictures, spread over the set."""
    from ganhub.data.describe import look

    answers = np.full((len(data), len(FRUIT)), np.nan)
    for i in np.linspace(0, len(data) - 1, min(count, len(data))).astype(int):
        seen = look(data.picture(int(i)))
        if not seen.bodies or seen.only_leaf:
            continue
        cut = [body.cut for body in seen.bodies]
        colours = {colour for body in seen.bodies for colour in (body.skin, *body.colours) if colour}
        if None not in cut:
            answers[i, 3] = any(cut)
        answers[i, 2] = len(seen.bodies) > 1
        if colours:
            answers[i, 0] = bool(colours & {"red", "dark red"})
            answers[i, 1] = "green" in colours
    return answers, list(data.names)


def train(data: PictureSet, answers: np.ndarray, groups: list[str], names: tuple[str, ...], recipe: Recipe, out: Path):
    """Trains for a number of steps; writes `G.safetensors` and `accuracy.json` into `out`."""
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    apart = held_out(groups, recipe.held_out, 0)
    x = torch.from_numpy(data.pictures()).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    if x.shape[2] != 64:
        parts = [F.interpolate(part.float(), (64, 64), mode="bilinear", antialias=True) for part in x.split(256)]
        x = torch.cat([part.round().byte() for part in parts])
    y = torch.from_numpy(answers).float()
    known = ~y.isnan()
    row = load_registry().find("features-small")
    saved = checkpoint.read(hub.fetch(row)).networks["G"]
    network = AttributeNet(list(names), saved.kwargs["widths"], saved.kwargs["size"])
    network.trunk.load_state_dict({k: v.float() for k, v in saved.tensors.items()})
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, recipe.steps, pct_start=0.15)
    # Each attribute counts the same, and each side of it.
    share = torch.tensor([float((y[:, k][known[:, k]] > 0.5).float().mean()) for k in range(len(names))])
    usable = (~apart).float()
    picks = [torch.where(known[:, k], usable, 0.0) for k in range(len(names))]
    for k, weights in enumerate(picks):
        positive = (y[:, k] > 0.5).float()
        picks[k] = weights * torch.where(positive > 0, 0.5 / share[k], 0.5 / (1 - share[k]))
    with Run(out) as run:
        for step in range(recipe.steps):
            index = torch.cat([torch.multinomial(w, recipe.batch // len(names), True, generator=rng) for w in picks])
            batch = vary(x[index].float(), True, rng)
            with torch.autocast("cpu", torch.bfloat16):
                said = network((batch / 127.5 - 1).contiguous(memory_format=torch.channels_last)).float()
            there = known[index]
            loss = F.binary_cross_entropy_with_logits(said[there], y[index][there].clamp(0.03, 0.97))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            if (step + 1) % 100 == 0:
                run.log(step=step + 1, loss=float(loss.detach()))
    network.eval()
    right = accuracy(network, x[apart], y[apart], names)
    (out / "accuracy.json").write_text(json.dumps(right, indent=1))
    ship(network, "attributes", out / "G.safetensors", steps=recipe.steps, seed=recipe.seed)
    return right


@torch.no_grad()
def accuracy(network: AttributeNet, x: Tensor, y: Tensor, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """On held-out pictures, by attribute: mean accuracy over both sides, AUC, and how many on either."""
    from ganhub.metrics.directions import area, mean_accuracy

    said = torch.cat([network(part.float() / 127.5 - 1) for part in x.split(256)]).numpy()
    found = {}
    for k, name in enumerate(names):
        sure = ((y[:, k] < 0.4) | (y[:, k] > 0.6)).numpy()  # ages near the middle are on neither side
        scores, truth = said[sure, k], y[sure, k].numpy() > 0.5
        found[name] = {
            "accuracy": round(mean_accuracy(scores, truth), 3),
            "auc": round(area(scores, truth), 3),
            "with": int(truth.sum()),
            "without": int((~truth).sum()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, help="prepared set of portraits")
    parser.add_argument("--marks", type=Path, help="table of what was marked by eye: file,glasses,teeth")
    parser.add_argument("--fruit", type=Path, help="prepared set of fruit")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="(default: %(default)s)")
    args = parser.parse_args()
    recipe = Recipe(steps=args.steps)
    if args.portraits:
        if not args.marks:
            parser.error("--portraits goes with --marks")
        data = PictureSet(args.portraits)
        right = train(data, *portraits(data, args.marks), PORTRAITS, recipe, args.out / "attributes-portraits")
        print(json.dumps(right, indent=1))
    if args.fruit:
        data = PictureSet(args.fruit)
        print(json.dumps(train(data, *fruit(data), FRUIT, recipe, args.out / "attributes-fruit"), indent=1))


if __name__ == "__main__":
    main()
