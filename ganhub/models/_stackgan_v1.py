"""The two stages of StackGAN (v1), in the form of hanzhanggit/StackGAN-Pytorch: 64 pixels, then 256 from those."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ganhub.errors import BadInput
from ganhub.models._stackgan_layers import Augmentation, Noise, ResBlock, conv3x3, up_block

UPS = 4


def _ups(owner: nn.Module, width: int) -> None:
    """Four doublings under the original's names; every one halves the width."""
    for number in range(1, UPS + 1):
        owner.add_module(f"upsample{number}", up_block(width, width // 2, gated=False))
        width //= 2
    owner.img = nn.Sequential(conv3x3(width, 3), nn.Tanh())


def _grown(owner: nn.Module, x: Tensor) -> Tensor:
    for number in range(1, UPS + 1):
        x = owner.get_submodule(f"upsample{number}")(x)
    return owner.get_submodule("img")(x)


class Stage1(nn.Module):
    """z [N, z_dim] and embeddings [N, text_dim] -> pictures [N, 3, 64, 64]."""

    def __init__(self, z_dim: int, text_dim: int, code_dim: int, start: int):
        super().__init__()
        self.ca_net = Augmentation(text_dim, code_dim, gated=False)
        self.fc = nn.Sequential(
            nn.Linear(z_dim + code_dim, start * 16, bias=False), nn.BatchNorm1d(start * 16), nn.ReLU()
        )
        _ups(self, start)

    def forward(self, z: Tensor, embedding: Tensor, noise: Noise) -> Tensor:
        code = self.ca_net(embedding, noise)[0]
        return _grown(self, self.fc(torch.cat((z, code), dim=1)).unflatten(1, (-1, 4, 4)))


class Generator(nn.Module):
    """z [N, z_dim] and embeddings of sentences [N, text_dim] -> pictures [N, 3, H, W] in [-1, 1] of the last stage.

    Config: `version` 1; `z_dim`; `text_dim`; `code_dim`; `start`, channels at 4x4 of the first stage; `width` of the
    second stage, 0 where there is none; `residuals` of it.
    """

    img_channels = 3

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.z_dim: int = config["z_dim"]
        self.text_dim: int = config["text_dim"]
        self.code_dim: int = config["code_dim"]
        self.width: int = config["width"]
        side = 256 if self.width else 64
        self.img_size = (side, side)
        first = Stage1(self.z_dim, self.text_dim, self.code_dim, config["start"])
        self.STAGE1_G = first
        if not self.width:
            return
        width = self.width
        self.ca_net = Augmentation(self.text_dim, self.code_dim, gated=False)
        self.encoder = nn.Sequential(
            conv3x3(3, width), nn.ReLU(),
            nn.Conv2d(width, width * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width * 2), nn.ReLU(),
            nn.Conv2d(width * 2, width * 4, 4, 2, 1, bias=False), nn.BatchNorm2d(width * 4), nn.ReLU(),
        )  # fmt: skip
        self.hr_joint = nn.Sequential(
            conv3x3(self.code_dim + width * 4, width * 4), nn.BatchNorm2d(width * 4), nn.ReLU()
        )
        self.residual = nn.Sequential(*(ResBlock(width * 4, gated=False) for _ in range(config["residuals"])))
        _ups(self, width * 4)

    def condition(self, embedding: Tensor, noise: Noise = None) -> tuple[Tensor, Tensor, Tensor]:
        """Code, mean and log-variance [N, code_dim] of the last stage.

        Raises:
            BadInput: a shape does not fit.
        """
        return (self.ca_net if self.width else self.STAGE1_G.ca_net)(embedding, noise)

    def stages(self, z: Tensor, embedding: Tensor, noise: Noise = None) -> list[Tensor]:
        """Pictures of the stages; both have an augmentation of their own, and share a given noise [N, code_dim].

        Raises:
            BadInput: a shape does not fit.
        """
        if z.dim() != 2 or z.shape[1] != self.z_dim:
            raise BadInput(f"This generator takes z of the shape [N, {self.z_dim}], not {list(z.shape)}.")
        first = self.STAGE1_G(z.float(), embedding, noise)
        if not self.width:
            return [first]
        x = self.encoder(first)
        seen = self.condition(embedding, noise)[0][:, :, None, None].expand(-1, -1, *x.shape[2:])
        return [first, _grown(self, self.residual(self.hr_joint(torch.cat((x, seen), dim=1))))]

    def forward(self, z: Tensor, embedding: Tensor, noise: Noise = None) -> Tensor:
        return self.stages(z, embedding, noise)[-1]


def detect(keys: Iterable[str]) -> bool:
    """Whether names of tensors are those of a generator of version 1."""
    keys = list(keys)
    both = all(any(key.endswith(end) for key in keys) for end in ("ca_net.fc.weight", "upsample4.1.weight"))
    return both and not any("h_net1." in key for key in keys)


def config_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Config of the tensors of a generator; those of a first stage alone get the names that they have in a second.

    Raises:
        KeyError: one is missing.
    """
    if not any(key.startswith("STAGE1_G.") for key in tensors):
        for key in list(tensors):
            tensors[f"STAGE1_G.{key}"] = tensors.pop(key)
    rows, inputs = tensors["STAGE1_G.fc.0.weight"].shape
    codes, text_dim = tensors["STAGE1_G.ca_net.fc.weight"].shape
    return {
        "version": 1,
        "z_dim": inputs - codes // 2,
        "text_dim": text_dim,
        "code_dim": codes // 2,
        "start": rows // 16,
        "width": len(tensors["encoder.0.weight"]) if "encoder.0.weight" in tensors else 0,
        "residuals": sum(re.fullmatch(r"residual\.\d+\.block\.0\.weight", key) is not None for key in tensors),
    }
