"""A prepared set: pictures of one size in a zip or a folder, in the layout of NVIDIA's StyleGAN2-ADA tools.

    00000/img00000000.png ...   PNG, grey or RGB, stored without compression
    dataset.json                {"labels": [["00000/img00000000.png", 3], ...]} or {"labels": null}

Labels are class numbers or vectors. Beside them this project writes `classes`, `names` (original files), `rows` (what
is known of each picture), `license`, `credit`, `source` and `settings`, which other tools pass over.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganhub.errors import BadInput
from ganhub.imaging.uploads import MAX_PIXELS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
CHANNELS = {"L": 1, "RGB": 3}
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip knows: the same pictures make the same file


class PictureSet:
    """The pictures of a prepared set, read when they are asked for.

    Attributes:
        path, name: the zip or folder, and its name without suffix.
        files: names inside, sorted: the order of everything else.
        names: original file names where the set tells them, else `files`.
        rows: for each picture what its labels.csv said; empty dictionaries where nothing is known.
        size: (H, W).
        channels: 1 or 3.
        labels: class numbers int64 [N], vectors float32 [N, c_dim], or None.
        classes: names of the classes, "0", "1", ... where the set has none; empty without class numbers.
        c_dim: length of a label, 0 without labels.

    Raises:
        BadInput: the set cannot be read, or its labels do not fit its pictures.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.stem
        self._zip: zipfile.ZipFile | None = None
        self._owner = 0
        every = self._list()
        self.files = sorted(name for name in every if Path(name).suffix.lower() in SUFFIXES)
        if not self.files:
            raise BadInput(f"There is no picture in {self.path}; `ganhub data prepare` makes a set from a folder.")
        about = self._about("dataset.json" in every)
        first = self._decode(0)
        self.size: tuple[int, int] = first.shape[:2]
        self.channels: int = first.shape[2]
        self.labels = self._labels(about.get("labels"))
        self.classes, self.c_dim = self._classes(about.get("classes"))
        self.names = self._per_picture(about, "names", self.files)
        self.rows = [row or {} for row in self._per_picture(about, "rows", [None] * len(self))]
        self.license, self.credit, self.source = (str(about.get(k) or "") for k in ("license", "credit", "source"))
        self.settings: dict[str, Any] = about.get("settings") or {}

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, i: int) -> np.ndarray:
        """uint8 [H, W, C]."""
        picture = self._decode(i)
        if picture.shape != (*self.size, self.channels):
            raise BadInput(
                f"{self.files[i]} in {self.path} is {_shape(picture)} and {self.files[0]} is "
                f"{self.size[1]}x{self.size[0]}x{self.channels}; `ganhub data prepare` gives all one size."
            )
        return picture

    def pictures(self, indices: Iterable[int] | None = None) -> np.ndarray:
        """uint8 [N, H, W, C], all of them by default."""
        chosen = list(range(len(self)) if indices is None else indices)
        out = np.empty((len(chosen), *self.size, self.channels), np.uint8)
        for k, i in enumerate(chosen):
            out[k] = self.picture(i)
        return out

    def one_hot(self, indices: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Labels of pictures as a conditional network takes them: float32 [..., c_dim], [..., 0] without labels."""
        chosen = np.asarray(indices)
        if self.labels is None:
            return np.zeros((*chosen.shape, 0), np.float32)
        labels = self.labels[chosen]
        return labels if self.labels.ndim == 2 else np.eye(self.c_dim, dtype=np.float32)[labels]

    @cached_property
    def sha256(self) -> str:
        """Hash of the file; of a folder, of the names and bytes of its pictures and labels."""
        digest = hashlib.sha256()
        if not self.path.is_dir():
            with self.path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
            return digest.hexdigest()
        for name in sorted({*self.files, "dataset.json"} & self._list()):
            data = self._bytes(name)
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    def _list(self) -> set[str]:
        if self.path.is_dir():
            return {f.relative_to(self.path).as_posix() for f in self.path.rglob("*") if f.is_file()}
        return set(self._archive().namelist())

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._owner != os.getpid():  # a forked process would share the place in the file
            try:
                self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
            except FileNotFoundError:
                raise BadInput(f"There is no set {self.path}; `ganhub data prepare` makes one.") from None
            except (OSError, zipfile.BadZipFile) as error:
                raise BadInput(f"{self.path} cannot be read as a zip or a folder of pictures: {error}.") from error
        return self._zip

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes() if self.path.is_dir() else self._archive().read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise BadInput(f"{name} in {self.path} cannot be read: {error}; copy or make the set again.") from error

    def _decode(self, i: int) -> np.ndarray:
        name = self.files[i]
        try:
            image = Image.open(io.BytesIO(self._bytes(name)))
            if image.width * image.height > MAX_PIXELS:
                raise BadInput(f"{name} in {self.path} is {image.width}x{image.height}, too large for a set.")
            if image.mode not in CHANNELS:
                raise BadInput(
                    f"{name} in {self.path} is neither grey nor RGB but {image.mode}; `ganhub data prepare` converts."
                )
            picture = np.array(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadInput(f"{name} in {self.path} is damaged or no picture; make the set again.") from error
        return picture[:, :, None] if picture.ndim == 2 else picture

    def _about(self, is_there: bool) -> dict[str, Any]:
        if not is_there:
            return {}
        try:
            about = json.loads(self._bytes("dataset.json"))
        except ValueError as error:
            raise BadInput(f"dataset.json in {self.path} is no JSON ({error}); make the set again.") from error
        if not isinstance(about, dict):
            raise BadInput(f"dataset.json in {self.path} must hold an object with the key `labels`.")
        return about

    def _labels(self, pairs: Any) -> np.ndarray | None:
        if pairs is None:
            return None
        where = f"dataset.json in {self.path}"
        try:
            known = {str(name).replace("\\", "/"): label for name, label in pairs}
        except (TypeError, ValueError):
            raise BadInput(f"{where} must list its labels as pairs of a file and a label.") from None
        without = next((name for name in self.files if known.get(name) is None), None)
        if without is not None:
            raise BadInput(f"{where} has no label for {without}; give every picture one, or none (`labels: null`).")
        try:
            labels = np.array([known[name] for name in self.files], np.float64)
        except (TypeError, ValueError):
            labels = np.empty(())
        if labels.ndim not in (1, 2) or not np.isfinite(labels).all():
            raise BadInput(f"{where} must give every picture a class number, or vectors of one length.")
        if labels.ndim == 2:
            return labels.astype(np.float32)
        if (labels < 0).any() or (labels != np.floor(labels)).any() or labels.max() >= 2**20:
            raise BadInput(f"{where} has a class number that is no whole number from 0.")
        return labels.astype(np.int64)

    def _classes(self, names: Any) -> tuple[list[str], int]:
        if self.labels is None:
            return [], 0
        if self.labels.ndim == 2:
            return [], self.labels.shape[1]
        count = int(self.labels.max()) + 1
        if not names:
            return [str(i) for i in range(count)], count
        if len(names) < count:
            raise BadInput(
                f"dataset.json in {self.path} has class {count - 1} and names for {len(names)} classes only."
            )
        return [str(name) for name in names], len(names)

    def _per_picture(self, about: dict[str, Any], key: str, otherwise: list[Any]) -> list[Any]:
        values = about.get(key) or otherwise
        if len(values) != len(self):
            raise BadInput(f"dataset.json in {self.path} has {len(values)} {key} for {len(self)} pictures.")
        return list(values)


def write_set(
    file: Path,
    pictures: Iterable[np.ndarray],
    *,
    names: Sequence[str],
    labels: Sequence[int] | Sequence[Sequence[float]] | None = None,
    classes: Sequence[str] = (),
    rows: Sequence[dict[str, str] | None] | None = None,
    license: str = "",
    credit: str = "",
    source: str = "",
    settings: dict[str, Any] | None = None,
) -> None:
    """Write pictures as they come; the same ones make the same bytes. The file is there when it is whole.

    Args:
        pictures: uint8 [H, W, 3] or [H, W, 1], all of one shape, one for each of `names`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    try:
        files = []
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for i, picture in enumerate(pictures):
                files.append(f"{i // 1000:05d}/img{i:08d}.png")
                archive.writestr(_entry(files[-1]), _png(picture))
            if len(files) != len(names):
                raise ValueError(f"{len(files)} pictures for {len(names)} names")
            about = {
                "labels": None if labels is None else [list(pair) for pair in zip(files, labels, strict=True)],
                "classes": list(classes),
                "license": license,
                "credit": credit,
                "source": source,
                "names": list(names),
                "rows": None if rows is None else list(rows),
                "settings": settings or {},
            }
            archive.writestr(_entry("dataset.json"), json.dumps(about, ensure_ascii=False))
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, TIME)
    entry.external_attr = 0o644 << 16  # else `unzip` makes files that nobody may read
    return entry


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    # Without compression, as NVIDIA's tool does: read faster, and no version of zlib makes other bytes.
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(out, "png", compress_level=0)
    return out.getvalue()


def _shape(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}x{picture.shape[2]}"
