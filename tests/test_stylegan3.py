import json
import math

import pytest
import torch

from ganhub import models
from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import stylegan3

CONFIGS = ("t_r32", "r_r32")
RADIAL = {"conv_kernel": 1, "use_radial_filters": True}


def small(c_dim=0, size=16, **hyper):
    """A tiny generator whose weights, magnitudes and mean latent are all far from their initial values."""
    torch.manual_seed(size + c_dim)
    channels = stylegan3.widths(size, num_layers=5, channel_base=256, channel_max=8)
    config = {"z_dim": 8, "w_dim": 12, "c_dim": c_dim, "img_resolution": size, "channels": channels, **hyper}
    G = stylegan3.build("G", config)
    with torch.no_grad():
        for name, tensor in G.state_dict().items():
            if "filter" not in name and not name.endswith(("freqs", "phases", "transform")):
                tensor.copy_(
                    torch.rand([]) + 0.5 if name.endswith("magnitude_ema") else tensor + torch.randn(tensor.shape) / 3
                )
    return G.eval().requires_grad_(False)


def as_file(G, **kwargs):
    return RawCheckpoint("small.pkl", "nvidia-torch", {"G_ema": Network("Generator", kwargs, G.state_dict())})


def onehot(n, classes):
    return torch.eye(classes)[torch.arange(n) % classes] if classes else None


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_as_the_original(shared, reference, name):
    raw = read(shared / f"reference/stylegan3/{name}.nosrc.pkl")
    assert models.detect(raw) == "stylegan3"
    G, D = models.read(raw), models.read(raw, part="D")
    case = reference(f"stylegan3/{name}.G")
    z = case.tensor("z")
    with torch.no_grad():
        w = G.mapping(z)
        case.check("w", w)
        case.check("w_psi0.5_cutoff6", G.mapping(z, psi=0.5, cutoff=6))
        case.check("img", G.synthesis(w))
        case.check("img_G_psi0.7", G(z, psi=0.7, noise_mode="random"))
        case.check("input_features", G.synthesis.input(w[:1, 0]))
        for user, movement in {"t_03_m02_r30": ((0.3, -0.2), 30), "t0_r90": ((0, 0), 90)}.items():
            transform = stylegan3.user_transform(*movement)
            case.check(f"transform_{user}", transform)
            case.check(f"img_{user}", G.synthesis(w, transform=transform))
        case.check("img", G.synthesis(w))  # the transforms have left the network as it was
        judged = reference(f"stylegan3/{name}.D")
        judged.check("logits_n4", D(judged.tensor("img")))


@pytest.mark.parametrize("name", CONFIGS)
def test_filters_and_geometry_are_the_papers(shared, name):
    raw = read(shared / f"reference/stylegan3/{name}.nosrc.pkl")
    held = raw.networks["G_ema"].tensors
    fresh = stylegan3.build("G", models.read(raw).config)
    for key, tensor in fresh.state_dict().items():
        if "filter" in key:
            torch.testing.assert_close(tensor, held[key], atol=1e-7, rtol=0)
    facts = json.loads((shared / f"reference/stylegan3/{name}.json").read_text())["layers"]
    assert [layer["name"] for layer in facts] == fresh.synthesis.layer_names
    for fact in facts:
        layer = fresh.synthesis.get_submodule(fact["name"])
        assert (layer.up, layer.down, layer.out_size) == (fact["up"], fact["down"], fact["out_size"][0])
        assert layer.offset == fact["padding"][0]


