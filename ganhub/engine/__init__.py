"""The one door to the device: placement, cache, batching, optimisation slots, fairness, cancellation.

`Engine` is the only class that pipelines need; jobs and results are plain data (`Job`, `Fit`, `Ticket`, `Step`).
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ganhub import hub
from ganhub.engine import device as devices
from ganhub.engine import objectives, operations
from ganhub.engine.cache import Cache, Key
from ganhub.engine.elsewhere import Elsewhere
from ganhub.engine.forward import Forward
from ganhub.engine.loading import Loader, read_network
from ganhub.engine.tickets import Fit, Job, Step, Ticket
from ganhub.engine.waiting import WaitingRoom
from ganhub.engine.worker import Group, Worker
from ganhub.errors import BadInput, EngineError, GanHubError
from ganhub.registry import Checkpoint, Registry

__all__ = ["Engine", "Fit", "Job", "Step", "Ticket", "tune_allocator"]

tune_allocator = devices.tune_allocator

PRECISIONS = ("exact", "fast")


class Engine:
    """Runs jobs on one device, on one thread of its own. Safe to call from any thread.

    What a picture looks like depends on its checkpoint and item only: not on its batch, its neighbours, the order
    or the thread; to one level in 255, and bit for bit with `deterministic`.

    Args:
        registry: rows by id.
        device: `cuda`, `cuda:N`, `mps` or `cpu`; `GANHUB_DEVICE`, else the best that is there.
        precision: of jobs that do not say: `exact` (float32) or `fast` (what the family's fast form is).
        cache_bytes: for networks and their activations; by default most of a GPU or half of the machine's memory.
        deterministic: every batch is padded to one size, so that results are equal bit for bit.
        queue: jobs that may wait, of all visitors together.
        per_visitor: jobs of one visitor that may wait and run; the empty visitor has no such limit.
        slots: fits of one kind that advance together.
        deadline: seconds, for jobs that do not say.
        gather: seconds that a batch may wait for the visitors who shared the last one.
        max_batch: a limit on every batch; by default what suits the device and the picture's size.
        on_device_lost: called with a sentence when the device is lost for this process, which must be replaced.
        run_on_device: where work is computed instead of on the engine's thread, see `ganhub.engine.elsewhere`.
        fetch, read: how a row becomes a file and a file a network.

    Raises:
        BadInput: the device is not there, or the precision is unknown.
    """

    def __init__(
        self,
        registry: Registry,
        device: str | None = None,
        precision: str = "exact",
        cache_bytes: int | None = None,
        *,
        deterministic: bool = False,
        queue: int = 256,
        per_visitor: int = 64,
        slots: int | None = None,
        deadline: float = 1800.0,
        gather: float = 0.003,
        max_batch: int | None = None,
        on_device_lost: Callable[[str], None] | None = None,
        run_on_device: Callable[..., Any] | None = None,
        fetch: Callable[..., Path] | None = None,
        read: Callable[[Checkpoint, Path], nn.Module] = read_network,
    ):
        self.registry = registry
        self.precision = _precision(precision)
        # Where the work is done elsewhere, networks are held here for their facts only.
        self.device = devices.choose("cpu" if run_on_device is not None else device)
        self.deadline, self.per_visitor = deadline, per_visitor
        self._lock = threading.Condition()
        self._closed = False
        self._visitors: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._cache = Cache(devices.memory(self.device) if cache_bytes is None else cache_bytes)
        self._room, self._fits = WaitingRoom(queue), WaitingRoom(queue)
        fixed = (max_batch or 4) if deterministic else None
        self._loader = Loader(
            registry, self.device, self._cache, self._lock, fetch or hub.fetch, read, self._wanted, self._load_failed
        )
        self._elsewhere = Elsewhere(run_on_device, self._loader.files_of) if run_on_device is not None else None
        answers = self._elsewhere.answers if self._elsewhere is not None else None
        forward = Forward(self.device, self._cache, self._lock, fixed, answers)
        default_slots = 4 if self.device.type == "cpu" else 16
        self._worker = Worker(
            self.device,
            self._cache,
            self._room,
            self._fits,
            self._loader,
            forward,
            self._lock,
            slots or default_slots,
            gather,
            fixed or max_batch,
            on_device_lost,
            self._elsewhere,
        )

    def submit(self, job: Job) -> Ticket:
        """Queues one job.

        Raises:
            EngineError: `queue_full`, `visitor_limit`, `deadline`, `closed`, `device_lost`.
            BadInput: the operation or the precision is unknown.
            RegistryError: there is no such checkpoint.
        """
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Iterable[Job]) -> list[Ticket]:
        """Queues jobs together, all or none, so that they can share a batch. Raises what `submit` raises."""
        tickets = [self._ticket(job, operations.find(job.operation).group(job.item)) for job in jobs]
        self._admit(tickets, self._room)
        return tickets

    def run(self, job: Job) -> Any:
        """Queues one job and waits for its result. Raises what `submit` and `Ticket.result` raise."""
        return self.submit(job).result()

    def stream(self, jobs: Iterable[Job], ahead: int = 16) -> Iterator[Any]:
        """Results in the order of the jobs, with at most `ahead` of them in the engine at a time.

        For more jobs than the queue takes. Closing the iterator cancels what it has queued.
        """
        source, queued = iter(jobs), deque[Ticket]()
        try:
            while True:
                fresh = [job for _, job in zip(range(ahead - len(queued)), source, strict=False)]
                queued += self.submit_all(fresh)
                if not queued:
                    return
                yield queued[0].result()
                queued.popleft()
        finally:
            for ticket in queued:
                ticket.cancel()

    def optimise(self, fit: Fit) -> Ticket:
        """Queues a fit; `Ticket.progress` tells its steps, `Ticket.result` is {latent, loss, steps}.

        Raises:
            EngineError, BadInput, RegistryError: as `submit`.
        """
        if fit.steps < 1 or not fit.lr > 0:
            raise BadInput(f"A fit needs at least one step and a learning rate above 0, not {fit.steps} and {fit.lr}.")
        ticket = self._ticket(fit, objectives.find(fit.objective).group(fit.item))
        self._admit([ticket], self._fits)
        return ticket

    def describe(self, checkpoint: str, precision: str | None = None, visitor: str = "") -> dict[str, Any]:
        """Plain facts of a checkpoint's network, which is loaded if it is not: z_dim, c_dim, w_dim, num_ws,
        img_size, img_channels, z_distribution, parameters, bytes, family.

        Raises:
            GanHubError: it cannot be loaded.
        """
        key = Key(self.registry.find(checkpoint).id, _precision(precision or self.precision))
        with self._lock:
            entry = self._cache.get(key)
        if entry is not None:
            return dict(entry.facts)
        return self.run(Job(checkpoint, "describe", {}, visitor, precision))

    def unload(self, checkpoint: str, timeout: float = 5.0) -> int:
        """Takes a checkpoint's networks out of memory; returns the bytes that it freed.

        Raises:
            EngineError: `in_use`, it is still working after `timeout` seconds.
        """
        row = self.registry.find(checkpoint)
        with self._lock:
            self._lock.wait_for(lambda: not self._cache.in_use(row.id), timeout)
            freed, kept = self._cache.unload(row.id)
            self._lock.notify_all()
        devices.release(self.device)
        if kept:
            raise EngineError(f"The checkpoint '{row.id}' is in use; try again when its work is done.", "in_use")
        return freed

    def status(self) -> dict[str, Any]:
        """Device, what is loaded and how large, what waits and what runs: plain data for the status line."""
        with self._lock:
            groups = self._worker.groups.values()
            began = self._worker.turn_began
            return {
                "healthy": self._worker.lost is None and not self._closed,
                "reason": self._worker.lost,
                "device": str(self.device),
                "loaded": [
                    {
                        "checkpoint": e.key.checkpoint,
                        "precision": e.key.precision,
                        "bytes": e.bytes,
                        "in_use": e.pins > 0,
                    }
                    for e in self._cache
                ],
                "loading": [dict(state) for state in self._loader.under_way.values()],
                "cache_bytes": self._cache.budget,
                "used_bytes": self._cache.used,
                "evicted": self._cache.evicted,
                "waiting": len(self._room) + len(self._fits),
                "running": len(self._worker.running),
                "running_for": 0.0 if began is None else time.monotonic() - began,
                "slots": {"used": sum(len(g.rows) for g in groups), "per_kind": self._worker.slots},
                "queue": self._room.limit,
                "batches": self._worker.batches,
                "answered": self._worker.answered,
                "refused": dict(self._refused),
            }

    def close(self, drain: bool = True, timeout: float | None = 60.0) -> None:
        """Takes nothing new; finishes what waits and runs, or with `drain=False` ends it as `closed`.

        What has not ended after `timeout` seconds ends as `closed` too.
        """
        with self._lock:
            self._closed = self._worker.stopping = True
            self._lock.notify_all()
        if not drain:
            self._end_everything()
        if not self._worker.join(timeout):
            self._end_everything()
            self._worker.join(5.0)
        self._end_everything()
        with self._lock:
            self._loader.closed = True
            self._lock.notify_all()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _end_everything(self) -> None:
        with self._lock:
            worker = self._worker
            slots = [row.ticket for group in worker.groups.values() for row in group.rows]
            tickets = [*self._room, *self._fits, *worker.running, *slots]
        for ticket in tickets:
            ticket.fail(EngineError("The engine was closed before the request was answered.", "closed"))

    def _ticket(self, job: Job | Fit, static: Any) -> Ticket:
        row = self.registry.find(job.checkpoint)
        precision = _precision(job.precision or self.precision)
        work = job.operation if isinstance(job, Job) else job.objective
        seconds = self.deadline if job.deadline is None else job.deadline
        if not seconds > 0:
            raise EngineError("The request's deadline had passed before it was made.", "deadline")
        critic = job.critic if isinstance(job, Fit) else None
        looks = None if critic is None else Key(self.registry.find(critic).id, precision)
        group = Group(Key(row.id, precision, self._blend(job)), work, static, looks)
        ticket = Ticket(job, group, time.monotonic() + seconds, self._ended)
        if self._elsewhere is not None:
            ticket.context = contextvars.copy_context()
            ticket.group = group._replace(static=(static, job.visitor))
        return ticket

    def _blend(self, job: Job | Fit) -> tuple[str, float] | None:
        blend = job.blend if isinstance(job, Job) else None
        if blend is None or blend[1] == 0:
            return None
        if not 0 < blend[1] <= 1:
            raise BadInput(f"A blend is a share from 0 to 1, not {blend[1]!r}.")
        return self.registry.find(blend[0]).id, round(float(blend[1]), 2)  # every share is a network in the cache

    def _admit(self, tickets: list[Ticket], room: WaitingRoom) -> None:
        with self._lock:
            try:
                if self._worker.lost is not None:
                    raise EngineError(self._worker.lost, "device_lost")
                if self._closed:
                    raise EngineError("The engine is closed.", "closed")
                for visitor, more in Counter(t.job.visitor for t in tickets).items():
                    if visitor and self._visitors[visitor] + more > self.per_visitor:
                        raise EngineError(
                            f"One visitor may have {self.per_visitor} requests at a time; wait for some to end.",
                            "visitor_limit",
                        )
                room.admit(tickets)
            except EngineError as error:
                self._refused[error.code] += 1
                raise
            self._visitors.update(t.job.visitor for t in tickets)
            for key in {key for t in tickets for key in t.group.keys}:
                self._loader.want(key)
            self._worker.start()
            self._lock.notify_all()

    def _ended(self, ticket: Ticket) -> None:
        with self._lock:
            self._room.discard(ticket)
            self._fits.discard(ticket)
            visitor = ticket.job.visitor
            self._visitors[visitor] -= 1
            if self._visitors[visitor] <= 0:
                del self._visitors[visitor]
            self._lock.notify_all()

    def _wanted(self, key: Key) -> bool:
        return any(key in t.group.keys for t in (*self._room, *self._fits))

    def _load_failed(self, key: Key, error: GanHubError) -> None:
        self._worker.fail_all(key, error)


def _precision(name: str) -> str:
    if name not in PRECISIONS:
        raise BadInput(f"There is no precision '{name}'; choose {' or '.join(PRECISIONS)}.")
    return name
