"""StackGAN-v2 against its authors' code, and both versions against themselves in other forms."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganhub import checkpoint, models
from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.engine import Engine, Job
from ganhub.errors import BadInput, CheckpointError
from ganhub.latents import z_from_seeds
from ganhub.models import stackgan
from ganhub.registry import Checkpoint, Registry, load_registry

BIRDS = {
    "z_dim": 5, "text_dim": 12, "code_dim": 4, "start": 16, "widths": [[8, 6], [4], [2]], "residuals": [1, 2],
}  # fmt: skip
ROOMS = {**BIRDS, "text_dim": 0, "code_dim": 5}
COCO = {"version": 1, "z_dim": 5, "text_dim": 12, "code_dim": 4, "start": 32, "width": 4, "residuals": 2}


@pytest.fixture
def birds(shared):
    return models.read(read(shared / "reference/stackgan2/birds_3stages_G.pth"))


@pytest.fixture
def rooms(shared):
    return models.read(read(shared / "reference/stackgan2/bedroom_3stages_color_G.pth"))


@torch.no_grad()
def randomised(net, seed, gain=1.0):
    """The weight recipe of the reference cases, for networks without a file."""
    rs = np.random.RandomState(seed)

    def put(tensor, array):
        tensor.copy_(torch.from_numpy(np.asarray(array, dtype=np.float32)))

    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            put(m.weight, rs.randn(*m.weight.shape) * gain * np.sqrt(2.0 / m.weight[0].numel()))
            if m.bias is not None:
                put(m.bias, rs.randn(*m.bias.shape) * 0.1)
        elif isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            put(m.weight, 1 + 0.2 * rs.randn(*m.weight.shape))
            put(m.bias, 0.1 * rs.randn(*m.bias.shape))
            put(m.running_mean, 0.2 * rs.randn(*m.running_mean.shape))
            put(m.running_var, 0.5 + rs.rand(*m.running_var.shape))
    return net.eval()


def check_stages(case, pictures):
    case.check("stage1", pictures[0])
    case.check("stage2", pictures[1])
    case.check("stage3_sample0", pictures[2][:1])


@torch.inference_mode()
def test_birds_equal_the_reference(birds, reference):
    case = reference("stackgan2/birds_3stages_G")
    z, embedding, noise = case.tensor("z"), case.tensor("text_embedding"), case.tensor("ca_eps")
    assert (birds.z_dim, birds.text_dim, birds.img_size) == (20, 1024, (256, 256))
    code, mu, logvar = birds.condition(embedding, noise)
    case.check("c_code", code)
    case.check("mu", mu)
    case.check("logvar", logvar)
    case.check("h_code1", birds.h_net1(torch.cat((code, z), dim=1)))
    pictures = birds.stages(z, embedding, noise)
    check_stages(case, pictures)
    case.check("stage1_uint8", pictures[0].add(1).div(2).mul(255).clamp(0, 255).byte())
    assert torch.equal(birds(z, embedding, noise), pictures[-1])
    drawn = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    case.check("eps_torchseed0", drawn)
    case.check("stage1_torchseed0_caeps", birds.stages(z, embedding, torch.Generator().manual_seed(0))[0])
    assert torch.equal(birds.condition(embedding)[0], mu)


def test_training_mode_equals_the_reference(birds, reference):
    case = reference("stackgan2/birds_3stages_G.trainmode")
    birds.train()
    pictures = birds.stages(case.tensor("z"), case.tensor("text_embedding"), case.tensor("ca_eps"))
    case.check("stage1", pictures[0])
    case.check("stage2_sample0", pictures[1][:1])
    case.check("running_mean_h1fc_after", birds.h_net1.fc[1].running_mean)


@torch.inference_mode()
def test_rooms_equal_the_reference(rooms, reference):
    case = reference("stackgan2/bedroom_3stages_color_G")
    check_stages(case, rooms.stages(case.tensor("z")))
    assert isinstance(rooms, models.Generator) and rooms.z_dim == 24 and rooms.img_size == (256, 256)
    assert torch.equal(rooms(case.tensor("z"), None), rooms.stages(case.tensor("z"))[-1])


@torch.inference_mode()
def test_discriminators_equal_the_reference(birds, rooms, shared, reference):
    cases = {"birds_3stages": ("_G", 1101, 16), "bedroom_3stages_color": ("_G", 1301, 0)}
    for name, (_, seed, code_dim) in cases.items():
        of_G, of_D = reference(f"stackgan2/{name}_G"), reference(f"stackgan2/{name}_D")
        if code_dim:
            pictures = birds.stages(*(of_G.tensor(key) for key in ("z", "text_embedding", "ca_eps")))
            code, ends = of_D.tensor("mu"), ("_cond", "_uncond")
        else:
            pictures, code, ends = rooms.stages(of_G.tensor("z")), None, ("_logit",)
        first = models.read(read(shared / f"reference/stackgan2/{name}.netD0.pth"), part="D")
        more = [
            randomised(stackgan.build("D", {"width": 4, "img_size": size, "code_dim": code_dim}), seed + place)
            for place, size in enumerate((128, 256))
        ]
        for D, picture in zip([first, *more], pictures, strict=True):
            for end, got in zip(ends, D(picture, code), strict=True):
                of_D.check(f"D{picture.shape[2]}{end}", got)


def test_published_configuration_has_the_published_shapes(shared):
    """Names and shapes of the real birds file, from its config alone; and that config from its shapes."""
    shapes = json.loads((shared / "reference/stackgan2/birds_3stages_G.FULLSIZE.keys.json").read_text())
    tensors = {key: torch.empty(shape) for key, shape in shapes.items()}
    raw = RawCheckpoint("netG_210000.pth", "torch", {"": Network("", {}, tensors)})
    assert models.detect(raw) == "stackgan"
    G = models.read(raw)
    assert G.config == {
        "z_dim": 100, "text_dim": 1024, "code_dim": 128, "start": 1024, "widths": [[512, 256, 128, 64], [32], [16]],
        "residuals": [2, 2],
    }  # fmt: skip
    assert {k: list(t.shape) for k, t in G.state_dict().items()} == shapes


def as_in_2018(state):
    """A DataParallel state dict of PyTorch 0.3, which counted no batches."""
    return {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_files_of_2018(birds, reference, tmp_path, kind):
    file = tmp_path / "netG_210000.pth"
    torch.save(as_in_2018(birds.state_dict()), file, _use_new_zipfile_serialization=kind == "zip")
    if kind == "legacy":  # the device is text of a fixed length in the stream
        file.write_bytes(file.read_bytes().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
        assert b"cuda:0" in file.read_bytes()
    case = reference("stackgan2/birds_3stages_G")
    G = models.read(read(file))
    case.check("stage1", G.stages(case.tensor("z"), case.tensor("text_embedding"), case.tensor("ca_eps"))[0])


def inputs(G, count=2):
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(count, G.z_dim, generator=rng)
    if not G.text_dim:
        return (z,)
    return z, torch.randn(count, G.text_dim, generator=rng), torch.randn(count, G.code_dim, generator=rng)


SHAPES = {
    "birds": (BIRDS, (64, 64)),
    "rooms": (ROOMS, (64, 64)),
    "one stage": ({**BIRDS, "widths": [[8, 6, 4]], "residuals": []}, (32, 32)),
    "four stages": ({**BIRDS, "widths": [[8], [6], [4], [2]], "residuals": [0, 1, 2]}, (64, 64)),
    "coco": (COCO, (256, 256)),
    "coco, first stage": ({**COCO, "width": 0, "residuals": 0}, (64, 64)),
}


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_any_size_is_read_from_shapes(tmp_path, name):
    config, size = SHAPES[name]
    G = randomised(stackgan.build("G", config), 3)
    assert G.img_size == size
    state = G.state_dict()
    if name == "coco, first stage":  # such a file has a single stage, without its name before all names
        state = {key.removeprefix("STAGE1_G."): value for key, value in state.items()}
    torch.save(as_in_2018(state), tmp_path / "G.pth")
    again = models.read(read(tmp_path / "G.pth"))
    assert again.config == config
    given = inputs(G)
    pictures = G.stages(*given)
    for one, other in zip(pictures, again.stages(*given), strict=True):
        assert torch.equal(one, other) and one.abs().max() <= 1
    assert len({picture.shape[2] for picture in pictures}) == len(pictures) and pictures[-1].shape[2:] == size
    saved = {"G": Network("Generator", G.config, G.state_dict())}
    checkpoint.save(tmp_path / "G.safetensors", saved, {"family": "stackgan"})
    ours = models.read(read(tmp_path / "G.safetensors"))
    assert torch.equal(ours.stages(*given)[-1], pictures[-1])


def first_version(t, z, embedding, noise):
    """Both stages of v1 from the tensors of a file, as the paper and its authors' code describe them."""

    def norm(x, name):
        facts = [t[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *facts, eps=1e-5)

    def code(name):
        mean, log_variance = F.relu(F.linear(embedding, t[f"{name}.weight"], t[f"{name}.bias"])).chunk(2, dim=1)
        return mean + torch.exp(0.5 * log_variance) * noise

    def picture(x, prefix):
        for number in range(1, 5):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            name = f"{prefix}upsample{number}"
            x = F.relu(norm(F.conv2d(x, t[f"{name}.1.weight"], padding=1), f"{name}.2"))
        return torch.tanh(F.conv2d(x, t[f"{prefix}img.0.weight"], padding=1))

    x = F.linear(torch.cat((z, code("STAGE1_G.ca_net.fc")), dim=1), t["STAGE1_G.fc.0.weight"])
    first = picture(F.relu(norm(x, "STAGE1_G.fc.1")).view(len(z), -1, 4, 4), "STAGE1_G.")
    x = F.relu(F.conv2d(first, t["encoder.0.weight"], padding=1))
    for number in (2, 5):
        x = F.relu(norm(F.conv2d(x, t[f"encoder.{number}.weight"], stride=2, padding=1), f"encoder.{number + 1}"))
    seen = code("ca_net.fc")[:, :, None, None].repeat(1, 1, 16, 16)
    x = F.relu(norm(F.conv2d(torch.cat((x, seen), dim=1), t["hr_joint.0.weight"], padding=1), "hr_joint.1"))
    for number in (0, 1):
        name = f"residual.{number}.block"
        y = F.relu(norm(F.conv2d(x, t[f"{name}.0.weight"], padding=1), f"{name}.1"))
        x = F.relu(x + norm(F.conv2d(y, t[f"{name}.3.weight"], padding=1), f"{name}.4"))
    return first, picture(x, "")


@torch.inference_mode()
def test_first_version_equals_its_description():
    G = randomised(stackgan.build("G", COCO), 3)
    given = inputs(G)
    for got, want in zip(G.stages(*given), first_version(G.state_dict(), *given), strict=True):
        assert want.std() > 0.01 and torch.allclose(got, want, atol=1e-5)


@torch.inference_mode()
def test_first_version_draws_a_code_for_each_stage():
    G = randomised(stackgan.build("G", COCO), 3)
    z, embedding, _ = inputs(G)
    rng = torch.Generator().manual_seed(5)
    drawn = torch.randn(2, 4, generator=rng)
    got = G.stages(z, embedding, torch.Generator().manual_seed(5))
    want = G.stages(z, embedding, drawn)
    assert torch.equal(got[0], want[0]) and (got[1] - want[1]).abs().max() > 1e-3


def decibels(one, other):
    return float(10 * torch.log10(4 / (one - other).square().mean()))


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_prepared_forms(name):
    config, _ = SHAPES[name]
    given = inputs(randomised(stackgan.build("G", config), 3))
    want = randomised(stackgan.build("G", config), 3).stages(*given)
    for precision, least in (("exact", 110), ("fast", 50)):
        G = models.prepare("stackgan", randomised(stackgan.build("G", config), 3), precision)
        assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in G.modules())
        for one, other in zip(want, G.stages(*given), strict=True):
            assert other.dtype == torch.float32 and decibels(one, other) > least


