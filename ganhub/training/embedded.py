"""Makes the checkpoints that ship inside the package again, from prepared sets.

    ganhub data prepare POMOLOGICAL --out DIR/fruit.zip --crop page --smallest 42 --label fruit
    ganhub data prepare PORTRAITS/original --out DIR/portraits.zip --crop face --smallest 38 \\
        --labels PORTRAITS/labels.csv
    ganhub data prepare PORTRAITS/original --out DIR/portraits-aging.zip --crop face --margin 3.6 --size 128 \\
        --smallest 96 --labels PORTRAITS/labels.csv
    ganhub data caption DIR/fruit.zip --out DIR/fruit.captions.csv
    cp CC0PHOTOS/*.jpg FLOWERS/images/*.jpg DIR/photos
    python -m ganhub.training.embedded --data DIR [--runs runs] [--only dcgan-fruit-64] [--kimg N] [--device cuda]

POMOLOGICAL and PORTRAITS are folders of pictures with their `labels.csv`, DIR/photos is one of photographs; the digits
come with scikit-learn. Each training goes on from its state in `--runs` where there is one. Then the file in
`ganhub/embedded`, the sheet of samples in `docs/models` and the fields of its row (printed) are written. `eyes` is
trained on whole pictures, since `--crop face` needs it: it wants `--portraits` and `--others`, and is passed over
without them.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from ganhub import checkpoint, imaging, models
from ganhub.data.dataset import PictureSet, write_set
from ganhub.errors import BadInput, GanHubError, TrainingError
from ganhub.metrics import snapshots
from ganhub.training import (
    aging,
    attributes,
    char_cnn_rnn,
    clip,
    dcgan,
    features,
    loop,
    mlp_gan,
    srgan,
    stackgan,
    stylegan2,
)
from ganhub.training.workers import Workers

PACKAGE = Path(__file__).parent.parent
CARDS = PACKAGE.parent / "docs" / "models"
PSI = 0.7
"""Truncation of the sheets of networks that have one; their golden pictures are not truncated."""

MEASURED = 2000
"""Pictures that are drawn and measured at every snapshot."""


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    data: Path
    runs: Path
    kimg: float | None = None
    device: str | None = None
    portraits: Path | None = None
    others: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """One training: its recipe, settings that differ from the defaults, and the set (None: the recipe's own)."""

    recipe: ModuleType
    kimg: float
    data: str | None = None
    size: int | None = None  # halve the pictures down to this
    settings: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    """Its run folder, where another checkpoint has the same stage."""


def gan(*stages: Stage) -> Callable[[Given, Path], Path]:
    """Trainings of which each starts from the weights of the one before."""

    def make(given: Given, out: Path) -> Path:
        origin: Path | None = None
        for stage in stages:
            last = stage is stages[-1]
            folder = out if last else out.with_name(stage.run or f"{out.name}-{stage.size}")
            settings = stage.recipe.Settings(**stage.settings)
            data = _set(stage, given, settings)
            trainer = stage.recipe.Trainer(settings, data, Workers(given.device))
            measure = getattr(trainer, "measure", None) or snapshots.measure(data, MEASURED, folder / "nearest.png")
            if origin and not (folder / "state.pt").exists():
                trainer.transfer(origin)
            images = round((given.kimg if last and given.kimg else stage.kimg) * 1000)
            loop.train(
                trainer,
                folder,
                images=images,
                snap=max(images // 10, 1),  # the last one is of the end
                data=data,
                resume=True,
                origin=str(origin) if origin else None,
                measure=measure,
            )
            if trainer.seen < images:
                raise TrainingError(f"{folder} was stopped; the same command goes on from there.")
            origin = max(folder.glob("snapshot-*.safetensors"))
        return out / "G.safetensors"

    return make


def small_features(given: Given, out: Path) -> Path:
    fruit, portraits = (PictureSet(given.data / f"{name}.zip") for name in ("fruit", "portraits"))
    features.train(fruit, portraits, out, features.Recipe(), steps=6000)
    return out / "G.safetensors"


def portrait_attributes(given: Given, out: Path) -> Path:
    data = PictureSet(given.data / "portraits.zip")
    answers = attributes.portraits(data, CARDS / "portraits-marks.csv")
    attributes.train(data, *answers, attributes.PORTRAITS, attributes.Recipe(), out)
    return out / "G.safetensors"


def fruit_attributes(given: Given, out: Path) -> Path:
    data = PictureSet(given.data / "fruit.zip")
    attributes.train(data, *attributes.fruit(data), attributes.FRUIT, attributes.Recipe(), out)
    return out / "G.safetensors"


def eyes(given: Given, out: Path) -> Path:
    from ganhub.training import eyes as recipe

    if given.portraits is None or not given.others:
        raise BadInput("eyes is trained on whole pictures: name their folders with --portraits and --others.")
    settings = recipe.Recipe()
    rng = np.random.RandomState(settings.seed)
    patches = recipe.faces(given.portraits), recipe.others(given.portraits, given.others, rng)
    out.mkdir(parents=True, exist_ok=True)
    network = recipe.train(*patches, settings)
    loop.ship(network, "eyes", out / "G.safetensors", steps=settings.steps, seed=settings.seed)
    return out / "G.safetensors"


BALANCED = {"mirror": True, "balance": True, "fewest": 60}  # half of the fruit are apples
PHOTOS = {"shrink": 0.7}
WORDS = {"dim": 256, "width": 256, "batch": 64, "mirror": True}
KINDS = {"fewest": 60, "kinds": 0.3, "recolour": 0.5}
LIGHT = {"preset": "light", "mirror": True}
SHIPPED: dict[str, Callable[[Given, Path], Path]] = {
    "mlp-gan-digits": gan(Stage(mlp_gan, 4000)),
    "dcgan-fruit-64": gan(
        Stage(
            dcgan,
            1000,
            "fruit",
            settings={
                **BALANCED,
                "loss": "hinge",
                "spectral": True,
                "aug": "ada",
                "ndf": 48,
                "batch": 32,
                "lr_d": 4e-4,
            },
        )
    ),
    "stylegan2-fruit": gan(
        Stage(stylegan2, 90, "fruit", 32, {**LIGHT, **BALANCED}),
        Stage(stylegan2, 1000, "fruit", settings={**LIGHT, **BALANCED}),
    ),
    "stylegan2-portraits": gan(
        Stage(stylegan2, 120, "portraits", 32, LIGHT),
        Stage(stylegan2, 1000, "portraits", settings=LIGHT),
    ),
    "srresnet-x4": gan(Stage(srgan, 120, "photos", settings={**PHOTOS, "pretrain": 400.0})),
    "srgan-x4": gan(
        Stage(srgan, 120, "photos", settings={**PHOTOS, "pretrain": 400.0}, run="srresnet-x4"),
        Stage(srgan, 64, "photos", settings={**PHOTOS, "pretrain": 0.0}),
    ),
    "clip-fruit": gan(
        Stage(clip, 60, "fruit.zip", settings={"robust": 0.0}, run="clip-fruit-plain"),
        Stage(clip, 120, "fruit.zip"),
    ),
    "char-cnn-rnn-fruit": gan(
        Stage(char_cnn_rnn, 168, "fruit.zip", settings=WORDS, run="char-cnn-rnn-fruit-plain"),
        Stage(
            char_cnn_rnn, 100, "fruit.zip", settings={**WORDS, **KINDS, "balance": 1.0}, run="char-cnn-rnn-fruit-kinds"
        ),
        Stage(char_cnn_rnn, 60, "fruit.zip", settings={**WORDS, **KINDS, "balance": 0.5, "lr": 1e-4}),
    ),
    "stackgan-fruit": gan(
        Stage(
            stackgan,
            500,
            "fruit.zip",
            settings={
                **BALANCED,
                "encoder": "char-cnn-rnn-fruit",
                "balance": 1.0,
                "matcher": "clip-fruit",
                "match": 5.0,
                "recolour": 0.7,
                "kinds": 0.5,
                "seek": 1.0,
                "batch": 32,
                "ema": 0.998,
                "z_dim": 64,
                "code_dim": 64,
                "ndf": 32,
                "residuals": 1,
                "kl": 1.5,
                "aug": "ada",
                "augpipe": "bg",
                "p": 0.3,
                "target": 0.95,
            },
        )
    ),
    "aging-portraits": gan(Stage(aging, 60, "portraits-aging")),
    "features-small": small_features,
    "attributes-portraits": portrait_attributes,
    "attributes-fruit": fruit_attributes,
    "eyes": eyes,
}


def _set(stage: Stage, given: Given, settings: Any) -> Any:
    if stage.data is None:
        return stage.recipe.own_data()
    if hasattr(stage.recipe, "open_data"):
        return stage.recipe.open_data(given.data / stage.data, settings)
    data = PictureSet(given.data / f"{stage.data}.zip")
    return data if stage.size in (None, data.size[0]) else halved(data, stage.size, given.runs / "sets")


def halved(data: PictureSet, size: int, folder: Path) -> PictureSet:
    """A set at a half, a quarter, ... of its size, each pixel the mean of those that it stands for.

    Raises:
        BadInput: the size does not go into the set's.
    """
    factor, rest = divmod(data.size[0], size)
    if rest:
        raise BadInput(f"Pictures of {data.size[0]} pixels cannot be halved to {size}.")
    file = folder / f"{data.name}-{size}.zip"
    small = (np.asarray(imaging.to_pil(data.picture(i)).reduce(factor)) for i in range(len(data)))
    write_set(
        file,
        (picture.reshape(*picture.shape[:2], -1) for picture in small),
        names=data.names,
        labels=None if data.labels is None else data.labels.tolist(),
        classes=data.classes,
        rows=data.rows,
        license=data.license,
        credit=data.credit,
        source=data.source,
        settings={**data.settings, "size": size},
    )
    return PictureSet(file)


def golden(G: Any) -> list[list[int]]:
    """The picture of seed 0 as the mean colours of cells; of a network that enlarges, enlarged noise of seed 0."""
    if not hasattr(G, "scale"):
        return imaging.cells(loop.draw(G, range(1))[0].numpy())
    noise = torch.from_numpy(np.random.RandomState(0).rand(1, G.img_channels, 6, 6)).float()
    with torch.no_grad():
        large = G(noise)[0].clamp(0, 1).mul(255).round().byte()
    return imaging.cells(large.permute(1, 2, 0).numpy(), 6)


def sheet(G: Any) -> Image.Image:
    """Seeds 0 to 63."""
    how: dict[str, Any] = {"psi": PSI} if G.w_dim else {}
    return loop.grid(G, 8, 8, **how).quantize(256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of fruit.zip, portraits.zip and photos")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings keep their states")
    parser.add_argument("--only", choices=SHIPPED, help="one of the checkpoints")
    parser.add_argument("--kimg", type=float, help="thousand pictures to show to D, in place of each recipe's number")
    parser.add_argument("--device", help="cuda, mps or cpu; the best one present by default")
    parser.add_argument("--portraits", type=Path, help="for eyes: folder with `original`")
    parser.add_argument(
        "--others", type=Path, nargs="+", default=[], help="for eyes: folders of pictures without faces"
    )
    args = parser.parse_args()
    given = Given(**{name: value for name, value in vars(args).items() if name != "only"})
    for name, make in SHIPPED.items():
        if args.only == name or (args.only is None and (name != "eyes" or args.portraits)):
            made = make(given, args.runs / name)
            file = PACKAGE / "embedded" / f"{name}.safetensors"
            shutil.copyfile(made, file)
            data = file.read_bytes()
            print(f"- id: {name}\n  sha256: {hashlib.sha256(data).hexdigest()}\n  bytes: {len(data)}")
            G: Any = models.read(checkpoint.read(file))  # as the hub will: halves and all
            if hasattr(G, "scale"):
                Image.open(args.runs / name / "grid.png").save(CARDS / f"{name}.jpg", quality=88)
                print(f"  golden: {{seed: 0, cells: {golden(G)}}}")
            if hasattr(G, "stages") and G.text_dim:
                Image.open(args.runs / name / "grid.png").save(CARDS / f"{name}.png", optimize=True)
            elif hasattr(G, "z_dim"):
                CARDS.mkdir(parents=True, exist_ok=True)
                sheet(G).save(CARDS / f"{name}.png", optimize=True)
                print(f"  golden: {{seed: 0, cells: {golden(G)}}}")


if __name__ == "__main__":
    try:
        main()
    except GanHubError as error:
        sys.exit(error.message)
