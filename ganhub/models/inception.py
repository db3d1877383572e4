"""Inception v3 as the Fréchet inception distance uses it (Szegedy et al., 2015, https://arxiv.org/abs/1512.00567).

Reads the weights of TensorFlow's `inception-2015-12-05` in the layout of pytorch-fid and torch-fidelity
(`Mixed_5b.branch1x1.conv.weight`, ...). As the original graph does and torchvision does not: pictures are resized
without half-pixel centres, average pools leave the padding out, and the last block takes a maximum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import load_strictly

SIDE = 299
KEY = "Mixed_7c.branch3x3dbl_3b.conv.weight"


class Inception(nn.Module):
    """Pictures [N, 3, H, W] in [0, 255] -> the 2048 numbers before the classifier."""

    dim = 2048

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128)
        self.Mixed_6c = _BlockC(768, 160)
        self.Mixed_6d = _BlockC(768, 160)
        self.Mixed_6e = _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, "mean")
        self.Mixed_7c = _BlockE(2048, "max")

    def forward(self, x: Tensor) -> Tensor:
        x = (resize(x, SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def resize(x: Tensor, side: int) -> Tensor:
    """Bilinear as TensorFlow 1 does it with align_corners=False: pixel i of the result is read at i * before / side."""
    rows, columns = (_reading(before, side).to(x) for before in x.shape[2:])
    return rows @ x @ columns.T


def _reading(before: int, after: int) -> Tensor:
    """[after, before]: how much of each pixel goes into each."""
    at = torch.arange(after) * torch.tensor(before / after, dtype=torch.float32)
    low = at.long()
    share = at - low
    matrix = torch.zeros(after, before)
    matrix[torch.arange(after), low] = 1 - share
    matrix[torch.arange(after), (low + 1).clamp(max=before - 1)] += share
    return matrix


class _Conv(nn.Module):
    def __init__(self, before: int, after: int, kernel: int | tuple[int, int], **how: Any):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, bias=False, **how)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _wide(before: int, after: int, length: int) -> _Conv:
    return _Conv(before, after, (1, length), padding=(0, length // 2))


def _high(before: int, after: int, length: int) -> _Conv:
    return _Conv(before, after, (length, 1), padding=(length // 2, 0))


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _BlockA(nn.Module):
    def __init__(self, before: int, pooled: int):
        super().__init__()
        self.branch1x1 = _Conv(before, 64, 1)
        self.branch5x5_1 = _Conv(before, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(before, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_mean(x))], 1)


class _BlockB(nn.Module):
    def __init__(self, before: int):
        super().__init__()
        self.branch3x3 = _Conv(before, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(before, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class _BlockC(nn.Module):
    def __init__(self, before: int, narrow: int):
        super().__init__()
        self.branch1x1 = _Conv(before, 192, 1)
        self.branch7x7_1 = _Conv(before, narrow, 1)
        self.branch7x7_2 = _wide(narrow, narrow, 7)
        self.branch7x7_3 = _high(narrow, 192, 7)
        self.branch7x7dbl_1 = _Conv(before, narrow, 1)
        self.branch7x7dbl_2 = _high(narrow, narrow, 7)
        self.branch7x7dbl_3 = _wide(narrow, narrow, 7)
        self.branch7x7dbl_4 = _high(narrow, narrow, 7)
        self.branch7x7dbl_5 = _wide(narrow, 192, 7)
        self.branch_pool = _Conv(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean(x))], 1)


class _BlockD(nn.Module):
    def __init__(self, before: int):
        super().__init__()
        self.branch3x3_1 = _Conv(before, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(before, 192, 1)
        self.branch7x7x3_2 = _wide(192, 192, 7)
        self.branch7x7x3_3 = _high(192, 192, 7)
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class _BlockE(nn.Module):
    def __init__(self, before: int, pool: str):
        super().__init__()
        self.pool = pool
        self.branch1x1 = _Conv(before, 320, 1)
        self.branch3x3_1 = _Conv(before, 384, 1)
        self.branch3x3_2a = _wide(384, 384, 3)
        self.branch3x3_2b = _high(384, 384, 3)
        self.branch3x3dbl_1 = _Conv(before, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _wide(384, 384, 3)
        self.branch3x3dbl_3b = _high(384, 384, 3)
        self.branch_pool = _Conv(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _mean(x) if self.pool == "mean" else F.max_pool2d(x, 3, 1, 1)
        both = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        both += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *both, self.branch_pool(pooled)], 1)


def detect(raw: RawCheckpoint) -> bool:
    return any(KEY in network.tensors for network in raw.networks.values())


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file; its classifier, and counters that some files have, are left out.

    Raises:
        CheckpointError: a tensor is missing, foreign or of the wrong shape.
    """
    networks = [network.tensors for network in raw.networks.values() if KEY in network.tensors]
    if not networks:
        raise CheckpointError(f"{raw.name} is no Inception in the layout of pytorch-fid: it has no '{KEY}'.")
    network = Inception()
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    load_strictly(network, {**counters, **{k: v for k, v in networks[0].items() if k[:3] != "fc."}}, raw.name)
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    return Inception(**config)
