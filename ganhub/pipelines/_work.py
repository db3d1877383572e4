"""What the pipelines ask of the engine: a checkpoint that is ready, answers in order, provenance of what came out."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from PIL import Image

import ganhub
from ganhub import hub, imaging
from ganhub.engine import Job
from ganhub.errors import EngineError
from ganhub.pipelines.requests import Picture, Progress
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

WINDOW = 32
"""Jobs of one request in the engine at a time: enough to fill its batches, little enough to keep memory flat."""
PATIENCE = 0.5
"""Seconds between signs of life while a picture is awaited; a Stop is seen at each."""

_facts: WeakKeyDictionary[Any, dict[Any, dict[str, Any]]] = WeakKeyDictionary()
"""What engines have told of their checkpoints: a second request must not wait its turn twice."""


def load(
    engine: Engine, checkpoint: str, precision: str | None, visitor: str, blend: tuple[str, float] | None = None
) -> Generator[Progress, None, tuple[Checkpoint, str, dict[str, Any]]]:
    """Load a checkpoint, which fetches it where it is not here: its row, its sha256, its facts.

    Raises:
        GanHubError: it cannot be had.
    """
    row = engine.registry.find(checkpoint)
    known = _facts.setdefault(engine, {})
    key = (row.id, precision, blend)
    facts = known.get(key)
    if facts is None:
        yield Progress(0, 0, f"Opening {row.title}")
        job = Job(row.id, "describe", {}, visitor=visitor, precision=precision, blend=blend)
        with closing(answers_of(engine, [job])) as answers:
            for answer in answers:
                if answer is None:
                    yield loading(engine, row)
                else:
                    facts = known[key] = answer
    assert facts is not None, "a job is answered or fails"
    return row, row.sha256 or hub.status(row).sha256 or "", facts


def loading(engine: Engine, row: Checkpoint) -> Progress:
    """How far the engine is with a checkpoint."""
    status = engine.status()
    state: dict[str, Any] = next((s for s in status["loading"] if s["checkpoint"] == row.id), {})
    if not state:
        queue = status["waiting"]
        return Progress(0, 0, f"Waiting, {queue} in the queue" if queue else f"{row.title} is at work")
    done, total = state.get("done") or 0, state.get("total") or row.bytes or 0
    if state.get("stage") != "fetch" or not done:
        return Progress(0, 0, f"Opening {row.title}")
    speed = state.get("speed")
    words = f"Fetching {row.title}: {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    words += f", {speed / 1e6:.1f} MB/s" if speed else ""
    return Progress(done, total, words, seconds_left=state.get("seconds_left"))


def answers_of(engine: Engine, jobs: Iterable[Job]) -> Generator[Any, None, None]:
    """Results in the order of the jobs, and None as a sign of life while one is awaited.

    At most WINDOW jobs are in the engine, sent many at a time so that they share batches; where it takes fewer (a
    full queue, a visitor's limit) the next ones are sent when own ones end. Closing cancels the rest.
    """
    source = iter(jobs)
    held: deque[Job] = deque()
    waiting: deque[Any] = deque()
    try:
        while True:
            if len(waiting) <= WINDOW // 2:
                held.extend(islice(source, max(0, WINDOW - len(waiting) - len(held))))
                _send(engine, held, waiting)
            if not waiting:
                return
            try:
                answer = waiting[0].result(timeout=PATIENCE)
            except TimeoutError:
                yield None
            else:
                waiting.popleft()
                yield answer
    finally:
        for ticket in waiting:
            ticket.cancel()


def gather(engine: Engine, row: Checkpoint, jobs: list[Job], words: str) -> Generator[Progress, None, list[Any]]:
    """Answers of all jobs, telling how far they are in some words, else how far the checkpoint is."""
    found: list[Any] = []
    with closing(answers_of(engine, jobs)) as answers:
        for answer in answers:
            if answer is None:
                yield Progress(len(found), len(jobs), words) if words else loading(engine, row)
            else:
                found.append(answer)
                if words and len(found) % 16 == 0 and len(found) < len(jobs):
                    yield Progress(len(found), len(jobs), words)
    return found


def _send(engine: Engine, held: deque[Job], waiting: deque[Any]) -> None:
    """Move jobs into the engine, as many as it takes.

    Raises:
        EngineError: it takes none, and none of ours is inside whose end would make room.
    """
    size = len(held)  # all together, else one by one
    while held:
        try:
            waiting.extend(engine.submit_all(list(islice(held, size))))
        except EngineError as error:
            refused = error.code in ("queue_full", "visitor_limit")
            if not refused or (size == 1 and not waiting):
                raise
            if size == 1:
                return
            size = 1
        else:
            for _ in range(size):
                held.popleft()


def provenance(task: str, row: Checkpoint, sha256: str, how: dict[str, Any]) -> dict[str, Any]:
    """What is written into a file: the checkpoint with its licence, everything that decides what the picture looks
    like, and that it is generated."""
    about = {
        "ganhub": ganhub.__version__,
        "task": task,
        "checkpoint": row.id,
        "title": row.title,
        "sha256": sha256,
        "license": row.license,
        **how,
        "generated": True,
        "notice": "AI-generated",
    }
    if row.credit:
        about["credit"] = row.credit
    return about


def imaged(image: Image.Image, provenance: dict[str, Any], name: str) -> Picture:
    """A picture whose provenance is also in `image.info`, where PNG encoders find it."""
    image.info.update(imaging.png_text(provenance))
    return Picture(image, provenance, name)
