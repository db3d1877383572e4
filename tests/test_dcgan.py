import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import dcgan, detect, prepare
from ganhub.models import read as read_network


def raw(tensors, name="file.pth", **networks):
    parts = networks or {"": tensors}
    return RawCheckpoint(name, "torch", {k: Network("", {}, v) for k, v in parts.items()})


def prefixed(net, prefix):
    return {prefix + key: value for key, value in net.state_dict().items()}


def lively(net):
    """Running statistics as after training."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return net.eval()


def examples(size, channels=3, width=2, z_dim=6, bias=False):
    """The generator of pytorch/examples, at any size."""
    torch.manual_seed(size)
    layers, before, now, side = [], z_dim, max(width * size // 8, 8), 4
    while side < size:
        first = before == z_dim and side == 4 and not layers
        layers += [nn.ConvTranspose2d(before, now, 4, 1 if first else 2, 0 if first else 1, bias=bias)]
        layers += [nn.BatchNorm2d(now), nn.ReLU()]
        before, now, side = now, max(now // 2, 2), side if first else side * 2
        if side * 2 == size:
            break
    layers += [nn.ConvTranspose2d(before, channels, 4, 2, 1, bias=bias), nn.Tanh()]
    return lively(nn.Sequential(*layers))


@pytest.mark.parametrize("name", ["csinva_mnist_r28", "examples_r64"])
@pytest.mark.parametrize("era", ["netG_epoch_24", "netG.module.era"])
def test_equals_the_reference(shared, reference, name, era):
    case = reference(f"dcgan/{name}")
    G = read_network(read(shared / f"reference/dcgan/{name}.{era}.pth"))
    case.check("img", G(case.tensor("z")))
    case.check("img_trainmode_z8", G.train()(case.tensor("z8_trainmode")))
    D = read_network(read(shared / f"reference/dcgan/{name}.netD_epoch_24.pth"), part="D")
    case.check("D", D(torch.from_numpy(case.outputs["img"])).flatten())


def test_real_discriminator(shared, reference):
    case = reference("dcgan/REAL_csinva_mnist_netD")
    D = read_network(read(shared / "reference/dcgan/REAL_csinva_mnist_netD_epoch_99.pth"), part="D")
    case.check("D", D(case.tensor("img")).flatten())


def test_digits_of_28_and_32_pixels_have_equal_shapes(shared):
    file = read(shared / "reference/dcgan/csinva_mnist_r28.netG_epoch_24.pth")
    small, large = dcgan.read(file).eval(), dcgan.read(file, img_size=32).eval()
    z = torch.randn(2, 20)
    assert small.img_size == (28, 28) and large.img_size == (32, 32)
    assert torch.allclose(small(z), large(z)[:, :, 2:-2, 2:-2], atol=1e-6)
    with pytest.raises(CheckpointError, match="28, 32 pixels, not of 30"):
        dcgan.read(file, img_size=30)


def test_real_faces_and_digits(shared):
    faces = read_network(read(shared / "weights/dcgan_faces_fletchersarip93/generator.pt"))
    assert (faces.img_size, faces.z_dim, faces.z_distribution) == ((32, 32), 100, "uniform")
    pictures = faces(torch.rand(16, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert pictures.std(dim=0).mean() > 0.2 and pictures.abs().max() <= 1

    digits = read_network(read(shared / "weights/cwgan_mnist_hayatohongo/generator.pth"))
    assert (digits.img_size, digits.z_dim, digits.c_dim) == ((28, 28), 10, 10)
    ones, zeros = (digits(torch.zeros(1, 10), torch.eye(10)[[k]])[0, 0] for k in (1, 0))
    assert zeros[14, 14] < -0.9 < 0 < ones[12:16, 10:18].max()  # a zero is empty in the middle, a one is not


@pytest.mark.parametrize(
    ("size", "prefix"),
    [(16, "main."), (32, "model."), (64, "netG.main."), (128, "generator."), (256, "gen."), (64, "generator.network.")],
)
def test_any_size_of_pytorch_examples(size, prefix):
    net = examples(size, channels=1 if size == 64 else 3, bias=size == 32)
    file = raw(prefixed(net, prefix))
    G = read_network(file)
    z = torch.randn(2, 6)
    assert G.img_size == (size, size) and detect(file) == "dcgan"
    assert torch.allclose(G(z), net(z[:, :, None, None]), atol=1e-6)
    assert torch.allclose(prepare("dcgan", G, "fast")(z), net(z[:, :, None, None]), atol=1e-5)


def test_generator_and_discriminator_in_one_file():
    torch.manual_seed(0)
    net = examples(32)
    D = lively(
        nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
            nn.Conv2d(8, 9, 4, 2, 1), nn.BatchNorm2d(9), nn.LeakyReLU(0.2), nn.Conv2d(9, 1, 4), nn.Sigmoid(),
        )
    )  # fmt: skip
    one = raw({**prefixed(net, "netG.main."), **prefixed(D, "netD.main.")})
    two = raw(None, netG=prefixed(net, "main."), netD=prefixed(D, "main."), optimizerG={"0.exp_avg": torch.ones(2)})
    z, x = torch.randn(2, 6), torch.randn(2, 3, 32, 32)
    for file in (one, two):
        assert torch.allclose(read_network(file)(z), net(z[:, :, None, None]), atol=1e-6)
        assert torch.allclose(read_network(file, part="D")(x).flatten(), D(x).flatten(), atol=1e-6)
    with pytest.raises(CheckpointError, match="none of them is its D"):
        read_network(raw(None, netG=prefixed(net, "main.")), part="D")


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
def test_spectral_normalisation_is_folded(norm):
    net = nn.Sequential(
        norm(nn.ConvTranspose2d(6, 8, 4)), nn.ReLU(), norm(nn.ConvTranspose2d(8, 8, 4, 2, 1)), nn.ReLU(),
        norm(nn.ConvTranspose2d(8, 3, 4, 2, 1)), nn.Tanh(),
    )  # fmt: skip
    for _ in range(8):
        net(torch.randn(2, 6, 1, 1))
    net.eval()
    z = torch.randn(2, 6)
    G = read_network(raw(prefixed(net, "main.")))
    assert torch.allclose(G(z), net(z[:, :, None, None]), atol=1e-5)


def test_kernels_of_three_make_28_of_one_channel():
    """The layout of dennisjooo/DCGAN-on-MNIST: 4, 7, 14, 28."""
    net = lively(
        nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(8, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4, 1, 4, 2, 1, bias=False), nn.Tanh(),
        )
    )  # fmt: skip
    z = torch.randn(2, 6)
    assert torch.allclose(read_network(raw(prefixed(net, "layer_stack.")))(z), net(z[:, :, None, None]), atol=1e-6)


def test_geometry_that_shapes_cannot_tell():
    """Kernels of 3 and 4 without padding, as in a widely used course: 3, 6, 13, 28."""
    net = lively(
        nn.Sequential(
            nn.ConvTranspose2d(6, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 4, 1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2), nn.Tanh(),
        )
    )  # fmt: skip
    file, z = raw(prefixed(net, "gen.")), torch.randn(2, 6)
    with pytest.raises(CheckpointError, match="say config.geometry"):
        dcgan.read(file, img_size=28)
    for config in ({}, {"geometry": [[2, 0], [1, 0], [2, 0], [2, 0]]}):
        assert torch.allclose(dcgan.read(file, **config).eval()(z), net(z[:, :, None, None]), atol=1e-6)
    with pytest.raises(CheckpointError, match="each of the 4 convolutions"):
        dcgan.read(file, geometry=[[2, 0]])
    with pytest.raises(CheckpointError, match="smaller than its stride"):
        dcgan.read(file, geometry=[[2, 0, 2], [1, 0], [2, 0], [2, 0]])
    with pytest.raises(CheckpointError, match="leaves no pixel"):
        dcgan.read(file, geometry=[[2, 9], [1, 0], [2, 0], [2, 0]])


class Upsampling(nn.Module):
    """The DCGAN of eriklindernoren/PyTorch-GAN."""

    def __init__(self, channels, classes=0):
        super().__init__()
        if classes:
            self.label_emb = nn.Embedding(classes, 6)
        self.l1 = nn.Sequential(nn.Linear(6, 8 * 8 * 8))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(8), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8, 0.8),
            nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, 1, 1), nn.BatchNorm2d(4, 0.8),
            nn.LeakyReLU(0.2), nn.Conv2d(4, channels, 3, 1, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z, labels=None):
        z = z if labels is None else z * self.label_emb(labels)
        return self.conv_blocks(self.l1(z).view(-1, 8, 8, 8))


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("classes", [0, 5])
def test_upsampling_dialect(sort, classes):
    torch.manual_seed(3)
    net = lively(Upsampling(3, classes))
    tensors = net.state_dict()
    G = read_network(raw(dict(sorted(tensors.items())) if sort else tensors))
    z, labels = torch.randn(2, 6), torch.tensor([1, 4])
    c = nn.functional.one_hot(labels, 5).float() if classes else None
    assert (G.c_dim, G.z_dim, G.img_size) == (classes, 6, (32, 32))
    assert torch.allclose(G(z, c), net(z, labels if classes else None), atol=1e-6)
    if classes:
        with pytest.raises(BadInput, match="from 0 to 4"):
            G(z)


def test_fully_connected_start_with_its_own_normalisation():
    torch.manual_seed(4)
    fc, norm = nn.Linear(6, 128 * 16), lively(nn.BatchNorm2d(128))
    up = nn.ModuleList([nn.ConvTranspose2d(128, 8, 4, 2, 1, bias=False), nn.ConvTranspose2d(8, 3, 4, 2, 1)])
    norm2 = lively(nn.BatchNorm2d(8))
    tensors = {
        **prefixed(fc, "fc."), **prefixed(norm, "batch_norm_fc."), **prefixed(up[0], "t_conv1.0."),
        **prefixed(norm2, "t_conv1.1."), **prefixed(up[1], "t_conv2.0."),
    }  # fmt: skip
    z = torch.randn(2, 6)
    x = norm(fc(z).view(-1, 128, 4, 4)).relu()
    want = up[1](norm2(up[0](x)).relu()).tanh()
    assert torch.allclose(read_network(raw(tensors))(z), want, atol=1e-6)


def test_discriminator_with_a_fully_connected_end():
    """The discriminator of PyTorch-GAN: activation before BatchNorm, dropout, one verdict."""
    net = lively(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25), nn.Conv2d(4, 8, 3, 2, 1),
            nn.LeakyReLU(0.2), nn.Dropout2d(0.25), nn.BatchNorm2d(8, 0.8),
        )
    )  # fmt: skip
    last = nn.Linear(8 * 8 * 8, 1)
    D = dcgan.read(raw({**prefixed(net, "model."), **prefixed(last, "adv_layer.0.")}), "D", norm_eps=0.8).eval()
    x = torch.randn(2, 3, 32, 32)
    want = last(net(x).flatten(1)).sigmoid()
    assert D.img_size == (32, 32) and torch.allclose(D(x), want, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {k: v for k, v in t.items() if k != "main.4.running_var"},
        lambda t: {**t, "main.3.weight": torch.zeros(7, 4, 4, 4)},
        lambda t: {**t, "main.6.weight": torch.zeros(t["main.6.weight"].shape[0], 2, 4, 4)},
        lambda t: {**t, "main.99.weight": torch.zeros(3, 3)},
        lambda t: {**t, "noise": torch.zeros(3)},
        lambda t: {"main.0.weight": t["main.0.weight"]},
        lambda t: {},
    ],
)
def test_refuses_what_does_not_fit(change):
    tensors = change(examples(16).state_dict() and prefixed(examples(16), "main."))
    assert not dcgan.detect(raw(tensors))
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        dcgan.read(raw(tensors))


def test_options_are_checked():
    file = raw(prefixed(examples(32), "main."))
    with pytest.raises(CheckpointError, match="config.size means nothing"):
        dcgan.read(file, size=32)
    with pytest.raises(CheckpointError, match="must be tanh, sigmoid or none"):
        dcgan.read(file, output="softmax")
    for wrong in ({"img_size": "32"}, {"geometry": [[0, 1]]}, {"classes": True}, {"norm_eps": 0}, {"activation": []}):
        with pytest.raises(CheckpointError, match=f"config.{next(iter(wrong))} must be"):
            dcgan.read(file, **wrong)
    with pytest.raises(CheckpointError, match="leaves nothing"):
        dcgan.read(file, classes=6)
    assert torch.equal(dcgan.read(file, output="sigmoid").eval()(torch.zeros(1, 6)) >= -1, torch.ones(1, 3, 32, 32) > 0)
    with pytest.raises(BadInput, match="width 6, not 7"):
        dcgan.read(file)(torch.zeros(1, 7))


def test_builds_itself_again():
    for config in (dcgan.plain(6, [16, 8, 4], 3), read_network(raw(Upsampling(1, 3).state_dict())).config):
        G = dcgan.build("G", config).eval()
        again = dcgan.build("G", G.config).eval()
        again.load_state_dict(G.state_dict())
        z = torch.randn(2, 6)
        c = torch.eye(3)[:2] if G.c_dim else None
        assert torch.equal(again(z, c), G(z, c)) and G(z, c).shape[2:] == G.img_size
