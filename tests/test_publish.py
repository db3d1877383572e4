"""From a training's folder to the Hub and back: what is sent, what a visitor reads, what is refused."""

import hashlib
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

from ganhub import checkpoint, imaging
from ganhub.checkpoint import Network
from ganhub.cli import main
from ganhub.errors import BadInput, PublishError, RegistryError
from ganhub.hub import transfer
from ganhub.hub.transfer import Limits
from ganhub.pipelines import _card, publish
from ganhub.pipelines.add import parse
from ganhub.registry import load_registry, read_foreign, read_rows

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


@pytest.fixture
def signed_in(server, monkeypatch):  # noqa: F811
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


# --- Adding ---


def test_addresses():
    commit = "0" * 40
    assert parse("hf://o/n") == ("o/n", None) and parse(f"hf://o/n@{commit}") == ("o/n", commit)
    assert parse("https://huggingface.co/o/n") == ("o/n", None)
    assert parse("https://huggingface.co/o/n/tree/refs%2Fpr%2F1") == ("o/n", "refs/pr/1")
    wrong = [
        "o/n",
        "hf://o",
        "hf://o/n@",
        "hf://o/n/file.pt",
        "hf://datasets/o",
        "https://example.org/o/n",
        "hf://o/..",
    ]
    wrong += [
        "https://huggingface.co/datasets/o/n",
        "https://huggingface.co/o/n/blob/main/f",
        "http://[",
        "hf://o/n@\x1b",
    ]
    for address in wrong:
        with pytest.raises(BadInput):
            parse(address)


@pytest.fixture
def published(server, tmp_path):  # noqa: F811
    """`published(row changes...)` puts a repository with the tiny network and its row on the server."""
    folder = write_run(tmp_path / "seed")
    content = (folder / "G.safetensors").read_bytes()

    def put(text=None, **changes):
        row = {"id": "far", "task": ["generate"], "family": "stylegan2", "source": {"path": "model.safetensors"}}
        row |= {"title": "Far", "license": "mit", "commercial_use": True, **changes}
        text = yaml.safe_dump([row]) if text is None else text
        server.add("owner/far", "model.safetensors", content)
        server.add("owner/far", "weights.yaml", text if isinstance(text, bytes) else text.encode(), large=False)
        return hashlib.sha256(content).hexdigest()

    return put


BOMB = "- &a [1,1,1,1,1,1,1,1,1,1]\n- &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n- [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
GOOD = "- {id: far, task: generate, family: stylegan2, title: T, license: mit, commercial_use: true, "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- !!python/object/apply:os.system ['touch pwned']\n", ["no need for tags"]),
        ("- id: !!python/name:os.system ''\n", ["no need for tags"]),
        (BOMB, ["no need for anchors"]),
        ("- id: far\n  title: '" + "x" * 70000 + "'\n", ["more than any row needs"]),
        ("- id: far\n  title: '" + "x" * 5000 + "'\n", ["no need for text that long"]),
        ("- " + "[" * 50 + "]" * 50, ["no need for nesting"]),
        ("- " + "{a: " * 3000, ["no need for nesting"]),
        ('- id: far\n  title: "\\e[2J"\n', ["no need for control characters"]),
        ('- id: far\n  title: "\\u202egnp"\n', ["no need for control characters"]),
        (b"\xff\xfe\x00", ["not valid YAML"]),
        ("- id: 2020-99-99\n", ["not valid YAML"]),
        ("id: far\n", ["must be a list of rows"]),
        ("- 7\n", ["must be a list of rows"]),
        ("- {id: a, id: b}\n", ["stands twice"]),
    ],
)
def test_hostile_text_is_refused(text, words):
    with pytest.raises(RegistryError) as caught:
        read_foreign(text if isinstance(text, bytes) else text.encode(), "weights.yaml")
    for word in ("weights.yaml", *words):
        assert word in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- !!python/object/apply:os.system ['touch pwned']\n", ["no need for tags"]),
        ("[]", ["holds 0 rows"]),
        ("- {id: a}\n- {id: b}\n", ["holds 2 rows"]),
        (GOOD + "source: {path: /etc/passwd}}", ["/etc/passwd", "does not hold"]),
        (GOOD + "source: {path: ../../model.safetensors}}", ["does not hold"]),
        (GOOD + "source: {path: [model.safetensors]}}", ["does not hold"]),
        (GOOD + "source: {embedded: dcgan-fruit-64.safetensors}}", ["a file of the repository itself", "embedded"]),
        (GOOD + "source: {url: 'http://127.0.0.1/x'}}", ["a file of the repository itself"]),
        (
            GOOD + f"source: {{hub: somebody/else, file: model.safetensors, revision: {COMMIT}}}}}",
            ["repository itself"],
        ),
        (GOOD + "source: model.safetensors}", ["a file of the repository itself"]),
        (GOOD + "source: {path: model.safetensors}, aliases: [dcgan-fruit-64]}", ["aliases", "stranger"]),
        (GOOD + "source: {path: model.safetensors}, components: {clip: nothing}}", ["components", "stranger"]),
        (GOOD + "source: {path: model.safetensors}, paper: 'javascript:alert(1)'}", ["no web address"]),
        (GOOD + "source: {path: model.safetensors}, metrics: {fid: good}}", ["metrics.fid"]),
        (GOOD + "source: {path: model.safetensors}, resolution: 64}", ["says 64x64", "32x32"]),
        (GOOD + "source: {path: model.safetensors}, config: {name: x}}", ["far"]),
        (GOOD + "source: {path: model.safetensors}, config: {classes: {a: b}}}", ["far"]),
        (GOOD + "source: {path: model.safetensors}, golden: {seed: -1}}", ["golden must be"]),
        (GOOD + "source: {path: model.safetensors}, golden: {seed: 0, cells: [[[[1]]]]}}", ["golden must be"]),
        (GOOD + "source: {path: model.safetensors}, golden: {seed: 0, cells: [[a]]}}", ["golden must be"]),
        (GOOD.replace("far", "dcgan-fruit-64") + "source: {path: model.safetensors}}", ["has another", "--id"]),
        (GOOD.replace("far", "Far!") + "source: {path: model.safetensors}}", ["id must be lower-case"]),
        (GOOD.replace("generate", "component") + "source: {path: model.safetensors}}", ["no generator"]),
        (GOOD.replace("stylegan2", "dcgan") + "source: {path: model.safetensors}}", ["it is a 'stylegan2'", "dcgan"]),
        (GOOD + "source: {path: model.safetensors}, sha256: " + "b" * 64 + "}", ["not consistent", "bbbbbbbbbbbb"]),
        (GOOD + "source: {path: model.safetensors}, bytes: 5}", ["bytes where its row says 5"]),
    ],
)
def test_a_hostile_row_is_refused(run, tmp_path, published, text, words):
    published(text)
    code, out, error = run("add hf://owner/far --registry own.yaml")
    assert code == 2 and out == "", out
    for word in words:
        assert word in error, error
    assert len(error) < 1000 and "\x1b" not in error
    assert not (tmp_path / "own.yaml").exists() and not (tmp_path / "pwned").exists()


