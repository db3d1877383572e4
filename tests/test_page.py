"""The page in a real browser: what a visitor sees, on a screen and on a phone, in light and in dark."""

import urllib.request
from contextlib import contextmanager
from urllib.parse import parse_qs, urlparse

import pytest
from page_rig import CONTRAST, App, chromium, page_at
from tiny import write_registry

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]

SEEDS = "#generate-seeds textarea, #generate-seeds input"
PICTURES = "#generate-gallery .thumbnail-item img"
NOTE = "#generate-note .progress"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    app = App(tmp_path_factory.mktemp("app"), write_registry(tmp_path_factory.mktemp("rows"))).wait()
    yield app
    app.stop()


@contextmanager
def opened(browser, app, query="?checkpoint=tiny&seeds=0-3&psi=0.7", width=1280, height=900, **how):
    """A page with pictures on it."""
    with page_at(browser, f"{app.url}/{query}", width, height, **how) as page:
        page.wait_for_selector(PICTURES)
        settled(page)
        yield page


def settled(page):
    """Nothing is under way, and the small events that follow have had their time."""
    page.wait_for_function("document.querySelector('#generate-stop').disabled")
    page.wait_for_selector(f"{NOTE}.done, {NOTE}.failed")
    page.wait_for_timeout(800)


def generate(page):
    note = page.inner_text(NOTE)
    page.click("#generate-run")
    page.wait_for_function("([s, t]) => document.querySelector(s)?.innerText !== t", arg=[NOTE, note])
    settled(page)


def captions(page):
    return page.locator("#generate-gallery .caption-label").all_inner_texts()


def test_something_is_there_before_the_first_click(browser, app):
    with opened(browser, app, query="") as page:
        assert len(captions(page)) == 8 and captions(page)[0] == "seed 0"
        assert "A first look" in page.inner_text(NOTE)
        alt = page.get_attribute(PICTURES, "alt")
        assert alt and "seed 0" in alt
        assert "AI-generated" in page.inner_text("#notice")
        assert "CPU" in page.inner_text("#status")


def test_pictures_then_use_this_seed(browser, app):
    with opened(browser, app) as page:
        page.fill(SEEDS, "3, 5-6")
        page.locator(SEEDS).blur()
        generate(page)
        assert captions(page) == ["seed 3", "seed 5", "seed 6"]
        assert page.input_value("#generate-count input") == "3"
        assert parse_qs(urlparse(page.url).query)["seeds"] == ["3, 5-6"]
        page.click("#generate-gallery .thumbnail-item >> nth=1")
        page.wait_for_function("document.querySelector('#generate-use').innerText === 'Use seed 5'")
        page.click("#generate-use")
        page.wait_for_function("s => document.querySelector(s).value === '5'", arg=SEEDS)
        generate(page)
        assert captions(page) == ["seed 5"]