@torch.inference_mode()
def test_prepared_form_equals_the_reference(birds, reference):
    case = reference("stackgan2/birds_3stages_G")
    G = models.prepare("stackgan", birds, "exact")
    check_stages(case, G.stages(case.tensor("z"), case.tensor("text_embedding"), case.tensor("ca_eps")))


@torch.inference_mode()
def test_fast_form_keeps_the_reference(birds, rooms, reference):
    """Widths and contrasts of real files: the pictures of every stage stay above 50 dB."""
    for G, name in ((birds, "birds_3stages_G"), (rooms, "bedroom_3stages_color_G")):
        case = reference(f"stackgan2/{name}")
        given = [case.tensor(key) for key in ("z", "text_embedding", "ca_eps") if key in case.inputs]
        want = G.stages(*given)
        fast = models.prepare("stackgan", G, "fast")
        assert {p.dtype for p in fast.h_net1.parameters()} == {torch.bfloat16}
        assert min(decibels(one, other) for one, other in zip(want, fast.stages(*given), strict=True)) > 50


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_the_engine_draws_rooms(rooms, shared, precision):
    """Without text it is a generator like any other, and the tab Generate serves it."""
    source = {"path": str(shared / "reference/stackgan2/bedroom_3stages_color_G.pth")}
    facts = {"task": ("generate",), "family": "stackgan", "license": "MIT", "commercial_use": True}
    row = Checkpoint(id="rooms", source=source, title="Rooms", resolution=256, **facts)
    with Engine(Registry([row]), device="cpu", precision=precision) as engine:
        z = z_from_seeds([7], 24)
        got = engine.run(Job("rooms", "generate", {"z": z[0]}))
        assert engine.describe("rooms")["img_size"] == (256, 256)
    want = rooms(torch.from_numpy(z))[0].mul(127.5).add(128).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    apart = np.abs(got.astype(int) - want.astype(int))
    assert got.shape == (256, 256, 3) and apart.mean() < (0.01 if precision == "exact" else 1)


