"""The shared loop, the command, and the small recipes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ganhub import checkpoint, models
from ganhub.cli import main
from ganhub.data.dataset import PictureSet, write_set
from ganhub.errors import BadInput, TrainingError
from ganhub.training import dcgan, embedded, loop, mlp_gan, options, sagan, stylegan2
from ganhub.training.workers import Workers

TINY = {
    "mlp_gan": (mlp_gan, mlp_gan.Settings(z_dim=4, hidden=16, batch=8)),
    "mlp_gan-digits": (mlp_gan, mlp_gan.Settings(z_dim=4, hidden=16, batch=8, loss="hinge")),
    "dcgan": (dcgan, dcgan.Settings(z_dim=6, ngf=4, ndf=4, batch=8, precision="float32")),
    "dcgan-spectral": (
        dcgan,
        dcgan.Settings(
            z_dim=6, ngf=4, ndf=4, batch=8, loss="hinge", spectral=True, aug="ada", mirror=True, balance=True
        ),
    ),
    "sagan": (sagan, sagan.Settings(z_dim=6, ngf=8, ndf=8, batch=8, attention=8, aug="ada")),
}
each = pytest.mark.parametrize("name", TINY)


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    """64 discs of 16x16, most of them red, the others green."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:16, :16]
    pictures, labels = [], []
    for number in range(64):
        picture = np.full((16, 16, 3), (240, 230, 200), np.uint8)
        dx, dy = rng.uniform(6.5, 8.5, 2)
        labels.append(int(number % 4 == 0))
        picture[(x - dx) ** 2 + (y - dy) ** 2 < 20] = (40, 140, 30) if labels[-1] else (200, 40, 30)
        pictures.append(picture)
    file = tmp_path_factory.mktemp("sets") / "art.zip"
    names = [f"{number}.png" for number in range(64)]
    write_set(file, pictures, names=names, labels=labels, classes=["red", "green"], license="CC0-1.0", credit="nobody")
    return PictureSet(file)


def trained(name, art, out, images, **how):
    recipe, settings = TINY[name]
    data = mlp_gan.own_data() if name == "mlp_gan-digits" else art
    trainer = recipe.Trainer(settings, data, Workers("cpu"))
    loop.train(trainer, out, images=images, snap=16, data=data, **how)
    return trainer


