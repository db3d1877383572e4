"""What can be done with a latent: moved along directions, mixed with another one, and turned into another one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ganhub import imaging
from ganhub.directions import MAX_STRENGTH, move, open_direction
from ganhub.engine import Job
from ganhub.errors import BadInput
from ganhub.imaging.mark import mark
from ganhub.latents import Latents, lerp, mix, path, truncate, z_from_seeds
from ganhub.pipelines._work import answers_of, gather, imaged, load, loading, provenance
from ganhub.pipelines.generate import fitted
from ganhub.pipelines.requests import MAX_PICTURES, PRECISIONS, Picture, Progress, choice, number, whole
from ganhub.registry import Checkpoint

if TYPE_CHECKING:
    from ganhub.engine import Engine

PSI = 0.7
"""Truncation of a seed that is mixed in."""
MOST = 64
"""Latents of one request."""


@dataclass(frozen=True)
class EditRequest:
    """Latents, and what happens to them: first they are mixed, then they move.

    Raises:
        BadInput: when made with something that cannot be done.
    """

    checkpoint: str
    latents: Latents
    moves: Sequence[tuple[str, float]] = ()
    """Directions by id and how far to go: 1 is a clear change, negative the other way."""
    layers: Sequence[int] | None = None
    """Layers that move; None is what each direction names, mostly all."""
    mix: Latents | int | None = None
    """Another latent, or the seed of one, whose `mix_layers` are taken over."""
    mix_layers: Sequence[int] = ()
    mark: bool = True
    """A word in the corner says that the picture is generated."""
    precision: str | None = None
    visitor: str = ""

    task = "edit"

    def __post_init__(self):
        if len(self.latents) > MOST:
            raise BadInput(f"There are {len(self.latents)} latents; at most {MOST} at a time.")
        for name, strength in self.moves:
            number(f"strength of '{str(name)[:40]}'", strength, -MAX_STRENGTH, MAX_STRENGTH)
        for layer in (*(self.layers or ()), *self.mix_layers):
            whole("layer", layer, 0, 63, required=True)
        if self.layers is not None and not self.layers:
            raise BadInput("There is no layer to move; name some, or leave the layers empty for all.")
        if (self.mix is None) != (not self.mix_layers):
            raise BadInput("Mixing takes another latent and the layers that are taken from it.")
        if isinstance(self.mix, int):
            whole("seed", self.mix, 0, 2**32 - 1, required=True)
        choice("precision", self.precision, (*PRECISIONS, None))

    def parameters(self) -> dict[str, Any]:
        """Everything that decides what comes out, JSON-able."""
        other = self.mix.digest() if isinstance(self.mix, Latents) else self.mix
        moves = [[name, float(strength)] for name, strength in self.moves]
        layers = None if self.layers is None else list(self.layers)
        return {"latents": self.latents.digest(), "moves": moves, "layers": layers, "mix": other,
                "mix_layers": list(self.mix_layers)}  # fmt: skip


@dataclass(frozen=True)
class EditResult:
    """Pictures of what became of the latents."""

    request: EditRequest
    pictures: list[Picture]
    latents: Latents
    """w+, to go on from."""


@dataclass(frozen=True)
class MorphRequest:
    """A way from one latent to another.

    Raises:
        BadInput: when made with something that cannot be done.
    """

    checkpoint: str
    a: Latents
    """The first of these."""
    b: Latents
    steps: int = 6
    """Pictures of the strip: 0.0, 0.2, ... 1.0."""
    frames: int = 60
    """Of the video."""
    fps: int = 30
    file: str | Path | None = None
    """The MP4 to write; None writes none."""
    mark: bool = True
    precision: str | None = None
    visitor: str = ""

    task = "morph"

    def __post_init__(self):
        whole("number of steps", self.steps, 2, 64, required=True)
        whole("number of frames", self.frames, 2, MAX_PICTURES, required=True)
        whole("frames per second", self.fps, 1, 120, required=True)
        choice("precision", self.precision, (*PRECISIONS, None))

    def parameters(self) -> dict[str, Any]:
        """Everything that decides what comes out, JSON-able."""
        return {"a": self.a.digest(), "b": self.b.digest(), "steps": self.steps, "frames": self.frames, "fps": self.fps}


@dataclass(frozen=True)
class MorphResult:
    """The way from one latent to the other."""

    request: MorphRequest
    pictures: list[Picture]
    """Those of the strip."""
    strip: Picture
    """Side by side, with the share of the second above each."""
    latents: Latents
    """w+ of the strip's pictures."""
    video: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """Provenance of the whole."""


def edit(engine: Engine, request: EditRequest) -> Generator[Any, None, None]:
    """Progress, then an `EditResult`.

    Raises:
        GanHubError: the checkpoint or a direction cannot be had, or does not fit.
    """
    row, sha256, facts = yield from _open(engine, request)
    ws = yield from _ws(engine, request, row, sha256, facts, request.latents)
    if request.mix is not None:
        other = request.mix
        other = other if isinstance(other, Latents) else _seeded(other, request.latents.label, facts)
        others = yield from _ws(engine, request, row, sha256, facts, other)
        ws = mix(ws, np.broadcast_to(others[:1], ws.shape), request.mix_layers)
    for name, strength in request.moves:
        if strength:
            ws = move(ws, open_direction(engine.registry, name, row, facts["w_dim"]), strength, request.layers)
    latents = Latents("w+", ws, row.id, sha256, label=request.latents.label)
    about = provenance("edit", row, sha256, {**request.parameters(), "precision": facts["precision"]})
    pictures: list[Picture] = []
    with closing(answers_of(engine, (_synthesis(request, row, w) for w in ws))) as answers:
        for pixels in answers:
            if pixels is None:
                yield loading(engine, row)
                continue
            name = f"{row.id}_edited{len(pictures):02d}"
            image = _image(pixels, request.mark)
            pictures.append(imaged(image, {**about, "index": len(pictures)}, name))
            done = len(pictures)
            yield Progress(done, len(ws), f"{done} of {len(ws)} pictures", pictures[-1], done - 1)
    yield EditResult(request, pictures, latents)


