"""Who has what under way, and what ends it. Gradio's own cancel would leave the page as it last was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr


class Runs:
    """The runs of a tab by visitor. Each has an event that it looks at between two steps."""

    def __init__(self) -> None:
        self._runs: dict[str, set[threading.Event]] = {}
        self._looks: dict[str, threading.Event] = {}

    @contextmanager
    def started(self, who: str, look: bool = False) -> Iterator[threading.Event]:
        """A run of a visitor, which ends the look that he has under way.

        Args:
            look: this is one itself, to be ended by whatever he starts next.
        """
        stop = threading.Event()
        if (before := self._looks.pop(who, None)) is not None:
            before.set()
        if look:
            self._looks[who] = stop
        self._runs.setdefault(who, set()).add(stop)
        try:
            yield stop
        finally:
            self._runs[who].discard(stop)
            if not self._runs[who]:
                self._runs.pop(who, None)
            if self._looks.get(who) is stop:
                del self._looks[who]

    def newest(self, who: str, stop: threading.Event) -> bool:
        """Whether this look was not followed by anything."""
        return self._looks.get(who) is stop

    def end(self, who: str) -> None:
        """Stop: each run of this visitor ends at its next step, and its jobs leave the engine."""
        for stop in tuple(self._runs.get(who, ())):
            stop.set()

    def button(self, who: str) -> gr.Button:
        """The Stop button when a run ends: off, where it was the visitor's only one."""
        return gr.Button(interactive=len(self._runs.get(who, ())) > 1)
