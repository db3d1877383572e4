import json

import numpy as np
import pytest
import torch

from ganhub import checkpoint
from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import detect, read, stylegan2

ADA = ["f_skip_uncond_r32", "cond_c5_r32", "arch_Gresnet_Dskip_r32", "fp16x2_clamp_r64"]
FORMS = ["plain", "exact"]


@pytest.fixture(scope="module")
def raw(shared, tmp_path_factory):
    """`raw("stylegan2ada/NAME.nosrc.pkl")`: what the project's reader finds in a reference file, read once."""
    cache, known = tmp_path_factory.mktemp("converted"), {}

    def get(name):
        if name not in known:
            known[name] = checkpoint.read(shared / "reference" / name, cache=cache)
        return known[name]

    return get


def generator(raw, form="plain"):
    assert detect(raw) == "stylegan2"
    G = read(raw, "stylegan2")
    return G if form == "plain" else stylegan2.prepare(G, form)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ADA)
def test_generator_equals_the_reference(raw, reference, name, form):
    G, case = generator(raw(f"stylegan2ada/{name}.nosrc.pkl"), form), reference(f"stylegan2ada/{name}.G")
    z, c = case.tensor("z"), case.tensor("c")
    w = G.mapping(z, c)
    case.check("w", w)
    case.check("w_psi0.7", G.mapping(z, c, 0.7))
    case.check("w_psi0.5_cutoff4", G.mapping(z, c, 0.5, 4))
    case.check("w_psi0", G.mapping(z, c, 0))
    if "img_const_force_fp32" in case.outputs:
        case.check("img_const_force_fp32", G.synthesis(w))
        if form != "plain":
            return
    half = {"force_fp32": False} if "img_const_force_fp32" in case.outputs else {}
    case.check("img_const", G.synthesis(w, **half))
    case.check("img_none", G.synthesis(w, "none", **half))
    case.check("img_G_psi0.7_const", G(z, c, 0.7, **half))
    case.check("img_G_psi0.5_cutoff4_none", G(z, c, 0.5, 4, "none", **half))
    case.check("img_const_unfused_modconv", G.synthesis(w, **half))
    case.check("img_const_batch1", G.synthesis(w[:1], **half))

    mixed = torch.cat([w[1, :3], w[0, 3:]])
    case.check("w_mix_row0_col1_012", mixed)
    case.check("img_mix_row0_col1_012_const", G.synthesis(mixed[None], **half))
    wplus = torch.stack([w[i % 4, i] for i in range(G.num_ws)])[None]
    case.check("wplus", wplus)
    case.check("img_wplus_const", G.synthesis(wplus, **half))
    torch.manual_seed(0)
    case.check("img_random_torchseed0", G.synthesis(w[:2], "random", **half))
    case.check("img_uint8_psi0.7_const", pixels(G(z, c, 0.7, **half)))


@torch.no_grad()
@pytest.mark.parametrize("name", ADA)
def test_discriminator_equals_the_reference(raw, reference, name):
    D = read(raw(f"stylegan2ada/{name}.nosrc.pkl"), "stylegan2", "D")
    case = reference(f"stylegan2ada/{name}.D")
    img, c = case.tensor("img"), case.tensor("c")
    half = "logits_n8_force_fp32" in case.outputs
    for n in (8, 4, 3, 2, 1):
        case.check(f"logits_n{n}", D(img[:n], c[:n], force_fp32=not half))
    if half:
        case.check("logits_n8_force_fp32", D(img, c))
    if D.epilogue == "b4" and D.b4.mbstd.group == 4:
        with pytest.raises(BadInput, match="groups of 4; a batch of 6"):
            D(img[:6], c[:6])


