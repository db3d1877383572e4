"""From a training's folder to the Hub and back: what is sent, what a visitor reads, what is refused."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hub_rig import SECRET, server  # noqa: F401
from hub_server import COMMIT
from PIL import Image
from tiny import tiny_networks

from ganhub import checkpoint, hub, imaging
from ganhub.checkpoint import Network
from ganhub.cli import main
from ganhub.errors import RegistryError
from ganhub.hub import transfer
from ganhub.pipelines import _card
from ganhub.pipelines.add import parse
from ganhub.registry import load_registry, read_foreign, read_rows

DATA = {"name": "fruit", "path": "/home/somebody/fruit.zip", "sha256": "a" * 64, "pictures": 1234, "size": [32, 32]}
DATA |= {"license": "public domain", "credit": "A library", "source": "https://example.org/fruit", "classes": []}
LAST = {"kimg": 48, "features": "fruit-kinds", "pictures": 500, "frechet": 1.25, "recall": 0.5, "nearest_median": 0.3}


def write_run(folder, name="tiny", data=None, **about):
    """A training's folder as `ganhub train` leaves it, around a tiny random network."""
    family, net = tiny_networks()[name]
    folder.mkdir(parents=True, exist_ok=True)
    saved = {"G": Network("Generator", net.config, net.state_dict())}
    checkpoint.save(folder / "G.safetensors", saved, {"family": family, "recipe": family, "kimg": 48})
    command = ["ganhub", "train", family, "--data", "/home/somebody/fruit.zip", "--out=/data/runs/x"]
    run = {"recipe": family, "family": family, "settings": {"batch": 8, "resume": "/home/somebody/old.pkl"}, "seed": 3}
    run |= {"data": {**DATA, **(data or {})}, "ganhub": "0.1.0", "commit": "c" * 40, "command": command, **about}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "log.jsonl").write_text('{"kimg": 24, "seconds": 3000}\n{"kimg": 48, "seconds": 7200}\n')
    (folder / "metrics.jsonl").write_text(json.dumps({**LAST, "frechet": 9.0}) + "\n" + json.dumps(LAST) + "\n")
    return folder


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """`run("info tiny")` -> exit code, standard output, standard error; in the folder tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANHUB_DEVICE", "cpu")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # the server speaks the older protocol

    def command(line, *more):
        with pytest.raises(SystemExit) as end:
            main([*line.split(), *more])
        out, error = capsys.readouterr()
        assert "Traceback" not in error and SECRET not in out + error
        return end.value.code, out, error

    return command


@pytest.fixture
def signed_in(server, monkeypatch):  # noqa: F811
    server.users[SECRET] = ["owner2", "an-organisation"]
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return server


PUBLISH = "publish run --to owner2/tiny-fruit --license cc0-1.0"


def test_from_a_training_to_the_hub_and_back(run, tmp_path, signed_in, monkeypatch):
    write_run(tmp_path / "run")
    code, out, error = run(PUBLISH + " --push --json", "--title", "Tiny fruit", "--description", "Random blots.")
    assert code == 0, error
    said = json.loads(out)
    assert said["commit"] == signed_in.commits["owner2/tiny-fruit"][-1]
    stored = {file: s for (repo, file), s in signed_in.repositories.items() if repo == "owner2/tiny-fruit"}
    names = {"README.md", "model.safetensors", "weights.yaml", "grid.png", "samples.png", "log.jsonl", "metrics.jsonl"}
    assert set(stored) == {".gitattributes", *names} and len(signed_in.commits["owner2/tiny-fruit"]) == 2
    assert stored["model.safetensors"].content == (tmp_path / "run" / "G.safetensors").read_bytes()

    code, out, error = run("add hf://owner2/tiny-fruit")
    assert code == 0, error
    assert "It draws the picture that its owner saw." in out and said["commit"] in out
    row = load_registry().find("tiny-fruit")
    assert row.source.model_dump() == {
        "hub": "owner2/tiny-fruit",
        "file": "model.safetensors",
        "revision": said["commit"],
        "repo_type": "model",
    }
    assert (row.license, row.commercial_use, row.credit, row.resolution) == ("cc0-1.0", True, "A library", 32)
    assert row.metrics == {"frechet (fruit-kinds)": 1.25, "recall (fruit-kinds)": 0.5}
    assert "exists" not in run("add hf://owner2/tiny-fruit")[1]

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(signed_in.requests)
    assert run("generate tiny-fruit --seeds 5 --out there")[0] == 0
    assert len(signed_in.requests) == before
    own = [{"id": "own", "task": "generate", "family": "stylegan2", "source": {"path": "run/G.safetensors"}}]
    own[0] |= {"title": "Own", "license": "cc0-1.0", "commercial_use": True}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert run("generate own --seeds 5 --out here --registry own.yaml")[0] == 0
    a, b = Image.open("there/tiny-fruit_seed0005.png"), Image.open("here/own_seed0005.png")
    assert (np.asarray(a) == np.asarray(b)).all()
