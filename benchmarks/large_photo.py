"""A photo of many megapixels enlarged into a file: seconds, and the most memory that the process held.

    python -m benchmarks.large_photo [--megapixels 24] [--checkpoint srresnet-x4] [--precision fast] [--device cpu]

The photo is the example of a cat, mirrored side by side. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import ganhub
from ganhub.engine import Engine
from ganhub.imaging import Photo
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.upscale import UpscaleRequest, upscale
from ganhub.registry import load_registry


def photo(megapixels: float) -> Photo:
    """3:2, of so many megapixels."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    cat = np.asarray(Image.open(Path(ganhub.__file__).parent / "tabs" / "examples" / "cat.png").convert("RGB"))
    pair = np.concatenate([cat, cat[:, ::-1]], 1)
    block = np.concatenate([pair, pair[::-1]])
    times = (-(-height // block.shape[0]), -(-width // block.shape[1]), 1)
    return Photo(np.ascontiguousarray(np.tile(block, times)[:height, :width]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--checkpoint", default="srresnet-x4")
    parser.add_argument("--precision", choices=("exact", "fast"), default="fast")
    parser.add_argument("--device")
    args = parser.parse_args()
    given = photo(args.megapixels)
    with Engine(load_registry(), device=args.device) as engine, tempfile.TemporaryDirectory() as folder:
        engine.describe(args.checkpoint, args.precision)
        began = time.perf_counter()
        first = None
        tiles = 0
        request = UpscaleRequest(args.checkpoint, given, precision=args.precision, file=Path(folder) / "large.png")
        for event in upscale(engine, request):
            if isinstance(event, Progress) and event.done:
                first, tiles = first or time.perf_counter() - began, event.total
        seconds = time.perf_counter() - began
        size = event.file.stat().st_size
        device = str(engine.device)
    print(
        json.dumps(
            {
                "checkpoint": args.checkpoint,
                "precision": args.precision,
                "device": device,
                "megapixels_in": round(given.pixels.shape[0] * given.pixels.shape[1] / 1e6, 2),
                "megapixels_out": round(event.size[0] * event.size[1] / 1e6, 2),
                "tiles": tiles,
                "first_tile_s": round(first or 0, 2),
                "seconds": round(seconds, 1),
                "file_mb": round(size / 1e6),
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
