"""Projection: equal to NVIDIA's projector step by step, alone as among others, from a photo to a latent and back."""

import numpy as np
import pytest
import torch
from engine_rig import row

from ganhub import checkpoint, models
from ganhub.engine import projection
from ganhub.engine.cache import Key, Loaded
from ganhub.engine.loading import facts_of
from ganhub.engine.slots import SlotGroup
from ganhub.engine.tickets import Fit, Ticket
from ganhub.models.vgg import Trunk


def entry(name, family, network):
    network = models.prepare(family, network, "exact").eval().requires_grad_(False)
    facts = facts_of(row(name, family), network, "exact")
    return Loaded(Key(name, "exact"), network, facts, 1)


@pytest.fixture(scope="module")
def nvidia(shared):
    """The generator of the reference case, and the network that stands in for VGG there."""
    folder = shared / "reference"
    G = models.read(checkpoint.read(folder / "stylegan2ada" / "f_skip_uncond_r32.nosrc.pkl"), "stylegan2")
    eyes = Trunk("vgg", [[8], [12], [16]])
    with np.load(folder / "projector" / "vgg16_stub.weights.npz") as arrays, torch.no_grad():
        for place, name in ((0, "c1"), (3, "c2"), (6, "c3")):
            eyes.features[place].weight.copy_(torch.from_numpy(arrays[f"{name}.weight"]))
            eyes.features[place].bias.copy_(torch.from_numpy(arrays[f"{name}.bias"]))
    facts = facts_of(row("reference", "stylegan2"), G, "exact")
    return Loaded(Key("reference", "exact"), G, facts, 1), entry("stand-in", "vgg", eyes)


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