@torch.no_grad()
def test_every_activation_equals_the_reference(raw, reference):
    file = raw("stylegan2ada/f_skip_uncond_r32.nosrc.pkl")
    G, case = generator(file), reference("stylegan2ada/f_skip_uncond_r32.trace_G")
    seen = activations(G, lambda: G(case.tensor("z")))
    seen["img"] = seen[""]
    for key in case.outputs:
        case.check(key, seen[key])
    D, case = read(file, "stylegan2", "D"), reference("stylegan2ada/f_skip_uncond_r32.trace_D")
    seen = activations(D, lambda: D(case.tensor("img")))
    seen["logits"] = seen[""]
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


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_pictures_equal_those_of_the_original_commands(raw, reference, form):
    case = reference("stylegan2ada/cli_png")
    G = generator(raw("stylegan2ada/f_skip_uncond_r32.era2021.nosrc.pkl"), form)
    for seed in (0, 1, 2, 3, 85):
        close_pixels(case, f"uncond_trunc0.7_const:seed{seed:04d}", G(z_of(seed, 64), psi=0.7)[0])
    run = "stylemix_rows85,100_cols55,821_styles0-3_trunc0.9_const"
    ws = {seed: G.mapping(z_of(seed, 64), psi=0.9)[0] for seed in (85, 100, 55, 821)}
    for row in ws:
        for column in ws:
            if f"{run}:{row}-{column}" in case.outputs:
                mixed = torch.cat([ws[column][:4], ws[row][4:]])
                close_pixels(case, f"{run}:{row}-{column}", G.synthesis(mixed[None])[0])
    G = generator(raw("stylegan2ada/cond_c5_r32.era2021.nosrc.pkl"), form)
    for seed in (0, 1):
        image = G(z_of(seed, 48), torch.eye(5)[3:4], noise_mode="none")[0]
        close_pixels(case, f"cond_class3_trunc1_none:seed{seed:04d}", image)


def z_of(seed, z_dim):
    return torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim))


