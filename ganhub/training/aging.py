"""Faces made older and younger: CycleGAN between young and old people (Zhu et al., 2017, arXiv:1703.10593).

Nobody is there twice, so each network is held by what comes back: an old face made of a young one becomes the young
one again, and one of the right age stays as it is. As in Wang et al. (2018, "Face Aging with Identity-Preserved
Conditional GANs") and Antipov et al. (2017, arXiv:1702.01983), a network that tells ages says whether the age is the
wanted one, and one that tells people apart whether it is still the same person; both learn from the set first.

The set is one of `ganhub data prepare --crop face --margin 3.6 --labels ...` whose rows, or names, tell ages. One
person of ten is held out. What is made is judged as it will be seen: pasted back by the soft mask of a face. Young and
old are drawn in pairs of the same source and gender, so that neither backdrop nor clothes nor era stand in for age;
`balance` in `run.json` states it. In a first phase one network learns to draw faces at all; then it becomes two.
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
from ganhub.data.ages import Aged
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.metrics.faces import AGES, DIM, FaceNet, Faces, faces_of, fit_ages, fit_persons, on, vary, years
from ganhub.models import agingan
from ganhub.models._ageing import DIRECTIONS
from ganhub.training.loop import lerp
from ganhub.training.options import option
from ganhub.training.pair import autocast, side
from ganhub.training.workers import Workers

KIMG = 200
SNAP = 20
WIDTHS = (32, 64, 128, 192, 256)
"""Of the two networks that guide the training."""


@dataclass(frozen=True)
class Settings:
    ngf: int = option(32, "channels of G's first layer")
    blocks: int = option(9, "residual blocks of G")
    norm: str = option("batch", "normalisation in G: batch or instance")
    ndf: int = option(64, "channels of D's first layer")
    batch: int = option(32, "faces of a step, a half of them young, over all processes")
    young: int = option(45, "years up to which a face is young")
    old: int = option(58, "years from which it is old")
    warm: float = option(48.0, "thousand faces of the first phase; 0 with --resume CHECKPOINT")
    lr_warm: float = option(5e-4, "learning rate of the first phase")
    lr_g: float = option(2e-4, "learning rate of G")
    lr_d: float = option(4e-4, "learning rate of D")
    weight_adversarial: float = option(1.0, "of what D says of young and old faces (least squares)")
    weight_cycle: float = option(5.0, "of the difference to what comes back")
    weight_same: float = option(2.5, "of the difference to a face that has the wanted age already")
    weight_age: float = option(0.5, "of the years that a face has still to move by, in tens")
    years: float = option(15.0, "that a face should move by, as the network of ages sees it")
    ramp: float = option(20.0, "thousand faces over which that weight grows, while D learns what old faces look like")
    weight_person: float = option(1.0, "of the angle to the direction of the person")
    weight_backdrop: float = option(10.0, "of changes outside of the face")
    guide_steps: int = option(1500, "steps in which each guiding network learns")
    robust: float = option(0.04, "how much the network of ages is misled while it learns")
    strength: float = option(2.0, "of the changes in place and colour to what D sees; 1 is what G sees")
    ema: float = option(0.999, "share of the average of G's weights that a step keeps")
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
                groups.setdefault(_group(one), ([], []))[int(one.age >= old)].append(i)
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
                name = " ".join(_group(one)).strip() or "all"
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


def _group(one: Aged) -> tuple[str, str]:
    return one.facts.get("source", ""), one.facts.get("gender", "")


def pasted(x: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    """Faces [N, 3, H, W] with what was made of them inside of their masks [N, 1, H, W], as `imaging.align.paste` shows
    it: without the tint that all of a face gets."""
    change = made - x
    tint = (change * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    return x + mask * (change - tint)


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
        torch.manual_seed(s.seed)
        config = {"ngf": s.ngf, "blocks": s.blocks, "norm": s.norm, "directions": list(DIRECTIONS), "img_size": size}
        G: Any = agingan.build("G", config)
        self.G = G.to(device, memory_format=torch.channels_last).train()
        D = nn.ModuleDict({direction: Patches(s.ndf) for direction in DIRECTIONS})
        self.D: Any = D.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        guide = {"widths": list(WIDTHS), "size": size, "residual": False}
        self.guides: Any = nn.ModuleDict({
            "ages": FaceNet({**guide, "outputs": len(AGES)}, every.mask),
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

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """n young faces and then n old ones [2n, 3, H, W] in [-1, 1], and their masks [2n, 1, H, W]."""
        device = self.workers.device
        index = self.pairs(n, self.rng).flatten()
        index = (index.pin_memory() if device.type == "cuda" else index).to(device, non_blocking=True)
        x = self.faces.pictures[index].float() / 127.5 - 1
        x = vary(torch.cat([x, self.faces.mask.expand(2 * n, 1, -1, -1)], 1), self.rng)
        return x[:, :3].clamp(-1, 1).contiguous(memory_format=torch.channels_last), x[:, 3:]

    def guide(self) -> None:
        """Teaches the two networks that guide G."""
        s, ages, persons = self.settings, self.guides["ages"], self.guides["persons"]
        how: dict[str, Any] = {"steps": s.guide_steps, "seed": s.seed, "dtype": self.dtype}
        # where only one age is to be seen, a backdrop tells it
        keys = [_group(one) in self.pairs.groups for one in self.faces.about]
        fit_ages(ages, self.faces.where(torch.tensor(keys, device=self.faces.ages.device)), robust=s.robust, **how)
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
        x, mask = self.draw(s.batch // 2 // self.workers.count)
        warm = round(s.warm * 1000)
        if self.seen < warm:
            figures = self._first(x)
            self.seen += s.batch
            if self.seen >= warm:
                self.G.model["younger"].load_state_dict(self.G.model["older"].state_dict())
            self.average.load_state_dict(self.G.state_dict())
            return figures
        figures = self._second(x, mask)
        self.seen += s.batch
        lerp(self.average, self.G, (self.seen - warm) // s.batch, s.ema)
        return figures

    def _first(self, x: Tensor) -> dict[str, Tensor]:
        with self.autocast():
            made = self.G.model["older"](x)
        loss = F.l1_loss(made.float(), x)
        self._descend(self.G, self.opt_g, loss, self.settings.lr_warm)
        return {"loss_draw": loss}

    def _second(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        s, n = self.settings, len(x) // 2
        older, younger = (self.G.model[direction] for direction in DIRECTIONS)
        with self.autocast():
            up, down = older(x).float(), younger(x).float()
        changed = torch.cat([up[:n], down[n:]])  # young made older, old made younger
        same = torch.cat([up[n:], down[:n]])
        fake = pasted(x, changed, mask)
        backdrop = ((1 - mask) * (changed - x)).abs().mean()
        same_loss = F.l1_loss(same, torch.cat([x[n:], x[:n]]))
        with self.autocast():
            back = torch.cat([younger(fake[:n]), older(fake[n:])]).float()
        cycle = F.l1_loss(back, x)

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
        way = torch.where(torch.arange(2 * n, device=x.device) < n, 1.0, -1.0)
        with self.autocast():
            doubt = torch.cat([old(shown[:n]), young(shown[n:])]).float()
            moved = years(self.guides["ages"](placed)) - self._said(x)
            whose = self.guides["persons"](torch.cat([fake, x])).float()
        adversarial = ((doubt - 1) ** 2).mean()
        age = F.relu(s.years - way * moved).mean() / 10
        person = (1 - F.cosine_similarity(*whose.chunk(2))).mean()
        loss = s.weight_adversarial * adversarial + s.weight_cycle * cycle + s.weight_same * same_loss
        push = s.weight_age * min(1.0, (self.seen / 1000 - s.warm) / s.ramp) if s.ramp else s.weight_age
        loss = loss + push * age + s.weight_person * person + s.weight_backdrop * backdrop
        self._descend(self.G, self.opt_g, loss, s.lr_g)
        self.D.requires_grad_(True)
        return {
            "loss_d": loss_d,
            "loss_adversarial": adversarial,
            "loss_cycle": cycle,
            "loss_same": same_loss,
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
