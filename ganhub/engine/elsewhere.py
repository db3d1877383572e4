"""Work in another process: what a ZeroGPU Space runs inside its one decorated function.

There a GPU is lent for the time of one call, and the call runs in a process forked from the app, which has none of
the engine's threads. So the engine keeps its queue, batches and errors at home and sends each batch through one
function of the caller's choice:

    dispatch = zerogpu.gpu(call)                       # `call` below: the only decorated function of the app
    engine = Engine(registry, run_on_device=dispatch if zerogpu.ACTIVE else None)

Everything that crosses is plain data: a registry row, a path, numbers and arrays there; arrays and errors back. A
batch holds one visitor's jobs only and runs in the context of his request, because the lent time is booked on him.
A fit runs from its first to its last step in one call: its events arrive together, and cancelling saves it only
while it waits.
"""

from __future__ import annotations

import contextvars
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganhub import models
from ganhub.engine import device as devices
from ganhub.engine.cache import Key, Loaded
from ganhub.engine.forward import attempt
from ganhub.engine.loading import blended, facts_of
from ganhub.engine.slots import SlotGroup
from ganhub.engine.tickets import Fit, Step, Ticket
from ganhub.errors import EngineError
from ganhub.registry import Checkpoint

log = logging.getLogger(__name__)

KEPT = 3
"""Networks that the other process keeps between calls."""

Files = list[tuple[Checkpoint, Path]]

_loaded: OrderedDict[Key, Loaded] = OrderedDict()


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function of this module; decorate this one."""
    return function(*args)


def answers(files: Files, key: Key, operation: str, items: list[Any]) -> tuple[list[Any], Any]:
    """Answers of a batch, as `ganhub.engine.forward.attempt` gives them."""
    entry = _entry(files, key)
    return attempt(entry, operation, items, devices.choose(), False)


def fit(networks: list[tuple[Files, Key]], job: Fit) -> tuple[list[Step], Any]:
    """All steps of a fit: its events, and its result or GanHubError."""
    group = SlotGroup([_entry(files, key) for files, key in networks], job.objective, devices.choose(), 1)
    ticket = Ticket(job)
    group.join(ticket)
    while not ticket.done():
        group.step()
    return list(ticket.progress()), ticket.outcome()


def _entry(files: Files, key: Key) -> Loaded:
    if key not in _loaded:
        device = devices.choose()
        row = files[0][0]
        network = blended(files, key.blend[1] if key.blend else 0.0)
        facts = facts_of(row, network, key.precision)
        prepared = models.prepare(row.family, network.to(device), key.precision).to(device).eval().requires_grad_(False)
        weights = models.parameter_bytes(prepared)
        while len(_loaded) >= KEPT:
            _loaded.popitem(last=False)
        _loaded[key] = Loaded(key, prepared, {**facts, "bytes": weights}, weights)
    _loaded.move_to_end(key)
    return _loaded[key]


class Elsewhere:
    """The engine's side: sends work through `run_on_device`.

    Args:
        run_on_device: called as `run_on_device(function, *args)`; returns what `function(*args)` returns.
        files_of: key -> its row and its local file, and those of its blend.
    """

    def __init__(self, run_on_device: Callable[..., Any], files_of: Callable[[Key], Files]):
        self.run_on_device, self.files_of = run_on_device, files_of

    def answers(self, entry: Loaded, operation: str, tickets: list[Ticket]) -> tuple[list[Any], Any]:
        """As `attempt`, in the other process."""
        items = [ticket.job.item for ticket in tickets]
        try:
            return self._call(tickets[0], answers, self.files_of(entry.key), entry.key, operation, items)
        except Exception as error:  # the lender refused, or its process died: its own words, and nobody else's batch
            return [], refused(error)

    def fit(self, ticket: Ticket) -> None:
        """Runs a fit to its end and ends its ticket."""
        networks = [(self.files_of(key), key) for key in ticket.group.keys]
        try:
            events, outcome = self._call(ticket, fit, networks, ticket.job)
        except Exception as error:
            ticket.fail(refused(error))
            return
        for event in events:
            ticket.report(event)
        ticket.end_with(outcome)

    def _call(self, ticket: Ticket, function: Callable[..., Any], *args: Any) -> Any:
        # A copy: a context can be entered by one thread at a time, and several jobs may come from one request.
        context = ticket.context.copy() if ticket.context is not None else contextvars.Context()
        return context.run(self.run_on_device, function, *args)


def refused(error: Exception) -> EngineError:
    """The sentence for a call that did not come back from the other process."""
    log.warning("Work elsewhere failed.", exc_info=True)
    return EngineError(f"The device could not be had ({str(error) or type(error).__name__}); try again.", "device_lost")
