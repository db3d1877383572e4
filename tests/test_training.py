import csv
import json
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ganhub import checkpoint, models
from ganhub.data.pages import subjects
from ganhub.errors import BadInput
from ganhub.training import dcgan, embedded, mlp_gan

TINY = dcgan.Recipe(size=16, z_dim=6, ngf=4, ndf=4, batch=4, fewest=2)


def page(size=(127, 192), discs=((60, 50, 24),), colour=(200, 30, 20)):
    """A scanned page: black edge, yellowish paper, a caption, and discs (x, y, radius)."""
    picture = Image.new("RGB", size, (12, 10, 8))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((5, 5, size[0] - 6, size[1] - 6), fill=(250, 244, 226))
    draw.text((20, size[1] - 25), "Malus domestica", fill=(90, 80, 70))
    for x, y, radius in discs:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return picture


@pytest.fixture
def folder(tmp_path):
    """Twelve pages with one fruit each, of two kinds."""
    (tmp_path / "data/images").mkdir(parents=True)
    with (tmp_path / "data/labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "fruit", "year"])
        for number in range(12):
            colour = (40, 120, 30) if number % 4 == 0 else (200, 30 + number, 20)
            page(discs=((60, 50 + number, 22 + number % 3),), colour=colour).save(
                tmp_path / f"data/images/{number}.png"
            )
            writer.writerow([f"{number}.png", "lime" if number % 4 == 0 else "apple", 1900])
    return tmp_path / "data"


def test_subjects_are_cut_off_their_page():
    cuts = list(subjects(np.asarray(page(discs=((60, 50, 24), (62, 120, 21))))))
    assert len(cuts) == 2
    for cut, radius in zip(cuts, (24, 21), strict=True):
        assert cut.shape[0] == cut.shape[1] == pytest.approx(2 * radius * 1.16, abs=2)
        middle = cut.shape[0] // 2
        assert abs(cut[middle, middle].astype(int) - (200, 30, 20)).max() <= 2
        rim = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]]).astype(int)
        assert abs(rim - (250, 244, 226)).max() <= 12  # paper all round: no edge, no caption, no neighbour


def test_pages_without_a_subject_give_nothing():
    assert not list(subjects(np.asarray(page(discs=()))))
    assert not list(subjects(np.asarray(page(discs=((60, 60, 8),)))))  # too small
    assert not list(subjects(np.zeros((100, 80, 3), np.uint8)))  # no paper


def test_pack_reads_a_folder_and_says_what_it_lacks(folder, tmp_path):
    pictures, labels = dcgan.pack(folder, 16, "page")
    assert pictures.shape == (12, 16, 16, 3) and labels.count("lime") == 3
    pictures, _ = dcgan.pack(folder, 16, "centre")
    assert pictures.shape == (12, 16, 16, 3)
    with pytest.raises(BadInput, match="labels.csv"):
        dcgan.pack(tmp_path, 16, "page")
    (tmp_path / "labels.csv").write_text("file,fruit\n")
    with pytest.raises(BadInput, match="no picture"):
        dcgan.pack(tmp_path, 16, "page")


def test_kinds_are_balanced(folder):
    trainer = dcgan.Trainer(TINY, *dcgan.pack(folder, 16, "page"))
    real = torch.cat([trainer.real(100) for _ in range(20)])
    limes = (real[:, 0, 8, 8] < 0).float().mean()
    share = 3**0.5 / (3**0.5 + 9**0.5)
    assert limes == pytest.approx(share, abs=0.04)  # 0.37, not the quarter of the folder

    frequent = dcgan.Trainer(replace(TINY, fewest=4), *dcgan.pack(folder, 16, "page"))
    assert (frequent.real(200)[:, 0, 8, 8] > 0).all()
    with pytest.raises(BadInput, match="60 pictures"):
        dcgan.Trainer(replace(TINY, fewest=60), *dcgan.pack(folder, 16, "page"))


def test_augmentation_spares_and_changes():
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x.requires_grad_(True)
    assert torch.equal(dcgan.augment(x, 0.0, torch.Generator().manual_seed(0)), x)
    changed = dcgan.augment(x, 1.0, torch.Generator().manual_seed(0))
    assert ((changed - x).abs().amax((1, 2, 3)) > 0.05).all()
    changed.sum().backward()
    assert (x.grad.abs().amax((1, 2, 3)) > 0).all()


