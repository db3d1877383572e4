"""Sentences about the pictures of a set, from their classes and from what is seen in them."""

from __future__ import annotations

import csv
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganhub import imaging
from ganhub.data.dataset import PictureSet
from ganhub.data.describe import COLOURS, Body, Seen, look
from ganhub.errors import BadInput
from ganhub.imaging.sheets import grid

PER_PICTURE = 5
ON_SHEET = 96

CLUSTERS = {
    "grapes", "blueberries", "gooseberries", "mulberries", "black raspberries", "red raspberries", "purple raspberries",
    "blackberries", "brambles", "cherries", "american cranberry", "strawberries",
}  # fmt: skip
"""Kinds of which a picture shows many, or so small that nobody counts them."""

_RED = {"persimmon", "loquats", "chokecherry", "wineberry", "japanese apricot"}
_NEVER_GREEN = CLUSTERS - {"grapes", "gooseberries"} | _RED
_ALWAYS_GREEN = {"avocado", "limes", "watermelons", "chayote", "cherimoyas", "sweetsops", "acca", "guavas"}
_WITH_STEM = {"apple", "pear", "plum", "crab apple", "asian pear", "cherries", "quinces", "figs"}
_PALE = {"white", "cream"}
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_COLOUR = re.compile(rf"\b({'|'.join(sorted(COLOURS, key=len, reverse=True))})\b")
_NO_FRUIT = re.compile(r"on white paper|green leaf|leaf is green")
_PAINTED = ("a watercolour of {}", "a painting of {}", "a botanical illustration of {}", "{} on white paper")


@dataclass(frozen=True)
class Captioned:
    """The files that were written, and how many pictures got each attribute."""

    table: Path
    sheet: Path
    report: Path
    counts: dict[str, int]


def write_captions(
    data: PictureSet, out: Path, seed: int = 0, progress: Callable[[str, int, int], None] | None = None
) -> Captioned:
    """Writes a table `file,caption`, and beside it a sheet of pictures with sentences and a report.

    Args:
        data: pictures of fruit on paper with classes, the kinds.
        out: the table.
        seed: of the choice of words; each picture's depends on its name too, not on the others.

    Raises:
        BadInput: the pictures are not in colour, or have no classes.
    """
    if data.channels != 3 or data.labels is None or data.labels.ndim != 1:
        raise BadInput(
            f"Captions need pictures in colour with classes, which {data.path} lacks; make it with "
            "`ganhub data prepare --label COLUMN`."
        )
    counts: Counter[str] = Counter()
    shown = set(np.linspace(0, len(data) - 1, min(len(data), ON_SHEET)).astype(int).tolist())
    cells = []
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "caption"))
        for i, name in enumerate(data.files):
            kind = data.classes[int(data.labels[i])]
            seen = look_at(kind, data.picture(i))
            said = sentences(kind, seen, np.random.RandomState(zlib.crc32(f"{seed} {name}".encode())))
            table.writerows((name, sentence) for sentence in said)
            counts.update(attributes(seen))
            if i in shown:
                cells.append(_cell(data.picture(i), said))
            if progress and i % 50 == 49:
                progress("looking at pictures", i + 1, len(data))
    os.replace(part, out)
    made = Captioned(out, out.with_suffix(".png"), out.with_suffix(".md"), dict(counts))
    grid(cells, columns=8).save(made.sheet)
    made.report.write_text(_report(data, out.name, counts), encoding="utf-8")
    return made


def look_at(kind: str, picture: np.ndarray) -> Seen:
    """`look`, with what is known of the colours of a kind."""
    return look(picture, False if kind in _NEVER_GREEN else True if kind in _ALWAYS_GREEN else None)


def sentences(kind: str, seen: Seen, rng: np.random.RandomState, count: int = PER_PICTURE) -> list[str]:
    """Sentences that all say something else or otherwise; the first says most."""
    if seen.only_leaf:
        said = _of_leaf(kind)
    elif kind in CLUSTERS:
        said = _of_cluster(kind, seen)
    elif len(seen.bodies) > 1:
        said = _of_several(kind, seen)
    else:
        said = _of_one(kind, seen, seen.bodies[0] if seen.bodies else None)
    first, *rest = dict.fromkeys(said)
    said = [first, *(rest[i] for i in rng.permutation(len(rest))[: count - 2])]
    nouns = [sentence for sentence in said if _is_noun(sentence)]
    painted = [how.format(nouns[i % len(nouns)]) for i, how in enumerate(_PAINTED)]
    return said + [painted[i] for i in rng.permutation(len(painted))[: count - len(said)]]


