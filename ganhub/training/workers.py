"""One process or several: `torchrun` starts them, accelerate connects them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ganhub.engine.device import choose
from ganhub.errors import BadInput


class Workers:
    """The processes of one training, each with its own device; a single one needs no library.

    Gradients are averaged after the backward pass, all in one message: the regularisers differentiate twice, which
    the hooks of a wrapped module do not survive.
    """

    def __init__(self, device: str | None = None):
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._accelerator = None
        if self.count == 1:
            self.device = choose(device)
            return
        try:
            from accelerate import Accelerator
        except ImportError:
            raise BadInput("Several processes need accelerate; pip install 'ganhub[train]'.") from None
        self._accelerator = Accelerator(cpu=device == "cpu")
        self.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """This process writes the files."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the processes."""
        if self._accelerator is None:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in grads]), reduction="mean")
        at = 0
        for grad in grads:
            grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        return value if self._accelerator is None else self._accelerator.reduce(value.detach().clone(), "mean")

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self._accelerator is None else bool(self.mean(torch.tensor(float(flag), device=self.device)))

    def wait(self) -> None:
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
