"""SRResNet and SRGAN: every published dialect, the two forms, real files."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from ganhub import models
from ganhub.checkpoint import Network, RawCheckpoint, read, save
from ganhub.errors import CheckpointError
from ganhub.models import srresnet

CASES = [
    ("leftthomas_netG_epoch_2_100.pth", "leftthomas_x2"),
    ("leftthomas_netG_epoch_4_100.pth", "leftthomas_x4"),
    ("lornatang_HEAD.pth.tar", "lornatang_HEAD"),
    ("lornatang_db34483.pth.tar", "lornatang_db34483"),
    ("msrresnet_x4.pth", "msrresnet_x4"),
]


def raw(tensors, name="file.pth", part=""):
    return RawCheckpoint(name, "torch", {part: Network("", {}, dict(tensors))})


def lively(network, seed=0):
    """Weights, slopes and running statistics as after a training."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.normal_(0, (1.5 / layer.weight[0].numel()) ** 0.5)
            layer.bias.data.uniform_(-0.1, 0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.1)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
        elif isinstance(layer, nn.PReLU):
            layer.weight.data.uniform_(0.1, 0.4)
    network.last.weight.data.mul_(0.1)
    return network.eval().requires_grad_(False)


def small(**config):
    base = {"channels": 8, "blocks": 2, "ups": [[2, 8], [2, 8]], "kernels": [3, 3]}
    return lively(srresnet.SRResNet(**{**base, **config}))


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize(("file", "name"), CASES)
def test_equals_the_reference(shared, reference, file, name):
    case = reference(f"sr/{name}")
    opened = read(shared / "reference/sr" / file)
    assert models.detect(opened) == "srresnet"
    x, network = case.tensor("lr"), models.read(opened)
    case.check("sr", network(x))
    case.check("sr_uint8_round", (network(x).clamp(0, 1) * 255).round().to(torch.uint8))
    case.check("sr", models.prepare("srresnet", models.read(opened), "exact")(x))
    fast = models.prepare("srresnet", models.read(opened), "fast")(x)
    assert fast.dtype == torch.float32 and psnr(fast, torch.from_numpy(case.outputs["sr"])) > 50


@pytest.mark.parametrize(
    ("file", "subpixel", "array"),
    [
        ("g_tlx_torch", None, "sr_pixelshuffle"),
        ("g_tlx_torch", "tf", "sr_tf_depth_to_space"),
        ("g_tlx_tf_names", None, "sr_tf_depth_to_space"),
        ("g_tlx_tf_names", "torch", "sr_pixelshuffle"),
    ],
)
def test_equals_tensorlayer(shared, reference, file, subpixel, array):
    case = reference("tensorlayer_srgan/srgan_g")
    opened = read(shared / f"reference/tensorlayer_srgan/{file}.npz")
    assert models.detect(opened) == "srresnet"
    network = models.read(opened, **({"subpixel": subpixel} if subpixel else {}))
    x = (case.tensor("lr") + 1) / 2  # theirs is [-1, 1]
    assert network.config["signed"] and network.config["output"] == "tanh"
    assert torch.allclose(models.prepare("srresnet", network, "exact")(x), network(x), atol=1e-4)
    # set_eval() of TensorLayerX does not reach into its Sequential: there the blocks went on normalising by the batch.
    network.trunk.train()
    large = network(x)
    case.check(array, large * 2 - 1)
    if array == "sr_tf_depth_to_space":
        case.check("sr_uint8_tf", (large * 255).to(torch.uint8))


def test_tensorlayer_files_of_before_2019_are_refused_in_a_sentence(tmp_path):
    arrays = np.empty(3, dtype=object)
    arrays[:] = [np.ones((3, 3, 3, 16), np.float32), np.ones(16, np.float32), np.ones((3, 3, 16, 16), np.float32)]
    np.savez(tmp_path / "g.npz", params=arrays)
    with pytest.raises(CheckpointError, match=r"g\.npz.* an array of Python objects, which is a pickle"):
        read(tmp_path / "g.npz")


