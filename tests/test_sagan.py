import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm

from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.errors import CheckpointError
from ganhub.models import detect, prepare, sagan
from ganhub.models import read as read_network


@pytest.fixture
def G(shared):
    return read_network(read(shared / "reference/sagan/1000_G.pth"))


def test_every_call_equals_the_reference(shared, reference, G):
    case = reference("sagan/sagan")
    z = case.tensor("z")
    case.check("img_call1", G(z))
    case.check("img_call1", G(z))  # asking changes nothing
    coarse, fine = G.attention(z)
    case.check("attn1_sample0", coarse[0])
    case.check("attn2_row0_sample0", fine[0, :4])
    G.advance()
    case.check("u_l1_after_call1", G.main[0].weight_u)
    case.check("img_call2", G(z[:2]))
    G.advance(29)
    case.check("img_call31", G(z[:1]))


def test_discriminator(shared, reference):
    case = reference("sagan/sagan")
    D = read_network(read(shared / "reference/sagan/1000_D.pth"), part="D")
    pictures = torch.from_numpy(case.outputs["img_call1"])
    case.check("D_call1", D(pictures).flatten())
    D.advance()
    case.check("D_call2", D(pictures).flatten())


def test_prepared_form_gives_the_same(reference, G):
    z = reference("sagan/sagan").tensor("z")
    want = G(z)
    assert (prepare("sagan", G, "fast")(z) - want).abs().max() < 1e-5
    assert not any("weight_bar" in key for key in G.state_dict())


class Original(nn.Module):
    """A SAGAN generator of any size with torch's spectral normalisation, written as such networks are."""

    def __init__(self, widths, attended):
        super().__init__()
        before = 5
        for number, width in enumerate(widths, 1):
            first = number == 1
            layer = spectral_norm(nn.ConvTranspose2d(before, width, 4, 1 if first else 2, 0 if first else 1))
            setattr(self, f"l{number}", nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU()))
            before = width
        self.last = nn.Sequential(nn.ConvTranspose2d(before, 3, 4, 2, 1), nn.Tanh())
        for number, layer in enumerate(attended, 1):
            attention = sagan.Attention(widths[layer - 1], 2)
            attention.gamma.data.fill_(0.7)
            setattr(self, f"attn{number}", attention)
        self.widths, self.attended = widths, attended

    def forward(self, z):
        x = z[:, :, None, None]
        for number in range(1, len(self.widths) + 1):
            x = getattr(self, f"l{number}")(x)
            if number in self.attended:
                x = getattr(self, f"attn{self.attended.index(number) + 1}")(x)
        return self.last(x)


@pytest.mark.parametrize(
    ("widths", "attended"),
    [((16, 8), (2,)), ((24, 16, 8, 4), (3, 4)), ((8, 8, 4), (3,)), ((8, 4, 4), (2, 3)), ((8, 8, 4), (2, 3))],
)
def test_other_sizes_with_torchs_own_normalisation(widths, attended):
    torch.manual_seed(1)
    net = Original(widths, attended)
    net(torch.randn(8, 5))  # moves the estimates and the running statistics
    net.eval()
    raw = RawCheckpoint("G.pth", "torch", {"": Network("", {}, net.state_dict())})
    assert detect(raw) == "sagan"
    G = read_network(raw)
    z = torch.randn(3, 5)
    assert G.img_size == (2 ** (len(widths) + 2),) * 2
    assert torch.allclose(G(z), net(z), atol=1e-6)
    again = sagan.build("G", G.config).eval()
    again.load_state_dict(G.state_dict())
    assert torch.equal(again(z), G(z))


def test_refuses_what_is_left_over(shared):
    raw = read(shared / "reference/sagan/1000_G.pth")
    tensors = dict(raw.networks[""].tensors)
    foreign = RawCheckpoint("odd.pth", "torch", {"": Network("", {}, {**tensors, "l9.0.weight": torch.zeros(1)})})
    with pytest.raises(CheckpointError, match="odd.pth is no SAGAN: it has no layers l1"):
        sagan.read(foreign)
    tensors.pop("attn1.gamma")
    with pytest.raises(CheckpointError, match="attn|gamma|main"):
        sagan.read(RawCheckpoint("odd.pth", "torch", {"": Network("", {}, tensors)}))
