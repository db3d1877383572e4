"""A prepared set with sentences about its pictures: a table, or text files in the layout of CUB-200-2011."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from ganhub.data.dataset import PictureSet
from ganhub.errors import BadInput

FILE = "captions.csv"


class CaptionedSet(PictureSet):
    """A prepared set in which every picture has one sentence or more.

    Args:
        path: the set.
        captions: a CSV with the columns `file` and `caption`, a line for each sentence; or a folder with a text file
            for each picture, `CLASS/NAME.txt` beside `CLASS/NAME.jpg`, a sentence a line. By default `captions.csv` in
            the folder of the set, or `SET.captions.csv` beside its zip. `file` is a picture's name in the set, or its
            original one, with or without its folders.

    Attributes:
        captions: the sentences of each picture.

    Raises:
        BadInput: there are no captions, they are damaged, or a picture has none.
    """

    def __init__(self, path: str | Path, captions: str | Path = ""):
        super().__init__(path)
        beside = self.path / FILE if self.path.is_dir() else self.path.with_suffix(f".{FILE}")
        where = Path(captions) if captions else beside
        told = _texts(where) if where.is_dir() else _table(where)
        self.captions = [_of(told, file, name) for file, name in zip(self.files, self.names, strict=True)]
        if [] in self.captions:
            missing = self.names[self.captions.index([])]
            raise BadInput(f"{where} has no caption for {missing} of {self.path}; every picture needs one.")


def _of(told: dict[str, list[str]], file: str, name: str) -> list[str]:
    plain = PurePosixPath(name)
    for key in (file, name, plain.name, str(plain.with_suffix("")), "/".join(plain.with_suffix("").parts[-2:])):
        if key in told:
            return told[key]
    return []


def _table(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            if not {"file", "caption"} <= set(reader.fieldnames or ()):
                raise BadInput(f"{file} must have the columns `file` and `caption` in its first line.")
            for row in reader:
                caption = " ".join((row["caption"] or "").split())
                if caption:
                    found.setdefault((row["file"] or "").strip(), []).append(caption)
    except FileNotFoundError:
        raise BadInput(
            f"There is no {file}; write it (`file,caption`), or name the captions with --captions."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} cannot be read as a table in UTF-8: {error}.") from error
    return found


def _texts(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.txt")):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{file} cannot be read as text in UTF-8: {error}.") from error
        captions = [" ".join(line.split()) for line in lines]
        found[file.relative_to(folder).with_suffix("").as_posix()] = [caption for caption in captions if caption]
    if not found:
        raise BadInput(f"{folder} holds no text files; name a table or a folder with CLASS/NAME.txt.")
    return found
