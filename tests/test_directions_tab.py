"""The Directions tab without a browser: labelling, learning, using, the endpoints and the MCP tools."""

import asyncio
import base64
import io
import shutil
import time
from types import SimpleNamespace

import gradio as gr
import learn_rig as rig
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from ganhub import ui
from ganhub.directions import load_direction
from ganhub.engine import Engine
from ganhub.imaging import VideoSource, read_provenance
from ganhub.pipelines.generate import generate
from ganhub.pipelines.requests import GenerateRequest
from ganhub.registry import Registry, load_registry, read_rows
from ganhub.tabs import Context
from ganhub.tabs import _directions_view as view
from ganhub.tabs import directions as module

WHO = SimpleNamespace(session_hash="me", client=None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    rows = read_rows(rig.write_rows(tmp_path_factory.mktemp("rows")))
    features = [row for row in load_registry() if row.id in ("features-small", "lpips-vgg", "vgg16")]
    engine = Engine(Registry([*rows, *features]), device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tab(engine):
    """The tab on a page of its own, its handlers at hand."""
    with gr.Blocks() as demo:
        tab = module.DirectionsTab(Context(engine, engine.registry, demo, "directions"))
        tab.lay_out()
        tab.join()
    return tab


def data_of(tab, **values):
    """What the page sends: every control as it stands, some changed."""
    controls = {name: c for name, c in vars(tab).items() if isinstance(c, gr.blocks.Block)}
    data = {c: getattr(c, "value", None) for c in controls.values()}
    data |= {tab.checkpoint: "planted", tab.made: {}, tab.way: "click"}
    return data | {controls[name]: value for name, value in values.items()}


def red(engine, seed):
    *_, result = generate(engine, GenerateRequest("planted", seeds=[seed]))
    return float(np.asarray(result.images[0])[..., 0].mean())


@pytest.fixture(scope="module")
def labelling(tab, engine):
    """Sixty pictures, labelled as somebody would who looks for red ones."""
    middle = float(np.median([red(engine, seed) for seed in range(40)]))
    *_, state = list(tab.start_clicking("planted", None, WHO))
    labelling, asked = state[0], state[1]
    for _ in range(60):
        labelling.give(asked, red(engine, asked) > middle)
        labelling, asked, shown, words = tab._next("planted", None, labelling, "me")
    assert shown.shape == (rig.SIZE, rig.SIZE, 3) and "of random" not in words
    return labelling


@pytest.fixture(scope="module")
def learned(tab, labelling):
    """What the page shows after Learn, its files read before they are gone."""
    updates = []
    for update in tab.make(data_of(tab, labelling=labelling, name="Red", layers="0-5"), WHO):
        updates.append(update)
        if tab.made in update:
            sheet = Image.open(update[tab.sheet].value["path"] if isinstance(update[tab.sheet].value, dict) else
                               update[tab.sheet].value).copy()  # fmt: skip
    return SimpleNamespace(last=updates[-1], sheet=sheet, made=updates[-1][tab.made])


def test_clicking_learns_what_was_clicked(tab, learned):
    (direction,) = learned.made.values()
    true = rig.true_direction()
    assert abs(direction.vector @ true) > 0.75 and direction.layers == (0, 5)
    assert "held-out latents right" in learned.last[tab.proof] and "it is no chance" in learned.last[tab.proof]
    assert "Learned in" in learned.last[tab.note] and learned.sheet.width > learned.sheet.height
    assert learned.last[tab.direction].value == direction.id


def test_a_step_back_takes_a_label_away(tab, labelling):
    count = len(labelling.labels)
    seed = list(labelling.labels)[-1]
    label = labelling.labels[seed]
    tab.step_back("planted", None, labelling, 3, WHO)
    assert len(labelling.labels) == count - 1
    labelling.give(seed, label)
    assert tab.step_back("planted", None, None, None, WHO)[0]["__type__"] == "update"


@pytest.mark.parametrize(
    "values, told",
    [
        ({"name": "Red"}, "press Start"),
        ({"way": "text", "text": "red", "against": " "}, "Write a sentence"),
        ({"way": "attribute", "attribute": None}, "No network knows"),
        ({"way": "photos", "name": "Red"}, "need consent"),
        ({"way": "table", "name": "Red"}, "Drop a CSV"),
        ({"way": "attribute", "attribute": "planted-judge:red", "layers": "0,2"}, "one range"),
        ({"way": "attribute", "attribute": "planted-judge:blue"}, "says nothing of"),
    ],
)
def test_what_cannot_be_learned_is_a_sentence(tab, values, told):
    said = []
    with pytest.raises(gr.Error, match=told):
        for update in tab.make(data_of(tab, **values), WHO):
            said.append(update)
    assert told in said[-1][tab.note] and "failed" in said[-1][tab.note]


def test_photos_are_gone_as_soon_as_they_are_read(tab, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "b.png")
    piles = {"photos": [str(tmp_path / "a.png")], "others": [str(tmp_path / "b.png")]}
    with pytest.raises(gr.Error, match="consent"):
        list(tab.make(data_of(tab, way="photos", name="Red", **piles), WHO))
    assert not list(tmp_path.iterdir())


def test_directions_that_nobody_labelled(tab):
    *_, last = tab.make(data_of(tab, way="found", how="ganspace", count=3), WHO)
    assert len(last[tab.made]) == 3 and "3 directions" in last[tab.note]
    known = tab.known("planted", last[tab.made])
    assert [label for label, _ in known][0] == "GANSpace 0  ·  new"
    first = next(iter(last[tab.made].values()))
    assert "nothing is proved" in view.proof(first.card)


def slide_data(tab, learned, **values):
    (name,) = learned.made
    return data_of(tab, made=learned.made, direction=name, strength=1.0, seed=2, psi=0.7, second="", label=None,
                   second_strength=0.0, only="", latents=None, **values)  # fmt: skip


def test_the_slider_moves_the_picture(tab, learned):
    levels = []
    for strength in (-1.0, 0.0, 1.0):
        for file in tab.look(slide_data(tab, learned) | {tab.strength: strength}, WHO):
            assert read_provenance(file)["moves"][0]["strength"] == strength
            levels.append(np.asarray(Image.open(file))[..., 0].mean())
    assert levels == sorted(levels) and levels[2] > levels[0] + 10


def test_a_slider_answers_at_once(tab, learned):
    took = []
    for strength in np.linspace(-1, 1, 7):
        began = time.process_time()
        list(tab.look(slide_data(tab, learned) | {tab.strength: float(strength)}, WHO))
        took.append(time.process_time() - began)
    assert np.median(took) < 0.3


def test_a_stale_answer_is_dropped(tab, learned):
    events = tab.look(slide_data(tab, learned), WHO)
    newest = tab.runs.newest
    tab.runs.newest = lambda who, stop: False
    try:
        assert list(events)[0]["__type__"] == "update"
    finally:
        tab.runs.newest = newest


def test_strip_grid_and_video(tab, learned, tmp_path):
    (name,) = learned.made
    for kind in ("strip", "grid", "film"):
        data = slide_data(tab, learned) | {tab.second: name if kind == "grid" else ""}
        for update in tab.wide(kind)(data, WHO):
            if kind == "film" and tab.video in update:
                file = shutil.copy(update[tab.video].value["path"], tmp_path / "along.mp4")
                assert VideoSource(file).frames == 88
            elif tab.sheet in update:
                assert update[tab.sheet].visible
    with pytest.raises(gr.Error, match="choose a second one"):
        list(tab.wide("grid")(slide_data(tab, learned), WHO))


def test_what_is_known_of_a_direction_stands_beside_it(tab, learned, tmp_path):
    (name,) = learned.made
    for proof, plot, download, offer in tab.about("planted", name, learned.made):
        file = shutil.copy(download.value if isinstance(download.value, str) else download.value["path"], tmp_path)
        assert "AUC" in proof and plot.visible and offer.visible
    assert load_direction(file).card["accuracy"] == learned.made[name].card["accuracy"]
    latents, made, choice, _, words = tab.dropped(file, "planted", {})
    assert list(made) == [name] and "is a direction of this checkpoint" in words
    with pytest.raises(gr.Error, match="does not fit 'planted-z'"):
        tab.dropped(file, "planted-z", {})


def test_offering_puts_it_into_the_registry(tab, engine, learned, monkeypatch, own_home):
    (name,) = learned.made
    monkeypatch.setenv("SYSTEM", "spaces")
    with pytest.raises(gr.Error, match="saved as files"):
        tab.offered("planted", name, learned.made)
    monkeypatch.delenv("SYSTEM")
    said, _ = tab.offered("planted", name, learned.made)
    try:
        assert "offered wherever" in said and (own_home / "registry.yaml").exists()
        assert tab.known("planted", {}) == [("Red", name)] and tab.known("planted-z", {}) == []
    finally:
        engine.registry.remove(name)


def test_the_card_is_escaped():
    card = {"labels": "<script>", "accuracy": 0.9, "accuracy_interval": [0.8, 0.95], "auc": 0.9, "chance": 0.04}
    card |= {"auc_interval": [0.8, 0.95], "with": 1, "without": 2, "method": "svm", "C": 0.1}
    assert "<script>" not in view.proof(card, ["<b>"]) and "4.0 of 100" in view.proof(card)


def test_a_registry_without_generators_opens():
    engine = Engine(Registry([]), device="cpu")
    try:
        demo = ui.build_app(["directions"], engine, engine.registry)
        assert any(getattr(block, "value", None) == module.NOTHING for block in demo.blocks.values())
    finally:
        engine.close()


# HTTP and MCP


@pytest.fixture(scope="module")
def url(engine):
    demo = ui.build_app(["directions"], engine, engine.registry)
    _, url, _ = ui.launch(demo, prevent_thread_lock=True, quiet=True)
    yield url
    demo.close()


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def test_learning_over_http(client, engine, tmp_path):
    how = {"checkpoint": "planted", "name": "Red", "attribute": "planted-judge:red", "samples": 200}
    sheet, file, card = client.predict(**how, api_name="/learn_direction")
    assert card["accuracy"] > 0.8 and read_provenance(sheet)["along"] == "direction-planted-red"
    assert load_direction(file).generator["dataset"] == rig.DATA
    seeds = list(range(120))
    levels = [red(engine, seed) for seed in seeds]
    lines = [f"{seed},{level}" for seed, level in zip(seeds, levels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["seed,score", *lines]))
    table = {"checkpoint": "planted", "name": "Red", "table": handle_file(tmp_path / "t.csv")}
    _, _, card = client.predict(**table, api_name="/learn_direction")
    assert card["labels"].startswith("a table of seeds")


def test_what_there_is_over_http(client):
    listed = client.predict("planted", api_name="/list_directions")
    assert listed["attributes"] == ["planted-judge:red", "planted-judge:green"] and listed["directions"] == []


@pytest.mark.parametrize(
    "name, arguments, told",
    [
        ("learn_direction", {"name": "Red"}, "Name one source"),
        ("learn_direction", {"name": "Red", "attribute": "planted-judge:red", "sentence": "x"}, "Name one source"),
        ("learn_direction", {"name": "", "attribute": "planted-judge:red"}, "Write a sentence"),
        ("direction_sheet", {"direction": "no-such"}, "no checkpoint 'no-such'"),
        ("direction_sheet", {"direction": "planted"}, "is no direction"),
        ("direction_sheet", {"direction": "x", "strengths": "much"}, "cannot be read at 'much'"),
        ("direction_sheet", {"direction": "x", "seeds": "0-99"}, "at most 16"),
    ],
)
def test_bad_input_is_a_sentence(client, name, arguments, told):
    with pytest.raises(AppError) as error:
        client.predict(**{"checkpoint": "planted", **arguments}, api_name=f"/{name}")
    assert told in str(error.value) and "Traceback" not in str(error.value)


def test_mcp_tools_return_pictures(url):
    asked = {"checkpoint": "planted", "name": "Red", "attribute": "planted-judge:red", "samples": 100}

    async def talk():
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            assert {"list_directions", "learn_direction_strip", "direction_sheet"} <= tools
            assert "learn_direction" not in tools
            return await session.call_tool("learn_direction_strip", asked)

    answer = asyncio.run(talk())
    pictures = [part for part in answer.content if part.type == "image"]
    image = Image.open(io.BytesIO(base64.b64decode(pictures[0].data)))
    assert image.width > image.height > 100