def test_the_published_width(reference):
    """64 channels, from the recipe by which the reference made its weights."""
    case = reference("sr/leftthomas_x4_FULL_recipe")
    draws = np.random.RandomState(5100)
    network = srresnet.SRResNet(blocks=5, output="tanh")

    def draw(value, numbers):
        value.data.copy_(torch.from_numpy(np.asarray(numbers, dtype=np.float32)))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            draw(layer.weight, draws.randn(*layer.weight.shape) * 0.8 * np.sqrt(2.0 / fan))
            draw(layer.bias, draws.randn(*layer.bias.shape) * 0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            draw(layer.weight, 1 + 0.2 * draws.randn(*layer.weight.shape))
            draw(layer.bias, 0.1 * draws.randn(*layer.bias.shape))
            draw(layer.running_mean, 0.2 * draws.randn(*layer.running_mean.shape))
            draw(layer.running_var, 0.5 + draws.rand(*layer.running_var.shape))
        elif isinstance(layer, nn.PReLU):
            draw(layer.weight, 0.1 + 0.3 * draws.rand(*layer.weight.shape))
    network = network.eval().requires_grad_(False)
    case.check("sr", network(case.tensor("lr")))
    case.check("sr", models.prepare("srresnet", network, "exact")(case.tensor("lr")))


def renamed(tensors, *pairs):
    found = {}
    for key, value in tensors.items():
        for old, new in pairs:
            key = re.sub(old, new, key)
        found[key] = value
    return found


HEAD = [(r"^trunk\.(\d+)\.body\.", r"trunk.\1.rcb."), (r"^first\.", "conv1."), (r"^middle\.", "conv2.")]
HEAD += [(r"^last\.", "conv3.")]
LATER = [(r"^(conv)([123])\.", r"\1_block\2.")]
FLAT = [(r"^ups\.", "upsampling.")]
BLOCKS = [(r"^ups\.0\.", "upsampling.0.upsample_block.0."), (r"^ups\.2\.", "upsampling.0.upsample_block.2.")]
BLOCKS += [(r"^ups\.3\.", "upsampling.1.upsample_block.0."), (r"^ups\.5\.", "upsampling.1.upsample_block.2.")]
FIVE = {
    "2021-09": ([*HEAD, *LATER, (r"\.rcb\.", ".rc_block."), *FLAT], "plain"),
    "2021-12": ([*HEAD, *LATER, *FLAT], "plain"),
    "2022-04": ([*HEAD, *LATER, *BLOCKS], "clamp"),
    "HEAD": ([*HEAD, *BLOCKS], "clamp"),
}


@pytest.mark.parametrize("era", FIVE)
def test_the_names_of_lornatang(era):
    pairs, output = FIVE[era]
    network = small(kernels=[9, 9], output=output)
    tensors = renamed(network.state_dict(), *pairs)
    for key in [k for k in tensors if re.search(r"rc\w*\.[03]\.bias$|2\.0\.bias$", k)]:  # theirs have none there
        tensors[key].zero_()
    x = torch.rand(1, 3, 6, 5)
    want = network(x)
    without = {k: v for k, v in tensors.items() if not re.search(r"rc\w*\.[03]\.bias$|2\.0\.bias$", k)}
    assert len(without) == len(tensors) - 5
    found = models.read(raw(without, part="ema_state_dict"))
    assert found.config == network.config and torch.allclose(found(x), want, atol=1e-6)


def test_lornatang_of_august_2021_normalises_before_the_shuffle():
    network = small(kernels=[9, 9])
    x = torch.rand(1, 3, 6, 5)
    norms = [nn.BatchNorm2d(32).eval() for _ in range(2)]
    for norm in norms:
        for value in (norm.weight.data, norm.running_var):
            value.uniform_(0.5, 1.5)
        for value in (norm.bias.data, norm.running_mean):
            value.normal_(0, 0.2)
    theirs = nn.Sequential(*network.ups[:1], norms[0], *network.ups[1:4], norms[1], *network.ups[4:])
    tensors = {k: v for k, v in network.state_dict().items() if not k.startswith("ups.")}
    tensors |= {f"ups.{k}": v for k, v in theirs.state_dict().items()}
    tensors = renamed(tensors, *HEAD, *LATER, (r"\.rcb\.", ".conv_block."), *FLAT)
    network.ups = theirs
    found = models.read(raw(tensors))
    assert models.detect(raw(tensors)) == "srresnet" and torch.allclose(found(x), network(x), atol=1e-5)


def test_three_kinds_of_leftthomas(shared):
    """A convolution with PReLU, with normalisation, or SiLU in place of the inner PReLUs, which only a row can tell."""
    opened = read(shared / "weights/srgan_leftthomas/netG_epoch_4_100.pth")
    assert models.read(opened).config["middle"] == "active"
    normed = read(shared / "reference/sr/leftthomas_netG_epoch_4_100.pth")
    assert models.read(normed).config["middle"] is True
    tensors = {k: v for k, v in normed.networks[""].tensors.items() if ".prelu." not in k}
    assert models.read(raw(tensors)).config["activation"] == ["prelu", "relu", "relu"]
    silu = models.read(raw(tensors), activation="silu")
    assert silu.config["activation"] == ["prelu", "silu", "silu"]
    x = torch.rand(1, 3, 8, 8)
    assert (silu(x) - models.read(raw(tensors))(x)).abs().max() > 0.01
    assert torch.allclose(models.prepare("srresnet", silu, "exact")(x), silu(x), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kernels": [9, 9], "ups": [[2, 8]], "output": "tanh"},
        {"ups": [[2, 8], [2, 8], [2, 8]], "middle": "active"},
        {"ups": [[3, 8]], "norm": False, "base": "bilinear", "kernels": [5, 5]},
        {"hr": True, "middle": False, "norm": False, "base": "bilinear", "activation": ["leaky_relu", "relu", "silu"]},
        {"signed": True, "output": "tanh", "activation": "relu", "kernels": [3, 1]},
        {"img_channels": 1, "output": "clamp", "ups": [[2, 16], [2, 8]]},
        {"ups": [], "kernels": [3, 3]},
    ],
)
def test_the_prepared_form(config, tmp_path):
    network = small(**config)
    x = torch.rand(2, network.img_channels, 7, 5)
    large = network(x)
    assert isinstance(network, models.Upscaler)
    assert large.shape == (2, network.img_channels, 7 * network.scale, 5 * network.scale)
    for precision, most in (("exact", 1e-5), ("fast", 0.02)):
        prepared = models.prepare("srresnet", network, precision)
        assert isinstance(prepared, models.Upscaler) and prepared.reach == network.reach
        assert (prepared(x) - large).std() < most * large.std()
    save(tmp_path / "x.safetensors", {"G": Network("", network.config, network.state_dict())}, {"family": "srresnet"})
    again = models.read(read(tmp_path / "x.safetensors"), scale=network.scale)
    assert again.config == network.config and torch.equal(again(x), large)
    own = models.read(raw(network.state_dict()), activation=network.config["activation"],
                      **{k: network.config[k] for k in ("output", "signed", "base")})  # fmt: skip
    assert torch.equal(own(x), large)


