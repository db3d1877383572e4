"""A folder of pictures -> a prepared set, a table of its crops, a contact sheet and a report.

Two passes. The first looks at every picture: can it be read, has it been there before, which square of it is wanted;
what it finds is the table, one line a square. The second cuts what the table keeps. So a table that was corrected by
hand takes the place of the first pass. Pictures come in the order of their names, however many processes work, and
none stays in memory.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ganhub.data.crop import HOW, MARGIN, Crop, cut, propose, read_table, table_of
from ganhub.data.dataset import PictureSet, write_set
from ganhub.data.duplicates import fingerprint, repeats
from ganhub.data.labels import read_labels
from ganhub.data.report import Summary, report_of
from ganhub.errors import BadInput
from ganhub.imaging.sheets import grid
from ganhub.imaging.uploads import MAX_BYTES, MIN_SIDE, read_upload

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jfif"}
ON_SHEET = 400
CELL = 128
Progress = Callable[[str, int, int, "float | None"], None]
"""What is done, how many are done, of how many, seconds left."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Prepared:
    """The files that were written, and what a person should know of them."""

    set: Path
    table: Path
    sheet: Path
    report: Path
    summary: Summary


@dataclass(frozen=True)
class Seen:
    """What the first pass keeps of a picture."""

    file: str
    sha256: str = ""
    fingerprint: bytes = b""
    pixels: int = 0
    crops: tuple[Crop, ...] = ()
    refused: str = ""