def pixels(images):
    return (images.permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def close_pixels(case, key, image):
    got = pixels(image[None])[0]
    case.check(key, got)
    assert (got.numpy() == case.outputs[key]).mean() > 0.999


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_tensorflow_pickle_equals_the_reference(raw, reference, form):
    file = raw("stylegan2_tf/configf_r32.nosrc.pkl")
    G, case = generator(file, form), reference("stylegan2_tf/configf_r32.G")
    z = case.tensor("z")
    w = G.mapping(z)
    case.check("w", w)
    case.check("img_const", G.synthesis(w))
    case.check("img_none", G.synthesis(w, "none"))
    case.check("img_psi0_5_const", G(z, psi=0.5))
    case = reference("stylegan2_tf/configf_r32.D")
    case.check("logits", read(file, "stylegan2", "D")(case.tensor("img")))


@torch.no_grad()
def test_tensorflow_defaults_hold_where_a_file_states_little(raw):
    file = raw("stylegan2_tf/configf_r32.nosrc.pkl")
    bare = {k: Network(n.class_name, {"resolution": 32}, n.tensors) for k, n in file.networks.items()}
    short = RawCheckpoint(file.name, file.format, bare)
    z = torch.randn(2, 64)
    assert torch.equal(read(short, "stylegan2")(z), read(file, "stylegan2")(z))
    x = torch.randn(8, 3, 32, 32)
    assert torch.equal(read(short, "stylegan2", "D")(x), read(file, "stylegan2", "D")(x))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_rosinality_file_equals_the_reference(raw, reference, form):
    file = raw("rosinality/train_r64_cm2.pt")
    G, case = generator(file, form), reference("rosinality/train_r64_cm2.G")
    z = case.tensor("z")
    again = generator(file, form)
    assert torch.equal(G.w_avg, again.w_avg), "the mean latent that a training file lacks is the same at every reading"
    assert (G.w_avg - case.tensor("latent_avg")).abs().max() < 0.2
    G.w_avg.copy_(case.tensor("latent_avg")[0])
    w = G.mapping(z)

    def fixed():
        each = iter(range(9))
        return lambda shape: case.tensor(f"noise{next(each)}").expand(shape)

    case.check("w", w[:, 0])
    case.check("latent", w)
    case.check("img_buffers_noise", G.synthesis(w))
    case.check("img_input_is_latent_w", G.synthesis(w))
    case.check("img_trunc0.5_buffers", G(z, psi=0.5))
    case.check("img_trunc0.7_fixednoise", G(z, psi=0.7, noise_mode="random", noise=fixed()))
    case.check("img_mix_inject3_buffers", G.synthesis(torch.cat([w[:1, :3], w[1:, 3:]], dim=1)))
    case.check("img_input_is_latent_wplus", G.synthesis(torch.from_numpy(case.outputs["wplus"])))
    case = reference("rosinality/train_r64_cm2.D")
    case.check("logits", read(file, "stylegan2", "D")(case.tensor("img")))


@torch.no_grad()
def test_converted_rosinality_file_has_its_own_mean(raw):
    file = raw("rosinality/train_r64_cm2.pt")
    mean = torch.randn(1, 48)
    for place in ({"": Network("", {}, {"latent_avg": mean})}, {"latent_avg": Network("", {}, {"": mean})}):
        converted = RawCheckpoint("x.pt", "torch", {"g_ema": file.networks["g_ema"], **place})
        assert torch.equal(read(converted, "stylegan2").w_avg, mean[0])


@torch.no_grad()
def test_bare_tensors_by_nvidias_names(shared, raw):
    with np.load(shared / "reference/stylegan2ada/cond_c5_r32.G_ema.state.npz") as arrays:
        tensors = {k: torch.from_numpy(arrays[k]) for k in arrays.files}
    want = read(raw("stylegan2ada/cond_c5_r32.nosrc.pkl"), "stylegan2")
    z, c = torch.randn(2, 48), torch.eye(5)[:2]
    for prefix in ("", "G_ema.", "generator."):
        bare = {prefix + k: v for k, v in tensors.items()}
        G = generator(RawCheckpoint("x.npz", "numpy", {"": Network("", {}, bare)}))
        assert torch.equal(G(z, c), want(z, c))


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
    close(got, want)
    error = (run(fast) - want).square().mean()
    assert 10 * torch.log10((4 * want.std()) ** 2 / error) > 50
    if mode != "random":
        close(run(exact, z[1:2]), got[1:2])
        assert torch.equal(run(fast, z[1:2]), run(fast)[1:2]), "one rounding would change the picture visibly"


@torch.no_grad()
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_styles_draw_what_their_latents_draw(architecture, precision):
    G = stylegan2.prepare(small(resolution=64, architecture=architecture), precision)
    ws = torch.randn(2, G.num_ws, 16)
    styles = G.synthesis.to_styles(ws)
    assert styles.shape == (2, G.synthesis.s_dim)
    assert torch.equal(G.synthesis.from_styles(styles), G.synthesis(ws))
    moved = styles.clone()
    moved[0, 0] += 1
    different = (G.synthesis.from_styles(moved) != G.synthesis(ws)).flatten(1).any(1)
    assert different.tolist() == [True, False]
    with pytest.raises(BadInput, match="styles"):
        G.synthesis.from_styles(styles[:, 1:])


@torch.no_grad()
def test_the_picture_of_a_lower_resolution_is_enough():
    G = small(resolution=64)
    exact, ws = stylegan2.prepare(G, "exact"), torch.randn(2, G.num_ws, 16)
    seen = []
    G.synthesis.b32.register_forward_hook(lambda module, args, out: seen.append(out[1]))
    whole = G.synthesis(ws)
    for least, side in ((17, 32), (32, 32), (33, 64), (500, 64)):
        got = exact.synthesis(ws, least=least)
        assert got.shape[2:] == (side, side)
        close(got, seen[0] if side == 32 else whole)
    residual = stylegan2.prepare(small(resolution=64, architecture="resnet"), "exact")
    assert residual.synthesis(torch.randn(1, G.num_ws, 16), least=16).shape[2:] == (64, 64), "it draws no other"


def close(got, want, atol=3e-5):
    torch.testing.assert_close(got, want, atol=atol * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"activation": "relu"}, {"activation": "swish"}, {"activation": "linear"}, {"use_noise": False}]
    + [{"resample_filter": [1, 2, 3, 4, 5]}, {"resample_filter": [1.0, -2, 3, 4, 5, 6, 7, 8]}]
    + [{"const": [4, 2]}, {"const": [3, 4]}, {"img_channels": 1}, {"kernel_size": 1}, {"c_dim": 3, "z_dim": 0}],
)
def test_prepared_form_knows_every_option(options):
    G = small(resolution=128, **options)
    c = torch.eye(3)[:2] if G.c_dim else None
    ws = G.mapping(torch.randn(2, 16), c)
    want = G.synthesis(ws)
    assert want.shape[1:] == (G.img_channels, *G.img_size)
    close(stylegan2.prepare(G, "exact").synthesis(ws), want)


