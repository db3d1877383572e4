"""CLIP (Radford et al., 2021, https://arxiv.org/abs/2103.00020): how well a picture fits a sentence.

The networks are open_clip's (extra `clip`): its published files, ViT-B-32 and MobileCLIP2-S0 among them, and small ones
of this project's own (`ganhub train clip`). A published file does not say which of open_clip's models it is: a row's
`config.model` names it, as `ViT-B-32-quickgelu`; `config.mean` and `config.std` are for files that want other colours
than OpenAI's. Our own files carry their whole configuration.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import load_strictly
from ganhub.models._parts import tensors_of

OPTIONS = ("model", "mean", "std")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that OpenAI trained on."""

MOST_CACHED = 4096
"""Sentences whose features are kept."""


class Words:
    """Sentences -> numbers of tokens, by open_clip's byte pairs, as many as a network has rows for.

    Args:
        length: tokens of a sentence with its start and end; what is longer is cut.
        vocabulary: the tokens that have a row of their own, beside the bytes; None for all of them. Others are spelled
            in bytes.
    """

    def __init__(self, length: int, vocabulary: list[int] | None = None):
        from open_clip.tokenizer import SimpleTokenizer

        self.length, self.vocabulary = length, vocabulary
        self.tokenizer = SimpleTokenizer(context_length=length)
        if vocabulary is not None:
            pairs = [number for number in vocabulary if number >= BYTES]
            self.rows = {number: row for row, number in enumerate([*range(BYTES), *pairs])}

    @property
    def size(self) -> int:
        """Rows of the table of tokens."""
        return self.tokenizer.vocab_size if self.vocabulary is None else len(self.rows) + 2

    def __call__(self, sentences: list[str]) -> Tensor:
        """int64 [N, length], zero after the end. The end has the highest number: the network looks for it."""
        out = torch.zeros(len(sentences), self.length, dtype=torch.int64)
        for line, sentence in zip(out, sentences, strict=True):
            tokens = [row for token in self.tokenizer.encode(sentence) for row in self._rows(token)]
            tokens = [self.size - 2, *tokens[: self.length - 2], self.size - 1]
            line[: len(tokens)] = torch.tensor(tokens)
        return out

    def _rows(self, token: int) -> list[int]:
        if self.vocabulary is None:
            return [token]
        if token in self.rows:
            return [self.rows[token]]
        letters = self.tokenizer.decoder[token]
        ends = letters.endswith(END)
        spelled = list(letters.removesuffix(END))
        return [self.tokenizer.encoder[s] for s in [*spelled[:-1], spelled[-1] + END * ends]]


BYTES, END = 512, "</w>"
"""The first tokens are single bytes, inside of a word and at its end."""


class CLIP(nn.Module):
    """Pictures and sentences -> features of one length, whose product says how well they fit.

    Config: `clip`, a configuration of open_clip (`embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`, `custom_text`);
    `mean` and `std` of the pictures in [0, 1]; `vocabulary`, see `Words`.

    Attributes:
        image_size: side of the pictures that it looks at.
        text_dim: length of the features.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        try:
            from open_clip.model import CLIP as Plain
            from open_clip.model import CustomTextCLIP
        except ImportError as error:
            raise CheckpointError(
                f"CLIP needs open_clip_torch ({error}); install it with pip install 'ganhub[clip]'."
            ) from error
        self.config = config
        known = dict(config["clip"])
        made = CustomTextCLIP if known.pop("custom_text", False) else Plain
        self.clip: Any = made(**known)
        size = known["vision_cfg"]["image_size"]
        self.image_size: int = size if isinstance(size, int) else size[0]
        self.text_dim: int = known["embed_dim"]
        self.words = Words(known["text_cfg"].get("context_length", 77), config.get("vocabulary"))
        # Not buffers: no published file holds them.
        self.mean, self.std = config["mean"], config["std"]
        self.known: dict[str, Tensor] = {}

    def encode_image(self, x: Tensor) -> Tensor:
        """Pictures [N, 1 or 3, H, W] in [-1, 1] -> features [N, text_dim] of length 1, differentiable.

        Squares of the network's size are looked at as they are; everything else is resized so that it covers that size,
        and its middle is taken, as open_clip does.
        """
        side, (height, width) = self.image_size, x.shape[2:]
        if (height, width) != (side, side):
            scale = side / min(height, width)
            to = [max(side, round(height * scale)), max(side, round(width * scale))]
            x = F.interpolate(x, to, mode="bicubic", antialias=True, align_corners=False)
            top, left = (to[0] - side) // 2, (to[1] - side) // 2
            x = x[:, :, top : top + side, left : left + side]
        x = (x.clamp(-1, 1) + 1) / 2
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1) for v in (self.mean, self.std))
        return self.clip.encode_image((x.expand(-1, 3, -1, -1) - mean) / std, normalize=True)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens as `words` gives them -> features [N, text_dim] of length 1."""
        return self.clip.encode_text(tokens, normalize=True)

    @torch.no_grad()
    def encode_text(self, sentences: list[str]) -> Tensor:
        """Any sentences -> features [N, text_dim] of length 1. Those that it has read before come from memory."""
        device = next(self.parameters()).device
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.known]
        if len(self.known) + len(new) > MOST_CACHED:
            new, self.known = list(dict.fromkeys(sentences)), {}
        for at in range(0, len(new), 64):
            block = new[at : at + 64]
            features = self.encode_tokens(self.words(block).to(device)).float()
            self.known |= dict(zip(block, features.unbind(), strict=True))
        return torch.stack([self.known[sentence] for sentence in sentences]).to(device)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_image(x)


def detect(raw: RawCheckpoint) -> bool:
    keys = {key for network in raw.networks.values() for key in network.tensors}
    return "logit_scale" in keys and any(key.endswith("token_embedding.weight") for key in keys)


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """A published network of open_clip.

    Raises:
        CheckpointError: `config.model` is missing or unknown, or the file holds another network.
    """
    if unknown := set(config) - set(OPTIONS):
        raise CheckpointError(f"config.{min(unknown)} means nothing to this family; it knows {', '.join(OPTIONS)}.")
    facts: dict[str, Any] = {"clip": _published(raw.name, config.get("model")), "vocabulary": None}
    facts |= {"mean": list(config.get("mean", MEAN)), "std": list(config.get("std", STD))}
    # Built without memory: the file is what fills it.
    with torch.device("meta"):
        network = CLIP(facts)
    load_strictly(
        network, {f"clip.{key}": value for key, value in tensors_of(raw, part).items()}, raw.name, assign=True
    )
    return _with_masks(network)


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return CLIP(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """The network itself, in both forms: the engine's arithmetic makes the fast one."""
    return network


def _published(name: str, model: Any) -> dict[str, Any]:
    """Configuration of one of open_clip's models."""
    try:
        from open_clip import get_model_config
    except ImportError:
        raise CheckpointError(f"{name} needs open_clip_torch; install it with pip install 'ganhub[clip]'.") from None
    known = get_model_config(model) if isinstance(model, str) else None
    if known is None or "hf_model_name" in known["text_cfg"]:
        raise CheckpointError(
            f"{name}: config.model must name a model of open_clip that reads by its own byte pairs, such as "
            f"ViT-B-32-quickgelu, not {model!r}."
        )
    return known


def _with_masks(network: CLIP) -> CLIP:
    """Attention masks are no part of a file, and were built without memory."""
    text = network.clip.text if hasattr(network.clip, "text") else network.clip
    if text.attn_mask is not None:
        length = text.attn_mask.shape[0]
        text.attn_mask = torch.full((length, length), float("-inf")).triu_(1)
    return network
