"""From `python app.py` to a page that answers, beside what importing Gradio and torch takes. One JSON line.

python -m benchmarks.startup [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - start


def page() -> float:
    """Seconds from starting the app to the first answer of its page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "GANHUB_HOME": home, "HF_HUB_OFFLINE": "1"}
        start = time.perf_counter()
        command = [sys.executable, "app.py", "--port", str(port)]
        app = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
        try:
            while True:
                if app.poll() is not None:
                    raise SystemExit(f"the app ended with exit code {app.returncode}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                    return time.perf_counter() - start
                except OSError:
                    time.sleep(0.05)
        finally:
            app.terminate()
            app.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {"python": [], "import_ganhub": [], "import_gradio_torch": [], "page": []}
    for _ in range(repeats):  # interleaved, so that a busy moment hits all alike
        times["python"].append(seconds("pass"))
        times["import_ganhub"].append(seconds("import ganhub"))
        times["import_gradio_torch"].append(seconds("import gradio, torch"))
        times["page"].append(page())
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {
                "benchmark": "startup",
                "import_ganhub_s": round(middle["import_ganhub"] - middle["python"], 3),
                "import_gradio_torch_s": round(middle["import_gradio_torch"], 2),
                "page_s": round(middle["page"], 2),
                "page_beyond_imports_s": round(middle["page"] - middle["import_gradio_torch"], 2),
                "repeats": repeats,
                "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
            }
        )
    )


if __name__ == "__main__":
    main()
