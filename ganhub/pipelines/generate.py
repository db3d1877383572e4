"""Pictures from seeds or latents, truncation sweeps, style mixing and interpolations.

Each function takes an engine and a request and gives an iterator: progress events, then the result. Closing the
iterator cancels what is still under way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from ganhub import imaging
from ganhub.directions import move, open_direction
from ganhub.engine import Job
from ganhub.errors import BadInput, EngineError
from ganhub.latents import Latents, load_latents, parse_layers, parse_seeds, path, shape_of, truncate, z_from_seeds
from ganhub.latents import mix as mix_styles
from ganhub.pipelines._work import answers_of, imaged, load, loading, provenance
from ganhub.pipelines.requests import (
    GenerateRequest,
    GenerateResult,
    InterpolateRequest,
    InterpolateResult,
    MixRequest,
    MixResult,
    Picture,
    Progress,
    Request,
    SweepRequest,
    SweepResult,
)
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

R = TypeVar("R")
Events = Generator[Progress, None, R]
Run = Iterator[Progress | R]  # the last one is the result


def generate(engine: Engine, request: GenerateRequest) -> Run[GenerateResult]:
    """One picture per seed or latent.

    Raises:
        GanHubError: the checkpoint cannot be had, or the request does not fit it.
    """
    yield from _run(engine, request, _generate)


def sweep(engine: Engine, request: SweepRequest) -> Run[SweepResult]:
    """Every seed at every psi, and a sheet of them all.

    Raises:
        GanHubError: as `generate`; BadInput for a generator without truncation.
    """
    yield from _run(engine, request, _sweep)


def mix(engine: Engine, request: MixRequest) -> Run[MixResult]:
    """The picture of each row with the named layers of each column, and a sheet of them all.

    Raises:
        GanHubError: as `generate`; BadInput for a generator without styles.
    """
    yield from _run(engine, request, _mix)


def interpolate(engine: Engine, request: InterpolateRequest) -> Run[InterpolateResult]:
    """A way from seed to seed as MP4 and as a strip.

    Raises:
        GanHubError: as `generate`; BadInput where the file cannot be written.
    """
    yield from _run(engine, request, _interpolate)


def _run(engine: Engine, request: Request, work) -> Iterator[Any]:
    source = yield from _open(engine, request)
    yield (yield from work(source, request))


@dataclass(frozen=True)
class _Source:
    """A checkpoint that is ready: its row, its facts, and the engine that holds it."""

    engine: Engine
    row: Checkpoint
    sha256: str
    facts: dict[str, Any]

    @property
    def w(self) -> bool:
        return self.facts["w_dim"] > 0

    def z(self, seeds: Sequence[int]) -> np.ndarray:
        return z_from_seeds(seeds, self.facts["z_dim"], self.facts["z_distribution"])

    def job(self, request: Request, operation: str, **item: Any) -> Job:
        return Job(self.row.id, operation, item, visitor=request.visitor, precision=request.precision)

    def from_z(self, request: Request, z: np.ndarray, seed: int, psi: float | None = None) -> Job:
        psi = request.psi if psi is None else psi
        how = {"psi": psi, "cutoff": request.cutoff, "noise_mode": request.noise_mode}
        return self.job(request, "generate", z=z, label=request.label, seed=seed, **how)

    def from_ws(self, request: Request, ws: np.ndarray, seed: int) -> Job:
        return self.job(request, "synthesize", ws=ws, noise_mode=request.noise_mode, seed=seed)

    def from_s(self, request: Request, s: np.ndarray, seed: int) -> Job:
        return self.job(request, "synthesize", s=s, noise_mode=request.noise_mode, seed=seed)

    def ws(self, request: Request, z: np.ndarray, psi: float | None = None) -> np.ndarray:
        """z [N, z_dim] -> truncated ws [N, num_ws, w_dim]."""
        how = {"label": request.label, "psi": request.psi if psi is None else psi, "cutoff": request.cutoff}
        jobs = (self.job(request, "map", z=row, **how) for row in z)
        return np.stack([ws for ws in answers_of(self.engine, jobs) if ws is not None])

    def provenance(self, request: Request, **own: Any) -> dict[str, Any]:
        how = {**request.parameters(), "precision": self.facts["precision"], **own}
        return provenance(request.task, self.row, self.sha256, how)

    def picture(self, pixels: np.ndarray, provenance: dict[str, Any], name: str) -> Picture:
        return imaged(imaging.to_pil(pixels), provenance, f"{self.row.id}_{name}")


def _open(engine: Engine, request: Request) -> Generator[Progress, None, _Source]:
    """Load the checkpoint, which fetches it where it is not here, and check that the request fits it."""
    source = yield from _load(engine, request)
    _fits(source.row, source.facts, request)
    return source


def _load(engine: Engine, request: Request) -> Generator[Progress, None, _Source]:
    row, sha256, facts = yield from load(engine, request.checkpoint, request.precision, request.visitor)
    return _Source(engine, row, sha256, facts)


def _fits(row: Checkpoint, facts: dict[str, Any], request: Request) -> None:
    classes = facts["c_dim"]
    if classes and request.label is None:
        raise BadInput(f"'{row.id}' makes pictures of {classes} classes; name one from 0 to {classes - 1}.")
    if request.label is not None and request.label >= classes:
        known = f"the classes 0 to {classes - 1}" if classes else "no classes"
        raise BadInput(f"'{row.id}' has {known}; the class {request.label} is none of them.")
    if not facts["w_dim"]:
        if isinstance(request, MixRequest):
            raise BadInput(f"'{row.id}' has no styles to mix; choose a StyleGAN.")
        if isinstance(request, SweepRequest) or request.psi != 1 or request.cutoff is not None:
            raise BadInput(f"'{row.id}' has no truncation; leave psi at 1, without a cutoff.")
        if isinstance(request, InterpolateRequest) and request.space == "w":
            raise BadInput(f"'{row.id}' has no intermediate latent; interpolate in z.")
    elif request.cutoff is not None and request.cutoff > facts["num_ws"]:
        raise BadInput(f"'{row.id}' has {facts['num_ws']} layers; the cutoff {request.cutoff} is beyond them.")
    if isinstance(request, MixRequest) and request.layers[-1] >= facts["num_ws"]:
        raise BadInput(
            f"'{row.id}' has the layers 0 to {facts['num_ws'] - 1}; there is no layer {request.layers[-1]} to mix."
        )


def _pictures(
    source: _Source, jobs: Iterable[Job], about: Iterable[tuple[dict[str, Any], str]], total: int
) -> Events[None]:
    """A progress event per finished picture, in order; `about` names provenance and file stem of each."""
    began = time.monotonic()
    done = 0
    left = None
    yield Progress(0, total, "Making the first picture")
    details = iter(about)
    with closing(answers_of(source.engine, jobs)) as answers:
        for pixels in answers:
            if pixels is None:
                waiting = Progress(done, total, f"{done} of {total} pictures", seconds_left=left)
                yield waiting if done else loading(source.engine, source.row)
                continue
            provenance, name = next(details)
            done += 1
            speed = done / max(time.monotonic() - began, 1e-6)
            left = (total - done) / speed
            picture = source.picture(pixels, provenance, name)
            yield Progress(done, total, f"{done} of {total} pictures", picture, done - 1, left, speed)


def _collect(events: Iterator[Progress], keep: bool = True) -> Generator[Progress, None, list[Picture]]:
    pictures = []
    for event in events:
        if keep and event.picture is not None:
            pictures.append(event.picture)
        yield event
    return pictures


def _generate(source: _Source, request: GenerateRequest) -> Events[GenerateResult]:
    values = request.latents
    if values is None:
        seeds = tuple(request.seeds)
        how = {"psi": request.psi, "cutoff": request.cutoff, "label": request.label}
        values = Latents("z", source.z(seeds), source.row.id, source.sha256, seeds=seeds, **how)  # type: ignore[arg-type]
        about: Iterable = ((source.provenance(request, seed=s, seeds=[s]), f"seed{s:04d}") for s in seeds)
    else:
        values = fitted(values, source.row, source.sha256, source.facts)
        mark, given = {"latents": values.digest(), "space": values.space}, values.seeds
        about = (
            (
                source.provenance(request, **mark, index=i, seeds=list(given[i : i + 1])),
                f"latent{i:04d}",
            )
            for i in range(len(values))
        )
    drawn = request
    if request.moves:
        yield Progress(0, 0, "Moving along the directions")
        values = _moved(source, request, values)
        drawn = replace(request, psi=values.psi, cutoff=values.cutoff)
    jobs = _jobs_of_latents(source, drawn, values)
    pictures = yield from _collect(_pictures(source, jobs, about, len(values)), request.keep)
    return GenerateResult(request, pictures, latents=values)


def _moved(source: _Source, request: GenerateRequest, values: Latents) -> Latents:
    """Where latents are once they went along a request's directions: truncated w+, or z where those are of z alone."""
    known = [
        (open_direction(source.engine.registry, name, source.row, source.facts["w_dim"]), far)
        for name, far in request.moves
    ]
    of_z = [(direction, far) for direction, far in known if direction.space == "z"]
    if of_z and values.space != "z":
        raise BadInput(f"'{of_z[0][0].id}' moves z, and these latents are of the space {values.space}; name seeds.")
    for direction, far in of_z:
        values = replace(values, values=move(values.values, direction, far))
    if len(of_z) == len(known):
        return replace(values, psi=request.psi, cutoff=request.cutoff)
    ws = _ws_of(source, request, values)
    for direction, far in known:
        if direction.space != "z":
            ws = move(ws, direction, far)
    return Latents("w+", ws, source.row.id, source.sha256, label=request.label, seeds=values.seeds)


