"""What ships inside the package is what the registry says, and draws."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from ganhub import checkpoint, hub, models
from ganhub.metrics.pictures import validate
from ganhub.pipelines.faces import align, find_faces
from ganhub.registry import EmbeddedSource, load_registry
from ganhub.training.embedded import CARDS, PACKAGE, SHIPPED, golden
from ganhub.training.loop import draw

EXAMPLES = PACKAGE / "tabs" / "examples"
ROWS = [row for row in load_registry() if isinstance(row.source, EmbeddedSource)]
each = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
GENERATORS = [row for row in ROWS if "generate" in row.task]
UPSCALERS = [row for row in ROWS if "upscale" in row.task]
AGEING = [row for row in ROWS if "age" in row.task]
each_generator = pytest.mark.parametrize("row", GENERATORS, ids=lambda row: row.id)


def test_something_is_embedded_and_every_file_has_its_row():
    trained = {row.id for row in ROWS if "direction" not in row.task}
    assert {"dcgan-fruit-64", "mlp-gan-digits"} <= trained <= set(SHIPPED)  # each can be remade
    assert {row.source.embedded for row in ROWS} == {file.name for file in (PACKAGE / "embedded").iterdir()}


@each
def test_file_is_what_its_row_says(row):
    file = hub.fetch(row, offline=True)
    data = file.read_bytes()
    assert hashlib.sha256(data).hexdigest() == row.sha256 and len(data) == row.bytes
    assert data[8:9] == b"{"  # safetensors: nothing to convert, nothing to run
    assert len(data) < 12_000_000


@pytest.fixture
def network(row):
    return models.read(checkpoint.read(hub.fetch(row, offline=True)), row.family, **row.config)


@each_generator
def test_seed_0_draws_the_golden_picture(row, network):
    assert network.img_size == (row.resolution, row.resolution)
    assert row.golden["seed"] == 0
    difference = np.abs(np.array(golden(network)) - np.array(row.golden["cells"])).max()
    assert difference <= 1


@pytest.mark.parametrize("row", UPSCALERS, ids=lambda row: row.id)
def test_photos_come_out_nearer_to_the_truth_or_sharper_than_by_bicubic(row, network):
    assert np.abs(np.array(golden(network)) - np.array(row.golden["cells"])).max() <= 1
    for name in ("cat.png", "coffee.png"):
        photo = np.asarray(Image.open(EXAMPLES / name).convert("RGB"))[:240, :240]
        found = validate(network, [photo], network.scale)
        gain = found["psnr_y"] - found["bicubic_psnr_y"]
        assert gain > 0.5 if row.id == "srresnet-x4" else gain > -1, name  # what an SRGAN invents costs decibels
        least = 1.5 if row.id == "srresnet-x4" else 2.5
        assert found["sharpness"] > least * found["bicubic_sharpness"], name


@pytest.mark.parametrize("row", AGEING, ids=lambda row: row.id)
def test_a_face_becomes_older_and_younger_by_no_pattern(row, network):
    photo = Image.open(EXAMPLES / "woman_54.jpg").convert("RGB")
    aligned = align(photo, find_faces(photo, "eyes")[0], row.preprocess)
    assert aligned.picture.size == (row.resolution, row.resolution)
    x = torch.from_numpy(np.array(aligned.picture)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        older, younger = ((network.eval()(x, 50, age) - x)[:, :, 32:96, 32:96] for age in (80, 20))
    for change in (older, younger):
        assert 0.02 < change.abs().mean() < 0.1
        # dots would be gone in the mean of four pixels; what is drawn here is not
        assert torch.nn.functional.avg_pool2d(change, 2).std() > 0.82 * change.std()
    brows = (slice(None), slice(None), slice(12, 26))
    assert older[brows].mean() - older.mean() > 0.02 > -0.02 > younger[brows].mean() - younger.mean()


@each_generator
def test_pictures_differ(row, network):
    pictures = draw(network, range(64)).float() / 255
    assert pictures.std(dim=0).mean() > 0.08  # from seed to seed
    assert pictures.flatten(1).std(dim=1).min() > 0.03  # and within each
    flat = pictures.flatten(1)
    nearest = (torch.cdist(flat, flat) + torch.eye(64) * 1e9).min(dim=1).values / flat.shape[1] ** 0.5
    assert nearest.min() > 0.02  # no two are the same


@each
def test_every_row_has_an_honest_card(row):
    name = "directions" if "direction" in row.task else row.id  # all directions stand in one table
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert row.id in card
    if row in GENERATORS:
        assert f"({row.id}.png)" in card and (CARDS / f"{row.id}.png").stat().st_size < 300_000
    for heading in ("## Training", "## What was measured", "## Limits"):
        assert heading in card
    assert row.license in card and row.credit and row.dataset
