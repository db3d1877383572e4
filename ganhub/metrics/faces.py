"""What aged faces are measured with: small networks that say how old a face looks, and whose it is.

They learn from the set itself, and never from the people that are held out. `Judges` are two such networks with which
`ganhub evaluate` measures (`python -m ganhub.training.aging_judges` makes a file of them); a training of
`ganhub.training.aging` makes others of its own, of another build and from other weights, since a network that a
generator has learned to please can no longer judge it.

Ages are told as in DEX (Rothe et al., 2015): probabilities of ages five years apart, and their mean. Whose face it is
tells a direction: one person's pictures point the same way (Wang et al., 2018, arXiv:1801.09414: the cosines' margin).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.data.ages import Aged, ages_of, is_held_out
from ganhub.data.crop import EYES_AT
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput, CheckpointError
from ganhub.imaging.align import Aligned, Square, face_mask, square_of

AGES = tuple(range(15, 96, 5))
DIM = 128
"""Numbers that tell whose face it is."""


class FaceNet(nn.Module):
    """Aligned faces [N, 3, H, W] in [-1, 1] -> numbers [N, outputs]; what lies outside of the mask is not seen.

    Config: `widths`, each stage half as large as the one before; `size` to which pictures are reduced; `residual`
    (sums and group normalisation, else a plain chain and batch normalisation); `outputs`.
    """

    mask: Tensor

    def __init__(self, config: dict[str, Any], mask: Tensor | None = None):
        super().__init__()
        self.config = config
        size, residual = config["size"], config["residual"]
        mask = torch.ones(size, size) if mask is None else mask
        seen = F.interpolate(mask[None, None].float(), (size, size), mode="bilinear", antialias=True)
        self.register_buffer("mask", seen)
        widths = [3, *config["widths"]]
        stage = _residual if residual else _plain
        self.trunk = nn.Sequential(*(stage(before, after) for before, after in zip(widths, widths[1:], strict=False)))
        self.head = nn.Linear(widths[-1], config["outputs"])

    def forward(self, x: Tensor) -> Tensor:
        size = self.mask.shape[2:]
        x = F.interpolate(x, size, mode="bilinear", antialias=True) if x.shape[2:] != size else x
        x = (x * self.mask).contiguous(memory_format=torch.channels_last)
        return self.head(self.trunk(x).mean((2, 3)))


class _Sum(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _plain(before: int, after: int) -> nn.Module:
    first = (nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2))
    return nn.Sequential(*first, nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2))


def _residual(before: int, after: int) -> nn.Module:
    first = (nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.GroupNorm(8, after), nn.SiLU())
    body = (nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.GroupNorm(8, after), nn.SiLU())
    return nn.Sequential(*first, _Sum(nn.Sequential(*body)))


def years(logits: Tensor) -> Tensor:
    """What `FaceNet` says of ages [N, 17] -> years [N]."""
    # made on the device: a copy would make the host wait for it
    return logits.float().softmax(1) @ torch.arange(AGES[0], AGES[-1] + 1, 5, dtype=torch.float32, device=logits.device)


def geometry(data: PictureSet) -> tuple[Aligned, Square]:
    """A picture of a set of `ganhub data prepare --crop face`, and where its face stands: the same for all of them.

    Raises:
        BadInput: the set was cut in another way.
    """
    margin = data.settings.get("margin")
    if data.settings.get("crop") != "face" or not margin or data.size[0] != data.size[1]:
        raise BadInput(
            f"{data.path} was not cut by faces; ageing needs a set of `ganhub data prepare --crop face --margin 3.6`."
        )
    size = data.size[0]
    eyes = [((0.5 + side / margin) * size - 0.5, EYES_AT * size - 0.5) for side in (-0.5, 0.5)]
    ends = np.array([(0, 0), (0, size), (size, size), (size, 0)], np.float64)
    blank = Image.new("RGB", (size, size))
    return Aligned(blank, Square(ends - 0.5), Square(ends)), square_of(*eyes)


@dataclass(frozen=True)
class Faces:
    """The pictures of a set whose ages are known.

    Attributes:
        pictures: uint8 [N, 3, H, W].
        about: age, person, facts of each.
        ages: float [N].
        held_out: bool [N]: nobody learns from them.
        mask: float [H, W]: how much of a pixel is face.
    """

    pictures: Tensor
    about: list[Aged]
    ages: Tensor
    held_out: Tensor
    mask: Tensor

    def where(self, chosen: Tensor) -> Faces:
        about = [one for one, there in zip(self.about, chosen.tolist(), strict=True) if there]
        return Faces(self.pictures[chosen], about, self.ages[chosen], self.held_out[chosen], self.mask)

    def persons(self) -> Tensor:
        """Number of the person of each [N]."""
        names = {name: i for i, name in enumerate(sorted({one.person for one in self.about}))}
        return torch.tensor([names[one.person] for one in self.about])


def faces_of(data: PictureSet) -> Faces:
    """Raises:
    BadInput: no ages are known, too few people are held out, or the set was not cut by faces.
    """
    mask = torch.from_numpy(face_mask(*geometry(data)))
    told = ages_of(data)
    known = [i for i, one in enumerate(told) if one is not None]
    about = [one for one in told if one is not None]
    pictures = torch.from_numpy(data.pictures(known)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous()
    held_out = torch.tensor([is_held_out(one.person) for one in about])
    if held_out.sum() < 2 or (~held_out).sum() < 2:
        raise BadInput(f"{data.path} has {len(about)} faces of known age; that is too few to keep every tenth apart.")
    return Faces(pictures, about, torch.tensor([float(one.age) for one in about]), held_out, mask)


def vary(x: Tensor, rng: torch.Generator, strength: float = 1.0) -> Tensor:
    """Pictures [N, C, H, W]; a half mirrored, each turned (by 6 degrees at most), moved, enlarged, and its first three
    channels made lighter, darker, more and less colourful."""
    n = len(x)
    draw = torch.rand(9, n, generator=rng)
    draw = (draw.pin_memory() if x.is_cuda else draw).to(x.device, non_blocking=True) * 2 - 1
    turn, zoom = draw[0] * 0.1 * strength, 1 + draw[1] * 0.06 * strength
    cos, sin, move = turn.cos() * zoom, turn.sin() * zoom, draw[2:4] * 0.06 * strength
    flip = torch.where(draw[4] < 0, -1.0, 1.0)
    theta = torch.stack([flip * cos, -sin, move[0], flip * sin, cos, move[1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, *x.shape[2:]], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    gain = (1 + draw[5:8].T * 0.06 * strength)[:, :, None, None]
    light = draw[8, :, None, None, None] * 0.15 * strength
    return torch.cat([x[:, :3] * gain + light, x[:, 3:]], 1)


def fit_ages(
    net: FaceNet, faces: Faces, *, steps: int, batch: int = 48, seed: int = 0, robust: float = 0.0,
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Teaches a network with 17 outputs how old faces are; all decades count the same.

    Args:
        faces: on the device of the network; nobody of them is held out.
        robust: pictures, at the size at which they are seen, are changed by up to this length (the root of all squares,
            of colours from 0 to 1) in the way that misleads the network most (Goodfellow et al., 2015; Engstrom et al.,
            2019, arXiv:1906.00945), so that later what pleases it has to be seen, and no noise will do.
    """
    decade = (faces.ages / 10).long().clamp(2, 7)
    weights = torch.bincount(decade.cpu(), minlength=8).double().clamp(min=1)[decade.cpu()] ** -1
    bins = torch.tensor(AGES, dtype=torch.float32, device=faces.ages.device)

    def loss_of(x: Tensor, ages: Tensor) -> Tensor:
        near = torch.exp(-(((bins - ages[:, None]) / 6) ** 2) / 2)
        logits = net(x).float()
        return F.cross_entropy(logits, near / near.sum(1, keepdim=True)) + (years(logits) - ages).abs().mean() / 20

    def step(x: Tensor, index: Tensor) -> Tensor:
        ages = faces.ages[index]
        if robust:
            # colours tell the photographer; what is left between grey and a little more than they are tells the face
            share = torch.rand(len(x), 1, 1, 1, device=x.device) * 1.2
            x = x.mean(1, keepdim=True).lerp(x, share)
            x = F.interpolate(x, net.mask.shape[2:], mode="bilinear", antialias=True)
            near = x.requires_grad_(True)
            (slope,) = torch.autograd.grad(loss_of(near, ages), near)
            far = 2 * robust * torch.rand(len(x), 1, 1, 1, device=x.device)  # colours go from -1 to 1 here
            x = x.detach() + far * slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        return loss_of(x, ages)

    _fit(net, list(net.parameters()), faces, weights, step, steps, batch, seed, dtype)


