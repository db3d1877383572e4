"""Trains a small CLIP: pictures and sentences that belong together come to point the same way.

    ganhub train clip --data SET.zip --out runs/eyes [--captions FILE_OR_FOLDER]

"Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021, arXiv:2103.00020), with
open_clip's networks: a ModifiedResNet looks, a transformer reads. A batch repeats sentences, since pictures of one kind
look alike; every picture that has the same sentence is right (as in Khosla et al., 2020, arXiv:2004.11362). Pictures
are first changed a little for the worse, along the gradient: a generator cannot please such a network with noise, only
with colours and shapes that people see too (Santurkar et al., 2019, arXiv:1906.09453).
"""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ganhub import checkpoint, models
from ganhub.data.captions import CaptionedSet
from ganhub.errors import BadInput
from ganhub.models import clip
from ganhub.models.clip import MEAN, STD, Words
from ganhub.training import loop
from ganhub.training.char_cnn_rnn import as_input
from ganhub.training.options import option
from ganhub.training.workers import Workers

KIMG, SNAP = 400, 20
WARM = 100
"""Steps until the learning rate is reached."""
HOTTEST = math.log(100)
"""Of the logarithm of the scale, as in the paper."""


@dataclass(frozen=True)
class Settings:
    captions: str = option("", "table `file,caption`, or folder of CLASS/NAME.txt; beside the set by default")
    dim: int = option(256, "length of the features")
    width: int = option(
        16, "channels of the first convolution over pictures; those of the last layer are 32 times more"
    )
    text_width: int = option(160, "width of the transformer over words, a multiple of 32")
    text_layers: int = option(3, "its layers")
    length: int = option(32, "tokens of a sentence, start and end among them")
    batch: int = option(128, "pairs of a step, over all processes")
    lr: float = option(1e-3, "learning rate")
    decay: float = option(0.05, "weight decay")
    ema: float = option(0.99, "decay of the average of the weights, by step")
    mirror: bool = option(True, "show half of the pictures mirrored")
    balance: bool = option(True, "draw classes by the square root of their number, where the set has classes")
    robust: float = option(1.5, "longest change for the worse, in colours from 0 to 1; 0 for none")
    hold_out: int = option(10, "keep every so many-th original picture, by its name, for validation")
    precision: str = option("auto", "bfloat16, float32, or auto: bfloat16 on a CPU")
    seed: int = option(0, "of weights and draws")


def open_data(path: Path, settings: Settings) -> CaptionedSet:
    return CaptionedSet(path, settings.captions)