def fitted(saved: Latents, row: Checkpoint, sha256: str, facts: dict[str, Any]) -> Latents:
    """Saved latents, once it is certain that they are this generator's.

    Raises:
        BadInput: they were saved from another checkpoint, or have another shape.
    """
    names = (row.id, *row.aliases)
    if saved.checkpoint and saved.checkpoint not in names and (not saved.sha256 or saved.sha256 != sha256):
        raise BadInput(f"These latents belong to '{saved.checkpoint[:60]}', not to '{row.id}'; choose that checkpoint.")
    if saved.space != "z" and not facts["w_dim"]:
        raise BadInput(f"'{row.id}' has no intermediate latent; only latents of the space z fit it.")
    want = shape_of(saved.space, facts)
    if saved.values.shape[1:] != want:
        shape = " x ".join(map(str, saved.values.shape[1:]))
        raise BadInput(f"These latents have {shape} numbers each; '{row.id}' wants {' x '.join(map(str, want))}.")
    return saved


def _jobs_of_latents(source: _Source, request: GenerateRequest, values: Latents) -> Iterator[Job]:
    seeds = values.seeds or (0,) * len(values)
    if values.space == "z":
        for z, seed in zip(values.values, seeds, strict=True):
            yield source.from_z(request, z.astype(np.float64), seed)
    elif values.space == "s":
        if request.psi != 1:
            raise BadInput("Styles are not truncated; leave psi at 1, or save the latent in w or w+.")
        for s, seed in zip(values.values, seeds, strict=True):
            yield source.from_s(request, s.astype(np.float32), seed)
    else:
        for row, seed in zip(_ws_of(source, request, values), seeds, strict=True):
            yield source.from_ws(request, row.astype(np.float32), seed)