def alike(a, b):
    """Whether two states are equal, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# --- Resuming


@each
def test_a_resumed_training_ends_where_an_unbroken_one_does(name, art, tmp_path):
    whole = trained(name, art, tmp_path / "whole", 64)
    trained(name, art, tmp_path / "parts", 32)
    parts = trained(name, art, tmp_path / "parts", 64, resume=True)
    assert alike(whole.state(), parts.state())
    anew = trained(name, art, tmp_path / "parts", 32)
    assert anew.seen == 32 and not alike(whole.state(), anew.state())


@each
def test_what_is_shipped_draws_what_was_trained(name, art, tmp_path):
    trainer = trained(name, art, tmp_path, 32)
    whole = trainer.averaged()
    read = models.read(checkpoint.read(tmp_path / "G.safetensors"))
    z = torch.randn(16, read.z_dim)
    assert read.img_size == ((28, 28) if "digits" in name else (16, 16))
    assert (read(z) - whole(z)).abs().max() < 0.02  # half precision
    raw = checkpoint.read(max(tmp_path.glob("snapshot-*.safetensors")))
    assert list(raw.networks) == ["G", "G_train", "D"] and raw.extra["family"] == trainer.family
    D = models.read(raw, part="D")
    pictures = read(z)
    assert torch.allclose(D(pictures), trainer.D.eval()(pictures), atol=0.02, rtol=0.02)


@each
def test_a_transfer_starts_from_the_weights_of_a_checkpoint(name, art, tmp_path):
    before = trained(name, art, tmp_path, 32)
    recipe, settings = TINY[name]
    data = mlp_gan.own_data() if name == "mlp_gan-digits" else art
    after = recipe.Trainer(replace(settings, seed=1), data, Workers("cpu"))
    said = after.transfer(max(tmp_path.glob("snapshot-*.safetensors")))
    assert list(said) == ["G", "average", "D"]
    for mine, theirs in zip(after.G.parameters(), before.average.parameters(), strict=True):
        assert (mine - theirs).abs().max() < 0.01
    wider = "hidden" if recipe is mlp_gan else "ngf"
    other = recipe.Trainer(replace(settings, z_dim=5, **{wider: 10}), data, Workers("cpu"))
    with pytest.raises(BadInput, match="No weights of .* fit this generator"):
        other.transfer(tmp_path / "G.safetensors")


def test_a_killed_training_goes_on_bit_for_bit(art, tmp_path):
    tiny = "--hidden 16 --z-dim 4 --batch 8 --snap 0.4 --measure 0 --device cpu"
    words = [*tiny.split(), "--data", str(art.path), "--out", str(tmp_path / "killed")]
    command = [sys.executable, "-m", "ganhub", "train", "mlp_gan", *words, "--kimg", "1000000"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        give_up = time.monotonic() + 120
        while not (tmp_path / "killed/state.pt").exists() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    seen = torch.load(tmp_path / "killed/state.pt", weights_only=True)["trainer"]["seen"]
    target = ["--kimg", str((seen + 400) / 1000)]
    torch.set_num_threads(1)
    options.run(mlp_gan, "mlp_gan", [*words, *target, "--resume"])
    options.run(mlp_gan, "mlp_gan", [*words[:-1], str(tmp_path / "whole"), *target])
    killed, whole = (torch.load(tmp_path / f"{run}/state.pt", weights_only=True) for run in ("killed", "whole"))
    assert seen >= 400 and alike(killed["trainer"], whole["trainer"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(number, art, tmp_path):
    before = signal.getsignal(number)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    trainer = trained("mlp_gan", art, tmp_path, 10**12)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert 0 < state["trainer"]["seen"] == trainer.seen < 10**12 and state["seconds"] > 0
    assert (tmp_path / "G.safetensors").exists() and signal.getsignal(number) is before


def test_a_training_that_diverges_stops_with_a_sentence(art, tmp_path):
    trainer = mlp_gan.Trainer(replace(TINY["mlp_gan"][1], lr_d=1e9, lr_g=1e9), art, Workers("cpu"))
    with pytest.raises(TrainingError, match=r"diverged: loss_\w is .* thousand pictures; go on from"):
        loop.train(trainer, tmp_path, images=10_000, snap=64)


# --- The run folder


def test_a_run_tells_all_of_itself(art, tmp_path, monkeypatch, capsys):
    words = ["--data", str(art.path), "--kimg", "0.064", "--snap", "0.032", "--measure", "20", "--device", "cpu"]
    tiny = "--z-dim 6 --ngf 4 --ndf 4 --batch 8 --aug ada --fewest 20 --seed 3"
    with pytest.raises(SystemExit) as end:
        main(["train", "dcgan", "--out", str(tmp_path / "run"), *words, *tiny.split()])
    assert end.value.code == 0 and capsys.readouterr().out.strip() == str(tmp_path / "run")
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert (about["recipe"], about["family"], about["seed"], about["workers"]) == ("dcgan", "dcgan", 3, 1)
    assert about["settings"]["ngf"] == 4 and about["settings"]["aug"] == "ada" and about["settings"]["fewest"] == 20
    wanted = {"name": "art", "pictures": 64, "license": "CC0-1.0", "credit": "nobody", "classes": ["red", "green"]}
    assert wanted.items() <= about["data"].items()
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in log] == [0.032, 0.064]
    for line in log:
        assert {"loss_d", "loss_g", "sign_real", "sign_fake", "p", "per_second", "seconds"} <= set(line)
        assert all(np.isfinite(value) for value in line.values()) and -1 <= line["sign_real"] <= 1
    measured = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(measured) == 2 and all(np.isfinite(line["frechet"]) for line in measured)
    assert list((tmp_path / "run/tensorboard").iterdir())
    assert Image.open(tmp_path / "run/grid-000000.064.png").size == (160, 128)
    assert Image.open(tmp_path / "run/grid.png").size == (160, 128)


def test_the_digits_need_no_set(tmp_path):
    words = f"--hidden 16 --batch 8 --kimg 0.032 --snap 0.032 --measure 0 --device cpu --out {tmp_path}"
    options.run(mlp_gan, "mlp_gan", words.split())
    data = json.loads((tmp_path / "run.json").read_text())["data"]
    assert (data["name"], data["pictures"], data["license"]) == ("digits", 1797, "CC-BY-4.0")
    assert PictureSet(data["path"]).sha256 == data["sha256"] == mlp_gan.own_data().sha256


# --- The command line


def test_the_recipes_are_listed(capsys):
    for words in (["train"], ["train", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        out = capsys.readouterr().out
        assert end.value.code == 0 and all(f"\n  {name} " in out for name in ("dcgan", "mlp_gan", "sagan", "stylegan2"))
    with pytest.raises(SystemExit) as end:
        main(["train", "sagan", "--help"])
    assert end.value.code == 0 and "--attention" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nonesuch", "There is no recipe 'nonesuch'; there are aging, char_cnn_rnn, clip, dcgan, mlp_gan, sagan,"),
        ("dcgan --out RUN", "required: --data"),
        ("dcgan --data none.zip --out RUN", "There is no set none.zip"),
        ("mlp_gan", "required: --out"),
        ("mlp_gan --data ART --out RUN --frobnicate", "Unrecognized arguments: --frobnicate"),
        ("mlp_gan --data ART --out RUN --batch many", "--batch: invalid int value: 'many'"),
        ("mlp_gan --data ART --out RUN --loss l2", "--loss is 'l2'; choose bce or hinge."),
        ("mlp_gan --data ART --out RUN --batch 0", "A batch of 0 cannot be split over 1 processes."),
        ("mlp_gan --data ART --out RUN --depth 0", "--depth is 0"),
        ("mlp_gan --out RUN --aug all", "--aug is 'all'; choose ada or noaug."),
        ("mlp_gan --out RUN --aug ada --augpipe all", "There is no augmentation pipe 'all'"),
        ("dcgan --data ART --out RUN --precision half", "--precision is 'half'; choose auto, float32 or bfloat16."),
        ("dcgan --data ART --out RUN --device abacus", "choose cuda, cuda:N, mps or cpu"),
        ("dcgan --data ART --out RUN --fewest 60", "No class of"),
        ("dcgan --data ODD --out RUN", "holds pictures of 12x16; this recipe takes squares of 16, 32, 64 ... pixels."),
        ("mlp_gan --data ODD --out RUN", "holds pictures of 12x16; this recipe takes squares up to 64."),
        ("sagan --data ART --out RUN --attention 16", "--attention is 16; maps of these networks have [4, 8] pixels"),
        ("dcgan --data ART --out RUN --measure 0 --resume nowhere", "nowhere"),
        ("dcgan --data ART --out ART/run --measure 0", "The run folder"),
    ],
)
def test_what_cannot_be_trained_says_why(words, sentence, art, tmp_path, capsys):
    odd = tmp_path / "odd.zip"
    write_set(odd, [np.zeros((16, 12, 3), np.uint8)], names=["a.png"])
    words = words.replace("RUN", str(tmp_path / "run")).replace("ART", str(art.path)).replace("ODD", str(odd))
    with pytest.raises(SystemExit) as end:
        main(["train", *words.split()])
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2 and said.startswith("ganhub: ") and "\n" not in said
    assert sentence in said


def test_a_checkpoint_of_another_family_is_refused(art, tmp_path):
    trained("dcgan", art, tmp_path, 32)
    trainer = sagan.Trainer(TINY["sagan"][1], art, Workers("cpu"))
    with pytest.raises(BadInput, match="G.safetensors is of the family 'dcgan'; --resume takes one of 'sagan' here"):
        trainer.transfer(tmp_path / "G.safetensors")


# --- What is learned

QUICK = {"ngf": 16, "ndf": 16, "batch": 32, "lr_g": 1e-3, "lr_d": 2e-3, "ema": 0.99}


def test_digits_and_jitter():
    pictures, labels = mlp_gan.digits()
    assert pictures.shape == (1797, 1, 28, 28) and pictures.min() == -1 and pictures.max() == 1
    assert set(labels) == set(range(10))
    x = torch.from_numpy(pictures[:64])
    moved = mlp_gan.jitter(x, torch.Generator().manual_seed(0))
    assert moved.min() >= -1.001 and 0.05 < (moved - x).abs().mean() < 0.6


def test_only_digits_are_jittered(art):
    for data, moved in ((art, False), (mlp_gan.own_data(), True)):
        trainer = mlp_gan.Trainer(TINY["mlp_gan"][1], data, Workers("cpu"))
        known = torch.from_numpy(data.pictures()).permute(0, 3, 1, 2).float() / 127.5 - 1
        distance = torch.cdist(trainer.real(20).flatten(1), known.flatten(1)).min(dim=1).values
        assert (distance > 0.5).float().mean() > 0.9 if moved else distance.max() < 0.05


@pytest.mark.parametrize(
    ("recipe", "settings", "steps"),
    [
        (mlp_gan, mlp_gan.Settings(hidden=64, batch=32, lr_g=1e-3, lr_d=1e-3), 400),
        (dcgan, dcgan.Settings(loss="bce", **QUICK), 200),
        (dcgan, dcgan.Settings(loss="hinge", spectral=True, **QUICK), 200),
        (sagan, sagan.Settings(attention=8, **QUICK), 200),
    ],
    ids=["mlp_gan", "dcgan", "dcgan-spectral", "sagan"],
)
def test_a_recipe_learns_where_things_are(recipe, settings, steps, art):
    data = mlp_gan.own_data() if recipe is mlp_gan else art
    trainer = recipe.Trainer(settings, data, Workers("cpu"))
    for _ in range(steps):
        trainer.step()
    drawn = loop.draw(trainer.averaged(), range(128)).float() / 255
    real = torch.from_numpy(data.pictures()).float() / 255
    both = torch.stack([drawn.mean(0).flatten(), real.mean(0).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8
    assert drawn.std(0).mean() > 0.3 * real.std(0).mean()  # and it draws more than one


def test_what_is_averaged_is_measured_anew(art):
    trainer = dcgan.Trainer(TINY["dcgan"][1], art, Workers("cpu"))
    for _ in range(5):
        trainer.step()
    G = trainer.averaged()
    norm = next(layer for layer in G.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    assert not torch.equal(norm.running_mean, next(b for b in trainer.average.buffers()))
    z = torch.randn(512, 6)
    with torch.no_grad():
        drawn, as_in_training = G(z), trainer.averaged().train()(z)
    assert (drawn - as_in_training).abs().mean() < 0.02


def test_augmentation_follows_how_sure_d_is(art):
    settings = replace(TINY["dcgan-spectral"][1], target=-2.0)
    trainer = dcgan.Trainer(settings, art, Workers("cpu"))
    assert float(trainer.step()["p"]) == pytest.approx(8 / 100_000)
    assert float(trainer.step()["p"]) == pytest.approx(16 / 100_000)
    trainer.settings = replace(settings, target=2.0)
    for _ in range(3):
        p = float(trainer.step()["p"])
    assert p == 0


# --- Several processes


class Rank(Workers):
    """One of two processes, seen from a test."""

    def __init__(self, rank):
        super().__init__("cpu")
        self.count, self.rank = 2, rank


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(art, tmp_path):
    tiny = "--hidden 16 --z-dim 4 --batch 16 --dropout 0 --kimg 0.016 --snap 0.016 --measure 0 --device cpu"
    _torchrun("mlp_gan", "--data", str(art.path), "--out", str(tmp_path), *tiny.split())
    state = torch.load(tmp_path / "state.pt", weights_only=True)["trainer"]
    settings = replace(TINY["mlp_gan"][1], batch=16, dropout=0.0)
    ranks = [mlp_gan.Trainer(settings, art, Rank(rank)) for rank in (0, 1)]
    whole = mlp_gan.Trainer(settings, art, Workers("cpu"))
    start = [p.detach().clone() for p in whole.G.parameters()]
    whole.real = lambda n: torch.cat([rank.real(n // 2) for rank in ranks])
    whole.z = lambda n: torch.cat([rank.z(n // 2) for rank in ranks])
    whole.step()
    for before, (name, value) in zip(start, whole.G.named_parameters(), strict=True):
        step = (value - before).abs().max()
        assert step > 1e-5 and (state["G"][name] - value).abs().max() < 0.02 * step
    assert state["seen"] == whole.seen == 16
    assert json.loads((tmp_path / "run.json").read_text())["workers"] == 2


@pytest.mark.slow
def test_two_processes_train_stylegan2(art, tmp_path):
    tiny = "--preset light --batch 8 --channel-base 64 --z-dim 8 --kimg 0.032 --snap 0.016 --measure 20 --device cpu"
    _torchrun("stylegan2", "--data", str(art.path), "--out", str(tmp_path), *tiny.split())
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["kimg"] for line in log] == [0.016, 0.032]
    assert all(np.isfinite(value) for line in log for value in line.values())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert models.read(checkpoint.read(tmp_path / "G.safetensors")).img_size == (16, 16)


def _torchrun(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ganhub"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "train", *words], stderr=subprocess.PIPE, text=True, env=env)
    try:
        _, said = process.communicate(timeout=240)
    finally:
        process.terminate()  # as the parent it ends the others, which a kill would leave
    assert process.returncode == 0, said


# --- What is embedded


def test_embedded_files_are_made_from_prepared_sets(art, tmp_path, monkeypatch, capsys):
    small = {"preset": "light", "batch": 8, "channel_base": 64, "channel_max": 8, "z_dim": 8, "precision": "float32"}
    large = np.repeat(np.repeat(art.pictures(), 2, 1), 2, 2)
    write_set(tmp_path / "fruit.zip", large, names=art.names, labels=art.labels.tolist(), classes=art.classes)
    stages = [embedded.Stage(stylegan2, 0.08, "fruit", size, small) for size in (16, None)]
    (tmp_path / "package/embedded").mkdir(parents=True)
    monkeypatch.setattr(embedded, "SHIPPED", {"tiny-gan": embedded.gan(*stages)})
    monkeypatch.setattr(embedded, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(embedded, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(embedded, "MEASURED", 20)
    command = ["embedded", "--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", command)
    embedded.main()
    printed = capsys.readouterr().out
    file = tmp_path / "package/embedded/tiny-gan.safetensors"
    assert f"bytes: {file.stat().st_size}" in printed and "golden: {seed: 0" in printed
    assert Image.open(tmp_path / "cards/tiny-gan.png").size == (256, 256)
    half = PictureSet(tmp_path / "runs/sets/fruit-16.zip")
    assert np.array_equal(half.pictures(), art.pictures()) and half.classes == art.classes
    assert np.array_equal(half.labels, art.labels)
    second = json.loads((tmp_path / "runs/tiny-gan/run.json").read_text())
    assert second["origin"] == str(max((tmp_path / "runs/tiny-gan-16").glob("snapshot-*.safetensors")))
    assert second["settings"]["channel_base"] == 64 and second["data"]["size"] == [32, 32]
