"""The report on a set: what came in, what was left out and why, and whose pictures they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ganhub.data.crop import Crop

LISTED = 200
"""Lines of a list; the table of crops has all of them."""


@dataclass(frozen=True)
class Summary:
    """Counts of a set; `dropped` are the rows of its table that are not kept."""

    name: str
    sha256: str
    files: int
    others: int
    kept: int
    unlisted: int
    dropped: list[Crop]
    classes: dict[str, int]
    license: str
    credit: str
    source: str
    settings: dict[str, Any]

    @property
    def twice(self) -> list[Crop]:
        return [row for row in self.dropped if row.note.startswith(("the same file", "nearly the same"))]


def report_of(summary: Summary) -> str:
    """Markdown."""
    size, twice = summary.settings["size"], summary.twice
    refused = [row for row in summary.dropped if row not in twice]
    lines = [
        f"# {summary.name}",
        "",
        f"{summary.kept} pictures of {size}x{size} pixels, from {summary.files} files.",
        "",
        *_table(("", ""), [(k, _cell(v)) for k, v in _facts(summary, len(refused), len(twice))]),
        "",
        f"A square that is wrong can be corrected in `{summary.name}.crops.csv` (pixels of the upright picture; `keep` "
        f"is yes or no); `--crops {summary.name}.crops.csv` then cuts by it.",
    ]
    if summary.classes:
        order = sorted(summary.classes.items(), key=lambda item: (-item[1], item[0]))
        lines += ["", f"## Labels: {summary.settings['label']}", ""]
        lines += _table(("class", "pictures"), [(_cell(name), str(count)) for name, count in order])
    if refused:
        # Reasons that differ only in their numbers are one.
        reasons = Counter(re.sub(r"\d[\d.x]*", "N", row.note) for row in refused)
        lines += ["", "## Left out", ""]
        lines += _table(("reason", "squares"), [(_cell(k), str(n)) for k, n in reasons.most_common()])
        lines += ["", *_listed(refused)]
    if twice:
        lines += ["", "## Pictures that were there before", "", *_listed(twice)]
    return "\n".join(lines) + "\n"


def _facts(summary: Summary, refused: int, twice: int) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = [
        ("licence", summary.license or "not stated"),
        ("credit", summary.credit or "not stated"),
        ("source", summary.source or "not stated"),
        ("left out", f"{refused} squares"),
        ("there before", f"{twice} squares"),
    ]
    if summary.unlisted:
        facts.append(("not in the table of crops", f"{summary.unlisted} files"))
    if summary.others:
        facts.append(("passed over", f"{summary.others} files that are no pictures"))
    facts += [(key, value) for key, value in summary.settings.items() if value is not None and key != "table"]
    return [*facts, ("sha256", summary.sha256)]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]


def _listed(rows: Sequence[Crop]) -> list[str]:
    lines = [f"- `{row.file}`: {row.note or 'not kept in the table'}" for row in rows[:LISTED]]
    return lines + ([f"- and {len(rows) - LISTED} more"] if len(rows) > LISTED else [])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