def _ws_of(source: _Source, request: GenerateRequest, values: Latents) -> np.ndarray:
    """Truncated ws [N, num_ws, w_dim] of latents.

    Raises:
        BadInput: the generator has none, or the latents are styles.
    """
    if not source.w:
        raise BadInput(f"'{source.row.id}' has no intermediate latent; only directions of z move its pictures.")
    if values.space == "s":
        raise BadInput("Styles do not move along directions of w; save the latent in w or w+.")
    if values.space == "z":
        return source.ws(request, values.values.astype(np.float64))
    ws = values.values
    if values.space == "w":
        ws = np.repeat(ws[:, None], source.facts["num_ws"], axis=1)
    if request.psi != 1:  # psi 0 answers with the mean, whatever z
        mean = source.ws(replace(request, cutoff=None), source.z([0]), psi=0.0)[0, 0]
        ws = truncate(ws, mean, request.psi, request.cutoff)
    return ws


def to_w(engine: Engine, request: GenerateRequest) -> Latents:
    """The untruncated w+ latents of a request's seeds, for `save_latents`; [N, num_ws, w_dim].

    Raises:
        GanHubError: as `generate`; BadInput for a generator without w.
    """
    source: _Source = _last(_with_return(_open(engine, request)))
    if not source.w:
        raise BadInput(f"'{source.row.id}' has no intermediate latent; save its z.")
    seeds = tuple(request.seeds)
    ws = source.ws(replace(request, cutoff=None), source.z(seeds), psi=1.0)
    how = {"psi": request.psi, "cutoff": request.cutoff, "label": request.label}
    return Latents("w+", ws, source.row.id, source.sha256, seeds=seeds, **how)  # type: ignore[arg-type]