def attributes(seen: Seen) -> list[str]:
    """What a report counts."""
    if seen.only_leaf:
        return ["only leaves"]
    if not seen.bodies:
        return ["nothing found"]
    body = seen.bodies[0]
    found = [f"colour: {name}" for name in body.colours] or ["no colour"]
    found.append("two colours" if len(body.colours) == 2 else "one colour")
    found.append({True: "cut open", False: "whole", None: "whole or cut: not told"}[body.cut])
    found += [f"{len(seen.bodies)} fruits"] if len(seen.bodies) > 1 else ["one fruit"]
    found += [f"shape: {body.shape}"] if body.shape else []
    found += ["skin of a cut one"] if body.skin else []
    return found + [name for name in ("leaf", "stem") if getattr(seen, name)]


def singular(kind: str) -> str:
    """The name of one fruit of a class: `cherries` -> `cherry`."""
    kind = kind.split(" (")[0]
    kind = "fruit" if kind == "unknown" else kind
    for end, other in (("ies", "y"), ("oes", "o"), ("'s bread", "'s bread"), ("s", "")):
        if kind.endswith(end) and not kind.endswith("us"):
            return kind[: -len(end)] + other
    return kind


def plural(kind: str) -> str:
    one = singular(kind)
    if one.endswith(("ch", "sh", "x", "s")):
        return one + "es"
    return one[:-1] + "ies" if one.endswith("y") and one[-2] not in "aeiou" else one + "s"


def without_kind(sentence: str, kind: str) -> str:
    """A sentence less the name of its kind, and less what it says of paper and leaves: an orange is not orange by its
    name."""
    name = re.compile(f"{re.escape(plural(kind))}|{re.escape(singular(kind))}")
    return name.sub("", _NO_FRUIT.sub("", sentence), count=1)


def colours_in(words: str) -> list[str]:
    """The names of colours in a sentence, in their order."""
    return _COLOUR.findall(words)


def in_colour(sentence: str, kind: str, colour: str) -> str:
    """A sentence that names one colour of its kind, with another; empty where it names none, several, or this one."""
    named = set(colours_in(without_kind(sentence, kind)))
    old = named.pop() if len(named) == 1 else colour
    if old in (colour, singular(kind)):  # an orange orange
        return ""
    keep = f"{re.escape(plural(kind))}|{re.escape(singular(kind))}|{_NO_FRUIT.pattern}"
    word, said = re.compile(rf"(\ban? )?\b{re.escape(old)}\b"), _a(colour)
    parts = re.split(f"({keep})", sentence)
    parts[::2] = [word.sub(lambda found: said if found[1] else colour, part) for part in parts[::2]]
    return "".join(parts)


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _is_noun(sentence: str) -> bool:
    return not sentence.startswith(("this ", "these ", "the ")) or sentence.startswith("the inside")


def _hue(colours: tuple[str, ...]) -> str:
    return " and ".join(colours)


def _extras(kind: str, seen: Seen) -> str:
    found = (["a leaf"] if seen.leaf else []) + (["its stem"] if seen.stem and kind in _WITH_STEM else [])
    return f" with {' and '.join(found)}" if found else ""


def _of_one(kind: str, seen: Seen, body: Body | None) -> list[str]:
    name, extras = singular(kind), _extras(kind, seen)
    if body is None or not (body.colours or body.cut is not None):
        return [f"{_a(name)}{extras}", name, f"this is {_a(name)}"]
    # What is pale in a whole fruit is paper, or the half of another.
    pale = not body.cut and bool(_PALE & set(body.colours))
    hue = _hue(tuple(colour for colour in body.colours if not pale or colour not in _PALE))
    if body.cut:
        flesh = f"{hue} flesh" if hue else ""
        both = " and ".join(filter(None, (flesh, f"{body.skin} skin" if body.skin else "")))
        inside = f" with {both}" if both else ""
        said = [
            f"{_a(name)}, cut open,{inside}" if inside else f"{_a(name)}, cut open",
            f"a cut {name}{inside}", f"half of {_a(name)}{inside}", f"the inside of {_a(name)}{inside}",
            f"{_a(name)} cut in half{inside}", f"this {name} is cut open",
        ]  # fmt: skip
        if flesh:
            said += [f"{_a(name)}, cut open, with {flesh}", f"the flesh of the cut {name} is {hue}"]
        if body.skin:
            said += [f"{_a(f'{body.skin} {name}')}, cut open"] * 2
        return said
    whole = "whole " if body.cut is False else ""
    shape = f"{body.shape} " if body.shape and not pale else ""
    coloured = f"{hue} {name}" if hue else name
    said = [f"{_a(coloured)}{extras}", f"one {whole}{coloured}", f"{_a(shape + coloured)}{extras}"]
    if hue:
        said += [f"this {name} is {hue}", f"{_a(name)} that is {hue}", f"the {name} has {hue} skin",
                 f"{_a(f'{whole}{name}')} with {hue} skin", coloured]  # fmt: skip
        said += [f"{_a(name)}, {hue} and {body.shape}"] if shape else []
    if seen.leaf:
        said += [f"{_a(coloured)} on a branch with a leaf", f"{_a(coloured)} and a green leaf"]
    return said


