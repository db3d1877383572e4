"""The Faces tab without a browser: endpoints, MCP tools, consent, refusals, and that no photo stays."""

import asyncio
import base64
import io
import time
import urllib.error
import urllib.request
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from faces_rig import astronaut, crowd, noise, write_agers
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from page_rig import App
from PIL import Image
from privacy_rig import MarkedPhoto

from ganhub import ui
from ganhub.engine import Engine
from ganhub.errors import BadInput
from ganhub.imaging import Photo, VideoSource, read_provenance
from ganhub.pipelines.faces import find_faces, read_face_photo
from ganhub.registry import Registry, read_rows
from ganhub.tabs import _faces_layout as layout
from ganhub.tabs import _faces_store as store
from ganhub.tabs import _faces_view as view
from ganhub.tabs import faces as tab

NOBODY = Photo(np.zeros((40, 60, 3), np.uint8))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_agers(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def app(tmp_path_factory, rows):
    app = App(tmp_path_factory.mktemp("app"), rows).wait()
    yield app
    app.stop()


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url, verbose=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of every kind that people drop."""
    folder = tmp_path_factory.mktemp("photos")
    astronaut().save(folder / "one.jpg")
    crowd(8, 96).save(folder / "eight.png")
    noise().save(folder / "none.png")
    astronaut().resize((96, 96)).save(folder / "small.png")
    (folder / "text.jpg").write_bytes(b"no picture at all")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    return folder


def asked(client, endpoint, file, **more):
    given = {"photo": handle_file(file), "consent": True, **more}
    return client.predict(**given, api_name=f"/{endpoint}")


# Endpoints


def test_align_face_shows_the_face(client, photos):
    file, about = asked(client, "align_face", photos / "one.jpg", size=128)
    with Image.open(file) as image:
        assert image.size == (128, 128)
    (face,) = about["faces"]
    assert np.allclose(face["corners"], find_faces(astronaut(), "eyes")[0].square.corners, atol=3)
    _, about = asked(client, "align_face", photos / "eight.png", face=7)
    assert len(about["faces"]) == 8


def test_age_face_changes_the_face_alone(client, photos):
    file, about = asked(client, "age_face", photos / "one.jpg", checkpoint="tiny-both", mark=False)
    before = np.asarray(Image.open(photos / "one.jpg"))
    differs = (np.asarray(Image.open(file)) != before).any(axis=-1)
    y, x = np.nonzero(differs)
    assert len(y) > 2000 and x.min() > 120 and x.max() < 330 and y.max() < 220
    assert about["checkpoint"] == "tiny-both" and about["direction"] == "older" and about["generated"] is True
    assert read_provenance(file)["task"] == "age"
    marked, _ = asked(client, "age_face", photos / "one.jpg", checkpoint="tiny-both")
    y, x = np.nonzero((np.asarray(Image.open(marked)) != np.asarray(Image.open(file))).any(axis=-1))
    assert len(y) > 500 and y.min() > 470, "the corner is not marked by default"


def test_a_box_in_place_of_looking(client, photos):
    how = {"checkpoint": "tiny-both", "mark": False, "box": "100, 400, 80, 20"}
    file, _ = asked(client, "age_face", photos / "one.jpg", **how)
    before = np.asarray(Image.open(photos / "one.jpg"))
    y, x = np.nonzero((np.asarray(Image.open(file)) != before).any(axis=-1))
    assert abs(x.mean() - 100) < 8 and abs(y.mean() - 400) < 8


def test_strip_and_video(client, photos):
    strip = asked(client, "age_strip", photos / "one.jpg", checkpoint="tiny-years", ages="20, 50, 80", source=30)
    assert read_provenance(strip)["ages"] == ["20", "50", "80"]
    video, about = asked(client, "age_video", photos / "one.jpg", checkpoint="tiny-older", frames=6)
    assert len(list(VideoSource(video))) == 6 == about["notes"].count("") + 6
    assert read_provenance(video)["generated"] is True


def test_list_agers(client):
    listed = {entry["id"]: entry for entry in client.predict(api_name="/list_agers")}
    assert listed["tiny-both"]["ages"] is None and listed["tiny-years"]["ages"] == [10, 90]
    assert listed["tiny-both"]["on_disk"] is True and listed["away-ager"]["on_disk"] is False


@pytest.mark.parametrize(
    "endpoint, more",
    [
        ("align_face", {}),
        ("align_face_picture", {}),
        ("age_face", {"checkpoint": "tiny-both"}),
        ("age_face_picture", {"checkpoint": "tiny-both"}),
        ("age_strip", {"checkpoint": "tiny-both"}),
        ("age_video", {"checkpoint": "tiny-both"}),
    ],
)
def test_no_endpoint_without_consent(client, app, photos, endpoint, more):
    with pytest.raises(AppError, match="need consent"):
        client.predict(photo=handle_file(photos / "one.jpg"), **more, api_name=f"/{endpoint}")
    with pytest.raises(AppError, match="need consent"):
        asked(client, endpoint, photos / "one.jpg", **{**more, "consent": False})
    assert not list(app.home.rglob("one.jpg"))


@pytest.mark.parametrize(
    "file, more, words",
    [
        ("none.png", {}, "mark the face by hand"),
        ("small.png", {}, "The face is too small"),
        ("eight.png", {"face": 8}, "There are 8 faces; choose one from 0"),
        ("text.jpg", {}, "no picture that can be read here"),
        ("huge.png", {}, "is 10000x10000; the limit is 24 megapixels"),
        ("one.jpg", {"checkpoint": "tiny-bath"}, "did you mean 'tiny-both'"),
        ("one.jpg", {"checkpoint": "stylegan2-fruit"}, "does not change ages"),
        ("one.jpg", {"checkpoint": "tiny-older", "direction": "younger"}, "only makes faces older"),
        ("one.jpg", {"target": 130}, "greater than maximum value 120"),
        ("one.jpg", {"box": "1, 2"}, "A box is middle x, middle y, side"),
        ("one.jpg", {"box": "here"}, "The box cannot be read at 'here'"),
        ("one.jpg", {"box": "9000, 9000, 10"}, "too small|outside of the photo"),
    ],
)
def test_refusals_are_sentences(client, app, photos, file, more, words):
    with pytest.raises(AppError, match=words) as error:
        asked(client, "age_face", photos / file, **{"checkpoint": "tiny-both", **more})
    assert "Traceback" not in str(error.value)
    assert not list(app.home.rglob(file)) and not list(app.temporary.rglob(file))


def test_pictures_of_the_page_are_no_photos(app, client):
    """Nobody makes the app delete its own pictures by naming them as a photo."""
    own = [path for path in app.home.rglob("image.png")]
    assert own
    given = {"path": str(own[0]), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="Give the photo as a file"):
        client.predict(photo=given, consent=True, checkpoint="tiny-both", api_name="/age_face")
    assert own[0].exists()


# Nothing stays


async def by_mcp(url, tool, arguments):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        streamable_http_client(f"{url}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await session.call_tool(tool, arguments)


def test_a_marked_photo_leaves_no_trace(app, tmp_path):
    """Every function is used on it; then the disk and the log know nothing of it."""
    photo, client = MarkedPhoto(tmp_path), Client(app.url, verbose=False, download_files=str(tmp_path / "given"))
    places = (app.home, app.temporary, app.log.parent)
    assert photo.traces(tmp_path), "the search would not find it"
    before = {path for place in places for path in place.rglob("*")}
    ages = {"checkpoint": "tiny-years", "source": 33}
    for endpoint, more in {
        "align_face": {},
        "align_face_picture": {"box": "222, 130, 95, 0"},
        "age_face": {**ages, "target": 60},
        "age_face_picture": {"checkpoint": "tiny-both", "face": -1},
        "age_strip": ages,
        "age_video": {**ages, "frames": 4},
        "project_face": {"steps": 2},
    }.items():
        answer = asked(client, endpoint, photo.file, **more)
    latent = handle_file(photo.latent(Path(answer[1])))
    for endpoint in ("edit_face", "edit_face_picture"):
        client.predict(mix=5, mix_layers="0-3", api_name=f"/{endpoint}")
    client.predict(latents=latent, mix=6, mix_layers="0-3", api_name="/edit_face_picture")
    client.predict(other=latent, pictures=3, api_name="/morph_faces")
    with pytest.raises(AppError):
        client.predict(other=latent, latents=handle_file(photo.file), api_name="/morph_faces")
    with pytest.raises(AppError):
        asked(client, "age_face", photo.file, checkpoint="tiny-both", consent=False)
    with pytest.raises(AppError):
        asked(client, "age_face", photo.file, checkpoint="tiny-both", face=3)
    left = photo.traces(*places)
    kept = ("its pixels", "_face.npz: its bytes")  # until he deletes it, or the timer does
    assert left and all("/faces/" in trace and trace.endswith(kept) for trace in left), left
    assert client.predict(api_name="/delete_photos") == {"deleted": True}
    assert photo.traces(*places) == []
    new = {path for place in places for path in place.rglob("*")} - before
    left = [path for path in new if path.is_file() and path.suffix != ".json"]
    assert [path for path in left if path.stat().st_size] == []  # Gradio leaves empty ones of some uploads
    given = [path for path in (tmp_path / "given").rglob("*") if path.is_file()]
    assert len(given) == 13 and not any(photo.word.encode() in path.read_bytes() for path in given)
    assert client.predict(api_name="/delete_photos") == {"deleted": False}


def test_agents_get_pictures_with_consent_only(app, photos):
    data = "data:image/jpeg;base64," + base64.b64encode((photos / "one.jpg").read_bytes()).decode()
    before = set(app.home.rglob("*.jpg")) | set(app.home.rglob("*.jpeg"))
    arguments = {"photo": data, "checkpoint": "tiny-both"}
    refused = asyncio.run(by_mcp(app.url, "age_face_picture", arguments))
    assert refused.isError and "need consent" in refused.content[0].text
    answer = asyncio.run(by_mcp(app.url, "age_face_picture", {**arguments, "consent": True}))
    (picture,) = [part for part in answer.content if part.type == "image"]
    with Image.open(io.BytesIO(base64.b64decode(picture.data))) as image:
        assert image.size == (512, 512)
    assert set(app.home.rglob("*.jpg")) | set(app.home.rglob("*.jpeg")) == before


def test_deleted_pictures_have_no_address(app, photos):
    client = Client(app.url, verbose=False, download_files=False)
    answer = asked(client, "age_face_picture", photos / "one.jpg", checkpoint="tiny-both")
    address = answer["url"] if isinstance(answer, dict) else f"{app.url}/gradio_api/file={answer}"
    assert urllib.request.urlopen(address).read().startswith(b"\x89PNG")
    client.predict(api_name="/delete_photos")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(address)


# The store


@pytest.fixture
def shelves(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "get_upload_folder", lambda: str(tmp_path))
    return store.Store(keep=100, left=5)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_folder_goes_with_that_of_the_process():
    """`test_ui.py` kills an app and sees that its folder goes at the next start."""
    assert store.Store().root.parent == Path(store.get_upload_folder())


def test_photos_go_by_the_clock(shelves, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(shelves, "_sweep_on", lambda: None)
    kept = shelves.put("me", NOBODY, [])
    with kept.files() as folder:
        (folder / "a.png").write_bytes(b"a")
    with shelves.answer("me").files() as folder:
        (folder / "b.png").write_bytes(b"b")
    shelves.keep_latents("me", "latents")
    now[0] += 99
    shelves.sweep()
    assert len(files_in(tmp_path)) == 2 and shelves.get("me") is kept and shelves.latents_of("me") == "latents"
    now[0] += 99
    shelves.sweep()
    assert shelves.get("me") is kept, "a click does not keep it"
    now[0] += 600
    shelves.sweep()
    assert not files_in(tmp_path)
    for gone in (shelves.get, shelves.latents_of):
        with pytest.raises(BadInput) as error:
            gone("me")
        assert error.value.code == "gone"
    with pytest.raises(BadInput, match="no photo of yours here"), kept.files():
        pass


def test_a_closed_page_is_soon_forgotten(shelves, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(shelves, "_sweep_on", lambda: None)
    shelves.put("me", NOBODY, [])
    shelves.leave("me")
    now[0] += 4
    shelves.sweep()
    shelves.get("me")  # he is back
    shelves.put("she", NOBODY, [])
    shelves.leave("she")
    now[0] += 6
    shelves.sweep()
    shelves.get("me")
    with pytest.raises(BadInput):
        shelves.get("she")


def test_one_visitor_forgets_nothing_of_another(shelves, tmp_path):
    for who in ("me", "she"):
        with shelves.put(who, NOBODY, []).files() as folder:
            (folder / f"{who}.png").write_bytes(b"x")
    assert shelves.forget("me") and not shelves.forget("me")
    assert [path.name for path in files_in(tmp_path)] == ["she.png"]
    shelves.put("she", NOBODY, [])
    assert not files_in(tmp_path), "a new photo leaves the old one's pictures"


def test_memory_has_a_limit(shelves, monkeypatch):
    monkeypatch.setattr(store, "MOST_BYTES", 2.5 * NOBODY.pixels.nbytes)
    for who in ("a", "b"):
        shelves.put(who, NOBODY, [])
    shelves.get("a")
    shelves.put("c", NOBODY, [])
    shelves.get("a"), shelves.get("c")
    with pytest.raises(BadInput):
        shelves.get("b")


def test_a_dropped_file_goes_by_itself(shelves, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHOWN", 0.1)
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "me.jpg").write_bytes(b"me")
    shelves.soon(tmp_path / "upload" / "me.jpg")
    end = time.monotonic() + 30
    while (tmp_path / "upload").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not (tmp_path / "upload").exists()


# The page


def test_a_registry_without_agers_opens():
    engine = Engine(Registry([]), device="cpu")
    try:
        demo = ui.build_app(["faces"], engine, Registry([]))
        texts = [block.value for block in demo.blocks.values() if isinstance(block, gr.Markdown)]
        assert any("no network that changes ages" in text for text in texts)
    finally:
        engine.close()


def test_a_first_look_by_what_is_here(rows):
    registry = Registry(read_rows(rows))
    engine = Engine(registry, device="cpu")
    try:
        demo = ui.build_app(["faces"], engine, registry)
        load = next(fn for fn in demo.fns.values() if getattr(fn.fn, "__name__", "") == "first_sight")
        said = {block.elem_id: value for block, value in next(load.fn()).items()}
        assert "A first look" in said["faces-note"] and said["faces-divider"].visible
    finally:
        engine.close()


def test_every_example_has_a_face_and_a_licence():
    notice = (Path(tab.__file__).parents[2] / "NOTICE").read_text()
    for name, (file, age) in layout.EXAMPLES.items():
        photo = read_face_photo(layout.example_file(name))
        assert len(find_faces(Image.fromarray(photo.pixels), "eyes")) == 1 and str(age) in name
        assert file in notice
        with Image.open(layout.example_file(name)) as image:
            assert not image.getexif()
    assert "CC BY 4.0" in layout.CREDIT


def test_marks_are_where_the_faces_are():
    photo = Photo(np.asarray(crowd(2)))
    kept = store.Kept(Path(), photo=photo, found=find_faces(crowd(2), "eyes"))
    marks = view.marks(kept)
    width, height = photo.size
    for corners in marks["faces"]:
        x, y = np.mean(corners, axis=0) * (width, height)
        assert min(abs(x - 84), abs(x - 232)) < 12 and abs(y - 84) < 30
    assert marks["chosen"] == [0] and marks["hand"] is None
    kept.by_hand = (60.0, 50.0, 40.0, 0.0)
    hand = np.array(view.marks(kept)["hand"]) * (width, height) - 0.5
    assert np.allclose(hand, [(40, 30), (40, 70), (80, 70), (80, 30)], atol=0.01)
