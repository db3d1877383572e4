import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ganhub import checkpoint, models
from ganhub.data.dataset import PictureSet, write_set
from ganhub.errors import BadInput, TrainingError
from ganhub.models import stylegan2 as family
from ganhub.training import loop
from ganhub.training.augment import PIPES, Augment, _Sample
from ganhub.training.reals import Reals
from ganhub.training.stylegan2 import Loss, Settings, Trainer, preset

TINY = Settings(preset="light", batch=4, channel_base=64, channel_max=8, z_dim=8, pl_weight=2.0, precision="float32")


def pictures(count=24, size=16, channels=3):
    """Coloured discs on grey, one for each picture."""
    rs = np.random.RandomState(0)
    y, x = np.mgrid[:size, :size]
    for i in range(count):
        picture = np.full((size, size, channels), 128, np.uint8)
        cy, cx = rs.uniform(size * 0.3, size * 0.7, 2)
        colour = (200, 40, 40) if i % 3 else (40, 200, 40)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < (size / 4) ** 2] = colour[:channels]
        yield picture


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("sets") / "discs.zip"
    write_set(file, pictures(), names=[f"{i}.png" for i in range(24)], labels=[int(i % 3 > 0) for i in range(24)],
              classes=["green", "red"], license="CC0-1.0", credit="nobody")  # fmt: skip
    return PictureSet(file)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth"])
def test_losses_and_gradients_equal_the_reference(phase, reference, shared):
    case = reference("stylegan2ada/loss")
    raw = checkpoint.read(shared / "reference/stylegan2ada/f_skip_uncond_r32.nosrc.pkl")
    G, D = (models.read(raw, "stylegan2", part).train() for part in "GD")
    for name, value in G.named_parameters():
        if name.endswith("noise_strength"):
            value.data.zero_()
    net = G if phase[0] == "G" else D
    net.requires_grad_(True)
    loss = Loss(G, D, None, gamma=10.0, pl_weight=2.0, mixing=0.0)
    real, z, c = case.tensor("real_img"), case.tensor("gen_z").float(), torch.zeros(4, 0)
    figures = {}
    if phase in ("Gmain", "Gboth"):
        figures |= loss.generator(z, c)
    if phase in ("Greg", "Gboth"):
        figures |= loss.path_length(z, c, noise=case.tensor("pl_noise"))
        case.check("pl_mean_after", loss.pl_mean)
    if phase in ("Dmain", "Dboth"):
        figures |= loss.discriminator(real, c, z, c)
    if phase in ("Dreg", "Dboth"):
        figures |= loss.r1(real, c)
    names = {"loss_g": "G_loss", "loss_d": "D_loss", "pl_penalty": "pl_penalty", "r1": "r1_penalty",
             "sign_real": "signs_real", "sign_fake": "signs_fake"}  # fmt: skip
    assert figures
    for name, value in figures.items():  # the reference has one number for each picture
        want = case.outputs[f"{phase}:Loss_{names[name]}"].mean()
        assert float(value.detach()) == pytest.approx(want, rel=3e-4), name
    parameters, checked = dict(net.named_parameters()), 0
    for key, want in case.outputs.items():
        own, _, rest = key.partition(":")
        kind, _, name = rest.partition(":")
        if own != phase:
            continue
        if kind in ("gradnorm", "grad"):
            grad = parameters[name].grad
            grad = torch.zeros_like(parameters[name]) if grad is None else grad
            case.check(key, (grad if kind == "grad" else grad.norm()).reshape(want.shape))
        elif kind == "w_avg_after":
            case.check(key, G.w_avg)
        else:
            continue
        checked += 1
    assert checked > 20


def test_augmentations_equal_the_reference(reference):
    case = reference("stylegan2ada/augment")
    checked = 0
    for key in case.outputs:
        if key.startswith("buffer"):
            case.check(key, Augment().lowpass if "geom" in key else Augment().bands)
        else:
            name = key.removeprefix("only_")
            pipe, grey, way, number = re.match(r"(\w+?)_(gray_)?(dp|p)([\d.]+)(?:_torchseed0)?$", name).groups()
            augment = Augment(pipe if name == key else (pipe,))
            torch.manual_seed(0)
            augment.p.fill_(1.0 if way == "dp" else float(number))
            images = case.tensor("gray" if grey else "img")
            case.check(key, augment(images, percentile=float(number) if way == "dp" else None))
        checked += 1
    assert checked == len(case.outputs) > 90


