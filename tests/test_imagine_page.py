"""The text-to-image tab in a real browser: on a screen and on a phone, in light and in dark."""

import json
import urllib.request
from contextlib import contextmanager

import pytest
from imagine_rig import write_imaginers
from page_rig import CONTRAST, App, chromium, page_at

from ganhub.imaging import read_provenance
from ganhub.latents import load_latents

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("open_clip", reason="needs the extra `clip`")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]

NOTE = "#imagine-note .progress"
TEXT = "#imagine-text textarea, #imagine-text input"
PICTURES = "#imagine-gallery .thumbnail-item img"
FORMED = "#imagine-formed figure img"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    app = App(tmp_path_factory.mktemp("app"), write_imaginers(tmp_path_factory.mktemp("rows"))).wait()
    yield app
    app.stop()


@contextmanager
def opened(browser, app, width=1280, height=900, **how):
    """A page, with the tiny networks chosen."""
    with page_at(browser, f"{app.url}/?tab=imagine", width, height, patience=90, **how) as page:
        page.wait_for_selector(f"{NOTE}:has-text('A first look.')")
        page.wait_for_selector(PICTURES)
        page.wait_for_timeout(800)
        choose(page, "tiny-painter")
        yield page


def choose(page, network):
    page.fill("#imagine-checkpoint input", network)
    page.get_by_role("option", name=network.title()).first.click()
    page.wait_for_selector(f"#imagine-needs:has-text('{network.title()}')")
    page.wait_for_timeout(300)


def way(page, name, network):
    page.locator("#imagine-way label").filter(has_text=name).click()
    page.wait_for_selector("#imagine-needs:has-text(' with ')")
    page.wait_for_timeout(500)
    choose(page, network)


def settled(page):
    page.wait_for_function("document.querySelector('#imagine-stop').disabled")
    page.wait_for_selector(f"{NOTE}.done, {NOTE}.failed")
    page.wait_for_timeout(600)


def run(page, button="#imagine-run"):
    page.evaluate("s => { document.querySelector(s).dataset.old = 'yes' }", NOTE)
    page.click(button)
    page.wait_for_selector(f"{NOTE}:not([data-old])")
    settled(page)


def captions(page):
    return page.locator("#imagine-gallery .caption-label").all_inner_texts()


def about(page, tmp_path, place=0):
    source = page.locator(PICTURES).nth(place).get_attribute("src")
    (tmp_path / "shown.png").write_bytes(urllib.request.urlopen(source).read())
    return read_provenance(tmp_path / "shown.png")


def test_a_sentence_becomes_pictures(browser, app, tmp_path):
    with opened(browser, app) as page:
        page.fill(TEXT, "a purple pear")
        run(page)
        assert captions(page) == ["seed 0", "seed 1", "seed 2", "seed 3"]
        assert "4 pictures in" in page.inner_text(NOTE)
        told = about(page, tmp_path, 2)
        assert told["text"] == "a purple pear" and told["seed"] == 2 and told["checkpoint"] == "tiny-painter"
        assert page.locator("#imagine-formed figcaption").all_inner_texts() == ["8 px", "16 px", "32 px"]
        assert "a purple pear" in page.inner_text("#imagine-reading")
        page.click("#imagine-gallery .thumbnail-item >> nth=2")
        page.wait_for_selector("#imagine-formed h3:has-text('seed 2')")
        page.keyboard.press("Escape")
        run(page, "#imagine-vary")
        assert captions(page) == ["seed 2", "seed 3", "seed 4", "seed 5"]
        assert "s" in page.inner_text("#imagine-way label >> nth=0")


def test_chips_write_and_draw(browser, app, tmp_path):
    with opened(browser, app) as page:
        page.click("#imagine-chips button:text-is('a purple plum')")
        page.wait_for_function("document.querySelector('#imagine-reading').innerText.includes('a purple plum')")
        settled(page)
        assert about(page, tmp_path)["text"] == "a purple plum"
        page.click("#imagine-chips button:text-is('blue')")
        page.wait_for_function("document.querySelector('#imagine-text textarea').value === 'a blue plum'")
        page.click("#imagine-chips button:text-is('apple')")
        page.wait_for_function("document.querySelector('#imagine-text textarea').value === 'a blue apple'")
        assert about(page, tmp_path)["text"] == "a purple plum", "a word alone draws nothing"


def test_guided_forms_before_one_s_eyes(browser, app, tmp_path):
    with opened(browser, app) as page:
        way(page, "Guided", "tiny-style")
        page.fill("#imagine-seeds textarea, #imagine-seeds input", "4-5")
        run(page)
        assert [caption.split(" · ")[0] for caption in captions(page)] == ["seed 4", "seed 5"]
        assert page.locator(FORMED).count() == 9 and page.locator("#imagine-formed polyline.own").count() == 1
        assert "60 of 60 steps" in page.inner_text("#imagine-formed")
        assert about(page, tmp_path)["way"] == "guided"
        assert "about" not in page.locator("#imagine-way label").nth(1).inner_text().split("\n")[0]
        with page.expect_download() as download:
            page.click("#imagine-latents")
        download.value.save_as(tmp_path / "kept.npz")
        latents = load_latents(tmp_path / "kept.npz")
        assert latents.seeds == (4, 5) and latents.checkpoint == "tiny-style"
        run(page, "#imagine-vary")
        told = about(page, tmp_path, 1)
        assert told["start"] and told["noise_weight"] > 0 and told["seed"] == 5
        page.click("#imagine-file button")
        page.set_input_files("#imagine-drop input[type=file]", tmp_path / "kept.npz")
        page.wait_for_selector(f"{NOTE}:has-text('start from the latent')")
        run(page)
        assert about(page, tmp_path)["start"] == latents.digest()