@pytest.mark.parametrize("hyper", [{}, RADIAL, {"conv_clamp": None, "margin_size": 4}], ids=["t", "r", "other"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_file_gives_the_same_network(hyper, c_dim):
    G = small(c_dim, **hyper)
    again = models.read(as_file(G, **{k: v for k, v in hyper.items() if k != "conv_kernel"}))
    assert again.config == G.config
    z = torch.randn(2, 8)
    torch.testing.assert_close(again(z, onehot(2, c_dim)), G(z, onehot(2, c_dim)), atol=0, rtol=0)
    assert stylegan3.build("G", json.loads(json.dumps(G.config))).state_dict().keys() == G.state_dict().keys()


@pytest.mark.parametrize("hyper", [{}, RADIAL], ids=["t", "r"])
def test_bare_tensors_tell_everything_but_the_defaults(hyper):
    G = small(2, 32, **hyper)
    bare = RawCheckpoint("state.pt", "torch", {"": Network("", {}, G.state_dict())})
    assert models.read(bare).config == G.config


def test_a_picture_does_not_depend_on_its_neighbours():
    G = small(3)
    z, c = torch.randn(4, 8), onehot(4, 3)
    alone = torch.cat([G(z[i : i + 1], c[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(G(z, c), alone, atol=1e-5, rtol=0)  # kernels of a processor differ by the batch


def test_strips_are_the_plain_filter(monkeypatch):
    G, w = small(size=32), torch.randn(1, 7, 12)
    whole = G.synthesis(w)
    monkeypatch.setattr(stylegan3, "SMALL", 0)
    monkeypatch.setattr(stylegan3, "STRIP", 6)
    monkeypatch.setattr(stylegan3, "CACHE", 1)
    torch.testing.assert_close(G.synthesis(w), whole, atol=2e-6, rtol=0)


def test_gradients_reach_the_latents():
    G = small().double()
    ws = G.mapping(torch.randn(1, 8).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda ws: G.synthesis(ws).mean([2, 3]), (ws,), eps=1e-5, atol=1e-5)


def test_a_user_transform_moves_the_picture():
    G = small(size=32)
    ws = G.mapping(torch.randn(1, 8))
    still = G.synthesis(ws)
    moved = G.synthesis(ws, transform=stylegan3.user_transform((0.25, 0.0)))

    def alike(a, b):
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    assert alike(moved[..., 8:], still[..., :-8]) > 0.95 > alike(moved[..., 8:], still[..., 8:]) + 0.1
    each = torch.stack([stylegan3.user_transform(), stylegan3.user_transform((0.25, 0.0))])
    torch.testing.assert_close(
        G.synthesis(ws.expand(2, -1, -1), transform=each), torch.cat([still, moved]), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("size", [24, 48, 64])
def test_any_resolution(size):
    G = small(size=size)
    assert G(torch.randn(1, 8)).shape == (1, 3, size, size)
    assert isinstance(G, models.Generator)


def test_fast_form_is_close():
    G, z = small(size=64), torch.randn(2, 8)
    exact = G(z)
    off = (models.prepare("stylegan3", G, "fast")(z) - exact).square().mean()
    assert off > 0 and 10 * math.log10(float((exact.max() - exact.min()) ** 2 / off)) > 50


def test_what_does_not_fit_is_named():
    tensors = dict(small().state_dict())
    del tensors["mapping.fc1.bias"]
    with pytest.raises(CheckpointError, match="mapping.fc1.bias"):
        models.read(RawCheckpoint("cut.pkl", "nvidia-torch", {"G_ema": Network("", {}, tensors)}), "stylegan3")
    with pytest.raises(CheckpointError, match="synthesis layers"):
        only = {"synthesis.input.freqs": torch.zeros(2, 2)}
        models.read(RawCheckpoint("cut.pkl", "torch", {"": Network("", {}, only)}), "stylegan3")
    G = small()
    G.synthesis.get_submodule(G.synthesis.layer_names[0]).up_filter.fill_(math.nan)
    with pytest.raises(CheckpointError, match="up_filter"):
        models.read(as_file(G))
    with pytest.raises(CheckpointError, match="no setting 'conv_clmap'"):
        stylegan3.build("G", {**small().config, "conv_clmap": 1})
    with pytest.raises(BadInput, match="classes"):
        small(3)(torch.randn(1, 8))
