"""The char-CNN-RNN text encoder (Reed et al., 2016, https://arxiv.org/abs/1605.05395), in its published variants.

Three convolutions over characters, a recurrent network over what they leave, and the mean of its states. Published for
birds and flowers, with two papers: GRU and 18 steps for birds of the ICML paper, else a plain network with ReLU and a
third pooling, which leaves 8 steps. Read from state dicts of the PyTorch port (martinduartemore/char_cnn_rnn_pytorch)
and from the authors' Torch7 files. Widths are read from shapes; a row's `config` may say `pools` (2 or 3), which
a state dict does not tell.

Every sentence is read by itself, whatever it shares a batch with: the port adds the states of all sentences of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import load_strictly
from ganhub.models._parts import tensors_of

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
LENGTH = 201
_PLACES = {character: place for place, character in enumerate(ALPHABET)}
"""Of the two dashes the last counts, as in the authors' code."""

How = Literal["nips2016", "icml2016", "port"]
HOW: tuple[How, ...] = ("nips2016", "icml2016", "port")


@dataclass(frozen=True)
class Reading:
    """How a sentence was read.

    Args:
        text: the characters that reach the network; a middle dot stands for one that it does not know.
        unknown: the characters outside of the alphabet, each once.
        cut: the end of the sentence, for which there was no place.
    """

    text: str
    unknown: str
    cut: str


def encode_text(sentence: str, how: How = "nips2016") -> tuple[Tensor, Reading]:
    """A sentence as one-hot columns [70, 201], zero after its end, and how it was read.

    Args:
        sentence: any text; what does not fit 201 characters is cut off.
        how: `nips2016` reads capitals as small letters and unknown characters as nothing, as the authors' last code
            does; `icml2016` knows no capitals; `port` reads unknown characters as spaces.

    Raises:
        BadInput: there is no such way to read.
    """
    if how not in HOW:
        raise BadInput(f"There is no way to read a sentence called '{how}'; there are {', '.join(HOW)}.")
    text = sentence if how == "icml2016" else sentence.lower()
    kept, cut = text[:LENGTH], text[LENGTH:]
    one_hot = torch.zeros(len(ALPHABET), LENGTH)
    for column, character in enumerate(kept):
        place = _PLACES.get(character, _PLACES[" "] if how == "port" else None)
        if place is not None:
            one_hot[place, column] = 1
    unknown = "".join(dict.fromkeys(c for c in kept if c not in _PLACES))
    return one_hot, Reading("".join(c if c in _PLACES else "\N{MIDDLE DOT}" for c in kept), unknown, cut)


class GRU(nn.Module):
    """x [N, steps, C] -> the mean of the states [N, C]. The first state is tanh(i2h(x)), without gates."""

    def __init__(self, width: int):
        super().__init__()
        self.i2h_update, self.h2h_update = nn.Linear(width, width), nn.Linear(width, width)
        self.i2h_reset, self.h2h_reset = nn.Linear(width, width), nn.Linear(width, width)
        self.i2h, self.h2h = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        updates, resets, candidates = self.i2h_update(x), self.i2h_reset(x), self.i2h(x)
        state = torch.tanh(candidates[:, 0])
        states = [state]
        for step in range(1, x.shape[1]):
            update = torch.sigmoid(updates[:, step] + self.h2h_update(state))
            reset = torch.sigmoid(resets[:, step] + self.h2h_reset(state))
            candidate = torch.tanh(candidates[:, step] + self.h2h(reset * state))
            state = update * candidate + (1 - update) * state
            states.append(state)
        return torch.stack(states).mean(dim=0)


class RNN(nn.Module):
    """x [N, steps, C] -> the mean of the states [N, C]. The first state is relu(i2h(x)), without the bias of h2h."""

    def __init__(self, width: int):
        super().__init__()
        self.i2h, self.h2h = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.i2h(x)
        state = torch.relu(inputs[:, 0])
        states = [state]
        for step in range(1, x.shape[1]):
            state = torch.relu(inputs[:, step] + self.h2h(state))
            states.append(state)
        return torch.stack(states).mean(dim=0)


class TextEncoder(nn.Module):
    """One-hot sentences [N, 70, 201] -> embeddings [N, dim].

    Config: `widths` of the three convolutions; `dim`; `cell`, `gru` or `rnn`; `pools`, 2 or 3.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        widths = [len(ALPHABET), *config["widths"]]
        self.dim: int = config["dim"]
        self.conv1, self.conv2, self.conv3 = (nn.Conv1d(widths[i], widths[i + 1], 4) for i in range(3))
        self.rnn = GRU(widths[3]) if config["cell"] == "gru" else RNN(widths[3])
        self.emb_proj = nn.Linear(widths[3], self.dim)
        # What is not above the threshold becomes zero: all but ReLU.
        self.threshold = nn.Threshold(1e-6, 0)
        self.pool = nn.MaxPool1d(3, 3)
        self.last_pool = nn.MaxPool1d(3, 2) if config["pools"] == 3 else nn.Identity()

    def forward(self, sentences: Tensor) -> Tensor:
        """See the class.

        Raises:
            BadInput: the sentences have another shape.
        """
        if sentences.dim() != 3 or sentences.shape[1:] != (len(ALPHABET), LENGTH):
            raise BadInput(
                f"The text encoder takes one-hot sentences of the shape [N, {len(ALPHABET)}, {LENGTH}], "
                f"not {list(sentences.shape)}; encode_text() makes them."
            )
        x = self.pool(self.threshold(self.conv1(sentences)))
        x = self.pool(self.threshold(self.conv2(x)))
        x = self.last_pool(self.threshold(self.conv3(x)))
        return self.emb_proj(self.rnn(x.transpose(1, 2)))

    def encode_text(self, sentences: list[str]) -> Tensor:
        """Embeddings [N, dim] of sentences, each as if it were alone."""
        one_hot = torch.stack([encode_text(sentence)[0] for sentence in sentences])
        return self(one_hot.to(self.emb_proj.weight))


class PictureEncoder(nn.Module):
    """Pictures [N, C, H, W] in [-1, 1] -> embeddings [N, dim]: what a text encoder of this project learned beside.

    Config: `channels` of the pictures; `widths` of its convolutions, each of which halves the sides; `dim`.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for before, width in zip([config["channels"], *config["widths"]], config["widths"], strict=False):
            layers += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)
        self.project = nn.Linear(config["widths"][-1], config["dim"])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.project(self.body(pictures).mean(dim=(2, 3)))


