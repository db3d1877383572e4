"""What a visitor may write: examples and words that fit the sentences a network was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ganhub.data.describe import COLOURS
from ganhub.data.sentences import CLUSTERS, plural, singular

KINDS = (
    "apple", "pear", "peach", "plum", "orange", "lemon", "cherries", "strawberries", "grapes", "persimmon", "mango",
    "avocado", "grapefruit",
)  # fmt: skip
"""Of which the collection has most pictures."""


@dataclass(frozen=True)
class Vocabulary:
    """Whole sentences to try, and single words by what they name; without words where any will do."""

    examples: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    about: str = ""
    """What the sentences were about."""


FRUIT = Vocabulary(
    (
        "a red pear",
        "a peach, cut open",
        "a purple plum",
        "a red apple",
        "a yellow lemon",
        "a bunch of green grapes",
    ),
    {
        "Colour": tuple(name for name in COLOURS if name not in ("grey", "cream", "black")),
        "Fruit": tuple(plural(kind) if kind in CLUSTERS else singular(kind) for kind in KINDS),
        "More": ("with a leaf", "with its stem", "cut open", "on white paper"),
    },
    "fruit and its colours",
)
BIRDS = Vocabulary(
    (
        "this small bird is yellow with black wings and a short beak",
        "a bird with a bright red head and a white belly",
        "a blue bird with a long pointed beak",
        "a brown bird with white spots on its wings",
    ),
    {
        "Colour": ("red", "orange", "yellow", "green", "blue", "brown", "black", "white", "grey"),
        "Part": ("head", "beak", "wings", "belly", "breast", "tail", "crown"),
        "More": ("a short beak", "a long beak", "white spots", "stripes"),
    },
    "birds and their colours",
)
SCENES = Vocabulary(
    (
        "a man riding a wave on a surfboard",
        "a plate of food on a table",
        "a green field with sheep under a blue sky",
        "a train at a station",
    ),
    {},
)
FACES = Vocabulary(
    ("a smiling woman", "an old man with a grey beard", "a person with glasses", "a child with red hair"), {}
)
ANIMALS = Vocabulary(("a white cat", "a puppy with brown ears", "a tiger", "a fox in the snow"), {})
ANY = Vocabulary(("bright and colourful", "in the dark of night", "blue and golden", "a drawing in pencil"), {})

_BY_DATA = (
    (("pomological", "fruit"), FRUIT),
    (("cub-", "birds"), BIRDS),
    (("coco",), SCENES),
    (("ffhq", "portrait", "celeb", "faces", "metfaces"), FACES),
    (("afhq", "cats", "dogs", "animal"), ANIMALS),
)


def vocabulary(*datasets: str) -> Vocabulary:
    """That of the first data set which is known."""
    for dataset in datasets:
        for names, known in _BY_DATA:
            if any(name in dataset.lower() for name in names):
                return known
    return ANY


def strange(text: str, known: Vocabulary) -> str:
    """A sentence on words that a small network has never read; empty where it has read one, or any will do."""
    words = " ".join(word for group in known.groups.values() for word in group)
    read = {_stem(word) for word in re.findall(r"\w+", words.lower())} - {"a", "an", "it", "on", "with"}
    if not known.groups or read & {_stem(word) for word in re.findall(r"\w+", text.lower())}:
        return ""
    return f"It was trained on sentences about {known.about}; none of your words is among them, so expect a surprise."


def _stem(word: str) -> str:
    return re.sub(r"(ies|y|es|s)$", "", word)


def with_word(text: str, word: str, known: Vocabulary) -> str:
    """A sentence with a word of the vocabulary: in place of another of its group, else where it belongs."""
    text = " ".join(text.split()) or "a"
    group = next((words for words in known.groups.values() if word in words), ())
    firsts = list(known.groups.values())
    if found := _found(text, group):
        if group in firsts[1:2]:
            word = plural(word) if found[0] == plural(found[0]) else word
        text = f"{text[: found.start()]}{word}{text[found.end() :]}"
    elif firsts and group is firsts[0] and (noun := _found(text, firsts[1])):
        text = f"{text[: noun.start()]}{word} {text[noun.start() :]}"
    else:
        text = f"{text} {word}"
    if plural(word) == word and " of " not in text:
        text = re.sub(r"^an? ", "", text)
    return re.sub(r"\b(an?) (?=(\w))", lambda m: "an " if m[2] in "aeiou" else "a ", text)


def _found(text: str, words: tuple[str, ...]) -> re.Match[str] | None:
    """The first of these words, one or many of it."""
    longest = sorted(words, key=len, reverse=True)
    forms = [re.escape(form) for word in longest for form in (plural(word), word, singular(word))]
    return re.search(rf"\b(?:{'|'.join(forms)})\b", text) if forms else None
