import json

import numpy as np
import pytest
import torch

from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.models import read, stylegan2

CASES = ["f_skip_uncond_r32", "cond_c5_r32", "arch_Gresnet_Dskip_r32", "fp16x2_clamp_r64"]


@pytest.fixture
def generator(shared):
    """`generator(case)`: the generator whose tensors lie beside the reference outputs."""

    def make(name):
        stem = shared / "reference" / "stylegan2ada" / name
        kwargs = json.loads(stem.with_suffix(".json").read_text())["G_init_kwargs"]
        with np.load(f"{stem}.G_ema.state.npz") as arrays:
            tensors = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
        raw = RawCheckpoint(name, "nvidia-torch", {"G_ema": Network("Generator", kwargs, tensors)}, {}, "")
        assert stylegan2.detect(raw)
        return read(raw, "stylegan2")

    return make


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_generator_equals_the_reference(generator, reference, name):
    G, case = generator(name), reference(f"stylegan2ada/{name}.G")
    z, c = case.tensor("z"), case.tensor("c")
    w = G.mapping(z, c)
    half = {"force_fp32": False} if "fp16" in name else {}
    case.check("w", w)
    case.check("w_psi0.7", G.mapping(z, c, 0.7))
    case.check("w_psi0.5_cutoff4", G.mapping(z, c, 0.5, 4))
    case.check("w_psi0", G.mapping(z, c, 0))
    case.check("img_const", G.synthesis(w, **half))
    case.check("img_none", G.synthesis(w, "none", **half))
    case.check("img_G_psi0.7_const", G(z, c, 0.7, **half))
    case.check("img_G_psi0.5_cutoff4_none", G(z, c, 0.5, 4, "none", **half))
    case.check("img_const_unfused_modconv", G.synthesis(w, **half))
    case.check("img_const_batch1", G.synthesis(w[:1], **half))
    if half:
        case.check("img_const_force_fp32", G.synthesis(w))

    mixed = torch.cat([w[1, :3], w[0, 3:]])
    case.check("w_mix_row0_col1_012", mixed)
    case.check("img_mix_row0_col1_012_const", G.synthesis(mixed[None], **half))
    wplus = torch.stack([w[i % 4, i] for i in range(G.num_ws)])[None]
    case.check("wplus", wplus)
    case.check("img_wplus_const", G.synthesis(wplus, **half))
    torch.manual_seed(0)
    case.check("img_random_torchseed0", G.synthesis(w[:2], "random", **half))
    pixels = (G(z, c, 0.7, **half).permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    case.check("img_uint8_psi0.7_const", pixels)


@torch.no_grad()
def test_every_activation_of_the_generator_equals_the_reference(generator, reference):
    G, case = generator("f_skip_uncond_r32"), reference("stylegan2ada/f_skip_uncond_r32.trace_G")
    seen = activations(G, lambda: G(case.tensor("z")))
    seen["img"] = seen[""]
    for key in case.outputs:
        case.check(key, seen[key])


def activations(network, run):
    """Output of every module by name; `NAME.x` and `NAME.img` where a block gives both."""
    seen, hooks = {}, []
    for name, module in network.named_modules():

        def keep(module, inputs, output, name=name):
            if isinstance(output, tuple):
                seen[f"{name}.x"], seen[f"{name}.img"] = output
            else:
                seen[name] = output

        hooks.append(module.register_forward_hook(keep))
    run()
    for hook in hooks:
        hook.remove()
    return seen


def small(part="G", resolution=32, seed=0, **config):
    """A network with random weights, none of them trivial."""
    torch.manual_seed(seed)
    config = {"channel_base": 512, "channel_max": 16, "mapping_features": [16] * 2, **config}
    if part == "G":
        config = {"z_dim": 16, "w_dim": 16, **config}
    network = stylegan2.build(part, stylegan2.standard_config(part, resolution, **config)).eval()
    for name, value in network.named_parameters():
        if name.endswith(("bias", "noise_strength")):
            torch.nn.init.normal_(value, mean=float(value.detach().mean()), std=0.3)
    for name, value in network.named_buffers():
        if name.endswith("w_avg"):
            torch.nn.init.normal_(value)
    return network.requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("mode", ["const", "none", "random"])
def test_prepared_form_draws_the_same_pictures(architecture, mode):
    G = small(resolution=128, architecture=architecture, conv_clamp=4)
    exact, fast = stylegan2.prepare(G, "exact"), stylegan2.prepare(G, "fast")
    assert any(block.one_by_one for block in exact.synthesis.blocks)
    z = torch.randn(3, 16)

    def run(network, z=z):
        torch.manual_seed(1)
        return network(z, psi=0.7, cutoff=4, noise_mode=mode)

    want, got = run(G), run(exact)
    torch.testing.assert_close(got, want, atol=3e-5 * float(want.abs().max()), rtol=0)
    error = (run(fast) - want).square().mean()
    assert 10 * torch.log10((4 * want.std()) ** 2 / error) > 50
    if mode != "random":
        torch.testing.assert_close(run(exact, z[1:2]), got[1:2], atol=3e-5 * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"activation": "relu"}, {"activation": "swish"}, {"resample_filter": [1, 2, 3, 4, 5]}, {"use_noise": False}]
    + [{"resample_filter": [1.0, -2, 3, 4, 5, 6, 7, 8]}, {"const": [4, 2]}, {"img_channels": 1}, {"kernel_size": 1}],
)
def test_prepared_form_knows_every_option(options):
    G = small(resolution=128, **options)
    ws = G.mapping(torch.randn(2, 16))
    want = G.synthesis(ws)
    assert want.shape[1:] == (G.img_channels, *G.img_size)
    torch.testing.assert_close(
        stylegan2.prepare(G, "exact").synthesis(ws), want, atol=3e-5 * float(want.abs().max()), rtol=0
    )


def test_latents_can_be_fitted_through_the_prepared_form():
    G = small(resolution=64)
    exact = stylegan2.prepare(G, "exact")
    target = torch.randn(2, 3, 64, 64)
    gradients = []
    for network in (G, exact):
        ws = G.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(3))).requires_grad_(True)
        (network.synthesis(ws) * target).sum().backward()
        gradients.append(ws.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4 * float(gradients[0].abs().max()), rtol=0)