def detect(raw: RawCheckpoint) -> bool:
    if raw.format == "torch7":
        return len(_modules(raw, "TemporalConvolution")) == 3
    return any(
        "rnn.i2h.weight" in network.tensors
        and "conv1.weight" in network.tensors
        and network.tensors["conv1.weight"].shape[1:] == (len(ALPHABET), 4)
        for network in raw.networks.values()
    )


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The encoder of a published file.

    Raises:
        CheckpointError: names or shapes are not those of such an encoder.
    """
    if unknown := set(config) - {"pools"}:
        raise CheckpointError(f"config.{min(unknown)} means nothing to this family; it knows pools.")
    if config.get("pools", 2) not in (2, 3):
        raise CheckpointError(f"config.pools must be 2 or 3, not {config['pools']!r}.")
    tensors = _from_torch7(raw) if raw.format == "torch7" else tensors_of(raw, part)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for key in ("conv1.weight", "conv2.weight", "conv3.weight", "emb_proj.weight"):
        if len(shapes.get(key, ())) < 2:
            raise CheckpointError(f"{raw.name} is no char-CNN-RNN: it has no matrix '{key}'.")
    cell = "gru" if "rnn.i2h_update.weight" in tensors else "rnn"
    pools = 2 if cell == "gru" else 3
    if raw.format == "torch7":
        pools = _count(_tree(raw), "TemporalMaxPooling")
    facts = {
        "widths": [shapes[f"conv{number}.weight"][0] for number in (1, 2, 3)],
        "dim": shapes["emb_proj.weight"][0],
        "cell": cell,
        "pools": config.get("pools", pools),
    }
    encoder = build(part, facts)
    load_strictly(encoder, tensors, raw.name)
    return encoder


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return PictureEncoder(config) if part == "pictures" else TextEncoder(config)


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """The network itself, in both forms: a sentence takes milliseconds."""
    return network


# Torch7 ---------------------------------------------------------------------------------------------------------------

_GATED = ("i2h", "i2h_update", "h2h_update", "i2h_reset", "h2h_reset", "h2h")
"""The layers of the authors' GRU in the order in which their graph comes upon them."""


def _modules(raw: RawCheckpoint, kind: str) -> list[dict[str, Tensor]]:
    """Weights of the modules of a class, in order; the encoder of the pictures, which files also hold, is not meant."""
    return [
        network.tensors
        for path, network in raw.networks.items()
        if network.class_name.endswith(f".{kind}") and "enc_image" not in path.split(".")
    ]


def _tree(raw: RawCheckpoint) -> Any:
    protos = raw.extra.get("protos")
    return protos.get("enc_doc") if isinstance(protos, dict) else raw.extra


def _count(tree: Any, kind: str) -> int:
    if isinstance(tree, dict):
        here = str(tree.get("class", "")).endswith(f".{kind}")
        return here + sum(_count(value, kind) for value in tree.values())
    return sum(_count(value, kind) for value in tree) if isinstance(tree, list) else 0


def _from_torch7(raw: RawCheckpoint) -> dict[str, Tensor]:
    """Tensors by the names of the PyTorch port."""
    convolutions, linears = _modules(raw, "TemporalConvolution"), _modules(raw, "Linear")
    # The steps share their weights, and a file that was saved without sharing holds them once for every step.
    unique: list[dict[str, Tensor]] = []
    for linear in linears:
        if not any(_same(linear, other) for other in unique):
            unique.append(linear)
    names = {7: _GATED, 3: ("i2h", "h2h")}.get(len(unique))
    if len(convolutions) != 3 or names is None:
        raise CheckpointError(
            f"{raw.name} is no char-CNN-RNN: it has {len(convolutions)} convolutions over time and {len(unique)} "
            "different linear layers, where such an encoder has 3, and 3 or 7."
        )
    tensors: dict[str, Tensor] = {}
    inputs = len(ALPHABET)
    for number, layer in enumerate(convolutions, 1):
        weight = layer.get("weight", torch.empty(0))
        if weight.dim() != 2 or weight.shape[1] % inputs:
            raise CheckpointError(f"{raw.name}: convolution {number} has weights of the shape {list(weight.shape)}.")
        tensors[f"conv{number}.weight"] = weight.unflatten(1, (-1, inputs)).transpose(1, 2).contiguous()
        tensors[f"conv{number}.bias"] = layer.get("bias", torch.zeros(len(weight)))
        inputs = len(weight)
    for name, layer in zip([*(f"rnn.{name}" for name in names), "emb_proj"], unique, strict=True):
        tensors |= {f"{name}.{key}": tensor for key, tensor in layer.items()}
    return tensors


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())
