"""A photo that can be recognised wherever it turns up: by its bytes, its name, what its camera noted, its pixels."""

import hashlib
import secrets
from pathlib import Path

import numpy as np
from faces_rig import astronaut
from PIL import Image

PATCH = 24
"""Side of the pattern in the upper left corner, far from the face."""


class MarkedPhoto:
    """A JPEG with a name, an EXIF text, a place and a pattern that nothing else in the world has."""

    def __init__(self, folder: Path):
        self.word = "marked" + secrets.token_hex(8)
        self.pattern = np.random.RandomState(secrets.randbits(32)).randint(0, 2, (PATCH // 4, PATCH // 4)) * 255
        pixels = np.array(astronaut())
        pixels[:PATCH, :PATCH] = np.kron(self.pattern, np.ones((4, 4)))[..., None]
        exif = Image.Exif()
        exif[0x010E] = f"description-{self.word}"
        exif[0x8825] = {1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2), 29: f"place-{self.word}"}
        self.file = folder / f"name-{self.word}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(self.file, exif=exif, quality=95, subsampling=0)
        self.known = {hashlib.sha256(self.file.read_bytes()).hexdigest()}

    def latent(self, file: Path) -> Path:
        """Saved latents of the photo under a name of its own; what holds the same bytes is found from now on."""
        named = self.file.with_name(f"latent-{self.word}.npz")
        named.write_bytes(file.read_bytes())
        self.known.add(hashlib.sha256(named.read_bytes()).hexdigest())
        return named

    def traces(self, *folders: Path) -> list[str]:
        """Files below folders that hold something of it: in their names, their bytes or their pixels."""
        found = []
        for file in (file for folder in folders for file in sorted(folder.rglob("*"))):
            if self.word in str(file):
                found.append(f"{file}: its name")
            if not file.is_file():
                continue
            data = file.read_bytes()
            if self.word.encode() in data or hashlib.sha256(data).hexdigest() in self.known:
                found.append(f"{file}: its bytes")
            elif self.shows(file):
                found.append(f"{file}: its pixels")
        return found

    def shows(self, file: Path) -> bool:
        """A picture has the pattern in its corner, at its own size or smaller."""
        try:
            with Image.open(file) as image:
                grey = np.asarray(image.convert("L"), float)
        except Exception:
            return False
        for cell in (4, 2):  # the pattern as it is, and at half its size
            side = cell * PATCH // 4
            if min(grey.shape) < side:
                continue
            seen = grey[:side, :side].reshape(PATCH // 4, cell, PATCH // 4, cell).mean(axis=(1, 3))
            if seen.std() > 30 and np.corrcoef(seen.ravel(), self.pattern.ravel())[0, 1] > 0.8:
                return True
        return False
