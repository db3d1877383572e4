"""The page without a browser: its tabs, its settings, its HTTP endpoints and its MCP tools."""

import asyncio
import base64
import io
import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from page_rig import ROOT, App
from PIL import Image
from tiny import write_registry

import ganhub.tabs
from ganhub import imaging, ui
from ganhub.errors import BadInput, GanHubError
from ganhub.pipelines.requests import GenerateRequest
from ganhub.registry import Checkpoint, Registry, load_registry, read_rows
from ganhub.tabs import Context
from ganhub.tabs import _generate_directions as directions
from ganhub.tabs import _settings as settings
from ganhub.tabs import _widgets as widgets

TOOLS = {"list_checkpoints", "generate_one", "generate_sheet", "sweep_sheet", "mix_sheet", "interpolation_strip"}
TOOLS |= {"list_upscalers", "upscale_one", "upscale_compare_sheet"}
TOOLS |= {"list_imaginers", "imagine_one", "imagine_sheet"}
TOOLS |= {"list_directions", "learn_direction_strip", "direction_sheet"}
TOOLS |= {"list_agers", "align_face_picture", "age_face_picture", "age_strip", "delete_photos"}
TOOLS |= {"list_face_generators", "project_face_picture", "edit_face_picture", "morph_faces"}
ENDPOINTS = TOOLS | {"generate", "sweep", "mix", "interpolate", "upscale", "upscale_compare", "imagine"}
ENDPOINTS |= {"align_face", "age_face", "age_video", "learn_direction", "project_face", "edit_face"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_registry(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def app(tmp_path_factory, rows):
    app = App(tmp_path_factory.mktemp("app"), rows).wait()
    yield app
    app.stop()


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url, verbose=False)


# Tabs


@pytest.fixture
def tab_folder(tmp_path, monkeypatch):
    """A folder beside ganhub/tabs whose files are found as tabs too."""
    monkeypatch.setattr(ganhub.tabs, "__path__", [*ganhub.tabs.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("ganhub.tabs."):
            del sys.modules[name]


def test_a_tab_is_one_file(tab_folder):
    (tab_folder / "extra.py").write_text("TITLE = 'Extra'\nORDER = 1\ndef build(context): pass\n")
    assert list(ui.find_tabs())[:2] == ["extra", "generate"]
    assert list(ui.find_tabs(["generate"])) == ["generate"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("import nothing_of_that_name", "zz.py cannot be loaded: ModuleNotFoundError"),
        ("TITLE = 'A'\nORDER = 1", "zz.py lacks build"),
        ("TITLE = 'Generate'\nORDER = 1\ndef build(c): pass", "zz.py and ganhub/tabs/generate.py are both called"),
        ("raise SystemError('x')", "zz.py cannot be loaded: SystemError: x"),
    ],
)
def test_a_wrong_tab_is_named(tab_folder, text, words):
    (tab_folder / "zz.py").write_text(text)
    with pytest.raises(GanHubError, match="ganhub/tabs/zz.py|ganhub/tabs/generate.py") as error:
        ui.find_tabs()
    assert words in error.value.message


def test_an_unknown_tab_is_named():
    with pytest.raises(GanHubError, match="There is no tab 'nonsense'; there are .*generate"):
        ui.find_tabs(["nonsense"])


def test_a_wrong_registry_is_one_sentence(tmp_path):
    (tmp_path / "bad.yaml").write_text("- id: x\n  famly: dcgan\n")
    command = [sys.executable, str(ROOT / "app.py"), "--registry", str(tmp_path / "bad.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr and "did you mean 'family'" in run.stderr


def test_a_taken_port_is_one_sentence(app, rows, tmp_path):
    command = [sys.executable, str(ROOT / "app.py"), "--registry", str(rows), "--port", str(app.port)]
    env = {**os.environ, "GANHUB_HOME": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
    assert run.returncode == 1
    assert f"The port {app.port} is taken" in run.stderr and "Traceback" not in run.stderr


def test_what_a_killed_app_left_is_deleted(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "page" / str(dead.pid)
    left.mkdir(parents=True)
    (left / "face.png").write_bytes(b"x")
    other = tmp_path / "page" / str(os.getpid())
    other.mkdir()
    code = "from ganhub import ui; ui._environment(); import os; print(os.environ['GRADIO_TEMP_DIR'])"
    env = {**os.environ, "GANHUB_HOME": str(tmp_path)}
    env.pop("GRADIO_TEMP_DIR", None)
    out = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not left.exists(), "the folder of a dead process stays"
    assert other.exists(), "the folder of a living process is gone"
    own = tmp_path / "page" / out.stdout.strip().rsplit("/", 1)[1]
    assert own.stat().st_mode & 0o077 == 0, "others can read it"


# Cards


def row(**more):
    given = {"id": "x", "task": ["generate"], "family": "dcgan", "source": {"path": "/nowhere"}, "title": "X"}
    return Checkpoint(**{**given, "license": "MIT", "commercial_use": True, **more})


def test_a_card_is_escaped():
    bad = "<img src=x onerror=alert(1)>"
    text = widgets.card(row(title=bad, description=bad, dataset=bad, license=bad, source_url="javascript:alert(1)"))
    assert "<img" not in text and "&lt;img" in text
    assert "href" not in text


def test_a_card_tells_what_counts():
    source = {"hub": "a/b", "file": "c", "revision": "0123456789" * 4}
    more = {"metrics": {"fid50k": 2.84}, "resolution": (512, 256), "bytes": 132_717_355, "paper": "arXiv:1912.04958"}
    text = widgets.card(row(source=source, sha256="ab" * 32, source_url="https://example.org/x", **more))
    for word in ("256 × 512 px", "133 MB to fetch", "2.84", "0123456789", "MIT", "also commercial", "example.org/x"):
        assert word in text
    assert "https://arxiv.org/abs/1912.04958" in text


@pytest.mark.parametrize(
    "name, commercial, words",
    [
        ("CC0-1.0", True, "No conditions"),
        ("MIT", True, "also commercial"),
        ("CC-BY-4.0", True, "name the author"),
        ("CC-BY-NC-SA-4.0", False, "share what you make from it under the same licence"),
        ("nvidia-source-code-nc", False, "research and evaluation only"),
        ("unstated", False, "states no licence"),
        ("anything", False, "Not for commercial use"),
    ],
)
def test_licences_in_words(name, commercial, words):
    assert words in widgets.licence_words(row(license=name, commercial_use=commercial))


def test_every_row_of_the_registry_has_a_card():
    registry = load_registry()
    choices = widgets.picker_choices(registry, "generate")
    assert len(choices) == len(registry.for_task("generate"))
    for _, name in choices:
        assert registry.find(name).license in widgets.card(registry.find(name)).replace("&#x27;", "'")


# Seeds and settings


@pytest.mark.parametrize("text", ["0-7", "3", "1, 2", "5, 9-12, 4", "0-2, 7"])
def test_seeds_come_back_as_written(text):
    assert widgets.seeds_text(widgets.page_seeds(text)) == text


def test_count_extends_and_shortens():
    assert widgets.resized("0-7", 3) == "0-2"
    assert widgets.resized("5, 9", 4) == "5, 9-11"
    assert widgets.resized("not seeds", 2) == "0, 1"
    assert widgets.resized("4294967295", 2) == "4294967295, 0"
    assert len(widgets.page_seeds(widgets.drawn(64))) == 64


def test_too_many_seeds_for_the_page():
    with pytest.raises(BadInput, match="at most 64 seeds"):
        widgets.page_seeds("0-64")


@pytest.mark.parametrize(
    "changes",
    [
        {"make": "generate", "seeds": "3, 5", "psi": 0.5, "cutoff": "4", "label": 2, "noise_mode": "random"},
        {"make": "sweep", "seeds": "0-2", "psis": "-0.5, 0, 1"},
        {"make": "mix", "seeds": "0-2", "cols": "7", "layers": "0-3, 6", "psi": 0.7, "precision": "fast"},
        {
            "make": "interpolate",
            "seeds": "1, 9",
            "frames": 12,
            "fps": 24,
            "loop": False,
            "easing": "smooth",
            "space": "z",
        },
    ],
)
def test_settings_survive_the_way_round(changes, rows):
    registry = Registry(read_rows(rows))
    wanted = {**settings.DEFAULTS, "checkpoint": "tiny", **changes}
    request = settings.request_of_settings(wanted, "me")
    back = settings.settings_of_request(request)
    found, refused = settings.checked({k: v if v is None else str(v) for k, v in back.items()}, registry)
    assert refused == [] or refused == ["loop"]  # `True` as text is what JavaScript never writes
    found, refused = settings.checked(back, registry)
    assert not refused
    assert settings.request_of_settings({**settings.DEFAULTS, **found}, "me") == request


def test_moves_survive_the_way_round():
    registry = load_registry()
    moves = (("direction-portraits-smile", 1.5), ("direction-portraits-glasses", -0.5))
    request = GenerateRequest("stylegan2-portraits", seeds=(3,), psi=0.7, moves=moves, precision="exact", visitor="me")
    back = settings.settings_of_request(request)
    assert back["moves"] == "direction-portraits-smile=1.5, direction-portraits-glasses=-0.5"
    found, refused = settings.checked(back, registry)
    assert not refused and settings.request_of_settings({**settings.DEFAULTS, **found}, "me") == request
    for far in ("5", "nan", "-inf"):
        assert settings.checked({"moves": f"direction-portraits-smile={far}"}, registry) == ({}, ["moves"])
    with pytest.raises(BadInput, match="'smile' is no move; write ID=STRENGTH"):
        settings.request_of_settings({**settings.DEFAULTS, **found, "moves": "smile"}, "me")


def test_sliders_of_directions():
    registry = load_registry()
    sliders = directions.DirectionSliders(Context(None, registry))
    row, other = registry.find("stylegan2-portraits"), registry.find("dcgan-fruit-64")
    known = [one.id for one in sliders.known(row)]
    smile = known.index("direction-portraits-smile")
    box, *shown = sliders.shown(row, "generate", "direction-portraits-smile=1.5")
    assert [s.value for s in shown][smile] == 1.5 and sum(s.value for s in shown) == 1.5
    assert box.visible and box.open and sum(s.visible for s in shown) == len(known)
    assert not sliders.shown(row, "mix")[0].visible and not sliders.shown(other, "generate")[0].visible
    values = [float(n) for n in range(directions.SLIDERS)]
    said = sliders.said(row, "direction-portraits-smile=1, elsewhere=2", values)
    assert said == ", ".join([f"{name}={n}" for n, name in enumerate(known) if n] + ["elsewhere=2"])
    assert sliders.said(other, "", values) == ""


def test_settings_from_outside_are_checked(rows):
    bad = {
        "make": "coffee", "checkpoint": "../../etc/passwd", "seeds": "1-9999", "psi": "nan", "cutoff": "-1",
        "label": "x", "noise_mode": "loud", "precision": "0", "psis": "", "cols": "-", "layers": "99999",
        "frames": "1e9", "fps": "0", "loop": "maybe", "easing": "?", "space": "q", "method": "<script>",
        "moves": "nothing=1",
    }  # fmt: skip
    found, refused = settings.checked(bad, Registry(read_rows(rows)))
    assert found == {} and sorted(refused) == sorted(bad)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"make": "sweep", "seeds": "0-63", "psis": "0, 1, 2"}, "at most 144"),
        ({"make": "mix", "seeds": "0-12", "cols": "0-12"}, "at most 144"),
        ({"make": "interpolate", "seeds": "0-9", "frames": 200}, "at most 900"),
        ({"make": "interpolate", "seeds": "1"}, "at least 2 seeds"),
        ({"cutoff": "many"}, "whole number"),
        ({"psi": "much"}, "must be a number"),
        ({"make": "tea"}, "is none of"),
    ],
)
def test_the_page_has_limits(changes, words):
    with pytest.raises(BadInput, match=words):
        settings.request_of_settings({**settings.DEFAULTS, "checkpoint": "tiny", **changes}, "me")


def test_foreign_errors_stay_in_the_log(caplog):
    with caplog.at_level(logging.ERROR):
        said = widgets.shown(ValueError("secret detail"))
    assert "secret" not in said.message
    assert "secret detail" in caplog.text
    assert widgets.shown(BadInput("A sentence.")).message == "A sentence."
    own = gr.Error("own")
    assert widgets.shown(own) is own


# HTTP


def test_endpoints_have_names_and_types(client):
    described = client.view_api(return_format="dict")["named_endpoints"]
    assert {name.strip("/") for name in described} == ENDPOINTS
    parameters = {p["parameter_name"]: p for p in described["/generate_one"]["parameters"]}
    assert parameters["seed"]["type"]["type"] == "integer"
    assert all(p["parameter_has_default"] for p in parameters.values())


def test_same_seed_same_bytes(client):
    first, second = (client.predict(checkpoint="tiny", seed=7, api_name="/generate_one") for _ in range(2))
    other = client.predict(checkpoint="tiny", seed=8, api_name="/generate_one")
    read = [Path(file).read_bytes() for file in (first, second, other)]
    assert read[0] == read[1] != read[2]
    about = imaging.read_provenance(first)
    assert about["checkpoint"] == "tiny" and about["seed"] == 7 and about["generated"] is True
    with Image.open(first) as picture:
        assert picture.format == "PNG" and picture.size == (32, 32)


def test_generate_returns_every_picture(client):
    sheet, files, about = client.predict(checkpoint="tiny-of-old", seeds="3, 5-6", psi=0.5, api_name="/generate")
    assert [imaging.read_provenance(file)["seed"] for file in files] == [3, 5, 6] == [a["seed"] for a in about]
    assert imaging.read_provenance(sheet)["seeds"] == [3, 5, 6]
    one = client.predict(checkpoint="tiny", seed=5, psi=0.5, api_name="/generate_one")
    assert Path(one).read_bytes() == Path(files[1]).read_bytes()


def test_sweep_and_mix(client):
    sheet, files, about = client.predict(checkpoint="tiny", seeds="1-2", psis="0, 1", api_name="/sweep")
    assert [(a["seed"], a["psi"]) for a in about] == [(1, 0), (1, 1), (2, 0), (2, 1)] and len(files) == 4
    assert imaging.read_provenance(sheet)["task"] == "sweep"
    how = {"rows": "1-2", "cols": "7", "layers": "0-1", "psi": 0.7}
    sheet, files, about = client.predict(checkpoint="tiny", **how, api_name="/mix")
    assert [(a["row"], a["col"]) for a in about] == [(1, 7), (2, 7)]
    assert imaging.read_provenance(sheet)["layers"] == [0, 1]


def test_interpolate(client):
    how = {"seeds": "1, 2", "frames": 4, "fps": 12, "loop": False, "label": 1}
    strip, video, about = client.predict(checkpoint="tiny-classes", **how, api_name="/interpolate")
    data = Path(video).read_bytes()
    assert data[4:8] == b"ftyp" and b"avc1" in data
    assert imaging.read_provenance(video)["seeds"] == [1, 2] == imaging.read_provenance(strip)["seeds"]
    assert about["frames"] == 4 and about["fps"] == 12


def test_moved_pictures(client):
    how = {"checkpoint": "stylegan2-portraits", "psi": 0.7}
    plain = client.predict(seed=5, **how, api_name="/generate_one")
    smile = client.predict(seed=5, **how, moves="direction-portraits-smile=1.5", api_name="/generate_one")
    assert imaging.read_provenance(smile)["moves"] == [["direction-portraits-smile", 1.5]]
    assert Path(plain).read_bytes() != Path(smile).read_bytes()
    with pytest.raises(AppError, match="does not fit 'stylegan2-portraits'"):
        client.predict(seed=5, **how, moves="direction-fruit-red=1", api_name="/generate_one")


def test_list_checkpoints(client):
    listed = {entry["id"]: entry for entry in client.predict(api_name="/list_checkpoints")}
    known = [one["id"] for one in listed["stylegan2-portraits"]["directions"]]
    assert "direction-portraits-smile" in known and not listed["tiny"]["directions"]
    assert listed["tiny-classes"]["classes"] == ["ant", "bee", "cat"]
    assert listed["tiny"]["on_disk"] is True and "also commercial" in listed["tiny"]["allowed"]


@pytest.mark.parametrize(
    "endpoint, arguments, words",
    [
        ("/generate_one", {"checkpoint": "tinny"}, "did you mean 'tiny'"),
        ("/generate_one", {"checkpoint": "../../etc/passwd"}, "There is no checkpoint"),
        ("/generate_one", {"checkpoint": "tiny-classes"}, "3 classes; name one from 0 to 2"),
        ("/generate_one", {"checkpoint": "tiny-grey", "psi": 0.5}, "no truncation"),
        ("/generate_one", {"checkpoint": "tiny", "seed": -1}, "less than minimum value 0"),
        ("/generate_one", {"checkpoint": "tiny", "psi": 9}, "greater than maximum value 2"),
        ("/generate_one", {"checkpoint": "tiny", "noise_mode": "loud"}, "not in the list of choices"),
        ("/generate", {"checkpoint": "tiny", "seeds": "7-3"}, "runs backwards"),
        ("/generate", {"checkpoint": "tiny", "seeds": "0-9999"}, "at most 64 seeds"),
        ("/mix", {"checkpoint": "tiny-grey", "psi": 1}, "no styles to mix"),
        ("/mix", {"checkpoint": "tiny", "layers": "40"}, "no layer 40"),
    ],
)
def test_bad_input_is_a_sentence(client, app, endpoint, arguments, words):
    with pytest.raises(AppError) as error:
        client.predict(**arguments, api_name=endpoint)
    assert words in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_bare_call_needs_no_defaults(app):
    """As `curl` does it, and as CI asks the app for its first picture."""
    body = json.dumps({"checkpoint": "tiny", "seed": 7}).encode()
    url = f"{app.url}/gradio_api/call/v2/generate_one"
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(asked))["event_id"]
    text = urllib.request.urlopen(f"{app.url}/gradio_api/call/generate_one/{event}").read().decode()
    assert "event: complete" in text
    data = json.loads(text.rsplit("data: ", 1)[1])
    picture = urllib.request.urlopen(data[0]["url"]).read()
    assert picture.startswith(b"\x89PNG") and b"ganhub" in picture


@pytest.mark.parametrize(
    "path, code",
    [
        ("/monitoring", 403),
        ("/gradio_api/runs", 404),
        ("/gradio_api/file=/etc/passwd", 403),
        (f"/gradio_api/file={ROOT / 'weights.yaml'}", 403),
        (f"/gradio_api/file={ROOT / 'ganhub' / 'ui.py'}", 403),
    ],
)
def test_what_nobody_may_see(app, path, code):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(app.url + path)
    assert error.value.code == code


def test_no_way_round_the_queue(app):
    asked = urllib.request.Request(
        f"{app.url}/gradio_api/run/generate_one", b'{"data": []}', {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(asked)
    assert error.value.code == 404


def test_nothing_piles_up(app, client):
    """Files wait for their visitor in the app's own folder, which it empties; nothing stays elsewhere."""
    client.predict(checkpoint="tiny", seed=1, api_name="/generate_one")
    time.sleep(0.5)
    assert not list(app.temporary.glob("ganhub-*"))
    kept = list((app.home / "page" / str(app.process.pid)).rglob("*.png"))
    assert [file for file in kept if file.name == "tiny_seed0001.png"]


# MCP


def test_mcp_tools_return_pictures(app):
    asked = {
        "generate_one": {"checkpoint": "tiny", "seed": 7},
        "generate_sheet": {"checkpoint": "tiny", "seeds": "1-2"},
        "mix_sheet": {"checkpoint": "tiny", "rows": "1", "cols": "2", "layers": "0"},
        "sweep_sheet": {"checkpoint": "tiny", "seeds": "1", "psis": "0, 1"},
        "interpolation_strip": {"checkpoint": "tiny", "seeds": "1, 2", "frames": 3},
    }

    async def talk():
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        async with (
            streamable_http_client(f"{app.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            answers = {name: await session.call_tool(name, how) for name, how in asked.items()}
            listed = await session.call_tool("list_checkpoints", {})
            wrong = await session.call_tool("generate_one", {"checkpoint": "tinny"})
            return tools, answers, listed, wrong

    tools, answers, listed, wrong = asyncio.run(talk())
    assert set(tools) == TOOLS
    described = tools["generate_one"].inputSchema["properties"]
    assert "whole number" in described["seed"]["description"]
    sizes = {}
    for name in asked:
        pictures = [part for part in answers[name].content if part.type == "image"]
        assert len(pictures) == 1 and pictures[0].mimeType == "image/png", name
        with Image.open(io.BytesIO(base64.b64decode(pictures[0].data))) as picture:
            picture.load()
            sizes[name] = picture.size
    assert sizes["generate_one"] == (32, 32)
    assert sizes["mix_sheet"] == (64, 64)
    assert "tiny-classes" in listed.content[0].text
    assert wrong.isError and "did you mean 'tiny'" in wrong.content[0].text
