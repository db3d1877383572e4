"""Directions of latent spaces: read from files of every kind, saved with their card, applied. No network in sight.

A direction is a vector of length 1 in the latent space of one training, and the length of a step (`unit`) that changes
a picture clearly: the latent moves by `strength * unit * vector`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganhub.errors import BadInput, CheckpointError
from ganhub.latents import SPACES
from ganhub.registry import Checkpoint, Registry, check_direction

if TYPE_CHECKING:
    from ganhub.hub import FetchProgress

UNIT = 1.5
"""Step of files that name none: InterFaceGAN's sliders go three lengths either way, ours go two steps."""
MAX_STRENGTH = 20.0


@dataclass(frozen=True)
class Direction:
    """One way through a latent space.

    Raises:
        BadInput: when made of something that is no direction.
    """

    id: str
    title: str
    space: str
    """`z`, `w` or `w+`."""
    vector: np.ndarray
    """float32 [dim], of length 1; in w+ [num_ws, dim], whose rows have the mean square length 1."""
    unit: float = UNIT
    """Length of a step: strength 1 goes so far."""
    layers: tuple[int, int] | None = None
    """First and last layer that it is meant for; None is all."""
    generator: dict[str, Any] = field(default_factory=dict)
    """Whom it belongs to: `family`, `dataset`, `resolution`, `w_dim`, `sha256`, as far as known."""
    card: dict[str, Any] = field(default_factory=dict)
    """How it was found, JSON-able."""

    def __post_init__(self):
        vector = np.asarray(self.vector)
        if self.space not in SPACES:
            raise BadInput(f"The direction '{self.id}' is of the space '{str(self.space)[:40]}', not z, w or w+.")
        if vector.dtype.kind != "f" or vector.ndim != (2 if self.space == "w+" else 1) or not vector.size:
            raise BadInput(f"The direction '{self.id}' cannot have the shape {list(vector.shape)} in {self.space}.")
        length = float(np.sqrt(np.square(vector, dtype=np.float64).sum(-1).mean()))
        if not np.isfinite(length) or length < 1e-12:
            raise BadInput(f"The direction '{self.id}' has no length, or numbers that are not finite.")
        if not np.isfinite(self.unit) or self.unit <= 0:
            raise BadInput(f"The step of the direction '{self.id}' must be a number above 0, not {self.unit}.")
        object.__setattr__(self, "vector", (vector.astype(np.float64) / length).astype(np.float32))


def parse_moves(text: str) -> tuple[tuple[str, float], ...]:
    """`direction-age=1.5, direction-smile=-1` -> ids of directions and how far to go.

    Raises:
        BadInput: it cannot be read.
    """
    moves = []
    for item in filter(str.strip, str(text or "").split(",")):
        name, sign, far = item.strip().rpartition("=")
        try:
            moves.append((name.strip(), float(far)))
        except ValueError:
            sign = ""
        if not sign or not name.strip():
            raise BadInput(f"'{item.strip()[:60]}' is no move; write ID=STRENGTH, like direction-age=1.5.")
    return tuple(moves)


def move(
    latents: np.ndarray, direction: Direction, strength: float | np.ndarray, layers: Sequence[int] | None = None
) -> np.ndarray:
    """Latents further along a direction; several directions are several calls.

    Args:
        latents: ws [N, num_ws, w_dim], truncated as wanted; for a direction in z, z [N, z_dim].
        strength: one number, or [N]; 1 is a clear change, negative the other way.
        layers: numbers of the layers that move; None is the range that the direction names, which is mostly all.

    Returns:
        Of the same shape and type.

    Raises:
        BadInput: the shapes do not fit, or there is no such layer.
    """
    axes = 2 if direction.space == "z" else 3
    if latents.ndim != axes or latents.shape[-1] != direction.vector.shape[-1]:
        raise BadInput(
            f"The direction '{direction.id}' is of the space {direction.space} with {direction.vector.shape[-1]} "
            f"numbers; latents of the shape {list(latents.shape)} do not move along it."
        )
    step = direction.unit * np.asarray(strength, np.float64).reshape(-1, *[1] * (axes - 1))
    if axes == 2:
        return (latents + step * direction.vector).astype(latents.dtype)
    num_ws = latents.shape[1]
    if direction.space == "w+" and len(direction.vector) != num_ws:
        raise BadInput(
            f"The direction '{direction.id}' has {len(direction.vector)} layers; this generator has {num_ws}."
        )
    if layers is None and direction.layers is not None:
        layers = range(direction.layers[0], min(direction.layers[1], num_ws - 1) + 1)
    chosen = list(range(num_ws) if layers is None else layers)
    for layer in chosen:
        if not 0 <= layer < num_ws:
            raise BadInput(f"There is no layer {layer}; this generator has the layers 0 to {num_ws - 1}.")
    whole = direction.vector if direction.space == "w+" else np.repeat(direction.vector[None], num_ws, 0)
    moved = latents.astype(np.float64)
    moved[:, chosen] += step * whole[chosen]
    return moved.astype(latents.dtype)


