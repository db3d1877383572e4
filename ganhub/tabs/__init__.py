"""One file per tab; found by scanning this folder, files that begin with `_` apart.

A tab file has `TITLE` (on the tab), `ORDER` (a number; small ones stand left) and `build(context)`, which lays out
its components inside the tab and joins them to events. Tabs know Gradio and pipelines; never torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ganhub.registry import Registry


@dataclass
class Context:
    """What a tab is built with."""

    engine: Any
    registry: Registry
    demo: Any = None
    """The page itself, for what happens when it is opened (`demo.load`)."""
    slug: str = ""
    """Name of the tab's file, and of the tab in the page's address (`?tab=generate`)."""
    status: Any = None
    """The status line's component; a tab refreshes it with `refresh` when something was done."""
    refresh: Callable[[], str] = str
    warm: list[Callable[[], Any]] = field(default_factory=list)
    """Called in the background when the page goes up; for what the first visitor should not wait for."""
