"""Loaded networks under a budget of bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

HALF_LIFE = 600.0
"""Seconds after which a use counts half."""


class Key(NamedTuple):
    """What is loaded: a checkpoint in one precision."""

    checkpoint: str
    precision: str
    blend: tuple[str, float] | None = None
    """Another checkpoint, and how much of its weights goes into this one's."""


@dataclass(eq=False)
class Loaded:
    """A network that is never changed again: read, converted, warmed up, then published."""

    key: Key
    network: nn.Module
    facts: dict[str, Any]
    weights: int
    """Bytes of its parameters and buffers."""
    per_item: int = 0
    """Bytes of activations that one more picture in the batch takes, measured when it was warmed up."""
    largest: int = 1
    """Pictures in its largest batch."""
    caps: dict[str, int] = field(default_factory=dict)
    """Largest batch by operation, learned from running out of memory."""
    pins: int = 0
    score: float = 0.0
    touched: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """What it counts for in the budget: weights, and the activations of its largest batch."""
        return self.weights + self.per_item * self.largest

    def use(self) -> None:
        """Counts one use."""
        now = time.monotonic()
        self.score, self.touched = self.worth(now) + 1.0, now

    def worth(self, now: float) -> float:
        """Uses so far, each fading with its age: what is used often and what was used lately stays."""
        return self.score * 0.5 ** ((now - self.touched) / HALF_LIFE)


class Cache:
    """Networks by key. The caller holds the engine's lock.

    The sum of `bytes` of all entries and of what is set aside for networks that are being loaded never exceeds
    `budget`. An entry with pins is in use and stays.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._entries: dict[Key, Loaded] = {}
        self._aside: dict[Key, int] = {}
        self.evicted = 0

    def __iter__(self):
        return iter(list(self._entries.values()))

    def get(self, key: Key) -> Loaded | None:
        """The published network of a key."""
        return self._entries.get(key)

    @property
    def used(self) -> int:
        """Bytes that count against the budget now."""
        return sum(e.bytes for e in self._entries.values()) + sum(self._aside.values())

    def set_aside(self, key: Key, size: int) -> bool:
        """Keeps room for a network that is being loaded, evicting what is least used; False while pins prevent it."""
        others = self.used - self._aside.get(key, 0)
        evictable = sum(e.bytes for e in self._entries.values() if not e.pins)
        if others - evictable + size > self.budget:
            return False
        while others + size > self.budget:
            others -= self._evict_one().bytes
        self._aside[key] = size
        return True

    def publish(self, entry: Loaded) -> bool:
        """Lets everybody see a network; False while there is no room for it."""
        if not self.set_aside(entry.key, entry.bytes):
            return False
        del self._aside[entry.key]
        self._entries[entry.key] = entry
        return True

    def give_up(self, key: Key) -> None:
        """Frees what was set aside for a network that could not be loaded."""
        self._aside.pop(key, None)

    def evict_others(self, keep: Loaded | None) -> int:
        """Evicts every network that is not in use but `keep`; returns how many."""
        gone = [e for e in self._entries.values() if not e.pins and e is not keep]
        for entry in gone:
            self._remove(entry)
        return len(gone)

    def evict_all_unused(self) -> int:
        """Evicts every network that is not in use; returns how many."""
        return self.evict_others(None)

    def in_use(self, checkpoint: str) -> bool:
        """One of a checkpoint's networks is pinned."""
        return any(e.pins for e in self._entries.values() if e.key.checkpoint == checkpoint)

    def unload(self, checkpoint: str) -> tuple[int, int]:
        """Removes a checkpoint's networks; (bytes freed, networks that stay because they are in use)."""
        mine = [e for e in self._entries.values() if e.key.checkpoint == checkpoint]
        free = [e for e in mine if not e.pins]
        for entry in free:
            self._remove(entry)
        return sum(e.bytes for e in free), len(mine) - len(free)

    def clear(self) -> None:
        """Forgets everything, in use or not."""
        self._entries.clear()
        self._aside.clear()

    def _evict_one(self) -> Loaded:
        now = time.monotonic()
        least = min((e for e in self._entries.values() if not e.pins), key=lambda e: (e.worth(now), e.touched))
        self._remove(least)
        return least

    def _remove(self, entry: Loaded) -> None:
        assert not entry.pins, "a network in use is never evicted"
        del self._entries[entry.key]
        self.evicted += 1