class Trainer:
    """Everything that a state of the training holds, and one step."""

    recipe = family = "clip"

    def __init__(self, settings: Settings, data: CaptionedSet, workers: Workers | None = None):
        self.settings = s = settings
        self.workers = workers or Workers()
        device = self.workers.device
        if s.precision not in ("auto", "bfloat16", "float32"):
            raise BadInput(f"--precision is '{s.precision}'; choose bfloat16, float32 or auto.")
        if data.size[0] != data.size[1] or data.size[0] % 32:
            raise BadInput(f"The pictures of {data.path} are {data.size[1]}x{data.size[0]}; a side must be 32, 64, ...")
        if s.text_width % 32 or s.length < 3:
            raise BadInput(
                f"--text-width is {s.text_width}, --length {s.length}; choose a multiple of 32, and 3 or more."
            )
        self.half = s.precision == "bfloat16" or (s.precision == "auto" and device.type == "cpu")
        self.trained, self.held_out = split(data.names, s.hold_out)
        if s.batch % self.workers.count or s.batch // self.workers.count < 2:
            raise BadInput(f"--batch is {s.batch}; a step needs two pairs for each of {self.workers.count} processes.")
        torch.manual_seed(s.seed)
        self.captions = data.captions
        texts = sorted({text for captions in data.captions for text in captions})
        every = Words(s.length)
        used = sorted({token for text in texts for token in every.tokenizer.encode(text)})
        words = Words(s.length, used)
        self.tokens = dict(zip(texts, words(texts), strict=True))
        self.G: Any = clip.build("G", self._config(data.size[0], used, words.size))
        self.G.to(device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        matrices = [value for value in self.G.parameters() if value.dim() > 1]
        others = [value for value in self.G.parameters() if value.dim() < 2]
        groups = [{"params": matrices, "weight_decay": s.decay}, {"params": others, "weight_decay": 0.0}]
        self.opt = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.98), eps=1e-6)
        self.shown = torch.from_numpy(data.pictures()).permute(0, 3, 1, 2).contiguous()
        self.weights = torch.ones(len(self.trained), dtype=torch.float64)
        if s.balance and data.labels is not None and data.labels.ndim == 1:
            labels = data.labels[self.trained]
            self.weights = torch.from_numpy(np.bincount(labels)[labels] ** -0.5)
        self.seen = 0
        self._sow(s.seed * self.workers.count + self.workers.rank)

    def _config(self, size: int, vocabulary: list[int], rows: int) -> dict[str, Any]:
        s = self.settings
        looks = {"image_size": size, "layers": [1, 1, 2, 1], "width": s.width, "head_width": 32}
        reads = {"context_length": s.length, "vocab_size": rows, "width": s.text_width, "heads": s.text_width // 32,
                 "layers": s.text_layers}  # fmt: skip
        parts = {"embed_dim": s.dim, "vision_cfg": looks, "text_cfg": reads}
        return {"clip": parts, "mean": list(MEAN), "std": list(STD), "vocabulary": vocabulary}

    def _sow(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def step(self) -> dict[str, Tensor]:
        s, n, device = self.settings, self.settings.batch // self.workers.count, self.workers.device
        drawn = torch.multinomial(self.weights, n, replacement=True, generator=self.rng).tolist()
        chosen = [self.trained[i] for i in drawn]
        texts = [self.captions[i][int(torch.randint(len(self.captions[i]), (), generator=self.rng))] for i in chosen]
        once = list(dict.fromkeys(texts))
        pictures = self.varied(as_input(self.shown[chosen])).to(device).contiguous(memory_format=torch.channels_last)
        which = torch.tensor([once.index(text) for text in texts], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
            said = self.G.encode_tokens(torch.stack([self.tokens[text] for text in once]).to(device))
        if s.robust:
            pictures = self.worsened(pictures, said.float().detach(), which)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
            seen = self.G.encode_image(pictures)
        loss, right = contrastive_loss(seen.float(), said.float(), which, self.G.clip.logit_scale.exp())
        for group in self.opt.param_groups:
            group["lr"] = s.lr * min(1.0, (self.seen / s.batch + 1) / WARM)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(self.G.parameters())
        self.opt.step()
        with torch.no_grad():
            self.G.clip.logit_scale.clamp_(max=HOTTEST)
        self.seen += s.batch
        loop.lerp(self.average, self.G, self.seen // s.batch, s.ema)
        return {"loss": loss, "right": right, "scale": self.G.clip.logit_scale.exp()}

    def worsened(self, pictures: Tensor, said: Tensor, which: Tensor) -> Tensor:
        """Pictures changed by up to `robust`, so that the loss grows fastest."""
        device = self.workers.device
        pictures = pictures.requires_grad_(True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
            seen = self.G.encode_image(pictures)
        loss, _ = contrastive_loss(seen.float(), said, which, self.G.clip.logit_scale.detach().exp())
        (slope,) = torch.autograd.grad(loss, pictures)
        length = slope.flatten(1).norm(dim=1).clamp(min=1e-12)
        # Colours go from -1 to 1 here, twice as far.
        step = 2 * self.settings.robust * torch.rand(len(pictures), generator=self.rng).to(device) / length
        return (pictures.detach() + step[:, None, None, None] * slope).clamp(-1, 1)

    def varied(self, x: Tensor) -> Tensor:
        """Pictures a little moved, enlarged, mirrored and lit otherwise; their hues stay, since sentences name them."""
        n = len(x)
        zoom, right, down, light, contrast = torch.rand(5, n, generator=self.rng).mul(2).sub(1).unbind()
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 + 0.12 * zoom
        if self.settings.mirror:
            theta[:, 0, 0] *= torch.where(torch.rand(n, generator=self.rng) < 0.5, -1, 1)
        theta[:, 0, 2], theta[:, 1, 2] = 0.12 * right, 0.12 * down
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        scale, offset = (1 + 0.1 * contrast, 0.1 * light)
        return (x * scale[:, None, None, None] + offset[:, None, None, None]).clamp(-1, 1)

    @torch.no_grad()
    def averaged(self, batches: int = 8) -> Any:
        """The averaged network, its BatchNorm statistics measured anew: those of the training lag behind it."""
        G: Any = copy.deepcopy(self.average)
        layers = [layer for layer in G.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
        G.train()
        rng = torch.Generator().manual_seed(self.settings.seed)
        for _ in range(batches):
            drawn = torch.multinomial(self.weights, 128, replacement=True, generator=rng).tolist()
            G.encode_image(as_input(self.shown[[self.trained[i] for i in drawn]]).to(self.workers.device))
        for layer, own in zip(layers, (m for m in self.G.modules() if isinstance(m, nn.BatchNorm2d)), strict=True):
            layer.momentum = own.momentum
        return G.eval()

    def networks(self) -> dict[str, nn.Module]:
        return {"G_train": self.G}

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("G", "average", "opt")}
        return {**parts, "seen": self.seen, "rng": self.rng.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("G", "average", "opt"):
            getattr(self, name).load_state_dict(state[name])
        self.seen = state["seen"]
        if self.workers.first:
            self.rng.set_state(state["rng"])
        else:
            self._sow(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over the network of a checkpoint.

        Raises:
            CheckpointError: the file cannot be read, or its network has another form or other words.
            BadInput: it is of another family.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != self.family:
            raise BadInput(f"{file} is of the family '{family}'; --resume takes one of '{self.family}' here.")
        tensors = models.read(raw, family).state_dict()
        for network in (self.G, self.average):
            models.load_strictly(network, tensors, str(file))
        return {"G": f"{len(tensors)} tensors"}

    @torch.no_grad()
    def _scores(self, G: Any) -> tuple[list[str], Tensor]:
        """The first sentence of each held-out picture, and its scores with all of them: [N, N]."""
        device, texts = self.workers.device, [self.captions[i][0] for i in self.held_out]
        seen, said = [], []
        for at in range(0, len(texts), 64):
            block = self.held_out[at : at + 64]
            seen.append(G.encode_image(as_input(self.shown[block]).to(device)).cpu())
            said.append(
                G.encode_tokens(torch.stack([self.tokens[text] for text in texts[at : at + 64]]).to(device)).cpu()
            )
        return texts, torch.cat(said) @ torch.cat(seen).T

    def measure(self, G: Any) -> dict[str, Any]:
        """Retrieval among the held-out pictures, each with its first sentence.

        `recall_K`: the first K pictures that a sentence finds hold one that it was written for; `pair_K`: they hold
        its own, which cannot be told from others of the same sentence; `named_K`: the first K different sentences
        that a picture finds hold its own.
        """
        texts, scores = self._scores(G)
        once = list(dict.fromkeys(texts))
        number = torch.tensor([once.index(text) for text in texts])
        best = scores.topk(min(10, len(texts)), dim=1).indices
        rows = torch.stack([scores[texts.index(text)] for text in once])
        named = rows.T.topk(min(10, len(once)), dim=1).indices
        figures: dict[str, Any] = {"pictures": len(texts), "sentences": len(once)}
        for k in (1, 10):
            figures[f"recall_{k}"] = float((number[best[:, :k]] == number[:, None]).any(1).double().mean())
            figures[f"pair_{k}"] = float((best[:, :k] == torch.arange(len(texts))[:, None]).any(1).double().mean())
            figures[f"named_{k}"] = float((named[:, :k] == number[:, None]).any(1).double().mean())
        return figures

    def sheet(self, G: Any) -> Image.Image:
        """A row for each of eight held-out sentences: its own picture, then those that it finds, best first."""
        _, scores = self._scores(G)
        rows = []
        for i in range(0, len(scores), max(1, len(scores) // 8))[:8]:
            found = scores[i].topk(min(8, len(scores))).indices.tolist()
            rows.append(torch.cat([self.shown[self.held_out[j]] for j in (i, *found)], dim=2))
        sheet = torch.cat(rows, dim=1).permute(1, 2, 0)
        return Image.fromarray(sheet.squeeze(2).numpy())


def contrastive_loss(seen: Tensor, said: Tensor, which: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of pictures over sentences and of sentences over pictures, and how many pictures find theirs.

    Args:
        seen: features of pictures [N, dim].
        said: features of different sentences [M, dim].
        which: the sentence of each picture [N]. All pictures of a sentence are right for it, in equal parts.
        scale: of the scores.
    """
    scores = scale * seen @ said.T
    of_pictures = F.cross_entropy(scores, which)
    belongs = F.one_hot(which, len(said)).T.float()
    of_sentences = F.cross_entropy(scores.T, belongs / belongs.sum(1, keepdim=True))
    return (of_pictures + of_sentences) / 2, (scores.argmax(1) == which).float().mean()


def split(names: list[str], hold_out: int) -> tuple[list[int], list[int]]:
    """Numbers of the pictures that are trained on, and of those kept for validation; parts of one page stay together.

    Raises:
        BadInput: nothing would be left.
    """
    held = [hold_out > 1 and zlib.crc32(name.encode()) % hold_out == 0 for name in names]
    if all(held) or not any(held):
        raise BadInput(f"--hold-out is {hold_out}, which leaves {sum(held)} of {len(names)} pictures for validation.")
    return [i for i, kept in enumerate(held) if not kept], [i for i, kept in enumerate(held) if kept]
