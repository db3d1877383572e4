"""Optimisation in slots: every active fit is a row of one batch, and one step advances all rows.

Fits join and leave between steps; each row has its own target, step counter, learning rate and Adam moments.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ganhub.engine import device as devices
from ganhub.engine import objectives
from ganhub.engine.cache import Loaded
from ganhub.engine.forward import DeviceLost, failed
from ganhub.engine.loading import too_large
from ganhub.engine.tickets import Fit, Step, Ticket
from ganhub.errors import EngineError, GanHubError

log = logging.getLogger(__name__)

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def rate(fit: Fit, step: int) -> float:
    """Learning rate of a step: up over the first twentieth, down a cosine over the last quarter (StyleGAN2, app. D)."""
    t = (step + 1) / fit.steps
    return fit.lr * min(1.0, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t + 1 / fit.steps) / 0.25)))


@dataclass(eq=False)
class Row:
    """One fit in its slot."""

    ticket: Ticket
    latent: Tensor
    constants: dict[str, Tensor]
    first: Tensor
    """Adam's moving mean of the gradient."""
    second: Tensor
    """Adam's moving mean of its square."""
    step: int = 0

    @property
    def fit(self) -> Fit:
        assert isinstance(self.ticket.job, Fit)
        return self.ticket.job


class SlotGroup:
    """The fits that share a network and an objective.

    Args:
        entry: the network; pinned by the caller while there are rows.
        objective: name of the objective.
        device: where.
        size: number of slots.
        fixed: batches are padded to `size`, so that their arithmetic never changes.
    """

    def __init__(self, entry: Loaded, objective: str, device: torch.device, size: int, fixed: bool = False):
        self.entry, self.device, self.size, self.fixed = entry, device, size, fixed
        self.objective = objectives.find(objective)
        self.rows: list[Row] = []
        self._chunk = size

    @property
    def free(self) -> int:
        """Slots that are not taken."""
        return self.size - len(self.rows)

    def join(self, ticket: Ticket) -> None:
        """Gives a fit a slot; it takes part from the next step on."""
        fit = ticket.job
        assert isinstance(fit, Fit)
        try:
            self.objective.check(fit.item, self.entry.facts)
            with torch.no_grad():
                latent, constants = self.objective.start(self.entry.network, fit.item, fit.seed, self.device)
        except GanHubError as error:
            ticket.fail(error)
            return
        except Exception as error:
            self._raise_if_lost(error)
            log.warning("A fit for %s could not begin.", self.entry.key.checkpoint, exc_info=True)
            ticket.fail(failed(self.entry.key.checkpoint, f"{type(error).__name__}: {error}"))
            return
        latent = latent.detach().clone()
        self.rows.append(Row(ticket, latent, constants, torch.zeros_like(latent), torch.zeros_like(latent)))

    def step(self) -> None:
        """Advances every fit by one step; those that are done, cancelled or late leave.

        Raises:
            DeviceLost: no more work can be done.
        """
        self.rows = [row for row in self.rows if not row.ticket.expire()]
        for row, (loss, gradient) in zip(self.rows, self._gradients(self.rows), strict=True):
            if isinstance(loss, GanHubError):
                row.ticket.fail(loss)
            elif not math.isfinite(loss) or not bool(gradient.isfinite().all()):
                text = f"The fit left the numbers that '{self.entry.key.checkpoint}' can draw at step {row.step + 1}"
                row.ticket.fail(EngineError(f"{text}; lower the learning rate.", "bad_output"))
            else:
                self._advance(row, loss, gradient)
        self.rows = [row for row in self.rows if not row.ticket.done()]

    def _advance(self, row: Row, loss: float, gradient: Tensor) -> None:
        """Adam (Kingma & Ba 2015) on one row."""
        t = row.step + 1
        row.first.lerp_(gradient, 1 - BETA1)
        row.second.lerp_(gradient.square(), 1 - BETA2)
        scale = (row.second / (1 - BETA2**t)).sqrt_().add_(EPSILON)
        row.latent = row.latent - rate(row.fit, row.step) * (row.first / (1 - BETA1**t)) / scale
        row.step = t
        fit = row.fit
        shown = row.latent.cpu().numpy().copy() if fit.preview and t % fit.preview == 0 else None
        row.ticket.report(Step(t, fit.steps, loss, shown))
        if t >= fit.steps:
            row.ticket.succeed({"latent": row.latent.cpu().numpy(), "loss": loss, "steps": t})

    def _gradients(self, rows: list[Row]) -> list[tuple[Any, Any]]:
        """(loss, gradient) of each row, or (GanHubError, None) for a row that cannot be computed."""
        if len(rows) > self._chunk:
            halves = [rows[i : i + self._chunk] for i in range(0, len(rows), self._chunk)]
            return [pair for half in halves for pair in self._gradients(half)]
        if not rows:
            return []
        pairs, error = self._attempt(rows)
        if error is None:
            return pairs
        if error == "memory":
            devices.release(self.device)
            if len(rows) == 1:
                return [(too_large(self.entry.key.checkpoint), None)]
            self._chunk = max(1, len(rows) // 2)
            return self._gradients(rows)
        if len(rows) == 1:
            return [(error, None)]
        half = len(rows) // 2
        return self._gradients(rows[:half]) + self._gradients(rows[half:])

    def _attempt(self, rows: list[Row]) -> tuple[list[tuple[Any, Any]], Any]:
        used = rows + rows[-1:] * (self._chunk - len(rows) if self.fixed else 0)
        try:
            with torch.enable_grad(), devices.arithmetic(self.device, self.entry.key.precision, self.fixed):
                latent = torch.stack([row.latent for row in used]).requires_grad_(True)
                constants = {k: torch.stack([row.constants[k] for row in used]) for k in rows[0].constants}
                losses = self.objective.loss(self.entry.network, latent, constants, rows[0].fit.item)
                (gradients,) = torch.autograd.grad(losses.sum(), latent)
            return list(zip(losses.detach().tolist(), gradients.detach(), strict=True))[: len(rows)], None
        except GanHubError as error:
            return [], error
        except Exception as error:
            self._raise_if_lost(error)
            if devices.is_out_of_memory(error):
                return [], "memory"
            log.warning("A step of %d fits for %s failed.", len(rows), self.entry.key.checkpoint, exc_info=True)
            return [], failed(self.entry.key.checkpoint, f"{type(error).__name__}: {error}")

    @staticmethod
    def _raise_if_lost(error: Exception) -> None:
        if devices.is_lost(error):
            raise DeviceLost(str(error)) from None
