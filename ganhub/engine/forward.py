"""One batch of forward work: out of memory is halved, a bad item is found and fails alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ganhub.engine import device as devices
from ganhub.engine import operations
from ganhub.engine.cache import Cache, Loaded
from ganhub.engine.loading import too_large
from ganhub.engine.tickets import Ticket
from ganhub.errors import EngineError, GanHubError

log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """The device answers nothing more in this process."""


class Failure(NamedTuple):
    """Why a batch as a whole gave nothing."""

    kind: str
    """`memory`, `lost` or `failed`."""
    what: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Plain data that outlives the exception, whose traceback would keep the batch's tensors alive."""
        if devices.is_out_of_memory(error):
            return cls("memory")
        return cls("lost" if devices.is_lost(error) else "failed", f"{type(error).__name__}: {error}")


def compute(G: Any, facts: dict[str, Any], operation: str, items: list[Any], device: torch.device) -> list[Any]:
    """Answers of one batch, one per item: plain data, or the GanHubError of that item alone."""
    work = operations.find(operation)
    answers: list[Any] = [None] * len(items)
    good = []
    for i, item in enumerate(items):
        try:
            work.check(item, facts)
            good.append(i)
        except GanHubError as error:
            answers[i] = error
    if good:
        for i, answer in zip(good, work.run(G, facts, [items[i] for i in good], device), strict=True):
            answers[i] = answer
    return answers


def attempt(
    entry: Loaded, operation: str, items: list[Any], device: torch.device, deterministic: bool
) -> tuple[list[Any], GanHubError | Failure | None]:
    """One forward: (answers, None), or ([], why there are none)."""
    try:
        with torch.inference_mode(), devices.arithmetic(device, entry.key.precision, deterministic):
            return compute(entry.network, entry.facts, operation, items, device), None
    except GanHubError as error:
        return [], error
    except Exception as error:
        failure = Failure.of(error)
        if failure.kind == "failed":
            log.warning("A batch of %d for %s failed.", len(items), entry.key.checkpoint, exc_info=True)
        return [], failure


class Forward:
    """Runs batches of tickets on the worker's thread.

    Args:
        device: where.
        cache, lock: the engine's; other networks are evicted when one picture alone does not fit.
        fixed: with a number, every batch is padded to this size, so that its arithmetic never changes.
        elsewhere: sends a batch to another process, as (entry, operation, tickets).
    """

    def __init__(
        self,
        device: torch.device,
        cache: Cache,
        lock: threading.Condition,
        fixed: int | None = None,
        elsewhere: Callable[..., tuple[list[Any], Any]] | None = None,
    ):
        self.device, self.cache, self.lock, self.fixed, self.elsewhere = device, cache, lock, fixed, elsewhere

    def run(self, entry: Loaded, operation: str, tickets: list[Ticket]) -> None:
        """Ends every ticket, with its answer or with its error.

        Raises:
            DeviceLost: no more work can be done; the tickets that are left have not ended.
        """
        tickets = [t for t in tickets if not t.expire()]
        if not tickets:
            return
        cap = entry.caps.get(operation, entry.largest)
        if len(tickets) > cap:
            for i in range(0, len(tickets), cap):
                self.run(entry, operation, tickets[i : i + cap])
            return
        answers, error = self._attempt(entry, operation, tickets)
        if error is None:
            for ticket, answer in zip(tickets, answers, strict=True):
                ticket.end_with(answer)
        elif isinstance(error, Failure) and error.kind == "lost":
            self._lost(tickets, error)
        elif isinstance(error, Failure) and error.kind == "memory":
            self._smaller(entry, operation, tickets)
        elif len(tickets) > 1:
            half = len(tickets) // 2
            self.run(entry, operation, tickets[:half])
            self.run(entry, operation, tickets[half:])
        else:
            tickets[0].fail(error if isinstance(error, GanHubError) else failed(entry.key.checkpoint, error.what))

    def _smaller(self, entry: Loaded, operation: str, tickets: list[Ticket]) -> None:
        devices.release(self.device)
        if len(tickets) > 1 and self.fixed is None:
            entry.caps[operation] = len(tickets) // 2
            log.warning("Out of memory: batches of %s have at most %d.", entry.key.checkpoint, len(tickets) // 2)
            self.run(entry, operation, tickets)
            return
        with self.lock:
            evicted = self.cache.evict_others(entry)
        devices.release(self.device)
        if evicted:
            self.run(entry, operation, tickets)
            return
        for ticket in tickets:
            ticket.fail(too_large(entry.key.checkpoint))

    def _lost(self, tickets: list[Ticket], error: Failure) -> None:
        if self.elsewhere is None:
            raise DeviceLost(error.what)
        for ticket in tickets:  # the other process is replaced by whoever lends it
            ticket.fail(EngineError(f"The device was lost ({error.what[:200]}); try again.", "device_lost"))

    def _attempt(self, entry: Loaded, operation: str, tickets: list[Ticket]) -> tuple[list[Any], Any]:
        if self.elsewhere is not None:
            return self.elsewhere(entry, operation, tickets)
        items = [ticket.job.item for ticket in tickets]
        items += items[-1:] * ((self.fixed or 0) - len(items))
        answers, error = attempt(entry, operation, items, self.device, self.fixed is not None)
        return answers[: len(tickets)], error


def failed(checkpoint_id: str, what: str) -> EngineError:
    """The sentence for a request on which a network raised an exception of its own."""
    return EngineError(f"The checkpoint '{checkpoint_id}' failed on this request ({what}); see the log.", "failed")
