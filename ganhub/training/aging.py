"""Faces made older and younger: one network for each way, as in CycleGAN (Zhu et al., 2017, arXiv:1703.10593).

Nobody is there twice, so nothing says what a young face should become. Four things stand in for it:

- the difference between the mean old and the mean young of those who look like a face (Burt and Perrett, 1995,
  "Perception of age in adult Caucasian male faces"), which also holds on to who it is: in a first phase the networks
  learn to draw faces with it, and later they are held near to it;
- a network that tells ages says whether a face moved by the wanted years, as in Wang et al. (2018, "Face Aging with
  Identity-Preserved Conditional GANs") and Antipov et al. (2017, arXiv:1702.01983). It sees little of fine texture and
  learned from pictures that mislead it, else a pattern of dots would please it best. Nor does it see the mouth: it
  would find ages in smiles;
- discriminators say whether what was made old looks like the old ones (least squares);
- at a weight, and at twice the time of a step: an old face made of a young one becomes the young one again, one of the
  right age stays, and a network that tells people apart sees the same person.

The set is one of `ganhub data prepare --crop face --margin 3.6 --labels ...` whose rows, or names, tell ages. One
person of ten is held out. What is made is judged as it will be seen: pasted back by the soft mask of a face. Young and
old are drawn in pairs of the same source and gender, so that neither backdrop nor clothes nor era stand in for age;
`balance` in `run.json` states it.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ganhub import checkpoint, models
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.metrics.faces import AGES, DIM, FaceNet, faces_of, fit_ages, fit_persons, on, vary, years
from ganhub.models import agingan
from ganhub.models._ageing import DIRECTIONS
from ganhub.training.aging_pairs import Pairs, changes, group_of, mouth
from ganhub.training.loop import lerp
from ganhub.training.options import option
from ganhub.training.pair import autocast, side
from ganhub.training.workers import Workers

KIMG = 200
SNAP = 20
WIDTHS = (32, 64, 128, 192)
"""Of the two networks that guide the training."""
SEEN = 64
"""Side of the pictures in which they look for ages and persons: fine texture is left to D, which no pattern pleases."""


@dataclass(frozen=True)
class Settings:
    ngf: int = option(32, "channels of G's first layer")
    blocks: int = option(9, "residual blocks of G")
    norm: str = option("batch", "normalisation in G: batch or instance")
    ndf: int = option(32, "channels of D's first layer")
    batch: int = option(16, "faces of a step, a half of them young, over all processes")
    young: int = option(45, "years up to which a face is young")
    old: int = option(58, "years from which it is old")
    warm: float = option(48.0, "thousand faces of the first phase; 0 with --resume CHECKPOINT")
    drawn: float = option(1.2, "how much of the difference of means the first phase draws")
    lr_warm: float = option(5e-4, "learning rate of the first phase")
    lr_g: float = option(2e-4, "learning rate of G")
    lr_d: float = option(4e-4, "learning rate of D")
    weight_adversarial: float = option(1.0, "of what D says of young and old faces (least squares)")
    weight_drawn: float = option(3.0, "of the difference to what the first phase draws")
    weight_cycle: float = option(0.0, "of the difference to what comes back")
    weight_same: float = option(0.0, "of the difference to a face that has the wanted age already")
    weight_age: float = option(0.5, "of the years by which a face moves too little or too much, in tens")
    years: float = option(15.0, "that a face should move by, as the network of ages sees it")
    ramp: float = option(1.0, "thousand faces over which that weight grows, while D learns what old faces look like")
    weight_person: float = option(0.0, "of the angle to the direction of the person")
    weight_backdrop: float = option(10.0, "of changes outside of the face")
    guide_steps: int = option(1200, "steps in which each guiding network learns")
    robust: float = option(0.25, "how far the network of ages is misled while it learns")
    strength: float = option(2.0, "of the changes in place and colour to what D sees; 1 is what G sees")
    ema: float = option(0.995, "share of the average of G's weights that a step keeps")
    precision: str = option("auto", "float32 or bfloat16")
    seed: int = option(0, "of weights and draws")


class Patches(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1] -> scores of their patches [N, 2, h, w] (Isola et al., 2017), at their size and
    at half of it (Wang et al., 2018, arXiv:1711.11585); all layers but the last are spectrally normalised."""

    def __init__(self, ndf: int):
        super().__init__()
        self.fine, self.coarse = _patches(ndf), _patches(ndf)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.coarse(F.avg_pool2d(x, 2))
        return torch.cat([fine, F.interpolate(coarse, fine.shape[2:])], 1)


