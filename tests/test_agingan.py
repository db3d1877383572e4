"""Fast-AgingGAN against its original code, and the files that its kin come in."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ganhub import checkpoint, models
from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import agingan


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Weights of the reference cases that have no file."""
    stream = np.random.RandomState(seed)

    def fill(tensor: torch.Tensor, values: np.ndarray) -> None:
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                scale = np.sqrt(2 / module.weight[0].numel())
                fill(module.weight, stream.randn(*module.weight.shape) * scale)
                fill(module.bias, stream.randn(*module.bias.shape) * 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                fill(module.weight, 1 + 0.2 * stream.randn(*module.weight.shape))
                fill(module.bias, 0.1 * stream.randn(*module.bias.shape))
                fill(module.running_mean, 0.2 * stream.randn(*module.running_mean.shape))
                fill(module.running_var, 0.5 + stream.rand(*module.running_var.shape))
    return network


def tiny(seed: int = 0, **config) -> agingan.Generator:
    torch.manual_seed(seed)
    config = {"ngf": 8, "blocks": 2, "norm": "batch", "directions": ["older", "younger"], **config}
    return agingan.build("G", config).eval().requires_grad_(False)


def weights_of(network: agingan.Generator, direction: str) -> dict[str, torch.Tensor]:
    prefix = f"model.{direction}."
    return {"model." + k.removeprefix(prefix): v for k, v in network.state_dict().items() if k.startswith(prefix)}


def raw(**networks: dict[str, torch.Tensor]) -> RawCheckpoint:
    named = {name.strip("_"): Network("", {}, tensors) for name, tensors in networks.items()}
    return RawCheckpoint("faces.pth", "torch", named, {}, "0" * 64)


PICTURE = torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("precision", ["plain", "exact"])
def test_equals_the_original(shared, reference, precision):
    case = reference("agingan/agingan")
    file = checkpoint.read(shared / "reference" / "agingan" / "state_dict.pth")
    assert models.detect(file) == "agingan"
    network = models.read(file)
    assert network.config == {"ngf": 8, "blocks": 9, "norm": "batch", "directions": ["older"]}
    if precision == "exact":
        network = models.prepare("agingan", network, "exact")
    photo = Image.fromarray(case.inputs["image_uint8"])

    def seen(side: int) -> torch.Tensor:
        pixels = np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1

    with torch.inference_mode():
        small = seen(64)
        case.check("pre64", small)
        case.check("out64", network(small))
        case.check("out64_01", (network(small) + 1) / 2)
        case.check("rect_out", network(small[:, :, :40, :56]))
        large = seen(512)
        case.check("pre512_strided16", large[..., ::16, ::16])
        out = network(large)
        case.check("out512_strided16", out[..., ::16, ::16])
        case.check("out512_meanstd", np.array([out.mean().item(), out.double().std(correction=0).item()]))


def test_discriminator_equals_the_original(reference):
    case = reference("agingan/agingan")
    network = randomise(agingan.build("D", {"ndf": 8}).eval(), 6201)
    with torch.inference_mode():
        case.check("D64", network(torch.from_numpy(case.outputs["pre64"])))


@pytest.mark.parametrize(
    "names",
    [("genA2B", "genB2A"), ("netG_A2B", "netG_B2A"), ("netG_A", "netG_B"), ("G_A", "G_B"), ("gen_A2B", "gen_B2A")],
)
def test_both_directions_of_a_training(names):
    network = tiny()
    tensors = {
        f"{name}.{key}": tensor
        for name, direction in zip(names, agingan.DIRECTIONS, strict=True)
        for key, tensor in weights_of(network, direction).items()
    }
    file = raw(state_dict=tensors)
    assert models.detect(file) == "agingan"
    loaded = models.read(file)
    assert loaded.directions == ("older", "younger") and loaded.ages is None
    source, target = torch.tensor([30.0, 30.0]), torch.tensor([60.0, 20.0])
    out = loaded(PICTURE, source, target)
    assert torch.equal(out[:1], network.model["older"](PICTURE[:1]))
    assert torch.equal(out[1:], network.model["younger"](PICTURE[1:]))
    assert torch.equal(loaded(PICTURE), network.model["older"](PICTURE))
    assert torch.equal(loaded(PICTURE, 50, 20), network.model["younger"](PICTURE))
    younger = models.read(file, direction="younger")
    assert younger.directions == ("younger",)
    assert torch.equal(younger(PICTURE), network.model["younger"](PICTURE))


def test_lightning_file_with_discriminators(tmp_path):
    """As PyTorch Lightning writes it, optimisers and all."""
    network = tiny()
    judges = {name: randomise(agingan.build("D", {"ndf": 4}).eval(), seed) for seed, name in enumerate(("GA", "GB"))}
    tensors = {f"genA2B.{k}": v for k, v in weights_of(network, "older").items()}
    tensors |= {f"genB2A.{k}": v for k, v in weights_of(network, "younger").items()}
    tensors |= {f"dis{name}.{k}": v for name, judge in judges.items() for k, v in judge.state_dict().items()}
    adam = torch.optim.Adam(judges["GA"].parameters())
    content = {
        "epoch": 3,
        "global_step": 400,
        "state_dict": tensors,
        "optimizer_states": [adam.state_dict()],
        "hyper_parameters": {"ngf": 8, "n_blocks": 2},
    }
    torch.save(content, tmp_path / "epoch=3.ckpt")
    file = checkpoint.read(tmp_path / "epoch=3.ckpt")
    assert models.detect(file) == "agingan"
    loaded = models.read(file)
    assert torch.equal(loaded(PICTURE), network.model["older"](PICTURE))
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(models.read(file, part="D")(x), judges["GB"](x))
    assert torch.allclose(models.read(file, part="D", direction="younger")(x), judges["GA"](x))


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("ngf, blocks", [(8, 6), (12, 1)])
def test_sizes_and_norm_come_from_the_file(norm, ngf, blocks):
    network = tiny(ngf=ngf, blocks=blocks, norm=norm, directions=["older"])
    loaded = models.read(raw(_=weights_of(network, "older")), img_size=256)
    assert loaded.config["norm"] == norm and loaded.img_size == (256, 256)
    assert torch.equal(loaded(PICTURE), network(PICTURE))
    prepared = models.prepare("agingan", loaded, "exact")
    assert torch.allclose(prepared(PICTURE, 30, 60), network(PICTURE), atol=1e-5)
    assert prepared.directions == ("older",) and prepared.img_size == (256, 256)


def test_one_network_the_other_way():
    network = tiny(directions=["older"])
    loaded = models.read(raw(_=weights_of(network, "older")), direction="younger")
    assert loaded.directions == ("younger",)
    with pytest.raises(BadInput, match="only makes faces younger, not older"):
        loaded(PICTURE, 30, 60)


def test_fast_is_over_50_db():
    """Of 9 blocks, each normalised on the picture as training does it: as much as rounding can be amplified."""
    torch.manual_seed(3)
    network = agingan.build("G", {"ngf": 16, "blocks": 9, "norm": "batch", "directions": ["older"]})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(PICTURE)
    network.eval().requires_grad_(False)
    exact, fast = (models.prepare("agingan", network, precision)(PICTURE) for precision in ("exact", "fast"))
    assert fast.dtype == torch.float32
    assert 10 * torch.log10(4 / (exact - fast).square().mean()) > 50


def test_saved_and_built_again(tmp_path):
    network = tiny()
    networks = {"G": Network("Generator", network.config, dict(network.state_dict()))}
    checkpoint.save(tmp_path / "faces.safetensors", networks, models.header("agingan", network, "G"))
    loaded = models.read(checkpoint.read(tmp_path / "faces.safetensors"))
    assert torch.equal(loaded(PICTURE, 60, 20), network(PICTURE, 60, 20))


def test_refusals():
    network = tiny(directions=["older"])
    with pytest.raises(BadInput, match="multiples of 4, not 30x32"):
        network(torch.zeros(1, 3, 32, 30))
    tensors = weights_of(network, "older")
    with pytest.raises(CheckpointError, match="'older' or 'younger', not 'sideways'"):
        models.read(raw(_=tensors), direction="sideways")
    with pytest.raises(CheckpointError, match="holds no generator that makes faces younger"):
        models.read(raw(_={f"genA2B.{k}": v for k, v in tensors.items()}), direction="younger")
    with pytest.raises(CheckpointError, match="holds no discriminator"):
        models.read(raw(_=tensors), "agingan", part="D")
    broken = {k: v for k, v in tensors.items() if k != "model.11.conv_block.5.bias"}
    with pytest.raises(CheckpointError, match="is missing"):
        models.read(raw(_=broken))
    shallow = {k: v for k, v in tensors.items() if not k.startswith("model.19.")}
    assert not agingan.detect(raw(_=shallow))
    with pytest.raises(CheckpointError, match="layers are not those of a CycleGAN"):
        models.read(raw(_=shallow), "agingan")
