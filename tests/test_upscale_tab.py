"""The super-resolution tab without a browser: the region, the figures, the whole, the endpoints and the MCP tools."""

import asyncio
import base64
import dataclasses
import io
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from page_rig import App
from PIL import Image
from upscale_rig import write_upscalers

from ganhub import ui
from ganhub.engine import Engine
from ganhub.errors import BadInput
from ganhub.imaging import Photo, read_photo, read_provenance, write_video
from ganhub.metrics import pictures
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale import UpscaleRequest, bicubic, departure, shrunk, upscale
from ganhub.registry import Registry, read_rows
from ganhub.tabs import _upscale_preview as tab
from ganhub.tabs import _upscale_view as view
from ganhub.tabs import _upscale_whole as wholes
from ganhub.tabs.upscale import EXAMPLES

CAT = EXAMPLES["Cat"]
HERE = ("tiny-x4", "tiny-other", "tiny-x2")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_upscalers(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def engine(rows):
    engine = Engine(Registry(read_rows(rows)), device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def cat():
    return read_photo(CAT)


def previewed(engine, photo, wanted, centre=(0.5, 0.5), **more):
    *_, made = tab.preview(engine, photo, wanted, centre, **more)
    return made


def result_of(events):
    *_, result = events
    return result


# The region


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0, 0), (1, 1), (0.31, 0.87)])
@pytest.mark.parametrize("scale", [None, 3])
def test_the_region_is_that_part_of_the_whole(engine, cat, centre, scale):
    wanted = tab.Wanted("tiny-x4", ("tiny-other",), scale=scale)
    made = previewed(engine, cat, wanted, centre)
    factor = scale or 4
    x, y, width, height = (round(share * side * factor) for share, side in zip(made.box, cat.size * 2, strict=True))
    assert (width, height) == (152 * factor, 112 * factor)
    here = np.s_[y : y + height, x : x + width]
    for name, pane in zip(("tiny-x4", "tiny-other"), made.panes[1:], strict=True):
        large = result_of(upscale(engine, UpscaleRequest(name, cat, scale))).pixels[here]
        apart = np.abs(large.astype(int) - pane.pixels.astype(int))
        # A part is resized from x3 on its own: its rim is that of a part, and so is rounding.
        assert apart.max() <= (0 if scale is None else 1)
        assert pane.provenance["checkpoint"] == name
    plain = bicubic(cat, tuple(side * factor for side in cat.size))[here]
    assert np.array_equal(made.panes[0].pixels, plain)
    assert np.array_equal(made.map.pixels, np.asarray(departure(made.panes[1].pixels, plain)))
    assert made.whole and not made.waiting


def test_panes_come_one_after_the_other(engine, cat):
    seen = []
    for event in tab.preview(engine, cat, tab.Wanted("tiny-x4", ("tiny-other",))):
        if isinstance(event, tab.Preview):
            seen.append((len(event.panes), list(event.waiting), event.whole))
    assert seen == [(1, ["tiny-x4", "tiny-other"], False), (2, ["tiny-other"], False), (3, [], True)]


def test_a_network_that_enlarges_less_is_enlarged_on(engine, cat):
    made = previewed(engine, cat, tab.Wanted("tiny-x4", ("tiny-x2",)))
    assert [pane.pixels.shape for pane in made.panes] == [(448, 608, 3)] * 3
    assert "2× by itself" in made.panes[2].words


def test_what_is_not_here_is_said_and_not_fetched(engine, cat):
    made = previewed(engine, cat, tab.Wanted("away-x4", ("tiny-x4",)), ask=["tiny-x4"])
    assert [pane.name for pane in made.panes] == ["Bicubic", "tiny-x4"] and made.map is None
    assert "Away is not on this machine yet" in made.remarks[0] and not made.whole


def test_a_network_that_fails_loses_only_itself(engine, cat):
    made = previewed(engine, cat, tab.Wanted("tiny-x4", ("away-x4",)))
    assert [pane.name for pane in made.panes] == ["Bicubic", "tiny-x4"]
    assert made.remarks[0].startswith("Away is left out: ") and not made.whole


