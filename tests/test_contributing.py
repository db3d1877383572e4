"""The three worked examples of CONTRIBUTING.md, done as they say in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(?P<lang>\w+) ?(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
CHAPTERS = ["Add a checkpoint", "Add a family", "Add a tab"]


def blocks(chapter: str):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    body = text.split(f"## {chapter}\n")[1].split("\n## ")[0]
    return [m.groupdict() for m in BLOCK.finditer(body)]


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_example(chapter, tmp_path):
    for name in ("ganhub", "weights.yaml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = 0
    for block in blocks(chapter):
        if title := re.search(r'title="([^"]+)"', block["info"]):
            (tmp_path / title[1]).write_text(block["text"], encoding="utf-8")
        elif block["info"] == "run" and block["lang"] == "python":
            subprocess.run([sys.executable, "-c", block["text"]], cwd=tmp_path, env=env, check=True, timeout=120)
            done += 1
        elif block["info"] == "run":
            for line in block["text"].strip().splitlines():
                command = line.replace("ganhub", f"{sys.executable} -m ganhub", 1)
                subprocess.run(command, shell=True, cwd=tmp_path, env=env, check=True, timeout=120)
                done += 1
    assert done, f"the chapter '{chapter}' has nothing to do"
    if chapter != "Add a tab":
        assert list((tmp_path / "pictures").glob("*.png"))
