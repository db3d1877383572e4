"""From the Hub into the own registry: what a stranger may say, and what is refused."""

import hashlib
import json

import pytest
import torch
import yaml
from hub_rig import server
from hub_server import COMMIT
from publish_rig import run, write_run

from ganhub.errors import BadInput, GanHubError, RegistryError
from ganhub.hub.upload import HubFile, Repository
from ganhub.pipelines.add import parse, read_row
from ganhub.registry import load_registry, read_foreign, read_rows

__all__ = ["run", "server"]


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
def published(server, tmp_path):
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
        ("[]", ["holds 0 rows"]),
        ("- {id: a}\n- {id: b}\n", ["holds 2 rows"]),
        (GOOD + "source: {path: /etc/passwd}}", ["/etc/passwd", "does not hold"]),
        (GOOD + "source: {path: ../../model.safetensors}}", ["does not hold"]),
        (GOOD + "source: {path: [model.safetensors]}}", ["does not hold"]),
        (GOOD + "source: {embedded: dcgan-fruit-64.safetensors}}", ["a file of the repository itself", "embedded"]),
        (GOOD + "source: {url: 'http://127.0.0.1/x'}}", ["a file of the repository itself"]),
        (GOOD + "source: model.safetensors}", ["a file of the repository itself"]),
        (GOOD + "source: {path: model.safetensors}, aliases: [dcgan-fruit-64]}", ["aliases", "stranger"]),
        (GOOD + "source: {path: model.safetensors}, components: {clip: nothing}}", ["components", "stranger"]),
        (GOOD + "source: {path: model.safetensors}, paper: 'javascript:alert(1)'}", ["no web address"]),
        (GOOD + "source: {path: model.safetensors}, metrics: {fid: good}}", ["metrics.fid"]),
        (GOOD.replace("far", "Far!") + "source: {path: model.safetensors}}", ["id must be lower-case"]),
        (GOOD.replace("generate", "component") + "source: {path: model.safetensors}}", ["no generator"]),
        (GOOD + "source: {path: model.safetensors}, sha256: " + "b" * 64 + "}", ["not consistent", "bbbbbbbbbbbb"]),
        (
            GOOD + f"source: {{hub: somebody/else, file: model.safetensors, revision: {COMMIT}}}}}",
            ["repository itself"],
        ),
    ],
)
def test_a_hostile_row_is_refused(text, words):
    files = {"model.safetensors": HubFile(5, "a" * 64, None), "weights.yaml": HubFile(5, None, "b" * 40)}
    with pytest.raises(GanHubError) as caught:
        read_row(text.encode(), Repository("owner/far", COMMIT, "https://hub/owner/far", files, "mit"))
    for word in ("owner/far", *words):
        assert word in caught.value.message, caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- !!python/object/apply:os.system ['touch pwned']\n", ["no need for tags"]),
        (GOOD + "source: {path: model.safetensors}, resolution: 64}", ["says 64x64", "32x32"]),
        (GOOD + "source: {path: model.safetensors}, config: {name: x}}", ["far"]),
        (GOOD + "source: {path: model.safetensors}, config: {classes: {a: b}}}", ["far"]),
        (GOOD + "source: {path: model.safetensors}, golden: {seed: -1}}", ["golden must be"]),
        (GOOD + "source: {path: model.safetensors}, golden: {seed: 0, cells: [[a]]}}", ["golden must be"]),
        (GOOD.replace("far", "dcgan-fruit-64") + "source: {path: model.safetensors}}", ["has another", "--id"]),
        (GOOD.replace("stylegan2", "dcgan") + "source: {path: model.safetensors}}", ["it is a 'stylegan2'", "dcgan"]),
        (GOOD + "source: {path: model.safetensors}, bytes: 5}", ["bytes where its row says 5"]),
    ],
)
def test_a_row_that_does_not_fit_is_not_added(run, tmp_path, published, text, words):
    published(text)
    code, out, error = run("add hf://owner/far --registry own.yaml")
    assert code == 2 and out == "", out
    for word in words:
        assert word in error, error
    assert not (tmp_path / "own.yaml").exists() and not (tmp_path / "pwned").exists()


def test_a_file_that_changes_on_the_way_is_refused(run, tmp_path, published, server):
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


def test_a_repository_without_a_row(run, tmp_path, server):
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


def test_what_the_hub_does_not_have(run, server, published):
    published()
    assert "no model" in run("add hf://owner/nothing")[2]
    assert "no revision 'v2'" in run("add hf://owner/far@v2")[2]
    assert run(f"add hf://owner/far@{COMMIT}")[0] == 0
    server.fault("GET", "gated_401", path="/api/models/owner/far")
    assert "licence accepted first" in run("add hf://owner/far --id b")[2]


def test_reading_foreign_rows_gives_plain_data():
    rows = read_foreign(b"- {id: a, n: 1, t: [x, {y: 2}]}", "it")
    assert rows == [{"id": "a", "n": 1, "t": ["x", {"y": 2}]}]
