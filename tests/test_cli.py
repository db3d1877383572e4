"""The command `ganhub`: what it prints, writes and ends with."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from hub_server import COMMIT, HubServer
from PIL import Image

from ganhub import checkpoint, imaging
from ganhub.cli import main
from ganhub.latents import load_latents


@pytest.fixture
def run(registry_file, capsys, tmp_path, monkeypatch):
    """`run("info tiny")` -> exit code, standard output, standard error; in the folder tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANHUB_REGISTRY", str(registry_file))
    monkeypatch.setenv("GANHUB_DEVICE", "cpu")

    def command(line, *more):
        with pytest.raises(SystemExit) as end:
            main([*line.split(), *more])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return end.value.code, out, error

    return command


def levels(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()


def test_generate_writes_pictures(run, tmp_path):
    code, out, _ = run("generate tiny --seeds 0-2,12 --psi 0.7 --out pictures --grid")
    names = [f"pictures/tiny_{name}.png" for name in ("seed0000", "seed0001", "seed0002", "seed0012", "grid")]
    assert code == 0 and out.splitlines() == names
    about = imaging.read_provenance(tmp_path / names[3])
    assert (about["seed"], about["psi"], about["checkpoint"]) == (12, 0.7, "tiny")
    assert Image.open(tmp_path / names[4]).size == (64, 64)


def test_generate_says_what_it_wrote(run, tmp_path):
    code, out, error = run("generate tiny --seeds 3 --out a --format webp --save-latents l.npz --json")
    written = json.loads(out)["written"]
    assert code == 0 and [entry["path"] for entry in written] == ["a/tiny_seed0003.webp", "l.npz"]
    for entry in written:
        assert hashlib.sha256((tmp_path / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert written[0]["seed"] == 3 and written[0]["provenance"]["license"] == "apache-2.0"
    assert "1 of 1 pictures" in error
    code, out, _ = run("generate tiny --latents l.npz --out b")
    assert code == 0 and levels(Image.open("b/tiny_latent0000.png"), Image.open("a/tiny_seed0003.webp")) == 0
    assert load_latents("l.npz").seeds == (3,)
    code, out, _ = run("provenance a/tiny_seed0003.webp")
    assert code == 0 and json.loads(out)["provenance"] == written[0]["provenance"]


def test_classes_by_number_and_name(run):
    assert run("generate tiny-classes --seeds 0 --class bee --out a")[0] == 0
    assert run("generate tiny-classes --seeds 0 --class 1 --out b --noise-mode none")[0] == 0
    a, b = (imaging.read_provenance(f"{folder}/tiny-classes_seed0000.png") for folder in "ab")
    assert a["label"] == b["label"] == 1 and (a["noise_mode"], b["noise_mode"]) == ("const", "none")
    code, _, error = run("generate tiny-classes --seeds 0 --class dog")
    assert code == 2 and "ant, bee, cat" in error


def test_sweep_mix_interpolate(run, tmp_path):
    code, out, _ = run("sweep tiny --seeds 0-1 --psis 0,1 --out s")
    assert code == 0 and len(out.splitlines()) == 5 and out.splitlines()[-1] == "s/tiny_sweep.png"
    code, out, _ = run("mix tiny --rows 0-1 --cols 2-4 --layers 0-3 --out m --json")
    written = json.loads(out)["written"]
    assert code == 0 and written[-1]["path"] == "m/tiny_mix.png" and written[-1]["provenance"]["rows"] == [0, 1]
    assert Image.open("m/tiny_mix.png").size == (4 * 32, 3 * 32)
    code, out, error = run("interpolate tiny --seeds 0-1 --frames 6 --loop --fps 12 --out v/way.mp4 --strip 4")
    assert code == 0 and out.splitlines() == ["v/way.mp4", "v/way.png"] and "12 of 12 pictures" in error
    assert imaging.read_provenance("v/way.mp4")["loop"] is True and Image.open("v/way.png").size == (128, 32)


def test_list_and_info(run, registry_file):
    code, out, _ = run("list --task generate")
    assert code == 0 and re.search(r"^tiny +stylegan2 +32x32 .* yes +apache-2.0 +Tiny$", out, re.M)
    rows = {row["id"]: row for row in json.loads(run("list --json")[1])}
    assert rows["tiny"]["on_disk"] is True and rows["tiny"]["path"].endswith("tiny.safetensors")
    code, out, _ = run("info tiny-of-old")
    assert code == 0 and "tiny.safetensors" in out and "apache-2.0" in out
    assert json.loads(run("info tiny --json")[1]) == rows["tiny"]


def test_registry_option_before_and_after(run, monkeypatch, registry_file):
    monkeypatch.delenv("GANHUB_REGISTRY")
    assert run("info tiny")[0] == 2
    assert run(f"--registry {registry_file} info tiny")[0] == 0
    assert run(f"info tiny --registry {registry_file}")[0] == 0


def test_verify(run, tmp_path, registry_file):
    row = yaml.safe_load(registry_file.read_text())[0]
    source = registry_file.parent / row["source"]["path"]
    own = {**row, "id": "own", "aliases": [], "source": {"path": str(source)}, "sha256": "0" * 64}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump([own]))
    code, out, _ = run("verify tiny tiny-grey")
    assert code == 0 and out.splitlines() == ["tiny: ok (nothing)", "tiny-grey: ok (nothing)"]
    code, out, error = run("verify tiny own --json --registry own.yaml")
    found = json.loads(out)
    assert code == 2 and [line["ok"] for line in found] == [True, False] and found[1]["code"] == "wrong_hash"
    assert "1 of 2 files" in error


def test_pull_from_a_hub_and_generate(run, tmp_path, registry_file, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    content = (registry_file.parent / "tiny-grey.safetensors").read_bytes()
    sha = hashlib.sha256(content).hexdigest()
    own = {
        "id": "far", "task": "generate", "family": "mlp_gan", "title": "Far", "license": "mit", "commercial_use": True,
        "source": {"hub": "owner/name", "file": "g.safetensors", "revision": COMMIT}, "sha256": sha,
        "components": {"near": "tiny"},
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump([own]))
    with HubServer() as server:
        server.add("owner/name", "g.safetensors", content)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        code, out, error = run("pull far --json --registry own.yaml")
        assert code == 0 and [line["id"] for line in json.loads(out)] == ["far", "tiny"]
        assert json.loads(out)[0]["sha256"] == sha
        assert run("verify far --registry own.yaml")[1] == "far: ok (sha256)\n"
    assert run("generate far --seeds 0-3 --out p --registry own.yaml")[0] == 0  # the Hub is gone by now


def test_convert(run, tmp_path, registry_file, shared):
    source = shared / "reference" / "stylegan2_tf" / "configf_r32.nosrc.pkl"
    code, out, _ = run(f"convert {source} c.safetensors --part G --part D")
    assert code == 0 and "G: largest difference to the source 0" in out
    raw = checkpoint.read("c.safetensors")
    assert raw.format == "ganhub" and set(raw.networks) == {"G", "D"} and raw.extra["family"] == "stylegan2"
    code, out, _ = run("convert c.safetensors d.safetensors --json")
    assert code == 0 and json.loads(out)["differences"] == {"G": 0.0}
    own = yaml.safe_load(registry_file.read_text())[0] | {
        "id": "own",
        "aliases": [],
        "source": {"path": "c.safetensors"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump([own]))
    assert run("generate own --seeds 0 --out p --registry own.yaml")[0] == 0
    hostile = shared / "reference" / "hostile" / "reduce_os_system.pkl"
    code, _, error = run(f"convert {hostile} e.safetensors")
    assert code == 2 and "system" in error and not (tmp_path / "e.safetensors").exists()


BAD = {
    "generate tiny": "--seeds",
    "generate tiny --seeds": "requires an argument",
    "generate tiny --seeds x": "cannot be read at 'x'",
    "generate tiny --seeds 5-2": "backwards",
    "generate tiny --seeds 0-99999": "at most 10000",
    "generate tiny --seeds 4294967296": "out of range",
    "generate tiny --seeds 0 --latents l.npz": "either --seeds",
    "generate tiny --latents none.npz": "none.npz cannot be read",
    "generate tiny --seeds 0 --psi much": "--psi",
    "generate tiny --seeds 0 --psi 9": "from -2 to 2",
    "generate tiny --seeds 0 --psi nan": "from -2 to 2",
    "generate tiny --seeds 0 --cutoff 99": "from 0 to 64",
    "generate tiny --seeds 0 --cutoff 9": "8 layers",
    "generate tiny --seeds 0 --noise-mode loud": "--noise-mode",
    "generate tiny --seeds 0 --precision half": "--precision",
    "generate tiny --seeds 0 --format gif": "--format",
    "generate tiny --seeds 0 --class 0": "no classes",
    "generate tiny --seeds 0 --class 7.5": "no class '7.5'",
    "generate tiny --seeds 0 --device abacus": "abacus",
    "generate tiny --seeds 0 --out file": "cannot be written",
    "generate tiny-classes --seeds 0": "3 classes",
    "generate tiny-grey --seeds 0 --psi 0.5": "no truncation",
    "generate tinny --seeds 0": "did you mean 'tiny",
    "generate tiny --seeds 0 --colour red": "--colour",
    "generate tiny --seeds 0 --registry none.yaml": "none.yaml cannot be read",
    "sweep tiny-grey --seeds 0": "no truncation",
    "sweep tiny --seeds 0 --psis a": "--psis cannot be read",
    "mix tiny --rows 0": "--cols",
    "mix tiny --rows 0 --cols 1 --layers 0-9": "no layer 9",
    "mix tiny-grey --rows 0 --cols 1": "no styles",
    "interpolate tiny --seeds 0": "2 to",
    "interpolate tiny --seeds 0-1 --frames 0": "number of frames",
    "interpolate tiny --seeds 0-1 --method jump": "linear, slerp, spline",
    "interpolate tiny --seeds 0-1 --out way.avi": "written as .mp4",
    "interpolate tiny-grey --seeds 0-1 --space w": "interpolate in z",
    "list --task fly": "no task 'fly'",
    "info nothing-like-it": "no checkpoint",
    "pull nothing-like-it": "no checkpoint",
    "verify nothing-like-it": "no checkpoint",
    "provenance file": "no PNG",
    "convert none.pkl c.safetensors": "no file",
    "convert none.pkl c.pkl": "ends with .safetensors",
    "convert none.pkl c.safetensors --config size": "key=value",
    "dance": "No such command",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(run, tmp_path, line):
    (tmp_path / "file").write_text("")
    code, out, error = run(line)
    said = [text for text in error.splitlines() if text.startswith("ganhub: ")]
    assert code == 2 and out == "" and len(said) == 1 and error.splitlines()[-1] == said[0]
    assert BAD[line] in said[0] and said[0].endswith((".", "?"))


def child(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "ganhub", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process group")
def test_ctrl_c_ends_with_130_and_leaves_nothing(registry_file, tmp_path):
    long = ["interpolate", "tiny", "--seeds", "0-4", "--frames", "2000", "--device", "cpu"]
    process = child(
        *long,
        *("--out", str(tmp_path / "a.mp4"), "--registry", str(registry_file)),
        start_new_session=True,  # as from a terminal, the whole group is told
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background may ignore it
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".*.part.mp4")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130 and out == "" and error.strip().endswith("Stopped.") and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error():
    with child("list") as process:
        process.stdout.close()
        error = process.stderr.read()
    assert "Traceback" not in error and "Exception" not in error


def test_help_is_quick_and_loads_nothing_heavy():
    seen = "import sys, ganhub.cli; print([m for m in ('torch', 'numpy', 'PIL', 'gradio', 'yaml') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", seen], text=True).strip() == "[]"
    began = time.monotonic()
    with child("--help") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "interpolate" in out
    assert time.monotonic() - began < 10  # a second on an idle machine; tests share theirs


def test_the_version_of_this_machine_is_not_needed():
    """`python -m ganhub` and the entry point are the same command."""
    with child("info") as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and error.startswith("ganhub: Missing argument 'ID'")
