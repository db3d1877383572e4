"""Photographs of any size, decoded once: what super-resolution is trained and validated on."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ganhub.errors import BadInput, GanHubError
from ganhub.imaging import load_image

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


class PhotoSet:
    """The photos of a folder and its subfolders, in the order of their names.

    A file `dataset.json` in the folder may say `license`, `credit` and `source`.

    Args:
        path: the folder.
        shrink: every photo is made smaller by this factor first, which takes the traces of JPEG and of sharpening away.
        hold_out: every so many-th photo is kept for validation; 0 for none.
        least: photos with a shorter side, after shrinking, are left out.

    Raises:
        BadInput: there is no such folder, or nothing in it can be used.
    """

    channels = 3
    classes: list[str] = []

    def __init__(self, path: Path, shrink: float = 1.0, hold_out: int = 0, least: int = 1):
        self.path = Path(path)
        self.name = self.path.name
        if not self.path.is_dir():
            raise BadInput(f"{path} is no folder; name one that holds photos (JPEG, PNG, WebP).")
        self.files: list[Path] = []
        self.photos: list[np.ndarray] = []
        """uint8 [H, W, 3]"""
        for file in sorted(f for f in self.path.rglob("*") if f.suffix.lower() in ENDINGS):
            try:
                image = load_image(file)
            except GanHubError:
                continue
            if shrink != 1:
                size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
                image = image.resize(size, Image.Resampling.LANCZOS)
            if min(image.size) >= least:
                self.files.append(file)
                self.photos.append(np.asarray(image))
        if not self.photos:
            raise BadInput(f"{path} holds no photo of at least {least} pixels a side; look into the folder.")
        self.held_out = [i for i in range(len(self.photos)) if hold_out and i % hold_out == hold_out - 1]
        self.trained = [i for i in range(len(self.photos)) if i not in set(self.held_out)]
        about = self.path / "dataset.json"
        said = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
        self.license, self.credit, self.source = (str(said.get(k, "")) for k in ("license", "credit", "source"))

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the median photo."""
        sides = np.median([p.shape[:2] for p in self.photos], axis=0)
        return int(sides[0]), int(sides[1])

    @cached_property
    def sha256(self) -> str:
        """Of the names and bytes of all files."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(file.relative_to(self.path).as_posix().encode() + b"\0" + file.read_bytes())
        return total.hexdigest()
