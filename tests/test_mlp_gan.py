import numpy as np
import pytest
import torch
from torch import nn

from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import detect, mlp_gan
from ganhub.models import read as read_network


def raw(tensors, name="file.pth"):
    return RawCheckpoint(name, "torch", {"": Network("", {}, tensors)})


def dense(*widths, norm_from=None):
    torch.manual_seed(0)
    layers = []
    for number, (before, width) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Linear(before, width))
        if number + 2 < len(widths):
            if norm_from is not None and number >= norm_from:
                norm = nn.BatchNorm1d(width, 0.8)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                layers.append(norm)
            layers.append(nn.LeakyReLU(0.2) if norm_from is not None else nn.ReLU())
    return nn.Sequential(*layers, nn.Tanh()).eval()


def test_equals_the_reference(shared, reference):
    case = reference("mlp_gan/mlp_gan")
    G = read_network(read(shared / "weights/mnist_mlp_gan_csinva/G--300.ckpt"))
    D = read_network(read(shared / "weights/mnist_mlp_gan_csinva/D--300.ckpt"), part="D")
    picture = G(case.tensor("z"))
    assert picture.shape == (16, 1, 28, 28)
    case.check("raw", picture.flatten(1))
    case.check("image_denorm", (picture + 1) / 2)
    case.check("D", D(picture))
    noise = 2 * np.random.RandomState(1).rand(16, 784).astype(np.float32) - 1
    case.check("D_noise_uniform", D(torch.from_numpy(noise)))


@pytest.mark.parametrize(
    ("widths", "shape"),
    [
        ((5, 64), None),
        ((7, 33, 100), (1, 10, 10)),
        ((64, 256, 256, 784), (1, 28, 28)),
        ((9, 8, 8, 8, 3072), (3, 32, 32)),
    ],
)
def test_any_depth_and_size(widths, shape):
    net = dense(*widths)
    if shape is None:
        assert not mlp_gan.detect(raw(net.state_dict()))
        return
    G = read_network(raw(net.state_dict()))
    z = torch.randn(3, widths[0])
    assert (G.z_dim, G.img_channels, *G.img_size) == (widths[0], *shape)
    assert torch.equal(G(z).flatten(1), net(z))


@pytest.mark.parametrize("prefix", ["model.", "netG.main.", "generator.", "module.net."])
def test_prefixes_and_batch_norm(prefix):
    net = dense(6, 16, 24, 192, norm_from=1)
    G = read_network(raw({prefix + k: v for k, v in net.state_dict().items()}))
    z = torch.randn(4, 6)
    assert G.img_size == (8, 8) and G.img_channels == 3
    assert torch.allclose(G(z).flatten(1), net(z), atol=1e-6)


def test_the_row_tells_what_shapes_cannot():
    net = dense(6, 16, 96)
    tensors = net.state_dict()
    G = mlp_gan.read(raw(tensors), img_size=[4, 8], activation=["leaky_relu", 0.1], output="sigmoid")
    z = torch.randn(2, 6)
    want = torch.sigmoid(net[2](nn.functional.leaky_relu(net[0](z), 0.1)))
    assert G.img_size == (4, 8) and G.img_channels == 3
    assert torch.allclose(G(z).flatten(1), want * 2 - 1)
    with pytest.raises(CheckpointError, match="say config.img_size"):
        mlp_gan.read(raw(tensors))
    with pytest.raises(CheckpointError, match="config.activaton"):
        mlp_gan.read(raw(tensors), activaton="relu")
    with pytest.raises(CheckpointError, match="'swish'"):
        mlp_gan.read(raw(tensors), img_size=[4, 8], activation="swish")


@pytest.mark.parametrize("sort", [False, True])
def test_classes_by_embedding(sort):
    net, embedding = dense(6 + 4, 16, 64), nn.Embedding(3, 4)
    tensors = {"label_emb.weight": embedding.weight.detach(), **{f"model.{k}": v for k, v in net.state_dict().items()}}
    if sort:
        tensors = dict(sorted(tensors.items()))
    G = read_network(raw(tensors))
    z, c = torch.randn(3, 6), torch.eye(3)
    assert (G.z_dim, G.c_dim) == (6, 3)
    assert torch.allclose(G(z, c).flatten(1), net(torch.cat((embedding.weight, z), 1)), atol=1e-6)
    with pytest.raises(BadInput, match="from 0 to 2"):
        G(z)


def test_classes_as_one_hot():
    net = dense(6 + 3, 16, 64)
    G = mlp_gan.read(raw(net.state_dict()), classes=3, label_first=False).eval()
    z, c = torch.randn(3, 6), torch.eye(3)
    assert torch.allclose(G(z, c).flatten(1), net(torch.cat((z, c), 1)))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {k: v for k, v in t.items() if k != "2.bias"} | {"2.gamma": torch.ones(16)},
        lambda t: {**t, "2.weight": torch.zeros(16, 15)},
        lambda t: {**t, "2.bias": torch.zeros(5)},
        lambda t: {**t, "5.weight": torch.zeros(8, 1, 3, 3)},
    ],
)
def test_refuses_what_does_not_fit(change):
    tensors = change(dense(6, 16, 64).state_dict())
    assert not mlp_gan.detect(raw(tensors))
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        mlp_gan.read(raw(tensors))


def test_builds_itself_again():
    G = read_network(raw(dense(6, 16, 24, 192, norm_from=1).state_dict()))
    again = mlp_gan.build("G", G.config).eval()
    again.load_state_dict(G.state_dict())
    z = torch.randn(2, 6)
    assert torch.equal(again(z), G(z))
    assert detect(raw(dense(6, 16, 64).state_dict())) == "mlp_gan"


def test_plain_is_the_original():
    G = mlp_gan.build("G", mlp_gan.plain(64, [256, 256], 1, 28))
    assert sum(p.numel() for p in G.parameters()) == 283920  # that of csinva/gan-vae-pretrained-pytorch
