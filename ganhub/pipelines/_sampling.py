"""Many latents of one generator, their pictures, and what networks say of those, without keeping the pictures."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.latents import z_from_seeds
from ganhub.pipelines._work import answers_of, load, loading
from ganhub.pipelines.requests import Progress
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

R = TypeVar("R")
Events = Generator[Progress, None, R]
AT_ONCE = 64
"""Pictures that are held while networks look at them."""


@dataclass(frozen=True)
class Source:
    """A generator that is ready: its row, its facts, and the engine that holds it."""

    engine: Engine
    row: Checkpoint
    sha256: str
    facts: dict[str, Any]
    label: int | None = None
    precision: str | None = None
    visitor: str = ""

    @property
    def space(self) -> str:
        """The space that directions are learned in where nobody names one."""
        return "w" if self.facts["w_dim"] else "z"

    def job(self, operation: str, row: Checkpoint | None = None, **item: Any) -> Job:
        return Job((row or self.row).id, operation, item, self.visitor, self.precision)

    def latents(self, seeds: Sequence[int], space: str, psi: float = 1.0, words: str = "") -> Events[np.ndarray]:
        """Latents of seeds: z [N, z_dim], w [N, w_dim] or w+ [N, num_ws, w_dim].

        Raises:
            BadInput: the generator has no such space.
        """
        z = z_from_seeds(seeds, self.facts["z_dim"], self.facts["z_distribution"])
        if space == "z":
            return z
        if not self.facts["w_dim"]:
            raise BadInput(f"'{self.row.id}' has no intermediate latent; use the space z.")
        jobs = (self.job("map", z=one, psi=psi, label=self.label) for one in z)
        ws = np.stack((yield from self.every(jobs, len(z), words or "Mapping the seeds")))
        return ws[:, 0] if space == "w" else ws

    def drawing(self, latent: np.ndarray, seed: int = 0) -> Job:
        """The job that draws a latent: z [z_dim] of a generator without w, w [w_dim] or w+ [num_ws, w_dim]."""
        if not self.facts["w_dim"]:
            return self.job("generate", z=latent.astype(np.float64), label=self.label, seed=seed)
        ws = np.repeat(latent[None], self.facts["num_ws"], 0) if latent.ndim == 1 else latent
        return self.job("synthesize", ws=ws.astype(np.float32), seed=seed)

    def pictures(self, latents: Iterable[np.ndarray], total: int, words: str = "") -> Events[list[np.ndarray]]:
        """uint8 [H, W, C] of each latent."""
        return (yield from self.every((self.drawing(one) for one in latents), total, words))

    def looks(self, latents: np.ndarray, names: Sequence[str], words: str) -> Events[list[np.ndarray]]:
        """What networks see in the pictures of latents [N, ...]: of each network [N, D]."""
        rows = [self.engine.registry.find(name) for name in names]
        found: list[list[np.ndarray]] = [[] for _ in rows]
        for start in range(0, len(latents), AT_ONCE):
            part = latents[start : start + AT_ONCE]
            pictures = yield from self.pictures(part, len(part))
            for row, seen in zip(rows, found, strict=True):
                jobs = (self.job("look", row, pixels=picture) for picture in pictures)
                seen += yield from self.every(jobs, len(pictures), "")
            yield Progress(start + len(part), len(latents), words)
        return [np.stack(seen).astype(np.float64) for seen in found]

    def every(self, jobs: Iterable[Job], total: int, words: str) -> Events[list[Any]]:
        """Answers of all jobs, telling how far they are where there are words for it."""
        found: list[Any] = []
        with closing(answers_of(self.engine, jobs)) as answers:
            for answer in answers:
                if answer is None:
                    yield Progress(len(found), total, words) if words and found else loading(self.engine, self.row)
                    continue
                found.append(answer)
                if words and len(found) % AT_ONCE == 0:
                    yield Progress(len(found), total, words)
        return found


def opened(
    engine: Engine, checkpoint: str, label: int | None = None, precision: str | None = None, visitor: str = ""
) -> Events[Source]:
    """A generator, loaded.

    Raises:
        BadInput: it is no generator, or the class does not fit it.
        GanHubError: it cannot be had.
    """
    row, sha256, facts = yield from load(engine, checkpoint, precision, visitor)
    if not facts["z_dim"] or facts["text_dim"]:
        raise BadInput(f"'{row.id}' draws no pictures from latents alone; choose a generator, such as a StyleGAN.")
    classes = facts["c_dim"]
    if classes and (label is None or not 0 <= label < classes):
        raise BadInput(f"'{row.id}' makes pictures of {classes} classes; name one from 0 to {classes - 1}.")
    if label is not None and not classes:
        raise BadInput(f"'{row.id}' has no classes; leave the class empty.")
    return Source(engine, row, sha256, facts, label, precision, visitor)
