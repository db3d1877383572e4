"""The Faces tab in a real browser: on a screen and on a phone, with a camera, and without a trace."""

import time
from contextlib import contextmanager

import pytest
from faces_rig import astronaut, crowd, noise, write_agers
from page_rig import CONTRAST, App, chromium, launched, page_at
from privacy_rig import MarkedPhoto

from ganhub.imaging import read_provenance

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]

NOTE = "#faces-note .progress"
FRAMES = "#faces-people polygon.found"
CROP = "#faces-crop img"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    app = App(tmp_path_factory.mktemp("app"), write_agers(tmp_path_factory.mktemp("rows"))).wait()
    yield app
    app.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with launched(tmp_path_factory.mktemp("profile"), *CAMERA) as browser:
        yield browser


@contextmanager
def opened(browser, app, width=1280, height=900, agreed=True, network="Tiny-Both", **how):
    """A page with a tiny network chosen."""
    with page_at(browser, f"{app.url}/?tab=faces", width, height, **how) as page:
        page.wait_for_selector(f"{NOTE}:has-text('A first look.')")
        page.wait_for_selector(CROP)
        page.fill("#faces-checkpoint input", network.lower())
        page.get_by_role("option", name=network).first.click()
        page.wait_for_selector(f"#tab-faces-button, .card h3:has-text('{network}')")
        page.wait_for_selector(f".card h3:has-text('{network}')")
        if agreed:
            page.check("#faces-consent input")
            page.wait_for_selector("#faces-drop input[type=file]", state="attached")
        yield page


def drop(page, file, words):
    page.set_input_files("#faces-drop input[type=file]", file)
    page.wait_for_selector(f"{NOTE}:has-text('{words}')")


def run(page, button="#faces-run", words="Done in"):
    page.evaluate("s => { document.querySelector(s).innerText = ''; }", NOTE)
    page.click(button)
    page.wait_for_selector(f"{NOTE}:has-text('{words}')")


def another(page, selector, action):
    """Does something after which a picture is another one."""
    before = page.get_attribute(selector, "src") if page.locator(selector).count() else None
    action()
    page.wait_for_function(
        "([s, old]) => { const src = document.querySelector(s)?.getAttribute('src'); return src && src !== old; }",
        arg=[selector, before],
    )


def test_without_consent_there_is_no_place_to_drop(browser, app):
    with opened(browser, app, agreed=False) as page:
        assert not page.is_visible("#faces-drop")
        assert "Nothing of it is kept" in page.inner_text("#faces-consent")
        page.check("#faces-consent input")
        page.wait_for_selector("#faces-drop", state="visible")
        page.uncheck("#faces-consent input")
        page.wait_for_selector("#faces-drop", state="hidden")


