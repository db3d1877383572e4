"""Optimisation in slots: every active fit is a row of one batch, and one step advances all rows.

Fits join and leave between steps; each row has its own target, step counter, learning rate and Adam moments.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ganhub.engine import device as devices
from ganhub.engine import objectives
from ganhub.engine.cache import Loaded
from ganhub.engine.forward import DeviceLost, Failure, failed
from ganhub.engine.guided import Turn
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
    step: int = 0

    @property
    def fit(self) -> Fit:
        assert isinstance(self.ticket.job, Fit)
        return self.ticket.job


class SlotGroup:
    """The fits that share a network and an objective. `rows[i]` owns row i of every tensor of the state.

    Args:
        entries: the generator, and the network that the objective looks through where it has one; pinned by the
            caller while there are rows.
        objective: name of the objective.
        device: where.
        size: number of slots.
        fixed: batches are padded to `size`, so that their arithmetic never changes.
        evict: frees what memory it can; returns how many networks went.
    """

    def __init__(
        self,
        entries: Sequence[Loaded],
        objective: str,
        device: torch.device,
        size: int,
        fixed: bool = False,
        evict: Callable[[], int] = lambda: 0,
    ):
        self.entries, self.device, self.size, self.fixed, self.evict = entries, device, size, fixed, evict
        self.entry = entries[0]
        self.critic = entries[1] if len(entries) > 1 else None
        self.objective = objectives.find(objective)
        self._rate = getattr(self.objective, "rate", rate)
        self.rows: list[Row] = []
        self._state: dict[str, Tensor] = {}
        """`latent`, Adam's `first` and `second` moment, and the objective's constants: [N, ...] each."""
        self._chunk = size

    @property
    def free(self) -> int:
        """Slots that are not taken."""
        return self.size - len(self.rows)

    def join(self, ticket: Ticket) -> None:
        """Gives a fit a slot; it takes part from the next step on.

        Raises:
            DeviceLost: no more work can be done.
        """
        fit = ticket.job
        assert isinstance(fit, Fit)
        try:
            self.objective.check(fit.item, self.entry.facts, self.critic.facts if self.critic else None)
            with torch.no_grad():
                critic = self.critic.network if self.critic else None
                latent, constants = self.objective.start(self.entry.network, fit.item, fit.seed, self.device, critic)
        except GanHubError as error:
            ticket.fail(error)
            return
        except Exception as error:
            ticket.fail(self._sentence(Failure.of(error)))
            return
        new = {"latent": latent, "first": torch.zeros_like(latent), "second": torch.zeros_like(latent)}
        new |= {f"constant {name}": value for name, value in constants.items()}
        rows = {name: value[None].detach() for name, value in new.items()}
        self._state = {n: torch.cat([self._state[n], row]) if self.rows else row.clone() for n, row in rows.items()}
        self.rows.append(Row(ticket))

    def step(self) -> None:
        """Advances every fit by one step; those that are done, cancelled or late leave.

        Raises:
            DeviceLost: no more work can be done.
        """
        self._keep()
        if not self.rows:
            return
        losses, gradient = self._gradients(0, len(self.rows))
        finite = gradient.flatten(1).isfinite().all(1).tolist()
        for row, loss, good in zip(self.rows, losses, finite, strict=True):
            if isinstance(loss, GanHubError):
                row.ticket.fail(loss)
            elif not math.isfinite(loss) or not good:
                text = f"The fit left the numbers that '{self.entry.key.checkpoint}' can draw at step {row.step + 1}"
                row.ticket.fail(EngineError(f"{text}; lower the learning rate.", "bad_output"))
        self._advance(gradient)
        for i, (row, loss) in enumerate(zip(self.rows, losses, strict=True)):
            row.step += 1
            if not row.ticket.done():
                self._report(row, loss, self._state["latent"][i])
        self._keep()

    def _keep(self) -> None:
        """Lets go of the rows whose fits have ended."""
        stay = [i for i, row in enumerate(self.rows) if not row.ticket.expire()]
        if len(stay) < len(self.rows):
            index = torch.tensor(stay, device=self.device, dtype=torch.long)
            self._state = {name: value[index] for name, value in self._state.items()}
            self.rows = [self.rows[i] for i in stay]

    def _advance(self, gradient: Tensor) -> None:
        """Adam (Kingma & Ba 2015), every row at its own step and rate."""
        latent, first, second = (self._state[name] for name in ("latent", "first", "second"))

        def column(numbers: list[float]) -> Tensor:
            column = torch.tensor(numbers, dtype=latent.dtype, device=self.device)
            return column.reshape(-1, *[1] * (latent.ndim - 1))

        first.lerp_(gradient, 1 - BETA1)
        second.lerp_(gradient.square(), 1 - BETA2)
        size = column([self._rate(row.fit, row.step) / (1 - BETA1 ** (row.step + 1)) for row in self.rows])
        scale = column([1 - BETA2 ** (row.step + 1) for row in self.rows])
        latent -= size * first / ((second / scale).sqrt() + EPSILON)
        if hasattr(self.objective, "settle"):
            self._state["latent"] = self.objective.settle(self.entry.network, latent, self.rows[0].fit.item)

    def _report(self, row: Row, loss: float, latent: Tensor) -> None:
        fit = row.fit
        last = row.step >= fit.steps
        shown = fit.preview and row.step % fit.preview == 0
        values = None
        if last or shown:
            if hasattr(self.objective, "answer"):
                latent = self.objective.answer(self.entry.network, latent, fit.item)
            values = latent.cpu().numpy().copy()
        row.ticket.report(Step(row.step, fit.steps, loss, values if shown else None))
        if last:
            row.ticket.succeed({"latent": values, "loss": loss, "steps": row.step})

    def _gradients(self, begin: int, end: int) -> tuple[list[Any], Tensor]:
        """Losses and gradients of some rows; a row that cannot be computed has a GanHubError for its loss."""
        if end - begin <= self._chunk:
            losses, gradient, error = self._attempt(begin, end)
            if error is None:
                return losses, gradient
            if isinstance(error, Failure) and error.kind == "lost":
                raise DeviceLost(error.what)
            if isinstance(error, Failure) and error.kind == "memory":
                devices.release(self.device)
                if end - begin == 1 and self.evict():
                    return self._gradients(begin, end)
                self._chunk = max(1, (end - begin) // 2)
            if end - begin == 1:
                sentence = error if isinstance(error, GanHubError) else self._sentence(error)
                return [sentence], torch.zeros_like(self._state["latent"][begin:end])
        middle = begin + max(1, (end - begin) // 2)
        left, right = self._gradients(begin, middle), self._gradients(middle, end)
        return left[0] + right[0], torch.cat([left[1], right[1]])

    def _attempt(self, begin: int, end: int) -> tuple[list[Any], Tensor, Any]:
        try:
            with torch.enable_grad(), devices.arithmetic(self.device, self.entry.key.precision, self.fixed):
                state = {name: value[begin:end] for name, value in self._state.items()}
                if self.fixed:
                    state = {
                        n: torch.cat([v, v[-1:].expand(self.size - len(v), *v.shape[1:])]) for n, v in state.items()
                    }
                latent = state["latent"].clone().requires_grad_(True)
                constants = {n.removeprefix("constant "): v for n, v in state.items() if n.startswith("constant ")}
                turns = [Turn(row.fit.seed, row.step, row.fit.steps) for row in self.rows[begin:end]]
                turns += turns[-1:] * (len(latent) - len(turns))
                critic = self.critic.network if self.critic else None
                item = self.rows[begin].fit.item
                losses = self.objective.loss(self.entry.network, latent, constants, item, critic, turns)
                (gradient,) = torch.autograd.grad(losses.sum(), latent)
            return losses.tolist()[: end - begin], gradient[: end - begin], None
        except GanHubError as error:
            return [], self._state["latent"], error
        except Exception as error:
            return [], self._state["latent"], Failure.of(error)

    def _sentence(self, failure: Failure) -> GanHubError:
        """What the owner of a failed row reads.

        Raises:
            DeviceLost: it is not the row that failed.
        """
        if failure.kind == "lost":
            raise DeviceLost(failure.what)
        if failure.kind == "memory":
            return too_large(self.entry.key.checkpoint)
        log.warning("A fit for %s failed: %s", self.entry.key.checkpoint, failure.what)
        return failed(self.entry.key.checkpoint, failure.what)
