"""Projection: equal to NVIDIA's projector step by step, alone as among others, from a photo to a latent and back."""

import json
import time

import numpy as np
import pytest
import torch
import yaml
from engine_rig import row
from PIL import Image
from project_rig import eyes, write_faces

from ganhub import checkpoint, models
from ganhub.cli import main
from ganhub.engine import Engine, Fit, Job, projection
from ganhub.engine.cache import Key, Loaded
from ganhub.engine.loading import facts_of
from ganhub.engine.slots import SlotGroup
from ganhub.engine.tickets import Ticket
from ganhub.errors import BadInput
from ganhub.imaging import read_provenance, to_uint8
from ganhub.latents import load_latents
from ganhub.metrics.pictures import lpips
from ganhub.models import stylegan3
from ganhub.models.lpips import LPIPS
from ganhub.models.vgg import Trunk
from ganhub.pipelines import project as pipeline
from ganhub.pipelines.tune import TuneRequest, tune
from ganhub.registry import load_registry


def entry(name, family, network):
    network = models.prepare(family, network, "exact").eval().requires_grad_(False)
    facts = facts_of(row(name, family), network, "exact")
    return Loaded(Key(name, "exact"), network, facts, 1)


@pytest.fixture(scope="module")
def nvidia(shared):
    """The generator of the reference case, and the network that stands in for VGG there."""
    folder = shared / "reference"
    G = models.read(checkpoint.read(folder / "stylegan2ada" / "f_skip_uncond_r32.nosrc.pkl"), "stylegan2")
    stand_in = Trunk("vgg", [[8], [12], [16]])
    with np.load(folder / "projector" / "vgg16_stub.weights.npz") as arrays, torch.no_grad():
        for place, name in ((0, "c1"), (3, "c2"), (6, "c3")):
            stand_in.features[place].weight.copy_(torch.from_numpy(arrays[f"{name}.weight"]))
            stand_in.features[place].bias.copy_(torch.from_numpy(arrays[f"{name}.bias"]))
    facts = facts_of(row("reference", "stylegan2"), G, "exact")
    return Loaded(Key("reference", "exact"), G, facts, 1), entry("stand-in", "vgg", stand_in)


@pytest.fixture
def case(reference, monkeypatch):
    """The reference case, its random numbers in place of ours."""
    found = reference("projector/project_f_skip_uncond_r32")
    maps = [found.tensor(f"draw_noise_init_{i}") for i in range(7)]
    noise = found.tensor("draw_w_noise")
    monkeypatch.setattr(projection, "SAMPLES", 2000)
    monkeypatch.setattr(projection, "first_maps", lambda seed, sizes: maps)
    monkeypatch.setattr(
        projection, "w_noise", lambda turns, shape: torch.stack([noise[t.step].expand(shape) for t in turns])
    )
    return found


