"""`ganhub evaluate --captions`: what is asked for, and whether figures tell who listens and who copies."""

import json
from types import SimpleNamespace

import engine_rig as rig
import numpy as np
import pytest
import yaml
from imagine_rig import CLIP, FRUIT, write_imaginers
from PIL import Image
from test_describe import ball, paper

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.cli import main
from ganhub.data.captions import CaptionedSet
from ganhub.data.dataset import PictureSet, write_set
from ganhub.data.describe import Body, Seen
from ganhub.data.sentences import write_captions
from ganhub.engine import Engine
from ganhub.errors import BadInput
from ganhub.pipelines import evaluate_text as pipeline
from ganhub.pipelines import imagine
from ganhub.pipelines.evaluate_text import Ask, EvaluateTextRequest, asks, evaluate_text, named, said, wordings
from ganhub.pipelines.requests import Picture, Progress
from ganhub.registry import load_registry

COLOURS = {"apple": ("red", "yellow"), "orange": ("purple", "yellow", "red")}
RADIUS = {"apple": 12, "orange": 8}


def painted(kind, colour, rng):
    """A whole fruit of 32 pixels; kinds differ in size."""
    fruit = ball(paper(32), tuple(rng.randint(14, 19, 2)), RADIUS[kind], colour)
    return (fruit + rng.randn(32, 32, 3) * 3).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory):
    """150 pictures of two kinds; no apple is purple, and every colour of an apple is also one of oranges."""
    rng, folder = np.random.RandomState(0), tmp_path_factory.mktemp("fruit")
    kinds = [("apple", "orange")[i // 10 % 2] for i in range(150)]
    pictures = [painted(kind, rng.choice(COLOURS[kind]), rng) for kind in kinds]
    labels = [("apple", "orange").index(kind) for kind in kinds]
    names = [str(i) for i in range(150)]
    write_set(folder / "set.zip", pictures, names=names, labels=labels, classes=("apple", "orange"))
    write_captions(PictureSet(folder / "set.zip"), folder / "captions.csv")
    return folder / "set.zip", folder / "captions.csv"


@pytest.fixture
def data(fruit):
    return CaptionedSet(*fruit)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Tiny networks with random weights, and a StyleGAN2 as large as the pictures."""
    folder = tmp_path_factory.mktemp("rows")
    file = write_imaginers(folder)
    network = rig.stylegan2_network(resolution=32)
    saved = {"G": Network("Generator", network.config, network.state_dict())}
    checkpoint.save(folder / "style.safetensors", saved, {"family": "stylegan2"})
    row = {"id": "style", "family": "stylegan2", "source": {"path": "style.safetensors"}, "title": "Style"}
    row |= {"task": ["generate", "clip"], "components": CLIP, "license": "CC0-1.0", "commercial_use": True}
    file.write_text(yaml.safe_dump([*yaml.safe_load(file.read_text()), {**row, "dataset": FRUIT}]))
    return file


def run(rows, request):
    with Engine(load_registry(rows), device="cpu") as engine:
        *events, result = evaluate_text(engine, request)
    assert all(isinstance(event, Progress) for event in events)
    return result


def test_every_combination_is_asked_for_equally_often(data):
    found = asks(data, 60)
    each = {}
    for ask in found:
        each.setdefault((ask.kind, ask.colour, ask.cut), []).append(ask)
    assert set(each) == {(kind, colour, False) for kind in COLOURS for colour in ("red", "purple", "yellow")}
    assert {len(group) for group in each.values()} == {10}
    assert {key for key, group in each.items() if not group[0].seen} == {("apple", "purple", False)}
    assert found == asks(data, 60) != asks(data, 60, seed=1)
    assert len({ask.sentence for ask in each["orange", "red", False]}) > 3


def test_a_combination_of_held_out_pictures_only_is_unseen(data):
    held = [i for i in range(0, 150, 20) if ("yellow", False) in said(data, i)]
    assert held
    for i in range(150):
        if i % 10 and data.labels[i] == 0:
            data.captions[i] = [caption.replace("yellow", "red") for caption in data.captions[i]]
    assert {ask.seen for ask in asks(data, 60) if (ask.kind, ask.colour) == ("apple", "yellow")} == {False}


def test_words_ask_for_what_they_say():
    assert "a red pear" in wordings("pear", "red", False) and "a cut pear with red flesh" in wordings(
        "pear", "red", True
    )
    assert "an orange that is orange" in wordings("orange", "orange", False)
    assert not any("cut" in sentence or "half" in sentence for sentence in wordings("pear", "red", False))
    assert wordings("pear", "white", False) == []  # captions take what is pale in a whole fruit for paper
    assert all("purple" in sentence for sentence in wordings("grapes", "purple", False))


@pytest.mark.parametrize(
    ("caption", "colours"),
    [
        ("an apple, cut open, with cream flesh and dark red skin", {("cream", True), ("dark red", False)}),
        ("the flesh of the cut orange is yellow and orange", {("yellow", True), ("orange", True)}),
        ("an orange", set()),
        ("a red and orange orange", {("red", False), ("orange", False)}),
        ("a painting of an orange on white paper", set()),
        ("a red apple on a branch and a green leaf", {("red", False)}),
    ],
)
def test_colours_of_captions(data, caption, colours):
    data.captions[0] = [caption]
    data.labels[0] = int("orange" in caption and "apple" not in caption)
    assert said(data, 0) == colours


def test_the_colour_is_that_of_the_part_asked_for():
    whole, inside = Body(("red",), None, False, None, 0.3), Body(("cream",), "red", True, None, 0.3)
    both = Seen((whole, inside), ("red", "cream"), False, False, False)
    assert named(Ask("apple", "red", False, True, ""), both) == {"red"}
    assert named(Ask("apple", "cream", True, True, ""), both) == {"cream"}
    assert named(Ask("apple", "cream", True, True, ""), Seen((whole,), ("red",), False, False, False)) == {"red"}


def drawing(monkeypatch, draw):
    """Pictures come from a function of a request in place of a network."""

    def drawn(engine, wanted, words):
        yield Progress(0, len(wanted), words)
        return [draw(request) for request in wanted]

    monkeypatch.setattr(pipeline, "_drawn", drawn)


def test_who_listens_is_told_from_who_does_not(data, rows, monkeypatch):
    asked = {ask.sentence: ask for ask in asks(data, 60)}

    def listens(request):
        ask = asked[request.text]
        return painted(ask.kind, ask.colour, np.random.RandomState(request.seeds[0] + 1000))

    drawing(monkeypatch, listens)
    result = run(rows, EvaluateTextRequest("tiny-painter", data, count=60))
    assert result.figures["seen"]["fruit"] > 0.9 and result.figures["all"]["colour"] == 1
    assert result.figures["unseen"]["sentences"] == 10 and result.figures["unseen"]["colour"] == 1
    assert result.figures["seen"]["sentences"] == 50 and result.figures["all"]["cut"] > 0.6
    assert result.figures["others"]["fruit"] < 0.75 and result.figures["others"]["colour"] < 0.6
    assert result.real["fruit"] > 0.8 and result.real["colour"] > 0.8
    assert 0.3 < result.real["fruit_recoloured"] < result.real["fruit_any_colour_recoloured"]
    assert result.real["fruit_any_colour"] > 0.8 and result.figures["seen"]["fruit_any_colour"] > 0.8
    drawing(monkeypatch, lambda request: painted("apple", "red", np.random.RandomState(request.seeds[0])))
    deaf = run(rows, EvaluateTextRequest("tiny-painter", data, count=60)).figures["all"]
    assert deaf["fruit"] == pytest.approx(0.5, abs=0.1) and deaf["colour"] == pytest.approx(1 / 3, abs=0.05)


def test_copies_are_nearer_than_real_pictures(data, rows, monkeypatch):
    trained = [i for i in range(len(data)) if i % 10]
    drawing(monkeypatch, lambda request: data.picture(trained[request.seeds[0]])[:, ::-1].copy())
    result = run(rows, EvaluateTextRequest("tiny-painter", data, count=30))
    assert result.figures["all"]["nearest_median"] < 1e-3 < result.real["nearest_1_percent"]


def test_instant_is_held_against_random_pictures(data, rows, monkeypatch):
    monkeypatch.setattr(imagine, "SAMPLES", 32)
    with pytest.raises(BadInput, match="cannot go the way 'stackgan'"):
        run(rows, EvaluateTextRequest("style", data, way="stackgan"))
    result = run(rows, EvaluateTextRequest("style", data, way="instant", count=20))
    assert result.about["clip"] == "tiny-eyes" and abs(result.above["fruit"]) < 5
    assert result.line()["metrics"]["fruit_above_random"] == result.above["fruit"]
    assert result.above["random_colour"] == 0 and "colour" not in result.above  # grey noise has no colours to compare
    asked = {ask.sentence: ask for ask in asks(data, 20)}
    drawing(monkeypatch, lambda r: painted(asked[r.text].kind, asked[r.text].colour, np.random.RandomState(0)))

    def random(engine, request):
        yield SimpleNamespace(pictures=[Picture(Image.fromarray(data.picture(i)), {}, "") for i in request.seeds])

    monkeypatch.setattr(pipeline, "generate", random)
    heard = run(rows, EvaluateTextRequest("style", data, way="instant", count=20)).above
    assert heard["fruit"] > 0.5 and heard["colour"] > 1 and 0.2 < heard["random_colour"] < 0.5


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    out, error = capsys.readouterr()
    assert "Traceback" not in error
    return ended.value.code, out, error


def test_the_command(fruit, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "ROWS", 3)
    where = ("--registry", rows, "--data", fruit[0], "--captions", fruit[1], "--device", "cpu", "--count", 20)
    code, out, _ = command(capsys, "tiny-painter", *where, "--json", "--out", tmp_path / "new/sheet.png")
    line = json.loads(out)
    assert code == 0 and line["way"] == "stackgan" and line["sentences"] == 20 and line["kinds"] == ["apple", "orange"]
    assert line["text_encoder"] == "tiny-words" and line["metrics"]["fruit_right"] == line["fruit"]
    assert line["data"]["pictures"] == 150 and "above_random" not in line
    assert (tmp_path / "new/sheet.png").stat().st_size > 1000
    code, out, _ = command(capsys, "tiny-painter", *where)
    assert code == 0 and "never in its training" in out and f"{line['nearest_median']:.4g}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny-painter"], "add --captions"),
        (["style", "--way", "guided"], "add --captions"),
        (["style", "--captions", "CAPTIONS", "--psi", "0.5"], "no --features, --psi"),
        (["tiny-style", "--captions", "CAPTIONS"], "32x32 and 'tiny-style' draws 16x16"),
        (["mlp-gan-digits", "--captions", "CAPTIONS"], "draws from no sentence"),
        (["tiny-painter", "--captions", "nowhere.csv"], "nowhere.csv"),
        (["tiny-painter", "--captions", "CAPTIONS", "--count", "3"], "number of sentences"),
    ],
)
def test_what_cannot_be_measured_is_told(fruit, rows, capsys, arguments, words):
    arguments = [str(fruit[1]) if a == "CAPTIONS" else a for a in arguments]
    code, _, error = command(capsys, *arguments, "--registry", rows, "--data", fruit[0], "--device", "cpu")
    assert code == 2 and words in error


def test_sets_that_tell_too_little_are_refused(data, fruit):
    data.captions = [["a fruit"]] * len(data)
    with pytest.raises(BadInput, match="name no colour of 20 pictures"):
        asks(data, 20)
    few = CaptionedSet(*fruit)
    few.labels[2:] = 1
    with pytest.raises(BadInput, match="fewer than two kinds of 60 pictures"):
        asks(few, 20)
    few.labels = None
    with pytest.raises(BadInput, match="needs pictures in colour with classes"):
        asks(few, 20)
