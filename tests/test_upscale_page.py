"""The super-resolution tab in a real browser: on a screen and on a phone, in light and in dark."""

import urllib.request
from contextlib import contextmanager

import pytest
from page_rig import CONTRAST, App, chromium, page_at
from PIL import Image
from upscale_rig import write_upscalers

from ganhub.imaging import read_provenance
from ganhub.tabs.upscale import EXAMPLES

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]

NOTE = "#upscale-note .progress"
PANES = "#upscale-panes figure"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    app = App(tmp_path_factory.mktemp("app"), write_upscalers(tmp_path_factory.mktemp("rows"))).wait()
    yield app
    app.stop()


@contextmanager
def opened(browser, app, width=1280, height=900, tiny=True, **how):
    """A page with two tiny networks compared."""
    with page_at(browser, f"{app.url}/?tab=upscale", width, height, **how) as page:
        page.wait_for_selector(f"{NOTE}:has-text('A first look.')")
        page.wait_for_selector(PANES)
        page.wait_for_timeout(800)
        if tiny:
            choose(page, "tiny-x4")
            if page.locator("#upscale-others .remove-all").count():
                page.click("#upscale-others .remove-all")
            with looking(page):
                page.fill("#upscale-others input", "tiny-other")
                page.get_by_role("option", name="Tiny-Other").last.click()
            page.keyboard.press("Escape")
        yield page


@contextmanager
def looking(page):
    """Until the region that follows is there."""
    page.evaluate("s => { document.querySelector(s).innerText = ''; }", NOTE)
    yield
    page.wait_for_selector(f"{NOTE}:has-text('The region in')")
    page.wait_for_timeout(500)


def drop(page, *files):
    with looking(page):
        page.set_input_files("#upscale-drop input[type=file]", files)


def choose(page, network):
    with looking(page):
        page.fill("#upscale-checkpoint input", network)
        page.get_by_role("option", name=network.title()).first.click()


def names(page):
    return page.locator(f"{PANES} b").all_inner_texts()


def shows(page, *wanted):
    """The panes are these, at the latest in a minute: what was chosen twice in a row is drawn twice."""
    page.wait_for_function(
        "([s, names]) => [...document.querySelectorAll(s)].map(e => e.innerText).join() === names.join()",
        arg=[f"{PANES} b", list(wanted)],
    )


def photo(folder, name="holiday.jpg", size=(300, 200)):
    Image.open(EXAMPLES["Cat"]).convert("RGB").resize(size).save(folder / name)
    return folder / name


def sources(page):
    return page.eval_on_selector_all(f"{PANES} img", "all => all.map(img => img.src)")


def test_a_picture_is_there_before_the_first_click(browser, app):
    with opened(browser, app, tiny=False) as page:
        found = names(page)
        assert found[0] == "Bicubic" and found[-1] == "Invented detail" and len(found) in (4, 5)
        assert f"Bicubic | {found[1]}" in page.inner_text("#upscale-divider")
        assert page.evaluate("document.querySelector('#upscale-divider img').naturalWidth") == 608
        assert "also commercial" in page.inner_text(".card:visible")
    with opened(browser, app) as page:
        shows(page, "Bicubic", "tiny-x4", "tiny-other", "Invented detail")
        assert "No conditions" in page.inner_text(".card:visible")


