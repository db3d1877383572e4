"""SRResNet and SRGAN (Ledig et al., 2017, https://arxiv.org/abs/1609.04802): first the pixels, then the look.

Two phases, as in the paper: until `--pretrain` thousand patches G learns to be right on average (SRResNet), and from
there on to be taken for a photograph as well (SRGAN): a distance in a network's activations, and a discriminator. The
set is a folder of photographs of any size; what G enlarges are the same photographs made smaller, or made worse
(`--degrade`). Whole photos are decoded and made smaller once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganhub import checkpoint, models
from ganhub.data.photos import PhotoSet
from ganhub.errors import BadInput
from ganhub.models import srresnet
from ganhub.training.degrade import degrade, shrink
from ganhub.training.loop import lerp
from ganhub.training.options import option
from ganhub.training.pair import autocast, loss_of_d, loss_of_g
from ganhub.training.perceptual import Perceptual
from ganhub.training.workers import Workers

KIMG = 400
SNAP = 20
SHOWN = 192
"""Side of the crops of validation photos, in pixels of the large picture."""


@dataclass(frozen=True)
class Settings:
    scale: int = option(4, "how many times larger: 2, 4 or 8")
    channels: int = option(64, "of the blocks")
    blocks: int = option(16, "residual blocks")
    norm: bool = option(False, "batch normalisation, as in the paper; without it the colours stay truer")
    kernel: int = option(3, "side of the first and last convolution; 9 in the paper")
    base: str = option("bilinear", "bilinear: G adds to the enlarged input; none, as in the paper")
    ndf: int = option(32, "channels of D's first layer; 64 in the paper")
    patch: int = option(96, "side of a patch, in pixels of the large picture")
    batch: int = option(16, "patches of a step, over all processes")
    pretrain: float = option(200.0, "thousand patches of the first phase; 0 with --resume CHECKPOINT")
    loss: str = option("l1", "of the first phase: l1, or mse as in the paper")
    lr: float = option(4e-4, "learning rate of the first phase")
    lr_g: float = option(1e-4, "learning rate of G in the second phase")
    lr_d: float = option(1e-4, "learning rate of D")
    perceptual: str = option("small", "what the look is compared in: small (features-small, shipped), or vgg")
    weight_pixel: float = option(0.2, "of the distance of pixels in the second phase")
    weight_look: float = option(0.1, "of the distance of activations")
    weight_adversarial: float = option(2e-3, "of what D says")
    degrade: bool = option(False, "blur, noise and JPEG in what G enlarges, for photographs as they are found")
    shrink: float = option(1.0, "make every photo smaller by this factor first, which removes traces of JPEG")
    hold_out: int = option(6, "keep every so many-th photo for validation")
    ema: float = option(0.999, "share of the average of G's weights that a step keeps")
    precision: str = option("auto", "float32 or bfloat16")
    seed: int = option(0, "of weights and draws")


def open_data(path: Path, settings: Settings) -> PhotoSet:
    """The set that `--data` names: a folder of photographs."""
    return PhotoSet(path, settings.shrink, settings.hold_out, settings.patch)


class Trainer:
    """Everything that a state of the training holds, and one step."""

    recipe, family = "srgan", "srresnet"

    def __init__(self, settings: Settings, data: PhotoSet, workers: Workers | None = None):
        self.settings = s = settings
        self.workers = workers or Workers()
        if s.scale not in (2, 4, 8):
            raise BadInput(f"--scale is {s.scale}; choose 2, 4 or 8.")
        if s.patch % (16 * s.scale // 4) or s.patch < 32:
            raise BadInput(f"--patch is {s.patch}; choose a multiple of {4 * s.scale} from 32.")
        if s.loss not in ("l1", "mse"):
            raise BadInput(f"--loss is '{s.loss}'; choose l1 or mse.")
        if s.batch < 1 or s.batch % self.workers.count:
            raise BadInput(f"A batch of {s.batch} cannot be split over {self.workers.count} processes.")
        device = self.workers.device
        self.dtype = autocast(s.precision, device)
        torch.manual_seed(s.seed)
        ups = [[2, s.channels]] * (s.scale.bit_length() - 1)
        G: Any = srresnet.SRResNet(s.channels, s.blocks, ups, (s.kernel, s.kernel), norm=s.norm, base=s.base)
        for layer in G.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        for block in G.trunk:  # the blocks begin as small corrections
            nn.init.zeros_(block.body[-1].weight) if s.norm else block.body[-1].weight.data.mul_(0.1)  # type: ignore
        G.last.weight.data.mul_(0.1)
        self.G = G.to(device, memory_format=torch.channels_last).train()
        D: Any = srresnet.Discriminator(s.ndf, norm=True)
        self.D = D.to(device, memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=s.lr, betas=(0.9, 0.99), fused=True)
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=s.lr_d, betas=(0.9, 0.99), fused=True)
        self._look: Perceptual | None = None
        self.seen = 0
        self.rng = torch.Generator().manual_seed(s.seed * self.workers.count + self.workers.rank)
        self.large = [_tensor(data.photos[i], s.scale) for i in data.trained]
        self.small = [_shrunk(photo, s.scale) for photo in self.large]
        areas = torch.tensor([float(p.shape[1] * p.shape[2]) for p in self.large])
        self.shares = areas / areas.sum()
        self.validation = [data.photos[i] for i in data.held_out]

    def patches(self, n: int) -> tuple[Tensor, Tensor]:
        """Small and large patches that show the same, mirrored and turned at random: [n, 3, ., .] in [0, 1]."""
        s = self.settings
        side = s.patch // s.scale
        low, high = [], []
        for i in torch.multinomial(self.shares, n, replacement=True, generator=self.rng).tolist():
            small, large = self.small[i], self.large[i]
            draw = torch.rand(5, generator=self.rng).tolist()
            top = int(draw[0] * (small.shape[1] - side + 1))
            left = int(draw[1] * (small.shape[2] - side + 1))
            pair = [
                small[:, top : top + side, left : left + side],
                large[:, top * s.scale :, left * s.scale :][:, : s.patch, : s.patch],
            ]
            for axis in (1, 2):
                if draw[axis + 1] < 0.5:
                    pair = [p.flip(axis) for p in pair]
            if draw[4] < 0.5:
                pair = [p.transpose(1, 2) for p in pair]
            low.append(pair[0])
            high.append(pair[1])
        true = torch.stack(high).float() / 255
        given = degrade(true, s.scale, self.rng) if s.degrade else torch.stack(low).float() / 255
        device = self.workers.device
        return tuple(t.to(device).contiguous(memory_format=torch.channels_last) for t in (given, true))  # type: ignore

    @property
    def adversarial(self) -> bool:
        """The second phase has begun."""
        return self.seen >= self.settings.pretrain * 1000

    def step(self) -> dict[str, Tensor]:
        s = self.settings
        given, true = self.patches(s.batch // self.workers.count)
        with self.autocast():
            made = self.G(given).float()
        figures = self._second(made, true) if self.adversarial else self._first(made, true)
        self.seen += s.batch
        lerp(self.average, self.G, self.seen // s.batch, s.ema)
        return figures

    def _first(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        loss = F.l1_loss(made, true) if self.settings.loss == "l1" else F.mse_loss(made, true)
        self._descend(self.G, self.opt_g, loss)
        return {"loss_pixel": loss}

    def _second(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        s = self.settings
        for group in self.opt_g.param_groups:
            group["lr"] = s.lr_g
        with self.autocast():
            real_score, fake_score = self.D(true).float(), self.D(made.detach()).float()
        loss_d = loss_of_d("bce", real_score, fake_score)
        self._descend(self.D, self.opt_d, loss_d)

        self.D.requires_grad_(False)
        with self.autocast():
            score = self.D(made).float()
            look = self.look(made, true)
        pixel = F.l1_loss(made, true)
        doubt = loss_of_g("bce", score)
        loss_g = s.weight_pixel * pixel + s.weight_look * look + s.weight_adversarial * doubt
        self._descend(self.G, self.opt_g, loss_g)
        self.D.requires_grad_(True)
        signs = {"sign_real": real_score.sign().mean(), "sign_fake": fake_score.sign().mean()}
        return {"loss_d": loss_d, "loss_pixel": pixel, "loss_look": look, "loss_g": doubt, **signs}

    @property
    def look(self) -> Perceptual:
        if self._look is None:
            self._look = Perceptual(self.settings.perceptual).to(self.workers.device)
        return self._look

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.workers.device.type, self.dtype, enabled=self.dtype is not None)

    def _descend(self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(network.parameters())
        optimizer.step()

    def averaged(self) -> Any:
        """The averaged generator; its BatchNorm statistics, if it has any, are the training's."""
        G = copy.deepcopy(self.average)
        for own, now in zip(G.buffers(), self.G.buffers(), strict=True):
            own.copy_(now)
        return G.eval()

    def measure(self, G: Any) -> dict[str, Any]:
        """Figures of at most 40 of the photos that were held out, in the middle 512 pixels of each."""
        from ganhub.metrics.pictures import validate

        chosen = self.validation[:: -(-len(self.validation) // 40)]
        return validate(G.to(self.workers.device), [_middle(p, 512) for p in chosen], self.settings.scale)

    @torch.no_grad()
    def sheet(self, G: Any) -> Image.Image:
        """Crops of validation photos: enlarged by bicubic, by G, and as they are."""
        rows = []
        for photo in self.validation[:8]:
            true = _tensor(_middle(photo, SHOWN), self.settings.scale)
            small = _shrunk(true, self.settings.scale)
            made = G((small.float() / 255)[None].to(self.workers.device))[0]
            plain = Image.fromarray(small.permute(1, 2, 0).numpy())
            plain = plain.resize((true.shape[2], true.shape[1]), Image.Resampling.BICUBIC)
            shown = made.float().mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            row = np.concatenate([np.asarray(plain), shown, true.permute(1, 2, 0).numpy()], 1)
            rows.append(np.pad(row, ((0, SHOWN - row.shape[0]), (0, 3 * SHOWN - row.shape[1]), (0, 0))))
        return Image.fromarray(np.concatenate(rows)) if rows else Image.new("RGB", (3 * SHOWN, SHOWN))

    def networks(self) -> dict[str, nn.Module]:
        return {"D": self.D}

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("G", "D", "average", "opt_g", "opt_d")}
        return {**parts, "seen": self.seen, "rng": self.rng.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("G", "D", "average", "opt_g", "opt_d"):
            getattr(self, name).load_state_dict(state[name])
        self.seen = state["seen"]
        if self.workers.first:
            self.rng.set_state(state["rng"])
        else:
            self.rng.manual_seed(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over the generator of a checkpoint, and its discriminator where it has one.

        Raises:
            CheckpointError: the file cannot be read, or its networks have other layers.
            BadInput: it is of another family.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != self.family:
            raise BadInput(f"{file} is of the family '{family}'; --resume takes one of '{self.family}' here.")
        G = models.read(raw, family, "G").state_dict()
        taken = {"G": f"{len(G)} tensors"}
        for network in (self.G, self.average):
            models.load_strictly(network, G, str(file))
        if "D" in raw.networks:
            models.load_strictly(self.D, models.read(raw, family, "D").state_dict(), str(file))
            taken["D"] = f"{len(self.D.state_dict())} tensors"
        return taken


def _tensor(photo: np.ndarray, scale: int) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [3, H, W], cut to multiples of the scale."""
    height, width = (side - side % scale for side in photo.shape[:2])
    return torch.from_numpy(np.ascontiguousarray(photo[:height, :width].transpose(2, 0, 1)))


def _shrunk(photo: Tensor, scale: int) -> Tensor:
    return shrink(photo[None].float(), scale)[0].round().clamp(0, 255).byte()


def _middle(photo: np.ndarray, side: int) -> np.ndarray:
    top, left = (max(0, (length - side) // 2) for length in photo.shape[:2])
    return photo[top : top + side, left : left + side]