@pytest.mark.parametrize("kind", ["L", "LA", "RGBA", "I;16", "one pixel", "thin"])
def test_photos_of_every_kind(engine, tmp_path, kind):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 30, 4), np.uint8)
    image = {
        "L": lambda: Image.fromarray(pixels[..., 0]),
        "LA": lambda: Image.fromarray(pixels[..., :2]),
        "RGBA": lambda: Image.fromarray(pixels),
        "I;16": lambda: Image.fromarray(random.integers(0, 65536, (40, 30)).astype(np.uint16)),
        "one pixel": lambda: Image.fromarray(pixels[:1, :1, :3]),
        "thin": lambda: Image.fromarray(pixels[:1, :, :3]),
    }[kind]()
    image.save(tmp_path / "odd.png")
    photo = tab.photo_of(tmp_path / "odd.png")
    made = previewed(engine, photo, tab.Wanted("tiny-x4"))
    assert [pane.pixels.dtype for pane in made.panes] == [np.uint8] * 2
    assert {pane.pixels.shape[:2] for pane in made.shown} == {(photo.size[1] * 4, photo.size[0] * 4)}
    drawn = view.panes_value(made, tmp_path)["panes"]
    for pane, entry in zip(made.shown, drawn, strict=True):
        with Image.open(entry["file"]["path"]) as file:
            assert np.array_equal(np.asarray(file).reshape(pane.pixels.shape), pane.pixels)
    assert Path(view.finder_value(photo, tmp_path)["file"]["path"]).stat().st_size


def test_more_pixels_than_the_page_takes(tmp_path):
    Image.new("L", (6001, 4000)).save(tmp_path / "large.png")
    with pytest.raises(BadInput, match="the limit is 24 megapixels"):
        tab.photo_of(tmp_path / "large.png")
    assert tab.most_pixels(4) == 24_000_000 and tab.most_pixels(8) == 6_250_000


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"others": ("a", "b", "c", "d")}, "at most 4 networks"),
        ({"small": True, "true": "x.png"}, "both at once do not go together"),
        ({"small": True, "scale": 2.0}, "leave the size as it is"),
    ],
)
def test_what_contradicts_itself(settings, words):
    with pytest.raises(BadInput, match=words):
        tab.Wanted("tiny-x4", **settings)


@pytest.mark.parametrize("settings", [{"scale": 5.0}, {"width": 2000}])
def test_more_than_the_network_makes(engine, cat, settings):
    with pytest.raises(BadInput, match="4 times larger at most"):
        previewed(engine, cat, tab.Wanted("tiny-x4", **settings))


# Figures


def test_made_small_first_and_measured(engine, cat):
    made = previewed(engine, cat, tab.Wanted("tiny-x4", small=True))
    true = cat.pixels[:300, :448]
    assert np.array_equal(made.truth.pixels, true) and made.truth.name == "Your photo"
    small = shrunk(cat, 4)
    large = result_of(upscale(engine, UpscaleRequest("tiny-x4", small))).pixels
    for pane, pixels in zip(made.panes, (bicubic(small, (448, 300)), large), strict=True):
        assert np.array_equal(pane.pixels, pixels)
        assert pane.figures == pictures.compare(pixels, true, 4)
    assert made.remarks == ["LPIPS needs `ganhub pull lpips-alex`, which fetches 244 MB."] or "lpips" in made.remarks[0]


def test_a_true_picture_of_another_size(engine, cat, tmp_path):
    small = shrunk(cat, 4)
    Image.fromarray(cat.pixels).save(tmp_path / "true.png")
    Image.fromarray(cat.pixels[:290]).save(tmp_path / "wrong.png")
    made = previewed(engine, small, tab.Wanted("tiny-x4", true=str(tmp_path / "true.png")), (0, 0))
    assert made.truth.name == "True picture" and np.array_equal(made.truth.pixels, cat.pixels[:300, :448])
    assert made.panes[0].figures["psnr_y"] == pictures.compare(made.panes[0].pixels, made.truth.pixels, 4)["psnr_y"]
    with pytest.raises(BadInput, match="is 451x290; for this photo and this network it would be 448x300"):
        previewed(engine, small, tab.Wanted("tiny-x4", true=str(tmp_path / "wrong.png")))


