"""What the small recipes share: a generator and a discriminator that take turns, and all that a state of them holds.

One step is one of D and one of G, as in "Generative Adversarial Networks" (Goodfellow et al., 2014, arXiv:1406.2661);
D may see augmented pictures, as far as adaptive augmentation (Karras et al., 2020, arXiv:2006.06676) finds it needful.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub import checkpoint, models
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.training.augment import Augment
from ganhub.training.loop import lerp
from ganhub.training.options import option
from ganhub.training.reals import Reals
from ganhub.training.workers import Workers

ADA_KIMG = 100.0
"""Thousand pictures in which the augmentation probability may go from 0 to 1."""


@dataclass(frozen=True)
class Shared:
    """Settings that mean the same in all small recipes."""

    ema: float = option(0.999, "share of the average of G's weights that a step keeps")
    mirror: bool = option(False, "show half of the real pictures mirrored")
    balance: bool = option(False, "draw every class by the square root of its size")
    fewest: int = option(1, "leave out classes with fewer pictures")
    aug: str = option("noaug", "ada: what D sees is augmented, as far as needed; or noaug")
    augpipe: str = option("bgc", "which augmentations: blit, geom, color, filter, noise, cutout, bg, bgc, ..., bgcfnc")
    target: float = option(0.6, "ada keeps the mean sign of D on real pictures here")
    seed: int = option(0, "of weights and draws")


def loss_of_d(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """What D loses with its scores of real and generated pictures, which know no bounds."""
    if name == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    # log(1 + exp(-x)) is the binary cross-entropy of a sigmoid that is not written out.
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def loss_of_g(name: str, fake: Tensor) -> Tensor:
    """What G loses with D's scores of its pictures."""
    return -fake.mean() if name == "hinge" else F.softplus(-fake).mean()


