"""Many clients ask the page's API for one picture each, beside a no-op event of Gradio's own queue. One JSON line.

python -m benchmarks.page [--checkpoint ID] [--clients 64] [--registry FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np

FIRST = "dcgan-fruit-64"


class Caller:
    """What `gradio_client` does, without its own overhead: join the queue, wait for the answer."""

    def __init__(self, url: str):
        self.url = url

    def ask(self, endpoint: str, **arguments) -> float:
        """Seconds until the answer is complete; the picture itself is not fetched."""
        start = time.perf_counter()
        body = json.dumps(arguments).encode()
        asked = urllib.request.Request(
            f"{self.url}gradio_api/call/v2/{endpoint}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=300) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{self.url}gradio_api/call/{endpoint}/{event}", timeout=300) as stream:
            text = stream.read().decode()
        if "event: complete" not in text:
            raise SystemExit(text[-500:])
        return time.perf_counter() - start


def burst(caller: Caller, endpoint: str, clients: int, arguments) -> tuple[list[float], float]:
    """Everybody at once; seconds of each, and of all together."""
    gate = threading.Barrier(clients)

    def one(number: int) -> float:
        gate.wait()
        return caller.ask(endpoint, **arguments(number))

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        times = list(pool.map(one, range(clients)))
        return times, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=FIRST)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--registry")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("GANHUB_HOME", home)
        from ganhub.ui import build_app, launch

        demo = build_app(registry=given.registry)
        with demo:
            import gradio as gr

            gr.api(lambda: 0, api_name="nothing")
        _, url, _ = launch(demo, prevent_thread_lock=True, quiet=True, mcp_server=False)
        caller = Caller(url)
        caller.ask("generate_one", checkpoint=given.checkpoint, seed=0)
        caller.ask("nothing")
        single, idle = [], []
        for seed in range(1, 21):
            single.append(caller.ask("generate_one", checkpoint=given.checkpoint, seed=seed))
            idle.append(caller.ask("nothing"))
        empty, empty_wall = burst(caller, "nothing", given.clients, lambda number: {})
        made, wall = burst(
            caller, "generate_one", given.clients, lambda n: {"checkpoint": given.checkpoint, "seed": 100 + n}
        )
        status = demo.engine.status()
        demo.close()
        demo.engine.close()

    def quantile(times: list[float], q: float) -> float:
        return round(float(np.quantile(times, q)) * 1000, 1)

    print(
        json.dumps(
            {
                "benchmark": "page",
                "checkpoint": given.checkpoint,
                "device": status["device"],
                "clients": given.clients,
                "one_picture_ms": {"p50": quantile(single, 0.5), "p95": quantile(single, 0.95)},
                "one_nothing_ms": {"p50": quantile(idle, 0.5), "p95": quantile(idle, 0.95)},
                "together_picture_ms": {"p50": quantile(made, 0.5), "p95": quantile(made, 0.95)},
                "together_nothing_ms": {"p50": quantile(empty, 0.5), "p95": quantile(empty, 0.95)},
                "pictures_per_s": round(given.clients / wall, 1),
                "nothings_per_s": round(given.clients / empty_wall, 1),
                "engine_batches": status["batches"],
                "engine_answers": status["answered"],
                "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
            }
        )
    )


if __name__ == "__main__":
    main()