def test_a_file_that_changes_on_the_way_is_refused(run, tmp_path, published, server):  # noqa: F811
    sha256 = published()
    server.fault("GET", "wrong_bytes", path=sha256)
    code, _, error = run("add hf://owner/far --registry own.yaml")
    assert code == 2 and "not used" in error and not (tmp_path / "own.yaml").exists()


def test_rows_are_added_to_what_is_there(run, tmp_path, published):
    (tmp_path / "own.yaml").write_text("# mine\n" + GOOD.replace("far", "near") + "source: {path: seed/G.safetensors}}")
    sha256 = published(source={"hub": "owner/far", "file": "model.safetensors", "revision": "main"})
    code, out, error = run("add https://huggingface.co/owner/far --registry own.yaml --id far-away --json")
    assert code == 0, error
    made = json.loads(out)
    assert made["difference"] is None and made["row"]["sha256"] == sha256 and made["row"]["resolution"] == 32
    assert (tmp_path / "own.yaml").read_text().startswith("# mine\n- {id: near")
    near, far = read_rows(tmp_path / "own.yaml")
    assert (near.id, far.id, far.revision) == ("near", "far-away", COMMIT)
    assert load_registry().find("dcgan-fruit-64") and "far-away" not in [row.id for row in load_registry()]
    assert run("generate far-away --seeds 0 --registry own.yaml")[0] == 0
    (tmp_path / "flow.yaml").write_text("[]")
    code, _, error = run("add hf://owner/far --registry flow.yaml")
    assert code == 2 and "cannot be added to flow.yaml" in error and (tmp_path / "flow.yaml").read_text() == "[]"


def test_another_picture_than_promised_is_told(run, published):
    published(golden={"seed": 0, "cells": [[0, 0, 0] for _ in range(16)]})
    code, out, _ = run("add hf://owner/far --registry own.yaml")
    assert code == 0 and "Look before you use it" in out and "of 255 levels" in out


def test_a_repository_without_a_row(run, tmp_path, server):  # noqa: F811
    content = (write_run(tmp_path / "seed") / "G.safetensors").read_bytes()
    server.add("owner/Bare_GAN", "nets/G.safetensors", content)
    server.add("owner/Bare_GAN", "README.md", b"---\nlicense: cc-by-nc-4.0\n---\nHello", large=False)
    code, out, error = run("add hf://owner/Bare_GAN")
    assert code == 0, error
    row = load_registry().find("bare-gan")
    assert (row.license, row.commercial_use, row.family, row.resolution) == ("cc-by-nc-4.0", False, "stylegan2", 32)
    assert row.source.file == "nets/G.safetensors" and row.sha256 == hashlib.sha256(content).hexdigest()
    server.add("owner/Bare_GAN", "second.pth", b"x")
    code, _, error = run("add hf://owner/Bare_GAN --registry b.yaml")
    assert code == 2 and "2 files that may be checkpoints" in error
    server.add("owner/none", "README.md", b"Hello", large=False)
    code, _, error = run("add hf://owner/none")
    assert code == 2 and "holds none" in error
    server.add("owner/odd", "odd.safetensors", other_network(tmp_path))
    code, _, error = run("add hf://owner/odd")
    assert code == 2 and "no family known here" in error and "owner/odd" in error


def other_network(folder):
    from safetensors.torch import save_file

    save_file({"strange": torch.zeros(3)}, folder / "odd.safetensors")
    return (folder / "odd.safetensors").read_bytes()


def test_what_the_hub_does_not_have(run, server, published):  # noqa: F811
    published()
    assert "no model" in run("add hf://owner/nothing")[2]
    assert "no revision 'v2'" in run("add hf://owner/far@v2")[2]
    assert run(f"add hf://owner/far@{COMMIT}")[0] == 0
    server.fault("GET", "gated_401", path="/api/models/owner/far")
    assert "licence accepted first" in run("add hf://owner/far --id b")[2]


def test_reading_foreign_rows_gives_plain_data():
    rows = read_foreign(b"- {id: a, n: 1, t: [x, {y: 2}]}", "it")
    assert rows == [{"id": "a", "n": 1, "t": ["x", {"y": 2}]}]
