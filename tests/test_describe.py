"""What is seen in pictures of fruit, and the sentences about them."""

import csv
import sys

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab
from skimage.draw import disk, ellipse

from ganhub.cli import main
from ganhub.data.captions import CaptionedSet
from ganhub.data.dataset import PictureSet, write_set
from ganhub.data.describe import COLOURS, Body, Seen, colour_names, look
from ganhub.data.pages import Page
from ganhub.data.recolour import PAINTS, recoloured
from ganhub.data.sentences import PER_PICTURE, in_colour, look_at, plural, sentences, singular
from ganhub.errors import BadInput

PAPER = (250, 240, 215)
RGB = {
    "red": (205, 40, 35), "dark red": (95, 15, 20), "orange": (235, 130, 30), "yellow": (230, 200, 60),
    "green": (90, 150, 50), "purple": (80, 30, 90), "brown": (120, 80, 45), "black": (25, 22, 24),
    "blue": (60, 80, 150), "pink": (240, 150, 160), "white": (246, 246, 244), "cream": (240, 225, 190),
}  # fmt: skip


def paper(size=64):
    return np.full((size, size, 3), PAPER, np.uint8)


def ball(picture, center, radius, colour):
    """A disc with shading, as a whole fruit has."""
    y, x = disk(center, radius, shape=picture.shape[:2])
    light = 1.1 - 0.4 * np.hypot(y - center[0] + radius / 3, x - center[1] + radius / 3) / radius
    picture[y, x] = (np.array(RGB[colour]) * light[:, None]).clip(0, 255)
    return picture


def half(picture, center, radius, skin, flesh):
    """A rim, pale flesh, a dark core with lines."""
    for r, colour in ((radius, skin), (radius - 3, flesh), (radius / 3.5, "brown"), (radius / 7, "cream")):
        y, x = disk(center, r, shape=picture.shape[:2])
        picture[y, x] = RGB[colour]
    return picture


@pytest.mark.parametrize("name", RGB)
def test_colours_have_their_names(name):
    from skimage.color import rgb2lab

    pixel = np.array(RGB[name], np.uint8)[None, None]
    assert COLOURS[colour_names(rgb2lab(pixel)).item()] == name


@pytest.mark.parametrize("name", [name for name in RGB if name not in ("white", "cream", "pink")])
@pytest.mark.parametrize("size", [64, 128])
def test_a_whole_fruit(name, size):
    seen = look(ball(paper(size), (size / 2, size / 2), size * 0.35, name))
    (body,) = seen.bodies
    assert name in body.colours or (name in ("blue", "dark red") and body.colours)  # its shadow is purple, or black
    assert body.cut is not True and body.shape == "round"
    assert abs(body.area - np.pi * 0.35**2) < 0.03
    assert not (seen.leaf or seen.only_leaf or seen.stem)


def test_two_colours():
    picture = ball(paper(), (32, 32), 24, "red")
    other = ball(paper(), (32, 32), 24, "yellow")
    picture[:, 30:] = other[:, 30:]
    assert set(look(picture).bodies[0].colours) == {"red", "yellow"}


def test_a_cut_fruit():
    (body,) = look(half(paper(), (32, 32), 25, "red", "cream")).bodies
    assert body.cut and body.colours == ("cream",) and body.skin == "red"
    (body,) = look(half(paper(), (32, 32), 25, "green", "yellow")).bodies
    assert body.cut and body.colours == ("yellow",) and body.skin == "green"


def test_one_or_several():
    picture = ball(ball(paper(), (17, 32), 12, "red"), (46, 32), 12, "red")
    assert [body.colours for body in look(picture).bodies] == [("red",), ("red",)]
    picture = half(ball(paper(), (16, 32), 12, "red"), (46, 32), 13, "red", "yellow")
    assert len(look(picture).bodies) == 2


def test_leaf_stem_and_shape():
    plain = ball(paper(), (38, 30), 18, "red")
    stem = plain.copy()
    stem[12:22, 29:31] = (90, 60, 30)
    assert look(stem).stem and not look(plain).stem
    leafy = plain.copy()
    leafy[ellipse(12, 46, 5, 14, shape=(64, 64))] = (60, 100, 45)
    assert look(leafy).leaf and not look(plain).leaf
    assert look(leafy).bodies[0].colours == ("red",)
    only = paper()
    only[ellipse(32, 32, 10, 26, shape=(64, 64))] = (60, 95, 50)
    assert look(only).only_leaf and not look(only, green=True).only_leaf
    for radii, shape in (((25, 15), "long"), ((17, 22), "flat"), ((22, 22), "round")):
        oval = paper()
        oval[ellipse(32, 32, *radii, shape=(64, 64))] = RGB["orange"]
        assert look(oval).bodies[0].shape == shape


