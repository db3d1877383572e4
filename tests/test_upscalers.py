"""Networks that make pictures larger: the compact one, RRDBNet, and what both share."""

import importlib
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ganhub import models
from ganhub.checkpoint import Network, RawCheckpoint, read, save
from ganhub.errors import BadInput, CheckpointError
from ganhub.metrics.pictures import imresize
from ganhub.models import compact, rrdb
from ganhub.registry import load_registry

CASES = [
    ("esrgan_gc32_rrdb_x4.pth", "esrgan_gc32_rrdb_x4"),
    ("esrgan_gc32_rrdb_x4.oldarch.pth", "esrgan_gc32_rrdb_x4"),
    ("esrgan_gc32_rrdb_x4.newarch.pth", "esrgan_gc32_rrdb_x4"),
    ("realesrgan_rrdb_x4.pth", "realesrgan_rrdb_x4"),
    ("realesrgan_rrdb_x2.pth", "realesrgan_rrdb_x2"),
    ("srvgg_prelu.pth", "srvgg_prelu"),
    ("srvgg_relu.pth", "srvgg_relu"),
]


def raw(tensors, name="file.pth", part=""):
    return RawCheckpoint(name, "torch", {part: Network("", {}, dict(tensors))})


def lively(network, seed=0):
    torch.manual_seed(seed)
    for value in network.parameters():
        if value.dim() == 4:
            value.data.normal_(0, (1.5 / value[0].numel()) ** 0.5)
        else:
            value.data.uniform_(0.05, 0.3)
    return network.eval().requires_grad_(False)


def small_rrdb(**config):
    base = {"channels": 8, "blocks": 1, "growth": 4, "ups": [2, 2], "unshuffle": 1, "img_channels": 3}
    return lively(rrdb.build("G", {**base, **config}))


def small_compact(**config):
    base = {"channels": 8, "convs": 2, "scale": 4, "activation": "prelu", "img_channels": 3}
    return lively(compact.build("G", {**base, **config}))


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize(("file", "name"), CASES)
def test_equals_the_reference(shared, reference, file, name):
    case = reference(f"sr/{name}")
    opened = read(shared / "reference/sr" / file)
    family = models.detect(opened)
    network = models.read(opened)
    x = case.tensor("lr")
    case.check("sr", network(x))
    case.check("sr_uint8_round", (network(x).clamp(0, 1) * 255).round().to(torch.uint8))
    case.check("sr", models.prepare(family, models.read(opened), "exact")(x))
    fast = models.prepare(family, models.read(opened), "fast")(x)
    assert fast.dtype == torch.float32 and psnr(fast, torch.from_numpy(case.outputs["sr"])) > 50


