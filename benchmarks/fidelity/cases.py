"""Cases on disk: what is in them, which checkpoints they belong to, how close is close enough."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

CHECKPOINT = re.compile(r"\.(pkl|pt|pth|ckpt|safetensors|bin|tar)$", re.IGNORECASE)
ACTIVATION = re.compile(r"(mapping|synthesis|b\d+)\.")
STATE = re.compile(r"\.state\.npz$")


@dataclass(frozen=True)
class Case:
    """Inputs and outputs that another implementation gave, by their names without `in_` and `out_`."""

    path: Path
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]
    """All other arrays: a network's tensors by name."""

    @property
    def is_state(self) -> bool:
        return bool(STATE.search(self.path.name)) and not self.outputs


def load(path: Path) -> Case:
    """Reads a case.

    Raises:
        ValueError: it is no NumPy archive of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            named = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own
        raise ValueError(f"{path.name} is no archive of plain arrays: {error}") from error
    inputs = {k[3:]: v for k, v in named.items() if k.startswith("in_")}
    outputs = {k[4:]: v for k, v in named.items() if k.startswith("out_")}
    rest = {k: v for k, v in named.items() if not k.startswith(("in_", "out_"))}
    return Case(path, inputs, outputs, rest)


def find(root: Path) -> list[Path]:
    """All cases below a folder, or the one that is named."""
    return [root] if root.is_file() else sorted(root.rglob("*.npz"))


@cache
def checkpoints(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in folder.iterdir() if p.is_file() and CHECKPOINT.search(p.name)))


def beside(case: Path) -> tuple[list[Path], list[Path]]:
    """Checkpoints that bear the case's stem, and those of the folder that bear no case's stem.

    The stem of `X.G.npz` or `X.npz` is the longest `X` with which some checkpoint begins (`X.pkl`, `X.era.pth`,
    else `X_epoch_3.pth`).
    """
    files = checkpoints(case.parent)
    mine = _by_stem(case, files)
    others = {file for other in case.parent.glob("*.npz") for file in _by_stem(other, files)}
    return mine, [file for file in files if file not in others]


def _by_stem(case: Path, files: tuple[Path, ...]) -> list[Path]:
    parts = case.name.removesuffix(".npz").split(".")
    for joint in (".", "_-"):
        for end in range(len(parts), 0, -1):
            stem = ".".join(parts[:end])
            found = [f for f in files if f.name.startswith(stem) and f.name[len(stem)] in joint]
            if found:
                return found
    return []


class Tolerances:
    """What the nearest `manifest.json` says of a case, else a default.

    The defaults are those by which the manifests were written: float32 on any correct implementation stays within
    3e-5 of the largest value, intermediate activations within 3e-5 of the larger of that and 1, and pictures of
    networks with float16 layers within 0.003 of the largest value. Bytes may differ by one level; integers and
    stored tensors are equal.
    """

    def __init__(self, case: Path):
        self.case, self.stated, self.manifest = case, {}, None
        for folder in case.resolve().parents:
            said = _manifest(folder).get(case.resolve().relative_to(folder).as_posix())
            if isinstance(said, dict):
                self.stated = said.get("suggested_atol", {})
                self.manifest = folder / "manifest.json"
                break

    def of(self, name: str, want: np.ndarray, half: bool = False) -> float:
        """Largest difference that counts as equal.

        Raises:
            ValueError: the manifest states it in words.
        """
        stated = self.stated.get(name)
        if isinstance(stated, str):
            if stated == "exact":
                return 0.0
            if "level" in stated:
                return 1.0
            raise ValueError(f"the manifest states its tolerance in words: {stated}")
        if stated is not None:
            return float(stated)
        if want.dtype.kind in "iub":
            return 1.0 if want.dtype == np.uint8 else 0.0
        largest = float(np.abs(want).max(initial=0.0))
        if half and name.startswith("img") and "force_fp32" not in name:
            return 0.003 * largest
        return 3e-5 * max(largest, 1.0 if ACTIVATION.match(name) else 0.03)


@cache
def _manifest(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def difference(got: Any, want: np.ndarray) -> float:
    """Largest absolute difference.

    Raises:
        ValueError: another shape, or not a number where there should be one.
    """
    got = got.detach().cpu().numpy() if hasattr(got, "detach") else np.asarray(got)
    if got.shape != want.shape:
        raise ValueError(f"shape {list(got.shape)}, not {list(want.shape)}")
    if want.dtype.kind == "U" or got.dtype.kind == "U":
        return 0.0 if np.array_equal(got, want) else float("inf")
    off = np.abs(got.astype(np.float64) - want.astype(np.float64))
    if np.isnan(off).any():
        raise ValueError("not a number where the reference has one")
    return float(off.max(initial=0.0))
