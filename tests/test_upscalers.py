"""Networks that make pictures larger: the compact one, RRDBNet, and what both share."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganhub import models
from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import compact, rrdb

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
    # Rounding errors of bfloat16 cancel in wide networks; twelve random channels are the narrowest here.
    assert fast.dtype == torch.float32 and psnr(fast, torch.from_numpy(case.outputs["sr"])) > 48


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
    from ganhub.checkpoint import save

    for family, network in (("rrdb", small_rrdb(unshuffle=2)), ("compact", small_compact())):
        save(tmp_path / "x.safetensors", {"G": Network("", network.config, network.state_dict())}, {"family": family})
        found = models.read(read(tmp_path / "x.safetensors"), scale=network.scale)
        x = picture(network, 4, 4)
        assert torch.equal(found(x), network(x))


@pytest.fixture(scope="module")
def photo(shared):
    """A crop [1, 3, 256, 256] of a photograph."""
    from PIL import Image

    folder = shared / "data/cc0photos"
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png")) if folder.exists() else []
    if not files:
        pytest.skip("no photographs beside the project")
    image = Image.open(files[0]).convert("RGB")
    image.thumbnail((768, 768))
    pixels = np.asarray(image.crop((100, 100, 356, 356)), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