def test_the_first_steps_are_those_of_nvidias_projector(nvidia, case):
    G = nvidia[0].network
    mean, spread = projection.spread_of(G, None, torch.device("cpu"))
    case.check("w_avg", mean[None, None])
    assert abs(spread - float(case.outputs["w_std"])) < 1e-5
    item = {"target": case.inputs["target_uint8"].transpose(1, 2, 0).copy(), "method": "nvidia"}
    item["heads"] = np.full(36, 0.09, np.float32)
    ticket = Ticket(Fit("reference", "project", item, steps=40, lr=0.1, preview=1, critic="stand-in"))
    group = SlotGroup(nvidia, "project", torch.device("cpu"), 1)
    group.join(ticket)
    for _ in range(10):
        group.step()
    steps = ticket.pending(0)
    assert len(steps) == 10
    for i, step in enumerate(steps):
        assert step.latent.shape == (G.num_ws, G.w_dim) and (step.latent == step.latent[0]).all()
        assert np.abs(step.latent[0] - case.outputs["w_steps"][i]).max() < 1e-5, f"step {i}"
        assert abs(step.loss - case.outputs["dist_steps"][i]) < 1e-5, f"step {i}"
        assert abs(group.objective.rate(ticket.job, i) - case.outputs["lr_steps"][i]) < 1e-12
    for _ in range(30):
        group.step()
    last = ticket.result()
    assert np.abs(last["latent"][0] - case.outputs["w_steps"][-1]).max() < 5e-2  # Adam makes rounding grow
    assert abs(last["loss"] - case.outputs["dist_steps"][-1]) < 1e-3


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Rows of tiny networks, in a file."""
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def engine(faces, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANHUB_HOME", str(tmp_path_factory.mktemp("home")))
        with Engine(load_registry(faces), device="cpu", slots=4) as made:
            yield made


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(pipeline, "MOST", 96)


def drawn(engine, seed, checkpoint="tiny-face", psi=0.7):
    """A picture that the generator itself can draw."""
    z = np.random.RandomState(seed).randn(16)
    label = 1 if checkpoint == "tiny-kinds" else None
    return engine.run(Job(checkpoint, "generate", {"z": z, "psi": psi, "label": label}))


def run(engine, target, row="tiny-face", **more):
    how = {"features": "tiny-features", "steps": 40, "consent": True, **more}
    events = list(pipeline.project(engine, pipeline.ProjectRequest(row, target, **how)))
    return events[:-1], events[-1]


def test_photos_need_consent(engine):
    for consent in (False, None, 1):
        with pytest.raises(BadInput, match="consent") as caught:
            pipeline.ProjectRequest("tiny-face", drawn(engine, 5), consent)
        assert caught.value.code == "consent"


def test_a_picture_of_the_generators_own_is_found_again(engine):
    target = drawn(engine, 900)  # none of the samples
    events, result = run(engine, target, steps=150, preview=25)
    figures = result.figures
    assert figures["distance"] < 0.1 * figures["start"] < 0.1 * figures["others"]["median"]
    assert figures["rmse"] < 6 and figures["steps"] == 150 and figures["samples"] == 96
    assert "no LPIPS" in figures["measure"]
    shown = [event for event in events if event.picture is not None]
    assert [event.picture.provenance["step"] for event in shown] == [25, 50, 75, 100, 125, 150]
    assert result.latents.space == "w+" and result.latents.values.shape == (1, 6, 16)
    again = engine.run(Job("tiny-face", "synthesize", {"ws": result.latents.values[0]}))
    assert abs(np.sqrt(np.square(again.astype(float) - target).mean()) - figures["rmse"]) < 0.01
    assert (np.asarray(result.picture.image) != again).any(), "the corner says that it is generated"
    assert len(result.distances) == 150 and result.distances[-1] < result.distances[0]


def test_starts_lie_in_order_and_w_has_one_latent(engine):
    target = drawn(engine, 901)
    nearest, mean, seed = (run(engine, target, steps=1, start=s)[1] for s in ("nearest", "mean", "seed"))
    assert nearest.figures["start"] <= min(mean.figures["start"], seed.figures["start"])
    narrow = run(engine, target, space="w", mark=False)[1]
    values = narrow.latents.values[0]
    assert (values == values[0]).all() and narrow.figures["distance"] < narrow.figures["start"]
    wide = run(engine, target, space="w+")[1]
    assert not (wide.latents.values[0] == wide.latents.values[0][0]).all()


def test_nvidias_method_goes_through_the_engine(engine):
    target = drawn(engine, 902)
    _, result = run(engine, target, method="nvidia", space="w", start="nearest", steps=60)
    assert result.request.start == "mean" and result.picture.provenance["method"] == "nvidia"
    assert result.figures["distance"] < result.figures["start"]
    assert pipeline.ProjectRequest("tiny-face", target, True, method="nvidia").steps == 1000


def test_photos_of_any_size_come_to_the_generators(engine):
    target = drawn(engine, 903)
    large = Image.fromarray(target).resize((160, 160), Image.Resampling.NEAREST)
    same, notes = pipeline.brought(large, (16, 16), 3)
    assert (same == target).all() and not notes
    wide = Image.new("RGB", (240, 160), "red")
    wide.paste(large, (40, 0))
    middle, notes = pipeline.brought(wide, (16, 16), 3)
    assert (middle == target).all() and "middle" in notes[0]
    small, notes = pipeline.brought(np.full((8, 8, 3), 40, np.uint8), (16, 16), 1)
    assert small.shape == (16, 16, 1) and "enlarged" in notes[0]
    assert run(engine, large, steps=2)[1].figures["start"] == run(engine, target, steps=2)[1].figures["start"]


def test_classes_and_generators_without_w(engine):
    _, result = run(engine, drawn(engine, 904, "tiny-kinds"), row="tiny-kinds", label=1, steps=20)
    assert result.latents.label == 1 and result.figures["distance"] < result.figures["start"]
    with pytest.raises(BadInput, match="no intermediate latent"):
        run(engine, drawn(engine, 1), row="tiny-flat")
    with pytest.raises(BadInput, match="does not compare"):
        run(engine, drawn(engine, 1), features="tiny-face")


def test_stopping_gives_the_slot_back(engine):
    request = pipeline.ProjectRequest("tiny-face", drawn(engine, 905), True, steps=5000, features="tiny-features")
    events = pipeline.project(engine, request)
    for event in events:
        if isinstance(event, pipeline.Projected) and event.done >= 3:
            break
    assert engine.status()["slots"]["used"] == 1
    events.close()
    until = time.monotonic() + 5
    while engine.status()["slots"]["used"] and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.status()["slots"]["used"] == 0


@pytest.mark.parametrize("method", ["direct", "nvidia"])
def test_projections_of_several_visitors_share_batches_and_end_as_alone(engine, method):
    targets = [drawn(engine, 910 + n) for n in range(3)]
    item = {"space": "w+", "method": method, "pixel_weight": 1.0, "mean_weight": 0.01}
    fits = [
        Fit("tiny-face", "project", {**item, "target": t}, steps=24, lr=0.05, seed=n, visitor=f"v{n}",
            critic="tiny-features") for n, t in enumerate(targets)
    ]  # fmt: skip
    alone = [engine.optimise(fit).result()["latent"] for fit in fits]
    G = engine._cache.get(Key("tiny-face", "exact")).network
    sizes = []
    hook = G.synthesis.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    together = [ticket.result()["latent"] for ticket in [engine.optimise(fit) for fit in fits]]
    hook.remove()
    assert max(sizes) == 3
    for one, other in zip(alone, together, strict=True):
        cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine > 0.999


@pytest.mark.parametrize("method", ["direct", "nvidia"])
def test_generators_without_noise_maps_are_projected_into(method):
    """StyleGAN3 has none."""
    torch.manual_seed(0)
    channels = stylegan3.widths(16, num_layers=5, channel_base=256, channel_max=8)
    config = {"z_dim": 8, "w_dim": 12, "c_dim": 0, "img_resolution": 16, "channels": channels}
    G = stylegan3.build("G", config).eval().requires_grad_(False)
    networks = entry("three", "stylegan3", G), entry("eyes", "features", eyes())
    with torch.no_grad():
        target = to_uint8(G(torch.randn(1, 8)))[0]
    ticket = Ticket(Fit("three", "project", {"target": target, "method": method, "space": "w+"}, steps=25, lr=0.1))
    group = SlotGroup(networks, "project", torch.device("cpu"), 1)
    group.join(ticket)
    while not ticket.done():
        group.step()
    told = [step.loss for step in ticket.pending(0)]
    assert ticket.result()["latent"].shape == (G.num_ws, 12) and told[-1] < 0.7 * told[0]


def test_lpips_is_taken_where_it_is_here(tmp_path):
    """A VGG and its heads as published files give the distance of `ganhub.metrics`."""
    trunk = Trunk("vgg", [[4], [8]]).eval()
    torch.manual_seed(2)
    for value in trunk.parameters():
        value.data.normal_(std=0.3)
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate((4, 8))}
    torch.save(heads, tmp_path / "heads.pth")
    common = {"task": "component", "title": "t", "license": "mit", "commercial_use": True}
    rows = [
        {**common, "id": "small-vgg", "family": "vgg", "source": {"path": "trunk.pth"}},
        {**common, "id": "small-lpips", "family": "lpips", "source": {"path": "heads.pth"},
         "components": {"features": "small-vgg"}},
    ]  # fmt: skip
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(rows))
    registry = load_registry(tmp_path / "rows.yaml")
    assert pipeline.eyes_for(registry).row.id == "features-small"
    found = pipeline.eyes_for(registry, "small-lpips")
    a, b = np.random.RandomState(0).randint(0, 256, (2, 24, 24, 3), np.uint8)
    with Engine(registry, device="cpu") as engine:
        got = engine.run(Job("small-vgg", "differ", {"pixels": a, "target": b, "heads": found.heads}))
    network = LPIPS(trunk, models.read(checkpoint.read(tmp_path / "heads.pth"), "lpips"))
    assert got == pytest.approx(lpips(a, b, network), rel=1e-4)


def test_a_tuned_copy_draws_the_photo_better_and_is_a_row(engine, tmp_path):
    target = drawn(engine, 940)
    near = run(engine, target, steps=10, mark=False)[1]
    request = TuneRequest("tiny-face", target, near.latents, tmp_path / "mine", True, 40, features="tiny-features")
    *_, result = tune(engine.registry, request)
    assert result.figures["before"][0] == pytest.approx(near.figures["distance"], abs=1e-3)
    assert result.figures["after"][0] < 0.5 * result.figures["before"][0]
    with Engine(load_registry(result.registry), device="cpu") as other:
        ws = result.latents.values[0]
        tuned = other.run(Job("tiny-face-tuned", "synthesize", {"ws": ws}))
        rmse = np.sqrt(np.square(tuned.astype(float) - target).mean())
        assert rmse == pytest.approx(result.figures["after"][1], abs=0.5) and rmse < near.figures["rmse"]
    assert (engine.run(Job("tiny-face", "synthesize", {"ws": ws})) != tuned).any(), "the generator itself has changed"
    with pytest.raises(BadInput, match="consent"):
        TuneRequest("tiny-face", target, near.latents, tmp_path)


def test_the_command_writes_picture_pair_and_latents(engine, faces, tmp_path, capsys):
    Image.fromarray(drawn(engine, 930)).save(tmp_path / "holiday.png")
    arguments = ["project", str(tmp_path / "holiday.png"), "--model", "tiny-face", "--registry", str(faces)]
    arguments += ["--features", "tiny-features", "--steps", "5", "--out", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "consent" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--consent", "--json"])
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"]["steps"] == 5
    picture = tmp_path / "out" / "tiny-face_projected.png"
    about = read_provenance(picture)
    assert about["task"] == "project" and about["generated"] and about["figures"] == told["figures"]
    assert "holiday" not in json.dumps(told["figures"]) + json.dumps(about)
    latents = load_latents(tmp_path / "out" / "tiny-face_projected.npz")
    assert latents.checkpoint == "tiny-face" and about["latents"] == latents.digest()
