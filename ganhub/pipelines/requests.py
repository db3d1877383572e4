"""What can be asked of a generator, and what comes back. Plain data; checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganhub.directions import MAX_STRENGTH
from ganhub.errors import BadInput
from ganhub.latents import EASINGS, METHODS, Latents, check_seeds

if TYPE_CHECKING:
    from PIL import Image

NOISE_MODES = ("const", "random", "none")
PRECISIONS = ("exact", "fast")
MAX_PICTURES = 10_000
MAX_CELLS = 1024
"""Pictures of one sweep or mixing grid."""
MAX_PSI = 2.0


@dataclass(frozen=True)
class Request:
    """What all requests share.

    Raises:
        BadInput: when made with something that no generator can answer.
    """

    checkpoint: str
    psi: float = 1.0
    """Truncation: 1 none, towards 0 the average picture; -2 to 2. Only generators with an intermediate latent."""
    cutoff: int | None = None
    """Truncate only the first layers, this many."""
    label: int | None = None
    """Class of a conditional generator, which needs one."""
    noise_mode: str = "const"
    """`const`, `random` (drawn from the picture's seed) or `none`."""
    precision: str | None = None
    """`exact`, `fast`, or None for the engine's own."""
    visitor: str = ""
    keep: bool = True
    """False leaves the pictures out of the result: they come with the progress events only, and memory stays flat."""

    task = ""

    def __post_init__(self):
        number("psi", self.psi, -MAX_PSI, MAX_PSI)
        whole("cutoff", self.cutoff, 0, 64)
        whole("class", self.label, 0, 1_000_000)
        choice("noise mode", self.noise_mode, NOISE_MODES)
        choice("precision", self.precision, (*PRECISIONS, None))

    def _seeds(self, name: str, least: int = 1, most: int = MAX_PICTURES) -> None:
        seeds = tuple(check_seeds(getattr(self, name)))
        if not least <= len(seeds) <= most:
            raise BadInput(f"There are {len(seeds)} seeds; this takes {least} to {most}.")
        object.__setattr__(self, name, seeds)

    def parameters(self) -> dict[str, Any]:
        """Everything that decides what the picture looks like, JSON-able."""
        outside = ("checkpoint", "visitor", "keep", "latents", "file")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in outside}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class GenerateRequest(Request):
    """One picture per seed, or per saved latent."""

    seeds: Sequence[int] = ()
    latents: Latents | None = None
    moves: Sequence[tuple[str, float]] = ()
    """Directions by id, and how far each picture goes along them: 1 is a clear change, negative the other way."""

    task = "generate"

    def __post_init__(self):
        super().__post_init__()
        for name, strength in self.moves:
            number(f"strength of '{str(name)[:40]}'", strength, -MAX_STRENGTH, MAX_STRENGTH)
        moves = tuple((str(name), float(strength)) for name, strength in self.moves if strength)
        object.__setattr__(self, "moves", moves)
        if self.latents is not None and len(self.seeds):
            raise BadInput("Pictures come from seeds or from saved latents, not from both at once.")
        if self.latents is None:
            self._seeds("seeds")
        elif len(self.latents) > MAX_PICTURES:
            raise BadInput(f"There are {len(self.latents)} latents; at most {MAX_PICTURES} at a time.")

    def parameters(self) -> dict[str, Any]:
        values = super().parameters()
        moves = [list(move) for move in values.pop("moves")]
        return {**values, "moves": moves} if moves else values

    @classmethod
    def from_latents(cls, checkpoint: str, latents: Latents, **changes: Any) -> GenerateRequest:
        """The pictures that were saved: psi, cutoff and class come from the file unless changed."""
        saved = {"psi": latents.psi, "cutoff": latents.cutoff, "label": latents.label}
        return cls(checkpoint, latents=latents, **{**saved, **changes})


@dataclass(frozen=True)
class SweepRequest(Request):
    """Every seed at every psi."""

    seeds: Sequence[int] = ()
    psis: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)

    task = "sweep"

    def __post_init__(self):
        super().__post_init__()
        self._seeds("seeds", most=MAX_CELLS)
        for psi in self.psis:
            number("psi", psi, -MAX_PSI, MAX_PSI)
        object.__setattr__(self, "psis", tuple(float(psi) for psi in self.psis))
        if not self.psis or len(self.seeds) * len(self.psis) > MAX_CELLS:
            raise BadInput(f"A sweep takes at least one psi, and at most {MAX_CELLS} pictures.")


@dataclass(frozen=True)
class MixRequest(Request):
    """The picture of each row with the named layers of each column."""

    rows: Sequence[int] = ()
    cols: Sequence[int] = ()
    layers: Sequence[int] = (0, 1, 2, 3, 4, 5, 6)

    task = "mix"

    def __post_init__(self):
        super().__post_init__()
        self._seeds("rows")
        self._seeds("cols")
        for layer in self.layers:
            whole("layer", layer, 0, 63)
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        if not self.layers or len(self.rows) * len(self.cols) > MAX_CELLS:
            raise BadInput(f"A mixing grid takes at least one layer, and at most {MAX_CELLS} pictures.")


