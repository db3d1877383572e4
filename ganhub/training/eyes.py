"""Trains the network that finds the eyes in a face and tells faces from other things: on a CPU, in ten minutes.

    python -m ganhub.training.eyes --portraits FOLDER --others FOLDER FOLDER --out runs/eyes

The portraits (`original/`) have their eyes in docs/models/eyes-portraits.csv; every fifth file and the whole London
set, some of which a person has marked, are kept out for measuring. What is no face comes from the other folders and
from the rest of the portraits: what the cascade takes for a face there, and squares at random.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganhub.checkpoint import Network, save
from ganhub.data.faces import BELOW, BOX, WINDOW, Face, find_faces, proposals, reduced, stand, windows
from ganhub.models.eyes import SIDE, Eyes

LABELS = Path(__file__).parents[2] / "docs" / "models" / "eyes-portraits.csv"
PATCH = 224
"""Side, in pixels, of what is kept of each square: its window of 128 pixels and enough around it to turn and shift."""
SPREAD = PATCH / 128


@dataclass(frozen=True)
class Recipe:
    widths: tuple[int, ...] = (24, 48, 64, 96)
    batch: int = 32  # faces, and as many others
    steps: int = 4000  # and half as many with the others that are hard to tell apart
    lr: float = 2e-3
    turn: float = 30.0  # degrees, either way
    shift: float = 0.12  # of the side of the cascade's square
    scale: float = 0.25  # of its logarithm
    seed: int = 0


def held_out(file: str) -> bool:
    """Every fifth file, by its name, and the London set, in which each person stands twice."""
    return file.startswith("london") or zlib.crc32(file.encode()) % 5 == 0


def labels() -> dict[str, Tensor]:
    """Eyes [2, 2] of each portrait by its file name, in pixels, left and right as seen in the picture."""
    with LABELS.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))[1:]
    return {file: torch.tensor([float(x) for x in numbers]).view(2, 2) for file, *numbers in rows}


def faces(portraits: Path) -> Tensor:
    """Patches of the portraits to train on, upright: uint8 [N, 1, 224, 224]."""
    patches = []
    for file, eyes in labels().items():
        if not held_out(file):
            grey = Image.open(portraits / "original" / file).convert("L")
            patches.append(_patches(grey, stand(eyes[None])))
    return torch.cat(patches)


def others(portraits: Path, folders: list[Path], rng: np.random.RandomState) -> Tensor:
    """Patches of what is no face: uint8 [N, 1, 224, 224]."""
    known = labels()
    patches = []
    for number, name in enumerate(known):
        if not held_out(name):
            grey = reduced(Image.open(portraits / "original" / name).convert("L"))
            squares = _random(grey, 3, rng)
            if number % 2:
                squares = torch.cat([proposals(grey, 0.06), squares])
            x, y, side, _ = stand(known[name][None])[0]
            away = (squares[:, :2] - torch.stack([x, y])).norm(dim=1) > 0.5 * torch.maximum(squares[:, 2], side)
            size = (squares[:, 2] / side).log().abs() > 0.75
            patches.append(_patches(grey, squares[away | size]))
    for folder in folders:
        files = sorted(file for file in folder.rglob("*.jpg") if not held_out(file.name))
        for file in files if len(files) < 400 else files[:: len(files) // 400]:
            grey = reduced(Image.open(file).convert("L"))
            patches.append(_patches(grey, torch.cat([proposals(grey, 0.03), _random(grey, 4, rng)])))
    return torch.cat(patches)


def _random(grey: Image.Image, count: int, rng: np.random.RandomState) -> Tensor:
    side = min(grey.size) * np.exp(rng.uniform(np.log(0.08), np.log(0.9), count))
    x, y = (length * rng.uniform(0.05, 0.95, count) for length in grey.size)
    return torch.from_numpy(np.stack([x, y, side, np.zeros(count)], axis=1)).float()


def _patches(grey: Image.Image, squares: Tensor) -> Tensor:
    pixels = torch.from_numpy(np.array(grey, np.float32))[None, None]
    squares = squares * squares.new_tensor([1, 1, SPREAD, 1])
    fineness = (squares[:, 2] * WINDOW / PATCH).ceil().clamp(1, 4).int().tolist()
    each = [windows(pixels, square[None], fine, PATCH) for square, fine in zip(squares, fineness, strict=True)]
    return torch.cat(each).byte() if each else torch.empty(0, 1, PATCH, PATCH, dtype=torch.uint8)


def jittered(patches: Tensor, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows as a first look (half of them) and a second look cut them, and where the eyes of a face then are.

    Args:
        patches: uint8 [N, 1, 224, 224].

    Returns:
        [N, 1, 64, 64] in [0, 1] and [N, 2, 2] in shares of the side.
    """
    n = len(patches)
    patches = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.5, patches.flip(3), patches)
    side = PATCH / SPREAD / WINDOW
    first = (torch.rand(n, 1, generator=rng) < 0.5).float()
    far = torch.rand(n, 4, generator=rng) * 2 - 1
    near = torch.randn(n, 4, generator=rng) * 0.2
    reach = far.new_tensor([recipe.shift * side, recipe.shift * side, recipe.scale, np.radians(recipe.turn)])
    dx, dy, grow, turn = ((far * first + near * (1 - first)) * reach).unbind(1)
    squares = torch.stack([PATCH / 2 + dx, PATCH / 2 + dy, side * grow.exp(), turn], dim=1)
    distance = side / BOX
    eyes = torch.tensor([[-0.5, -BELOW], [0.5, -BELOW]]) * distance - torch.stack([dx, dy], dim=1)[:, None]
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]
    x, y = eyes.unbind(2)
    eyes = torch.stack([x * cos + y * sin, y * cos - x * sin], dim=2) / (squares[:, 2] * WINDOW)[:, None, None] + 0.5
    return windows(patches.float() / 255, squares, fineness=2), eyes