def test_rows_of_published_files():
    registry = load_registry()
    for row in registry.for_task("text"):
        if row.family == "stackgan":
            encoder = registry.find(row.components["text_encoder"])
            assert encoder.family == "char_cnn_rnn" and encoder.dataset == row.dataset and not encoder.planned
    assert {"stackgan2-bedroom", "stackgan2-church"} <= {row.id for row in registry.for_task("generate")}


@pytest.mark.parametrize("size", [16, 32, 64, 128, 512])
@pytest.mark.parametrize("code_dim", [0, 3])
def test_discriminators_of_any_size(size, code_dim):
    D = randomised(stackgan.build("D", {"width": 2, "img_size": size, "code_dim": code_dim}), 0)
    raw = RawCheckpoint("netD.pth", "torch", {"": Network("", {}, D.state_dict())})
    assert models.detect(raw) == "stackgan"
    again = models.read(raw, part="D")
    pictures, code = torch.rand(3, 3, size, size) * 2 - 1, torch.randn(3, code_dim) if code_dim else None
    scores = [net.scores(net.features(pictures), code) for net in (D, again)]
    for one, other in zip(*scores, strict=True):
        assert one.shape == (3,) and torch.equal(one, other)
    with pytest.raises(BadInput, match="takes pictures"):
        D(pictures[:, :, 1:])
    if code_dim:
        with pytest.raises(BadInput, match=r"needs a code of the shape \[3, 3\]"):
            D(pictures)