REAL = """
    1252 35 26 59 w red; 5399 38 44 57 w purple|dark-red|black; 2274 29 24 74 w yellow
    3406 30 29 67 w red|orange; 6973 45 35 43 w green; 2575 26 31 74 w red
    2608 28 23 71 w red|orange; 4203 35 87 59 w red|dark-red; 6509 37 33 59 w red|dark-red
    6271 39 28 52 w brown|red; 1344 32 27 64 w dark-red|brown; 2232 30 22 67 w orange|brown
    4943 37 29 55 w yellow|green; 4580 29 28 70 w red|orange; 4428 28 26 70 w yellow
    2632 32 26 67 w red|orange; 4842 35 29 61 w green; 2424 30 21 64 w brown
    1815 31 28 64 w red; 4217 22 24 79 w red|dark-red; 3158 30 24 63 w red
    5112 1 29 124 w green|black; 1489 29 21 67 w green|brown; 4618 28 28 70 w yellow|green
    3937 30 25 73 w red; 485 29 25 63 w orange; 2695 29 19 65 w dark-red|black
    5839 34 24 60 w red|yellow|orange; 2991 31 27 61 w yellow|brown|orange; 1883 29 25 66 w red|pink
    2084 35 29 63 w red|orange; 578 27 97 72 c orange; 2629 28 83 72 c cream|white
    5643 41 100 44 c orange|brown; 711 31 96 70 c orange|red; 6590 35 41 55 c yellow|orange|cream
    2823 31 86 70 c cream|white; 2547 38 95 66 c cream|yellow; 5978 33 97 64 c orange|yellow|red
    3671 27 84 72 c cream; 331 12 36 103 c yellow|cream; 6668 39 93 45 c cream|white
    2665 31 86 66 c cream|yellow; 2154 41 90 42 c cream|pink; 2254 39 90 59 c cream|white
    2897 41 96 52 c cream|white; 6219 38 95 49 c cream|white|pink; 532 28 99 71 c orange|yellow
    4331 31 90 65 c cream|yellow
"""
"""Number of the file, corner and side of a square, whole or cut, colours that a person would name first."""


def test_real_watercolours(shared):
    """Squares drawn at random and named by eye; of the cuts, which the measures were weighed by, a part."""
    told, right, coloured = [], [], []
    for line in REAL.replace(";", "\n").strip().splitlines():
        number, x, y, side, cut, colours = line.split()
        with Image.open(shared / f"data/pomological/images/image-{number}.jpg") as page:
            square = Page(np.asarray(page.convert("RGB"))).cut(int(x), int(y), int(side))
        seen = look(np.asarray(Image.fromarray(square).resize((64, 64), Image.Resampling.LANCZOS)))
        body = seen.bodies[0]
        if body.cut is not None:
            told.append(body.cut)
            right.append(body.cut == (cut == "c"))
        coloured.append(bool(body.colours) and body.colours[0].replace(" ", "-") in colours.split("|"))
        assert not seen.only_leaf and len(seen.bodies) == 1
    assert len(told) >= 0.8 * len(coloured) and np.mean(right) >= 0.95
    assert np.mean(coloured) >= 0.9


def test_an_empty_page():
    seen = look(paper())
    assert seen == Seen((), (), False, False, False)
    assert sentences("pear", seen, np.random.RandomState(0))[0] == "a pear"


def test_one_and_many():
    assert [singular(k) for k in ("cherries", "apple", "mangosteens", "citrus", "akee (fruit)", "unknown")] == [
        "cherry", "apple", "mangosteen", "citrus", "akee", "fruit"]  # fmt: skip
    assert [plural(k) for k in ("cherries", "peach", "apple", "grapes")] == ["cherries", "peaches", "apples", "grapes"]


@pytest.mark.parametrize(
    ("kind", "bodies", "first"),
    [
        ("apple", [Body(("red",), None, False, "round", 0.4)], "a red apple"),
        ("apple", [Body(("red", "yellow"), None, None, None, 0.4)], "a red and yellow apple"),
        ("peach", [Body(("yellow",), "red", True, None, 0.4)], "a peach, cut open, with yellow flesh and red skin"),
        ("pear", [Body(("green",), None, False, None, 0.2)] * 2, "two green pears"),
        ("grapes", [Body(("purple",), None, None, None, 0.2)], "a bunch of purple grapes"),
        ("orange", [Body(("orange",), None, False, None, 0.2)], "an orange orange"),
        ("apple", [Body(("cream", "red"), None, False, "long", 0.2)], "a red apple"),
    ],
)
def test_sentences_say_what_is_seen(kind, bodies, first):
    seen = Seen(tuple(bodies), bodies[0].colours, False, False, False)
    for seed in range(30):
        said = sentences(kind, seen, np.random.RandomState(seed))
        assert said[0] == first and 4 <= len(said) <= PER_PICTURE and len(set(said)) == len(said)
        for sentence in said:
            assert any(word in sentence for word in (singular(kind), plural(kind))), sentence
    assert sentences(kind, seen, np.random.RandomState(5)) == sentences(kind, seen, np.random.RandomState(5))
    assert len({tuple(sentences(kind, seen, np.random.RandomState(seed))) for seed in range(30)}) > 5  # varied