def test_too_little_to_be_measured_is_said(engine):
    flat = Photo(np.full((64, 64, 3), 90, np.uint8))
    made = previewed(engine, flat, tab.Wanted("tiny-x4", small=True))
    assert len(made.panes) == 2 and "one flat colour" in made.remarks[0]
    assert view.table(made) == ""


def test_the_table_marks_the_best_and_escapes():
    pixels = np.zeros((8, 8, 3), np.uint8)
    better = {"psnr_y": 30.0, "ssim_y": 0.9, "lpips": 0.1, "sharpness": 0.2}
    worse = {"psnr_y": 20.0, "ssim_y": 0.8, "lpips": 0.3, "sharpness": 0.9}
    panes = [tab.Pane("Bicubic", "", pixels, figures=worse), tab.Pane("<b>x", "", pixels, figures=better)]
    text = view.table(tab.Preview((0, 0, 1, 1), panes, 4))
    for best in ("<b>30.00</b>", "<b>0.900</b>", "<b>0.100</b>"):
        assert best in text
    assert "<td>0.20</td>" in text and "<td>0.90</td>" in text, "sharpness has no best"
    assert "&lt;b&gt;x" in text and "<b>x" not in text
    assert view.sentences_of(["a `b` <i>", "a `b` <i>"]).count("<li>a <code>b</code> &lt;i&gt;</li>") == 1


# The whole


def test_several_files_become_a_zip(engine, tmp_path):
    for number, size in enumerate(((20, 16), (9, 30))):
        Image.effect_noise(size, 50).convert("RGB").save(tmp_path / f"photo{number}.{('jpg', 'png')[number]}")
    (tmp_path / "none.png").write_bytes(b"no picture")
    files = [tmp_path / name for name in ("photo0.jpg", "none.png", "photo1.png")]
    events = list(wholes.whole(engine, files, tab.Wanted("tiny-x4", scale=2), "me", tmp_path / "out"))
    assert all(isinstance(event, Progress) for event in events[:-1])
    result = events[-1]
    assert [name for name, _ in result.failed] == ["none.png"]
    with zipfile.ZipFile(result.archive) as archive:
        sizes = {name: Image.open(io.BytesIO(archive.read(name))).size for name in archive.namelist()}
    assert sizes == {"photo0_x2.jpg": (40, 32), "photo1_x2.png": (18, 60)}


@pytest.mark.parametrize("size, ending", [((2500, 2500), "jpg"), ((2501, 2500), "png"), ((17000, 10), "png")])
def test_a_photo_of_a_phone_outgrows_its_jpeg(size, ending):
    photo = Photo(np.zeros((size[1], size[0], 1), np.uint8), format="JPEG", name="p")
    assert wholes.name_of(photo, UpscaleRequest("tiny-x4", photo), 4) == f"p_x4.{ending}"


@pytest.mark.parametrize("text", ["", None, " "])
def test_sizes_are_read(text):
    assert view.number_of(text, "It", float) is None
    assert view.number_of(" 2,5 ", "It", float) == 2.5 and view.number_of("640", "It", int) == 640
    with pytest.raises(BadInput, match="It must be a whole number, not '1.5'"):
        view.number_of("1.5", "It", int)


def test_the_whole_of_a_photo_made_small_first(engine, cat, tmp_path):
    result = result_of(wholes.whole(engine, [CAT], tab.Wanted("tiny-x4", small=True), "me", tmp_path))
    file = result.done[0][1]
    assert file.name == "cat_x4.png"
    with Image.open(file) as image:
        assert image.size == (448, 300)
    assert read_provenance(file)["source_size"] == [112, 75]


