"""Makes the file of judges with which `ganhub evaluate ID --data SET --judges FILE` measures ageing.

    python -m ganhub.training.aging_judges --data SET.zip --out judges.safetensors [--device cuda] [--steps N]

The command would make them itself, in some minutes on a CPU; more steps on another device make better ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ganhub.data.dataset import PictureSet
from ganhub.engine.device import choose
from ganhub.errors import GanHubError
from ganhub.metrics.faces import Judges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="set of `ganhub data prepare --crop face`")
    parser.add_argument("--out", type=Path, required=True, help="the file")
    parser.add_argument("--steps", type=int, default=3000, help="of each judge (default: %(default)s)")
    parser.add_argument("--device", help="cuda, mps or cpu; the best one present by default")
    args = parser.parse_args()
    judges = Judges.taught(PictureSet(args.data), steps=args.steps, device=choose(args.device))
    judges.save(args.out)
    print(judges.figures)


if __name__ == "__main__":
    try:
        main()
    except GanHubError as error:
        sys.exit(error.message)