@pytest.mark.parametrize(
    "config",
    [{}, {"kernels": [9, 9], "ups": [[2, 8]]}, {"hr": True, "middle": False, "norm": False}, {"ups": [[3, 8]]}],
)
def test_sees_as_far_as_it_says(config):
    network = small(**config).double()
    x = torch.rand(1, 3, 4, 2 * network.reach + 9, dtype=torch.float64, requires_grad=True)
    middle = network.reach + 4
    part = network(x)[..., middle * network.scale : (middle + 1) * network.scale]
    (gradient,) = torch.autograd.grad(part.square().sum(), x)
    assert int((gradient.abs().sum((0, 1, 2)).nonzero().flatten() - middle).abs().max()) == network.reach


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_tile_with_its_surroundings_equals_the_whole(precision):
    network = small(kernels=[9, 9])
    around, scale = network.reach, network.scale
    x = torch.rand(1, 3, 8, 2 * around + 24)
    prepared = models.prepare("srresnet", network, precision)
    tile = prepared(x[..., 12 : 12 + 2 * around + 8])[..., around * scale : (around + 8) * scale]
    assert (tile - prepared(x)[..., (12 + around) * scale : (20 + around) * scale]).abs().max() < 1e-6


def test_what_does_not_fit_is_named():
    tensors = small().state_dict()
    with pytest.raises(CheckpointError, match="has scale 4, not 2"):
        models.read(raw(tensors), scale=2)
    with pytest.raises(CheckpointError, match="config.subpixel must be tf or torch, not 'x'"):
        models.read(raw(tensors), subpixel="x")
    with pytest.raises(CheckpointError, match="config.norms means nothing"):
        models.read(raw(tensors), norms=True)
    with pytest.raises(CheckpointError, match="There is no 'sigmoid' for an SRResNet"):
        models.read(raw(tensors), output="sigmoid")
    with pytest.raises(CheckpointError, match="config.activation must be one of prelu, silu, relu, leaky_relu"):
        models.read(raw({k: v for k, v in tensors.items() if not k.endswith("body.2.weight")}), activation="gelu")
    del tensors["trunk.1.body.3.weight"]
    with pytest.raises(
        CheckpointError, match=r"file\.pth does not fit SRResNet: 'trunk\.1\.body\.3\.weight' is missing"
    ):
        models.read(raw(tensors))
    with pytest.raises(CheckpointError, match="no SRResNet: it lacks a first or last convolution"):
        models.read(raw({"last.weight": torch.ones(3, 8, 3, 3)}), "srresnet")


def test_no_memory_is_spent_on_what_a_file_pretends_to_hold():
    wide = {"first.0.weight": torch.ones(1, 3, 1, 1).expand(100_000, 3, 1, 1), "last.weight": torch.ones(3, 1, 1, 1)}
    with pytest.raises(CheckpointError, match="does not fit"):
        models.read(raw({**wide, "trunk.0.body.0.weight": torch.ones(1, 1, 1, 1)}))
