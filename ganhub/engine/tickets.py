"""What goes through the engine's door: jobs in, tickets out, all plain data."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from ganhub.errors import EngineError, GanHubError


@dataclass(frozen=True)
class Job:
    """One picture's worth of forward work."""

    checkpoint: str
    operation: str
    """A name in `ganhub.engine.operations`."""
    item: dict[str, Any]
    """What the operation asks for: numbers, strings and NumPy arrays."""
    visitor: str = ""
    """Whose turn it takes; the empty visitor is the owner of the process, who has no limit of his own."""
    precision: str | None = None
    """`exact` or `fast`; the engine's own by default."""
    deadline: float | None = None
    """Seconds from the submission; the engine's own by default."""
    blend: tuple[str, float] | None = None
    """Another checkpoint of the same layers, and how much of its weights goes into this one's: 0 to 1."""


@dataclass(frozen=True)
class Fit:
    """A latent to be found step by step; shares every step with the other fits of its kind."""

    checkpoint: str
    objective: str
    """A name in `ganhub.engine.objectives`."""
    item: dict[str, Any]
    steps: int = 200
    lr: float = 0.05
    seed: int = 0
    visitor: str = ""
    precision: str | None = None
    deadline: float | None = None
    critic: str | None = None
    """Another checkpoint, which the objective looks through: a CLIP."""
    preview: int = 0
    """Every so many steps a progress event carries the latent; 0 for never."""


@dataclass(frozen=True)
class Step:
    """Progress of a fit: `step` of `steps` are done, and `loss` was the last one's."""

    step: int
    steps: int
    loss: float
    latent: Any = None
    """NumPy array, where the fit asked for previews."""


_numbers = itertools.count(1)


@dataclass(eq=False)
class Ticket:
    """A job's place in the engine; ends exactly once, with a result or with an error."""

    job: Job | Fit
    group: Any = None
    """Jobs of equal groups may share a batch."""
    expires: float | None = None
    """On the clock of `time.monotonic`."""
    on_end: Callable[[Ticket], None] | None = None
    context: Context | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    _value: Any = None
    _error: GanHubError | None = None
    _ended: bool = False
    _events: deque = field(default_factory=lambda: deque(maxlen=1000))
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def done(self) -> bool:
        """True once there is a result or an error."""
        return self._ended

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the result.

        Raises:
            GanHubError: the job failed, was cancelled, or its deadline passed.
            TimeoutError: `timeout` seconds passed first; the job goes on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                now = time.monotonic()
                ends = [t for t in (until, self.expires) if t is not None]
                if not self._ended and (not ends or now < min(ends)):
                    self._changed.wait(min(ends) - now if ends else None)
                if self._ended:
                    break
            if not self.expire() and until is not None and time.monotonic() >= until:
                raise TimeoutError(f"No result within {timeout:g} s.")
        if self._error is not None:
            raise copy.copy(self._error)  # many threads may raise what one load gave them
        return self._value

    def progress(self) -> Iterator[Step]:
        """The events so far and to come, until the job has ended; `result` then answers at once."""
        while True:
            with self._changed:
                while not self._events and not self._ended:
                    left = None if self.expires is None else self.expires - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                events = list(self._events)
                self._events.clear()
                ended = self._ended
            yield from events
            if ended or self.expire():
                return

    def pending(self, timeout: float) -> list[Step]:
        """The events since the last look; waits at most `timeout` seconds for the first."""
        with self._changed:
            if not self._events and not self._ended:
                self._changed.wait(timeout)
            events = list(self._events)
            self._events.clear()
        self.expire()
        return events

    def cancel(self) -> bool:
        """Ends the job as cancelled: at once in the queue, before the next step when it runs; False if it had ended."""
        return self.fail(EngineError("The request was cancelled.", "cancelled"))

    # What follows is the engine's side.

    def expire(self) -> bool:
        """Ends the job if its deadline has passed; True if it has ended."""
        if not self._ended and self.expires is not None and time.monotonic() >= self.expires:
            self.fail(
                EngineError(
                    f"No answer from '{self.job.checkpoint}' before the request's deadline; try again later.",
                    "deadline",
                )
            )
        return self._ended

    def succeed(self, value: Any) -> bool:
        """Ends the job with its result, unless its deadline has passed."""
        return not self.expire() and self._end(value, None)

    def fail(self, error: GanHubError) -> bool:
        """Ends the job with an error."""
        return self._end(None, error.with_traceback(None))

    def end_with(self, answer: Any) -> bool:
        """Ends the job with an answer that may be its error."""
        return self.fail(answer) if isinstance(answer, GanHubError) else self.succeed(answer)

    def outcome(self) -> Any:
        """The result or the error of a job that has ended."""
        return self._value if self._error is None else self._error

    def report(self, event: Step) -> None:
        """Adds a progress event."""
        with self._changed:
            if not self._ended:
                self._events.append(event)
                self._changed.notify_all()

    def _end(self, value: Any, error: GanHubError | None) -> bool:
        with self._changed:
            if self._ended:
                return False
            self._value, self._error, self._ended = value, error, True
            self._changed.notify_all()
        if self.on_end is not None:
            self.on_end(self)
        return True