def prepare(
    folder: Path,
    out: Path,
    *,
    size: int,
    crop: str = "centre",
    crops: Path | None = None,
    margin: float = MARGIN,
    smallest: int | None = None,
    label: str | None = None,
    labels: Path | None = None,
    license: str = "",
    credit: str = "",
    source: str = "",
    processes: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Write `out` (a zip), and beside it its `.crops.csv`, `.png` and `.md`.

    Args:
        size: side of the set's pictures, a power of two.
        crop: `centre`, `face`, `saliency` or `page` (ganhub.data.crop).
        crops: a table that says what to cut, instead of looking for it.
        margin: side of a face's square over the distance of its eyes.
        smallest: squares of fewer pixels a side are left out; `size` by default, so that nothing is enlarged.
        label: column of the table of labels that gives the classes, or `folder` for the names of sub-folders.
        labels: CSV with a column `file`; `labels.csv` in the folder by default, where it is there.

    Raises:
        BadInput: nothing can be made of this, and why.
    """
    _check(folder, out, size, crop, margin)
    smallest = size if smallest is None else smallest
    files, others = _scan(folder, out.with_suffix(".png"))
    told = read_labels(folder, files, label, labels)
    settings: dict[str, Any] = {"folder": folder.resolve().name, "size": size, "filter": "lanczos", "label": label}
    if crops is None:
        _spare_corrections(out)
        look = partial(_look, folder, crop, margin, smallest)
        seen = list(_followed("Looking at the pictures", _in_order(look, files, processes), len(files), progress))
        seen = [replace(picture, crops=tuple(map(told.checked, picture.crops))) for picture in seen]
        table = _without_repeats(seen)
        settings |= {"crop": crop, "smallest": smallest} | ({"margin": margin} if crop == "face" else {})
    else:
        table = [told.checked(row) for row in read_table(crops)]
        settings |= {"crop": "table"}
        known = set(files)
        missing = next((row.file for row in table if row.keep and row.file not in known), None)
        if missing is not None:
            raise BadInput(f"{crops} keeps '{missing[:200]}', and there is no such picture in {folder}.")
    kept = [row for row in table if row.keep]
    if not kept:
        why = next((f" ({row.file}: {row.note})" for row in table), "")
        raise BadInput(f"There is no picture for a set in {folder}{why}; it takes JPEG, PNG and WebP.")
    numbers, classes = told.classes_of(kept)
    text = table_of(table)
    settings["table"] = _sha256(text.encode())
    tasks = [tuple(rows) for _, rows in groupby(kept, key=lambda row: row.file)]
    cuts = _in_order(partial(_cut, folder, size), tasks, processes)
    squares = _followed("Cutting", chain.from_iterable(cuts), len(kept), progress)
    cells: list[Image.Image] = []
    origin: dict[str, Any] = {"license": license, "credit": credit, "source": source, "settings": settings}
    names, rows = [row.file for row in kept], told.rows_of(kept)
    try:
        write_set(
            out, _sampled(squares, len(kept), cells), names=names, labels=numbers, classes=classes, rows=rows, **origin
        )
        summary = Summary(
            name=out.stem,
            sha256=PictureSet(out).sha256,
            files=len(files),
            others=others,
            kept=len(kept),
            unlisted=len(set(files) - {row.file for row in table}),
            dropped=[row for row in table if not row.keep],
            classes=Counter(classes[number] for number in numbers or []),
            **origin,
        )
        made = Prepared(out, _beside(out), out.with_suffix(".png"), out.with_suffix(".md"), summary)
        made.table.write_text(text, encoding="utf-8", newline="")
        grid(cells).save(made.sheet)
        made.report.write_text(report_of(summary), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out} and what belongs to it cannot be written: {error.strerror or error}.") from error
    return made


def _beside(out: Path) -> Path:
    return out.with_suffix(".crops.csv")


def _check(folder: Path, out: Path, size: int, crop: str, margin: float) -> None:
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.")
    if out.suffix != ".zip":
        raise BadInput(f"A set is a zip: name it {out.with_suffix('.zip')}, not {out}.")
    if not (4 <= size <= 2048 and size & (size - 1) == 0):
        raise BadInput(f"The size of a set is a power of two from 4 to 2048, not {size}.")
    if crop not in HOW:
        raise BadInput(f"There is no crop '{crop[:40]}'; there are {', '.join(HOW)}.")
    if not 1 <= margin <= 20:
        raise BadInput(
            f"The margin is the side of a face's square over the distance of its eyes, 1 to 20, not {margin}."
        )


def _scan(folder: Path, sheet: Path) -> tuple[list[str], int]:
    """Names of pictures below a folder, sorted, and how many other files there are; an earlier sheet is not counted."""
    names = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f != sheet]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    files = sorted(name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES)
    if not files:
        raise BadInput(f"There is no picture in {folder}.")
    odd = next((name for name in files if not _is_text(name)), None)
    if odd is not None:
        raise BadInput(f"The name of {odd!r} in {folder} is not UTF-8; rename the file.")
    return files, len(names) - len(files)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # what stands for bytes that are no UTF-8


def _spare_corrections(out: Path) -> None:
    """A table that is not the one its set was cut by has been corrected by hand, and must not be lost."""
    table = _beside(out)
    if not (table.exists() and out.exists()):
        return
    try:
        cut_by = PictureSet(out).settings.get("table")
    except BadInput:  # the set is to be replaced, whatever it is
        cut_by = None
    if cut_by != _sha256(table.read_bytes()):
        raise BadInput(
            f"{table} was changed since {out.name} was made: use it with --crops {table}, or remove it to look anew."
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(folder: Path, file: str, min_side: int = MIN_SIDE) -> tuple[str, Image.Image]:
    with (folder / file).open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    return _sha256(data), read_upload(data, min_side=min_side).image


def _look(folder: Path, how: str, margin: float, smallest: int, file: str) -> Seen:
    try:
        sha256, image = _read(folder, file, max(1, min(smallest, MIN_SIDE)))
    except BadInput as error:
        return Seen(file, refused=error.message)
    except OSError as error:
        return Seen(file, refused=f"It cannot be read: {error.strerror or error}.")
    if min(image.size) < smallest:
        return Seen(file, refused=f"It is too small: {image.width}x{image.height} pixels.")
    crops = propose(np.asarray(image), file, how, margin, smallest)
    return Seen(file, sha256, fingerprint(image), image.width * image.height, tuple(crops))


def _without_repeats(seen: Sequence[Seen]) -> list[Crop]:
    """Rows of the table: the larger of two pictures that are one is kept, of two alike the first."""
    notes: dict[str, str] = {}
    first: dict[str, Seen] = {}
    for picture in seen:
        if not any(row.keep for row in picture.crops):
            continue  # what is left out must not take the place of what could be kept
        if (same := first.setdefault(picture.sha256, picture)) is not picture:
            notes[picture.file] = f"the same file as {same.file}"
    order = sorted(first.values(), key=lambda picture: (-picture.pixels, picture.file))
    for i, (other, bits) in repeats([picture.fingerprint for picture in order]).items():
        notes[order[i].file] = f"nearly the same as {order[other].file} ({bits} of 256 bits differ)"
    rows: list[Crop] = []
    for picture in seen:
        if picture.refused:
            rows.append(Crop(picture.file).dropped(picture.refused))
        elif picture.file in notes:
            rows += [row.dropped(notes[picture.file]) for row in picture.crops]
        else:
            rows += picture.crops
    return rows


def _cut(folder: Path, size: int, rows: tuple[Crop, ...]) -> list[np.ndarray]:
    try:
        return list(cut(_read(folder, rows[0].file, 1)[1], rows, size))
    except OSError as error:
        raise BadInput(f"{folder / rows[0].file} cannot be read: {error.strerror or error}.") from error
    except BadInput as error:
        raise BadInput(f"{folder / rows[0].file}: {error.message}", error.code) from error


def _sampled(squares: Iterable[np.ndarray], count: int, cells: list[Image.Image]) -> Iterator[np.ndarray]:
    """The squares themselves; some of them, spread evenly, are put into `cells` for the sheet."""
    chosen = set(np.linspace(0, count - 1, min(count, ON_SHEET)).round().astype(int).tolist())
    for i, square in enumerate(squares):
        if i in chosen:
            cell = Image.fromarray(square)
            cells.append(cell if cell.width <= CELL else cell.resize((CELL, CELL), Image.Resampling.LANCZOS))
        yield square


def _followed(message: str, items: Iterable[T], total: int, progress: Progress | None) -> Iterator[T]:
    began = time.monotonic()
    for done, item in enumerate(items, 1):
        if progress is not None:
            left = (time.monotonic() - began) / done * (total - done)
            progress(f"{message}: {done} of {total}", done, total, left)
        yield item


def _in_order(work: Callable[[T], R], tasks: Sequence[T], processes: int | None) -> Iterator[R]:
    """`work` on every task, in other processes, few tasks ahead of what is taken."""
    most = max(1, len(tasks) // 50)  # a process takes as long to start as fifty pictures to read
    count = min(most, len(os.sched_getaffinity(0))) if processes is None else processes
    if count <= 1:
        yield from map(work, tasks)
        return
    waiting: deque[Any] = deque()
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_worker) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= 8 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise BadInput(
                "A process ended while it read pictures, maybe for lack of memory; retry with --processes 1."
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gave the work
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, where faces are looked for