def fit_persons(
    net: FaceNet, faces: Faces, *, steps: int, batch: int = 96, seed: int = 0, dtype: torch.dtype | None = None
) -> None:
    """Teaches a network with DIM outputs to tell people apart: CosFace, all of a person's pictures one class."""
    persons = faces.persons().to(faces.ages.device)
    torch.manual_seed(seed + 1)
    rows = nn.Parameter(torch.randn(int(persons.max()) + 1, net.config["outputs"]).to(faces.ages.device))
    blur = torch.ones(3, 1, 5, 5, device=faces.ages.device) / 25

    def step(x: Tensor, index: Tensor) -> Tensor:
        rest = torch.arange(len(x), device=x.device) % 4  # a quarter each: as it is, blurred, grey, both
        x = torch.where((rest % 2 == 1)[:, None, None, None], F.conv2d(x, blur, padding=2, groups=3), x)
        x = torch.where((rest >= 2)[:, None, None, None], x.mean(1, keepdim=True).expand_as(x), x)
        cosines = F.normalize(net(x).float()) @ F.normalize(rows).T
        own = F.one_hot(persons[index], len(rows))
        return F.cross_entropy(20 * (cosines - 0.2 * own), persons[index])

    _fit(net, [*net.parameters(), rows], faces, torch.ones(len(faces.ages)), step, steps, batch, seed, dtype, 2.0)


