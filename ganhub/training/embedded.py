"""Makes the checkpoints that ship inside the package again, from the data.

    python -m ganhub.training.embedded --data FOLDER [--runs runs] [--only dcgan-fruit-64] [--images N]

FOLDER holds the watercolours (`images/` and `labels.csv`); the digits come with scikit-learn. Each training goes on
from its state in `--runs` where there is one. Then the file in `ganhub/embedded`, the sheet of samples in `docs/models`
and the fields of its row (printed) are written.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ganhub import checkpoint, imaging, models
from ganhub.training import dcgan, mlp_gan
from ganhub.training.loop import draw, grid

PACKAGE = Path(__file__).parent.parent
CARDS = PACKAGE.parent / "docs" / "models"


@dataclass(frozen=True)
class Shipped:
    """One checkpoint of the package: how it is trained, and for how many pictures."""

    train: Callable[[Path, Path, int], nn.Module]
    images: int


SHIPPED = {
    "mlp-gan-digits": Shipped(
        lambda data, out, images: mlp_gan.train(out, mlp_gan.Recipe(), images=images, resume=True), 4_000_000
    ),
    "dcgan-fruit-64": Shipped(
        lambda data, out, images: dcgan.train(data, out, dcgan.Recipe(), images=images, resume=True), 1_000_000
    ),
}


def golden(G: nn.Module) -> list[list[int]]:
    """The picture of seed 0 as the mean colours of 4x4 cells."""
    return imaging.cells(draw(G, range(1))[0].numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the watercolours")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings keep their states")
    parser.add_argument("--only", choices=SHIPPED, help="one of the checkpoints")
    parser.add_argument("--images", type=int, help="real pictures to show to D, in place of each recipe's number")
    args = parser.parse_args()
    for name, shipped in SHIPPED.items():
        if args.only in (None, name):
            out = args.runs / name
            shipped.train(args.data, out, args.images or shipped.images)
            file = PACKAGE / "embedded" / f"{name}.safetensors"
            shutil.copyfile(out / "G.safetensors", file)
            G = models.read(checkpoint.read(file))  # as the hub will: halves and all
            CARDS.mkdir(parents=True, exist_ok=True)
            grid(G, 8, 8).quantize(256).save(CARDS / f"{name}.png", optimize=True)
            data = file.read_bytes()
            print(f"- id: {name}\n  sha256: {hashlib.sha256(data).hexdigest()}\n  bytes: {len(data)}")
            print(f"  golden: {{seed: 0, cells: {golden(G)}}}")


if __name__ == "__main__":
    main()