def test_digits_and_jitter():
    pictures, labels = mlp_gan.digits()
    assert pictures.shape == (1797, 1, 28, 28) and pictures.min() == -1 and pictures.max() == 1
    assert set(labels) == set(range(10))
    x = torch.from_numpy(pictures[:64])
    moved = mlp_gan.jitter(x, torch.Generator().manual_seed(0))
    assert moved.min() >= -1.001 and 0.05 < (moved - x).abs().mean() < 0.6


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_resumed_dcgan_ends_where_an_unbroken_one_does(folder, tmp_path):
    whole = dcgan.train(folder, tmp_path / "whole", TINY, images=24)
    dcgan.train(folder, tmp_path / "parts", TINY, images=12)
    parts = dcgan.train(folder, tmp_path / "parts", TINY, images=24, resume=True)
    assert same(whole, parts)
    assert not same(whole, dcgan.train(folder, tmp_path / "parts", TINY, images=12))  # without resume: anew

    read = models.read(checkpoint.read(tmp_path / "whole/G.safetensors"))
    z = torch.randn(4, 6)
    assert read.img_size == (16, 16) and (read(z) - whole(z)).abs().max() < 0.02  # half precision


def test_a_resumed_mlp_gan_ends_where_an_unbroken_one_does(tmp_path):
    recipe = mlp_gan.Recipe(z_dim=4, hidden=16, batch=8)
    whole = mlp_gan.train(tmp_path / "whole", recipe, images=64)
    mlp_gan.train(tmp_path / "parts", recipe, images=32)
    assert same(whole, mlp_gan.train(tmp_path / "parts", recipe, images=64, resume=True))
    read = models.read(checkpoint.read(tmp_path / "whole/G.safetensors"))
    z = torch.randn(4, 4)
    assert (read.z_dim, read.img_size) == (4, (28, 28)) and (read(z) - whole(z)).abs().max() < 0.02


def test_an_mlp_gan_learns_where_digits_are(tmp_path):
    torch.manual_seed(0)
    pictures = torch.from_numpy(mlp_gan.digits()[0])
    G = mlp_gan.train(tmp_path, mlp_gan.Recipe(hidden=64, batch=32, lr=1e-3), images=32 * 400)
    drawn = G(torch.randn(256, 64)).detach()
    mean, want = drawn.mean(0).flatten(), pictures.mean(0).flatten()
    assert torch.corrcoef(torch.stack([mean, want]))[0, 1] > 0.8
    assert drawn.std(0).mean() > 0.1  # and it draws more than one


def test_an_interrupt_saves_and_stops(tmp_path):
    recipe = mlp_gan.Recipe(z_dim=4, hidden=8, batch=8)
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    mlp_gan.train(tmp_path, recipe, images=10**12)
    assert time.monotonic() - began < 60
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert 0 < state["seen"] < 10**12 and state["seconds"] > 0
    assert signal.getsignal(signal.SIGINT) is before


def test_the_log_and_the_grids(folder, tmp_path):
    dcgan.train(folder, tmp_path / "run", replace(TINY, batch=640), images=6400 * 4)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["seen"] for line in lines] == [6400, 12800, 19200, 25600]
    assert all(line["per_second"] > 0 and np.isfinite(line["loss_d"]) for line in lines)
    assert Image.open(tmp_path / "run/grid-00025600.png").size == (160, 128)


def test_embedded_files_are_made_from_runs(folder, tmp_path, monkeypatch, capsys):
    tiny = embedded.Shipped(lambda data, out, images: dcgan.train(data, out, TINY, images=images, resume=True), 8)
    (tmp_path / "package/embedded").mkdir(parents=True)
    monkeypatch.setattr(embedded, "SHIPPED", {"tiny-gan": tiny})
    monkeypatch.setattr(embedded, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(embedded, "CARDS", tmp_path / "cards")
    monkeypatch.setattr("sys.argv", ["embedded", "--data", str(folder), "--runs", str(tmp_path / "runs")])
    embedded.main()
    printed = capsys.readouterr().out
    file = tmp_path / "package/embedded/tiny-gan.safetensors"
    assert f"bytes: {file.stat().st_size}" in printed and "golden: {seed: 0" in printed
    assert Image.open(tmp_path / "cards/tiny-gan.png").size == (128, 128)
