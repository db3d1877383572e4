"""How good a network that enlarges pictures is: its pictures held against the true ones, beside bicubic.

The protocol is that of the published tables (`ganhub.metrics.pictures`), so that a folder with the pictures of Set5
gives their figures: bicubic x4 has 28.42 dB there. A folder holds high-resolution pictures, which are made small here,
or both kinds in the usual arrangements (`FINDS`).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ganhub
from ganhub import imaging
from ganhub.data.photos import PhotoSet
from ganhub.errors import BadInput, FetchError, RegistryError
from ganhub.imaging import Photo
from ganhub.metrics import pictures
from ganhub.pipelines._work import load
from ganhub.pipelines.requests import PRECISIONS, Progress, choice
from ganhub.pipelines.upscale import UpscaleRequest, upscale

if TYPE_CHECKING:
    from ganhub.engine import Engine

ENDINGS = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
FINDS = "pictures, or one folder HR, GT... or ...HR of them, and maybe one folder LR...xN or .../XN of small ones"
PROTOCOL = (
    "the true picture cropped to a multiple of {scale}; {small}; results rounded to 8 bits; {scale} pixels cut off "
    "every side; PSNR and SSIM (Gaussian of 11x11, Wang et al.) of the Y of BT.601 in whole levels; sharpness: mean "
    "|Laplacian| of Y relative to the true picture's"
)


@dataclass(frozen=True)
class Pair:
    """A true picture, and its small version where there is a file of it; files, or uint8 [H, W, C]."""

    name: str
    true: Path | np.ndarray
    small: Path | None = None


@dataclass(frozen=True)
class EvaluateUpscaleRequest:
    """A network, and a folder of pictures or the pictures themselves."""

    checkpoint: str
    data: str | Path | tuple[Pair, ...]
    name: str = ""
    """Of the set; the folder's by default."""
    precision: str | None = None
    visitor: str = ""

    task = "evaluate"

    def __post_init__(self):
        choice("precision", self.precision, (*PRECISIONS, None))
        if isinstance(self.data, tuple) and not (self.data and self.name):
            raise BadInput("An evaluation takes at least one picture, and a name for the set.")


@dataclass(frozen=True)
class EvaluateUpscaleResult:
    """What was measured.

    Attributes:
        about: checkpoint, sha256, scale, precision, protocol, set and its sha256, version.
        pictures: of each: name, size and the figures of `model` and `bicubic`: psnr_y, ssim_y, sharpness, lpips.
        mean: the means of both.
        notes: what was left out, and why.
    """

    request: EvaluateUpscaleRequest
    about: dict[str, Any]
    pictures: list[dict[str, Any]]
    mean: dict[str, dict[str, float]]
    notes: tuple[str, ...]

    def line(self) -> dict[str, Any]:
        """All of it as JSON; `metrics` has the means by names that tell the set, as rows have them."""
        slug = re.sub(r"[^a-z0-9]+", "_", self.about["data"]["name"].lower()).strip("_")
        metrics = {f"{key}_{slug}": round(value, 4) for key, value in self.mean["model"].items()}
        return {**self.about, "metrics": metrics, **self.mean, "each": self.pictures, "notes": list(self.notes)}


def evaluate_upscale(engine: Engine, request: EvaluateUpscaleRequest) -> Iterator[Any]:
    """Measure a network: progress, then the result.

    Raises:
        GanHubError: the checkpoint or a picture cannot be had, or pictures do not fit each other.
    """
    row, sha256, facts = yield from load(engine, request.checkpoint, request.precision, request.visitor)
    scale = facts["scale"]
    if not scale:
        raise BadInput(f"'{row.id}' does not enlarge pictures; `ganhub list --task upscale` shows what does.")
    pairs = request.data if isinstance(request.data, tuple) else read_pairs(Path(request.data), scale)
    notes = []
    try:
        look = pictures.load_lpips(engine.registry).to(engine.device)
    except (FetchError, RegistryError) as error:
        look = None
        notes.append(error.message)
    began, digest = time.monotonic(), hashlib.sha256()
    each: list[dict[str, Any]] = []
    for done, pair in enumerate(pairs):
        left = (time.monotonic() - began) / done * (len(pairs) - done) if done else None
        so_far = Progress(done, len(pairs), f"{done} of {len(pairs)} pictures, now {pair.name}", seconds_left=left)
        yield so_far
        true, small = _read(pair, scale)
        digest.update(pair.name.encode() + repr(true.shape).encode() + true.tobytes() + small.tobytes())
        made = np.broadcast_to((yield from _enlarged(engine, request, pair.name, small, so_far)), true.shape)
        plain = pictures.imresize(small, scale)
        try:
            figures = {"model": _figures(made, true, scale, look), "bicubic": _figures(plain, true, scale, look)}
        except BadInput as error:
            raise BadInput(f"{pair.name}: {error.message}") from error
        each.append({"name": pair.name, "size": [true.shape[1], true.shape[0]], **figures})
    given = sum(pair.small is not None for pair in pairs)
    how = "its small version from the set" if given else "made small by MATLAB's bicubic"
    about = {
        "checkpoint": row.id,
        "sha256": sha256,
        "scale": scale,
        "precision": facts["precision"],
        "protocol": PROTOCOL.format(scale=scale, small=how) + ("; LPIPS v0.1 (alex) of RGB" if look else ""),
        "data": {
            "name": request.name or Path(request.data).resolve().name,  # type: ignore[arg-type]
            "sha256": digest.hexdigest(),
            "pictures": len(pairs),
        },
        "ganhub": ganhub.__version__,
    }
    mean = {who: pictures.mean_of([one[who] for one in each]) for who in ("model", "bicubic")}
    yield EvaluateUpscaleResult(request, about, each, mean, tuple(notes))


