"""The app in a process of its own, as a person starts it, with an owner's registry of tiny networks; and a browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parent.parent
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Every text on the page against the colour that it stands on (WCAG 2: 4.5, or 3 for large and bold text).
CONTRAST = """
() => {
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = (colour) => {  // any CSS colour, oklch and color-mix included
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (e.closest('button:disabled, script, style, .toast-wrap')) continue;
    const style = getComputedStyle(e), under = background(e), above = over(parse(style.color), under);
    const [a, b] = [light(above), light(under)].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 700;
    found.push([(a + 0.05) / (b + 0.05), large ? 3 : 4.5, text.slice(0, 40)]);
  }
  return found;
}
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class App:
    """`python app.py --registry FILE --port N`, until `stop`."""

    def __init__(self, folder: Path, registry: Path, **env: str):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.home = folder / "home"
        self.log = folder / "app.log"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        settings = {
            "TMPDIR": str(self.temporary),
            "GANHUB_HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            **env,
        }
        command = [sys.executable, str(ROOT / "app.py"), "--registry", str(registry), "--port", str(self.port)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self, seconds: float = 240) -> "App":
        """Until the page answers; an app that does not is ended."""
        try:
            return self._wait(seconds)
        except BaseException:
            self.process.kill()
            raise

    def _wait(self, seconds: float) -> "App":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(self.url, timeout=5).read()
                return self
            except OSError:
                time.sleep(0.1)
        raise AssertionError(f"no page after {seconds} s\n{self.log.read_text()}")

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)


@contextmanager
def launched(folder: Path, *flags: str):
    """Chromium, with its files in a folder."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=[*FLAGS, *flags], downloads_path=str(folder))
        yield browser
        browser.close()


@contextmanager
def page_at(
    browser, address: str, width: int = 1280, height: int = 900, patience: int = 60, complain: bool = True, **how
):
    """A page that must ask nobody outside for anything, and find nothing to complain about.

    Args:
        patience: seconds that it waits for what is awaited.
        complain: False where Gradio's own page complains.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    context.set_default_timeout(patience * 1000)
    page = context.new_page()
    outside, complaints = [], []
    page.on("request", lambda r: outside.append(r.url) if not is_local(r.url) else None)
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.goto(address)
    yield page
    assert not outside, f"the page asked {outside}"
    assert not (complain and complaints), complaints
    context.close()


def is_local(url: str) -> bool:
    return urlparse(url).scheme in ("data", "blob", "about") or urlparse(url).hostname == "127.0.0.1"