def test_stages_of_a_batch_do_not_mix():
    G = randomised(stackgan.build("G", BIRDS), 0)
    z, embedding, noise = inputs(G, 3)
    together = G(z, embedding, noise)
    alone = torch.cat([G(z[i : i + 1], embedding[i : i + 1], noise[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together[0] - G(z[:1], embedding[1:2], noise[:1])[0]).abs().max() > 0.01  # it listens to the sentence


def test_refusals():
    G = stackgan.build("G", BIRDS)
    z, embedding, noise = inputs(G)
    with pytest.raises(BadInput, match=r"z of the shape \[N, 5\], not \[2, 4\]"):
        G(z[:, 1:], embedding)
    with pytest.raises(BadInput, match=r"\[N, 12\], not \[2, 11\]; use the text encoder"):
        G(z, embedding[:, 1:])
    with pytest.raises(BadInput, match=r"noise must have the shape \[2, 4\], not \[1, 4\]"):
        G(z, embedding, noise[:1])
    tensors = G.state_dict()
    raw = RawCheckpoint("odd.pth", "torch", {"": Network("", {}, tensors)})
    with pytest.raises(CheckpointError, match="config.stages means nothing"):
        models.read(raw, stages=3)
    tensors.pop("h_net2.upsample.1.weight")
    with pytest.raises(CheckpointError, match="odd.pth is no G of StackGAN: it lacks 'h_net2.upsample.1.weight'"):
        models.read(raw)
    D = randomised(stackgan.build("D", {"width": 2, "img_size": 64, "code_dim": 0}), 0).state_dict()
    D["encode_img.0.weight"] = D["img_code_s16.0.weight"]
    with pytest.raises(CheckpointError, match=r"Discriminators of StackGAN \(v1\) are not read"):
        stackgan.read(RawCheckpoint("netD.pth", "torch", {"": Network("", {}, D)}), "D")
