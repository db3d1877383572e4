"""Trains a StackGAN-v2: pictures of several sizes at once, with sentences or without.

    ganhub train stackgan --data SET.zip --encoder runs/words/G.safetensors --out runs/stack

"StackGAN++" (Zhang et al., 2017, arXiv:1710.10916): a discriminator for every stage, which judges whether a picture is
real and whether it fits its sentence; the divergence of the conditioning augmentation from a standard normal
distribution; and, between neighbouring stages, the difference of the mean and the covariance of their colours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganhub import checkpoint, models
from ganhub.data.captions import CaptionedSet
from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput
from ganhub.models import stackgan
from ganhub.training import loop
from ganhub.training.augment import Augment
from ganhub.training.char_cnn_rnn import as_input, read, split
from ganhub.training.drawing import Draws, need_classes
from ganhub.training.matching import Heard, Matcher, Swaps
from ganhub.training.options import checkpoint_file, option
from ganhub.training.pair import ADA_KIMG, autocast, side
from ganhub.training.reals import shares
from ganhub.training.workers import Workers

KIMG, SNAP = 2000, 25


@dataclass(frozen=True)
class Settings:
    encoder: str = option("", "text encoder, a file or an id of the registry; none for pictures without sentences")
    captions: str = option("", "table `file,caption`, or folder of CLASS/NAME.txt; beside the set by default")
    stages: int = option(3, "sizes of pictures; the last is that of the set, each other half of the next")
    z_dim: int = option(100, "width of the latent")
    code_dim: int = option(128, "width of the code that sentences become")
    ngf: int = option(64, "channels of G before the first picture; every further stage halves them")
    ndf: int = option(64, "channels of the discriminators' first layers")
    residuals: int = option(2, "residual blocks of every further stage")
    batch: int = option(24, "pictures of a step, over all processes")
    lr_g: float = option(2e-4, "learning rate of G")
    lr_d: float = option(2e-4, "learning rate of the discriminators")
    uncond: float = option(1.0, "weight of whether a picture is real, beside whether it fits")
    kl: float = option(2.0, "weight of the conditioning augmentation's divergence")
    color: float = option(0.0, "weight of the difference of colours between stages; the paper has 50 without sentences")
    matcher: str = option("", "a CLIP that looks whether pictures fit their sentences, a file or an id of the registry")
    match: float = option(1.0, "weight of what the matcher says")
    seek: float = option(0.0, "weight of how little two latents of one sentence differ in their pictures")
    ema: float = option(0.999, "share of the average of G's weights that a step keeps")
    mirror: bool = option(False, "show half of the real pictures mirrored")
    balance: float = option(0.0, "0 draws classes as large as they are, 1 all equally often, 0.5 in between")
    fewest: int = option(1, "leave out classes with fewer pictures")
    kinds: float = option(0.0, "weight of which kind the last discriminator takes a picture for")
    recolour: float = option(0.0, "share of pictures that have another colour, and whose sentences name that")
    aug: str = option("noaug", "ada: what the discriminators see is augmented, as far as needed; or noaug")
    augpipe: str = option("bgc", "which augmentations: blit, geom, color, filter, noise, cutout, bg, bgc, ..., bgcfnc")
    p: float = option(0.0, "augmentation probability that ada begins with")
    target: float = option(0.6, "ada keeps the mean sign of the last discriminator on real pictures here")
    hold_out: int = option(10, "keep every so many-th picture, and its sentences, for validation")
    precision: str = option("auto", "float32 or bfloat16")
    seed: int = option(0, "of weights and draws")


def open_data(path: Path, settings: Settings) -> PictureSet:
    return CaptionedSet(path, settings.captions) if settings.encoder else PictureSet(path)


class Trainer:
    """Everything that a state of the training holds, and one step."""

    recipe = family = "stackgan"

    def __init__(self, settings: Settings, data: PictureSet, workers: Workers | None = None):
        self.settings = s = settings
        self.workers = workers or Workers()
        device = self.workers.device
        size = side(data, least=8)
        first = size >> max(s.stages - 1, 0)
        if s.stages < 1 or first < 8:
            raise BadInput(f"--stages is {s.stages}; the first of them must have 8 pixels, and the last has {size}.")
        if data.channels != 3:
            raise BadInput(f"{data.path} holds grey pictures; StackGAN draws colours.")
        if s.aug not in ("ada", "noaug"):
            raise BadInput(f"--aug is '{s.aug}'; choose ada or noaug.")
        if s.batch % self.workers.count or s.batch // self.workers.count < 2:
            raise BadInput(f"A batch of {s.batch} leaves fewer than two pictures for each process.")
        self.dtype = autocast(s.precision, device)
        self.data = data
        self.trained, self.held_out = split(len(data), s.hold_out)
        self.shares = torch.ones(len(self.trained))
        weights = shares(data, s.balance, s.fewest)
        if weights is not None:
            self.shares = weights[self.trained].float()
            self.held_out = [i for i in self.held_out if weights[i] > 0]
        self.draws = Draws(data, self.trained, self.shares, s.recolour)
        self._listen(s, device)
        torch.manual_seed(s.seed)
        self.G: Any = _plain(stackgan.build("G", self._config(first)), device)
        code_dim = s.code_dim if self.text else 0
        sizes = [first << k for k in range(s.stages)]
        self.Ds = [
            _plain(stackgan.build("D", {"width": s.ndf, "img_size": n, "code_dim": code_dim}), device) for n in sizes
        ]
        for network in self.Ds if device.type == "cpu" else (self.G, *self.Ds):  # where it is faster
            network.to(memory_format=torch.channels_last)
        self.namer: Any = None
        if s.kinds:
            self.namer = _plain(nn.Conv2d(self.Ds[-1].top, len(data.classes), 4), device)
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        betas = (0.5, 0.999)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=s.lr_g, betas=betas, fused=True)
        self.judges = [nn.ModuleList([D]) for D in self.Ds]
        if self.namer is not None:
            self.judges[-1].append(self.namer)
        self.opts = [torch.optim.Adam(judge.parameters(), lr=s.lr_d, betas=betas, fused=True) for judge in self.judges]
        self.augment = Augment(s.augpipe).to(device) if s.aug == "ada" else None
        if self.augment is not None:
            self.augment.p.fill_(s.p)
        self.seen = 0
        self._sow(s.seed * self.workers.count + self.workers.rank)

    def _listen(self, s: Settings, device: torch.device) -> None:
        self.matcher: Matcher | None = None
        if not s.encoder:
            for name, given in (("matcher", s.matcher), ("recolour", s.recolour), ("kinds", s.kinds)):
                if given:
                    raise BadInput(f"--{name} needs sentences; name their --encoder, or leave it out.")
            return
        encoder: Any = models.read(checkpoint.read(checkpoint_file(s.encoder)), "char_cnn_rnn").to(device)
        self.text_dim = encoder.dim
        drawn = [i for i, share in zip(self.trained, self.shares.tolist(), strict=True) if share > 0]
        texts = [text for i in drawn + self.held_out for text in self.draws.texts[i]]
        self.embeddings = Heard(lambda some: encoder(read(some).to(device)), texts)
        labels = self.data.labels if self.data.classes else None
        need_classes(self.data, recolour=s.recolour, kinds=s.kinds)
        if s.matcher:
            kinds = [] if labels is None or labels.ndim > 1 else self.draws.every_kind()
            self.draws.swaps = Swaps(self.data, kinds)
            self.matcher = Matcher(s.matcher, device)

    @property
    def text(self) -> bool:
        """Pictures have sentences."""
        return bool(self.settings.encoder)

    def _config(self, first: int) -> dict[str, Any]:
        s = self.settings
        ups = first.bit_length() - 3
        widths = [[s.ngf << (ups - 1 - k) for k in range(ups)]]
        widths += [[max(2, s.ngf >> k)] for k in range(1, s.stages)]
        return {
            "z_dim": s.z_dim, "text_dim": self.text_dim if self.text else 0,
            "code_dim": s.code_dim if self.text else s.z_dim, "start": s.ngf << ups, "widths": widths,
            "residuals": [s.residuals] * (s.stages - 1),
        }  # fmt: skip

    def _sow(self, seed: int) -> None:
        torch.manual_seed(seed)  # augmentation
        self.rng = torch.Generator().manual_seed(seed)

    def real(self, pictures: Tensor) -> list[Tensor]:
        """Real pictures uint8 [N, 3, H, W] in all sizes, half of them mirrored if asked for."""
        x = as_input(pictures.to(self.workers.device))
        if self.settings.mirror:
            turned = torch.rand(len(x), 1, 1, 1, generator=self.rng) < 0.5
            x = torch.where(turned.to(x.device), x.flip(3), x)
        return [F.avg_pool2d(x, 1 << k) for k in reversed(range(self.settings.stages))]

    def noise(self, n: int, width: int) -> Tensor:
        return torch.randn(n, width, generator=self.rng).to(self.workers.device)

    def step(self) -> dict[str, Tensor]:
        s, n = self.settings, self.settings.batch // self.workers.count
        drawn = self.draws(n, self.rng)
        real, wrong = self.real(drawn.pictures), self.real(drawn.others)
        texts = drawn.texts + drawn.asked
        embedding = self.embeddings(texts) if self.text else None
        z = self.noise(n + len(drawn.asked), s.z_dim)
        # In the same batch, whose statistics they share: else pictures would differ by those and not by z.
        other = self.noise(max(2, n // 4) if s.seek else 0, s.z_dim)
        code = mu = logvar = None
        with self.autocast():
            latents = codes = torch.cat([z, other])
            if embedding is not None:
                code, mu, logvar = self.G.condition(embedding.to(z.device), self.noise(len(z), s.code_dim))
                codes = torch.cat([code, code[: len(other)]])
            painted = [x.float() for x in self.G.paint(latents, codes)]
        fake = [x[: len(z)] for x in painted]
        seen = None if mu is None else mu.float().detach()
        losses, signs, figures = [], [], {}  # type: list[Tensor], list[list[Tensor]], dict[str, Tensor]
        kinds = wanted = torch.zeros(0)
        if self.namer is not None:
            kinds = self.draws.kinds(drawn.chosen + drawn.wrong)
            wanted = torch.cat([kinds[:n], torch.tensor(drawn.asked_kinds, dtype=kinds.dtype)])
        for stage, D in enumerate(self.Ds):
            shown = self._augmented(torch.cat([x[stage].detach() for x in (real, wrong, fake)])).split([n, n, len(z)])
            with self.autocast():
                features = [D.features(x) for x in shown]
                of_real, of_wrong, of_fake = (self._scores(D, x, seen, len(x)) for x in features)
            losses.append(loss_of_d(of_real, of_wrong, of_fake, s.uncond))
            if stage == len(self.Ds) - 1 and self.namer is not None:
                figures["loss_named"] = self._misnamed(torch.cat(features[:2]), kinds)
                losses[-1] = losses[-1] + s.kinds * figures["loss_named"]
            signs.append([of_real[-1].detach().sign().mean(), of_fake[-1].detach().sign().mean()])
            self._descend(self.judges[stage], self.opts[stage], losses[-1])

        for judge in self.judges:
            judge.requires_grad_(False)
        doubt = torch.zeros((), device=z.device)
        for stage, D in enumerate(self.Ds):
            shown = self._augmented(fake[stage])
            with self.autocast():
                of_shown = D.features(shown)
                scores = self._scores(D, of_shown, None if mu is None else mu.float(), len(z))
            # Of a sentence that is only asked D may never have seen a real picture that fits.
            doubt = doubt + loss_of_g([scores[0][:n], *scores[1:]], s.uncond)
        loss_g = doubt
        if self.namer is not None:
            figures["loss_kinds"] = self._misnamed(of_shown, wanted)
            loss_g = loss_g + s.kinds * figures["loss_kinds"]
        if mu is not None and logvar is not None:
            figures["loss_kl"] = divergence(mu.float(), logvar.float())
            loss_g = loss_g + s.kl * figures["loss_kl"]
        if s.color and s.stages > 1:
            figures["loss_color"] = color_difference(fake)
            loss_g = loss_g + s.color * figures["loss_color"]
        if self.matcher is not None:
            with self.autocast():
                colours: list[list[str]] = [[] for _ in drawn.texts] + drawn.asked_colours
                matched = self.matcher(fake[-1], texts, drawn.nouns + drawn.asked_nouns, colours)
            figures |= zip(("loss_match", "loss_kind", "loss_colour"), matched, strict=True)
            loss_g = loss_g + s.match * torch.stack(matched).sum()
        if s.seek:
            some = slice(len(other))
            figures["loss_seek"] = sameness(fake[-1][some], painted[-1][len(z) :], z[some], other)
            loss_g = loss_g + s.seek * figures["loss_seek"]
        self._descend(self.G, self.opt_g, loss_g)
        for judge in self.judges:
            judge.requires_grad_(True)

        self.seen += s.batch
        loop.lerp(self.average, self.G, self.seen // s.batch, s.ema)
        sign_real, sign_fake = signs[-1]
        figures |= {"loss_d": torch.stack(losses).sum(), "loss_g": doubt}
        figures |= {"sign_real": sign_real, "sign_fake": sign_fake}
        if self.augment is not None:
            surer = torch.sign(self.workers.mean(sign_real) - s.target)
            self.augment.p.add_(surer * s.batch / (ADA_KIMG * 1000)).clamp_(0, 1)
            figures["p"] = self.augment.p.clone()
        return figures

    def _augmented(self, pictures: Tensor) -> Tensor:
        return pictures if self.augment is None else self.augment(pictures)

    @staticmethod
    def _scores(D: Any, features: Tensor, code: Tensor | None, n: int) -> list[Tensor]:
        return [score.float() for score in D.scores(features, None if code is None else code[:n])]

    def _misnamed(self, features: Tensor, kinds: Tensor) -> Tensor:
        """Cross-entropy of the kinds that the last discriminator's features are taken for ("AC-GAN", Odena et al.,
        2016, arXiv:1610.09585)."""
        with self.autocast():
            logits = self.namer(features).flatten(1)
        return F.cross_entropy(logits.float(), kinds.to(logits.device).long(), ignore_index=-1)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.workers.device.type, self.dtype, enabled=self.dtype is not None)

    def _descend(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(network.parameters())
        optimizer.step()

    def said(self, count: int, rng: torch.Generator) -> Tensor:
        """Embeddings [count, text_dim] of sentences that are trained on."""
        chosen = [self.draws.texts[self.trained[i]] for i in self.draws.some(count, rng).tolist()]
        return self.embeddings([some[int(torch.randint(len(some), (), generator=rng))] for some in chosen])

    @torch.no_grad()
    def averaged(self, batches: int = 20) -> Any:
        """The averaged generator, its BatchNorm statistics measured anew: those of the training lag behind it."""
        G = copy.deepcopy(self.average)
        for layer in G.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
                layer.momentum = None  # a plain mean over the batches
        rng, device = torch.Generator().manual_seed(self.settings.seed), self.workers.device
        G.train()
        for _ in range(batches):
            z = torch.randn(32, G.z_dim, generator=rng).to(device)
            if self.text:
                noise = torch.randn(32, G.code_dim, generator=rng).to(device)
                G.stages(z, self.said(32, rng).to(device), noise)
            else:
                G.stages(z)
        return G.eval()

    def measure(self, G: Any) -> dict[str, Any]:
        """Distances of 1000 pictures to the real ones; with sentences, those of the held-out ones."""
        from ganhub.metrics import snapshots

        return snapshots.measure(self.data, 1000)(Spoken(G, self.heard()) if self.text else G)

    def heard(self) -> Tensor:
        """Embeddings [N, text_dim] of the first sentences of the held-out pictures."""
        return self.embeddings([self.draws.texts[i][0] for i in self.held_out])

    def sheet(self, G: Any) -> Image.Image:
        """With sentences a row for each of eight held-out ones, a column for each latent."""
        if not self.text:
            return loop.grid(G)
        rows = self.heard()[:: max(1, len(self.held_out) // 8)][:8]
        return loop.grid(Spoken(G, rows.repeat_interleave(8, 0)), columns=8, rows=len(rows))

    def networks(self) -> dict[str, nn.Module]:
        return {"G_train": self.G, **{f"D{stage}": D for stage, D in enumerate(self.Ds)}}

    def _parts(self) -> dict[str, Any]:
        parts = {"G": self.G, "average": self.average, "opt_g": self.opt_g}
        parts |= {f"D{stage}": D for stage, D in enumerate(self.Ds)}
        parts |= {} if self.namer is None else {"namer": self.namer}
        return parts | {f"opt_d{stage}": opt for stage, opt in enumerate(self.opts)}

    def state(self) -> dict[str, Any]:
        p = None if self.augment is None else self.augment.p
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "seen": self.seen, "p": p, "rng": self.rng.get_state(), "torch_rng": torch.get_rng_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.seen = state["seen"]
        if self.augment is not None and state["p"] is not None:
            self.augment.p.copy_(state["p"])
        if self.workers.first:
            self.rng.set_state(state["rng"])
            torch.set_rng_state(state["torch_rng"])
        else:
            self._sow(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over the generator of a checkpoint, and its discriminators where it has them.

        Raises:
            CheckpointError: the file cannot be read, or its networks have other layers.
            BadInput: it is of another family.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != self.family:
            raise BadInput(f"{file} is of the family '{family}'; --resume takes one of '{self.family}' here.")
        tensors = models.read(raw, family, "G").state_dict()
        for network in (self.G, self.average):
            models.load_strictly(network, tensors, str(file))
        taken = {"G": f"{len(tensors)} tensors"}
        for stage, D in enumerate(self.Ds):
            if f"D{stage}" in raw.networks:
                models.load_strictly(D, models.read(raw, family, f"D{stage}").state_dict(), str(file))
                taken[f"D{stage}"] = f"{len(D.state_dict())} tensors"
        return taken


class Spoken(nn.Module):
    """A text generator as one of latents alone: the sentences [N, text_dim] come in turn, without noise."""

    c_dim = w_dim = num_ws = 0
    z_distribution = "normal"

    def __init__(self, G: Any, embeddings: Tensor):
        super().__init__()
        self.G, self.embeddings = G, embeddings
        self.z_dim, self.img_size, self.img_channels = G.z_dim, G.img_size, G.img_channels
        self.next = 0

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        turn = (torch.arange(len(z)) + self.next) % len(self.embeddings)
        self.next += len(z)
        return self.G(z, self.embeddings[turn.to(self.embeddings.device)])


def loss_of_d(real: list[Tensor], wrong: list[Tensor], fake: list[Tensor], uncond: float) -> Tensor:
    """What a discriminator loses with its scores. A real picture with a wrong sentence is real and does not fit."""
    if len(real) == 1:
        return F.softplus(-real[0]).mean() + F.softplus(fake[0]).mean()
    fits = F.softplus(-real[0]).mean() + F.softplus(wrong[0]).mean() + F.softplus(fake[0]).mean()
    is_real = F.softplus(-real[1]).mean() + F.softplus(-wrong[1]).mean() + F.softplus(fake[1]).mean()
    return fits + uncond * is_real


def loss_of_g(fake: list[Tensor], uncond: float) -> Tensor:
    """What G loses with a discriminator's scores of its pictures."""
    first = F.softplus(-fake[0]).mean()
    return first if len(fake) == 1 else first + uncond * F.softplus(-fake[1]).mean()


def divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Of normal distributions [N, code_dim] from the standard one, by number: the mean, not the sum."""
    return (mu.square() + logvar.exp() - 1 - logvar).mean() / 2


def sameness(a: Tensor, b: Tensor, z_a: Tensor, z_b: Tensor) -> Tensor:
    """How little pictures [N, C, H, W] differ for what their latents [N, z_dim] do ("Mode Seeking GANs", Mao et al.,
    2019, arXiv:1903.05628)."""
    apart = (a - b).abs().flatten(1).mean(1) / (z_a - z_b).abs().mean(1)
    return (1 / (apart + 0.05)).mean()


def color_difference(stages: list[Tensor]) -> Tensor:
    """Difference of the colours' mean and, five times, covariance between each stage and the one before, which is
    not moved by it. Of the last three stages, as in the authors' code."""
    total = torch.zeros((), device=stages[-1].device)
    for small, large in list(zip(stages, stages[1:], strict=False))[-2:]:
        (mean, covariance), (mean_0, covariance_0) = _colors(large), _colors(small.detach())
        total = total + F.mse_loss(mean, mean_0) + 5 * F.mse_loss(covariance, covariance_0)
    return total


def _colors(pictures: Tensor) -> tuple[Tensor, Tensor]:
    pixels = pictures.flatten(2)
    mean = pixels.mean(dim=2, keepdim=True)
    apart = pixels - mean
    return mean, apart @ apart.transpose(1, 2) / pixels.shape[2]


def _plain(network: nn.Module, device: torch.device) -> Any:
    """Orthogonal weights, as the authors begin with."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return network.to(device).train()
