"""The text-to-image tab without a browser: words, ways, videos, the endpoints, the MCP tools and the command."""

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from imagine_rig import write_imaginers
from page_rig import App
from PIL import Image

from ganhub import ui
from ganhub.cli import main
from ganhub.engine import Engine, Job
from ganhub.errors import BadInput
from ganhub.imaging import VideoSource, read_provenance
from ganhub.latents import Latents, load_latents
from ganhub.pipelines.imagine import Formed, ImagineRequest, imagine
from ganhub.pipelines.imagine_video import between
from ganhub.registry import Registry, read_rows
from ganhub.tabs import _imagine_words as words
from ganhub.tabs import imagine as tab
from ganhub.tabs._imagine_view import Forming, reading
from ganhub.tabs._imagine_ways import Ways, request_of_settings, settings_of

pytest.importorskip("open_clip", reason="needs the extra `clip`")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_imaginers(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def engine(rows):
    engine = Engine(Registry(read_rows(rows)), device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def ways(engine):
    return Ways(engine.registry, engine)


def result_of(events):
    *_, result = events
    return result


# Words


@pytest.mark.parametrize(
    "text, word, made",
    [
        ("", "apple", "an apple"),
        ("a red apple", "pear", "a red pear"),
        ("a red apple", "orange", "an orange apple"),
        ("two red apples with a leaf", "purple", "two purple apples with a leaf"),
        ("two red apples with a leaf", "dark red", "two dark red apples with a leaf"),
        ("an apple", "blue", "a blue apple"),
        ("a dark red plum", "green", "a green plum"),
        ("a bunch of grapes", "green", "a bunch of green grapes"),
        ("a pear", "cut open", "a pear cut open"),
        ("a pear with a leaf", "cut open", "a pear cut open"),
        ("something", "red", "something red"),
        ("two red apples with a leaf", "plum", "two red plums with a leaf"),
        ("a red apple", "grapes", "red grapes"),
        ("", "cherries", "cherries"),
    ],
)
def test_a_word_finds_its_place(text, word, made):
    assert words.with_word(text, word, words.FRUIT) == made


def test_the_vocabulary_is_that_of_the_captions():
    known = words.vocabulary("USDA Pomological Watercolor Collection")
    assert known is words.FRUIT and {"apple", "cherries", "peach"} <= set(known.groups["Fruit"])
    assert words.vocabulary("", "CUB-200-2011") is words.BIRDS and words.vocabulary("LSUN") is words.ANY


@pytest.mark.parametrize(
    "text, told",
    [("two red apples", False), ("PEARS", False), ("cherry", False), ("a dragon", True), ("果物", True), ("🍎", True)],
)
def test_strange_words_are_told(text, told):
    assert bool(words.strange(text, words.FRUIT)) == told
    assert not words.strange(text, words.ANY)


# Ways


def test_ways_are_those_that_rows_can_go(ways, rows):
    assert ways.possible() == ["stackgan", "guided", "instant"]
    assert [row.id for row in ways.rows("stackgan")] == ["tiny-painter", "away-birds"]
    assert [row.id for row in ways.rows("guided")] == ["tiny-style"]
    only = Registry(row for row in read_rows(rows) if row.id in ("tiny-painter", "tiny-words"))
    assert Ways(only, ways.engine).possible() == ["stackgan"]


def test_time_is_measured_or_not_told(ways):
    assert ways.time("away-birds", "stackgan", 4, 60) == "not timed here yet"
    ways.took(ImagineRequest("tiny-style", "red", (0, 1), steps=50), "guided", 10.0)
    assert ways.time("tiny-style", "guided", 2, 50) == "10 s"
    assert ways.time("tiny-style", "guided", 4, 100) == "about 40 s"
    ways.took(ImagineRequest("tiny-style", "red", (0, 1)), "instant", 0.5)
    assert ways.time("tiny-style", "instant", 4, 999) == "about 1.0 s"
    ways.took(ImagineRequest("tiny-painter", "red", (0,)), "stackgan", 0.02)
    assert ways.time("tiny-painter", "stackgan", 1, 0) == "less than 0.1 s"


def test_what_a_way_needs(ways):
    find = ways.registry.find
    assert ways.needs(find("tiny-style"), "guided") == "Tiny-Style with Tiny-Eyes: all here."
    assert "fetches Away (5 MB) first" in ways.needs(find("away-birds"), "stackgan")
    assert ways.first() == "stackgan" and not ways.missing(ways.best("stackgan"), "stackgan")


def test_a_file_brings_its_settings_back(engine, tmp_path):
    how = {"way": "guided", "steps": 4, "candidates": 2, "away": "blue", "space": "w+", "clip": "tiny-eyes"}
    request = ImagineRequest("tiny-style", "a red pear", (7,), **how)
    picture = result_of(imagine(engine, request)).pictures[0]
    found = settings_of(read_provenance(picture.save(tmp_path)))
    again = result_of(imagine(engine, request_of_settings(found, ""))).pictures[0]
    assert found["seeds"] == "7" and np.array_equal(np.asarray(again.image), np.asarray(picture.image))
    for about, told in (({"task": "sweep"}, "task 'sweep'"), ({"task": "imagine"}, "damaged"), ({}, "task 'None'")):
        with pytest.raises(BadInput, match=told):
            settings_of(about)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"seeds": "0-16"}, "at most 16 seeds"),
        ({"steps": 301}, "at most 300 steps"),
        ({"steps": 2.5}, "whole number"),
        ({"text": " "}, "Write a sentence"),
        ({"text": "x" * 501}, "at most 500"),
        ({"way": "magic"}, "is none of"),
        ({"psi": float("nan")}, "psi"),
    ],
)
def test_limits_of_the_page(settings, told):
    with pytest.raises(BadInput, match=told):
        request_of_settings({"text": "red", "checkpoint": "tiny-style", **settings}, "me")