def cosine(a: Direction, b: Direction) -> float:
    """How far two directions agree, -1 to 1; one in w stands for the same in every layer.

    Raises:
        BadInput: they are of spaces that have nothing to do with each other.
    """
    if (a.space == "z") != (b.space == "z") or a.vector.shape[-1] != b.vector.shape[-1]:
        raise BadInput(f"'{a.id}' and '{b.id}' are of different spaces, so they have no angle.")
    one, other = a.vector.astype(np.float64), b.vector.astype(np.float64)
    if one.ndim == other.ndim == 2 and one.shape != other.shape:
        raise BadInput(f"'{a.id}' and '{b.id}' have different numbers of layers, so they have no angle.")
    one, other = np.broadcast_arrays(one, other)
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def orthogonal(vector: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """A vector without what it shares with others (conditional manipulation of InterFaceGAN).

    Shen et al., https://arxiv.org/abs/1907.10786: the primal direction minus its projection on the space that the
    others span.

    Args:
        vector: [dim].
        others: each [dim].

    Returns:
        [dim], of length 1.

    Raises:
        BadInput: nothing is left.
    """
    if not len(others):
        return vector / np.linalg.norm(vector)
    basis, sizes, _ = np.linalg.svd(np.stack(others, 1).astype(np.float64), full_matrices=False)
    basis = basis[:, sizes > 1e-6 * sizes.max()]
    rest = vector - basis @ (basis.T @ vector)
    length = float(np.linalg.norm(rest))
    if length < 1e-3 * float(np.linalg.norm(vector)):
        raise BadInput("Nothing is left of the direction once the others are held still: they say the same.")
    return rest / length


def read_direction(row: Checkpoint, path: str | Path, component: int | None = None) -> Direction:
    """The direction in a row's file: `.npy`, `.npz`, `.pt`, or our own safetensors.

    Config of the row: `unit` (length of a step), `scale` (-1 turns it round), `layers` (first and last), `key` (which
    array of several), `component` (which of several in one array, the first by default).

    Raises:
        BadInput: it holds none, or there is no such component.
        CheckpointError: the file is damaged.
    """
    from ganhub import checkpoint

    raw = checkpoint.read(path, sha256=row.sha256)
    tensors = {k: t for network in raw.networks.values() for k, t in network.tensors.items()}
    about = raw.extra.get("direction", {}) if raw.format == "ganhub" else {}
    key = row.config.get("key") or next((k for k in KEYS if k in tensors), None)
    if key is None and len(tensors) == 1:
        key = next(iter(tensors))
    if key is None or key not in tensors:
        known = ", ".join(sorted(tensors)[:8]) or "nothing"
        raise BadInput(f"'{row.id}': {Path(path).name} holds no direction ({known}); name its array as config.key.")
    values = tensors[key].float().numpy()
    sizes = tensors["std"].float().numpy().ravel() if "std" in tensors else None
    space = str(row.generator.get("space") or about.get("space") or "w")
    vector, size = _one(row, values, sizes, space, row.config.get("component") if component is None else component)
    if space == "w" and vector.ndim == 2:
        space = "w+"
    limits = row.config.get("range")
    unit = row.config.get("unit") or about.get("unit") or size or (limits[-1] / 2 if limits else UNIT)
    layers = row.config.get("layers") or about.get("layers")
    return Direction(
        id=row.id if component is None else f"{row.id}:{component}",
        title=row.title if component is None else f"{row.title}, {component}",
        space=space,
        vector=vector * float(row.config.get("scale", 1)),
        unit=float(unit),
        layers=(int(layers[0]), int(layers[1])) if layers else None,
        generator=dict(row.generator),
        card=dict(about.get("card", {})),
    )


KEYS = ("vector", "direction", "comp", "boundary", "latent_direction")


def _one(
    row: Checkpoint, values: np.ndarray, sizes: np.ndarray | None, space: str, component: int | None
) -> tuple[np.ndarray, float | None]:
    """The vector [dim] or [num_ws, dim] among those of a file, and its standard deviation where that is stated."""
    if "count" in row.config or sizes is not None:  # [K, 1, dim]: principal components
        values = values.reshape(-1, values.shape[-1])
        chosen = 0 if component is None else component
        if not 0 <= chosen < len(values):
            raise BadInput(f"'{row.id}' has the components 0 to {len(values) - 1}, and no {chosen}.")
        return values[chosen], None if sizes is None else float(sizes[chosen])
    if component is not None:
        raise BadInput(f"'{row.id}' is one direction; it has no component {component}.")
    while values.ndim > 1 and len(values) == 1:
        values = values[0]
    if values.ndim == 2 and space != "w+" and np.allclose(values, values[:1]):
        values = values[0]  # the same for each layer: a direction in w
    if values.ndim not in (1, 2):
        raise BadInput(f"'{row.id}': an array of shape {list(values.shape)} is no direction.")
    return values, None


def open_direction(
    registry: Registry,
    name: str,
    generator: Checkpoint,
    w_dim: int | None = None,
    progress: Callable[[FetchProgress], None] | None = None,
) -> Direction:
    """A direction by the id of its row, once it is certain that it belongs to a generator; fetched where needed.

    Args:
        name: the id; `ID:3` is the fourth component of a row that holds several.

    Raises:
        RegistryError: there is no such row, or it belongs to another generator (`wrong_generator`).
        FetchError, CheckpointError, BadInput: the file cannot be had, or holds no direction.
    """
    from ganhub import hub

    own, _, part = name.partition(":")
    if part and not part.isdecimal():
        raise BadInput(f"'{name[:60]}' names no component; write ID or ID:NUMBER.")
    row = registry.find(own)
    sha256 = generator.sha256 or hub.status(generator).sha256
    check_direction(row, generator.model_copy(update={"sha256": sha256}), w_dim)
    return read_direction(row, hub.fetch(row, progress=progress), int(part) if part else None)


def load_direction(path: str | Path, name: str | None = None) -> Direction:
    """A direction that `save_direction` wrote, with everything that it says of itself.

    Raises:
        BadInput: the file was not written by it.
        CheckpointError: it is damaged.
    """
    from ganhub import checkpoint

    name = name or Path(path).name
    raw = checkpoint.read(path)
    about = raw.extra.get("direction")
    if raw.format != "ganhub" or raw.extra.get("family") != "direction" or not isinstance(about, dict):
        raise BadInput(f"{name} is no direction saved by GAN Hub; files of others need a row that says whose they are.")
    try:
        layers = about["layers"]
        return Direction(
            id=str(about["id"])[:100],
            title=str(about["title"])[:60],
            space=about["space"],
            vector=raw.networks["direction"].tensors["vector"].float().numpy(),
            unit=float(about["unit"]),
            layers=(int(layers[0]), int(layers[1])) if layers else None,
            generator=dict(about["generator"]),
            card=dict(about["card"]),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BadInput(f"{name} is damaged: what it says of itself cannot be read.") from error


def save_direction(direction: Direction, path: str | Path) -> Path:
    """Write a direction as safetensors, with its card in the header.

    Raises:
        BadInput: the folder cannot be written.
    """
    import torch

    from ganhub import checkpoint

    about = {
        "id": direction.id,
        "title": direction.title,
        "space": direction.space,
        "unit": direction.unit,
        "layers": direction.layers,
        "generator": direction.generator,
        "card": direction.card,
    }
    network = checkpoint.Network("direction", {}, {"vector": torch.from_numpy(direction.vector.copy())})
    try:
        checkpoint.save(path, {"direction": network}, {"family": "direction", "direction": about})
    except CheckpointError as error:
        raise BadInput(error.message) from error
    return Path(path)
