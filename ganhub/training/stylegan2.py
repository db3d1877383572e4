"""Trains StyleGAN2 with adaptive discriminator augmentation on a few hundred pictures or more.

    ganhub train stylegan2 --data SET.zip --out runs/mine [--preset auto] [--resume [CHECKPOINT]]

"Analyzing and Improving the Image Quality of StyleGAN" (Karras et al., 2019, arXiv:1912.04958) and "Training
Generative Adversarial Networks with Limited Data" (Karras et al., 2020, arXiv:2006.06676); the presets are those of
the second paper's tool, and `light`, which a CPU can train.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub import checkpoint, models
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.models import stylegan2
from ganhub.training.augment import Augment
from ganhub.training.options import option
from ganhub.training.reals import Reals
from ganhub.training.workers import Workers


@dataclass(frozen=True)
class Settings:
    """Options of a training; None takes the preset's value."""

    preset: str = option("auto", "auto, paper256, paper512, paper1024, cifar, stylegan2, or light for a CPU")
    batch: int | None = option(None, "pictures of a step, over all processes")
    at_once: int | None = option(None, "pictures in memory at once, by process; a step accumulates the rest")
    gamma: float | None = option(None, "weight of the R1 penalty")
    lr: float | None = option(None, "learning rate of both networks")
    ema_kimg: float | None = option(None, "half-life of the average of the weights, in thousand pictures")
    channel_base: int | None = option(None, "channels at a resolution are this over the resolution")
    channel_max: int | None = option(None, "and never more than this")
    z_dim: int | None = option(None, "width of z and w")
    map_layers: int | None = option(None, "layers of the mapping network")
    pl_weight: float | None = option(None, "weight of the path length penalty; 0 for none")
    mixing: float | None = option(None, "share of the batches with mixed styles")
    cond: bool = option(False, "condition on the classes of the set")
    mirror: bool = option(False, "show half of the real pictures mirrored")
    balance: bool = option(False, "draw every class by the square root of its size")
    fewest: int = option(1, "leave out classes with fewer pictures")
    aug: str = option("ada", "ada (adaptive), fixed, or noaug")
    p: float = option(0.0, "augmentation probability: the first one for ada, the one for fixed")
    target: float = option(0.6, "ada keeps the mean sign of D on real pictures here")
    ada_kimg: float = option(500.0, "thousand pictures in which p may go from 0 to 1")
    augpipe: str = option("bgc", "which augmentations: blit, geom, color, filter, noise, cutout, bg, bgc, ..., bgcfnc")
    freeze_d: int = option(0, "layers of D, from the picture on, that keep their weights (transfer learning)")
    precision: str = option("auto", "float32, bfloat16 (CPU) or float16 (GPU, in the four highest resolutions)")
    seed: int = option(0, "of weights and draws")