@pytest.mark.parametrize(
    "sentence, kind, colour, other",
    [
        ("a red apple with a leaf", "apple", "orange", "an orange apple with a leaf"),
        ("an orange apple", "apple", "red", "a red apple"),
        ("a dark red plum", "plum", "purple", "a purple plum"),
        ("two green pears on white paper", "pear", "yellow", "two yellow pears on white paper"),
        ("a yellow pear and a green leaf", "pear", "red", "a red pear and a green leaf"),
        ("a green apple and a green leaf", "apple", "orange", "an orange apple and a green leaf"),
        ("an orange that is red", "orange", "purple", "an orange that is purple"),
        ("an orange orange", "orange", "purple", ""),
        ("a red and yellow apple", "apple", "purple", ""),
        ("a red apple", "apple", "red", ""),
        ("an apple", "apple", "red", ""),
    ],
)
def test_a_sentence_of_another_colour(sentence, kind, colour, other):
    assert in_colour(sentence, kind, colour) == other


@pytest.mark.parametrize("colour", PAINTS)
def test_fruit_in_another_colour(colour):
    y, x = np.mgrid[:64, :64]
    picture = np.full((64, 64, 3), (245, 236, 214), np.uint8)
    picture[(x - 32) ** 2 + (y - 32) ** 2 < 20**2] = (205, 120, 70)
    picture[28:36, 54:63] = (60, 110, 50)  # a leaf
    other = recoloured(picture, colour)
    if other is None:
        assert colour == "cream", colour  # a ghost
        return
    assert COLOURS[colour_names(rgb2lab(other))[32, 32]] == colour
    same = [np.abs(other[at].astype(int) - picture[at]).max() for at in (np.s_[:4], np.s_[28:36, 54:63])]
    assert max(same) <= 1, "the paper and the leaf"


def test_what_cannot_be_painted():
    empty = np.full((64, 64, 3), (245, 236, 214), np.uint8)
    pale = empty.copy()
    pale[20:44, 20:44] = (244, 222, 170)
    assert recoloured(empty, "red") is None and recoloured(pale, "purple") is None


def test_leaves():
    seen = look_at("apple", ball(paper(), (38, 30), 18, "red"))
    leafy = Seen(seen.bodies, seen.colours, True, False, True)
    assert sentences("apple", leafy, np.random.RandomState(0))[0] == "a red apple with a leaf and its stem"
    assert "leaf" in sentences("plum", Seen((), (), False, True, False), np.random.RandomState(0))[0]


@pytest.fixture(scope="module")
def orchard(tmp_path_factory):
    """30 fruits in three colours, each whole or cut."""
    folder = tmp_path_factory.mktemp("orchard")
    colours = ["red", "yellow", "green"]
    pictures = [
        half(paper(), (32, 32), 24, "red", "yellow") if n % 2 else ball(paper(), (32, 32), 20 + n % 5, colours[n % 3])
        for n in range(30)
    ]
    write_set(folder / "fruit.zip", pictures, names=[f"{n}.png" for n in range(30)], labels=[n % 2 for n in range(30)],
              classes=["apple", "plum"], license="CC0-1.0")  # fmt: skip
    return folder / "fruit.zip"


def caption(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["data", "caption", *map(str, arguments)])
    assert end.value.code == 0


def test_command_writes_what_the_trainings_read(orchard, tmp_path, capsys):
    out = tmp_path / "captions.csv"
    caption(orchard, "--out", out)
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "captions.png"), str(tmp_path / "captions.md")]
    data = CaptionedSet(orchard, out)
    assert all(4 <= len(captions) <= PER_PICTURE for captions in data.captions)
    assert data.captions[0][0] == "a red apple" and "cut open" in data.captions[1][0]
    report = (tmp_path / "captions.md").read_text()
    assert "| cut open | 15 | 50.0% |" in report and "| whole | 15 | 50.0% |" in report
    before = out.read_bytes()
    caption(orchard, "--out", out)
    assert out.read_bytes() == before
    caption(orchard, "--out", out, "--seed", "1", "--json")
    assert out.read_bytes() != before
    with out.open() as file:
        assert {row["file"] for row in csv.DictReader(file)} == set(PictureSet(orchard).files)


def test_sets_without_classes_or_colours_are_refused(tmp_path):
    from ganhub.data.sentences import write_captions

    write_set(tmp_path / "bare.zip", [paper()], names=["a.png"])
    with pytest.raises(BadInput, match="Captions need pictures in colour with classes"):
        write_captions(PictureSet(tmp_path / "bare.zip"), tmp_path / "c.csv")
    write_set(tmp_path / "grey.zip", [paper()[..., :1]], names=["a.png"], labels=[0], classes=["apple"])
    with pytest.raises(BadInput, match="make it with `ganhub data prepare --label COLUMN`"):
        write_captions(PictureSet(tmp_path / "grey.zip"), tmp_path / "c.csv")
    assert not list(tmp_path.glob("*c.csv*"))


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.color", None)
    with pytest.raises(BadInput, match=r"pip install 'ganhub\[data\]'"):
        look(paper())
    with pytest.raises(BadInput, match=r"pip install 'ganhub\[data\]'"):
        recoloured(paper(), "red")