# A smooth activation shows the gradient itself; at the kink of a leaky ReLU a rounding error may take the other side.
@pytest.mark.parametrize(("activation", "atol"), [("swish", 3e-5), ("lrelu", 2e-3)])
@pytest.mark.parametrize("width", [16, 256])
def test_latents_can_be_fitted_through_the_prepared_form(width, activation, atol):
    G = small(resolution=32, channel_base=width * 32, channel_max=width, activation=activation)
    exact = stylegan2.prepare(G, "exact")
    assert any(type(m).__name__ == "Winograd" for m in exact.modules()) == (width >= 256)
    target = torch.randn(2, 3, 32, 32)
    images, gradients = [], []
    for network in (G, exact):
        ws = G.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(3)))
        images.append(network.synthesis(ws))
        ws.requires_grad_(True)
        (network.synthesis(ws) * target).sum().backward()
        gradients.append(ws.grad)
    close(images[1], images[0])
    close(gradients[1], gradients[0], atol)


@pytest.mark.parametrize("part", ["G", "D"])
@pytest.mark.parametrize(
    "options",
    [{}, {"architecture": "orig"}, {"architecture": "skip"}, {"architecture": "resnet"}, {"c_dim": 3}]
    + [{"c_dim": 3, "labels": "concat"}, {"img_channels": 1}, {"resample_filter": [1, 2, 3, 4]}],
)
def test_config_and_tensors_survive_their_own_file(tmp_path, part, options):
    network = small(part, **options)
    file = tmp_path / "x.safetensors"
    tensors = network.state_dict()
    checkpoint.save(file, {part: Network("", network.config, tensors)}, {"family": "stylegan2"})
    again = read(checkpoint.read(file), part=part)
    x = torch.randn(4, 16) if part == "G" else torch.randn(4, network.img_channels, 32, 32)
    c = torch.eye(3)[[0, 1, 2, 0]] if network.c_dim else None
    assert torch.equal(again(x, c), network(x, c))
    # The same tensors without any config: shapes tell the architecture, all but the filter.
    raw = RawCheckpoint("x.pt", "torch", {part: Network("", {}, tensors)})
    given = {k: v for k, v in options.items() if k == "resample_filter"}
    assert torch.equal(read(raw, "stylegan2", part, **given)(x, c), network(x, c))


def test_rectangles_are_read_from_shapes():
    G, D = small(const=[4, 2]), small("D", size=[4, 2])
    assert G.img_size == (32, 16) == D.img_size
    networks = {"G_ema": Network("", {}, G.state_dict()), "D": Network("", {}, D.state_dict())}
    raw = RawCheckpoint("x.pkl", "nvidia-torch", networks)
    assert read(raw, "stylegan2").img_size == (32, 16) == read(raw, "stylegan2", "D").img_size
    alone = RawCheckpoint("x.pt", "torch", {"D": networks["D"]})
    assert stylegan2.detect(alone)
    assert read(alone, "stylegan2", "D").img_size == (32, 16)


def test_the_first_stylegan2_conditions_by_concatenation():
    G = small(c_dim=3, labels="concat")
    z, c = torch.randn(2, 16), torch.eye(3)[:2]
    x = torch.cat([z, c @ G.mapping.embed.weight.T / 3**0.5], dim=1)
    x = x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(2):
        x = G.mapping.get_submodule(f"fc{i}")(x)
    torch.testing.assert_close(G.mapping(z, c)[:, 0], x)


def test_networks_can_be_trained():
    G, D = small(resolution=16).requires_grad_(True).train(), small("D", resolution=16).requires_grad_(True).train()
    G, D = G.double(), D.double()
    ws = G.mapping(torch.randn(4, 16))
    images = G.synthesis(ws)
    (gradient,) = torch.autograd.grad((images * torch.randn_like(images)).sum(), ws, create_graph=True)
    gradient.square().sum().backward()  # path-length regularisation
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(D(images).sum(), images, create_graph=True)
    gradient.square().sum().backward()  # R1
    for network, unused in ((G, ("const", "noise_strength", "bias")), (D, ("bias",))):
        for name, value in network.named_parameters():
            if not name.endswith(unused):
                assert value.grad is not None and value.grad.abs().sum() > 0, name


def test_second_derivatives_are_right():
    G = small(resolution=4, channel_max=2, w_dim=2, z_dim=2, mapping_features=[2], activation="swish").double()
    ws = G.mapping(torch.randn(1, 2)).detach().requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda ws: G.synthesis(ws).tanh(), (ws,), atol=1e-4)


