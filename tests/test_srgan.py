"""Both phases of SRGAN on a handful of small photos."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ganhub import checkpoint, models
from ganhub.data.photos import PhotoSet
from ganhub.errors import BadInput
from ganhub.metrics.pictures import imresize
from ganhub.training import loop, options, srgan
from ganhub.training.degrade import degrade, shrink
from ganhub.training.perceptual import Perceptual

TINY = srgan.Settings(channels=8, blocks=1, ndf=4, patch=32, batch=4, pretrain=0.012, hold_out=3, precision="float32")


def scene(seed, size=(90, 70)):
    """Coloured discs on a gradient."""
    rs = np.random.RandomState(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    picture = np.stack([x * 2 % 256, y * 2 % 256, (x + y) % 256], 2).astype(np.uint8)
    for _ in range(12):
        cy, cx, r = rs.uniform(0, size[1]), rs.uniform(0, size[0]), rs.uniform(3, 12)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = rs.randint(0, 256, 3)
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        Image.fromarray(scene(i)).save(folder / f"{i}.png")
    Image.fromarray(scene(9, (20, 20))).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"nothing")
    (folder / "dataset.json").write_text(json.dumps({"license": "CC0-1.0", "credit": "nobody"}))
    return folder


@pytest.fixture(scope="module")
def photos(folder):
    return srgan.open_data(folder, TINY)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_photos_are_split_by_photo(photos, folder):
    assert [f.name for f in photos.files] == [f"{i}.png" for i in range(6)]  # the small and the broken one are left out
    assert photos.held_out == [2, 5] and photos.trained == [0, 1, 3, 4]
    assert photos.license == "CC0-1.0" and photos.credit == "nobody" and len(photos.sha256) == 64
    half = PhotoSet(folder, shrink=0.5)
    assert half.photos[0].shape == (35, 45, 3) and not half.held_out
    for path, words in ((folder / "0.png", "no folder"), (folder, "at least 500")):
        with pytest.raises(BadInput, match=words):
            PhotoSet(path, least=500)


def test_patches_show_the_same_place(photos):
    trainer = srgan.Trainer(TINY, photos)
    given, true = trainer.patches(32)
    assert given.shape == (32, 3, 8, 8) and true.shape == (32, 3, 32, 32)
    # Whatever was mirrored or turned: the large patch made small is the small one, but for its rim.
    again = shrink(true * 255, 4).round()
    apart = (again - given * 255).abs()[:, :, 1:-1, 1:-1]
    assert apart.mean() < 1 and len({tuple(p.flatten().tolist()) for p in true}) > 20


def test_photos_are_made_small_as_matlab_does():
    picture = scene(0, (96, 64))
    small = shrink(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), 4)[0].permute(1, 2, 0)
    apart = np.abs(small.round().clamp(0, 255).numpy() - imresize(picture, 1 / 4).astype(float))[1:-1, 1:-1]
    assert apart.max() <= 2 and apart.mean() < 0.2  # MATLAB rounds after each axis


def test_degraded_patches():
    true = torch.from_numpy(scene(0, (64, 64))).permute(2, 0, 1)[None].repeat(24, 1, 1, 1).float() / 255
    clean = shrink(true, 4).clamp(0, 1)
    worse = degrade(true, 4, torch.Generator().manual_seed(0))
    assert worse.shape == clean.shape and worse.min() >= 0 and worse.max() <= 1
    apart = (worse - clean).abs().mean((1, 2, 3))
    assert apart.min() > 0.001 and apart.max() < 0.15 and apart.std() > 0.002
    again = degrade(true, 4, torch.Generator().manual_seed(0))
    assert torch.equal(worse, again)


def test_the_first_phase_learns_and_the_second_begins(photos):
    trainer = srgan.Trainer(replace(TINY, pretrain=0.4, lr=2e-3), photos)
    first = [float(trainer.step()["loss_pixel"].detach()) for _ in range(100)]
    assert np.mean(first[-10:]) < 0.8 * np.mean(first[:10])
    D = {key: value.clone() for key, value in trainer.D.state_dict().items()}
    assert trainer.adversarial
    figures = trainer.step()
    assert {"loss_d", "loss_g", "loss_look", "loss_pixel"} <= set(figures)
    assert not torch.equal(D["body.0.weight"], trainer.D.state_dict()["body.0.weight"])
    measured = trainer.measure(trainer.averaged())
    assert measured["psnr_y"] > 10 and measured["bicubic_psnr_y"] > 10
    assert trainer.sheet(trainer.averaged()).size == (3 * 192, 2 * 192)


def test_a_run_goes_on_where_it_was(photos, tmp_path):
    """Six steps, three of each phase, equal two, a stop, and four."""

    def run(out, images, resume=False):
        trainer = srgan.Trainer(TINY, photos)
        loop.train(trainer, out, images=images, snap=8, data=photos, resume=resume, measure=trainer.measure)
        return trainer

    straight = run(tmp_path / "a", 24)
    run(tmp_path / "b", 8)
    halves = run(tmp_path / "b", 24, resume=True)
    for name in ("G", "D", "average"):
        assert same(getattr(straight, name), getattr(halves, name)), name
    assert {"run.json", "grid.png", "metrics.png", "G.safetensors"} <= {f.name for f in (tmp_path / "b").iterdir()}
    about = json.loads((tmp_path / "b" / "run.json").read_text())
    assert about["data"]["license"] == "CC0-1.0" and about["data"]["pictures"] == 6
    raw = checkpoint.read(tmp_path / "b" / "G.safetensors")
    assert models.detect(raw) == "srresnet" and models.read(raw).scale == 4


def test_weights_are_taken_over(photos, tmp_path):
    trainer = srgan.Trainer(TINY, photos)
    loop.train(trainer, tmp_path, images=4, snap=4)
    other = srgan.Trainer(replace(TINY, seed=1), photos)
    said = other.transfer(tmp_path / "snapshot-000000.004.safetensors")
    assert set(said) == {"G", "D"}
    assert float((other.G.first[0].weight - trainer.average.first[0].weight).detach().abs().max()) < 1e-3
    wider = srgan.Trainer(replace(TINY, channels=12), photos)
    with pytest.raises(Exception, match="does not fit"):
        wider.transfer(tmp_path / "G.safetensors")


def test_settings_that_cannot_be_are_told(photos):
    for wrong in ({"scale": 3}, {"patch": 30}, {"loss": "l2"}, {"batch": 0}, {"precision": "half"}):
        with pytest.raises(BadInput):
            srgan.Trainer(replace(TINY, **wrong), photos)
    with pytest.raises(BadInput, match="small"):
        Perceptual("inception-of-somebody")


def test_the_look_is_nought_for_equals_and_grows_with_the_difference():
    look = Perceptual("small")
    true = torch.from_numpy(scene(1, (64, 64))).permute(2, 0, 1)[None].float() / 255
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0))
    far = [float(look((true + s * noise).clamp(0, 1), true)) for s in (0.0, 0.02, 0.1)]
    assert far[0] < 1e-5 and 1e-3 < far[1] < far[2]


def test_the_command(folder, tmp_path):
    arguments = [
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--kimg",
        "0.008",
        "--channels",
        "8",
        "--blocks",
        "1",
    ]
    arguments += ["--patch", "32", "--batch", "4", "--pretrain", "1", "--hold-out", "3", "--norm"]
    assert options.run(srgan, "srgan", arguments) == tmp_path / "run"
    assert (tmp_path / "run" / "G.safetensors").exists()