def _sweep(source: _Source, request: SweepRequest) -> Events[SweepResult]:
    seeds, psis = request.seeds, request.psis
    z = source.z(seeds)
    cells = [(i, seed, psi) for i, seed in enumerate(seeds) for psi in psis]
    jobs = (source.from_z(request, z[i], seed, psi) for i, seed, psi in cells)
    about = ((source.provenance(request, seed=s, psi=p), f"seed{s:04d}_psi{p:g}") for _, s, p in cells)
    pictures = yield from _collect(_pictures(source, jobs, about, len(cells)))
    sheet = imaging.labelled_grid(
        [picture.image for picture in pictures],
        columns=[f"psi {psi:g}" for psi in psis],
        rows=[f"seed {seed}" for seed in seeds],
    )
    grid = imaged(sheet, source.provenance(request), f"{source.row.id}_sweep")
    return SweepResult(request, pictures, grid)


def _mix(source: _Source, request: MixRequest) -> Events[MixResult]:
    rows, cols, layers = request.rows, request.cols, request.layers
    yield Progress(0, 0, "Mapping the seeds")
    every = list(dict.fromkeys((*rows, *cols)))
    ws = dict(zip(every, source.ws(request, source.z(every)), strict=True))
    pairs = [(row, col) for row in rows for col in cols]

    def jobs() -> Iterator[Job]:
        for seed in every:
            yield source.from_ws(request, ws[seed], seed)
        for row, col in pairs:
            yield source.from_ws(request, mix_styles(ws[row], ws[col], layers), row)

    def about() -> Iterator[tuple[dict[str, Any], str]]:
        for seed in every:
            yield source.provenance(request, seed=seed), f"seed{seed:04d}"
        for row, col in pairs:
            yield source.provenance(request, row=row, col=col), f"row{row:04d}_col{col:04d}"

    made = yield from _collect(_pictures(source, jobs(), about(), len(every) + len(pairs)))
    sources = dict(zip(every, made, strict=False))
    pictures = made[len(every) :]
    sheet = imaging.cross_grid(
        [sources[seed].image for seed in rows],
        [sources[seed].image for seed in cols],
        [picture.image for picture in pictures],
    )
    grid = imaged(sheet, source.provenance(request), f"{source.row.id}_mix")
    return MixResult(request, pictures, grid, sources=sources)


def _interpolate(source: _Source, request: InterpolateRequest) -> Events[InterpolateResult]:
    space = request.space or ("w" if source.w else "z")
    uniform = source.facts["z_distribution"] == "uniform"
    method = request.method or ("slerp" if space == "z" and not uniform else "linear")
    request = replace(request, space=space, method=method)
    seeds = request.seeds
    points = source.z(seeds)
    if space == "w":
        points = source.ws(request, points)
    way = path(points, request.frames, method=method, loop=request.loop, easing=request.easing)
    make = source.from_ws if space == "w" else source.from_z
    jobs = (make(request, point, seeds[0]) for point in way)
    about = ((source.provenance(request, frame=i), f"frame{i:05d}") for i in range(len(way)))
    whole = source.provenance(request)
    shown = set(np.linspace(0, len(way) - 1, min(request.strip, len(way))).round().astype(int).tolist())
    strip: list[Image.Image] = []
    pictures: list[Picture] = []
    events = _pictures(source, jobs, about, len(way))
    video = imaging.VideoWriter(request.file, request.fps, whole) if request.file else nullcontext()
    with closing(events), video as writer:
        for event in events:
            if event.picture is not None:
                if writer:
                    writer.add(event.picture.image)
                elif request.keep:
                    pictures.append(event.picture)
                if event.index in shown:
                    strip.append(event.picture.image)
            yield event
    sheet = imaged(imaging.strip(strip), whole, f"{source.row.id}_strip") if strip else None
    file = Path(request.file) if request.file else None
    return InterpolateResult(request, pictures, sheet, video=file, frames=len(way), about=whole)


_shared: dict[tuple[str, str], list[Any]] = {}
_shared_lock = threading.Lock()