class Pair:
    """A `Trainer` but for its networks.

    Args:
        settings: has `batch`, `lr_g`, `lr_d`, `beta1`, `beta2`, `ema`, `loss`, `mirror`, `balance`, `fewest`,
            `aug`, `augpipe`, `target`, `precision`, `seed`.
        data: squares.
        workers: the processes.
        G, D: with a `config`; the same in every process.

    Raises:
        BadInput: settings that do not go together, or that the set does not fit.
    """

    recipe = family = ""

    def __init__(self, settings: Any, data: PictureSet, workers: Workers | None, G: Any, D: Any):
        self.settings = s = settings
        self.workers = workers or Workers()
        device = self.workers.device
        if s.loss not in ("bce", "hinge"):
            raise BadInput(f"--loss is '{s.loss}'; choose bce or hinge.")
        if s.aug not in ("ada", "noaug"):
            raise BadInput(f"--aug is '{s.aug}'; choose ada or noaug.")
        if s.batch < 1 or s.batch % self.workers.count:
            raise BadInput(f"A batch of {s.batch} cannot be split over {self.workers.count} processes.")
        self.dtype = autocast(s.precision, device)
        self.G = G.to(device, memory_format=torch.channels_last).train()
        self.D = D.to(device, memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        betas = (s.beta1, s.beta2)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=s.lr_g, betas=betas, fused=True)
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=s.lr_d, betas=betas, fused=True)
        self.reals = Reals(data, s.mirror, s.balance, s.fewest, device)
        self.augment = Augment(s.augpipe).to(device) if s.aug == "ada" else None
        self.seen = 0
        self._sow(s.seed * self.workers.count + self.workers.rank)

    def _sow(self, seed: int) -> None:
        torch.manual_seed(seed)  # augmentation and dropout
        self.rng = torch.Generator().manual_seed(seed)

    def real(self, n: int) -> Tensor:
        return self.reals(n, self.rng)[0]

    def z(self, n: int) -> Tensor:
        return torch.randn(n, self.G.z_dim, generator=self.rng).to(self.workers.device)

    def shown(self, images: Tensor) -> Tensor:
        """What D sees of pictures."""
        return images if self.augment is None else self.augment(images)

    def step(self) -> dict[str, Tensor]:
        s, n = self.settings, self.settings.batch // self.workers.count
        with self.autocast():
            fake = self.G(self.z(n)).float()
        real, drawn = self.shown(torch.cat([self.real(n), fake.detach()])).chunk(2)
        with self.autocast():
            real_score, fake_score = self.D(real).float(), self.D(drawn).float()
        loss_d = loss_of_d(s.loss, real_score, fake_score)
        self._descend(self.D, self.opt_d, loss_d)

        self.D.requires_grad_(False)
        drawn = self.shown(fake)
        with self.autocast():
            score = self.D(drawn).float()
        loss_g = loss_of_g(s.loss, score)
        self._descend(self.G, self.opt_g, loss_g)
        self.D.requires_grad_(True)

        self.seen += s.batch
        lerp(self.average, self.G, self.seen // s.batch, s.ema)
        sign_real, sign_fake = real_score.detach().sign().mean(), fake_score.detach().sign().mean()
        figures = {"loss_d": loss_d, "loss_g": loss_g, "sign_real": sign_real, "sign_fake": sign_fake}
        if self.augment is not None:
            surer = torch.sign(self.workers.mean(sign_real) - s.target)
            self.augment.p.add_(surer * s.batch / (ADA_KIMG * 1000)).clamp_(0, 1)
            figures["p"] = self.augment.p.clone()
        return figures

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.workers.device.type, self.dtype, enabled=self.dtype is not None)

    def _descend(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(network.parameters())
        optimizer.step()

    @torch.no_grad()
    def averaged(self, batches: int = 40) -> Any:
        """The averaged generator, its BatchNorm statistics measured anew: those of the training lag behind it."""
        G = copy.deepcopy(self.average)
        norms = [layer for layer in G.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
        if norms:
            rng = torch.Generator().manual_seed(self.settings.seed)
            G.train()
            for _ in range(batches):
                G(torch.randn(64, G.z_dim, generator=rng).to(self.workers.device))
        return G.eval()

    def networks(self) -> dict[str, nn.Module]:
        return {"G_train": self.G, "D": self.D}

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("G", "D", "average", "opt_g", "opt_d")}
        p = None if self.augment is None else self.augment.p
        return {**parts, "seen": self.seen, "p": p, "rng": self.rng.get_state(), "torch_rng": torch.get_rng_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("G", "D", "average", "opt_g", "opt_d"):
            getattr(self, name).load_state_dict(state[name])
        self.seen = state["seen"]
        if self.augment is not None and state["p"] is not None:
            self.augment.p.copy_(state["p"])
        if self.workers.first:  # the state is that of the first process; the others go on with draws of their own
            self.rng.set_state(state["rng"])
            torch.set_rng_state(state["torch_rng"])
        else:
            self._sow(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over every tensor of a checkpoint that has the same name and shape here.

        Returns:
            what came over, in words, by network.

        Raises:
            CheckpointError: the file cannot be read.
            BadInput: it is of another family, or nothing in it fits.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != self.family:
            raise BadInput(f"{file} is of the family '{family}'; --resume takes one of '{self.family}' here.")
        source = models.read(raw, family, "G").state_dict()
        taken = {"G": _take(self.G, source), "average": _take(self.average, source)}
        if "D" in raw.networks:
            taken["D"] = _take(self.D, models.read(raw, family, "D").state_dict())
        if not any(value.dim() > 1 for value in taken["G"]):
            raise BadInput(f"No weights of {file} fit this generator; choose options that give it the same layers.")
        return {
            name: f"{len(values)} of {len(getattr(self, name).state_dict())} tensors" for name, values in taken.items()
        }


def _take(network: nn.Module, source: dict[str, Tensor]) -> list[Tensor]:
    """Copies every tensor that the network has as well, and gives a list of them."""
    own = network.state_dict()
    taken = []
    for name, value in source.items():
        # torch keeps the weight of a normalised layer under a name of its own.
        normalised = f"{name.removesuffix('weight')}parametrizations.weight.original"
        mine = own.get(normalised, own.get(name))
        if mine is not None and mine.shape == value.shape:
            taken.append(mine.copy_(value))
    return taken


def autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of products, None for float32; weights and losses are float32 in any case.

    Raises:
        BadInput: there is no such precision, or not on this device.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise BadInput(f"--precision is '{precision}'; choose auto, float32 or bfloat16.")
    if device.type == "cpu":
        can = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        can = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and can) else None


def side(data: PictureSet, least: int, most: int | None = None) -> int:
    """The side of a set's pictures.

    Raises:
        BadInput: they are no squares of a power of two from `least` to `most` pixels.
    """
    height, width = data.size
    if height != width or height < least or height & (height - 1) or height > (most or height):
        sizes = f"{least}, {2 * least}, {4 * least} ... pixels" + (f" up to {most}" if most else "")
        raise BadInput(f"{data.path} holds pictures of {width}x{height}; this recipe takes squares of {sizes}.")
    return height
