"""FRAN against the same U-Net written out tensor by tensor, and its files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from ganhub import checkpoint, models
from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import fran

WIDTHS = [6, 10, 14]


def tiny(**config) -> fran.Generator:
    torch.manual_seed(0)
    return fran.build("G", {"widths": WIDTHS, **config}).eval().requires_grad_(False)


def raw(tensors: dict[str, torch.Tensor]) -> RawCheckpoint:
    return RawCheckpoint("unet.pth", "torch", {"": Network("", {}, tensors)}, {}, "0" * 64)


def published(network: fran.Generator) -> dict[str, torch.Tensor]:
    """The tensors as the open re-implementation saves them, filters of the blurs included."""
    tensors = dict(network.state_dict())
    for level, width in enumerate(WIDTHS[:-1]):
        tensors[f"down{level + 1}.layer.1.filt"] = fran.binomial().repeat(width, 1, 1, 1)
        tensors[f"up{len(WIDTHS) - 1 - level}.blur_upsample.1.filt"] = fran.binomial().repeat(width, 1, 1, 1)
    return tensors


def blurred(x: torch.Tensor, stride: int) -> torch.Tensor:
    """By SciPy: its `mirror` is the reflection without the edge; the filter's window reaches from -1 to 2."""
    taps = np.array([1, 3, 3, 1]) / 8
    out = x.double().numpy()
    for axis in (2, 3):
        out = ndimage.correlate1d(out, taps, axis=axis, mode="mirror", origin=-1)
    return torch.from_numpy(out[:, :, ::stride, ::stride].copy()).float()


def by_hand(t: dict[str, torch.Tensor], picture: torch.Tensor, source: float, target: float) -> torch.Tensor:
    """The paper's network from the tensors of a file, without modules."""

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.leaky_relu(F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], padding=1), 0.01)

    unit = (picture + 1) / 2
    planes = [torch.full_like(unit[:, :1], age / 100) for age in (source, target)]
    seen = [conv(conv(torch.cat([unit, *planes], 1), "init_conv.0"), "init_conv.2")]
    for level in (1, 2):
        largest = F.max_pool2d(seen[-1], 2, stride=1)
        seen.append(conv(conv(blurred(largest, 2), f"down{level}.layer.2"), f"down{level}.layer.4"))
    x = seen.pop()
    for level in (1, 2):
        up = f"up{level}.blur_upsample.0"
        x = blurred(F.conv_transpose2d(x, t[f"{up}.weight"], t[f"{up}.bias"], stride=2), 1)
        x = conv(conv(torch.cat([x, seen.pop()], 1), f"up{level}.layer.0"), f"up{level}.layer.2")
    residual = F.conv2d(x, t["final_conv.weight"], t["final_conv.bias"])
    return (unit + residual).clamp(0, 1) * 2 - 1


PICTURE = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_equals_the_network_written_out():
    network = tiny()
    file = raw(published(network))
    assert models.detect(file) == "fran"
    loaded = models.read(file)
    want = by_hand(file.networks[""].tensors, PICTURE, 31, 72)
    assert (want - PICTURE).abs().mean() > 0.02
    assert torch.allclose(loaded(PICTURE, 31, 72), want, atol=1e-5)
    assert torch.allclose(models.prepare("fran", loaded, "exact")(PICTURE, 31, 72), want, atol=1e-5)


def test_each_picture_has_its_own_ages():
    network = tiny()
    both = network(PICTURE, torch.tensor([20.0, 70.0]), torch.tensor([50.0, 30.0]))
    assert torch.allclose(both[:1], network(PICTURE[:1], 20, 50), atol=1e-6)
    assert torch.allclose(both[1:], network(PICTURE[1:], 70, 30), atol=1e-6)
    assert (network(PICTURE, 20, 50) - network(PICTURE, 20, 80)).abs().max() > 1e-3


def test_fast_is_over_50_db():
    network = fran.build("G", {"widths": [16, 32, 64, 128, 256]}).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight, a=0.01)
    network.final_conv.weight *= 0.1
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    exact, fast = (models.prepare("fran", network, precision)(picture, 30, 60) for precision in ("exact", "fast"))
    assert (exact - picture).abs().mean() > 0.01 and fast.dtype == torch.float32
    assert 10 * torch.log10(4 / (exact - fast).square().mean()) > 50


def test_facts_come_from_row_and_tensors():
    loaded = models.read(raw(published(tiny())), ages=[18, 85], img_size=512)
    assert loaded.ages == (18, 85) and loaded.img_size == (512, 512) and loaded.multiple == 4
    assert loaded.directions == ("older", "younger")
    prepared = models.prepare("fran", loaded, "exact")
    assert prepared.ages == (18, 85) and prepared.img_size == (512, 512) and prepared.multiple == 4


def test_saved_and_built_again(tmp_path):
    network = tiny(ages=[20, 80])
    networks = {"G": Network("Generator", network.config, dict(network.state_dict()))}
    checkpoint.save(tmp_path / "f.safetensors", networks, models.header("fran", network, "G"))
    loaded = models.read(checkpoint.read(tmp_path / "f.safetensors"))
    assert torch.equal(loaded(PICTURE, 30, 60), network(PICTURE, 30, 60))


def test_refusals():
    network = tiny()
    with pytest.raises(BadInput, match="needs the age of the face"):
        network(PICTURE, target=40)
    with pytest.raises(BadInput, match="multiples of 4, not 30x32"):
        network(torch.zeros(1, 3, 32, 30), 30, 60)
    tensors = published(network)
    other = {**tensors, "down1.layer.1.filt": torch.full((6, 1, 4, 4), 1 / 16)}
    with pytest.raises(CheckpointError, match="'down1.layer.1.filt' is foreign"):
        models.read(raw(other))
    with pytest.raises(CheckpointError, match="is no FRAN"):
        models.read(raw({k: v for k, v in tensors.items() if k != "final_conv.weight"}), "fran")
