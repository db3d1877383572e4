"""The app in a process of its own, as a person starts it, with an owner's registry of tiny networks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