def test_a_quick_visitor_keeps_his_choice(browser, app):
    """What is chosen while the page still fits its controls to the network is not taken back."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(app.url)
    page.get_by_label("Video", exact=True).check()
    page.wait_for_selector(PICTURES)
    settled(page)
    page.wait_for_timeout(1500)
    assert page.get_by_label("Video", exact=True).is_checked()
    context.close()


def test_random_seeds_are_written_back(browser, app):
    with opened(browser, app) as page:
        page.click("#generate-random")
        page.wait_for_function("s => document.querySelector(s).value !== '0-3'", arg=SEEDS)
        page.wait_for_function("document.querySelector('#generate-gallery .caption-label').innerText !== 'seed 0'")
        settled(page)
        written = page.input_value(SEEDS).replace(" ", "").split(",")
        assert [caption.removeprefix("seed ") for caption in captions(page)] == written and len(written) == 4


def test_a_link_brings_everything_back(browser, app):
    with opened(browser, app, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.fill(SEEDS, "8-9")
        page.get_by_label("Truncation", exact=True).check()
        page.get_by_label("Truncation of each column").fill("0, 1")
        generate(page)
        assert captions(page) == ["seed 8, psi 0", "seed 8, psi 1", "seed 9, psi 0", "seed 9, psi 1"]
        page.click("#generate-link")
        page.wait_for_timeout(300)
        link = page.evaluate("navigator.clipboard.readText()")
    with opened(browser, app, query=link.removeprefix(app.url + "/")) as page:
        assert captions(page) == ["seed 8, psi 0", "seed 8, psi 1", "seed 9, psi 0", "seed 9, psi 1"]
        assert page.get_by_label("Truncation", exact=True).is_checked()


def test_sliders_move_every_picture(browser, app):
    query = "?checkpoint=stylegan2-portraits&seeds=0-1&psi=0.7"
    with opened(browser, app, query=query) as page:
        before = page.locator(PICTURES).first.get_attribute("src")
        page.click("#generate-directions button")
        slider = page.locator("#generate-direction-0 input[type=range]")
        assert page.locator("#generate-direction-0").inner_text().startswith("Smile")
        slider.focus()
        note = page.inner_text(NOTE)
        for _ in range(10):
            slider.press("ArrowRight")
        page.locator("#generate-direction-0 input[type=number]").fill("2")
        page.locator("#generate-direction-0 input[type=number]").press("Enter")
        page.wait_for_function("([s, t]) => document.querySelector(s)?.innerText !== t", arg=[NOTE, note])
        settled(page)
        assert page.locator(PICTURES).first.get_attribute("src") != before
        assert parse_qs(urlparse(page.url).query)["moves"] == ["direction-portraits-smile=2"]
        link = page.url.removeprefix(app.url + "/")
    with opened(browser, app, query=link) as page:
        number = page.locator("#generate-direction-0 input[type=number]")
        assert number.is_visible() and number.input_value() == "2"
        note = page.inner_text(NOTE)
        page.click("#generate-directions-still")
        page.wait_for_function("([s, t]) => document.querySelector(s)?.innerText !== t", arg=[NOTE, note])
        settled(page)
        assert number.input_value() == "0" and "moves" not in parse_qs(urlparse(page.url).query)
        page.get_by_label("Video", exact=True).check()
        page.wait_for_selector("#generate-directions", state="hidden")


def test_a_wrong_address_does_no_harm(browser, app):
    query = "?tab=%3Cscript%3E&checkpoint=../../etc&seeds=9-1&psi=1e99&make=tea&label=x&frames=-1"
    with opened(browser, app, query=query) as page:
        assert captions(page)[0] == "seed 0"


def test_bad_input_loses_nothing(browser, app):
    with opened(browser, app) as page:
        page.fill(SEEDS, "7-3")
        generate(page)
        assert page.inner_text(NOTE) == "The range 7-3 runs backwards; write it as 3-7."
        assert len(captions(page)) == 4, "the pictures are gone"
        assert page.input_value(SEEDS) == "7-3"
        page.fill(SEEDS, "3-7")
        generate(page)
        assert len(captions(page)) == 5


def test_style_mix_and_video(browser, app):
    with opened(browser, app) as page:
        page.get_by_label("Style mix", exact=True).check()
        page.fill("#generate-cols textarea, #generate-cols input", "7")
        page.fill("#generate-layers textarea, #generate-layers input", "0-2")
        generate(page)
        assert captions(page) == ["0 × 7", "1 × 7", "2 × 7", "3 × 7"]
        assert page.is_visible("#generate-sheet img")
        page.get_by_label("Video", exact=True).check()
        page.wait_for_selector("text=Frames from seed to seed")
        generate(page)
        page.wait_for_function("document.querySelector('#generate-video video')?.readyState >= 2")
        assert page.evaluate("document.querySelector('#generate-video video').videoWidth") >= 32
        assert abs(page.evaluate("document.querySelector('#generate-video video').duration") - 4) < 0.2
        assert page.is_visible("#generate-sheet img"), "no strip"
        assert not page.is_visible("#generate-gallery")


def test_stop_stops(browser, app):
    with opened(browser, app, query="?checkpoint=tiny&seeds=0-2&make=interpolate&frames=240&loop=true") as page:
        page.click("#generate-run")
        page.wait_for_selector(f"{NOTE}:has-text('of 720')")
        page.click("#generate-stop:not([disabled])")
        page.wait_for_selector(f"{NOTE}:has-text('Stopped')", timeout=30_000)
        settled(page)
        assert "Stopped" in page.inner_text(NOTE)
        assert not page.is_visible("#generate-video video")
        page.wait_for_function("!document.querySelector('#status').innerText.includes('waiting')")
        generate(page)
        assert "720 frames" in page.inner_text(NOTE)


def test_a_dropped_file_sets_every_control(browser, app, tmp_path):
    with opened(browser, app, query="?checkpoint=tiny-classes&label=2&seeds=4-5&psi=0.5&noise_mode=random") as page:
        source = page.get_attribute(f"{PICTURES} >> nth=1", "src")
        (tmp_path / "kept.png").write_bytes(urllib.request.urlopen(source).read())
        with page.expect_download() as download:
            page.click("#generate-latents")
        download.value.save_as(tmp_path / "kept.npz")
        before = page.evaluate("s => document.querySelector(s).src", PICTURES)
    with opened(browser, app) as page:
        page.click("#generate-file button")
        page.set_input_files("#generate-drop input[type=file]", tmp_path / "kept.png")
        page.wait_for_selector(f"{NOTE}:has-text('are back')")
        page.wait_for_timeout(800)
        assert page.input_value(SEEDS) == "5"
        assert page.input_value("#generate-checkpoint input").startswith("Tiny-Classes")
        assert page.input_value("#generate-class input") == "cat"
        assert page.input_value("#generate-psi input[type=number]") == "0.5"
        generate(page)
        again = page.get_attribute(PICTURES, "src")
        assert urllib.request.urlopen(again).read() == (tmp_path / "kept.png").read_bytes()

        page.click("#generate-drop button[aria-label*='emove'], #generate-drop button[aria-label='Clear']")
        page.set_input_files("#generate-drop input[type=file]", tmp_path / "kept.npz")
        page.wait_for_selector("text=2 latents")
        generate(page)
        assert len(captions(page)) == 2
        page.get_by_role("button", name="Back to seeds").click()
        page.wait_for_selector("text=2 latents", state="hidden")

        (tmp_path / "foreign.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
        page.click("#generate-drop button[aria-label*='emove'], #generate-drop button[aria-label='Clear']")
        page.set_input_files("#generate-drop input[type=file]", tmp_path / "foreign.png")
        page.wait_for_selector(".toast-body:has-text('foreign.png')")
        assert len(captions(page)) == 2, "the pictures are gone"
    assert before


def test_what_a_network_cannot_do_is_not_offered(browser, app):
    with opened(browser, app, query="?checkpoint=tiny-grey&seeds=0-1&psi=0.5&make=mix") as page:
        assert captions(page) == ["seed 0", "seed 1"]
        assert page.get_by_label("Style mix", exact=True).count() == 0
        assert not page.is_visible("#generate-psi")
        assert "no truncation and no styles" in page.inner_text("#generate-make")


def test_choosing_a_checkpoint_shows_its_card(browser, app):
    with opened(browser, app) as page:
        page.fill("#generate-checkpoint input", "classes")
        page.get_by_role("option", name="Tiny-Classes").click()
        page.wait_for_selector(".card h3:has-text('Tiny-Classes')")
        page.wait_for_selector(".card .chips:has-text('3 classes')")
        assert "also commercial" in page.inner_text(".card .licence")
        assert page.input_value("#generate-class input") == "ant"


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(browser, app, width, colours):
    with opened(browser, app, width=width, height=844, color_scheme=colours) as page:
        page.click("#generate-more button")
        page.click(".card summary")
        page.get_by_label("Style mix", exact=True).check()
        page.wait_for_selector("text=In the style of these seeds")
        generate(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.classList.contains('dark')") == (colours == "dark")
        found = page.evaluate(CONTRAST)
        assert len(found) > 40
        poor = [(round(ratio, 2), text) for ratio, least, text in found if ratio < least]
        assert not poor
        if width == 390:
            first = page.locator(PICTURES).first.bounding_box()
            assert first["y"] < 844, "no picture on the first screen of a phone"
