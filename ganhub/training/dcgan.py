"""Trains a DCGAN (Radford et al., 2015) on a folder of pictures, on a CPU, in an afternoon.

    python -m ganhub.training.dcgan --data FOLDER --out runs/dcgan [--resume]

The generator is the plain one of the paper. What makes it work on some ten thousand pictures is around it: spectral
normalisation and the hinge loss (Miyato et al., 2018), differentiable augmentation (Zhao et al., 2020) as far as it
is needed, a running average of the generator's weights, and balanced labels.
"""

from __future__ import annotations

import argparse
import copy
import csv
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ganhub.data.pages import subjects
from ganhub.errors import BadInput
from ganhub.models import dcgan
from ganhub.training.loop import Clock, Run, lerp, publish


@dataclass(frozen=True)
class Recipe:
    size: int = 64
    z_dim: int = 100
    ngf: int = 64
    ndf: int = 48
    batch: int = 32
    lr_g: float = 2e-4
    lr_d: float = 4e-4
    beta1: float = 0.5
    ema: float = 0.999
    fewest: int = 60  # pictures of a kind; rarer kinds, together half of the draws, come out as blots
    seed: int = 0


def generator(recipe: Recipe) -> nn.Module:
    widths = [recipe.ngf * 2**k for k in reversed(range(int(np.log2(recipe.size)) - 2))]
    return dcgan.build("G", dcgan.plain(recipe.z_dim, widths, 3))


def discriminator(recipe: Recipe) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, recipe.ndf, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    width = recipe.ndf
    for _ in range(int(np.log2(recipe.size)) - 3):
        layers += [nn.Conv2d(width, width * 2, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        width *= 2
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
            spectral_norm(layer)
    # The last layer is free: bounded as well, D stays inside the margin of its loss and learns slowly.
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4))