def test_sampling_can_be_differentiated_twice():
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 3, 2, dtype=torch.float64) * 2.4 - 1.2
    assert torch.autograd.gradcheck(lambda x: _Sample.apply(x, grid), x)
    assert torch.autograd.gradgradcheck(lambda x: _Sample.apply(x, grid).square(), x)


def test_every_pipe_keeps_the_shape_and_lets_r1_through():
    torch.manual_seed(0)
    for pipe in PIPES:
        augment = Augment(pipe)
        x = torch.randn(4, 3, 32, 32, requires_grad=True)
        assert torch.isfinite(augment(x)).all() and augment(x).shape == x.shape
        augment.p.fill_(1.0)
        (slope,) = torch.autograd.grad(augment(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    with pytest.raises(BadInput, match="bgcfnc"):
        Augment("bgx")


def phase_gradient(data, precision, phase):
    """The gradient of one phase, all parameters in a row, on a network of a common width."""
    chosen = replace(TINY, precision=precision, channel_base=512, channel_max=32, z_dim=32, mixing=0.0)
    trainer = Trainer(chosen, data)
    loss, net = trainer.loss, trainer.G if phase[0] == "G" else trainer.D
    trainer.G.requires_grad_(net is trainer.G)
    trainer.D.requires_grad_(net is trainer.D)
    torch.manual_seed(1)
    z, c = torch.randn(8, 32), torch.zeros(8, 0)
    real = Reals(data)(8, torch.Generator().manual_seed(0))[0]
    if phase == "Gmain":
        loss.generator(z, c)
    elif phase == "Greg":
        loss.path_length(z, c, noise=torch.ones(4, 3, 16, 16))
    elif phase == "Dmain":
        loss.discriminator(real, c, z, c)
    else:
        loss.r1(real, c)
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize(("phase", "least"), [("Gmain", 0.99), ("Greg", 0.99), ("Dmain", 0.99), ("Dreg", 0.9)])
def test_bfloat16_gradients_point_where_float32_ones_do(data, phase, least):
    """Even of untrained networks, whose scores differ by little more than their rounding."""
    exact, fast = (phase_gradient(data, precision, phase) for precision in ("float32", "bfloat16"))
    assert torch.cosine_similarity(exact, fast, dim=0) > least
    assert float(fast.norm()) == pytest.approx(float(exact.norm()), rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"cond": True, "aug": "fixed", "p": 0.5}, {"precision": "bfloat16"}])
