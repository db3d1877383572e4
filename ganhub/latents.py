"""Latents: from seeds, between seeds, mixed, truncated, saved and loaded. Plain NumPy, no network in sight.

Three spaces: `z` [N, z_dim] (what a generator is fed), `w` [N, w_dim] (after the mapping network) and `w+`
[N, num_ws, w_dim] (one w per layer).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ganhub.errors import BadInput

MAX_SEED = 2**32 - 1
SPACES = ("z", "w", "w+")
KEPT = (*SPACES, "s")
"""Spaces of saved latents: of styles too."""
METHODS = ("linear", "slerp", "spline")
EASINGS = ("none", "smooth")
MAX_FILE_BYTES = 64 * 2**20


def z_from_seeds(seeds: Iterable[int], z_dim: int, distribution: str = "normal") -> np.ndarray:
    """The z of each seed as NVIDIA's generators draw it: `RandomState(seed).randn(1, z_dim)`.

    Args:
        seeds: each from 0 to 2**32 - 1.
        z_dim: width of z.
        distribution: `normal`, or `uniform` from -1 to 1.

    Returns:
        float64 [N, z_dim]; a row depends on its own seed only.

    Raises:
        BadInput: a seed is out of range.
    """
    rows = []
    for seed in check_seeds(seeds):
        state = np.random.RandomState(seed)
        rows.append(state.randn(z_dim) if distribution == "normal" else state.uniform(-1.0, 1.0, z_dim))
    return np.stack(rows)


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds as a list of ints.

    Raises:
        BadInput: there is none, or one is no whole number from 0 to 2**32 - 1.
    """
    found = list(seeds)
    if not found:
        raise BadInput("There is no seed; name at least one, for example 0-7.")
    for seed in found:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise BadInput(f"The seed {_shown(seed)} is no whole number; seeds go from 0 to {MAX_SEED}.")
        if not 0 <= seed <= MAX_SEED:
            raise BadInput(f"The seed {_shown(seed)} is out of range; seeds go from 0 to {MAX_SEED}.")
    return [int(seed) for seed in found]


def parse_seeds(text: str, limit: int = 10_000) -> list[int]:
    """Seeds written as people write them: `0-7,12, 20-22` -> [0, ..., 7, 12, 20, 21, 22].

    Raises:
        BadInput: nothing, something else than numbers and ranges, a seed above 2**32 - 1, or more than `limit`.
    """
    seeds: list[int] = []
    for item in re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip())):
        if not item:
            continue
        found = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", item, re.ASCII)
        if not found:
            raise BadInput(f"The seeds cannot be read at {_shown(item)}; write them like 0-7,12,20-22.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise BadInput(f"The range {item} runs backwards; write it as {last}-{first}.")
        check_seeds((first, last))
        if len(seeds) + last - first + 1 > limit:
            raise BadInput(f"The seeds are too many at {item}; at most {limit} at a time.")
        seeds.extend(range(first, last + 1))
    return check_seeds(seeds)


def parse_layers(text: str) -> list[int]:
    """Layer numbers: `0-6,8` -> [0, ..., 6, 8], each once, in order.

    Raises:
        BadInput: nothing, or something else than small numbers and ranges.
    """
    layers: set[int] = set()
    for item in re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip())):
        found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", item, re.ASCII)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise BadInput(f"The layers cannot be read at {_shown(item)}; write them like 0-6,8.")
        layers.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return sorted(layers)


