"""A training's folder and the command line, for the tests of publishing and adding."""

import json

import pytest
from hub_rig import SECRET
from tiny import tiny_networks

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.cli import main

DATA = {"name": "fruit", "path": "/home/somebody/fruit.zip", "sha256": "a" * 64, "pictures": 1234, "size": [32, 32]}
DATA |= {"license": "public domain", "credit": "A library", "source": "https://example.org/fruit", "classes": []}
LAST = {"kimg": 48, "features": "small", "pictures": 500, "frechet": 1.25, "recall": 0.5, "nearest_median": 0.3}


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

    def command(line, *more):
        with pytest.raises(SystemExit) as end:
            main([*line.split(), *more])
        out, error = capsys.readouterr()
        assert "Traceback" not in error and SECRET not in out + error
        return end.value.code, out, error

    return command