# What the pipeline tells


def test_pictures_on_the_way_are_whole_pictures(engine, tmp_path):
    request = ImagineRequest("tiny-style", "red", (3,), steps=20, preview=5, candidates=2, way="guided")
    events = list(imagine(engine, request))
    formed = [event for event in events if isinstance(event, Formed)]
    assert [event.picture.provenance["step"] for event in formed] == [5, 10, 15, 20]
    assert formed[-1].losses[0] == tuple(events[-1].losses[0])
    about = read_provenance(formed[0].picture.save(tmp_path))
    assert about["text"] == "red" and about["seed"] == 3 and about["notice"] == "AI-generated"
    pixels = engine.run(Job("tiny-style", "synthesize", {"ws": np.repeat(formed[0].latent[None], 6, 0)}))
    assert np.array_equal(pixels, np.asarray(formed[0].picture.image))


def test_a_latent_in_z_is_drawn_as_one(engine):
    request = ImagineRequest("tiny-style", "red", (3,), steps=3, space="z", way="guided")
    result = result_of(imagine(engine, request))
    z = result.latents.values[0].astype(np.float64)
    pixels = engine.run(Job("tiny-style", "generate", {"z": z}))
    assert np.array_equal(pixels, np.asarray(result.pictures[0].image))


def test_latents_of_others_are_no_start(engine):
    for start, told in (
        (Latents("w", np.zeros((1, 16), np.float32), "stylegan2-fruit"), "belongs to 'stylegan2-fruit'"),
        (Latents("z", np.zeros((1, 16), np.float32)), "of the space z"),
    ):
        with pytest.raises(BadInput, match=told):
            list(imagine(engine, ImagineRequest("tiny-style", "red", start=start)))


# Videos


def frames_of(file):
    return [np.asarray(frame).astype(int) for frame in VideoSource(file)]


