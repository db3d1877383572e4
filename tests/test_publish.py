"""From a training's folder to the Hub: what is sent, what a visitor reads, what is refused."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hub_rig import SECRET, server
from hub_server import COMMIT
from PIL import Image
from publish_rig import run, write_run
from tiny import tiny_networks

from ganhub import checkpoint, imaging
from ganhub.checkpoint import Network
from ganhub.errors import PublishError
from ganhub.hub import transfer
from ganhub.hub.transfer import Limits
from ganhub.pipelines import _card, publish
from ganhub.registry import load_registry, read_rows

__all__ = ["run", "server"]


@pytest.fixture
def signed_in(server, monkeypatch):
    server.users[SECRET] = ["owner2", "an-organisation"]
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # the server speaks the older protocol
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
    assert row.metrics == {"frechet_small": 1.25, "recall_small": 0.5}
    code, _, error = run("add hf://owner2/tiny-fruit")
    assert code == 2 and "in the registry already, at the same commit" in error

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


def test_the_words_of_the_card_work(run, tmp_path, signed_in):
    """A visitor copies them into a shell and into Python."""
    write_run(tmp_path / "run", "tiny-classes", {"classes": ["ant", "bee", "cat"], "license": "CC BY-NC 4.0"})
    assert run(PUBLISH + " --push")[0] == 0
    card = (tmp_path / "run/publish/README.md").read_text()
    shell, python = re.search(r"```shell\n(.*?)```.*?```python\n(.*?)```", card, re.DOTALL).groups()
    for line in shell.splitlines():
        code, _, error = run(line.removeprefix("ganhub ").replace('"', ""))
        assert code == 0, (line, error)
    assert len(list((tmp_path / "pictures").iterdir())) == 8
    shown = imaging.read_provenance(tmp_path / "pictures/tiny-fruit_seed0003.png")
    (tmp_path / "pictures").rename(tmp_path / "from-shell")
    subprocess.run([sys.executable, "-c", python], check=True, cwd=tmp_path)
    again = imaging.read_provenance(tmp_path / "pictures/tiny-fruit_seed0003.png")
    assert again == shown and shown["label"] == 0 and shown["psi"] == 0.7


def test_the_card_tells_all(run, tmp_path):
    command = ["ganhub", "train", "stylegan2", "--resume", "/home/somebody/ffhq.pkl"]
    folder = write_run(tmp_path / "run", data={"source": "https://huggingface.co/datasets/a/fruit"}, command=command)
    sha256 = hashlib.sha256((folder / "G.safetensors").read_bytes()).hexdigest()
    figures = {"features": "inception", "pictures": 50000, "frechet": 7.0, "nearest_median": 0.25, "sha256": sha256}
    figures |= {
        "nearest_1_percent": 0.05,
        "real_nearest_1_percent": 0.1,
        "real_nearest_median": 0.125,
        "half": {"pictures": 600, "frechet": 8},
        "real": {"frechet": 2},
    }
    figures |= {"sweep": [{"psi": 0.5, "frechet": 9}], "commit": "abcdef"}
    (folder / "evaluation.json").write_text(json.dumps([figures]))
    code, out, _ = run(PUBLISH)
    assert code == 0 and "Nothing was sent" in out and "commercial use allowed" in out
    card = (folder / "publish/README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "cc0-1.0",
        "library_name": "ganhub",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["gan", "stylegan2", "image-generation"],
        "datasets": ["a/fruit"],
    }
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["What it draws", "Use", "Data and licences", "Training", "Measured", "Samples", "Limits",
                        "Intended use", "All outputs are generated"]  # fmt: skip
    told = ["1,234 pictures of 32x32", "public domain", "A library", "48,000", "2.0 hours", "from `ffhq.pkl`"]
    told += ["500 pictures, compared in the features of `features-small` after 48,000", "no FID or KID", "batch: 8"]
    told += [
        "some may repeat what it was",
        "50,000 pictures, compared in the features of `inception-fid`",
        "about 50% of the variety",
        "not chosen",
    ]
    for words in told:
        assert words in text, words
    assert "lower is better | 1.25 |" in text and "9 |" not in text.split("inception-fid")[0]  # the last line counts
    assert "| generated | psi 0.5 | generated, against half | real |" in text
    assert "FID: Fréchet distance to the training pictures, lower is better | 7 | 9 | 8 | 2 |" in text
    assert "mirror image, median | 0.25 |  |  | 0.125 |" in text
    assert "somebody" not in card + (folder / "publish/weights.yaml").read_text()
    for sheet in ("grid.png", "samples.png"):
        assert f"]({sheet})" in text and Image.open(folder / "publish" / sheet).size == (256, 256)
    (row,) = read_rows(folder / "publish/weights.yaml")
    assert row.metrics["fid"] == 7.0 and row.golden["seed"] == 0


def test_a_card_without_figures_says_so(run, tmp_path):
    folder = write_run(tmp_path / "run", "tiny-grey", {"pictures": 99, "license": "Own", "size": [28, 28]})
    (folder / "metrics.jsonl").unlink()
    code, out, _ = run("publish run --to o/grey_Digits --license MIT --json")
    made = json.loads(out)
    assert code == 0 and made["row"]["commercial_use"] is False and made["row"]["title"] == "Grey Digits"
    assert made["commit"] is None and "samples.png" not in [entry["file"] for entry in made["files"]]
    card = (folder / "publish/README.md").read_text()
    for words in (
        "Nothing was measured",
        "28x28 pixels, in grey",
        "with a small set",
        "stricter",
        "no truncation",
    ):
        assert words in card, words
    assert "psi" not in card


def broken(folder):
    family, net = tiny_networks()["tiny"]
    net.synthesis.b8.conv0.weight.data[0, 0, 0, 0] = float("nan")
    saved = {"G": Network("Generator", net.config, net.state_dict())}
    checkpoint.save(folder / "G.safetensors", saved, {"family": family})


def collapsed(folder):
    family, net = tiny_networks()["tiny-grey"]
    for value in net.parameters():
        value.data.zero_()
    saved = {"G": Network("Generator", net.config, net.state_dict())}
    checkpoint.save(folder / "G.safetensors", saved, {"family": family})


def stale(folder):
    (folder / "evaluation.json").write_text(json.dumps([{"features": "small", "frechet": 1.0, "sha256": "0" * 64}]))


def changed(**data):
    def change(folder):
        about = json.loads((folder / "run.json").read_text())
        about["data"] |= data
        (folder / "run.json").write_text(json.dumps(about))

    return change


@pytest.mark.parametrize(
    ("line", "spoil", "words"),
    [
        ("run --to owner/x", None, ["--license", "yours to choose"]),
        ("nowhere --to owner/x --license mit", None, ["no folder nowhere"]),
        ("run --to justname --license mit", None, ["OWNER/NAME"]),
        ("run --to owner/../x --license mit", None, ["OWNER/NAME"]),
        ("run --to owner/x --license mit", lambda f: (f / "G.safetensors").unlink(), ["no G.safetensors yet"]),
        ("run --to owner/x --license mit", lambda f: (f / "G.safetensors").write_bytes(b"x"), ["G.safetensors"]),
        ("run --to owner/x --license mit", lambda f: (f / "run.json").unlink(), ["no run.json"]),
        ("run --to owner/x --license mit", lambda f: (f / "run.json").write_text("{"), ["run.json cannot be read"]),
        ("run --to owner/x --license mit", lambda f: (f / "run.json").write_text('{"data": null}'), ["trained on"]),
        ("run --to owner/x --license mit", changed(license=""), ["'fruit' have no licence", "--license NAME"]),
        ("run --to owner/x --license mit", changed(license="CC BY 4.0", credit=""), ["--credit"]),
        ("run --to owner/x --license mit", broken, ["synthesis.b8.conv0.weight", "not finite", "earlier snapshot"]),
        ("run --to owner/x --license mit", stale, ["evaluation.json", "an earlier network", "'small'"]),
        ("run --to owner/x --license mit", collapsed, ["same picture for 64 seeds"]),
    ],
)
def test_what_is_not_published(run, tmp_path, line, spoil, words):
    folder = write_run(tmp_path / "run")
    if spoil:
        spoil(folder)
    code, out, error = run(f"publish {line}")
    assert code == 2 and out == "" and not (folder / "publish" / "README.md").exists()
    for word in words:
        assert word in error, error


def test_licences():
    assert _card.hub_license("Apache-2.0") == {"license": "apache-2.0"}
    assert _card.hub_license("CC BY-SA 4.0") == {"license": "cc-by-sa-4.0"}
    assert _card.hub_license("My own (2024)") == {"license": "other", "license_name": "my-own-2024"}
    for name in ("CC0-1.0", "public domain", "CC BY 4.0", "cc-by-sa-3.0", "MIT", "Apache-2.0"):
        assert _card.is_open(name), name
    for name in (
        "CC BY-NC 4.0",
        "cc-by-nc-sa-4.0",
        "CC0-1.0, CC BY-NC 4.0",
        "unstated",
        "own",
        "cc-by-4.0 research only",
    ):
        assert not _card.is_open(name), name


# --- Sending ---


@pytest.mark.parametrize(
    ("method", "path", "kind", "words"),
    [
        ("GET", "whoami", "bad_token", ["does not know the token", "/settings/tokens"]),
        ("POST", "repos/create", "forbidden", ["may not write to", "owner2/tiny-fruit"]),
        ("POST", "repos/create", "conflict", ["made by somebody else a moment ago"]),
        ("POST", "/preupload/", "forbidden", ["may not write to"]),
        ("POST", "/commit/", "moved_on", ["was changed meanwhile"]),
        ("POST", "/commit/", "bad_card", ["does not take the files", "license must be one of"]),
        ("GET", "whoami", "429_long", ["too many requests"]),
        ("GET", "whoami", "503", ["error of its own (503)"]),
        ("GET", "whoami", "page", ["is not a Hub"]),
        ("GET", "whoami", "hang", ["does not answer"]),
        ("POST", "/commit/", "cut", ["broke the connection off"]),
    ],
)
def test_why_nothing_was_sent(run, tmp_path, signed_in, monkeypatch, method, path, kind, words):
    monkeypatch.setattr(transfer, "LIMITS", Limits(answer=1, stall=2, backoff=0.01))
    publication = write_publication(tmp_path)
    signed_in.fault(method, kind, path=path)
    with pytest.raises(PublishError) as caught:
        publish.push(publication)
    sentence = caught.value.message
    assert sentence.startswith("'owner2/tiny-fruit': ") and sentence.endswith(".") and "\n" not in sentence
    for word in words:
        assert word in sentence, sentence
    assert not [key for key in signed_in.repositories if key[1] == "weights.yaml"]


def write_publication(folder):
    """What `publish` gives, without drawing anything."""
    (folder / "publish").mkdir()
    for name in ("README.md", "weights.yaml", "model.safetensors"):
        (folder / "publish" / name).write_text("---\nlicense: mit\n---\n" + name)
    (row,) = [row for row in load_registry() if row.id == "mlp-gan-digits"]
    return publish.Publication(
        "owner2/tiny-fruit", folder / "publish", ["README.md", "weights.yaml", "model.safetensors"], row
    )


def test_without_a_token_a_right_or_a_network(tmp_path, signed_in, monkeypatch):
    publication = write_publication(tmp_path)

    def fails(code, *words):
        with pytest.raises(PublishError) as caught:
            publish.push(publication)
        assert caught.value.code == code, caught.value.message
        for word in words:
            assert word in caught.value.message

    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        fails("no_token", "HF_TOKEN", "hf auth login")
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        fails("offline", "HF_HUB_OFFLINE")
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        patch.setattr(transfer, "LIMITS", Limits(backoff=0.01))
        fails("unreachable", "127.0.0.1:9")
    signed_in.users[SECRET] = ["me", "my-lab"]
    fails("wrong_owner", "me and my-lab", "not for owner2", "--to me/tiny-fruit")
    assert not [key for key in signed_in.repositories if key[0] == "owner2/tiny-fruit"]


def test_a_repository_that_is_there(tmp_path, signed_in):
    """One of ours is brought up to date; anybody else's is left alone."""
    publication = write_publication(tmp_path)
    first = publish.push(publication)
    assert publish.push(publication).commit == first.commit  # nothing changed: no empty commit
    (publication.folder / "README.md").write_text("---\nlicense: mit\n---\nBetter.")
    second = publish.push(publication)
    assert second.commit != first.commit and signed_in.commits["owner2/tiny-fruit"][1:] == [first.commit, second.commit]
    assert signed_in.count("PUT") == 1  # the weights went over once
    signed_in.commits["owner2/other"] = [COMMIT]
    signed_in.add("owner2/other", "pytorch_model.bin", b"work of years")
    with pytest.raises(PublishError, match=r"holds other files \(pytorch_model.bin\)") as caught:
        publish.push(publish.Publication("owner2/other", publication.folder, publication.files, publication.row))
    assert caught.value.code == "exists" and signed_in.commits["owner2/other"] == [COMMIT]


def test_a_card_that_the_hub_refuses(tmp_path, signed_in):
    publication = write_publication(tmp_path)
    (publication.folder / "README.md").write_text(f"---\nlicense: {'x' * 50}\n---\n")
    with pytest.raises(PublishError, match=r'does not take README.md \("license" is no licence\)'):
        publish.push(publication)


def test_a_cut_connection_is_tried_again(tmp_path, signed_in):
    publication = write_publication(tmp_path)
    signed_in.fault("POST", "cut", times=1, path="/commit/")
    assert publish.push(publication).commit == signed_in.commits["owner2/tiny-fruit"][-1]