def spoilt(x: Tensor, rng: torch.Generator) -> Tensor:
    """Windows [N, 1, 64, 64] in other light, covered in part, blurred, noisy and after JPEG."""
    n = len(x)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *(shape or (1, 1, 1)), generator=rng) * (high - low) + low

    steps = torch.linspace(-1, 1, SIDE)
    light = 1 + draw(-0.5, 0.5) * steps + draw(-0.5, 0.5) * steps[:, None]
    x = (x.clamp(1e-3, 1) ** draw(-0.7, 0.7).exp() * light * draw(0.4, 1.0)).clamp(0, 1)
    # Hair, hands and the rims of glasses: a stripe or a patch of one grey over a third of the windows.
    row, column = (draw(-1.1, 1.1) + draw(0.05, 0.3) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1) for _ in "yx")
    inside = (steps[:, None] > row[0]) & (steps[:, None] < row[1]) & (steps > column[0]) & (steps < column[1])
    x = torch.where(inside & (draw(0, 1) < 0.35), draw(0, 1), x)
    x = x.clone()
    small = torch.randint(12, SIDE, (n,), generator=rng).tolist()
    chosen = (torch.rand(2, n, generator=rng) < 0.3).tolist()
    quality = torch.randint(15, 90, (n,), generator=rng).tolist()
    for i in range(n):
        if chosen[0][i]:
            little = F.interpolate(x[i : i + 1], size=(small[i],) * 2, mode="area")
            x[i] = F.interpolate(little, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0]
        if chosen[1][i]:
            file = io.BytesIO()
            Image.fromarray((x[i, 0] * 255).byte().numpy()).save(file, "jpeg", quality=quality[i])
            x[i, 0] = torch.from_numpy(np.array(Image.open(file), np.float32)) / 255
    return x + torch.randn(x.shape, generator=rng) * draw(0, 0.03)