def test_a_denoising_strength_between_two_networks(shared, reference):
    case = reference("sr/realesrganer_dni")
    plain, gentle = (models.read(read(shared / f"reference/sr/{n}.pth")) for n in ("srvgg_prelu", "srvgg_wdn_prelu"))
    before = plain.body[0].weight.clone()
    network = models.blend(plain, gentle, 0.3)
    picture = torch.from_numpy(case.inputs["bgr"][..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    height, width = picture.shape[2:]
    # The original pads by ten mirrored pixels before, and cuts them off after.
    large = network(F.pad(picture, (0, 10, 0, 10), "reflect"))[0, :, : 4 * height, : 4 * width]
    case.check("x4_bgr", (large.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()[..., ::-1])
    assert torch.equal(plain.body[0].weight, before)
    assert torch.equal(models.blend(plain, gentle, 0)(picture), plain(picture))
    assert torch.allclose(models.blend(plain, gentle, 1)(picture), gentle(picture), atol=1e-6)


def test_only_equal_networks_are_blended():
    with pytest.raises(CheckpointError, match="differ in convs"):
        models.blend(small_compact(), small_compact(convs=3), 0.5)
    with pytest.raises(CheckpointError, match="cannot be blended"):
        models.blend(small_compact(), small_rrdb(), 0.5)


NETWORKS = {
    "rrdb-x4": lambda: small_rrdb(),
    "rrdb-x2": lambda: small_rrdb(unshuffle=2),
    "rrdb-x1": lambda: small_rrdb(unshuffle=4),
    "rrdb-x2-plain": lambda: small_rrdb(ups=[2]),
    "rrdb-x3": lambda: small_rrdb(ups=[3]),
    "rrdb-x8": lambda: small_rrdb(ups=[2, 2, 2], blocks=2),
    "compact-x4": lambda: small_compact(),
    "compact-x2-grey": lambda: small_compact(scale=2, img_channels=1, activation="leakyrelu"),
    "compact-x1": lambda: small_compact(scale=1, convs=5),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def picture(network, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = [-(-n // network.multiple) * network.multiple for n in (height, width)]
    return torch.rand(1, network.img_channels, *sides, generator=generator)


def test_follows_the_protocol(network):
    x = picture(network, 6, 9)
    large = network(x)
    assert isinstance(network, models.Upscaler)
    assert large.shape == (1, network.img_channels, x.shape[2] * network.scale, x.shape[3] * network.scale)
    family = "rrdb" if isinstance(network, rrdb.RRDBNet) else "compact"
    for precision, most in (("exact", 1e-5), ("fast", 0.02)):  # of eight random channels; wider ones are nearer
        prepared = models.prepare(family, network, precision)
        assert isinstance(prepared, models.Upscaler)
        assert (prepared.scale, prepared.reach, prepared.multiple) == (network.scale, network.reach, network.multiple)
        assert (prepared(x) - large).std() < most * large.std()


def test_sees_as_far_as_it_says(network):
    """The gradient of one low-resolution column of the output reaches `reach` columns, and no further."""
    network = network.double()
    middle = network.reach // network.multiple * network.multiple + 8 * network.multiple
    x = picture(network, 4, 2 * middle).double().requires_grad_()
    seen = []
    for column in range(middle, middle + network.multiple):
        place = slice(column * network.scale, (column + 1) * network.scale)
        (gradient,) = torch.autograd.grad(network(x)[..., place].square().sum(), x)
        columns = gradient.abs().sum((0, 1, 2)).nonzero().flatten() - column
        seen.append(int(columns.abs().max()))
    assert max(seen) == network.reach


@pytest.mark.parametrize("name", ["rrdb-x4", "rrdb-x2", "compact-x4"])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_tile_with_its_surroundings_equals_the_whole(name, precision):
    network = NETWORKS[name]()
    around = -(-network.reach // network.multiple) * network.multiple
    x = picture(network, 8, 2 * around + 24)
    prepared = models.prepare(name.split("-")[0], network, precision)
    tile = prepared(x[..., 12 : 12 + 2 * around + 8])[..., around * network.scale : (around + 8) * network.scale]
    whole = prepared(x)[..., (12 + around) * network.scale : (20 + around) * network.scale]
    assert (tile - whole).abs().max() < 1e-6


def test_sides_that_cannot_be_halved():
    with pytest.raises(BadInput, match="multiples of 2, not 5x4"):
        small_rrdb(unshuffle=2)(torch.rand(1, 3, 4, 5))


def test_files_of_any_width_and_names():
    network = small_rrdb(channels=10, growth=6, blocks=3)
    for part in ("", "params_ema", "params"):
        found = models.read(raw(network.state_dict(), part=part))
        assert found.config == network.config
    both = RawCheckpoint(
        "both.pth",
        "torch",
        {
            "params": Network("", {}, small_rrdb(channels=10).state_dict()),
            "params_ema": Network("", {}, network.state_dict()),
        },
    )
    assert models.read(both).config["blocks"] == 3


@pytest.mark.parametrize("activation", ["relu", "leakyrelu"])
def test_an_activation_without_tensors_is_told_by_the_row(activation):
    network = small_compact(activation=activation)
    file = raw(network.state_dict())
    assert models.read(file).config["activation"] == "relu"
    found = models.read(file, activation=activation)
    x = picture(network, 5, 5)
    assert found.config == network.config and torch.equal(found(x), network(x))
    with pytest.raises(CheckpointError, match=re.escape("config.activation must be prelu, relu or leakyrelu")):
        models.read(file, activation="silu")


def test_a_row_must_agree_with_its_file():
    assert models.read(raw(small_compact().state_dict()), scale=4).scale == 4
    for file in (raw(small_compact().state_dict()), raw(small_rrdb().state_dict())):
        with pytest.raises(CheckpointError, match=r"file\.pth has scale 4, not 2 as config\.scale says"):
            models.read(file, scale=2)
        with pytest.raises(CheckpointError, match="config.colour means nothing"):
            models.read(file, colour=1)
    with pytest.raises(CheckpointError, match="has activation prelu, not 'relu'"):
        models.read(raw(small_compact().state_dict()), activation="relu")
    one = small_rrdb(ups=[2])
    assert models.read(raw(one.state_dict()), scale=3).scale == 3
    assert models.read(raw(one.state_dict())).scale == 2


def test_incomplete_files_are_named():
    tensors = small_rrdb(blocks=2).state_dict()
    del tensors["body.1.rdb2.conv3.bias"]
    with pytest.raises(
        CheckpointError, match=r"file\.pth does not fit RRDBNet: 'body\.1\.rdb2\.conv3\.bias' is missing"
    ):
        models.read(raw(tensors))
    tensors = small_compact().state_dict()
    tensors["body.2.weight"] = tensors["body.2.weight"][:4]
    with pytest.raises(CheckpointError, match="no compact network"):
        models.read(raw(tensors), "compact")


def test_saved_files_build_the_same_network(tmp_path):
    for family, network in (("rrdb", small_rrdb(unshuffle=2)), ("compact", small_compact())):
        save(tmp_path / "x.safetensors", {"G": Network("", network.config, network.state_dict())}, {"family": family})
        found = models.read(read(tmp_path / "x.safetensors"), scale=network.scale)
        x = picture(network, 4, 4)
        assert torch.equal(found(x), network(x))


TINY = {  # arguments of spandrel's own classes; scale, multiple
    "SwinIR": ({"img_size": 16, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "upscale": 2,
                "upsampler": "pixelshuffle"}, 2, 1),
    "OmniSR": ({"num_feat": 16, "up_scale": 2}, 2, 1),
    "SPAN": ({"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2}, 2, 1),
    "SAFMN": ({"dim": 8, "n_blocks": 1}, 4, 8),
    "RCAN": ({"scale": 2, "n_resgroups": 1, "n_resblocks": 1, "n_feats": 16}, 2, 1),
    "DnCNN": ({"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 4}, 1, 1),
    "ESRGAN": ({"num_filters": 8, "num_blocks": 1, "plus": True}, 4, 1),
}  # fmt: skip


def of_spandrel(name):
    torch.manual_seed(0)
    module = importlib.import_module(f"spandrel.architectures.{name}")
    return getattr(module, name)(**TINY[name][0]).eval()


@pytest.mark.parametrize("name", TINY)
def test_whatever_spandrel_knows_is_read(name, tmp_path):
    import spandrel

    tensors = of_spandrel(name).state_dict()
    torch.save({"params_ema": tensors, "step": 7}, tmp_path / "net.pth")
    opened = read(tmp_path / "net.pth")
    assert models.detect(opened) == "spandrel"
    network = models.read(opened, scale=TINY[name][1])
    assert isinstance(network, models.Upscaler) and network.reach == 0
    assert (network.scale, network.multiple, network.img_channels) == (*TINY[name][1:], 3)
    x = torch.rand(1, 3, 24, 16)
    kept = x.clone()
    want = spandrel.MAIN_REGISTRY.load(tensors)(kept.clone())
    large = network(x)
    assert torch.equal(x, kept) and torch.equal(large, want)
    large.add_(0)  # a tensor of inference mode would refuse
    assert torch.equal(models.prepare("spandrel", network, "exact")(x), want)
    fast = models.prepare("spandrel", network, "fast")
    assert isinstance(fast, models.Upscaler) and fast(x).dtype == torch.float32 and psnr(fast(x), want) > 45

    facts = {"G": Network("", json.loads(json.dumps(network.config)), network.state_dict())}
    save(tmp_path / "own.safetensors", facts, {"family": "spandrel"})
    assert torch.equal(models.read(read(tmp_path / "own.safetensors"))(x), want)
    with pytest.raises(CheckpointError, match=f"has scale {network.scale}, not 16"):
        models.read(opened, scale=16)


def test_what_is_not_for_enlarging_is_refused(monkeypatch):
    tensors = of_spandrel("OmniSR").state_dict()
    key = next(key for key, value in tensors.items() if value.dim() == 4)
    with pytest.raises(CheckpointError, match=r"^file\.pth cannot be read by spandrel: .*\.$"):
        models.read(raw({**tensors, key: torch.ones(1, 1, 1, 1)}), "spandrel")
    with pytest.raises(CheckpointError, match="no architecture that spandrel .* knows"):
        models.read(raw({"weight": torch.ones(2)}), "spandrel")
    faces = SimpleNamespace(purpose="FaceSR", architecture=SimpleNamespace(name="GFPGAN"))
    monkeypatch.setattr("spandrel.ModelLoader.load_from_state_dict", lambda loader, tensors: faces)
    with pytest.raises(CheckpointError, match="is a GFPGAN, made for FaceSR, not to enlarge"):
        models.read(raw(tensors), "spandrel")


def test_a_config_of_another_spandrel_is_refused():
    from ganhub.models import spandrel

    with pytest.raises(CheckpointError, match="has no architecture 'Later'"):
        spandrel.build("G", {"architecture": "Later", "class": "Later", "arguments": {}})
    for name in ("SPANArch", "torch"):  # nothing but networks is ever made from what a file names
        with pytest.raises(CheckpointError, match=f"no network '{name}'"):
            spandrel.build("G", {"architecture": "SPAN", "class": name, "arguments": {}})


def test_spandrel_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    file = raw(of_spandrel("SPAN").state_dict())
    with pytest.raises(CheckpointError, match=r"pip install 'ganhub\[upscale\]'"):
        models.read(file, "spandrel")
    with pytest.raises(CheckpointError, match="of no family known here"):
        models.detect(file)


@pytest.fixture(scope="module")
def photos(shared):
    """Crops [256, 256, 3] of four photographs, in [0, 1]."""
    files = sorted((shared / "data/cc0photos").glob("*.jpg"))[::7][:4]
    if not files:
        pytest.skip("no photographs beside the project")
    crops = []
    for file in files:
        image = Image.open(file).convert("RGB")
        image.thumbnail((640, 640))
        crops.append(np.asarray(image.crop((64, 64, 320, 320)), dtype=np.float32) / 255)
    return crops


REAL = {
    "srgan-leftthomas-x2": "srgan_leftthomas/netG_epoch_2_100.pth",
    "srgan-leftthomas-x4": "srgan_leftthomas/netG_epoch_4_100.pth",
    "srgan-leftthomas-x8": "srgan_leftthomas/netG_epoch_8_100.pth",
    "realesr-animevideov3": "realesr/realesr-animevideov3.pth",
}


@pytest.mark.parametrize("name", REAL)
def test_real_weights(shared, photos, name):
    row = load_registry().find(name)
    opened = read(shared / "weights" / REAL[name], sha256=row.sha256)
    assert models.detect(opened) == row.family
    network, exact, fast = (models.read(opened, row.family, **row.config) for _ in range(3))
    exact, fast = models.prepare(row.family, exact, "exact"), models.prepare(row.family, fast, "fast")
    gains = []
    for true in photos:
        small = np.round(imresize(true, 1 / network.scale).clip(0, 1) * 255) / 255
        x = torch.from_numpy(small.astype(np.float32)).permute(2, 0, 1)[None]
        large = network(x)
        assert (exact(x) - large).abs().max() < 1e-4
        assert psnr(fast(x), large) > 50
        plain = torch.from_numpy(imresize(small, network.scale).clip(0, 1).astype(np.float32)).permute(2, 0, 1)[None]
        target = torch.from_numpy(true).permute(2, 0, 1)[None]
        gains.append(psnr(large.clamp(0, 1), target) - psnr(plain, target))
    # The one for drawings is trained to clean pictures, not to restore photographs pixel by pixel.
    assert (min(gains) > 0 and np.mean(gains) > 0.5) if row.family == "srresnet" else np.mean(gains) > -1


def test_real_weights_equal_spandrel(shared):
    import spandrel

    opened = read(shared / "weights/realesr/realesr-animevideov3.pth")
    theirs = spandrel.MAIN_REGISTRY.load(dict(opened.networks["params"].tensors))
    x = torch.rand(1, 3, 24, 17)
    assert torch.allclose(models.read(opened)(x).clamp(0, 1), theirs(x), atol=1e-5)
