"""How old the faces in a folder are: from its table of labels, or from names as the well-known sets write them.

    UTKFace     25_0_2_20170116174525125.jpg         age, gender, race, time
    CACD        14_Given_Name_0001.jpg               age, person, number
    IMDB-WIKI   nm0000100_rm46373120_1955-1-6_2003.jpg, 10000548_1925-04-04_1964.jpg: born, and the year of the photo

IMDB-WIKI's ages are taken as its authors took them: a photo is from the middle of its year.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ganhub.data.dataset import PictureSet
from ganhub.data.labels import FILE, read_labels
from ganhub.data.photos import ENDINGS
from ganhub.errors import BadInput

OLDEST = 116
"""Years; what is above is a mistake in the table."""
BORN, TAKEN = ("birth_year", "born", "dob", "birth"), ("photo_year", "photo_taken", "taken", "year")
"""Columns of a table, in the order in which they are looked for."""

_EXPRESSION = re.compile("neutral|smiling")
"""One person twice in the Face Research Lab London Set, as this project names its files."""
_UTKFACE = re.compile(r"(?P<age>\d{1,3})_(?P<gender>[01])_(?:[0-4]_)?\d{8,}\b")
_CACD = re.compile(r"(?P<age>\d{1,3})_(?P<person>\D.*)_\d{4}\.")
_IMDB_WIKI = re.compile(r"(?P<person>(?:nm)?\d+)_(?:rm\d+_)?(?P<born>\d{4}-\d{1,2}-\d{1,2})_(?P<taken>\d{4})\.")


@dataclass(frozen=True)
class Aged:
    """A picture of one face."""

    file: str
    """Path below the folder."""
    age: int
    person: str
    """The same for all pictures of one person, as far as is told, so that they can be held out together."""
    facts: Mapping[str, str]
    """What else is told: gender, source, ..."""


def read_ages(folder: Path, table: Path | None = None) -> tuple[list[Aged], Counter[str]]:
    """The pictures of a folder whose age is known, by name, and why others were left out.

    Args:
        table: CSV with `file` and `age`, or a year (or date) of birth and the year of the photo; perhaps `person`.
            `labels.csv` in the folder by default; without one, names tell the ages.

    Raises:
        BadInput: there is no such folder or table, or no age in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; name one that holds photos of faces (JPEG, PNG, WebP).")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    files = [path.relative_to(folder).as_posix() for path in paths]
    rows = read_labels(folder, files, None, table).rows
    found, left_out = [], Counter[str]()
    for file in files:
        facts = _by_name(file.rpartition("/")[2]) if rows is None else rows.get(file)
        age = None if facts is None else _age(facts)
        if facts is None:
            left_out["not in the table" if rows is not None else "a name that tells no age"] += 1
        elif age is None:
            left_out["no age is told"] += 1
        elif not 0 <= age <= OLDEST:
            left_out[f"an age below 0 or above {OLDEST}"] += 1
        else:
            others = {key: value for key, value in facts.items() if key not in ("age", "person", *BORN, *TAKEN)}
            found.append(Aged(file, age, facts.get("person") or file, others))
    if not found:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items()) or "no picture"
        raise BadInput(
            f"{folder} holds no face of known age ({reasons}); give a {FILE} with the columns file and age, or names "
            "as UTKFace, CACD or IMDB-WIKI have them."
        )
    return found, left_out


def ages_of(data: PictureSet) -> list[Aged | None]:
    """What a prepared set tells of each picture, by its rows, or by the names of the original files.

    Raises:
        BadInput: no age is told.
    """
    told: list[Aged | None] = []
    for name, row in zip(data.names, data.rows, strict=True):
        facts = row or _by_name(name.rpartition("/")[2]) or {}
        age = _age(facts)
        person = facts.get("person") or _EXPRESSION.sub("", name)
        told.append(Aged(name, age, person, facts) if age is not None and 0 <= age <= OLDEST else None)
    if not any(told):
        raise BadInput(f"{data.path} tells no age; prepare it with --labels, a table with the columns file and age.")
    return told


def is_held_out(person: str) -> bool:
    """One person of ten, always the same ones: nothing that makes or judges ages learns from them."""
    return int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) % 10 == 0


def _by_name(name: str) -> dict[str, str] | None:
    if match := _UTKFACE.match(name):
        return {"age": match["age"], "gender": "female" if match["gender"] == "1" else "male"}
    match = _CACD.match(name) or _IMDB_WIKI.match(name)
    return match and match.groupdict()


def _age(facts: Mapping[str, str]) -> int | None:
    """Years at the time of the photo, None where they cannot be told."""
    if told := facts.get("age"):
        return int(float(told)) if re.fullmatch(r"\d+(\.\d+)?", told) else None
    born, taken = (next((facts[key] for key in keys if facts.get(key)), "") for keys in (BORN, TAKEN))
    birth = re.match(r"(\d{4})(?:-(\d{1,2}))?", born)
    if not birth or not re.match(r"\d{4}", taken):
        return None
    if birth[2] and int(birth[2]) == 0:
        return None
    return int(taken[:4]) - int(birth[1]) - (int(birth[2] or 1) > 6)
