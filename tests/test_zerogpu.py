"""The app starts on a Space: with the PyPI package `spaces`, without it, and with the folder of that name about."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from page_rig import ROOT, free_port
from tiny import write_registry

# What a machine without the package sees: nothing, or the folder spaces/ as an empty namespace package.
WITHOUT = """
import importlib.abc, importlib.machinery, sys
class Folder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "spaces":
            spec = importlib.machinery.PathFinder.find_spec(name, {path!r})
            if spec is None:
                raise ModuleNotFoundError(name)
            assert spec.origin is None, "this is a package after all"
            return spec
sys.meta_path.insert(0, Folder())
"""
FOLDER, NOTHING = WITHOUT.format(path=[str(ROOT)]), WITHOUT.format(path=[])

# A package of that name which notes what is decorated, in place of the real one and of its device.
FAKE = """
import sys, types
fake = types.ModuleType("spaces"); fake.__file__ = "spaces.py"; fake.seen = []
def GPU(duration=None):
    def wrap(function):
        def call(*args, **kwargs):
            fake.calls.append(args[0].__name__)
            return function(*args, **kwargs)
        fake.seen.append(function.__name__)
        return call
    return wrap
fake.GPU, fake.calls, fake.gradio_auto_wrap = GPU, [], lambda function: function
sys.modules["spaces"] = fake
"""

BUILD = """
import app
names = {fn.api_name for fn in app.demo.fns.values() if fn.api_visibility == "public"}
assert "generate_one" in names, names
print("built")
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_registry(tmp_path_factory.mktemp("rows"))


def run(code: str, rows: Path, tmp_path: Path, **env: str) -> str:
    settings = {"GANHUB_HOME": str(tmp_path), "GANHUB_REGISTRY": str(rows), "PYTHONPATH": str(ROOT), **env}
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.slow
@pytest.mark.parametrize("env", [{}, {"SYSTEM": "spaces", "SPACE_ID": "x/y"}], ids=["here", "on a Space"])
@pytest.mark.parametrize("before", ["", FOLDER, NOTHING], ids=["package", "folder only", "neither"])
def test_the_app_builds(env, before, rows, tmp_path):
    assert "built" in run(before + BUILD, rows, tmp_path, **env)


@pytest.mark.slow
def test_without_zerogpu_the_folder_breaks_gradio(rows, tmp_path):
    """The trap is there: if this fails, ganhub/zerogpu.py has become needless."""
    code = FOLDER + (
        "import gradio as gr\n"
        "try:\n"
        "    with gr.Blocks(): gr.Button().click(lambda: None)\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    assert "gradio_auto_wrap" in run(code, rows, tmp_path, SYSTEM="spaces", SPACE_ID="x/y")


@pytest.mark.slow
def test_gradio_imported_first_is_put_right(rows, tmp_path):
    code = FOLDER + "import gradio\n" + BUILD
    assert "built" in run(code, rows, tmp_path, SYSTEM="spaces", SPACE_ID="x/y")


@pytest.mark.slow
def test_one_function_has_the_lent_device(rows, tmp_path):
    """On ZeroGPU every picture goes through the one decorated function of the app."""
    ask = """
from ganhub import zerogpu
assert zerogpu.ACTIVE
from ganhub.engine import Engine, Job
import numpy as np, ganhub.ui as ui
demo = ui.build_app()
assert fake.seen == ["call"], fake.seen
engine = demo.engine
picture = engine.run(Job("tiny-grey", "generate", {"z": np.zeros(8), "seed": 0}))
assert picture.shape == (28, 28, 1), picture.shape
print(fake.calls)
"""
    assert "answers" in run(FAKE + ask, rows, tmp_path, SPACES_ZERO_GPU="true", GANHUB_DEVICE="cpu")


def test_elsewhere_nothing_is_decorated(rows, tmp_path):
    code = (
        FAKE + "from ganhub import zerogpu; assert not zerogpu.ACTIVE; assert zerogpu.gpu(len) is len; print(fake.seen)"
    )
    assert run(code, rows, tmp_path, SPACES_ZERO_GPU="").strip() == "[]"


def test_a_package_of_that_name_is_left_alone(rows, tmp_path):
    """Only the empty folder is hidden: somebody's own package called spaces stays importable."""
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").write_text("OWN = 1\n")
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    assert run(first + "from ganhub import zerogpu; import spaces; print(spaces.OWN)", rows, tmp_path).strip() == "1"


SPACE = ROOT / "spaces" / "gan-hub"


def test_the_space_needs_what_the_project_needs():
    def lines(file):
        return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}

    brought = {line for line in lines(ROOT / "requirements.txt") if line.startswith(("gradio", "huggingface_hub"))}
    assert len(brought) == 2
    assert lines(SPACE / "requirements.txt") == lines(ROOT / "requirements.txt") - brought


def test_the_space_has_a_valid_header():
    _, header, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["license"] == "apache-2.0"
    assert len(card["short_description"]) <= 60
    assert card["sdk_version"].startswith("6.31")


@pytest.mark.slow
def test_the_space_starts_as_it_is_uploaded(tmp_path):
    for file in SPACE.iterdir():
        shutil.copy(file, tmp_path)
    shutil.copytree(ROOT / "ganhub", tmp_path / "ganhub", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "weights.yaml", tmp_path)
    port = free_port()
    own = {
        "SYSTEM": "spaces",
        "SPACE_ID": "x/y",
        "GRADIO_SERVER_PORT": str(port),
        "GANHUB_HOME": str(tmp_path / "home"),
    }
    env = {**os.environ, **own, "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)
    with open(tmp_path / "log", "w") as log:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 240
        page = b""
        while not page:
            assert app.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
            except OSError:
                time.sleep(0.2)
        assert b"GAN Hub" in page
    finally:
        app.kill()
        app.wait(30)
