"""How good a generator is: its pictures held against a set of real ones, in the features of a network.

As `ganhub.pipelines.generate`: an engine and a request give an iterator of progress events, then the result. Pictures
are drawn by the engine; features are taken beside it, so there is no event while a block of them is computed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import ganhub
from ganhub import checkpoint, models
from ganhub.data.dataset import PictureSet
from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.metrics import distances, path_length, snapshots
from ganhub.metrics.features import IDS, Features, load_features
from ganhub.pipelines._work import answers_of, loading
from ganhub.pipelines.generate import Events, Run, _load, _Source
from ganhub.pipelines.requests import MAX_PSI, Progress, Request, number, whole
from ganhub.registry import Checkpoint, PathSource, Task

if TYPE_CHECKING:
    from ganhub.engine import Engine

PAIRS = 8
"""Generated pictures that are shown beside the real one that they are nearest to."""


@dataclass(frozen=True)
class EvaluateRequest(Request):
    """Pictures of the seeds 0, 1, 2, ... against a set; with the classes of pictures of the set drawn at random."""

    data: PictureSet | str | Path = ""
    features: str = "small"
    count: int = 2000
    """Pictures drawn for each psi."""
    psis: tuple[float, ...] = (1.0,)
    path_length: bool = False

    task = "evaluate"

    def __post_init__(self):
        super().__post_init__()
        whole("number of pictures", self.count, 2 * distances.LEAST, 1_000_000, required=True)
        for psi in self.psis:
            number("psi", psi, -MAX_PSI, MAX_PSI)
        if not self.psis:
            raise BadInput("An evaluation takes at least one psi.")


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured.

    Attributes:
        about: checkpoint, sha256, features, pictures, set and its sha256, version: what a figure says nothing without.
        figures: of each psi: frechet, kernel, kernel_std, precision, recall, density, coverage, nearest_...
        half: of the first psi, against one half of the real pictures, as many on both sides.
        real: the same of the other half: the marks that nothing beats.
        path_length: None where it was not asked for.
        pairs: the pictures nearest to a real one, above those.
    """

    request: EvaluateRequest
    about: dict[str, Any]
    figures: dict[float, dict[str, float]]
    half: dict[str, float]
    real: dict[str, float]
    path_length: float | None
    pairs: Image.Image = field(repr=False)

    def line(self) -> dict[str, Any]:
        """All of it as JSON: the figures of the first psi as a line of `metrics.jsonl` has them, more beside them;
        `metrics` has the distances by the names that tell their features."""
        first, *others = self.figures
        line = {**self.about, **({} if first == 1 else {"psi": first}), **self.figures[first]}
        if self.path_length is not None:
            line["path_length"] = self.path_length
        named = {IDS[self.about["features"]][key]: self.figures[first][key] for key in ("frechet", "kernel")}
        line |= {"metrics": named, "half": self.half, "real": self.real}
        return line | ({"sweep": [{"psi": psi, **self.figures[psi]} for psi in others]} if others else {})


def evaluate(engine: Engine, request: EvaluateRequest) -> Run[EvaluateResult]:
    """Measure a checkpoint.

    Raises:
        GanHubError: the checkpoint, the set or the features cannot be had, or do not fit each other.
    """
    yield from _work(engine, request)


def _work(engine: Engine, request: EvaluateRequest) -> Iterator[Any]:
    distances.check_library()
    data = request.data if isinstance(request.data, PictureSet) else PictureSet(request.data)
    real = snapshots.Real(data)
    features = load_features(request.features, engine.registry).to(engine.device)
    source = yield from _load(engine, request)
    labels = _fitted(source, request, data)
    for done, total in real.reading(data, features):
        yield Progress(done, total, f"{done} of {total} real pictures seen")
    figures: dict[float, dict[str, float]] = {}
    for psi in request.psis:
        fake = yield from _features(source, request, features, psi, labels)
        yield Progress(0, 0, "Comparing")
        distance, index, mirrored = real.nearest(fake)
        figures[psi] = distances.compare(real.features, fake) | snapshots.nearness(distance, real.own)
        if len(figures) == 1:
            one, other = real.halves(request.count)
            alike = {"pictures": len(one)}
            half, marks = (alike | distances.compare(one, others) for others in (fake[: len(one)], other))
            near = np.argsort(distance)[:PAIRS]
            drawn = yield from _drawn(source, request, psi, labels, near.tolist())
            pairs = snapshots.pairs_sheet(np.stack(drawn), data, index[near], mirrored[near], distance[near])
    length = (yield from _path_length(source, request, features, labels)) if request.path_length else None
    about = {
        "checkpoint": source.row.id,
        "sha256": source.sha256,
        "features": features.name,
        "pictures": request.count,
        "data": {"name": data.name, "sha256": data.sha256, "pictures": len(real.features)},
        "ganhub": ganhub.__version__,
    }
    yield EvaluateResult(request, about, figures, half, marks, length, pairs)