def test_errors_name_file_and_cause():
    state = small().state_dict()
    raw = RawCheckpoint("bad.pkl", "nvidia-torch", {"G_ema": Network("", {}, state)})
    with pytest.raises(CheckpointError, match=r"bad\.pkl holds no StyleGAN2 discriminator"):
        read(raw, "stylegan2", "D")
    with pytest.raises(CheckpointError, match="'colour' is no setting of a StyleGAN2 file"):
        read(raw, "stylegan2", colour=1)
    for key in ("synthesis.b8.conv0.weight", "mapping.fc0.weight", "synthesis.b4.conv1.weight"):
        short = {k: v for k, v in state.items() if k != key}
        with pytest.raises(CheckpointError, match=r"bad\.pkl.*missing"):
            read(RawCheckpoint("bad.pkl", "nvidia-torch", {"G_ema": Network("", {}, short)}), "stylegan2")
    foreign = {**state, "synthesis.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"bad\.pkl.*'synthesis\.extra' is foreign"):
        read(RawCheckpoint("bad.pkl", "nvidia-torch", {"G_ema": Network("", {}, foreign)}), "stylegan2")
    G = small(c_dim=3)
    with pytest.raises(BadInput, match=r"latents of shape \[N, 16\], not \[2, 15\]"):
        G(torch.randn(2, 15), torch.eye(3)[:2])
    with pytest.raises(BadInput, match=r"one-hot classes of shape \[N, 3\], not None"):
        G(torch.randn(2, 16))
    with pytest.raises(BadInput, match="noise mode 'loud'"):
        G.synthesis(torch.zeros(1, G.num_ws, 16), "loud")
    with pytest.raises(BadInput, match="pictures of shape"):
        small("D")(torch.zeros(1, 3, 16, 16))
    with pytest.raises(CheckpointError, match="precision 'quick'"):
        stylegan2.prepare(G, "quick")
    with pytest.raises(CheckpointError, match="config of a StyleGAN2 Generator is wrong"):
        stylegan2.build("G", {"depth": 3})
    with pytest.raises(CheckpointError, match="not 100"):
        stylegan2.standard_config("G", 100)


def test_config_is_json():
    assert json.loads(json.dumps(small().config)) == small().config


def test_pictures_may_be_enlarged_by_another_filter():
    """rosinality's generator with other taps keeps the default ones for its pictures."""
    G = small(resample_filter=[1, 2, 5, 7], rgb_filter=[1, 3, 3, 1])
    ws = G.mapping(torch.randn(1, 16))
    assert not torch.allclose(G.synthesis(ws), small(resample_filter=[1, 2, 5, 7]).synthesis(ws), atol=1e-2)
    close(stylegan2.prepare(G, "exact").synthesis(ws), G.synthesis(ws))
    tensors = {"input.input": G.synthesis.b4.const[None]}
    for i in range(1, 3):
        tensors |= {f"style.{i}.{k}": v for k, v in G.mapping.get_submodule(f"fc{i - 1}").named_parameters()}
    for level, block in enumerate(G.synthesis.children()):
        for name, layer in block.named_children():
            j = 2 * (level - 1) + int(name[-1] == "1")
            there = f"to_rgbs.{level - 1}" if name == "torgb" else f"convs.{j}"
            there = there if level else ("to_rgb1" if name == "torgb" else "conv1")
            tensors[f"{there}.conv.weight"] = layer.weight[None]
            tensors[f"{there}.conv.modulation.weight"] = layer.affine.weight
            tensors[f"{there}.conv.modulation.bias"] = layer.affine.bias
            if name == "torgb":
                tensors[f"{there}.bias"] = layer.bias[None, :, None, None]
                tensors |= {f"{there}.upsample.kernel": block.f * 4} if level else {}
                continue
            tensors |= {f"{there}.noise.weight": layer.noise_strength[None], f"{there}.activate.bias": layer.bias}
            tensors[f"noises.noise_{j + 1}"] = layer.noise_const[None, None]
            tensors |= {f"{there}.conv.blur.kernel": layer.f * 4} if name == "conv0" else {}
    raw = RawCheckpoint("x.pt", "torch", {"g_ema": Network("", {}, tensors)})
    close(read(raw, "stylegan2").synthesis(ws), G.synthesis(ws))
