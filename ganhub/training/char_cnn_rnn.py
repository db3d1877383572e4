"""Trains a text encoder: sentences and pictures that belong together come to lie close.

    ganhub train char-cnn-rnn --data SET.zip --out runs/words [--captions FILE_OR_FOLDER]

"Learning Deep Representations of Fine-grained Visual Descriptions" (Reed et al., 2016, arXiv:1605.05395): a network
over characters, and the symmetric structured joint embedding loss. There the pictures' embeddings were given; here a
small convolutional network learns them along. A sentence that stands for several pictures of a batch is never wrong.

Most sentences of a set may be about one kind, and colours tell pictures apart sooner than kinds do, so that the nouns
are hardly heard. Hence the same means as a StackGAN's (`drawing.py`): kinds drawn equally often, pictures in other
colours, and a layer that has to name the kind from what becomes of a sentence, or of a picture.
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
from ganhub.data.captions import CaptionedSet
from ganhub.errors import BadInput
from ganhub.models import char_cnn_rnn
from ganhub.models.char_cnn_rnn import ALPHABET, encode_text
from ganhub.training.drawing import Draws, need_classes
from ganhub.training.matching import Swaps
from ganhub.training.options import option
from ganhub.training.reals import shares
from ganhub.training.workers import Workers

KIMG, SNAP = 400, 20


@dataclass(frozen=True)
class Settings:
    captions: str = option("", "table `file,caption`, or folder of CLASS/NAME.txt; beside the set by default")
    dim: int = option(1024, "width of the embeddings")
    width: int = option(512, "channels of the last two convolutions over characters; the first has three quarters")
    cell: str = option("gru", "gru, with 18 steps, or rnn, with 8: as the paper's birds and flowers")
    picture_width: int = option(
        32, "channels of the first convolution over pictures; each of the next has twice as many"
    )
    batch: int = option(40, "pairs of a step, over all processes")
    lr: float = option(4e-4, "learning rate")
    decay: float = option(0.98, "the learning rate after each pass over the set, as a share of that before")
    mirror: bool = option(False, "show half of the pictures mirrored")
    balance: float = option(0.0, "0 draws classes as large as they are, 1 all equally often, 0.5 in between")
    fewest: int = option(1, "leave out classes with fewer pictures")
    kinds: float = option(0.0, "weight of which kind sentences and pictures are taken for")
    recolour: float = option(0.0, "share of pictures that have another colour, and whose sentences name that")
    hold_out: int = option(10, "keep every so many-th picture for validation")
    seed: int = option(0, "of weights and draws")


def open_data(path: Path, settings: Settings) -> CaptionedSet:
    return CaptionedSet(path, settings.captions)


class Trainer:
    """Everything that a state of the training holds, and one step."""

    recipe = family = "char_cnn_rnn"

    def __init__(self, settings: Settings, data: CaptionedSet, workers: Workers | None = None):
        self.settings = s = settings
        self.workers = workers or Workers()
        device = self.workers.device
        if s.cell not in ("gru", "rnn"):
            raise BadInput(f"--cell is '{s.cell}'; choose gru or rnn.")
        self.trained, self.held_out = split(len(data), s.hold_out)
        if s.batch % self.workers.count or not 2 <= s.batch // self.workers.count <= len(self.trained):
            raise BadInput(
                f"--batch is {s.batch}; a step needs at least two pairs for each of {self.workers.count} processes, "
                f"and at most the {len(self.trained)} pictures that are trained on."
            )
        weights = shares(data, s.balance, s.fewest)
        drawn = torch.ones(len(self.trained)) if weights is None else weights[self.trained].float()
        if weights is not None:
            self.held_out = [i for i in self.held_out if weights[i] > 0]
        need_classes(data, recolour=s.recolour, kinds=s.kinds)
        self.draws = Draws(data, self.trained, drawn, s.recolour)
        if s.kinds:
            self.draws.swaps = Swaps(data, self.draws.every_kind())
        torch.manual_seed(s.seed)
        words = {"widths": [s.width * 3 // 4, s.width, s.width], "dim": s.dim, "cell": s.cell}
        text: Any = char_cnn_rnn.build("G", {**words, "pools": 2 if s.cell == "gru" else 3})
        for value in text.parameters():
            nn.init.uniform_(value, -0.08, 0.08)
        halvings = max(1, min(data.size).bit_length() - 3)
        widths = [s.picture_width << min(k, 3) for k in range(halvings)]
        self.text = text.to(device).train()
        self.pictures: Any = char_cnn_rnn.build("pictures", {"channels": data.channels, "widths": widths, "dim": s.dim})
        self.pictures.to(device).train()
        self.namer: Any = (nn.Linear(s.dim, len(data.classes)) if s.kinds else nn.Identity()).to(device)
        learned = [*self.text.parameters(), *self.pictures.parameters(), *self.namer.parameters()]
        self.opt = torch.optim.RMSprop(learned, lr=s.lr)
        self.captions = data.captions
        self.seen = 0
        self._sow(s.seed * self.workers.count + self.workers.rank)

    def _sow(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def step(self) -> dict[str, Tensor]:
        s, n = self.settings, self.settings.batch // self.workers.count
        drawn = self.draws.pairs(n, self.rng)
        texts = drawn.texts
        pairs = list(zip(texts, drawn.chosen, strict=True))
        same = torch.tensor([[text == other or i == k for other, k in pairs] for text, i in pairs])
        pictures = as_input(drawn.pictures)
        if s.mirror:
            turned = torch.rand(n, 1, 1, 1, generator=self.rng) < 0.5
            pictures = torch.where(turned, pictures.flip(3), pictures)
        device = self.workers.device
        said = self.text(read(texts + drawn.asked).to(device))
        seen = self.pictures(pictures.to(device))
        loss, right = structured_loss(said[:n], seen, same.to(device))
        figures = {"loss": loss, "right": right}
        if s.kinds:
            kinds = self.draws.kinds(drawn.chosen)
            heard = kinds.masked_fill(torch.tensor([not nouns for nouns in drawn.nouns]), -1)
            asked = torch.tensor(drawn.asked_kinds, dtype=kinds.dtype)
            for name, x, wanted in (("text", said, torch.cat([heard, asked])), ("picture", seen, kinds)):
                misnamed = F.cross_entropy(self.namer(x), wanted.to(device).long(), ignore_index=-1)
                figures[f"loss_kind_of_{name}"] = misnamed
                loss = loss + s.kinds * misnamed
        for group in self.opt.param_groups:
            group["lr"] = s.lr * s.decay ** (self.seen // len(self.trained))
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(group["params"])
        self.opt.step()
        self.seen += s.batch
        return figures

    def averaged(self) -> Any:
        """The text encoder, which has no average, as it is."""
        return copy.deepcopy(self.text).eval()

    def networks(self) -> dict[str, nn.Module]:
        return {"pictures": self.pictures}

    def state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("text", "pictures", "namer", "opt")}
        return {**parts, "seen": self.seen, "rng": self.rng.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("text", "pictures", "namer", "opt"):
            getattr(self, name).load_state_dict(state[name])
        self.seen = state["seen"]
        if self.workers.first:
            self.rng.set_state(state["rng"])
        else:
            self._sow(self.settings.seed + self.seen * self.workers.count + self.workers.rank)

    def transfer(self, file: Path) -> dict[str, str]:
        """Takes over the text encoder of a checkpoint, and the network for pictures where it has one.

        Raises:
            CheckpointError: the file cannot be read, or its encoder has another form.
            BadInput: it is of another family.
        """
        raw = checkpoint.read(file)
        family = models.detect(raw)
        if family != self.family:
            raise BadInput(f"{file} is of the family '{family}'; --resume takes one of '{self.family}' here.")
        tensors = models.read(raw, family).state_dict()
        models.load_strictly(self.text, tensors, str(file))
        taken = {"text": f"{len(tensors)} tensors"}
        if "pictures" in raw.networks:
            models.load_strictly(self.pictures, models.read(raw, family, "pictures").state_dict(), str(file))
            taken["pictures"] = f"{len(self.pictures.state_dict())} tensors"
        return taken

    @torch.no_grad()
    def _scores(self, G: Any) -> tuple[list[str], Tensor]:
        """The first sentence of each held-out picture, and its scores with all of them: [N, N]."""
        device = self.workers.device
        eyes = copy.deepcopy(self.pictures).eval()
        seen, said = [], []
        for at in range(0, len(self.held_out), 64):
            block = self.held_out[at : at + 64]
            seen.append(eyes(as_input(self.draws.shown[block]).to(device)).cpu())
            said.append(G(read([self.captions[i][0] for i in block]).to(device)).cpu())
        return [self.captions[i][0] for i in self.held_out], torch.cat(said) @ torch.cat(seen).T

    def measure(self, G: Any) -> dict[str, Any]:
        """How often a held-out sentence finds a picture that it stands for, first or among the first ten."""
        texts, scores = self._scores(G)
        best = scores.topk(min(10, len(texts)), dim=1).indices.tolist()
        hits = [[texts[j] == text for j in row] for text, row in zip(texts, best, strict=True)]
        recall = {f"recall_{k}": float(np.mean([any(row[:k]) for row in hits])) for k in (1, 10)}
        return {"pictures": len(texts), **recall}

    def sheet(self, G: Any) -> Image.Image:
        """A row for each of eight held-out sentences: its own picture, then those that it finds, best first."""
        _, scores = self._scores(G)
        rows = []
        for i in range(0, len(scores), max(1, len(scores) // 8))[:8]:
            found = scores[i].topk(min(8, len(scores))).indices.tolist()
            rows.append(torch.cat([self.draws.shown[self.held_out[j]] for j in (i, *found)], dim=2))
        sheet = torch.cat(rows, dim=1).permute(1, 2, 0)
        return Image.fromarray(sheet.squeeze(2).numpy())


def structured_loss(text: Tensor, pictures: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric structured joint embedding loss of embeddings [N, dim], and how many of them find their own.

    `same` [N, N] marks the pairs that belong together, the diagonal among them.
    """
    scores = pictures @ text.T
    own = scores.diagonal()
    cost = F.relu(1 + scores - own[:, None]) + F.relu(1 + scores - own[None, :])
    right = same.gather(1, scores.argmax(dim=1, keepdim=True)).float().mean()
    return cost.masked_fill(same, 0).mean(), right


def split(count: int, hold_out: int) -> tuple[list[int], list[int]]:
    """Numbers of the pictures that are trained on, and of those kept for validation.

    Raises:
        BadInput: nothing would be left.
    """
    if hold_out < 2 or count <= hold_out:
        raise BadInput(f"--hold-out is {hold_out}; choose 2 or more, and fewer than the {count} pictures of the set.")
    return [i for i in range(count) if i % hold_out], list(range(0, count, hold_out))


def places(sentence: str) -> Tensor:
    """Places of the characters in the alphabet, from 1 on; 0 for nothing: uint8 [201]."""
    columns = encode_text(sentence)[0]
    return ((columns.argmax(dim=0) + 1) * columns.any(dim=0)).byte()


def read(sentences: list[str]) -> Tensor:
    """One-hot sentences [N, 70, 201]."""
    return one_hot(torch.stack([places(sentence) for sentence in sentences]))


def one_hot(numbers: Tensor) -> Tensor:
    """Places [N, 201] -> one-hot sentences [N, 70, 201]."""
    return F.one_hot(numbers.long(), len(ALPHABET) + 1)[..., 1:].transpose(1, 2).float()


def as_input(pictures: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return pictures.float() / 127.5 - 1