def test_resuming_ends_where_an_unbroken_training_does(data, tmp_path, changes):
    settings = replace(TINY, mirror=True, **changes)
    options = {"snap": 40, "data": data, "every": 8}
    whole = loop.train(Trainer(settings, data), tmp_path / "whole", images=80, **options)
    loop.train(Trainer(settings, data), tmp_path / "parts", images=40, **options)
    parts = loop.train(Trainer(settings, data), tmp_path / "parts", images=80, resume=True, **options)
    assert same(whole, parts)
    lines = [json.loads(line) for line in (tmp_path / "parts/log.jsonl").read_text().splitlines()]
    assert lines[-1]["kimg"] == 0.08 and all(np.isfinite(list(line.values())).all() for line in lines)


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from test_train_stylegan2 import TINY
from ganhub.data.dataset import PictureSet
from ganhub.training import loop
from ganhub.training.stylegan2 import Trainer
data = PictureSet({data!r})
loop.train(Trainer(TINY, data), Path({out!r}), images={images}, snap=40, data=data, resume=True, every=4)
"""


def test_a_killed_run_resumes_bit_for_bit(data, tmp_path):
    """20 steps straight equal 10, kill -9, and 10."""

    def start(out, images):
        code = KILLED.format(
            here=os.path.dirname(__file__), data=str(data.path), out=str(tmp_path / out), images=images
        )
        return subprocess.Popen([sys.executable, "-c", code])

    assert start("whole", 80).wait(timeout=200) == 0
    run = start("parts", 10**9)
    log = tmp_path / "parts/log.jsonl"
    state = tmp_path / "parts/state.pt"
    deadline = time.monotonic() + 200
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert torch.load(state, weights_only=True)["trainer"]["seen"] == 40, log.read_text()
    assert start("parts", 80).wait(timeout=200) == 0
    kimg = [json.loads(line)["kimg"] for line in log.read_text().splitlines()]
    assert kimg == sorted(set(kimg)) and kimg[-1] == 0.08  # what was logged after the state is logged once
    a, b = (torch.load(tmp_path / out / "state.pt", weights_only=True)["trainer"] for out in ("whole", "parts"))
    for part in ("G", "D", "G_ema"):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part]), part
    assert torch.equal(a["p"], b["p"]) and torch.equal(a["pl_mean"], b["pl_mean"]) and a["steps"] == b["steps"] == 20
    for k, moments in a["opt_g"]["state"].items():
        assert all(torch.equal(v, b["opt_g"]["state"][k][name]) for name, v in moments.items())


def test_p_follows_how_sure_d_is(data, tmp_path):
    trainer = Trainer(replace(TINY, p=0.5, ada_kimg=1.0, gamma=0.0), data)
    trainer.settings = replace(trainer.settings, target=-2.0)  # D is always surer than this
    for _ in range(8):
        trainer.step()
    assert trainer.augment.p == pytest.approx(0.5 + 8 * 4 / 1000)
    trainer.settings = replace(trainer.settings, target=2.0)
    for _ in range(4):
        trainer.step()
    assert trainer.augment.p == pytest.approx(0.5 + 4 * 4 / 1000)
    other = Trainer(replace(TINY, p=0.0, gamma=0.0), data)
    other.load(trainer.state())
    assert other.augment.p == trainer.augment.p  # a resumed training keeps it


def test_presets_are_those_of_the_paper():
    auto = preset(Settings(), 256)
    assert (auto.batch, auto.channel_base, auto.map_layers, auto.lr) == (16, 16384, 2, 0.0025)
    assert auto.gamma == pytest.approx(0.8192) and auto.ema_kimg == 5
    assert preset(Settings(), 1024, 8).batch == 32 and preset(Settings(), 1024).lr == 0.002
    paper = preset(Settings(preset="paper1024"), 1024)
    assert (paper.batch, paper.gamma, paper.ema_kimg, paper.map_layers, paper.pl_weight) == (32, 2, 10, 8, 2)
    cifar = preset(Settings(preset="cifar", gamma=0.5), 32)
    assert (cifar.gamma, cifar.ema_kimg, cifar.mixing, cifar.pl_weight) == (0.5, 500, 0, 0)
    for settings, words in ((Settings(preset="huge"), "huge"), (Settings(batch=6, at_once=4), "divide"),
                            (Settings(aug="some"), "noaug")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            preset(settings, 64)


def batch_gradient(data, at_once):
    trainer = Trainer(replace(TINY, aug="noaug", at_once=at_once, mixing=0.0), data)
    trainer.D.b4.mbstd.group = 1
    drawn, kept = iter(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).split(at_once)), []
    trainer.opt_g.step = lambda: kept.extend(p.grad.flatten() for p in trainer.G.parameters() if p.dim())
    torch.manual_seed(3)
    trainer._phase(trainer.G, trainer.opt_g, lambda gain, real, real_c, z, c:
                   trainer.loss.generator(next(drawn), c, gain))  # fmt: skip
    return torch.cat(kept)


def test_accumulated_gradients_are_those_of_the_whole_batch(data):
    """Without what depends on the batch as such (its deviation, its mixing), for noise without strength."""
    whole, parts = batch_gradient(data, 4), batch_gradient(data, 2)
    assert torch.cosine_similarity(whole, parts, dim=0) > 0.9999
    assert float(parts.norm()) == pytest.approx(float(whole.norm()), rel=1e-3)


def test_frozen_layers_of_d_keep_their_weights(data):
    trainer = Trainer(replace(TINY, freeze_d=2), data)
    before = {name: value.clone() for name, value in trainer.D.named_parameters()}
    trainer.step()
    moved = {name for name, value in trainer.D.named_parameters() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith(("b16.fromrgb", "b16.conv0"))]
    assert any(name.startswith("b16.conv1") for name in moved)
    with pytest.raises(BadInput, match="frozen"):
        Trainer(replace(TINY, freeze_d=99), data)


def test_transfer_takes_over_what_fits(data, tmp_path, shared):
    first = Trainer(TINY, data)
    loop.train(first, tmp_path / "first", images=8, snap=8, data=data)
    second = Trainer(replace(TINY, seed=1), data)
    said = second.transfer(tmp_path / "first/snapshot-000000.008.safetensors")
    assert said["G"].split()[0] == said["G"].split()[2]
    for name in ("G", "D", "G_ema"):
        for (key, a), b in zip(getattr(first, name).state_dict().items(), getattr(second, name).state_dict().values(),
                               strict=True):  # fmt: skip
            assert torch.allclose(a, b, rtol=2e-3, atol=1e-4), key  # snapshots are in half precision

    # A network of 16 pixels goes on at 32: what it has learned about small things stays.
    large = tmp_path / "large.zip"
    write_set(large, pictures(size=32), names=[str(i) for i in range(24)])
    grown = Trainer(replace(TINY, channel_base=64), PictureSet(large))
    grown.transfer(tmp_path / "first/snapshot-000000.008.safetensors")
    assert torch.allclose(grown.G.synthesis.b16.conv1.weight, first.G.synthesis.b16.conv1.weight, rtol=2e-3, atol=1e-4)
    grown.step()

    # From NVIDIA's file and from rosinality's, at their own sizes.
    write_set(large, pictures(size=32), names=[str(i) for i in range(24)])
    wide = Trainer(Settings(preset="auto", batch=4, channel_base=1024, channel_max=32, z_dim=64, map_layers=8,
                            precision="float32"), PictureSet(large))  # fmt: skip
    said = wide.transfer(shared / "reference/stylegan2ada/f_skip_uncond_r32.nosrc.pkl")
    assert all(words.split()[0] == words.split()[2] for words in said.values()), said
    wide.step()
    write_set(large, pictures(size=64), names=[str(i) for i in range(24)])
    other = Trainer(Settings(preset="auto", batch=4, channel_base=2048, channel_max=32, z_dim=48, map_layers=8,
                             precision="float32"), PictureSet(large))  # fmt: skip
    said = other.transfer(shared / "reference/rosinality/train_r64_cm2.pt")
    assert all(words.split()[0] == words.split()[2] for words in said.values()), said
    other.step()
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, tmp_path / "foreign.pt")
    with pytest.raises(Exception, match="no family|foreign"):
        wide.transfer(tmp_path / "foreign.pt")


def test_a_diverged_training_says_so(data, tmp_path):
    trainer = Trainer(replace(TINY, lr=1e9, gamma=1e9), data)
    with pytest.raises(TrainingError, match="diverged.*--gamma"):
        loop.train(trainer, tmp_path, images=400, snap=400, data=data, every=4)
    assert not (tmp_path / "state.pt").exists()


def test_a_run_leaves_what_its_contract_says(data, tmp_path):
    loop.train(Trainer(replace(TINY, cond=True), data), tmp_path, images=16, snap=8, data=data, every=8)
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["recipe"] == about["family"] == "stylegan2" and about["settings"]["batch"] == 4
    assert about["data"]["pictures"] == 24 and about["data"]["license"] == "CC0-1.0"
    read = models.read(checkpoint.read(tmp_path / "G.safetensors"))
    assert (read.c_dim, read.img_size) == (2, (16, 16))
    assert (tmp_path / "grid.png").exists() and (tmp_path / "grid-000000.008.png").exists()
    assert isinstance(
        models.read(checkpoint.read(tmp_path / "snapshot-000000.016.safetensors"), part="D"), family.Discriminator
    )


def test_real_pictures_are_drawn_as_asked(data, tmp_path):
    rng = torch.Generator().manual_seed(0)
    x, c = Reals(data)(400, rng)
    assert x.shape == (400, 3, 16, 16) and x.min() >= -1 and x.max() <= 1 and c.shape == (400, 2)
    assert c[:, 1].mean() == pytest.approx(2 / 3, abs=0.08)  # as many as there are
    _, c = Reals(data, balance=True)(2000, rng)
    assert c[:, 1].mean() == pytest.approx(2**0.5 / (1 + 2**0.5), abs=0.04)
    _, c = Reals(data, fewest=10)(100, rng)
    assert c[:, 1].all()
    one = Reals(data)
    one.pictures = one.pictures[:1]
    one.pictures[0, :, :, :8] = 0
    turned = Reals(data, mirror=True)
    turned.pictures = one.pictures.expand(24, -1, -1, -1)
    x, _ = turned(200, rng)
    assert (x[:, 0, 0, 0] == -1).float().mean() == pytest.approx(0.5, abs=0.12)
    bare = tmp_path / "bare.zip"
    write_set(bare, pictures(), names=[str(i) for i in range(24)])
    with pytest.raises(BadInput, match="--label"):
        Reals(PictureSet(bare), balance=True)
    with pytest.raises(BadInput, match="--cond"):
        Trainer(replace(TINY, cond=True), PictureSet(bare))
