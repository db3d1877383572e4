"""The one thread that touches the device: takes turns between forward work and optimisation steps."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

from ganhub.engine import device as devices
from ganhub.engine.cache import Cache, Key, Loaded
from ganhub.engine.elsewhere import Elsewhere
from ganhub.engine.forward import DeviceLost, Forward, failed
from ganhub.engine.loading import Loader, too_large
from ganhub.engine.slots import SlotGroup
from ganhub.engine.tickets import Ticket
from ganhub.engine.waiting import WaitingRoom
from ganhub.engine.warming import warm
from ganhub.errors import EngineError, GanHubError

log = logging.getLogger(__name__)

EXIT_CODE = 75
"""Of a process that left because its device was lost (EX_TEMPFAIL: to be tried again)."""

AGAIN = 0.05
"""Seconds after a batch within which its visitors are expected back."""


class Group(NamedTuple):
    """What tickets of one batch have in common."""

    key: Key
    work: str
    """Name of the operation or objective."""
    static: Hashable
    critic: Key | None = None
    """What the objective looks through."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """All networks that the work needs."""
        return (self.key,) if self.critic is None else (self.key, self.critic)


class Worker:
    """Owns the device: everything that runs on it runs in `turn`, on one thread.

    Args:
        device: where.
        cache, room, fits, loader, forward, lock: the engine's parts; `lock` guards the first three.
        slots: fits of one kind that advance together.
        gather: seconds to wait for the visitors of the batch before, who are likely to come back together.
        max_batch: a limit on every batch.
        on_lost: called once when the device is lost for this process.
        elsewhere: where work is sent instead of being done here.
    """

    def __init__(
        self,
        device: torch.device,
        cache: Cache,
        room: WaitingRoom,
        fits: WaitingRoom,
        loader: Loader,
        forward: Forward,
        lock: threading.Condition,
        slots: int,
        gather: float,
        max_batch: int | None,
        on_lost: Callable[[str], None] | None,
        elsewhere: Elsewhere | None,
    ):
        self.device, self.cache, self.room, self.fits, self.loader = device, cache, room, fits, loader
        self.forward, self.lock, self.slots, self.gather, self.max_batch = forward, lock, slots, gather, max_batch
        self.on_lost, self.elsewhere = on_lost, elsewhere
        self.groups: OrderedDict[Group, SlotGroup] = OrderedDict()
        self.running: list[Ticket] = []
        self.turn_began: float | None = None
        """On the clock of `time.monotonic`, while something runs: what hangs is seen here."""
        self.lost: str | None = None
        self.stopping = False
        self.batches = 0
        self.answered = 0
        self._thread: threading.Thread | None = None
        self._last_size, self._last_end = 1, 0.0
        self._unpublished: list[Loaded] = []

    def start(self) -> None:
        """Begins the thread, once."""
        if self._thread is None:
            if self.device.type == "cpu":
                devices.tune_allocator()
            self._thread = threading.Thread(target=self._loop, name="ganhub engine", daemon=True)
            self._thread.start()

    def join(self, timeout: float | None) -> bool:
        """Waits for the thread to end; True if it has."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def idle(self) -> bool:
        """Nothing waits, runs or is optimised. The caller holds the lock."""
        return not (len(self.room) or len(self.fits) or self.running or self.groups)

    def turn(self) -> bool:
        """One batch of forward work, then one step of one slot group; False if there was nothing to do."""
        with self.lock:
            self._expire()
            self._load_what_is_missing()
            new = self.loader.ready.pop(0) if self.loader.ready else None
        if new is not None:
            self._warm(new)
        published = self._publish()
        batch = self._forward()
        step = self._step()
        return new is not None or published or batch or step

    def lose(self, why: str) -> None:
        """The device is gone for this process: everything ends with the same sentence, and nothing new is taken."""
        sentence = f"The device is lost to this process ({why.splitlines()[0][:200]}); restart the application."
        with self.lock:
            if self.lost is not None:
                return
            self.lost = sentence
            tickets = [*self.room, *self.fits, *self.running, *(r.ticket for g in self.groups.values() for r in g.rows)]
            self.groups.clear()
            self.cache.clear()
            self.loader.closed = True
            self.lock.notify_all()
        log.critical(sentence)
        for ticket in tickets:
            ticket.fail(EngineError(sentence, "device_lost"))
        if self.on_lost is not None:
            self.on_lost(sentence)
        if os.environ.get("GANHUB_EXIT_WHEN_LOST", "").lower() in ("1", "true", "yes"):
            os._exit(EXIT_CODE)  # whoever watches over the process starts it anew, with a device that works

    def _loop(self) -> None:
        try:
            devices.set_threads(self.device)
            while True:
                self._gather()
                if self.lost or (self.stopping and self._may_stop()):
                    return
                self.turn_began = time.monotonic()
                busy = self.turn()
                self.turn_began = None
                if not busy:
                    with self.lock:
                        if not self._something_new():
                            self.lock.wait(self._patience())
        except DeviceLost as error:
            self.lose(str(error))
        except BaseException as error:  # a mistake of the engine's own must not leave anybody waiting
            log.exception("The engine's thread ended.")
            self.lose(f"the engine failed, {type(error).__name__}: {error}")
            raise

    def _may_stop(self) -> bool:
        with self.lock:
            return self.idle()

    def _something_new(self) -> bool:
        return bool(
            self.stopping
            or self.loader.ready
            or any(self._ready(t) for t in self.room)
            or any(self._ready(t) for t in self.fits)
        )

    def _patience(self) -> float | None:
        expires = [t.expires for t in (*self.room, *self.fits) if t.expires is not None]
        if self._unpublished:
            return 0.1
        return max(0.0, min(expires) - time.monotonic()) if expires else None

    def _gather(self) -> None:
        """Waits a moment for those who shared the last batch; a job that comes alone does not wait."""
        with self.lock:
            began = time.monotonic()
            expected = self._last_size if began - self._last_end < AGAIN else 1
            until = began + self.gather
            while 0 < len(self.room) < expected and time.monotonic() < until and not self.stopping:
                self.lock.wait(until - time.monotonic())

    def _ready(self, ticket: Ticket) -> bool:
        return all(self.cache.get(key) is not None for key in ticket.group.keys)

    def _expire(self) -> None:
        for ticket in (*self.room, *self.fits):
            ticket.expire()

    def _load_what_is_missing(self) -> None:
        for key in dict.fromkeys(key for t in (*self.room, *self.fits) for key in t.group.keys):
            self.loader.want(key)

    def _warm(self, entry: Loaded) -> None:
        error: Any = None
        for last_try in (False, True):
            try:
                warm(entry, self.device, self.cache.budget, self.max_batch)
                error = None
            except Exception as raised:
                if devices.is_lost(raised):
                    raise DeviceLost(str(raised)) from None
                memory = devices.is_out_of_memory(raised)
                log.warning("%s failed its first picture.", entry.key.checkpoint, exc_info=True)
                error = too_large(entry.key.checkpoint) if memory else failed(entry.key.checkpoint, repr(raised))
            if error is None or error.code != "out_of_memory" or last_try:
                break
            self._evict()
            devices.release(self.device)
        if error is None and entry.bytes > self.cache.budget:
            error = too_large(entry.key.checkpoint, entry.bytes, self.cache.budget)
        if error is not None:
            self.loader.finish(entry.key, error)
        else:
            self._unpublished.append(entry)

    def _publish(self) -> bool:
        with self.lock:
            done = [e for e in self._unpublished if self.cache.publish(e) or not self.loader.wanted(e.key)]
        for entry in done:
            self._unpublished.remove(entry)
            self.loader.finish(entry.key)
        return bool(done)

    def _forward(self) -> bool:
        with self.lock:
            batch = self.room.take(self._ready, self._most, lambda t: t.group)
            if not batch:
                return False
            entry = self.cache.get(batch[0].group.key)
            assert entry is not None, "only what is ready is taken"
            entry.use()
            entry.pins += 1
            self.running = batch
        try:
            self.forward.run(entry, batch[0].group.work, batch)
        finally:
            with self.lock:
                if self.lost is None:
                    entry.pins -= 1
                if all(t.done() for t in batch):  # else the device is lost, and `lose` ends them
                    self.running = []
                self.batches += 1
                self.answered += len(batch)
                self._last_size, self._last_end = len(batch), time.monotonic()
                self.lock.notify_all()
        return True

    def _most(self, ticket: Ticket) -> int:
        entry = self.cache.get(ticket.group.key)
        assert entry is not None
        return entry.caps.get(ticket.group.work, entry.largest)

    def _step(self) -> bool:
        if self.elsewhere is not None:
            return self._fit_elsewhere(self.elsewhere)
        self._seat()
        if not self.groups:
            return False
        group, slots = next(iter(self.groups.items()))
        self.groups.move_to_end(group)
        slots.step()
        with self.lock:
            for entry in slots.entries:
                entry.use()
            if not slots.rows:
                self._leave(group)
        return True

    def _fit_elsewhere(self, elsewhere: Elsewhere) -> bool:
        with self.lock:
            fits = self.fits.take(self._ready, lambda t: 1, lambda t: t.group)
            self.running = fits
        for ticket in fits:
            elsewhere.fit(ticket)
        with self.lock:
            self.running = []
        return bool(fits)

    def _leave(self, group: Group) -> None:
        for entry in self.groups.pop(group).entries:
            entry.pins -= 1
        self.lock.notify_all()

    def _seat(self) -> None:
        """Gives waiting fits the slots that are free."""
        while True:
            with self.lock:
                seated = self.fits.take(self._has_slot, self._free, lambda t: t.group)
                if not seated:
                    return
                group = seated[0].group
                slots = self.groups.get(group)
                if slots is None:
                    entries = [entry for key in group.keys if (entry := self.cache.get(key)) is not None]
                    assert len(entries) == len(group.keys), "only what is ready is taken"
                    for entry in entries:
                        entry.pins += 1
                    fixed = self.forward.fixed is not None
                    slots = SlotGroup(entries, group.work, self.device, self.slots, fixed, self._evict)
                    self.groups[group] = slots
                self.running = seated
            for ticket in seated:
                slots.join(ticket)
            with self.lock:
                self.running = []

    def _evict(self) -> int:
        with self.lock:
            return self.cache.evict_all_unused()

    def _has_slot(self, ticket: Ticket) -> bool:
        return self._ready(ticket) and self._free(ticket) > 0

    def _free(self, ticket: Ticket) -> int:
        slots = self.groups.get(ticket.group)
        return self.slots if slots is None else slots.free

    def fail_all(self, key: Key, error: GanHubError) -> None:
        """Everybody who waits for a network that could not be loaded reads why."""
        with self.lock:
            waiting = [t for t in (*self.room, *self.fits) if key in t.group.keys]
        for ticket in waiting:
            ticket.fail(error)