def _of_several(kind: str, seen: Seen) -> list[str]:
    one, many, extras = singular(kind), plural(kind), " with a leaf" if seen.leaf else ""
    whole = [body for body in seen.bodies if body.cut is False and body.colours and not _PALE & set(body.colours)]
    halves = [body for body in seen.bodies if body.cut]
    if whole and halves:
        name = f"{_hue(whole[0].colours)} {one}".strip()
        flesh = f" with {_hue(halves[0].colours)} flesh" if halves[0].colours else ""
        return [f"{_a(name)} and a cut one{flesh}", f"{_a(name)} and its half", f"{many}, one whole and one cut open",
                f"{_a(name)}, whole and cut open", f"{_a(name)} above a half{flesh}"]  # fmt: skip
    if len(whole) < len(seen.bodies):  # pieces of one, mostly
        return _of_one(kind, seen, next(iter(halves + whole), None))
    hue = _hue(whole[0].colours) if all(body.colours == whole[0].colours for body in whole) else ""
    number, name = _NUMBERS.get(len(whole), "several"), f"{hue} {many}".strip()
    said = [f"{number} {name}{extras}", f"{name}{extras}", f"several {name}", f"{number} {many}"]
    return said + ([f"{number} {many} that are {hue}", f"these {many} are {hue}"] if hue else [])


def _of_cluster(kind: str, seen: Seen) -> list[str]:
    many, extras = plural(kind), " with leaves" if seen.leaf else ""
    gone = {"brown", "cream"} | ({"green"} if kind in _NEVER_GREEN else set())
    hue = _hue(tuple(colour for colour in seen.colours if colour not in gone and colour not in kind))
    if kind == "strawberries" and len(seen.bodies) == 1 and seen.bodies[0].area > 0.25 and not seen.leaf:
        return _of_one(kind, seen, seen.bodies[0])
    name = f"{hue} {many}".strip()
    if kind == "grapes":
        said = [f"a bunch of {name}{extras}", f"{name}{extras}", f"a cluster of {name}", f"one bunch of {many}"]
    else:
        said = [f"{name}{extras}", f"several {name}{extras}", f"{many} on a branch{extras}", f"many small {name}"]
    return said + ([f"{many} that are {hue}", f"these {many} are {hue}", f"ripe {name}"] if hue else [])


def _of_leaf(kind: str) -> list[str]:
    one = singular(kind)
    return [f"a green leaf of {_a(one)} plant", "a green leaf", f"{_a(one)} leaf", "a leaf without fruit",
            f"the leaf of {_a(one)}", "leaves, no fruit", "this leaf is green"]  # fmt: skip


def _cell(picture: np.ndarray, said: list[str]) -> Image.Image:
    width, font = 200, ImageFont.load_default(11)
    cell = Image.new("RGB", (width, 132 + 13 * 2 * PER_PICTURE), "white")
    cell.paste(imaging.to_pil(picture).resize((128, 128), Image.Resampling.NEAREST))
    draw, y = ImageDraw.Draw(cell), 130
    for sentence in said:
        line = "-"
        for word in sentence.split():
            if font.getlength(f"{line} {word}") > width - 4:
                draw.text((2, y), line, "black", font)
                line, y = " ", y + 13
            line = f"{line} {word}"
        draw.text((2, y), line, "black", font)
        y += 13
    return cell


def _report(data: PictureSet, table: str, counts: Counter[str]) -> str:
    lines = [f"# Captions of {data.name}", "", f"{len(data)} pictures; the sentences are in `{table}`.", "",
             "| what was seen | pictures | share |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {n} | {n / len(data):.1%} |" for name, n in sorted(counts.items())]
    return "\n".join(lines) + "\n"