def augment(x: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Random brightness, saturation, contrast and shift for a share of the pictures; gradients flow through.

    x [N, 3, H, W] in [-1, 1].
    """
    if share == 0:
        return x
    n, _, height, width = x.shape
    chosen = (torch.rand(3, n, 1, 1, 1, generator=rng) < share).float()
    brightness, saturation, contrast = (torch.rand(3, n, 1, 1, 1, generator=rng) - 0.5) * chosen
    x = x + brightness * 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (1 + saturation)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * (1 + contrast * 0.5)
    reach = height // 8
    shift = torch.randint(-reach, reach + 1, (2, n, 1), generator=rng)
    dy, dx = shift * (torch.rand(1, n, 1, generator=rng) < share)
    rows = (torch.arange(height) + dy + reach)[:, None, :, None]
    columns = (torch.arange(width) + dx + reach)[:, None, None, :]
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    return padded[torch.arange(n)[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns]


def pack(folder: Path, size: int, cut: str) -> tuple[np.ndarray, list[str]]:
    """All pictures of a folder at one size, with their labels.

    Args:
        folder: has `labels.csv` (column `file`, then the label) and the pictures, in `images/` or beside it.
        size: side in pixels.
        cut: `page` takes every painted subject off its page, `centre` the middle square.

    Returns:
        uint8 [N, size, size, 3] and N labels.

    Raises:
        BadInput: the folder has no such list, or no picture.
    """
    listing = folder / "labels.csv"
    if not listing.exists():
        raise BadInput(f"{folder} has no labels.csv; it needs the columns 'file' and a label.")
    pictures, labels = [], []
    with listing.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)
        next(rows)
        for file, label, *_ in rows:
            path = folder / "images" / file
            page = np.asarray(Image.open(path if path.exists() else folder / file).convert("RGB"))
            for square in subjects(page) if cut == "page" else [_centre(page)]:
                pictures.append(np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)))
                labels.append(label)
    if not pictures:
        raise BadInput(f"{folder} gave no picture to train on.")
    return np.stack(pictures), labels


def _centre(page: np.ndarray) -> np.ndarray:
    side = min(page.shape[:2])
    top, left = (page.shape[0] - side) // 2, (page.shape[1] - side) // 2
    return page[top : top + side, left : left + side]


class Trainer:
    """Everything that a checkpoint of the training holds, and one step."""

    def __init__(self, recipe: Recipe, pictures: np.ndarray, labels: list[str]):
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.G = generator(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.D = discriminator(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=recipe.lr_g, betas=(recipe.beta1, 0.999))
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=recipe.lr_d, betas=(recipe.beta1, 0.999))
        self.seen = 0
        self.share = 0.0  # of pictures that are augmented
        self.pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        # Half of the set may be of one kind: draw each kind by the square root of its share, rare ones not at all.
        kinds, kind, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.weights = torch.from_numpy(counts[kind] ** -0.5 * (counts[kind] >= recipe.fewest))
        if not self.weights.any():
            raise BadInput(f"No label has the {recipe.fewest} pictures that the recipe asks for.")

    def z(self, n: int) -> Tensor:
        return torch.randn(n, self.recipe.z_dim, generator=self.rng)

    def real(self, n: int) -> Tensor:
        index = torch.multinomial(self.weights, n, replacement=True, generator=self.rng)
        x = self.pictures[index].float() / 127.5 - 1
        mirror = torch.rand(n, 1, 1, 1, generator=self.rng) < 0.5
        return torch.where(mirror, x.flip(3), x)

    def step(self) -> tuple[float, float]:
        """One step of D and one of G; returns their losses."""
        n = self.recipe.batch
        # The matrix products in bfloat16 are twice as fast on a CPU; weights and losses stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            fake = self.G(self.z(n)).float()
            both = torch.cat([self.real(n), fake.detach()])
            both = augment(both, self.share, self.rng)
            real_score, fake_score = self.D(both.contiguous(memory_format=torch.channels_last)).float().chunk(2)
        loss_d = F.relu(1 - real_score).mean() + F.relu(1 + fake_score).mean()
        self.opt_d.zero_grad(set_to_none=True)
        loss_d.backward()
        self.opt_d.step()
        # As in Karras et al. (2020): augment more once D is sure of more than four fifths of the real pictures.
        sure = float(real_score.detach().sign().mean())
        self.share = min(max(self.share + (n if sure > 0.6 else -n) / 100_000, 0.0), 0.8)

        self.D.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            score = self.D(augment(fake, self.share, self.rng).contiguous(memory_format=torch.channels_last)).float()
        loss_g = -score.mean()
        self.opt_g.zero_grad(set_to_none=True)
        loss_g.backward()
        self.opt_g.step()
        self.D.requires_grad_(True)

        self.seen += n
        lerp(self.average, self.G, self.seen // n, self.recipe.ema)
        return float(loss_d.detach()), float(loss_g.detach())

    @torch.no_grad()
    def averaged(self, batches: int = 40) -> nn.Module:
        """The averaged generator, its BatchNorm statistics measured anew: those of the training lag behind it."""
        G = copy.deepcopy(self.average)
        for layer in G.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # a plain mean over the batches
        rng = torch.Generator().manual_seed(self.recipe.seed)
        G.train()
        for _ in range(batches):
            G(torch.randn(64, self.recipe.z_dim, generator=rng))
        return G.eval()

    def state(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in ("G", "D", "average", "opt_g", "opt_d")}
        return {**parts, "rng": self.rng.get_state(), "seen": self.seen, "share": self.share,
                "recipe": asdict(self.recipe)}  # fmt: skip

    def load(self, state: dict) -> None:
        for name in ("G", "D", "average", "opt_g", "opt_d"):
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        self.seen, self.share = state["seen"], state["share"]


def packed(data: Path, out: Path, recipe: Recipe, cut: str) -> tuple[np.ndarray, list[str]]:
    """The packed set of `out`, made from `data` where it is not there yet."""
    file = out / "pictures.npz"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        pictures, labels = pack(data, recipe.size, cut)
        np.savez(file, pictures=pictures, labels=np.array(labels))
    with np.load(file) as saved:
        return saved["pictures"], list(saved["labels"])


def train(data: Path, out: Path, recipe: Recipe, *, images: int, cut: str = "page", resume: bool = False) -> nn.Module:
    """Trains until D saw `images` real pictures, or until it is asked to stop; returns the averaged generator.

    Writes `pictures.npz` (the packed set), `state.pt`, `log.jsonl`, `grid-N.png` and `G.safetensors` into `out`.
    """
    torch.set_flush_denormal(True)
    trainer = Trainer(recipe, *packed(data, out, recipe, cut))
    with Run(out) as run:
        state = run.saved() if resume else None
        clock = Clock(state["seconds"] if state else 0.0)
        if state:
            trainer.load(state)
        every, losses, steps = max(1, 6400 // recipe.batch), [], 0
        while trainer.seen < images and not run.stopping:
            losses.append(trainer.step())
            steps += 1
            if len(losses) == every:
                speed = every * recipe.batch / clock.lap()
                loss_d, loss_g = np.mean(losses, axis=0)
                run.log(seen=trainer.seen, seconds=clock.seconds, per_second=speed, loss_d=loss_d, loss_g=loss_g,
                        share=trainer.share)  # fmt: skip
                losses = []
                if steps % (4 * every) == 0:
                    run.save({**trainer.state(), "seconds": clock.seconds})
                    run.grid(trainer.averaged(batches=10), f"grid-{trainer.seen:08d}.png")
        clock.lap()
        run.save({**trainer.state(), "seconds": clock.seconds})
        G = trainer.averaged()
        publish(G, "dcgan", out / "G.safetensors", seen=trainer.seen, seed=recipe.seed)
    return G


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log, grids and the generator")
    parser.add_argument("--images", type=int, default=1_000_000, help="real pictures shown to D (default: %(default)s)")
    parser.add_argument("--cut", choices=("page", "centre"), default="page", help="what is taken of each picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    args = parser.parse_args()
    train(args.data, args.out, Recipe(seed=args.seed), images=args.images, cut=args.cut, resume=args.resume)


if __name__ == "__main__":
    main()
