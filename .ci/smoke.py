"""Start the app for real with the network off, ask it for a picture over HTTP, and stop it.

    python .ci/smoke.py python app.py

The command runs in a network namespace of its own where the machine allows that, so that only loopback is left.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

PORT = 17860
URL = f"http://127.0.0.1:{PORT}"


def main(command: list[str]) -> None:
    inside = os.environ.get("GANHUB_SMOKE_INSIDE")
    if not inside and shutil.which("unshare") and shutil.which("ip"):
        again = [
            "unshare",
            "-rn",
            "sh",
            "-c",
            'ip link set lo up && exec "$0" "$@"',
            sys.executable,
            __file__,
            *command,
        ]
        if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
            raise SystemExit(subprocess.run(again, env={**os.environ, "GANHUB_SMOKE_INSIDE": "1"}).returncode)
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "GANHUB_HOME": home, "GRADIO_SERVER_PORT": str(PORT)}
        start = time.monotonic()
        app = subprocess.Popen(command, env=env)
        try:
            wait(app)
            ready = time.monotonic() - start
            picture = ask("generate_one", {"seed": 7})
            print(
                json.dumps(
                    {
                        "network": "loopback only" if inside else "HF_HUB_OFFLINE",
                        "page_after_s": round(ready, 1),
                        "picture_bytes": len(picture),
                    }
                )
            )
        finally:
            app.terminate()
            app.wait(20)


def wait(app: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if app.poll() is not None:
            raise SystemExit(f"the app ended with exit code {app.returncode}")
        try:
            if b"GAN Hub" in urllib.request.urlopen(URL, timeout=5).read():
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"no page after {seconds} s")


def ask(endpoint: str, arguments: dict) -> bytes:
    """The PNG that an endpoint answers with."""
    request = urllib.request.Request(
        f"{URL}/gradio_api/call/v2/{endpoint}",
        json.dumps(arguments).encode(),
        {"Content-Type": "application/json"},
    )
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    with urllib.request.urlopen(f"{URL}/gradio_api/call/{endpoint}/{event}", timeout=120) as stream:
        text = stream.read().decode()
    assert "event: complete" in text, text[-500:]
    data = json.loads(text.rsplit("data: ", 1)[1])
    picture = urllib.request.urlopen(data[0]["url"].replace("localhost", "127.0.0.1"), timeout=60).read()
    assert picture.startswith(b"\x89PNG"), picture[:16]
    assert b"ganhub" in picture, "the picture carries no provenance"
    return picture


if __name__ == "__main__":
    main(sys.argv[1:])
