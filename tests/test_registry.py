"""The registry: its messages, and every row of weights.yaml."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from ganhub import hub
from ganhub.errors import RegistryError
from ganhub.registry import (
    FAMILIES,
    EmbeddedSource,
    HubSource,
    ManualSource,
    PathSource,
    UrlSource,
    builtin_file,
    check_direction,
    load_registry,
    read_rows,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD = f"""\
- id: some-gan
  task: generate
  family: stylegan2
  source: {{hub: owner/name, file: folder/model.pt, revision: {COMMIT}}}
  dataset: FFHQ
  resolution: 1024
  title: Some GAN
  license: MIT
  commercial_use: true
"""
DIRECTION = """\
- id: DIRECTION
  task: direction
  family: stylegan2
  source: {url: https://server/age.pt}
  generator: {family: stylegan2, dataset: FFHQ, resolution: 1024, space: w, w_dim: 512}
  title: Age
  license: MIT
  commercial_use: true
"""


@pytest.fixture
def rows(tmp_path):
    """`rows("text")` reads a registry of that text."""

    def read(text, name="rows.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return read_rows(file)

    return read


def refused(rows, text, *words):
    with pytest.raises(RegistryError) as caught:
        rows(text)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message and "rows.yaml" in message, message
    for word in words:
        assert word in message, message
    return message


def test_a_good_row(rows):
    (row,) = rows(GOOD)
    assert row.task == ("generate",) and row.revision == COMMIT and row.resolution == 1024
    assert isinstance(row.source, HubSource) and row.source.repo_type == "model"


def replaced(old, new, text=GOOD):
    assert old in text
    return text.replace(old, new)


SOURCE = f"{{hub: owner/name, file: folder/model.pt, revision: {COMMIT}}}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  title: Some GAN\n", "", ["title is missing"]),
        ("license: MIT", "license: ''", ["license"]),
        ("license: MIT", "licence: MIT", ["licence is no field", "did you mean 'license'", "license is missing"]),
        ("commercial_use: true", "commercial_use: perhaps", ["commercial_use must be"]),
        ("task: generate", "task: generat", ["task.0 must be 'generate'"]),
        ("task: generate", "task: []", ["task"]),
        ("family: stylegan2", "family: stylegan22", ["stylegan22", "did you mean 'stylegan2'"]),
        ("family: stylegan2", "family: qqq", ["no file in ganhub/models", "stylegan2"]),
        ("resolution: 1024", "resolution: big", ["resolution"]),
        ("resolution: 1024", "sha256: abc", ["sha256 must be 64 lower-case hex digits"]),
        ("resolution: 1024", "git_blob_sha1: abc", ["git_blob_sha1 must be 40"]),
        ("resolution: 1024", "bytes: 0", ["bytes must be greater than 0"]),
        ("resolution: 1024", "config: {born: 2020-01-01}", ["config must hold only"]),
        ("resolution: 1024", "golden: {psnr: .nan}", ["golden must hold only"]),
        ("resolution: 1024", "17: x", ["17"]),
        ("id: some-gan", "id: Some GAN", ["'Some GAN'", "id must be lower-case"]),
        ("id: some-gan\n  ", "", ["'?'", "id is missing"]),
        (COMMIT, "main", ["source.revision must be a full 40-hex commit, not a branch"]),
        (COMMIT, "../../../escaped", ["source.revision"]),
        ("owner/name", "owner", ["source.hub must be owner/name"]),
        ("folder/model.pt", "../model.pt", ["source.file", "inside its folder"]),
        ("folder/model.pt", "/etc/passwd", ["source.file", "inside its folder"]),
        (", revision:", ", repotype: space, revision:", ["source.repotype is no field", "did you mean 'repo_type'"]),
        (f", revision: {COMMIT}", "", ["source.revision is missing"]),
        (f"  source: {SOURCE}\n", "", ["source is missing"]),
        (SOURCE, "owner/name", ["source must be a mapping with one of embedded, hub, url, path, manual"]),
        (SOURCE, "{huub: owner/name}", ["source has none of", "did you mean 'hub'"]),
        (SOURCE, "{}", ["source has none of embedded, hub, url, path, manual"]),
        (SOURCE, "{url: https://x/y, path: x}", ["source names url and path"]),
        (SOURCE, "{url: ftp://server/file}", ["source.url must be an address that begins with http"]),
        (SOURCE, "{path: [x]}", ["source.path must be"]),
        (SOURCE, "{embedded: ../x}", ["source.embedded"]),
        (SOURCE, "{manual: https://server/page}", ["source.file is missing"]),
    ],
)
def test_a_wrong_row_is_named_with_its_field(rows, old, new, words):
    message = refused(rows, replaced(old, new), "line 1", *words)
    assert message.count("source") <= 2, "one problem, not one for each kind of source"


def test_the_second_row_is_named_with_its_line(rows):
    refused(rows, GOOD + replaced("title: Some GAN", "title: [1]"), "line 10", "title must be")


def test_all_problems_are_told_at_once(rows):
    text = replaced(COMMIT, "main", replaced("title: Some GAN", "titel: Some GAN"))
    refused(rows, text, "source.revision", "titel is no field, did you mean 'title'", "title is missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id: x", ["must be a list of rows"]),
        ("- x", ["line 1", "must be a mapping"]),
        ("- id: x\n  id: y", ["line 1", "'id' stands twice"]),
        ("- id: [x", ["not valid YAML at line"]),
        ("- id: x\n\t- y", ["not valid YAML at line 2"]),
        ("- !!python/object/apply:os.system [true]", ["not valid YAML"]),
    ],
)
def test_a_file_that_is_no_registry(rows, text, words):
    refused(rows, text, *words)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        read_rows(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RegistryError, match="binary.yaml is not valid YAML"):
        read_rows(tmp_path / "binary.yaml")


def test_an_empty_file_has_no_rows(rows):
    assert rows("# nothing yet\n") == [] == rows("[]")


def test_a_path_is_taken_from_the_folder_of_its_file(rows, tmp_path, monkeypatch):
    (row,) = rows(replaced(SOURCE, "{path: weights/own.pt}"))
    assert isinstance(row.source, PathSource) and row.source.path == str(tmp_path / "weights" / "own.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    (row,) = rows(replaced(SOURCE, "{path: ~/own.pt}"))
    assert row.source.path == str(tmp_path / "own.pt")


# --- several files


def test_rows_of_several_files(tmp_path, monkeypatch):
    files = []
    for name in ("one", "two", "three"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(replaced("some-gan", f"own-{name}").replace("  title", f"  aliases: [old-{name}]\n  title"))
        files.append(file)
    builtin = len(load_registry())
    monkeypatch.setenv("GANHUB_REGISTRY", f"{files[0]}:{files[1]}")
    registry = load_registry(files[2])
    assert [row.id for row in registry][-3:] == ["own-one", "own-two", "own-three"] and len(registry) == builtin + 3
    assert registry.find("old-two").id == "own-two"
    monkeypatch.chdir(tmp_path)
    again = ["one.yaml", files[2], files[2]]
    assert len(load_registry(again)) == builtin + 3, "a file named twice, in whatever words, is read once"
    monkeypatch.setenv("GANHUB_REGISTRY", str(tmp_path / "none.yaml"))
    with pytest.raises(RegistryError, match="none.yaml"):
        load_registry()


@pytest.mark.parametrize("field", ["id: some-gan", "id: other-gan\n  aliases: [some-gan]"])
def test_two_rows_of_one_name(tmp_path, field):
    file = tmp_path / "rows.yaml"
    file.write_text(GOOD + replaced("id: some-gan", field))
    with pytest.raises(RegistryError, match="Two rows are called 'some-gan'"):
        load_registry(file)


def test_an_unknown_id():
    with pytest.raises(RegistryError, match="did you mean 'stylegan2-ffhq-1024'") as caught:
        load_registry().find("stylegan2-ffhq-102")
    assert caught.value.code == "not_found"
    with pytest.raises(RegistryError, match="ganhub list"):
        load_registry().find("§")


def test_components_are_rows(tmp_path):
    file = tmp_path / "rows.yaml"
    file.write_text(replaced("  title", "  components: {features: vgg-16}\n  title"))
    with pytest.raises(RegistryError, match="'some-gan': components.features is 'vgg-16'.*did you mean 'vgg16'"):
        load_registry(file)
    file.write_text(replaced("  title", "  components: {features: vgg16}\n  title"))
    assert load_registry(file).find("some-gan").components == {"features": "vgg16"}


# --- directions


def test_a_direction_names_its_generator(rows):
    text = replaced(
        "  generator: {family: stylegan2, dataset: FFHQ, resolution: 1024, space: w, w_dim: 512}\n", "", DIRECTION
    )
    refused(rows, text.replace("DIRECTION", "age"), "names the family and dataset of the generator")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("family: stylegan2,", "family: stylegan1,", "family stylegan1, and this one has stylegan2"),
        ("dataset: FFHQ", "dataset: CelebA-HQ", "dataset CelebA-HQ, and this one has FFHQ"),
        ("resolution: 1024", "resolution: [1024, 512]", "resolution"),
        ("w_dim: 512", "w_dim: 256", "w_dim 256, and this one has 512"),
    ],
)
def test_a_direction_of_another_generator_is_refused(tmp_path, old, new, reason):
    file = tmp_path / "rows.yaml"
    wrong = replaced(old, new, DIRECTION).replace("DIRECTION", "wrong")
    file.write_text(GOOD + DIRECTION.replace("DIRECTION", "right") + wrong)
    registry = load_registry(file)
    generator = registry.find("some-gan")
    check_direction(registry.find("right"), generator, w_dim=512)
    with pytest.raises(RegistryError, match="'wrong' does not fit 'some-gan'") as caught:
        check_direction(registry.find("wrong"), generator, w_dim=512)
    assert reason in caught.value.message and caught.value.code == "wrong_generator"
    offered = [row.id for row in registry.directions_for(generator, w_dim=512)]
    assert "right" in offered and "wrong" not in offered
    with pytest.raises(RegistryError, match="is no direction"):
        check_direction(generator, generator)


def test_built_in_directions_are_offered_to_their_own_generators_alone():
    registry = load_registry()
    every = registry.for_task("direction")
    faces = [row.id for row in every if row.generator["dataset"] == "FFHQ"]
    own = ("portraits", "fruit")
    inside = {name: [row.id for row in every if row.id.startswith(f"direction-{name}-")] for name in own}
    assert len(faces) >= 15 and all(len(names) >= 3 for names in inside.values())
    for row in registry.for_task("generate"):
        offered = [d.id for d in registry.directions_for(row, w_dim=128 if row.id.startswith("stylegan2-") else 512)]
        if row.family == "stylegan2" and row.dataset == "FFHQ" and row.resolution == 1024:
            assert [d.id for d in registry.directions_for(row, w_dim=512)] == faces, row.id
        elif row.family == "stylegan2" and row.id.removeprefix("stylegan2-") in inside:
            assert offered == inside[row.id.removeprefix("stylegan2-")], row.id
        else:
            assert offered == [] and "directions" not in row.task, row.id
            continue
        assert "directions" in row.task, row.id


# --- weights.yaml

REGISTRY = list(load_registry())

NO_HASH = re.findall(
    r"\S+",
    """
stylegan2-ada-metfaces-1024 stylegan2-ada-afhqcat-512 stylegan2-ada-afhqdog-512 stylegan2-ada-brecahad-512
stylegan3-t-animefaces stylegan3-r-ffhq-1024 stylegan3-r-ffhqu-1024 stylegan3-r-ffhqu-256 stylegan3-r-metfaces-1024
stylegan3-r-metfacesu-1024 stylegan3-r-afhqv2-512 stylegan3-t-ffhq-1024 stylegan3-t-ffhqu-1024 stylegan3-t-ffhqu-256
stylegan3-t-metfaces-1024 stylegan3-t-metfacesu-1024 stylegan3-t-afhqv2-512 stylegan2-lions-512 stylegan2-dogs-1024
stylegan2-horses-256 stylegan2-elephants-512 stylegan2-giraffes-512 stylegan2-parrots-512 stylegan2-bicycles-256
stylegan2-lions-512-nvidia stylegan2-dogs-1024-nvidia stylegan2-horses-256-nvidia stylegan2-elephants-512-nvidia
stylegan2-ffhq-256-nvidia stylegan2-ffhqu-1024-nvidia stylegan2-ffhqu-256-nvidia stylegan2-celebahq-256-nvidia
stylegan2-metfacesu-1024-nvidia stylegan2-afhqv2-512-nvidia stylegan2-lsundog-256-nvidia
stylegan2-ada-afhqcat-512-nvidia stylegan2-ada-afhqwild-512-nvidia stylegan2-ada-ffhq-1024-nvidia
stylegan2-lhq-256-nvidia stylegan2-omniart stylegan2-transfer-ffhq-256 stylegan2-transfer-ffhq-512
stylegan2-transfer-ffhq-1024 stylegan2-transfer-celebahq-256 stylegan2-transfer-lsundog-256
stylegan2-ffhq-256-rosinality stylegan3-human-512 dcgan-mnist-huggan esrgan-x4 srgan-imagenet-x4 srgan-imagenet-x2
srgan-imagenet-x8 srresnet-imagenet-x4 srresnet-imagenet-x2 srresnet-imagenet-x8 fran stackgan2-birds
stackgan2-bedroom stackgan2-church stackgan2-dog stackgan2-cat stackgan-coco char-cnn-rnn-birds char-cnn-rnn-flowers
char-cnn-rnn-coco clip-vit-b-32 clip-mobileclip2-s0
""",
)
"""Rows whose pages show no hash; their first download is recorded in weights.lock."""


def test_rows_without_a_hash_are_these_alone():
    without = [row.id for row in REGISTRY if row.sha256 is None and row.git_blob_sha1 is None]
    assert sorted(without) == sorted(NO_HASH)


@pytest.mark.parametrize("row", REGISTRY, ids=[row.id for row in REGISTRY])
def test_a_row_of_weights_yaml(row):
    assert row.title and row.credit or row.license == "unstated"
    assert row.planned == (row.family not in (*FAMILIES, "face_alignment"))  # which a library runs
    assert row.license != "nvidia-source-code-nc" or not row.commercial_use
    assert row.license != "unstated" or not row.commercial_use
    assert not row.paper or row.paper.startswith("https://")
    json.dumps(row.model_dump(), allow_nan=False)
    if isinstance(row.source, EmbeddedSource):
        assert row.sha256, "what is shipped has a hash"
        assert hub.status(row).on_disk
    else:
        assert row.source_url.startswith("https://")
    if isinstance(row.source, UrlSource):
        assert row.source.url.startswith("https://")
        branch = "/main/" in row.source.url or "/master/" in row.source.url
        assert not branch or "huggingface.co" in row.source.url
    if isinstance(row.source, ManualSource):
        assert row.source.manual.startswith("https://drive.google.com/")
    if "generate" in row.task and not row.planned:
        assert row.resolution or row.id in ("stylegan3-t-animefaces", "stylegan2-omniart")


def test_titles_tell_rows_apart():
    titles = [row.title for row in REGISTRY if "generate" in row.task]
    assert len(titles) == len(set(titles)), sorted(t for t in titles if titles.count(t) > 1)


def test_what_needs_no_network_comes_first():
    embedded = [isinstance(row.source, EmbeddedSource) for row in REGISTRY]
    assert embedded == sorted(embedded, reverse=True)


def test_each_licence_and_credit_stands_in_the_notice():
    notice = (builtin_file().parent / "NOTICE").read_text()
    names = {
        "nvidia-source-code-nc": "NVIDIA Source Code License",
        "unstated": "No licence stated",
        "apple-amlr": "Apple Machine Learning Research",
    }
    for licence in {row.license for row in REGISTRY}:
        assert names.get(licence, licence) in notice, licence


def test_the_file_is_read_fast_and_alone():
    """The registry is needed by every command: no heavy import, no second reading."""
    code = "import sys; import ganhub.registry; print([m for m in ('torch', 'numpy', 'gradio') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=builtin_file().parent
    )
    assert out.stdout.strip() == "[]"


def test_no_hash_is_read_as_a_number():
    for entry in yaml.safe_load(builtin_file().read_text()):
        for value in (entry.get("sha256", ""), entry.get("git_blob_sha1", ""), entry["source"].get("revision", "")):
            assert isinstance(value, str), entry["id"]