def _fit(
    net: FaceNet, parameters: list[nn.Parameter], faces: Faces, weights: Tensor, step: Any, steps: int, batch: int,
    seed: int, dtype: torch.dtype | None, strength: float = 1.5,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(steps, 2), pct_start=0.15)
    device = faces.ages.device
    net.train()
    for _ in range(steps):
        index = torch.multinomial(weights, batch, replacement=True, generator=rng).to(device)
        x = vary(faces.pictures[index].float() / 127.5 - 1, rng, strength)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = step(x, index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)


class Judges:
    """A network that says how old a face looks, and one that says whose it is.

    Attributes:
        figures: how good they are on the people that were held out.
    """

    ages_config = {"widths": [32, 64, 96, 128], "size": 96, "residual": True, "outputs": len(AGES)}
    persons_config = {"widths": [32, 64, 96, 128], "size": 64, "residual": True, "outputs": DIM}

    def __init__(self, ages: FaceNet, persons: FaceNet, figures: dict[str, float]):
        self.ages, self.persons, self.figures = ages.eval(), persons.eval(), figures

    @classmethod
    def taught(cls, data: PictureSet, *, steps: int, device: torch.device | str = "cpu", seed: int = 1000) -> Judges:
        """Learned from the faces of a set that are not held out, and tried on the others."""
        device = torch.device(device)
        faces = faces_of(data)
        torch.manual_seed(seed)
        ages, persons = (FaceNet(config, faces.mask).to(device) for config in (cls.ages_config, cls.persons_config))
        known = on(faces.where(~faces.held_out), device)
        fit_ages(ages, known, steps=steps, seed=seed)
        fit_persons(persons, known, steps=steps, seed=seed)
        judges = cls(ages.cpu(), persons.cpu(), {})
        judges.figures = {**judges.tried(faces.where(faces.held_out)), "steps": steps, "seed": seed}
        return judges

    @torch.no_grad()
    def years(self, pictures: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> how old they look [N]: the mean of a picture and its mirror image."""
        x = pictures.float() / 127.5 - 1
        return torch.cat([(years(self.ages(p)) + years(self.ages(p.flip(3)))) / 2 for p in x.split(64)])

    @torch.no_grad()
    def directions(self, pictures: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> whose face, as unit vectors [N, DIM]."""
        x = pictures.float() / 127.5 - 1
        return F.normalize(torch.cat([self.persons(p) + self.persons(p.flip(3)) for p in x.split(64)]))

    def tried(self, faces: Faces) -> dict[str, float]:
        """Mean error in years and correlation of ages; how many people are found by another picture of theirs."""
        said = self.years(faces.pictures)
        figures = {"faces": float(len(said)), "age_error": float((said - faces.ages).abs().mean()),
                   "age_error_of_mean": float((faces.ages - faces.ages.mean()).abs().mean()),
                   "age_correlation": float(torch.corrcoef(torch.stack([said, faces.ages]))[0, 1])}  # fmt: skip
        persons = faces.persons()
        other = (persons[:, None] == persons) & ~torch.eye(len(persons), dtype=torch.bool)
        if other.any():
            cosines = self.directions(faces.pictures) @ self.directions(faces.pictures).T
            nearest = cosines.fill_diagonal_(-2).argmax(1)
            again = persons[nearest] == persons
            figures |= {"pictures_with_another": float(other.any(1).sum()),
                        "another_is_nearest": float(again[other.any(1)].float().mean())}  # fmt: skip
        return figures

    def save(self, file: Path) -> None:
        networks = {
            name: Network("FaceNet", net.config, net.state_dict())
            for name, net in (("ages", self.ages), ("persons", self.persons))
        }
        checkpoint.save(file, networks, {"family": "judges", **self.figures})

    @classmethod
    def read(cls, file: Path) -> Judges:
        """Raises:
        CheckpointError: the file holds no judges.
        """
        raw = checkpoint.read(file)
        if raw.extra.get("family") != "judges":
            raise CheckpointError(
                f"{file} holds no judges of faces; make them with python -m ganhub.training.aging_judges."
            )
        nets = []
        for name in ("ages", "persons"):
            nets.append(FaceNet(raw.networks[name].kwargs))
            nets[-1].load_state_dict(raw.networks[name].tensors)
        figures = {key: value for key, value in raw.extra.items() if key not in ("family", "converter")}
        return cls(nets[0], nets[1], figures)


def on(faces: Faces, device: torch.device) -> Faces:
    """The same on a device."""
    ages, held_out, mask = (part.to(device) for part in (faces.ages, faces.held_out, faces.mask))
    return Faces(faces.pictures.to(device), faces.about, ages, held_out, mask)