def test_overlap_blend_and_precision_arrive(engine, tmp_path):
    wanted = tab.Wanted("tiny-x4", blend=0.5, precision="fast", full=True, width=500)
    file = result_of(wholes.whole(engine, [CAT], wanted, "me", tmp_path)).done[0][1]
    about = read_provenance(file)
    assert about["blend"] == {"tiny-other": 0.5} and about["precision"] == "fast"
    assert about["overlap"] == engine.describe("tiny-x4")["reach"] and about["size"][0] == 500


def test_videos_have_limits(engine, tmp_path, monkeypatch):
    frames = [np.full((256, 384, 3), 30 * i, np.uint8) for i in range(4)]
    write_video(iter(frames), tmp_path / "short.mp4", 8)
    result = result_of(wholes.whole(engine, [tmp_path / "short.mp4"], tab.Wanted("tiny-x4", scale=2), "me", tmp_path))
    assert (result.frames, result.size, result.file.name) == (4, (768, 512), "short_x2.mp4")
    assert tab.photo_of(tmp_path / "short.mp4").size == (384, 256)
    monkeypatch.setattr(wholes, "MOST_SECONDS", 0.1)
    with pytest.raises(BadInput, match="the limit is 0.1"):
        list(wholes.whole(engine, [tmp_path / "short.mp4"], tab.Wanted("tiny-x4"), "me", tmp_path))


def test_what_the_page_shows_of_the_whole(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 65536, (50, 2000)).astype(np.uint16)
    Image.fromarray(noise).save(tmp_path / "grey.png")
    size, picture = wholes.shown_whole(tmp_path / "grey.png", tmp_path)
    with Image.open(picture) as image:
        assert size == (2000, 50) and image.size == (1600, 40) and image.mode == "L"
        assert 100 < np.asarray(image).mean() < 155
    monkeypatch.setattr(wholes, "MAX_IN_MEMORY", 99_999)
    assert wholes.shown_whole(tmp_path / "grey.png", tmp_path) == ((2000, 50), None)


# The page


def test_a_registry_without_upscalers_opens(rows):
    registry = Registry(row for row in read_rows(rows) if row.id == "nothing")
    engine = Engine(registry, device="cpu")
    try:
        demo = ui.build_app(["upscale"], engine, registry)
        texts = [block.value for block in demo.blocks.values() if isinstance(block, gr.Markdown)]
        assert any("no network that enlarges pictures" in text for text in texts)
    finally:
        engine.close()


def test_nothing_on_disk_says_what_a_click_would_fetch(rows):
    registry = Registry(row for row in read_rows(rows) if row.id == "away-x4")
    engine = Engine(registry, device="cpu")
    try:
        demo = ui.build_app(["upscale"], engine, registry)
        load = next(fn for fn in demo.fns.values() if getattr(fn.fn, "__name__", "") == "first_sight")
        said = {block.elem_id: value for block, value in next(load.fn()).items()}
        assert "Enlarge fetches Away (5 MB) first." in said["upscale-note"]
        assert len(said["upscale-panes"]["panes"]) == 1, "bicubic needs no network"
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


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    file = tmp_path_factory.mktemp("given") / "my photo.jpg"
    Image.open(CAT).crop((0, 0, 64, 48)).save(file)
    return file


def test_upscale_gives_the_file(client, jpeg):
    how = {"photo": handle_file(jpeg), "checkpoint": "tiny-x4"}
    file, about = client.predict(**how, scale=3, api_name="/upscale")
    assert Path(file).name == "my photo_x3.jpg"
    with Image.open(file) as image:
        assert image.format == "JPEG" and image.size == (192, 144)
    assert read_provenance(file)["checkpoint"] == "tiny-x4" == about["checkpoint"] and about["generated"] is True
    one = client.predict(**how, api_name="/upscale_one")
    with Image.open(one) as image:
        assert image.size == (256, 192)