@pytest.mark.skip(reason="races with the end of the run on a loaded machine; test_imagine_tab.py stops runs as well")
def test_stop_keeps_what_is_there(browser, app, tmp_path):
    with opened(browser, app) as page:
        way(page, "Guided", "tiny-style")
        page.click("#imagine-more button")
        page.fill("#imagine-steps input[type=number]", "300")
        page.locator("#imagine-steps input[type=number]").blur()
        page.fill("#imagine-seeds textarea, #imagine-seeds input", "0-7")
        page.click("#imagine-run")
        page.wait_for_selector("#imagine-formed polyline.own")
        page.click("#imagine-stop:not([disabled])")
        page.wait_for_selector(f"{NOTE}:has-text('Stopped')", timeout=30_000)
        settled(page)
        told = about(page, tmp_path)
        assert 0 < told["step"] < 300
        with page.expect_download() as download:
            page.click("#imagine-latents")
        download.value.save_as(tmp_path / "stopped.npz")
        assert len(load_latents(tmp_path / "stopped.npz")) == len(captions(page))
        page.wait_for_function("!document.querySelector('#status').innerText.includes('waiting')")


def test_instant_and_its_strength(browser, app, tmp_path):
    with opened(browser, app) as page:
        way(page, "Instant", "tiny-style")
        run(page)
        assert about(page, tmp_path)["strength"] == 2
        before = page.locator(PICTURES).first.get_attribute("src")
        slider = page.locator("#imagine-strength input[type=range]").bounding_box()
        page.mouse.click(slider["x"] + slider["width"] * 0.9, slider["y"] + slider["height"] / 2)
        page.wait_for_function("([s, b]) => document.querySelector(s).src !== b", arg=[PICTURES, before])
        settled(page)
        assert about(page, tmp_path)["strength"] > 6


def test_from_one_sentence_to_another(browser, app):
    with opened(browser, app) as page:
        page.click("#imagine-between button")
        page.fill("#imagine-to textarea, #imagine-to input", "a green lemon")
        run(page, "#imagine-film")
        page.wait_for_function("document.querySelector('#imagine-video video')?.readyState >= 2")
        assert abs(page.evaluate("document.querySelector('#imagine-video video').duration") - 2) < 0.2
        assert "60 frames" in page.inner_text(NOTE)
        run(page)
        assert not page.is_visible("#imagine-video video")


def test_a_dropped_picture_sets_every_control(browser, app, tmp_path):
    with opened(browser, app) as page:
        way(page, "Instant", "tiny-style")
        page.fill(TEXT, "a yellow plum")
        run(page)
        source = page.locator(PICTURES).nth(3).get_attribute("src")
        kept = urllib.request.urlopen(source).read()
        (tmp_path / "kept.png").write_bytes(kept)
    with opened(browser, app) as page:
        page.click("#imagine-file button")
        page.set_input_files("#imagine-drop input[type=file]", tmp_path / "kept.png")
        page.wait_for_selector(f"{NOTE}:has-text('are back')")
        page.wait_for_timeout(600)
        assert page.input_value(TEXT) == "a yellow plum" and page.is_visible("#imagine-strength")
        run(page)
        assert captions(page)[0].startswith("seed 3")
        again = urllib.request.urlopen(page.locator(PICTURES).first.get_attribute("src")).read()
        (tmp_path / "again.png").write_bytes(again)
        first, second = (read_provenance(tmp_path / name) for name in ("kept.png", "again.png"))
        assert json.dumps(first) == json.dumps(second)


@pytest.mark.parametrize(
    "text, told",
    [("", "Write a sentence"), ("?!", "Write a sentence"), ("a" * 600, "at most 500"), ("gore", "does not draw that")],
)
def test_sentences_that_are_refused(browser, app, text, told):
    with opened(browser, app) as page:
        page.fill(TEXT, text)
        page.click("#imagine-run")
        page.wait_for_selector(f"{NOTE}.failed:has-text('{told}')")
        assert len(captions(page)) == 4, "the pictures are gone"
        page.fill(TEXT, "a red apple")
        run(page)
        assert "4 pictures" in page.inner_text(NOTE)


@pytest.mark.parametrize("text", ["两个红苹果", "🍎🍐", "تفاحة", "<script>alert(1)</script>", "{{7*7}}"])
def test_strange_sentences_become_pictures(browser, app, text):
    with opened(browser, app) as page:
        page.fill(TEXT, text)
        run(page)
        assert "4 pictures" in page.inner_text(NOTE)
        assert text in page.inner_text("#imagine-reading")
        assert "expect a surprise" in page.inner_text("#imagine-reading")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(browser, app, width, colours):
    with opened(browser, app, width=width, height=844, color_scheme=colours) as page:
        way(page, "Guided", "tiny-style")
        run(page)
        for part in ("more", "between", "file"):
            page.click(f"#imagine-{part} button")
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        poor = [(round(ratio, 2), text) for ratio, least, text in page.evaluate(CONTRAST) if ratio < least]
        assert not poor
        page.evaluate("scrollTo(0, 0)")
        if width == 390:
            assert page.locator("#imagine-run").bounding_box()["y"] < 844
            assert page.locator(PICTURES).first.bounding_box()["y"] < 844, "no picture on the first screen of a phone"
