"""What is known of each picture: a CSV with a column `file`, or the sub-folder that it lies in."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ganhub.data.crop import Crop
from ganhub.errors import BadInput

FILE = "labels.csv"


@dataclass(frozen=True)
class Labels:
    """Args:
    column: what gives the class: a column, `folder`, or None.
    rows: for each picture its line, without `file`; None where there is no table.
    """

    column: str | None
    rows: dict[str, dict[str, str]] | None

    def label(self, file: str) -> str:
        if self.column == "folder":
            parts = PurePosixPath(file).parts
            return parts[0] if len(parts) > 1 else ""
        return (self.rows or {}).get(file, {}).get(self.column or "", "")

    def checked(self, crop: Crop) -> Crop:
        if not crop.keep or self.column is None or self.label(crop.file):
            return crop
        return crop.dropped("no sub-folder to name it" if self.column == "folder" else f"no {self.column} is told")

    def classes_of(self, crops: Sequence[Crop]) -> tuple[list[int] | None, list[str]]:
        """Class numbers of crops and names of the classes, sorted: by value where all are whole numbers."""
        if self.column is None:
            return None, []
        labels = [self.label(crop.file) for crop in crops]
        names = sorted(set(labels))
        if all(name.isascii() and name.isdigit() for name in names):
            names.sort(key=lambda name: (int(name), name))
        numbers = {name: i for i, name in enumerate(names)}
        return [numbers[label] for label in labels], names

    def rows_of(self, crops: Sequence[Crop]) -> list[dict[str, str] | None] | None:
        return None if self.rows is None else [self.rows.get(crop.file) for crop in crops]


def read_labels(folder: Path, files: Sequence[str], column: str | None, table: Path | None) -> Labels:
    """Read the table of labels: `table`, else `labels.csv` in the folder where it is there.

    Its column `file` holds paths below the folder, or bare names where no two pictures share one.

    Raises:
        BadInput: there is no such table or column, or a line of it means two pictures.
    """
    where = table or folder / FILE
    if table is None and not where.exists():
        if column not in (None, "folder"):
            raise BadInput(f"There is no {where} to take the column '{column}' from; name one with --labels.")
        return Labels(column, None)
    paths = set(files)
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(file.rpartition("/")[2], []).append(file)
    rows: dict[str, dict[str, str]] = {}
    try:
        with where.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            for needed in ("file", column):
                if needed not in (None, "folder", *columns):
                    raise BadInput(f"{where} has no column '{needed}'; it has {', '.join(columns) or 'none'}.")
            for row in reader:
                name = (row.pop("file", None) or "").strip()
                meant = [name] if name in paths else by_name.get(name, [])
                if len(meant) > 1:
                    raise BadInput(
                        f"{where}, line {reader.line_num}: {name} may be {meant[0]} or {meant[1]}; "
                        "write the path from the folder."
                    )
                for file in meant:
                    if file in rows:
                        raise BadInput(f"{where}, line {reader.line_num}: {name} has been labelled before.")
                    rows[file] = {key: (value or "").strip() for key, value in row.items() if key is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{where} cannot be read as a table of labels: {error}.") from error
    return Labels(column, rows)