@pytest.mark.parametrize(
    "way, space", [("stackgan", "w"), ("guided", "w"), ("guided", "w+"), ("guided", "z"), ("instant", "w")]
)
def test_a_video_goes_from_one_picture_to_the_other(engine, tmp_path, monkeypatch, way, space):
    monkeypatch.setattr("ganhub.pipelines.imagine.SAMPLES", 32)
    checkpoint = "tiny-painter" if way == "stackgan" else "tiny-style"
    how = {"way": way, "steps": 8, "candidates": 2, "space": space, "preview": 0}
    a, b = ImagineRequest(checkpoint, "a red apple", (5,), **how), ImagineRequest(checkpoint, "plums", (5,), **how)
    made = result_of(between(engine, a, b, 7, tmp_path / "way.mp4"))
    frames = frames_of(made.file)
    assert len(frames) == made.frames == 7 and made.strip.image.width > made.strip.image.height
    for request, frame in ((a, frames[0]), (b, frames[-1])):
        image = result_of(imagine(engine, request)).pictures[0].image
        large = np.asarray(image.resize((frame.shape[1], frame.shape[0]), Image.Resampling.NEAREST)).astype(int)
        assert np.abs(frame - large).mean() < 6  # what H.264 and rounding leave
    about = read_provenance(made.file)
    assert about["text"] == "a red apple" and about["to"]["text"] == "plums" and about["seed"] == 5
    if way == "guided":
        known = result_of(imagine(engine, a)).latents
        again = result_of(between(engine, a, b, 7, tmp_path / "again.mp4", known))
        assert np.abs(frames_of(again.file)[3] - frames[3]).mean() < 1


def test_videos_that_cannot_be(engine, tmp_path):
    a = ImagineRequest("tiny-painter", "red")
    for b, frames, told in (
        (ImagineRequest("tiny-style", "red"), 5, "one checkpoint"),
        (ImagineRequest("tiny-painter", "red", space="z"), 5, "one space"),
        (a, 1, "number of frames"),
    ):
        with pytest.raises(BadInput, match=told):
            list(between(engine, a, b, frames, tmp_path / "no.mp4"))
    assert not list(tmp_path.iterdir())


# What the page draws


def test_how_a_picture_formed(engine, tmp_path):
    result = result_of(imagine(engine, ImagineRequest("tiny-painter", "red", (1, 2))))
    forming = Forming()
    forming.finish(result)
    made = forming.value(tmp_path)
    assert [picture["name"] for picture in made["pictures"]] == ["seed 1", "seed 2"]
    steps = made["pictures"][0]["steps"]
    assert [step["words"] for step in steps] == ["8 px", "16 px", "32 px"]
    assert read_provenance(steps[0]["file"]["path"])["stage"] == 1
    assert "<script>" not in reading("<script>", ["<b>"]) and "&lt;b&gt;" in reading("<script>", ["<b>"])


def test_a_registry_without_sentences_opens(rows):
    registry = Registry(row for row in read_rows(rows) if row.id == "tiny-eyes")
    engine = Engine(registry, device="cpu")
    try:
        demo = ui.build_app(["imagine"], engine, registry)
        assert any(getattr(block, "value", None) == tab.NOTHING for block in demo.blocks.values())
    finally:
        engine.close()


# HTTP and MCP


@pytest.fixture(scope="module")
def app(tmp_path_factory, rows):
    app = App(tmp_path_factory.mktemp("app"), rows).wait()
    yield app
    app.stop()


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url, verbose=False)


def test_imagine_gives_sheet_files_and_provenance(client):
    how = {"sentence": "two red apples", "checkpoint": "tiny-painter", "seeds": "2-4"}
    sheet, files, about = client.predict(**how, api_name="/imagine")
    assert [read_provenance(file)["seed"] for file in files] == [2, 3, 4]
    assert [entry["text"] for entry in about["pictures"]] == ["two red apples"] * 3 and about["notes"] == []
    with Image.open(sheet) as image:
        assert image.size == (64, 64)
    assert read_provenance(sheet)["seeds"] == [2, 3, 4]


def test_guided_over_http(client):
    how = {"sentence": "red", "checkpoint": "tiny-style", "way": "guided", "seeds": "1", "steps": 3}
    sheet, files, about = client.predict(**how, api_name="/imagine")
    assert load_latents(files[1]).seeds == (1,) and len(about["scores"]) == 1
    assert about["pictures"][0]["clip"] == "tiny-eyes" and about["pictures"][0]["steps"] == 3