@dataclass(frozen=True)
class InterpolateRequest(Request):
    """A way from seed to seed."""

    seeds: Sequence[int] = ()
    frames: int = 60
    """Steps from one seed to the next."""
    space: str | None = None
    """`z` or `w`; None takes w where the generator has one."""
    method: str | None = None
    """`linear`, `slerp` or `spline`; None takes linear in w and slerp in z."""
    loop: bool = False
    easing: str = "none"
    fps: int = 30
    file: str | Path | None = None
    """The MP4 to write; None writes none, and the frames come with the progress events only."""
    strip: int = 8
    """Pictures in the strip; 0 for none."""

    task = "interpolate"

    def __post_init__(self):
        super().__post_init__()
        self._seeds("seeds", least=2, most=MAX_CELLS)
        whole("number of frames", self.frames, 1, MAX_PICTURES, required=True)
        whole("frames per second", self.fps, 1, 120, required=True)
        whole("strip", self.strip, 0, 64, required=True)
        choice("space", self.space, ("z", "w", None))
        choice("method", self.method, (*METHODS, None))
        choice("easing", self.easing, EASINGS)
        if self.total > MAX_PICTURES:
            raise BadInput(f"That makes {self.total} frames; at most {MAX_PICTURES} in one video.")

    @property
    def total(self) -> int:
        """Number of frames."""
        return len(self.seeds) * self.frames if self.loop else (len(self.seeds) - 1) * self.frames + 1


REQUESTS: dict[str, type[Request]] = {
    kind.task: kind for kind in (GenerateRequest, SweepRequest, MixRequest, InterpolateRequest)
}


def request_of(provenance: dict[str, Any], **changes: Any) -> Request:
    """The request that made a picture, from what `imaging.read_provenance` found in its file.

    Raises:
        BadInput: the picture was made from latents that are not inside it, by another task, or its settings are no
            valid request.
    """
    kind = REQUESTS.get(str(provenance.get("task")))
    if kind is None:
        raise BadInput(f"This file was made by the task '{str(provenance.get('task'))[:40]}', which has no seeds.")
    if "latents" in provenance:
        raise BadInput("This picture was made from saved latents; load their .npz file to make it again.")
    names = {f.name for f in dataclasses.fields(kind)} - {"visitor", "keep", "latents", "file"}
    values = {k: v for k, v in provenance.items() if k in names}
    if kind is GenerateRequest and "seed" in provenance:
        values["seeds"] = [provenance["seed"]]
    try:
        return kind(**{**values, **changes})
    except (TypeError, ValueError) as error:
        raise BadInput("The settings inside this file are damaged.") from error


@dataclass(frozen=True)
class Picture:
    """One picture and where it comes from."""

    image: Image.Image
    provenance: dict[str, Any]
    name: str
    """Stem of its file name: checkpoint, and seed or place."""

    def save(self, folder: str | Path, format: str = "png") -> Path:
        """Write `NAME.FORMAT` with the provenance inside; the folder is made.

        Raises:
            BadInput: the format is none of png, jpg, webp, or the folder cannot be written.
        """
        from ganhub.imaging import save_image

        return save_image(self.image, Path(folder) / f"{self.name}.{format}", self.provenance)


@dataclass(frozen=True)
class Progress:
    """One step of a request."""

    done: int
    total: int
    """Pictures; bytes while a checkpoint is fetched; 0 while neither is known."""
    message: str
    picture: Picture | None = None
    """The picture just finished."""
    index: int | None = None
    """Its place in the result."""
    seconds_left: float | None = None
    speed: float | None = None
    """Pictures a second."""


@dataclass(frozen=True)
class Result:
    """What a request ends with."""

    request: Request
    pictures: list[Picture] = field(default_factory=list)
    grid: Picture | None = None
    """All pictures on one sheet, with their sources."""

    @property
    def images(self) -> list[Image.Image]:
        """The pictures as PIL images."""
        return [picture.image for picture in self.pictures]

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Of each picture."""
        return [picture.provenance for picture in self.pictures]

    def save(self, folder: str | Path, format: str = "png") -> list[Path]:
        """Write every picture, and the sheet where there is one.

        Raises:
            BadInput: the format is none of png, jpg, webp, or the folder cannot be written.
        """
        sheets = [self.grid] if self.grid else []
        return [picture.save(folder, format) for picture in (*self.pictures, *sheets)]


@dataclass(frozen=True)
class GenerateResult(Result):
    """Pictures in the order of the seeds."""

    latents: Latents | None = None
    """z of the seeds (or the latents that were asked for), ready for `save_latents`."""

    @property
    def seeds(self) -> list[int]:
        """Seed of each picture; empty for latents without seeds."""
        return list(self.latents.seeds) if self.latents else []


@dataclass(frozen=True)
class SweepResult(Result):
    """Pictures row by row: each seed at every psi; `grid` is the labelled sheet."""


@dataclass(frozen=True)
class MixResult(Result):
    """Pictures row by row; `grid` has the sources as its first row and column."""

    sources: dict[int, Picture] = field(default_factory=dict)
    """The unmixed picture of every seed of the rows and columns."""


@dataclass(frozen=True)
class InterpolateResult(Result):
    """A video, and its strip as `grid`; single frames are in `pictures` only where no file was asked for."""

    video: Path | None = None
    frames: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    """Provenance of the whole."""

    @property
    def strip(self) -> Picture | None:
        """Pictures of the way side by side; None where none were asked for."""
        return self.grid


def number(name: str, value: Any, low: float, high: float) -> None:
    """Raises:
    BadInput: not a finite number between the two.
    """
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:
        raise BadInput(f"The {name} '{str(value)[:40]}' must be a number from {low:g} to {high:g}.")


def whole(name: str, value: Any, low: int, high: int, required: bool = False) -> None:
    """Raises:
    BadInput: not a whole number between the two (None is one unless it is required).
    """
    if value is None and not required:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadInput(f"The {name} '{str(value)[:40]}' must be a whole number from {low} to {high}.")


def choice(name: str, value: Any, known: Sequence[str | None]) -> None:
    """Raises:
    BadInput: none of the known ones.
    """
    if not isinstance(value, (str, type(None))) or value not in known:
        words = ", ".join(str(k) for k in known if k is not None)
        raise BadInput(f"The {name} '{str(value)[:40]}' is none of {words}.")