def lerp(a: np.ndarray, b: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """Straight line from `a` (t = 0) to `b` (t = 1); any equal shapes."""
    return a + (b - a) * t


def slerp(a: np.ndarray, b: np.ndarray, t: float | np.ndarray) -> np.ndarray:
    """Great circle from `a` to `b` along the last axis, row by row; lengths go over evenly.

    Two rows of equal length keep it on the whole way, which a Gaussian z needs and a straight line loses. Opposite
    rows are joined through a fixed direction at right angles, equal ones stay, and a row of zeros goes straight.

    Args:
        a, b: [..., D].
        t: number, or [..., 1].
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    length_a = np.linalg.norm(a, axis=-1, keepdims=True)
    length_b = np.linalg.norm(b, axis=-1, keepdims=True)
    zero = (length_a == 0) | (length_b == 0)
    u = a / np.where(zero, 1, length_a)
    v = b / np.where(zero, 1, length_b)
    # arctan2 keeps its accuracy where arccos of the dot product loses it, near 0 and near half a turn
    angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=-1, keepdims=True), np.linalg.norm(u + v, axis=-1, keepdims=True))
    aside = v - np.sum(u * v, axis=-1, keepdims=True) * u
    away = np.zeros_like(u)
    np.put_along_axis(away, np.abs(u).argmin(axis=-1, keepdims=True), 1.0, axis=-1)
    away = away - np.sum(u * away, axis=-1, keepdims=True) * u
    size = np.linalg.norm(aside, axis=-1, keepdims=True)
    aside = np.where(size > 1e-7, aside, away)
    aside = aside / np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-300)
    arc = (np.cos(t * angle) * u + np.sin(t * angle) * aside) * lerp(length_a, length_b, t)
    return np.where(zero, lerp(a, b, t), arc)


def mix(ws_row: np.ndarray, ws_col: np.ndarray, layers: Sequence[int]) -> np.ndarray:
    """Style mixing: the latent of the row with the named layers taken from the column.

    Args:
        ws_row, ws_col: [..., num_ws, w_dim].
        layers: from 0 (coarsest) to num_ws - 1.

    Raises:
        BadInput: there is no such layer.
    """
    num_ws = ws_row.shape[-2]
    for layer in layers:
        if not 0 <= layer < num_ws:
            raise BadInput(f"There is no layer {layer}; this generator has the layers 0 to {num_ws - 1}.")
    mixed = ws_row.copy()
    mixed[..., list(layers), :] = ws_col[..., list(layers), :]
    return mixed


def truncate(ws: np.ndarray, w_avg: np.ndarray, psi: float, cutoff: int | None = None) -> np.ndarray:
    """Truncation: the first `cutoff` layers (all by default) moved towards the mean, `w_avg + psi * (w - w_avg)`.

    Args:
        ws: [..., num_ws, w_dim].
        w_avg: [w_dim].
    """
    moved = ws.copy()
    moved[..., :cutoff, :] = lerp(w_avg, ws[..., :cutoff, :], psi)
    return moved


def path(
    points: np.ndarray, frames: int, *, method: str = "linear", loop: bool = False, easing: str = "none"
) -> np.ndarray:
    """A way through any number of points.

    Args:
        points: [K, ..., D], at least two.
        frames: steps from one point to the next.
        method: `linear`, `slerp` (along the last axis) or `spline` (Catmull-Rom: no corner at a point).
        loop: go back to the first point; the last frame is then one step before it, so that nothing doubles.
        easing: `smooth` slows down at each point.

    Returns:
        [T, ..., D]; T is K * frames when looping, else (K - 1) * frames + 1, and ends on the last point.

    Raises:
        BadInput: fewer than two points, no frames, an unknown method or easing.
    """
    if len(points) < 2:
        raise BadInput("An interpolation needs at least two seeds.")
    if frames < 1:
        raise BadInput("An interpolation needs at least one frame from seed to seed.")
    if method not in METHODS or easing not in EASINGS:
        wrong, known = (method, METHODS) if method not in METHODS else (easing, EASINGS)
        raise BadInput(f"There is no {_shown(wrong)} for an interpolation; there are {', '.join(known)}.")
    count = len(points)
    way = []
    for k in range(count if loop else count - 1):
        before, a, b, after = (points[_place(k + step, count, loop)] for step in (-1, 0, 1, 2))
        for t in np.arange(frames) / frames:
            t = t * t * (3 - 2 * t) if easing == "smooth" else t
            if method == "slerp":
                way.append(slerp(a, b, t))
            elif method == "spline":
                out, back = (b - before) / 2, (after - a) / 2
                way.append(a + out * t + (3 * (b - a) - 2 * out - back) * t**2 + (2 * (a - b) + out + back) * t**3)
            else:
                way.append(lerp(a, b, t))
    if not loop:
        way.append(points[-1])
    return np.stack(way)


def _place(k: int, count: int, loop: bool) -> int:
    return k % count if loop else min(max(k, 0), count - 1)


@dataclass(frozen=True)
class Latents:
    """Latents with what is needed to make the same pictures again.

    `values` are never truncated: `psi` and `cutoff` are settings beside them, as they are beside a seed.
    """

    space: str
    """`z` [N, z_dim], `w` [N, w_dim], `w+` [N, num_ws, w_dim] or `s` [N, s_dim]."""
    values: np.ndarray
    checkpoint: str = ""
    """Id of the row; empty in files of other tools."""
    sha256: str = ""
    """Hash of the checkpoint's file."""
    psi: float = 1.0
    cutoff: int | None = None
    label: int | None = None
    seeds: tuple[int, ...] = ()

    def __post_init__(self):
        if self.space not in KEPT:
            raise BadInput(f"Latents are of the space {', '.join(KEPT)}, not {_shown(self.space)}.")
        if self.values.ndim != (3 if self.space == "w+" else 2) or 0 in self.values.shape:
            raise BadInput(f"Latents of the space {self.space} cannot have the shape {list(self.values.shape)}.")
        if self.values.dtype.kind != "f" or not np.isfinite(self.values).all():
            raise BadInput("Latents must be finite numbers with a fraction (float32 or float64).")
        if self.seeds and len(self.seeds) != len(self.values):
            raise BadInput(f"The file names {len(self.seeds)} seeds for {len(self.values)} latents.")

    def __len__(self) -> int:
        return len(self.values)

    def digest(self) -> str:
        """sha256 over space, shape and values: tells two sets of latents apart in a picture's provenance."""
        head = f"{self.space} {self.values.shape} {self.values.dtype.str}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.values).tobytes()).hexdigest()


def shape_of(space: str, facts: dict[str, Any]) -> tuple[int, ...]:
    """Of one latent of a generator, by the engine's facts of it.

    Raises:
        BadInput: it has no styles.
    """
    if space == "s" and not facts["s_dim"]:
        raise BadInput(f"'{facts['checkpoint']}' has no style space; only StyleGAN2 does here. Choose w or w+.")
    wide = (facts["num_ws"], facts["w_dim"])
    return {"z": (facts["z_dim"],), "w": wide[1:], "w+": wide, "s": (facts["s_dim"],)}[space]


def save_latents(file: str | Path | BinaryIO, latents: Latents) -> None:
    """Write latents as `.npz` (arrays `values` and `about`, a JSON text; no pickles)."""
    about = {
        "format": "ganhub-latents-1",
        "space": latents.space,
        "checkpoint": latents.checkpoint,
        "sha256": latents.sha256,
        "psi": latents.psi,
        "cutoff": latents.cutoff,
        "label": latents.label,
        "seeds": list(latents.seeds),
    }
    np.savez(file, values=latents.values, about=np.array(json.dumps(about)))


def load_latents(file: str | Path | BinaryIO, name: str | None = None) -> Latents:
    """Read what `save_latents` wrote, or what other tools write.

    Other tools: a bare `.npy`, or an `.npz` with `z`, `w`, `ws` or `latents` (NVIDIA's `projected_w.npz` has `w`
    [1, num_ws, w_dim]). Two axes under a name of w are one w+ when their number is one of layers (even, 4 to 18),
    else a list of w.

    Raises:
        BadInput: no such file, too large, damaged, or no latents inside.
    """
    name = name or (Path(file).name if isinstance(file, (str, Path)) else "the file")
    arrays = _arrays(_bytes(file, name), name)
    if "about" in arrays and "values" in arrays:
        return _own(arrays, name)
    key = next((k for k in ("w", "ws", "latents", "projected_w", "z", "") if k in arrays), None)
    if key is None:
        raise BadInput(f"{name} holds no latents; wanted is an array called w, ws, latents or z.")
    values = arrays[key]
    if values.dtype.kind != "f" or not 1 <= values.ndim <= 3 or 0 in values.shape:
        raise BadInput(f"{name} holds no latents: '{key}' is {values.dtype} with shape {list(values.shape)}.")
    if key == "z":
        return Latents("z", values[None] if values.ndim == 1 else values)
    if values.ndim == 1:
        return Latents("w", values[None])
    if values.ndim == 2 and len(values) % 2 == 0 and 4 <= len(values) <= 18:
        values = values[None]
    return Latents("w+" if values.ndim == 3 else "w", values)


def _own(arrays: dict[str, np.ndarray], name: str) -> Latents:
    try:
        about: dict[str, Any] = json.loads(str(arrays["about"]))
        if about["format"] != "ganhub-latents-1":
            raise BadInput(f"{name} was written by a newer version of GAN Hub.")
        cutoff, label = about["cutoff"], about["label"]
        return Latents(
            space=str(about["space"]),
            values=arrays["values"],
            checkpoint=str(about["checkpoint"])[:200],
            sha256=str(about["sha256"])[:64],
            psi=float(about["psi"]),
            cutoff=None if cutoff is None else int(cutoff),
            label=None if label is None else int(label),
            seeds=tuple(check_seeds(about["seeds"])) if about["seeds"] else (),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{name} is damaged: what it says of its latents cannot be read.") from error


def _bytes(file: str | Path | BinaryIO, name: str) -> bytes:
    try:
        if isinstance(file, (str, Path)):
            with open(file, "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        else:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"{name} is too large for latents; the limit is {MAX_FILE_BYTES >> 20} MB.")
    return data


def _arrays(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Arrays of an `.npz`, or of an `.npy` under the name ''; no size is believed before it is checked."""
    if data[:6] == b"\x93NUMPY":
        return {"": _array(data, name)}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > 100 or sum(member.file_size for member in members) > MAX_FILE_BYTES:
                raise BadInput(f"{name} is too large for latents; the limit is {MAX_FILE_BYTES >> 20} MB.")
            arrays = {}
            for member in members:
                with archive.open(member) as stream:  # read() without a size would believe the packed data
                    arrays[member.filename.removesuffix(".npy")] = _array(stream.read(member.file_size), name)
            return arrays
    except BadInput:
        raise
    except Exception as error:  # the zip reader and its decompressors raise anything on damaged files
        raise BadInput(f"{name} is no file of latents (.npz or .npy), or it is damaged.") from error


def _array(data: bytes, name: str) -> np.ndarray:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject or dtype.kind not in "fiuU" or min(shape, default=0) < 0:
            raise ValueError(dtype)
        rest = data[stream.tell() :]
        count = 1
        for side in shape:
            count *= side
        if dtype.itemsize * count != len(rest):
            raise ValueError(shape)
        return np.frombuffer(rest, dtype, count).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput(f"{name} is damaged, or holds something else than plain numbers.") from error


def _shown(value: object) -> str:
    text = str(value)
    return f"'{text[:40]}…'" if len(text) > 40 else f"'{text}'"
