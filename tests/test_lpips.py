"""LPIPS and the networks below it: equal to other implementations with the same weights, and only from files."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from ganhub import checkpoint, models
from ganhub.errors import BadInput, CheckpointError, FetchError
from ganhub.metrics import pictures
from ganhub.models import lpips, vgg
from ganhub.registry import Registry, load_registry, read_rows

HEADS = Path(importlib.util.find_spec("torchmetrics").submodule_search_locations[0]) / "functional/image/lpips_models"
"""The published heads, in the wheel of torchmetrics."""
MADE = {"alex": "alexnet", "vgg": "vgg16"}


@pytest.fixture
def no_draws(monkeypatch):
    """Networks are made without drawing the 130 million weights of classifiers that nothing here looks at."""
    for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def published(file, name):
    """A file as torchvision publishes them, of random weights; the convolutions that it is of."""
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(3)
    features = getattr(torchvision.models, MADE[name])(weights=None).features.eval()
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.normal_(std=(2 / layer.weight[0].numel()) ** 0.5)
            layer.bias.data.normal_(std=0.1)
    torch.save(features.state_dict(prefix="features.") | {"classifier.6.weight": torch.zeros(10, 8)}, file)
    return features


def pair(size=(48, 72)):
    torch.manual_seed(1)
    a = torch.rand(2, 3, *size)
    return a, (a + torch.randn_like(a) * 0.1).clamp(0, 1)


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_trunk_and_distance_equal_other_implementations(name, tmp_path, no_draws):
    theirs = published(tmp_path / "net.pth", name)
    raw = checkpoint.read(tmp_path / "net.pth")
    assert models.detect(raw) == "vgg"
    trunk = models.read(raw)
    a, b = pair()
    found = trunk(a)
    x = (a - torch.tensor(vgg.MEAN).view(3, 1, 1)) / torch.tensor(vgg.STD).view(3, 1, 1)
    for place, layer in enumerate(theirs[: trunk.depths[-1] + 1]):
        x = layer(x).detach()
        if place in trunk.depths:
            assert found.pop(0) == pytest.approx(x, abs=2e-4 * float(x.abs().max()))
    assert not found

    heads_file = HEADS / f"{name}.pth"
    assert hashlib.sha256(heads_file.read_bytes()).hexdigest() == load_registry().find(f"lpips-{name}").sha256
    raw = checkpoint.read(heads_file)
    assert models.detect(raw) == "lpips"
    ours = lpips.LPIPS(trunk, models.read(raw))
    from torchmetrics.functional.image.lpips import _LPIPS

    reference = _LPIPS(net=name, pnet_rand=True, model_path=str(heads_file)).eval()
    convolutions = [m for m in reference.net.modules() if isinstance(m, nn.Conv2d)]
    wanted = [m for m in theirs if isinstance(m, nn.Conv2d)]
    for to, source in zip(convolutions, wanted, strict=True):
        to.load_state_dict(source.state_dict())
    want = reference(a, b, normalize=True).flatten().detach()
    assert ours(a, b) == pytest.approx(want, rel=1e-4) and (want > 1e-3).all()
    assert ours(a, a).tolist() == [0, 0]


def tiny(folder):
    """A registry whose LPIPS has a small AlexNet, from files."""
    torch.manual_seed(0)
    trunk = vgg.Trunk("alexnet", [[6], [8], [8, 6, 6]])
    torch.save(trunk.features.state_dict(prefix="features."), folder / "alexnet.pth")
    size = (folder / "alexnet.pth").stat().st_size
    torch.save(
        {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(trunk.widths)}, folder / "lin.pth"
    )
    common = {"task": "component", "title": "Tiny", "license": "CC0-1.0", "commercial_use": True}
    rows = [
        {"id": "lpips-alex", "family": "lpips", "source": {"path": "lin.pth"}, "components": {"features": "net"}},
        {"id": "net", "family": "vgg", "source": {"path": "alexnet.pth"}, "bytes": size},
    ]
    file = folder / "rows.yaml"
    file.write_text(yaml.safe_dump([row | common for row in rows]))
    return Registry(read_rows(file))


def test_distance_of_pictures_from_files_on_disk(tmp_path):
    registry = tiny(tmp_path)
    network = pictures.load_lpips(registry)
    a, b = ((x[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8) for x in pair())
    found = pictures.lpips(a, b, network)
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None] / 255 for p in (a, b))
    assert found == pytest.approx(float(network(x, y))) and found > 0
    assert pictures.lpips(a, b, network, border=4) != found
    assert pictures.lpips(a[..., :1], a[..., :1], network) == 0
    with pytest.raises(BadInput, match="at least 31 pixels"):
        pictures.lpips(a[:30], b[:30], network)
    (tmp_path / "alexnet.pth").unlink()
    with pytest.raises(FetchError, match="LPIPS needs `ganhub pull lpips-alex`, which fetches 0 MB") as caught:
        pictures.load_lpips(registry)
    assert caught.value.code == "offline"
    with pytest.raises(BadInput, match="no LPIPS 'squeeze'"):
        pictures.load_lpips(registry, "squeeze")


def test_gradients_flow_to_the_picture_even_where_activations_are_dead(tmp_path):
    network = pictures.load_lpips(tiny(tmp_path))
    a, b = pair()
    network.trunk.features[0].bias.data.fill_(-100)  # no position of the first depth is active
    a.requires_grad_()
    network(a, b).sum().backward()
    assert torch.isfinite(a.grad).all()
    network = pictures.load_lpips(tiny(tmp_path))
    with torch.no_grad():
        before = float(network(a, b).sum())
    a.grad = None
    network(a, b).sum().backward()
    with torch.no_grad():
        step = 1e-3 * a.grad / a.grad.norm()
        after = float(network(a - step, b).sum())
    assert before - after == pytest.approx(1e-3 * float(a.grad.norm()), rel=0.05)


def test_networks_of_other_kinds_are_refused(tmp_path):
    discriminator = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8))
    torch.save(discriminator.state_dict(prefix="features."), tmp_path / "other.pth")
    raw = checkpoint.read(tmp_path / "other.pth")
    assert not vgg.detect(raw) and not lpips.detect(raw)
    with pytest.raises(CheckpointError, match="holds no VGG or AlexNet"):
        vgg.read(raw)
    with pytest.raises(CheckpointError, match="holds no heads of LPIPS"):
        lpips.read(raw)
    with pytest.raises(CheckpointError, match=r"channels and the network gives \[4, 8\]"):
        lpips.LPIPS(vgg.Trunk("vgg", [[4], [8, 8]]), lpips.Heads([4, 6]))


def test_a_trunk_is_made_again_from_its_config(tmp_path):
    trunk = vgg.build("G", json.loads(json.dumps(vgg.Trunk("vgg", [[4, 4], [6, 6, 6]]).config)))
    assert trunk.depths == [3, 10] and trunk.widths == [4, 6] and trunk.least == 2
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    again = vgg.read(checkpoint.read(tmp_path / "trunk.pth"))
    assert again.config == trunk.config