class LoadedGenerator:
    """A checkpoint for use from Python; `ganhub.load(id)` gives one. Closing it, or leaving `with`, frees its memory.

    Generators opened with the same registry and device share one engine, which ends with the last of them.
    """

    def __init__(self, checkpoint: str, engine: Engine, on_close=None):
        self.id = engine.registry.find(checkpoint).id
        self._engine: Engine | None = engine
        self._on_close = on_close

    @classmethod
    def open(cls, checkpoint: str, *, registry: str | Path | None = None, device: str | None = None) -> LoadedGenerator:
        """A generator on the process's engine for this registry and device.

        Raises:
            GanHubError: no such row, or the registry cannot be read.
        """
        from ganhub.engine import Engine
        from ganhub.registry import load_registry

        key = (str(registry or ""), device or "")
        with _shared_lock:
            if key not in _shared:
                rows = load_registry(registry)
                rows.find(checkpoint)
                _shared[key] = [Engine(rows, device=device), 0]
            engine = _shared[key][0]
            opened = cls(checkpoint, engine, on_close=lambda: _release(key))
            _shared[key][1] += 1
        return opened

    @property
    def engine(self) -> Engine:
        """The engine that does the work.

        Raises:
            EngineError: this generator was closed.
        """
        if self._engine is None:
            raise EngineError(f"'{self.id}' was closed; open it again with ganhub.load().", "closed")
        return self._engine

    @property
    def spec(self) -> dict[str, Any]:
        """Plain facts: z_dim, c_dim, w_dim, num_ws, img_size, parameters, ..."""
        return self.engine.describe(self.id)

    def generate(
        self, seeds: Sequence[int] | str = (), *, latents: Latents | str | Path | None = None, **how: Any
    ) -> GenerateResult:
        """Pictures of seeds (numbers, or text like `0-7,12`), or of saved latents.

        Args:
            how: psi, cutoff, label, noise_mode, precision, moves.

        Raises:
            GanHubError: bad input, or the checkpoint cannot be had.
        """
        if latents is None:
            return _last(generate(self.engine, GenerateRequest(self.id, seeds=_seeds(seeds), **how)))
        saved = latents if isinstance(latents, Latents) else load_latents(latents)
        request = GenerateRequest.from_latents(self.id, saved, seeds=_seeds(seeds) if seeds else (), **how)
        return _last(generate(self.engine, request))

    def sweep(self, seeds: Sequence[int] | str, **how: Any) -> SweepResult:
        """Every seed at every psi (`psis=`), and a labelled sheet."""
        return _last(sweep(self.engine, SweepRequest(self.id, seeds=_seeds(seeds), **how)))

    def mix(self, rows: Sequence[int] | str, cols: Sequence[int] | str, layers: Sequence[int] | str, **how: Any):
        """The picture of each row with the named layers of each column, and a sheet."""
        chosen = parse_layers(layers) if isinstance(layers, str) else tuple(layers)
        return _last(mix(self.engine, MixRequest(self.id, rows=_seeds(rows), cols=_seeds(cols), layers=chosen, **how)))

    def interpolate(self, seeds: Sequence[int] | str, file: str | Path | None = None, **how: Any) -> InterpolateResult:
        """A way from seed to seed, as MP4 where `file` is named; frames, space, method, loop, easing, fps in `how`."""
        return _last(interpolate(self.engine, InterpolateRequest(self.id, seeds=_seeds(seeds), file=file, **how)))

    def to_w(self, seeds: Sequence[int] | str, **how: Any) -> Latents:
        """w+ of the seeds, untruncated, for `save_latents`."""
        return to_w(self.engine, GenerateRequest(self.id, seeds=_seeds(seeds), **how))

    def close(self) -> None:
        """Gives the engine back; a second call does nothing."""
        if self._engine is not None:
            self._engine = None
            if self._on_close:
                self._on_close()

    def __enter__(self) -> LoadedGenerator:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _release(key: tuple[str, str]) -> None:
    with _shared_lock:
        _shared[key][1] -= 1
        if _shared[key][1] == 0:
            _shared.pop(key)[0].close()


def _seeds(seeds: Sequence[int] | str) -> tuple[int, ...]:
    return tuple(parse_seeds(seeds) if isinstance(seeds, str) else seeds)


def _with_return(events: Generator[Any, None, Any]) -> Iterator[Any]:
    yield (yield from events)


def _last(events: Iterator[Any]) -> Any:
    return deque(events, maxlen=1)[0]
