"""The Directions tab in a browser: labels by the arrow keys, a slider by the keyboard, and whether it can be read."""

import re
from contextlib import contextmanager

import pytest
from page_rig import CONTRAST, App, chromium, page_at

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]

PICTURE = "#directions-picture img"
SHOWN = "#directions-shown img"

REDNESS = """
async (selector) => {
  const image = document.querySelector(selector);
  await image.decode();
  const canvas = document.createElement('canvas');
  const {width, height} = Object.assign(canvas, {width: image.naturalWidth, height: image.naturalHeight});
  const paint = canvas.getContext('2d');
  paint.drawImage(image, 0, 0);
  const data = paint.getImageData(width / 4, height / 4, width / 2, height / 2).data;
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum += data[i] - data[i + 1];
  return sum / (data.length / 4);
}
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    rows = tmp_path_factory.mktemp("rows") / "rows.yaml"
    rows.write_text("[]")
    app = App(tmp_path_factory.mktemp("app"), rows).wait()
    yield app
    app.stop()


@contextmanager
def opened(browser, app, width=1280, **how):
    """A page with the fruit's directions, and the picture of the first one."""
    with page_at(browser, f"{app.url}/?tab=directions", width, 900, **how) as page:
        page.wait_for_selector(PICTURE)
        page.fill("#directions-checkpoint input", "fruit")
        page.get_by_role("option", name="Fruit watercolours, StyleGAN2").click()
        page.wait_for_function("document.querySelector('#directions-direction input').value == 'Cut open'")
        page.wait_for_timeout(1000)
        yield page


def other_than(page, selector, source):
    """Waits until an image shows something else."""
    page.wait_for_function("([s, t]) => (document.querySelector(s)?.src ?? t) !== t", arg=[selector, source])
    return page.get_attribute(selector, "src")


def test_a_slider_moves_the_picture_by_the_keyboard(browser, app):
    with opened(browser, app) as page:
        first = page.get_attribute(PICTURE, "src")
        slider = page.locator("#directions-strength input[type=range]")
        slider.focus()
        for _ in range(8):
            slider.press("ArrowRight")
        moved = other_than(page, PICTURE, first)
        page.locator("#directions-seed input").fill("7")
        page.locator("#directions-seed input").press("Enter")
        other_than(page, PICTURE, moved)
        page.click("#directions-strip")
        page.wait_for_selector("#directions-sheet img")


def test_labels_by_the_arrow_keys_become_a_direction(browser, app):
    with opened(browser, app) as page:
        page.fill("#directions-name textarea, #directions-name input", "Reddish")
        page.click("#directions-begin")
        page.wait_for_selector(SHOWN)
        shown = page.get_attribute(SHOWN, "src")
        page.locator("#directions-estimate").click()
        labels = 0
        while labels < 60:  # the clear ones
            red = page.evaluate(REDNESS, SHOWN)
            page.keyboard.press("ArrowDown" if 25 < red < 85 else "ArrowRight" if red > 55 else "ArrowLeft")
            labels += not 25 < red < 85
            shown = other_than(page, SHOWN, shown)
        told = re.findall(r"\d+", page.inner_text("#directions-estimate"))
        assert int(told[0]) + int(told[1]) == labels, told
        page.click("#directions-learn")
        chosen = "document.querySelector('#directions-direction input').value.startsWith('Reddish')"
        page.wait_for_function(chosen, timeout=120_000)
        proof = page.inner_text("#directions-proof")
        accuracy = re.search(r"(\d+)\s?%", proof)
        assert accuracy and int(accuracy[1]) >= 70, proof
        page.wait_for_selector("#directions-save", state="visible")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_read(browser, app, width, colours):
    with opened(browser, app, width=width, color_scheme=colours) as page:
        page.click("#directions-begin")
        page.wait_for_selector(SHOWN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.classList.contains('dark')") == (colours == "dark")
        found = page.evaluate(CONTRAST)
        poor = [(round(ratio, 2), text) for ratio, least, text in found if ratio < least]
        assert len(found) > 25 and not poor