def train(face_patches: Tensor, other_patches: Tensor, recipe: Recipe) -> Eyes:
    """The trained network; prints its losses."""
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    network = Eyes(list(recipe.widths)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(network, face_patches, other_patches, torch.ones(len(other_patches)), recipe, rng)
    # Then mostly with those others that it takes for faces.
    alike = 0.005 + taken_for_faces(network, other_patches, recipe, rng)
    fit(network, face_patches, other_patches, alike, replace(recipe, lr=recipe.lr / 4, steps=recipe.steps // 2), rng)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def taken_for_faces(network: Eyes, patches: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """The scores [N] that a network gives to patches, the highest of three looks at each."""
    network.eval()
    looks = [[network(jittered(part, recipe, rng)[0])[1] for part in patches.split(64)] for _ in range(3)]
    return torch.stack([torch.cat(logits) for logits in looks]).amax(dim=0).sigmoid()


def fit(
    network: Eyes, face_patches: Tensor, other_patches: Tensor, likely: Tensor, recipe: Recipe, rng: torch.Generator
) -> None:
    """Trains for the steps of a recipe; `likely` [N] says how likely each of the others is to be drawn."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=recipe.steps, pct_start=0.1)
    began, sums = time.monotonic(), np.zeros(2)
    is_face = (torch.arange(2 * recipe.batch) < recipe.batch).float()
    for step in range(1, recipe.steps + 1):
        others = other_patches[torch.multinomial(likely, recipe.batch, generator=rng)]
        # Nobody stands on his head here: what is no face is none in any position, which makes many of few.
        others = others.flip(2) if torch.rand((), generator=rng) < 0.5 else others
        others = others.transpose(2, 3) if torch.rand((), generator=rng) < 0.5 else others
        chosen = face_patches[torch.randint(len(face_patches), (recipe.batch,), generator=rng)]
        x, eyes = jittered(torch.cat([chosen, others]), recipe, rng)
        places, logits = network(spoilt(x, rng))
        distance = (eyes[:, 1] - eyes[:, 0]).norm(dim=1)[: recipe.batch, None, None]
        away = (places - eyes)[: recipe.batch] / distance
        loss_eyes = F.smooth_l1_loss(away, torch.zeros_like(away), beta=0.05)
        loss_face = F.binary_cross_entropy_with_logits(logits, is_face)
        optimiser.zero_grad(set_to_none=True)
        (loss_eyes + 0.2 * loss_face).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        sums += [float(loss_eyes.detach()), float(loss_face.detach())]
        if step % 250 == 0:
            means, sums = sums / 250, np.zeros(2)
            line = {"step": step, "seconds": time.monotonic() - began, "loss_eyes": means[0], "loss_face": means[1]}
            print(json.dumps({key: round(value, 4) for key, value in line.items()}), flush=True)


def marked(portraits: Path) -> dict[str, Tensor]:
    """Pupils [2, 2] that a person marked, by file name: the neutral half of the London set."""
    files = sorted((portraits / "landmarks").glob("*.json"))
    return {f"{file.stem}.jpg": torch.tensor(json.loads(file.read_text())[:2]) for file in files}


def off(face: Face, eyes: Tensor) -> float:
    """How far the eyes of a face are from the known ones [2, 2] on average, over the distance of the known ones."""
    return float((torch.tensor(face.eyes) - eyes).norm(dim=1).mean() / (eyes[1] - eyes[0]).norm())


def measure(portraits: Path, others: list[Path], out: Path) -> Iterator[dict[str, Any]]:
    """Lines of figures of what `find_faces` finds; writes all faces of the portraits to `found.csv` in `out`."""
    known, pupils = labels(), marked(portraits)
    errors: dict[str, list[float]] = {}
    counts: dict[str, list[int]] = {}
    with (out / "found.csv").open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["file", "faces", "score", "left_x", "left_y", "right_x", "right_y", "off"])
        for file, eyes in known.items():
            found = find_faces(np.asarray(Image.open(portraits / "original" / file).convert("RGB")))
            right = [face for face in found if off(face, eyes) < 0.5]
            source = file.split("_")[0]
            for group in [source, "all"] + ["held out"] * held_out(file):
                counts.setdefault(group, []).append(len(found) - len(right) if right else -1)
                errors.setdefault(group, []).extend(off(face, eyes) for face in right[:1])
            if right and file in pupils:
                errors.setdefault("marked by a person", []).append(off(right[0], pupils[file]))
            best = right[0] if right else None
            numbers = [x for eye in best.eyes for x in eye] + [off(best, eyes)] if best else []
            table.writerow([file, len(found), f"{best.score:.3f}" if best else ""] + [f"{x:.3f}" for x in numbers])
    for group, values in errors.items():
        mean, above = np.mean(values), np.mean(np.array(values) > 0.1)
        line: dict[str, Any] = {"portraits": group, "mean": round(float(mean), 4), "above_0.1": round(float(above), 4)}
        if group in counts:
            extra = np.array(counts[group])
            share = round(float((extra >= 0).mean()), 4)
            line |= {"pictures": len(extra), "found": share, "other_faces": int(extra.clip(0).sum())}
        yield line
    for folder in others:
        files = sorted(folder.rglob("*.jpg"))
        files = files[:: max(1, len(files) // 200)][:200]
        began = time.process_time()
        alarms = sum(len(find_faces(np.asarray(Image.open(file).convert("RGB")))) for file in files)
        seconds = round((time.process_time() - began) / len(files), 3)
        yield {"others": folder.name, "pictures": len(files), "faces": alarms, "seconds_each": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True, help="folder with `original` and `landmarks`")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="folders of pictures without faces")
    parser.add_argument("--out", type=Path, required=True, help="folder for eyes.safetensors")
    parser.add_argument("--measure", action="store_true", help="do not train: measure the network that is shipped")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.measure:
        for line in measure(args.portraits, args.others, args.out):
            print(json.dumps(line), flush=True)
        return
    recipe = Recipe()
    rng = np.random.RandomState(recipe.seed)
    network = train(faces(args.portraits), others(args.portraits, args.others, rng), recipe)
    tensors = {key: t.half() if t.dim() > 1 else t for key, t in network.state_dict().items()}
    facts = {"family": "eyes", "steps": recipe.steps, "seed": recipe.seed}
    save(args.out / "eyes.safetensors", {"G": Network("Eyes", network.config, tensors)}, facts)


if __name__ == "__main__":
    main()
