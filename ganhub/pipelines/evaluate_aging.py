"""How well a network changes ages: by how many years, whether each face is still the same person's, what else moves.

The faces are those of people that nobody has learned from: neither this project's trainings nor the judges
(`ganhub.metrics.faces`), which learn from the rest of the set at hand. Faces of under 45 years go the older way, those
of over 60 the younger one, as visitors get them: through the engine, and pasted back.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import ganhub
from ganhub.data.dataset import PictureSet
from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.imaging.align import cut, face_mask, paste, square_for
from ganhub.imaging.sheets import grid
from ganhub.metrics.faces import Faces, Judges, faces_of, geometry
from ganhub.pipelines._work import answers_of, load, loading
from ganhub.pipelines.requests import PRECISIONS, Progress, choice

if TYPE_CHECKING:
    from ganhub.engine import Engine

WAYS = {"older": (0.0, 44.0, 75.0), "younger": (61.0, 200.0, 25.0)}
"""Ages from which faces go each way, and the age that networks with a real one are asked for."""
STEPS = 600
"""In which each judge learns where no file of them is at hand: some minutes on a CPU."""
PAIRS = 20
"""People of each way on the sheet."""


@dataclass(frozen=True)
class EvaluateAgingRequest:
    """A network, and a set of `ganhub data prepare --crop face` whose ages are known."""

    checkpoint: str
    data: str | Path
    judges: Path | None = None
    """Their file: read where it exists, else made."""
    steps: int = STEPS
    precision: str | None = None
    visitor: str = ""

    task = "evaluate"

    def __post_init__(self):
        choice("precision", self.precision, (*PRECISIONS, None))


@dataclass(frozen=True)
class EvaluateAgingResult:
    """What was measured.

    Attributes:
        about: checkpoint, sha256, precision, set, version.
        ways: for each way `faces`, `years` (mean that the age moves by), `years_low` and `years_high` (95 % of it),
            `moved` (share that moves the right way), `itself` (share that stays nearest to its own original),
            `cosine` to the own and `cosine_other` to the nearest other one, `change` inside of the mask, `backdrop`
            (largest change a pixel outside of it, in levels of 255).
        judges: how good they are on people that they do not know.
        pairs: faces before and after, as pasted.
    """

    request: EvaluateAgingRequest
    about: dict[str, Any]
    ways: dict[str, dict[str, float]]
    judges: dict[str, float]
    pairs: Image.Image

    def line(self) -> dict[str, Any]:
        """All of it as JSON; `metrics` as rows have them."""
        metrics = {f"{way}_{key}": round(figures[key], 3) for way, figures in self.ways.items()
                   for key in ("years", "itself")}  # fmt: skip
        return {**self.about, "metrics": metrics, "ways": self.ways, "judges": self.judges}


def evaluate_aging(engine: Engine, request: EvaluateAgingRequest) -> Iterator[Any]:
    """Measure a network: progress, then the result.

    Raises:
        GanHubError: the checkpoint or the set cannot be had, or no ages are known.
    """
    row, sha256, facts = yield from load(engine, request.checkpoint, request.precision, request.visitor)
    if not facts["directions"]:
        raise BadInput(f"'{row.id}' does not change ages; `ganhub list --task age` shows what does.")
    data = PictureSet(request.data)
    every = faces_of(data)
    faces = every.where(every.held_out)
    judges = yield from _judges(request, data)
    _, ffhq = geometry(data)
    square, size = square_for({"size": facts["img_size"][0], **row.preprocess}, ffhq)
    ways: dict[str, dict[str, float]] = {}
    shown: list[np.ndarray] = []
    originals = judges.directions(faces.pictures)
    persons = faces.persons()
    for way, (least, most, target) in WAYS.items():
        chosen = (faces.ages >= least) & (faces.ages <= most)
        if way not in facts["directions"] or not chosen.any():
            continue
        some = faces.where(chosen)
        photos = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in some.pictures]
        cuts = [cut(photo, square, size) for photo in photos]
        target = min(max(target, facts["ages"][0]), facts["ages"][1]) if facts["ages"] else target
        jobs = [
            Job(row.id, "age", {"pixels": np.asarray(one.picture), "source": float(age), "target": target},
                visitor=request.visitor, precision=request.precision)
            for one, age in zip(cuts, some.ages, strict=True)
        ]  # fmt: skip
        made = []
        with closing(answers_of(engine, jobs)) as answers:
            for answer in answers:
                if answer is None:
                    yield loading(engine, row)
                else:
                    made.append(answer)
                    yield Progress(len(made), len(jobs), f"{way}: {len(made)} of {len(jobs)} faces")
        masks = [face_mask(one, ffhq) for one in cuts]
        pasted = [
            paste(photo, Image.fromarray(picture), one, mask)
            for photo, picture, one, mask in zip(photos, made, cuts, masks, strict=True)
        ]
        after = torch.from_numpy(np.stack([np.asarray(p) for p in pasted])).permute(0, 3, 1, 2)
        ways[way] = _figures(judges, way, some, after, originals, chosen, persons)
        step = max(1, len(photos) // PAIRS)
        shown += [np.asarray(p) for pair in list(zip(photos, pasted, strict=True))[::step][:PAIRS] for p in pair]
    about = {
        "checkpoint": row.id,
        "sha256": sha256,
        "precision": facts["precision"],
        "data": {"name": data.name, "sha256": data.sha256, "pictures": len(faces.ages)},
        "ganhub": ganhub.__version__,
    }
    yield EvaluateAgingResult(request, about, ways, judges.figures, grid(shown, 8))


def _judges(request: EvaluateAgingRequest, data: PictureSet) -> Generator[Progress, None, Judges]:
    file = request.judges
    if file is not None and file.exists():
        return Judges.read(file)
    yield Progress(0, 0, f"Two judges learn from {data.name}: {request.steps} steps each, some minutes")
    judges = Judges.taught(data, steps=request.steps)
    if file is not None:
        judges.save(file)
    return judges


def _figures(
    judges: Judges, way: str, some: Faces, after: torch.Tensor, originals: torch.Tensor, chosen: torch.Tensor,
    persons: torch.Tensor,
) -> dict[str, float]:  # fmt: skip
    moved = judges.years(after) - judges.years(some.pictures)
    error = 1.96 * float(moved.std()) / len(moved) ** 0.5 if len(moved) > 1 else 0.0
    cosines = judges.directions(after) @ originals.T
    own = persons[chosen][:, None] == persons
    to_own = cosines[torch.arange(len(cosines)), chosen.nonzero()[:, 0]]
    to_others = cosines.masked_fill(own, -2).amax(1)
    change = (after.float() - some.pictures.float()).abs()
    # the paste reads between pixels, so that the soft edge may reach one pixel further
    outside = torch.nn.functional.max_pool2d(some.mask[None], 3, 1, 1)[0] == 0
    return {
        "faces": float(len(moved)),
        "years": float(moved.mean()),
        "years_low": float(moved.mean()) - error,
        "years_high": float(moved.mean()) + error,
        "moved": float(((moved > 0) == (way == "older")).float().mean()),
        "itself": float((to_own > to_others).float().mean()),
        "cosine": float(to_own.mean()),
        "cosine_other": float(to_others.mean()),
        "change": float(change[:, :, some.mask > 0.5].mean()),
        "backdrop": float(change[:, :, outside].max()) if outside.any() else 0.0,
    }