def _fitted(source: _Source, request: EvaluateRequest, data: PictureSet) -> np.ndarray | None:
    """Class numbers of the pictures, [count]; None for a network without classes."""
    facts, name = source.facts, f"'{source.row.id}'"
    snapshots.check_size(data, facts["img_size"], name)
    if not facts["w_dim"] and (request.psis != (1.0,) or request.path_length):
        raise BadInput(f"{name} has no intermediate latent: no truncation to sweep, and no path to measure.")
    labels = snapshots.classes_of(data, facts["c_dim"], request.count)
    if labels is None:
        return None
    if ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
        return labels.argmax(axis=1)
    raise BadInput(f"The labels of {data.path} are vectors and no classes; such a network cannot be measured yet.")


def _jobs(
    source: _Source, request: EvaluateRequest, psi: float, labels: np.ndarray | None, seeds: list[int]
) -> Iterator[Job]:
    for seed in seeds:
        how = request if labels is None else replace(request, label=int(labels[seed]))
        yield source.from_z(how, source.z([seed])[0], seed, psi)


def _features(
    source: _Source, request: EvaluateRequest, features: Features, psi: float, labels: np.ndarray | None
) -> Events[np.ndarray]:
    """Features of the generated pictures, [count, D]; the pictures themselves are not kept."""
    began, held, found = time.monotonic(), [], []
    where = f" at psi {psi:g}" if len(request.psis) > 1 else ""
    jobs = _jobs(source, request, psi, labels, list(range(request.count)))
    done = 0
    with closing(answers_of(source.engine, jobs)) as answers:
        for pixels in answers:
            if pixels is None:
                yield loading(source.engine, source.row) if not done else _so_far(done, request.count, where, began)
                continue
            held.append(pixels)
            done += 1
            if len(held) == features.batch or done == request.count:
                found.append(features(np.stack(held)))
                held = []
            yield _so_far(done, request.count, where, began)
    return np.concatenate(found)


def _so_far(done: int, total: int, where: str, began: float) -> Progress:
    speed = done / max(time.monotonic() - began, 1e-6)
    words = f"{done} of {total} generated pictures{where}"
    return Progress(done, total, words, seconds_left=(total - done) / speed, speed=speed)


def _drawn(
    source: _Source, request: EvaluateRequest, psi: float, labels: np.ndarray | None, seeds: list[int]
) -> Events[list[np.ndarray]]:
    """The pictures of a few seeds, once more."""
    pictures = []
    with closing(answers_of(source.engine, _jobs(source, request, psi, labels, seeds))) as answers:
        for pixels in answers:
            if pixels is None:
                yield Progress(0, 0, "Drawing the nearest pairs")
            else:
                pictures.append(pixels)
    return pictures


def _path_length(
    source: _Source, request: EvaluateRequest, features: Features, labels: np.ndarray | None
) -> Events[float]:
    """In w, at the ends, without truncation; pictures are not rounded, which would hide so small a step."""
    found = []
    per_block, total = features.batch // 2, request.count // 2 * 2
    for at in range(0, total, 2 * per_block):
        seeds = range(at, min(at + 2 * per_block, total))
        label = None if labels is None else int(labels[at])  # both ends of a way have one class
        ws = source.ws(replace(request, label=label, cutoff=None), source.z(seeds), psi=1.0)
        jobs = (
            source.job(request, "render", ws=w.astype(np.float32), noise_mode=request.noise_mode, seed=0)
            for w in path_length.steps(ws)
        )
        images = []
        with closing(answers_of(source.engine, jobs)) as answers:
            for image in answers:
                if image is not None:
                    images.append(image)
                yield Progress(at + len(images), total, f"{at + len(images)} of {total} steps")
        levels = torch.from_numpy(np.stack(images)) * 127.5 + 127.5
        found.append(features.embed(levels).cpu().numpy())
    return path_length.path_length(np.concatenate(found))


def row_of(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """A row for a file or a run folder that no registry knows, and what its `run.json` says.

    Raises:
        BadInput: the folder holds no generator.
        CheckpointError: the file is damaged, or of no family known here.
    """
    run: dict[str, Any] = {}
    file = path
    if path.is_dir():
        found = [*sorted(path.glob("snapshot-*.safetensors")), *path.glob("G.safetensors")]
        if not found:
            raise BadInput(f"{path} has neither G.safetensors nor a snapshot; name the folder of a training.")
        file, about = found[-1], path / "run.json"
        try:
            run = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
        except ValueError as error:
            raise BadInput(f"{about} is no JSON ({error}); it was damaged, so train again or remove it.") from error
    raw = checkpoint.read(file)
    family = models.detect(raw)
    network: Any = models.read(raw, family)
    task: Task = "age" if hasattr(network, "directions") else "generate"
    task = "upscale" if isinstance(network, models.Upscaler) else task
    name = path.name if path.is_dir() else path.stem
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "file"
    row = Checkpoint(
        id=f"local-{slug}",
        task=(task,),
        family=family,
        source=PathSource(path=str(file.resolve())),
        sha256=raw.sha256,
        preprocess=run.get("preprocess") or {},
        title=name,
        license=str((run.get("data") or {}).get("license") or "unstated"),
        commercial_use=False,
    )
    return row, run