def test_list_imaginers(client):
    listed = {entry["id"]: entry for entry in client.predict(api_name="/list_imaginers")}
    assert listed["tiny-painter"]["ways"] == ["stackgan"] and listed["tiny-style"]["ways"] == ["guided", "instant"]
    assert "a red apple" in listed["tiny-painter"]["examples"]
    assert listed["away-birds"]["on_disk"] is False


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"sentence": ""}, "Write a sentence"),
        ({"sentence": "?!"}, "Write a sentence"),
        ({"sentence": "a" * 5000}, "at most 500"),
        ({"sentence": "some gore"}, "does not draw that"),
        ({"seeds": "0-16"}, "at most 16 seeds"),
        ({"steps": 301}, "at most 300 steps"),
        ({"checkpoint": "tiny-painted"}, "did you mean 'tiny-painter'"),
        ({"way": "instant"}, "only stackgan"),
        ({"checkpoint": "mlp-gan-digits"}, "draws from no sentence"),
    ],
)
def test_bad_input_is_a_sentence(client, arguments, told):
    how = {"sentence": "red", "checkpoint": "tiny-painter", "seeds": "0", **arguments}
    with pytest.raises(AppError) as error:
        client.predict(**how, api_name="/imagine")
    assert told in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    "sentence",
    ["两个红苹果", "🍎🍐", "تفاحة حمراء", "'; DROP TABLE fruit; --", "{{7*7}}", "<script>alert(1)</script>", "a\x00b"],
)
def test_strange_sentences_become_pictures(client, sentence):
    _, files, about = client.predict(sentence=sentence, checkpoint="tiny-painter", seeds="0", api_name="/imagine")
    assert Image.open(files[0]).size == (32, 32)


def test_mcp_tools_return_pictures(app):
    how = {"sentence": "two red apples", "checkpoint": "tiny-painter"}
    asked = {"imagine_one": {**how, "seed": 7}, "imagine_sheet": {**how, "seeds": "0-3"}}

    async def talk():
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        async with (
            streamable_http_client(f"{app.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            return tools, {name: await session.call_tool(name, how) for name, how in asked.items()}

    tools, answers = asyncio.run(talk())
    assert {"list_imaginers", *asked} <= set(tools) and "imagine" not in tools
    assert "at most 16" in tools["imagine_sheet"].inputSchema["properties"]["seeds"]["description"]
    sizes = {}
    for name, answer in answers.items():
        found = [part for part in answer.content if part.type == "image"]
        assert len(found) == 1, answer.content
        with Image.open(io.BytesIO(base64.b64decode(found[0].data))) as picture:
            sizes[name] = picture.size
    assert sizes["imagine_one"] == (32, 32) and min(sizes["imagine_sheet"]) >= 64


# The command


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code, capsys.readouterr()


def test_the_command(rows, tmp_path, capsys):
    common = ("--registry", rows, "--device", "cpu", "--out", tmp_path)
    code, said = run(capsys, "imagine", "a pêche", "--model", "tiny-painter", "--seeds", "0-1", *common)
    files = said.out.split()
    assert code == 0 and [Path(file).name for file in files] == [
        "tiny-painter_seed0000.png",
        "tiny-painter_seed0001.png",
    ]
    assert "ê" in said.err and read_provenance(files[1])["text"] == "a pêche"
    guided = ("imagine", "red", "--model", "tiny-style", "--steps", "4", "--candidates", "2")
    saved = tmp_path / "saved.npz"
    code, said = run(capsys, *guided, "--save-latents", saved, "--json", *common)
    written = json.loads(said.out)["written"]
    assert code == 0 and "score" in written[0] and load_latents(saved).checkpoint == "tiny-style"
    code, said = run(capsys, *guided, "--start", saved, "--start-weight", "0.1", *common)
    assert code == 0 and read_provenance(said.out.strip())["start"] == load_latents(saved).digest()
    code, said = run(capsys, "imagine", "red", "--model", "tiny-painter", "--to", "blue", "--frames", "5", *common)
    assert code == 0 and len(frames_of(said.out.strip())) == 5


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("", "--model", "tiny-painter"), "Write a sentence"),
        (("red", "--model", "tiny-painter", "--way", "guided"), "only stackgan"),
        (("red", "--model", "tiny-painter", "--save-latents", "x.npz"), "guided and instant"),
        (("red", "--model", "tiny-words"), "draws from no sentence"),
    ],
)
def test_the_command_says_what_is_wrong(rows, tmp_path, capsys, arguments, told):
    code, said = run(capsys, "imagine", *arguments, "--registry", rows, "--device", "cpu", "--out", tmp_path)
    assert code == 2 and told in said.err and not list(tmp_path.iterdir())