def morph(engine: Engine, request: MorphRequest) -> Generator[Any, None, None]:
    """Progress, then a `MorphResult`.

    Raises:
        GanHubError: the checkpoint cannot be had, the latents do not fit it, or the file cannot be written.
    """
    row, sha256, facts = yield from _open(engine, request)
    a = (yield from _ws(engine, request, row, sha256, facts, request.a))[0]
    b = (yield from _ws(engine, request, row, sha256, facts, request.b))[0]
    shares = np.linspace(0, 1, request.steps)
    ws = np.stack([lerp(a, b, share) for share in shares]).astype(np.float32)
    frames = path(np.stack([a, b]), request.frames - 1, easing="smooth") if request.file else np.empty((0, *a.shape))
    about = provenance("morph", row, sha256, {**request.parameters(), "precision": facts["precision"]})
    pictures: list[Picture] = []
    plain: list[np.ndarray] = []
    total, done = len(ws) + len(frames), 0
    jobs = (_synthesis(request, row, w) for some in (ws, frames) for w in some)
    video = imaging.VideoWriter(request.file, request.fps, about) if request.file else nullcontext()
    with closing(answers_of(engine, jobs)) as answers, video as writer:
        for pixels in answers:
            if pixels is None:
                yield Progress(done, total, f"{done} of {total} pictures") if done else loading(engine, row)
                continue
            image, shown = _image(pixels, request.mark), None
            if done < len(ws):
                plain.append(pixels)
                share = round(float(shares[done]), 3)
                shown = imaged(image, {**about, "share": share}, f"{row.id}_morph{done:02d}")
                pictures.append(shown)
            elif writer is not None:
                writer.add(image)
            done += 1
            yield Progress(done, total, f"{done} of {total} pictures", shown, done - 1 if shown else None)
    sheet = imaging.labelled_grid(plain, [f"{share:.1f}" for share in shares], [""])
    strip = imaged(mark(sheet) if request.mark else sheet, about, f"{row.id}_morph")
    latents = Latents("w+", ws, row.id, sha256)
    yield MorphResult(request, pictures, strip, latents, Path(request.file) if request.file else None, about)


def _open(
    engine: Engine, request: EditRequest | MorphRequest
) -> Generator[Progress, None, tuple[Checkpoint, str, dict[str, Any]]]:
    row, sha256, facts = yield from load(engine, request.checkpoint, request.precision, request.visitor)
    if not facts["w_dim"]:
        raise BadInput(f"'{row.id}' has no intermediate latent to move in; choose a StyleGAN.")
    return row, sha256, facts


def _seeded(seed: int, label: int | None, facts: dict[str, Any]) -> Latents:
    """The z of a seed, truncated as pictures are that are looked at."""
    z = z_from_seeds([seed], facts["z_dim"], facts["z_distribution"])
    return Latents("z", z, psi=PSI, label=label)


def _ws(
    engine: Engine,
    request: EditRequest | MorphRequest,
    row: Checkpoint,
    sha256: str,
    facts: dict[str, Any],
    saved: Latents,
) -> Generator[Progress, None, np.ndarray]:
    """Saved latents of any space as w+, truncated as they say: float32 [N, num_ws, w_dim]."""
    saved = fitted(saved, row, sha256, facts)
    label = 0 if facts["c_dim"] and saved.label is None else saved.label

    def mapped(z: np.ndarray, psi: float, cutoff: int | None) -> Generator[Progress, None, np.ndarray]:
        how = {"psi": psi, "cutoff": cutoff, "label": label}
        jobs = [_job(request, row, "map", z=z.astype(np.float64), **how) for z in z]
        return np.stack((yield from gather(engine, row, jobs, ""))).astype(np.float32)

    if saved.space == "s":
        raise BadInput("Saved styles cannot be moved, mixed or morphed; save the latent in w or w+.")
    if saved.space == "z":
        return (yield from mapped(saved.values, saved.psi, saved.cutoff))
    ws = saved.values.astype(np.float32)
    if saved.space == "w":
        ws = np.repeat(ws[:, None], facts["num_ws"], 1)
    if saved.psi != 1:
        some = np.ones((1, facts["z_dim"]))  # psi 0 answers with the mean, whatever z
        mean = (yield from mapped(some, 0.0, None))[0, 0]
        ws = truncate(ws, mean, saved.psi, saved.cutoff)
    return ws


def _job(request: EditRequest | MorphRequest, row: Checkpoint, operation: str, **item: Any) -> Job:
    return Job(row.id, operation, item, request.visitor, request.precision)


def _synthesis(request: EditRequest | MorphRequest, row: Checkpoint, ws: np.ndarray) -> Job:
    return _job(request, row, "synthesize", ws=ws.astype(np.float32))


def _image(pixels: np.ndarray, marked: bool) -> Image.Image:
    image = imaging.to_pil(pixels)
    return mark(image.convert("RGB")) if marked else image
