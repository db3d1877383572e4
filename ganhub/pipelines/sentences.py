"""What a visitor may ask for: a sentence that can be read, and that the owner of the page does not refuse."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

from ganhub.errors import BadInput
from ganhub.registry import home

MAX_LENGTH = 500


def checked(text: str) -> str:
    """A sentence in one line, without control characters.

    Raises:
        BadInput: `empty`, `too_long`, or `blocked` by the project's list or the owner's (`blocked.txt` in home()).
    """
    if not isinstance(text, str):
        raise BadInput("Write a sentence.", "empty")
    plain = unicodedata.normalize("NFC", text)
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in plain)
    plain = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn") or c == "\u200d")
    plain = " ".join(plain.split())
    if not any(c.isalnum() or unicodedata.category(c) == "So" for c in plain):
        raise BadInput("Write a sentence, like 'two red apples with a leaf'.", "empty")
    if len(plain) > MAX_LENGTH:
        raise BadInput(f"The sentence has {len(plain)} characters; at most {MAX_LENGTH} are read.", "too_long")
    found = _blocked(_stamp()).search(plain.casefold())
    if found:
        raise BadInput("This page does not draw that; ask for something else.", "blocked")
    return plain


def _owner() -> Path:
    return home() / "blocked.txt"


def _stamp() -> tuple[str, float]:
    file = _owner()
    return str(file), file.stat().st_mtime if file.exists() else 0.0


@cache
def _blocked(stamp: tuple[str, float]) -> re.Pattern[str]:
    """Words of both lists, each for itself; read again when the owner's file has changed."""
    files = [Path(__file__).with_name("blocked.txt"), *([Path(stamp[0])] if stamp[1] else [])]
    lines = [line.strip().casefold() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    words = [re.escape(line) for line in lines if line and not line.startswith("#")]
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)") if words else re.compile(r"(?!)")