def test_upscale_compare_gives_a_sheet(client, jpeg):
    how = {"photo": handle_file(CAT), "checkpoints": "tiny-x4, tiny-other", "small_first": True}
    sheet, about = client.predict(**how, api_name="/upscale_compare")
    methods = about["methods"]
    assert list(methods) == ["Bicubic", "tiny-x4", "tiny-other", "Your photo", "Invented detail"]
    assert methods["Bicubic"]["psnr_y"] > 25 and methods["tiny-x4"]["checkpoint"] == "tiny-x4"
    with Image.open(sheet) as image:
        assert image.width >= 5 * 448 and image.height > 300


def test_list_upscalers(client):
    listed = {entry["id"]: entry for entry in client.predict(api_name="/list_upscalers")}
    assert listed["tiny-x4"]["on_disk"] is True and listed["away-x4"]["on_disk"] is False
    assert listed["away-x4"]["scale"] == 4 and "No conditions" in listed["tiny-x4"]["allowed"]


@pytest.mark.parametrize(
    "endpoint, arguments, words",
    [
        ("/upscale", {"checkpoint": "tinny-x4"}, "did you mean 'tiny-x4'"),
        ("/upscale", {"checkpoint": "stylegan2-fruit"}, "does not enlarge pictures"),
        ("/upscale", {"checkpoint": "tiny-x4", "scale": 5}, "4 times larger"),
        ("/upscale", {"checkpoint": "tiny-x4", "scale": 17}, "greater than maximum value 16"),
        ("/upscale", {"checkpoint": "tiny-other", "blend": 0.5}, "names no second network"),
        ("/upscale", {"checkpoint": "tiny-x4", "photo": None}, "There is no photo"),
        ("/upscale_compare", {"checkpoints": " , "}, "Name at least one network"),
        ("/upscale_compare", {"checkpoints": "a,b,c,d,e"}, "at most 4 networks"),
    ],
)
def test_bad_input_is_a_sentence(client, jpeg, endpoint, arguments, words):
    with pytest.raises(AppError) as error:
        client.predict(**{"photo": handle_file(jpeg), **arguments}, api_name=endpoint)
    assert words in str(error.value) and "Traceback" not in str(error.value)


def test_a_file_that_is_no_picture(client, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"no picture")
    with pytest.raises(AppError, match="no picture that can be read"):
        client.predict(photo=handle_file(tmp_path / "photo.png"), checkpoint="tiny-x4", api_name="/upscale")


def test_photos_leave_no_trace(app, client, jpeg):
    client.predict(photo=handle_file(jpeg), checkpoint="tiny-x4", api_name="/upscale")
    assert "my photo" not in app.log.read_text() and "my_photo" not in app.log.read_text()
    assert not list(app.temporary.glob("ganhub-*"))


def test_mcp_tools_return_pictures(app, jpeg):
    given = "data:image/jpeg;base64," + base64.b64encode(jpeg.read_bytes()).decode()
    asked = {
        "upscale_one": {"photo": given, "checkpoint": "tiny-x4"},
        "upscale_compare_sheet": {"photo": given, "checkpoints": "tiny-x4"},
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
            return tools, {name: await session.call_tool(name, how) for name, how in asked.items()}

    tools, answers = asyncio.run(talk())
    assert {"list_upscalers", *asked} <= set(tools) and "upscale" not in tools
    assert "24 megapixels" in tools["upscale_one"].inputSchema["properties"]["photo"]["description"]
    sizes = {}
    for name, answer in answers.items():
        found = [part for part in answer.content if part.type == "image"]
        assert len(found) == 1, answer.content
        with Image.open(io.BytesIO(base64.b64decode(found[0].data))) as picture:
            sizes[name] = picture.size
    assert sizes["upscale_one"] == (256, 192) and sizes["upscale_compare_sheet"][0] >= 3 * 256


def test_settings_are_compared_by_value():
    wanted = tab.Wanted("tiny-x4", ("tiny-x2",), scale=2.0)
    assert wanted == dataclasses.replace(wanted) and hash(wanted) == hash(dataclasses.replace(wanted))