def test_drop_look_move_enlarge_and_download(browser, app, tmp_path):
    with opened(browser, app) as page:
        drop(page, photo(tmp_path))
        before = sources(page)
        page.evaluate("scrollTo(0, 0)")
        finder = page.locator(".finder").bounding_box()
        with looking(page):
            page.mouse.click(finder["x"] + 10, finder["y"] + 10)
        assert page.evaluate("document.querySelector('.frame').style.left") == "0%"
        assert not set(before) & set(sources(page)), "the region did not move"
        page.click("#upscale-run")
        page.wait_for_selector("#upscale-download:visible")
        assert "1200 × 800 pixels" in page.inner_text(NOTE)
        assert page.evaluate("document.querySelector('#upscale-whole img').naturalWidth") == 1200
        with page.expect_download() as download:
            page.click("#upscale-download")
        assert download.value.suggested_filename == "holiday_x4.jpg"
        download.value.save_as(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        assert image.format == "JPEG" and image.size == (1200, 800)
    assert read_provenance(tmp_path / "large.jpg")["checkpoint"] == "tiny-x4"


def test_one_magnifier_for_all(browser, app):
    """Moving over one shows the same place of all, a pixel of the picture on a pixel of the screen."""
    with opened(browser, app) as page:
        views = page.locator(".panes .view")
        area = views.nth(1).bounding_box()
        page.mouse.move(area["x"] + area["width"] * 0.75, area["y"] + area["height"] * 0.25)
        styles = page.eval_on_selector_all(".panes img", "all => all.map(img => img.style.cssText)")
        assert len(styles) == 4 and "translate" in styles[0]
        widths = page.eval_on_selector_all(".panes img", "all => all.map(i => i.getBoundingClientRect().width)")
        assert widths == [608] * 4
        shifts = page.eval_on_selector_all(
            ".panes .view",
            "all => all.map(v => v.firstChild.getBoundingClientRect().left - v.getBoundingClientRect().left)",
        )
        assert all(abs(shift - 0.75 * (area["width"] - 608)) < 1 for shift in shifts)
        page.mouse.move(5, 5)
        assert set(page.eval_on_selector_all(".panes img", "all => all.map(i => i.style.cssText)")) == {""}


def test_the_magnifier_on_a_phone(browser, app):
    with opened(browser, app, width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2) as page:
        view = page.locator(".panes .view").nth(1)
        view.scroll_into_view_if_needed()
        view.tap()
        assert page.evaluate("document.querySelector('.panes').classList.contains('pinned')")
        assert page.evaluate("document.querySelector('.panes img').getBoundingClientRect().width") == 304
        view.tap()
        assert not page.evaluate("document.querySelector('.panes').classList.contains('near')")


def test_small_first_is_measured(browser, app):
    with opened(browser, app) as page:
        with looking(page):
            page.click("#upscale-small input")
        shows(page, "Bicubic", "tiny-x4", "tiny-other", "Your photo", "Invented detail")
        assert "SSIM as Wang et al." in page.inner_text(".figures")
        assert "ganhub pull lpips-alex" in page.inner_text("#upscale-figures")


def test_choosing_networks(browser, app):
    with opened(browser, app) as page:
        choose(page, "tiny-x2")
        shows(page, "Bicubic", "tiny-x2", "tiny-other", "Invented detail")
        assert "Tiny-X2" in page.inner_text(".card h3:visible")
        page.click("#upscale-more button")
        assert not page.is_visible("#upscale-blend")


def test_what_is_not_here_is_fetched_by_a_click_only(browser, app):
    with opened(browser, app) as page:
        page.fill("#upscale-checkpoint input", "away")
        page.get_by_role("option", name="Away").first.click()
        page.wait_for_selector(f"{NOTE}:has-text('Enlarge fetches Away (5 MB) first')")
        page.wait_for_timeout(500)
        shows(page, "Bicubic", "tiny-other")


def test_several_files_are_one_zip(browser, app, tmp_path):
    with opened(browser, app) as page:
        drop(page, photo(tmp_path, "one.png", (60, 40)), photo(tmp_path, "two.png", (50, 50)))
        page.click("#upscale-run")
        page.wait_for_selector("#upscale-download:visible")
        assert "2 photos" in page.inner_text(NOTE)
        assert "Download enlarged.zip" in page.inner_text("#upscale-download")
        assert not page.is_visible("#upscale-whole")


def test_bad_input_is_a_sentence_and_loses_nothing(browser, app, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    with opened(browser, app) as page:
        before = sources(page)
        page.set_input_files("#upscale-drop input[type=file]", tmp_path / "broken.png")
        page.wait_for_selector(".toast-body:has-text('no picture that can be read')")
        page.wait_for_selector("#upscale-drop:has-text('Drop')")
        assert sources(page) == before
        drop(page, photo(tmp_path))
        page.click("#upscale-more button")
        page.wait_for_timeout(600)
        page.fill("#upscale-scale :is(input, textarea)", "9")
        page.locator("#upscale-scale :is(input, textarea)").blur()
        page.wait_for_selector(f"{NOTE}.failed:has-text('4 times larger at most')")


def test_stop_stops(browser, app, tmp_path):
    with opened(browser, app) as page:
        drop(page, photo(tmp_path, size=(4000, 3000)))
        page.click("#upscale-run")
        page.wait_for_selector(f"{NOTE}:has-text('tiles')")
        page.click("#upscale-stop:not([disabled])")
        page.wait_for_selector(f"{NOTE}:has-text('Stopped')", timeout=30_000)
        assert not page.is_visible("#upscale-download")
        page.wait_for_function("!document.querySelector('#status').innerText.includes('waiting')")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(browser, app, width, colours):
    with opened(browser, app, width=width, height=844, color_scheme=colours) as page:
        page.click("#upscale-more button")
        with looking(page):
            page.click("#upscale-small input")
        page.click("#upscale-run")
        page.wait_for_selector("#upscale-download:visible")
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        poor = [(round(ratio, 2), text) for ratio, least, text in page.evaluate(CONTRAST) if ratio < least]
        assert not poor
        page.evaluate("scrollTo(0, 0)")
        if width == 390:
            assert page.locator("#upscale-run").bounding_box()["y"] < 844, "no button on the first screen of a phone"


def test_files_of_the_page_are_its_own(browser, app):
    with opened(browser, app) as page:
        assert all("/gradio_api/file=" in source for source in sources(page))
        data = urllib.request.urlopen(sources(page)[1]).read()
        assert data.startswith(b"\x89PNG") and b"tiny-x4" in data