def _enlarged(
    engine: Engine, request: EvaluateUpscaleRequest, name: str, small: np.ndarray, so_far: Progress
) -> Generator[Progress, None, np.ndarray]:
    """What the network makes of a small picture, as any visitor gets it: in tiles."""
    photo = Photo(small, name=name)
    enlarging = UpscaleRequest(request.checkpoint, photo, precision=request.precision, visitor=request.visitor)
    events: Any = upscale(engine, enlarging)
    with closing(events):
        for event in events:
            if not isinstance(event, Progress):
                return event.pixels
            yield replace(so_far, message=f"{so_far.message}: {event.message}")
    raise AssertionError("a pipeline ends with its result")


def _figures(made: np.ndarray, true: np.ndarray, scale: int, look: Any) -> dict[str, float]:
    figures = pictures.compare(made, true, scale)
    return figures if look is None else {**figures, "lpips": pictures.lpips(made, true, look, border=scale)}


def read_pairs(folder: Path, scale: int) -> tuple[Pair, ...]:
    """The pictures of a folder, with their small versions where it has any for this scale.

    Raises:
        BadInput: it holds none, several sets, or small versions of some only.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; name one that holds high-resolution pictures.")
    inside = sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)
    small = [f for f in inside if _is_small(f.relative_to(folder))]
    by_folder: dict[Path, list[Path]] = {}
    for file in inside:
        if file not in small:
            by_folder.setdefault(file.parent, []).append(file)
    if folder in by_folder:
        by_folder = {folder: by_folder[folder]}
    if len(by_folder) != 1:
        found = f"several sets ({', '.join(f.name for f in by_folder)})" if by_folder else "no high-resolution picture"
        raise BadInput(f"{folder} holds {found}; name a folder that holds {FINDS}.")
    wanted = re.compile(rf"(^|\D)x{scale}$", re.IGNORECASE)
    several = re.compile(r"(^|\D)x\d+$", re.IGNORECASE)
    fitting: dict[str, Path] = {}
    for file in small:
        marks = [part for part in (*file.relative_to(folder).parent.parts, file.stem) if several.search(part)]
        if not marks or any(wanted.search(mark) for mark in marks):
            fitting[file.stem] = fitting[re.sub(r"(?<=.)x\d$|_lr$", "", file.stem, flags=re.IGNORECASE)] = file
    pairs = []
    for file in next(iter(by_folder.values())):
        name = re.sub(r"_hr$", "", file.stem, flags=re.IGNORECASE)
        if fitting and name not in fitting:
            raise BadInput(f"{folder} has small pictures for x{scale}, but none for {file.name}; add or remove it.")
        pairs.append(Pair(name, file, fitting.get(name)))
    return tuple(pairs)


def held_out(run: dict[str, Any], folder: Path) -> tuple[Pair, ...]:
    """The photos that a training kept apart, where the folder is what it learned from; none where it is another.

    Args:
        run: what `run.json` says.

    Raises:
        BadInput: the training kept none apart.
    """
    settings = run.get("settings") or {}
    if run.get("recipe") != "srgan" or not folder.is_dir():
        return ()
    data = PhotoSet(folder, settings["shrink"], settings["hold_out"], settings["patch"])
    if data.sha256 != (run.get("data") or {}).get("sha256"):
        return ()
    if not data.held_out:
        raise BadInput(f"The training has seen all photos of {folder}; name pictures that it does not know.")
    return tuple(Pair(data.files[i].stem, data.photos[i]) for i in data.held_out)


def _is_small(path: Path) -> bool:
    """By its own name, or by that of a folder that it lies in."""
    folders = any(re.search(r"(^|[_-])lr|^x\d$", part, re.IGNORECASE) for part in path.parent.parts)
    return folders or path.stem.lower().endswith("_lr")


def _read(pair: Pair, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The true picture and the small one, uint8 [H, W, 3] both, the first as many times larger as the network makes."""
    true = _pixels(pair.true)
    try:
        if pair.small is None:
            return pictures.pair_of(true, scale)
    except BadInput as error:
        raise BadInput(f"{pair.name}: {error.message}") from error
    small = _pixels(pair.small)
    height, width = (side * scale for side in small.shape[:2])
    if not (0 <= true.shape[0] - height < scale and 0 <= true.shape[1] - width < scale):
        raise BadInput(
            f"{pair.small} is {small.shape[1]}x{small.shape[0]}, which does not belong to {true.shape[1]}x"
            f"{true.shape[0]} at x{scale}; take the small pictures away, or those of this scale."
        )
    return true[:height, :width], small


def _pixels(source: Path | np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]; grey pictures in three equal channels, as the tables have them."""
    if isinstance(source, Path):
        try:
            source = imaging.read_photo(source).pixels
        except BadInput as error:
            raise BadInput(f"{source}: {error.message}", error.code) from error
    if source.dtype == np.uint16:
        source = (source >> 8).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(source, (*source.shape[:2], 3)))
