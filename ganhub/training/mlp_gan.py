"""Trains the first kind of GAN (Goodfellow et al., 2014) on handwritten digits, on a CPU, in minutes.

    python -m ganhub.training.mlp_gan --out runs/mlp_gan [--resume]

The networks, the loss and the latent are those of csinva/gan-vae-pretrained-pytorch (64-256-256-784, ReLU, tanh,
binary cross-entropy). Its MNIST is replaced by the 1797 digits that come with scikit-learn (UCI, 8x8 pixels), enlarged
to 28x28, turned, stretched and moved a little, which so small a set needs.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganhub.models import mlp_gan
from ganhub.training.loop import Clock, Run, lerp, publish


@dataclass(frozen=True)
class Recipe:
    z_dim: int = 64
    hidden: int = 256
    batch: int = 128
    lr: float = 2e-4
    ema: float = 0.999
    seed: int = 0


def digits() -> tuple[np.ndarray, np.ndarray]:
    """float32 [1797, 1, 28, 28] in [-1, 1], white on black, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    big = []
    for image in images.reshape(-1, 8, 8) * (255 / 16):
        large = Image.fromarray(image.round().astype(np.uint8)).resize((24, 24), Image.Resampling.BICUBIC)
        big.append(np.pad(np.asarray(large, dtype=np.float32) / 255, 2))
    grey = np.stack(big)[:, None]
    crisp = np.clip((grey - 0.35) / 0.5, 0, 1)  # 8 pixels enlarged are a blur; a pen leaves an edge
    return (crisp * crisp * (3 - 2 * crisp) * 2 - 1).astype(np.float32), labels


def jitter(x: Tensor, rng: torch.Generator) -> Tensor:
    """Each picture [N, 1, H, W] turned by up to 10 degrees, stretched by up to 10 % and moved by up to 2 pixels."""
    n = len(x)
    turn, wide, high, slant, dx, dy = (torch.rand(6, n, generator=rng) * 2 - 1).unbind()
    angle = turn * math.radians(10)
    cos, sin = angle.cos(), angle.sin()
    wide, high, slant = 1 + 0.1 * wide, 1 + 0.1 * high, 0.15 * slant
    reach = 4 / x.shape[-1]
    theta = torch.stack([wide * cos, slant - sin, dx * reach, sin, high * cos, dy * reach], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1  # zero outside is the background


class Trainer:
    """Everything that a state of the training holds, and one step."""

    def __init__(self, recipe: Recipe, pictures: np.ndarray):
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        size = pictures.shape[-1]
        self.G = mlp_gan.build("G", mlp_gan.plain(recipe.z_dim, [recipe.hidden] * 2, 1, size))
        self.D = nn.Sequential(
            nn.Flatten(),
            nn.Linear(size * size, recipe.hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(recipe.hidden, recipe.hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(recipe.hidden, 1),
        )
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=recipe.lr, betas=(0.5, 0.999))
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=recipe.lr, betas=(0.5, 0.999))
        self.pictures = torch.from_numpy(pictures)
        self.seen = 0

    def step(self) -> tuple[float, float]:
        """One step of D and one of G; returns their losses."""
        n = self.recipe.batch
        index = torch.randint(len(self.pictures), (n,), generator=self.rng)
        real = jitter(self.pictures[index], self.rng)
        fake = self.G(torch.randn(n, self.recipe.z_dim, generator=self.rng))
        # log(1 + exp(-x)) is the binary cross-entropy of a sigmoid that is not written out.
        loss_d = F.softplus(-self.D(real)).mean() + F.softplus(self.D(fake.detach())).mean()
        self.opt_d.zero_grad()
        loss_d.backward()
        self.opt_d.step()
        loss_g = F.softplus(-self.D(fake)).mean()
        self.opt_g.zero_grad()
        loss_g.backward()
        self.opt_g.step()
        self.seen += n
        lerp(self.average, self.G, self.seen // n, self.recipe.ema)
        return float(loss_d.detach()), float(loss_g.detach())

    def state(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in ("G", "D", "average", "opt_g", "opt_d")}
        rngs = {"rng": self.rng.get_state(), "dropout_rng": torch.get_rng_state()}
        return {**parts, **rngs, "seen": self.seen, "recipe": asdict(self.recipe)}

    def load(self, state: dict) -> None:
        for name in ("G", "D", "average", "opt_g", "opt_d"):
            getattr(self, name).load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        torch.set_rng_state(state["dropout_rng"])
        self.seen = state["seen"]


def train(out: Path, recipe: Recipe, *, images: int, resume: bool = False) -> nn.Module:
    """Trains until D saw `images` real pictures, or until it is asked to stop; returns the averaged generator.

    Writes `state.pt`, `log.jsonl`, `grid-N.png` and `G.safetensors` into `out`.
    """
    trainer = Trainer(recipe, digits()[0])
    with Run(out) as run:
        state = run.saved() if resume else None
        clock = Clock(state["seconds"] if state else 0.0)
        if state:
            trainer.load(state)
        every, losses = max(1, 256_000 // recipe.batch), []
        while trainer.seen < images and not run.stopping:
            losses.append(trainer.step())
            if len(losses) == every:
                speed = every * recipe.batch / clock.lap()
                loss_d, loss_g = np.mean(losses, axis=0)
                run.log(seen=trainer.seen, seconds=clock.seconds, per_second=speed, loss_d=loss_d, loss_g=loss_g)
                run.save({**trainer.state(), "seconds": clock.seconds})
                run.grid(trainer.average, f"grid-{trainer.seen:08d}.png")
                losses = []
        clock.lap()
        run.save({**trainer.state(), "seconds": clock.seconds})
        G = trainer.average.eval()
        publish(G, "mlp_gan", out / "G.safetensors", seen=trainer.seen, seed=recipe.seed)
    return G


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log, grids and the generator")
    parser.add_argument("--images", type=int, default=4_000_000, help="real pictures shown to D (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    args = parser.parse_args()
    train(args.out, Recipe(seed=args.seed), images=args.images, resume=args.resume)


if __name__ == "__main__":
    main()