def preset(settings: Settings, size: int, processes: int = 1) -> Settings:
    """Settings with everything filled in for pictures of a size.

    Raises:
        BadInput: an unknown preset, or numbers that do not go together.
    """
    batch = max(min(processes * min(4096 // size, 32), 64), processes)
    half_width, full_width = 16384, 32768
    known: dict[str, dict[str, Any]] = {
        "auto": {"batch": batch, "channel_base": full_width if size >= 512 else half_width, "map_layers": 2,
                 "lr": 0.002 if size >= 1024 else 0.0025, "gamma": 0.0002 * size**2 / batch,
                 "ema_kimg": batch * 10 / 32},
        "paper256": {"batch": 64, "channel_base": half_width, "lr": 0.0025, "gamma": 1.0, "ema_kimg": 20.0},
        "paper512": {"batch": 64, "channel_base": full_width, "lr": 0.0025, "gamma": 0.5, "ema_kimg": 20.0},
        "paper1024": {"batch": 32, "channel_base": full_width, "lr": 0.002, "gamma": 2.0, "ema_kimg": 10.0},
        "cifar": {"batch": 64, "channel_base": full_width, "lr": 0.0025, "gamma": 0.01, "ema_kimg": 500.0,
                  "map_layers": 2, "pl_weight": 0.0, "mixing": 0.0},
        "stylegan2": {"batch": 32, "channel_base": full_width, "lr": 0.002, "gamma": 10.0, "ema_kimg": 10.0},
        "light": {"batch": 32 if size <= 32 else 16, "channel_base": max(2048, 32 * size), "channel_max": 128,
                  "z_dim": 128, "map_layers": 2, "lr": 0.0025, "gamma": 0.0001 * min(size, 64) ** 2, "ema_kimg": 10.0,
                  "pl_weight": 0.0},
    }  # fmt: skip
    if settings.preset not in known:
        raise BadInput(f"There is no preset '{settings.preset}'; there are {', '.join(known)}.")
    common: dict[str, Any] = {"channel_max": 512, "z_dim": 512, "map_layers": 8, "pl_weight": 2.0, "mixing": 0.9}
    values = common | known[settings.preset]
    given = {f.name: getattr(settings, f.name) for f in fields(settings)}
    settings = replace(settings, **{k: v for k, v in values.items() if given[k] is None})
    batch = int(settings.batch or 0)
    own = batch // processes
    at_once = settings.at_once or own
    settings = replace(settings, at_once=at_once)
    if own < 1 or batch % processes or own % at_once:
        raise BadInput(
            f"A batch of {batch} cannot be split over {processes} processes of {at_once} at once; "
            "choose numbers that divide it."
        )
    if settings.aug not in ("ada", "fixed", "noaug"):
        raise BadInput(f"--aug is '{settings.aug}'; choose ada, fixed or noaug.")
    return settings


RAMP = {"auto": 0.05, "cifar": 0.05, "light": 0.05}
"""Where the average follows from the start: its half-life is at most this share of the pictures seen."""

GROUP = {"paper256": 8, "paper512": 8, "cifar": 32}
"""Pictures that the minibatch deviation compares, where it is not 4."""


def networks(settings: Any, data: PictureSet) -> tuple[nn.Module, nn.Module]:
    """An untrained G and D for a set; the settings are filled in by `preset`."""
    size, c_dim = data.size[0], data.c_dim if settings.cond else 0
    half = {"num_fp16_res": 4, "conv_clamp": 256.0} if settings.precision == "float16" else {}
    widths = {"channel_base": settings.channel_base, "channel_max": settings.channel_max}
    common: dict[str, Any] = {"c_dim": c_dim, "img_channels": data.channels, **widths, **half}
    mapped = {"mapping_features": [settings.z_dim] * settings.map_layers, "embed_features": settings.z_dim}
    G = stylegan2.build("G", stylegan2.standard_config("G", size, z_dim=settings.z_dim, w_dim=settings.z_dim, **mapped,
                                                       **common))  # fmt: skip
    features = min(settings.channel_base // 4, settings.channel_max)
    condition = {"mapping_features": [features] * 8, "embed_features": features} if c_dim else {}
    group = min(GROUP.get(settings.preset, 4), settings.at_once)
    architecture = "orig" if settings.preset == "cifar" else "resnet"
    D = stylegan2.build("D", stylegan2.standard_config("D", size, architecture=architecture, mbstd_group_size=group,
                                                       **condition, **common))  # fmt: skip
    return G, D


class Loss:
    """Non-saturating loss, R1 and path length penalty: gradients of each phase, and figures of it.

    Args:
        G, D: in training mode.
        augment: what D sees of pictures; None for the pictures themselves.
        gamma, pl_weight, mixing: as in `Settings`.
    """

    def __init__(self, G: Any, D: Any, augment: Augment | None, gamma: float, pl_weight: float, mixing: float):
        self.G, self.D, self.augment = G, D, augment
        self.gamma, self.pl_weight, self.mixing = gamma, pl_weight, mixing
        self.pl_mean = torch.zeros((), device=next(G.parameters()).device)

    def draw(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [N, C, H, W] and their ws, some batches with the styles of two z."""
        ws = self.G.mapping(z, c, update_w_avg=True)
        if self.mixing > 0:
            cutoff = int(torch.randint(1, ws.shape[1], ()))
            if float(torch.rand(())) < self.mixing:
                other = self.G.mapping(torch.randn_like(z), c)
                ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return self.G.synthesis(ws, noise_mode="random", force_fp32=False), ws

    def score(self, images: Tensor, c: Tensor) -> Tensor:
        if self.augment is not None:
            images = self.augment(images)
        return self.D(images, c, force_fp32=False)

    def generator(self, z: Tensor, c: Tensor, gain: float = 1.0) -> dict[str, Tensor]:
        """Phase Gmain: D should take generated pictures for real."""
        scores = self.score(self.draw(z, c)[0], c)
        loss = F.softplus(-scores)
        (loss.mean() * gain).backward()
        return {"loss_g": loss.mean()}

    def path_length(self, z: Tensor, c: Tensor, gain: float = 1.0, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Phase Greg, on half of z: a step in w should move the picture equally far, wherever it starts."""
        half = len(z) // 2
        images, ws = self.draw(z[:half], c[:half])
        noise = torch.randn_like(images) if noise is None else noise
        direction = noise / sqrt(images.shape[2] * images.shape[3])
        (slope,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
        lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()
        mean = self.pl_mean.lerp(lengths.mean(), 0.01)
        self.pl_mean = mean.detach()
        penalty = (lengths - mean).square()
        (penalty.mean() * self.pl_weight * gain).backward()
        return {"pl_penalty": penalty.mean()}

    def discriminator(self, real: Tensor, real_c: Tensor, z: Tensor, c: Tensor, gain: float = 1.0) -> dict[str, Tensor]:
        """Phase Dmain: D should tell real pictures from generated ones."""
        with torch.no_grad():
            fake = self.draw(z, c)[0]
        if self.augment is not None:  # one pass of the pipe for both
            fake, real = self.augment(torch.cat([fake, real])).split([len(fake), len(real)])
        # One backward pass after the other needs half the memory, and the groups of the batch stay of one kind.
        fakes = self.D(fake, c, force_fp32=False)
        loss_fake = F.softplus(fakes)
        (loss_fake.mean() * gain).backward()
        reals = self.D(real, real_c, force_fp32=False)
        loss_real = F.softplus(-reals)
        (loss_real.mean() * gain).backward()
        return {"loss_d": loss_fake.mean() + loss_real.mean(), "sign_real": reals.detach().sign().mean(),
                "sign_fake": fakes.detach().sign().mean()}  # fmt: skip

    def r1(self, real: Tensor, real_c: Tensor, gain: float = 1.0) -> dict[str, Tensor]:
        """Phase Dreg: D should be flat around real pictures."""
        real = real.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.score(real, real_c).sum(), real, create_graph=True)
        penalty = slope.square().sum(dim=(1, 2, 3))
        (penalty.mean() * (self.gamma / 2) * gain).backward()
        return {"r1": penalty.mean()}


class Trainer:
    """Everything that a state of the training holds, and one step."""

    recipe = family = "stylegan2"
    G_EVERY, D_EVERY, ADA_EVERY = 4, 16, 4
    """Steps between two path length penalties, two R1 penalties, two changes of p."""

    def __init__(self, settings: Settings, data: PictureSet, workers: Workers | None = None):
        self.workers = workers or Workers()
        device = self.workers.device
        if data.size[0] != data.size[1]:
            raise BadInput(f"{data.path} holds pictures of {data.size[1]}x{data.size[0]}; this recipe wants squares.")
        if settings.cond and not data.c_dim:
            raise BadInput(f"{data.path} has no classes; prepare it with --label, or leave out --cond.")
        settings = replace(settings, precision=_precision(settings.precision, device))
        s: Any = preset(settings, data.size[0], self.workers.count)
        self.settings = s
        torch.manual_seed(s.seed)  # the same weights in every process
        G, D = networks(s, data)
        self.G: Any = G.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.D: Any = D.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.G_ema: Any = copy.deepcopy(self.G).eval().requires_grad_(False)
        if s.precision == "bfloat16":
            stylegan2.compute_in(self.G, torch.bfloat16)
            stylegan2.compute_in(self.D, torch.bfloat16)
        self.augment = None if s.aug == "noaug" else Augment(s.augpipe).to(device)
        if self.augment is not None:
            self.augment.p.fill_(s.p)
            if "imgfilter" in self.augment.changes and data.size[0] < 32:
                raise BadInput(f"The pipe '{s.augpipe}' needs pictures of 32 pixels or more; choose --augpipe bgc.")
        self.loss = Loss(self.G, self.D, self.augment, s.gamma, s.pl_weight, s.mixing)
        # Penalties are rare and weigh as much more; their steps count in Adam's averages.
        g = self.G_EVERY / (self.G_EVERY + 1) if s.pl_weight else 1.0
        d = self.D_EVERY / (self.D_EVERY + 1)
        self.opt_g = _adam(self.G.parameters(), s.lr, g)
        self.opt_d = _adam(trained(self.D, s.freeze_d), s.lr, d)
        self.reals = Reals(data, s.mirror, s.balance, s.fewest, device)
        self.steps = self.seen = 0
        self.signs = torch.zeros((), device=device)
        torch.manual_seed(s.seed * self.workers.count + self.workers.rank)
        self.rng = torch.Generator().manual_seed(s.seed * self.workers.count + self.workers.rank)

    def step(self) -> dict[str, Tensor]:
        s = self.settings
        figures: dict[str, Tensor] = {}
        figures |= self._phase(self.G, self.opt_g, lambda gain, real, real_c, z, c: self.loss.generator(z, c, gain))
        if s.pl_weight and self.steps % self.G_EVERY == 0:
            self._phase(self.G, self.opt_g, lambda gain, real, real_c, z, c:
                        self.loss.path_length(z, c, gain * self.G_EVERY))  # fmt: skip
        figures |= self._phase(self.D, self.opt_d, lambda gain, real, real_c, z, c:
                               self.loss.discriminator(real, real_c, z, c, gain))  # fmt: skip
        if s.gamma and self.steps % self.D_EVERY == 0:
            self._phase(self.D, self.opt_d, lambda gain, real, real_c, z, c:
                        self.loss.r1(real, real_c, gain * self.D_EVERY))  # fmt: skip
        self.steps += 1
        self.seen += s.batch
        self._average()
        self.signs += figures["sign_real"]
        if self.steps % self.ADA_EVERY == 0:
            if self.augment is not None and s.aug == "ada":
                sign = self.workers.mean(self.signs) / self.ADA_EVERY
                change = torch.sign(sign - s.target) * (s.batch * self.ADA_EVERY / (s.ada_kimg * 1000))
                self.augment.p.copy_((self.augment.p + change).clamp(min=0))
            self.signs.zero_()
        if self.augment is not None:
            figures["p"] = self.augment.p.clone()
        return figures

    def _phase(self, net: nn.Module, optimizer: torch.optim.Optimizer, backward: Any) -> dict[str, Tensor]:
        """Gradients of one phase, over all parts of the batch and all processes, and one step of its network."""
        s, device = self.settings, self.workers.device
        chosen = [p for group in optimizer.param_groups for p in group["params"]]
        self.G.requires_grad_(False)
        self.D.requires_grad_(False)
        for p in chosen:
            p.requires_grad_(True)
        rounds = s.batch // self.workers.count // s.at_once
        figures: dict[str, Tensor] = {}
        for _ in range(rounds):
            # Only D looks at real pictures.
            real, real_c = self.reals(s.at_once, self.rng) if net is self.D else (None, None)
            z = torch.randn(s.at_once, s.z_dim, device=device)
            c = self.reals.some_classes(s.at_once, self.rng) if s.cond else z.new_zeros(s.at_once, 0)
            for name, value in backward(1 / rounds, real, real_c if s.cond else c, z, c).items():
                figures[name] = figures.get(name, 0) + value.detach() / rounds
        for p in chosen:  # a penalty that does not reach a bias still counts as a step of it
            p.grad = torch.zeros_like(p) if p.grad is None else torch.nan_to_num(p.grad, 0.0, 1e5, -1e5)
        self.workers.average_gradients(chosen)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return figures

    @torch.no_grad()
    def _average(self) -> None:
        half_life = self.settings.ema_kimg * 1000
        ramp = RAMP.get(self.settings.preset)
        if ramp is not None:
            half_life = min(half_life, self.seen * ramp)
        weight = 1 - 0.5 ** (self.settings.batch / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.G_ema.parameters()), list(self.G.parameters()), weight)
        for mean, now in zip(self.G_ema.buffers(), self.G.buffers(), strict=True):
            mean.copy_(now)

    def averaged(self) -> Any:
        return self.G_ema

    def networks(self) -> dict[str, nn.Module]:
        return {"G_train": self.G, "D": self.D}

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("G", "D", "G_ema", "opt_g", "opt_d")}
        numbers = {name: getattr(self, name) for name in ("steps", "seen", "signs")}
        p = None if self.augment is None else self.augment.p
        return {**parts, **numbers, "p": p, "pl_mean": self.loss.pl_mean, "rng": self.rng.get_state(),
                "torch_rng": torch.get_rng_state()}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        for name in ("G", "D", "G_ema", "opt_g", "opt_d"):
            getattr(self, name).load_state_dict(state[name])
        self.steps, self.seen = state["steps"], state["seen"]
        self.signs.copy_(state["signs"])
        self.loss.pl_mean = state["pl_mean"].to(self.workers.device)
        if self.augment is not None and state["p"] is not None:
            self.augment.p.copy_(state["p"])
        if self.workers.first:  # the state is that of the first process; the others go on with draws of their own
            self.rng.set_state(state["rng"])
            torch.set_rng_state(state["torch_rng"])
        else:
            torch.manual_seed(self.settings.seed + self.seen * self.workers.count + self.workers.rank)
            self.rng.manual_seed(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over every tensor of a checkpoint that has the same name and shape here; sizes may differ.

        Returns:
            what came over, in words, by network.

        Raises:
            CheckpointError: the file is no StyleGAN2.
            BadInput: nothing in it fits.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != "stylegan2":
            raise BadInput(f"{file} is of the family '{family}'; --resume takes a StyleGAN2.")
        averaged = models.read(raw, "stylegan2", "G").state_dict()
        sources = {"G_ema": averaged, "G": averaged, "D": {}}
        if "G_train" in raw.networks:
            sources["G"] = {name: value.float() for name, value in raw.networks["G_train"].tensors.items()}
        if any(part in raw.networks for part in ("D", "d")):
            sources["D"] = models.read(raw, "stylegan2", "D").state_dict()
        said = {}
        for name, source in sources.items():
            own = getattr(self, name).state_dict()
            fitting = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
            for k, v in fitting.items():
                own[k].copy_(v)
            said[name] = f"{len(fitting)} of {len(own)} tensors"
        if said["G"].startswith("0 "):
            raise BadInput(
                f"No tensor of {file} fits this generator; give --preset, --channel-base or --z-dim as it has."
            )
        return said


def trained(D: Any, freeze: int) -> list[nn.Parameter]:
    """Parameters of D but for those of its first layers, counted from the picture on (freeze-D, arXiv:2002.10964)."""
    layers = [layer for name in D.blocks for layer in D.get_submodule(name).children()]
    if not 0 <= freeze <= len(layers):
        raise BadInput(f"--freeze-d is {freeze}; this discriminator has {len(layers)} layers that can be frozen.")
    frozen = {id(p) for layer in layers[:freeze] for p in layer.parameters()}
    return [p for p in D.parameters() if id(p) not in frozen]


def _adam(parameters: Any, lr: float, share: float) -> torch.optim.Optimizer:
    """Adam for a network of whose steps `share` are of the main loss, the rest of its penalty."""
    return torch.optim.Adam(parameters, lr=lr * share, betas=(0.0, 0.99**share), eps=1e-8, fused=True)


def _precision(name: str, device: torch.device) -> str:
    can_bf16 = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if name == "auto":
        return "float16" if device.type == "cuda" else "bfloat16" if can_bf16 else "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise BadInput(f"--precision is '{name}'; choose auto, float32, bfloat16 or float16.")
    if name == "float16" and device.type != "cuda":
        raise BadInput("float16 is fast on a GPU only; choose bfloat16 or float32 here.")
    return name