def _patches(ndf: int) -> nn.Sequential:
    widths = (3, ndf, 2 * ndf, 4 * ndf)
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
    layers += [spectral_norm(nn.Conv2d(widths[-1], 8 * ndf, 3, 1, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * ndf, 1, 3, 1, 1))


def pasted(x: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """Faces [N, 3, H, W] with what was made of them inside of their masks [N, 1, H, W], as `imaging.align.paste` shows
    it: without the tint that all of a face gets."""
    change = made - x
    tint = (change * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    return x + mask * (change - tint)


def _apart(made: Tensor, wanted: Tensor) -> Tensor:
    # squares find the mean of what differs from face to face, absolute values keep edges sharp
    return F.l1_loss(made, wanted) + 5 * F.mse_loss(made, wanted)


class Trainer:
    """Everything that a state of the training holds, and one step."""

    recipe, family = "aging", "agingan"

    def __init__(self, settings: Settings, data: PictureSet, workers: Workers | None = None):
        self.settings = s = settings
        self.workers = workers or Workers()
        device = self.workers.device
        if s.norm not in ("batch", "instance"):
            raise BadInput(f"--norm is '{s.norm}'; choose batch or instance.")
        if s.batch < 2 or s.batch % (2 * self.workers.count):
            raise BadInput(
                f"A batch of {s.batch} cannot be split over young and old and {self.workers.count} processes."
            )
        size = side(data, 16)
        self.dtype = autocast(s.precision, device)
        torch.backends.cudnn.benchmark = True
        every = faces_of(data)
        self.margin = data.settings["margin"]
        self.tried = every.where(every.held_out)
        self.faces = on(every.where(~every.held_out), device)
        self.pairs = Pairs(self.faces, s.young, s.old)
        # where only one age is to be seen, a backdrop tells it
        keys = [group_of(one) in self.pairs.groups for one in self.faces.about]
        self.both = torch.tensor(keys).nonzero()[:, 0]
        # old people smile with closed lips more often: no sign of age that anybody wants to be given
        rest = 1 - mouth(size, self.margin)
        self.changes = changes(self.faces, self.pairs.groups) * rest.to(device).half()
        torch.manual_seed(s.seed)
        config = {"ngf": s.ngf, "blocks": s.blocks, "norm": s.norm, "directions": list(DIRECTIONS), "img_size": size}
        G: Any = agingan.build("G", config)
        self.G = G.to(device, memory_format=torch.channels_last).train()
        D = nn.ModuleDict({direction: Patches(s.ndf) for direction in DIRECTIONS})
        self.D: Any = D.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        guide = {"widths": list(WIDTHS), "size": min(SEEN, size), "residual": False}
        self.guides: Any = nn.ModuleDict({
            "ages": FaceNet({**guide, "outputs": len(AGES)}, every.mask * rest),
            "persons": FaceNet({**guide, "outputs": DIM}, every.mask),
        }).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # fmt: skip
        self.guided = False
        betas = (0.5, 0.999)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=s.lr_g, betas=betas, fused=True)
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=s.lr_d, betas=betas, fused=True)
        self.seen = 0
        self.rng = torch.Generator().manual_seed(s.seed * self.workers.count + self.workers.rank)

    def facts(self) -> dict[str, Any]:
        """For `run.json`."""
        people = {"held_out": len(self.tried.ages), "trained_on": len(self.faces.ages)}
        preprocess = {"align": "eyes", "size": self.G.img_size[0], "margin": self.margin}
        return {"faces": people, "balance": self.pairs.balance(), "preprocess": preprocess}

    def draw(self, index: Tensor, *more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Faces [N, 3, H, W] in [-1, 1], their masks [N, 1, H, W], and what else is moved along with them."""
        device = self.workers.device
        index = (index.pin_memory() if device.type == "cuda" else index).to(device, non_blocking=True)
        x = self.faces.pictures[index].float() / 127.5 - 1
        mask = self.faces.mask.expand(len(x), 1, -1, -1)
        x = vary(torch.cat([x, mask, *(one[index].float() for one in more)], 1), self.rng)
        return x[:, :3].clamp(-1, 1).contiguous(memory_format=torch.channels_last), x[:, 3:4], x[:, 4:]

    def guide(self) -> None:
        """Teaches the two networks that guide G."""
        s, ages, persons = self.settings, self.guides["ages"], self.guides["persons"]
        how: dict[str, Any] = {"steps": s.guide_steps, "seed": s.seed, "dtype": self.dtype}
        known = torch.zeros(len(self.faces.ages), dtype=torch.bool)
        known[self.both] = True
        fit_ages(ages, self.faces.where(known.to(self.faces.ages.device)), robust=s.robust, **how)
        fit_persons(persons, self.faces, **how)
        self.guided = True
        with torch.no_grad():
            x = self.tried.pictures.to(self.workers.device).float() / 127.5 - 1
            said = torch.cat([years(ages(part)) for part in x.split(64)]).cpu()
        error = float((said - self.tried.ages).abs().mean())
        print(f"The network of ages errs by {error:.1f} years on people that it does not know.", file=sys.stderr)

    def step(self) -> dict[str, Tensor]:
        s = self.settings
        if not self.guided:
            self.guide()
        n = s.batch // 2 // self.workers.count
        warm = round(s.warm * 1000)
        if self.seen < warm:
            figures = self._first(n)
            self.seen += s.batch
            self.average.load_state_dict(self.G.state_dict())
            return figures
        figures = self._second(n)
        self.seen += s.batch
        lerp(self.average, self.G, (self.seen - warm) // s.batch, s.ema)
        return figures

    def _first(self, n: int) -> dict[str, Tensor]:
        s, device = self.settings, self.workers.device
        index = self.both[torch.randint(len(self.both), (2 * n,), generator=self.rng)]
        x, mask, change = self.draw(index, self.changes)
        # those who have the wanted age stay as they are
        lack = (s.old - self.faces.ages[index.to(device)]) / (s.old - s.young)
        lack = torch.cat([lack[:n].clamp(0, 1), lack[n:].clamp(0, 1) - 1])[:, None, None, None]
        wanted = pasted(x, x + s.drawn * lack * change, mask).clamp(-1, 1)
        with self.autocast():
            made = torch.cat([self.G.model[way](part) for way, part in zip(DIRECTIONS, x.split(n), strict=True)])
        loss = _apart(made.float(), wanted)
        self._descend(self.G, self.opt_g, loss, s.lr_warm)
        return {"loss_draw": loss}

    def _second(self, n: int) -> dict[str, Tensor]:
        """n young faces and n old ones."""
        s = self.settings
        x, mask, change = self.draw(self.pairs(n, self.rng).flatten(), self.changes)
        way = torch.where(torch.arange(2 * n, device=x.device) < n, 1.0, -1.0)
        older, younger = (self.G.model[direction] for direction in DIRECTIONS)
        with self.autocast():
            changed = torch.cat([older(x[:n]), younger(x[n:])]).float()
        fake = pasted(x, changed, mask)
        backdrop = ((1 - mask) * (changed - x)).abs().mean()
        drawn = _apart(fake, pasted(x, x + s.drawn * way[:, None, None, None] * change, mask).clamp(-1, 1))
        cycle = same = x.new_zeros(())
        if s.weight_cycle:
            with self.autocast():
                cycle = F.l1_loss(torch.cat([younger(fake[:n]), older(fake[n:])]).float(), x)
        if s.weight_same:
            with self.autocast():
                same = F.l1_loss(torch.cat([younger(x[:n]), older(x[n:])]).float(), x)

        shown = vary(torch.cat([x, fake.detach()]), self.rng, s.strength)
        with self.autocast():
            # what is old is real for the first and what was made old is not; and the other way round
            old, young = (self.D[direction] for direction in DIRECTIONS)
            scores_old = old(torch.cat([shown[n : 2 * n], shown[2 * n : 3 * n]])).float()
            scores_young = young(torch.cat([shown[:n], shown[3 * n :]])).float()
        real = torch.stack([scores_old[:n], scores_young[:n]])
        false = torch.stack([scores_old[n:], scores_young[n:]])
        loss_d = ((real - 1) ** 2).mean() + (false**2).mean()
        self._descend(self.D, self.opt_d, loss_d, s.lr_d)

        self.D.requires_grad_(False)
        shown = vary(fake, self.rng, s.strength)
        placed = vary(fake, self.rng)
        with self.autocast():
            doubt = torch.cat([old(shown[:n]), young(shown[n:])]).float()
            moved = years(self.guides["ages"](placed)) - self._said(x)
            whose = self.guides["persons"](torch.cat([fake, x])).float()
        adversarial = ((doubt - 1) ** 2).mean()
        age = (s.years - way * moved).abs().mean() / 10
        person = (1 - F.cosine_similarity(*whose.chunk(2))).mean()
        loss = s.weight_adversarial * adversarial + s.weight_cycle * cycle + s.weight_same * same
        loss = loss + s.weight_drawn * drawn
        push = s.weight_age * min(1.0, (self.seen / 1000 - s.warm) / s.ramp) if s.ramp else s.weight_age
        loss = loss + push * age + s.weight_person * person + s.weight_backdrop * backdrop
        self._descend(self.G, self.opt_g, loss, s.lr_g)
        self.D.requires_grad_(True)
        return {
            "loss_d": loss_d,
            "loss_adversarial": adversarial,
            "loss_cycle": cycle,
            "loss_same": same,
            "loss_drawn": drawn,
            "loss_age": age,
            "loss_person": person,
            "loss_backdrop": backdrop,
            "score_real": real.mean(),
            "score_fake": false.mean(),
            "years": (way * moved).mean(),
            "change": (fake - x).abs().mean(),
        }

    @torch.no_grad()
    def _said(self, x: Tensor) -> Tensor:
        return years(self.guides["ages"](x))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.workers.device.type, self.dtype, enabled=self.dtype is not None)

    def _descend(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(network.parameters())
        optimizer.step()

    @torch.no_grad()
    def averaged(self, batches: int = 20) -> Any:
        """The averaged generator, its BatchNorm statistics measured anew: those of the training lag behind it."""
        G = copy.deepcopy(self.average)
        norms = [layer for layer in G.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
        if norms:
            rng = torch.Generator().manual_seed(self.settings.seed)
            G.train()
            for _ in range(batches):
                index = self.pairs(16, rng).flatten().to(self.workers.device)
                x = vary(self.faces.pictures[index].float() / 127.5 - 1, rng)
                for network in G.model.values():
                    network(x.contiguous(memory_format=torch.channels_last))
        return G.eval()

    @torch.no_grad()
    def aged(self, G: Any, direction: str, least: int, most: int) -> tuple[Tensor, Tensor]:
        """Held-out faces from `least` to `most` years, and what G makes of them, pasted: [N, 3, H, W] in [-1, 1]."""
        chosen = self.tried.where((self.tried.ages >= least) & (self.tried.ages <= most))
        x = chosen.pictures.to(self.workers.device).float() / 127.5 - 1
        made = torch.cat([x[:0], *(G.model[direction](part) for part in x.split(32))])
        return x, pasted(x, made, self.faces.mask.expand(len(x), 1, -1, -1))

    @torch.no_grad()
    def measure(self, G: Any) -> dict[str, float]:
        """On held-out people, as the guiding networks see them: years that ages move by, share that stays itself."""
        figures = {}
        for direction, least, most in (("older", 0, 44), ("younger", 61, 200)):
            x, made = self.aged(G, direction, least, most)
            if not len(x):
                continue
            ages, persons = self.guides["ages"], self.guides["persons"]
            figures[f"{direction}_years"] = float((years(ages(made)) - years(ages(x))).mean())
            cosines = F.normalize(persons(made)) @ F.normalize(persons(x)).T
            own = torch.arange(len(x), device=x.device)
            figures[f"{direction}_itself"] = float((cosines.argmax(1) == own).float().mean())
            figures[f"{direction}_change"] = float((made - x).abs().mean() * 127.5)
        return figures

    @torch.no_grad()
    def sheet(self, G: Any) -> Image.Image:
        """Held-out people and what they become: sixteen young ones above sixteen old ones."""
        rows = []
        for direction, least, most in (("older", 0, 44), ("younger", 61, 200)):
            x, made = (t[:16] for t in self.aged(G, direction, least, most))
            pair = torch.stack([x, made], 1).flatten(0, 1).clamp(-1, 1)
            shown = ((pair + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            size = shown.shape[1]
            full = np.zeros((32, *shown.shape[1:]), np.uint8)
            full[: len(shown)] = shown
            rows.append(full.reshape(4, 8, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(4 * size, 8 * size, 3))
        return Image.fromarray(np.concatenate(rows))

    def networks(self) -> dict[str, nn.Module]:
        return {}

    def state(self) -> dict[str, Any]:
        names = ("G", "D", "average", "guides", "opt_g", "opt_d")
        parts = {name: getattr(self, name).state_dict() for name in names}
        return {**parts, "guided": self.guided, "seen": self.seen, "rng": self.rng.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("G", "D", "average", "guides", "opt_g", "opt_d"):
            getattr(self, name).load_state_dict(state[name])
        self.seen, self.guided = state["seen"], state["guided"]
        self.guides.eval().requires_grad_(False)
        if self.workers.first:
            self.rng.set_state(state["rng"])
        else:
            self.rng.manual_seed(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over the generators of a checkpoint that has both directions.

        Raises:
            CheckpointError: the file cannot be read, or its networks have other layers.
            BadInput: it is of another family, or goes one way only.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != self.family:
            raise BadInput(f"{file} is of the family '{family}'; --resume takes one of '{self.family}' here.")
        source: Any = models.read(raw, family, "G")
        if source.directions != DIRECTIONS:
            raise BadInput(f"{file} only makes faces {source.directions[0]}; --resume takes one with both directions.")
        for network in (self.G, self.average):
            models.load_strictly(network, source.state_dict(), str(file))
        return {"G": f"{len(source.state_dict())} tensors"}