def test_several_faces_one_by_hand_and_none(browser, app, tmp_path):
    crowd(3).save(tmp_path / "three.png")
    noise().save(tmp_path / "none.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with opened(browser, app) as page:
        another(page, CROP, lambda: drop(page, tmp_path / "three.png", "3 faces found"))
        assert page.locator(FRAMES).count() == 3 and page.locator("polygon.chosen").count() == 1
        another(page, CROP, lambda: page.locator("polygon.found:not(.chosen)").first.click())
        page.wait_for_selector("polygon.chosen[aria-pressed=true]")
        page.check("#faces-every input")
        page.wait_for_function("document.querySelectorAll('polygon.chosen').length === 3")
        run(page)
        page.check("#faces-hand input")
        page.wait_for_selector("polygon.hand")
        board = page.locator(".people").bounding_box()
        before = page.get_attribute("polygon.hand", "points")
        another(page, CROP, lambda: page.mouse.click(board["x"] + board["width"] / 5, board["y"] + board["height"] / 2))
        assert page.get_attribute("polygon.hand", "points") != before
        another(page, CROP, lambda: (page.focus("polygon.hand"), page.keyboard.press("ArrowRight")))
        page.set_input_files("#faces-drop input[type=file]", tmp_path / "broken.jpg")
        page.wait_for_selector(f"{NOTE}.failed:has-text('no picture that can be read')")
        assert page.locator("polygon.hand").count() == 1, "the photo before is lost"
        assert "broken" not in app.log.read_text()
        drop(page, tmp_path / "none.png", "There is no face that is found")
        page.wait_for_selector("polygon.hand")
        assert page.is_checked("#faces-hand input") and page.is_visible("#faces-turn")
        run(page)


def test_the_camera(browser, app):
    """A selfie reaches the app as a dropped photo does; Chromium's test picture has no face."""
    with opened(browser, app, complain=False) as page:  # it asks how far an upload without a number is
        page.click("#faces-drop button[aria-label='Capture from camera']")
        page.get_by_text("Click to Access Webcam").click()
        page.wait_for_function("document.querySelector('#faces-drop video')?.videoWidth > 0")
        page.locator("#faces-drop .button-wrap button").first.click()
        page.wait_for_selector(f"{NOTE}:has-text('There is no face that is found')")
        page.wait_for_selector(".people img", state="visible")


def test_older_through_the_ages_and_deleted(browser, app, tmp_path):
    """All that the page does is done to a marked photo; then neither the disk nor the log knows of it."""
    photo, places = MarkedPhoto(tmp_path), (app.home, app.temporary, app.log.parent)
    with opened(browser, app) as page:
        others = set(app.home.glob("page/*/faces/*"))
        another(page, CROP, lambda: drop(page, photo.file, "One face found"))
        run(page)
        page.wait_for_selector("#faces-download:visible")
        assert page.is_visible("#faces-divider img") and page.is_visible("#faces-aged img")
        with page.expect_download() as download:
            page.click("#faces-download")
        assert download.value.suggested_filename == "tiny-both_older.png"
        download.value.save_as(tmp_path / "older.png")
        run(page, "#faces-through", "pictures and a video")
        page.wait_for_selector("#faces-strip img")
        page.wait_for_selector("#faces-video video")
        end = time.monotonic() + 60
        while list(app.home.rglob(f"*{photo.word}*")) and time.monotonic() < end:  # the dropped file goes by itself
            time.sleep(0.2)
        left = photo.traces(*places)
        assert left and all("/faces/" in trace and trace.endswith("its pixels") for trace in left), left
        page.click("button:has-text('How it is found')")
        page.fill("#faces-find-steps input[type=number]", "20")
        page.click("#faces-find")
        page.wait_for_selector("#faces-now img")
        page.wait_for_selector("#faces-save:visible")
        assert set(app.home.glob("page/*/faces/*")) - others
        page.click("#faces-delete")
        page.wait_for_selector(f"{NOTE}:has-text('Your photos are deleted')")
        assert not set(app.home.glob("page/*/faces/*")) - others
        page.wait_for_selector("#faces-now img", state="detached")
        page.wait_for_selector(".people", state="hidden")
        assert not page.is_visible("#faces-divider") and not page.is_visible("#faces-download")
        assert photo.traces(*places) == []
        page.click("#faces-run")
        page.wait_for_selector(f"{NOTE}.failed:has-text('no photo of yours here')")
    assert photo.traces(*places) == []
    about = read_provenance(tmp_path / "older.png")
    assert about["generated"] is True and photo.word.encode() not in (tmp_path / "older.png").read_bytes()


def test_a_network_with_real_ages(browser, app):
    with opened(browser, app, network="Tiny-Years") as page:
        page.wait_for_selector("#faces-years", state="visible")
        assert not page.is_visible("#faces-direction")
        page.locator("#faces-examples .thumbnail-item").nth(1).click()
        page.wait_for_selector(f"{NOTE}:has-text('One face found')")
        page.click("#faces-more button")
        assert page.input_value("#faces-source :is(input, textarea)") == "40"
        run(page)
        assert "years were taken" not in page.inner_text("#faces-notes")
        page.click("#faces-how input")
        page.get_by_role("option", name="68 landmarks").click()
        page.wait_for_selector(f"{NOTE}.failed")
        assert page.is_visible(".people img"), "the photo is lost"


@pytest.mark.parametrize("width, colours", [(1280, "light"), (390, "dark")])
def test_it_fits_and_can_be_read(browser, app, width, colours, tmp_path):
    astronaut().save(tmp_path / "me.jpg")
    with opened(browser, app, width=width, height=844, color_scheme=colours) as page:
        page.evaluate("scrollTo(0, 0)")
        if width == 390:
            assert page.locator("#faces-run").bounding_box()["y"] < 844, "no button on the first screen of a phone"
        another(page, CROP, lambda: drop(page, tmp_path / "me.jpg", "One face found"))
        page.check("#faces-hand input")
        page.wait_for_selector("polygon.hand")
        page.click("#faces-more button")
        run(page)
        if width == 390:
            run(page, "#faces-through", "pictures and a video")
            page.wait_for_selector("#faces-strip img")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        poor = [(round(ratio, 2), text) for ratio, least, text in page.evaluate(CONTRAST) if ratio < least]
        assert not poor
