"""CLIP through open_clip: published files, and our own small ones."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ganhub import checkpoint, hub, models
from ganhub.checkpoint import Network
from ganhub.errors import CheckpointError
from ganhub.models import clip
from ganhub.models.clip import MEAN, STD, Words
from ganhub.registry import load_registry

open_clip = pytest.importorskip("open_clip", reason="needs the extra `clip`")

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 32}
TIMM = {"timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
SMALL = {
    "vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "resnet": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
    "custom": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": {**TEXT, "no_causal_mask": True}, "custom_text": True},
    "timm": {"embed_dim": 24, "vision_cfg": TIMM, "text_cfg": TEXT, "custom_text": True},
}
SENTENCES = ["a red apple", "two green pears with a leaf", "", "果物 🍎", "a " * 200]


@pytest.fixture(params=SMALL)
def small(request, monkeypatch):
    """A tiny model of open_clip's under a name of its own, and its configuration."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", SMALL[request.param])
    torch.manual_seed(3)
    known = dict(SMALL[request.param])
    made = open_clip.CustomTextCLIP if known.pop("custom_text", False) else open_clip.CLIP
    model = made(**known).eval().requires_grad_(False)
    for module in model.modules():  # a fresh BatchNorm would hide wrong statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_published_files_answer_as_open_clip_does(small, kind, tmp_path):
    file = tmp_path / f"tiny.{kind}"
    if kind == "pt":
        torch.save({"state_dict": {f"module.{key}": value for key, value in small.state_dict().items()}}, file)
    else:
        import safetensors.torch

        safetensors.torch.save_file(small.state_dict(), file)
    raw = checkpoint.read(file)
    assert models.detect(raw) == "clip"
    network = models.read(raw, model="tiny", mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    x = torch.rand(2, 3, network.image_size, network.image_size) * 2 - 1
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    want = small.encode_image(((x + 1) / 2 - mean) / std, normalize=True)
    assert torch.allclose(network.encode_image(x), want, atol=1e-5)
    tokens = open_clip.SimpleTokenizer(context_length=16)(SENTENCES)
    assert torch.allclose(network.encode_text(SENTENCES), small.encode_text(tokens, normalize=True), atol=1e-5)


def test_files_say_what_they_lack(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "tiny.pt")
    raw = checkpoint.read(tmp_path / "tiny.pt")
    for config, words in (
        ({}, "config.model must name a model of open_clip"),
        ({"model": "no-such"}, "not 'no-such'"),
        ({"model": "xlm-roberta-base-ViT-B-32"}, "by its own byte pairs"),
        ({"model": "RN50"}, "does not fit CLIP"),
        ({"model": "tiny", "size": 3}, "config.size means nothing"),
    ):
        with pytest.raises(CheckpointError, match=words):
            models.read(raw, **config)


@pytest.mark.parametrize(
    ("model", "parameters", "side", "dim"),
    [("ViT-B-32-quickgelu", 151_277_313, 224, 512), ("MobileCLIP2-S0", 74_800_000, 256, 512)],
)
def test_sizes_of_the_published_networks(model, parameters, side, dim):
    with torch.device("meta"):
        network = models.family("clip").build("G", {"clip": clip._published("file", model), "mean": MEAN, "std": STD})
    assert (network.image_size, network.text_dim) == (side, dim)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.01)


def test_registry_names_the_published_files():
    rows = {row.id: row for row in load_registry()}
    for name in ("clip-vit-b-32", "clip-mobileclip2-s0"):
        assert rows[name].family == "clip" and open_clip.get_model_config(rows[name].config["model"])
    assert not rows["clip-mobileclip2-s0"].commercial_use


# --- Pictures


@pytest.fixture
def own():
    """One of our own: few words, a small network."""
    words = Words(12, tokens_of("a red apple", "two green pears"))
    torch.manual_seed(0)
    text = {**TEXT, "context_length": 12, "vocab_size": words.size}
    config = {"clip": {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": text}, "mean": list(MEAN), "std": list(STD),
              "vocabulary": words.vocabulary}  # fmt: skip
    return models.family("clip").build("G", config).eval().requires_grad_(False)


def tokens_of(*sentences):
    tokenizer = open_clip.SimpleTokenizer()
    return sorted({token for sentence in sentences for token in tokenizer.encode(sentence)})


def test_pictures_of_any_size_and_kind(own):
    x = F.interpolate(torch.randn(1, 3, 4, 4), 32, mode="bicubic").clamp(-1, 1)
    plain = own.encode_image(x)
    assert plain.shape == (1, 16) and plain.norm().item() == pytest.approx(1, abs=1e-5)
    for size in ((64, 64), (128, 128), (40, 40)):
        other = own.encode_image(F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1))
        assert (other @ plain.T).item() > 0.97, size
    wide = torch.cat([torch.ones(1, 3, 32, 16), x, torch.ones(1, 3, 32, 16)], dim=3)
    assert torch.allclose(own.encode_image(wide), plain, atol=1e-5)  # the middle counts
    grey = x[:, :1]
    assert torch.allclose(own.encode_image(grey), own.encode_image(grey.expand(-1, 3, -1, -1)), atol=1e-6)


def test_a_picture_can_be_moved_towards_a_sentence(own):
    text = own.encode_text(["a red apple"])
    x = torch.zeros(1, 3, 48, 48, requires_grad=True)
    before = (own.encode_image(x) * text).sum()
    (gradient,) = torch.autograd.grad(before, x)
    after = (own.encode_image(x + 0.05 * gradient.sign()) * text).sum()
    assert after > before and text.grad_fn is None


# --- Words


def test_few_words_are_open_clips_and_the_rest_is_spelled(own):
    full = Words(12)
    kept = own.words.rows
    (line,) = full(["a red apple"]).tolist()
    (mine,) = own.words(["a red apple"]).tolist()
    back = {row: token for token, row in kept.items()}
    assert [back[row] for row in mine[1:4]] == line[1:4] and mine[4] == own.words.size - 1 == max(mine)
    (mine,) = own.words(["a pear"]).tolist()  # `pear` has no row: four letters, the last of which ends a word
    assert "".join(own.words.tokenizer.decoder[back[row]] for row in mine[1:6]) == "a</w>pear</w>"
    assert own.words(["A  Red APPLE "]).equal(own.words(["a red apple"]))
    long = own.words(["果物" * 50])
    assert long.shape == (1, 12) and long[0, -1] == own.words.size - 1
    assert own.words([""]).tolist()[0][:3] == [own.words.size - 2, own.words.size - 1, 0]


def test_sentences_do_not_depend_on_their_batch_and_are_kept(own, monkeypatch):
    alone = torch.cat([own.encode_text([sentence]) for sentence in SENTENCES])
    own.known.clear()
    assert torch.allclose(own.encode_text(SENTENCES), alone, atol=1e-6)
    monkeypatch.setattr(own, "encode_tokens", lambda tokens: pytest.fail("read again"))
    assert torch.allclose(own.encode_text(SENTENCES[::-1]), alone.flip(0), atol=1e-6)


def test_memory_of_sentences_has_an_end(own, monkeypatch):
    monkeypatch.setattr(clip, "MOST_CACHED", 3)
    for n in range(5):
        own.encode_text([f"apple {n}", "a pear"])
        assert len(own.known) <= 3
    assert len(own.encode_text([f"pear {n}" for n in range(9)])) == 9


def test_saved_and_read_again(own, tmp_path):
    checkpoint.save(
        tmp_path / "own.safetensors", {"G": Network("CLIP", own.config, own.state_dict())}, {"family": "clip"}
    )
    again = models.read(checkpoint.read(tmp_path / "own.safetensors"))
    assert torch.equal(again.encode_text(SENTENCES), own.encode_text(SENTENCES))
    assert models.prepare("clip", again, "fast") is again


def test_without_open_clip(own, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip.model", None)
    with pytest.raises(CheckpointError, match=r"pip install 'ganhub\[clip\]'"):
        models.family("clip").build("G", own.config)


# --- What ships


@pytest.fixture(scope="module")
def shipped():
    row = load_registry().find("clip-fruit")
    return models.read(checkpoint.read(hub.fetch(row, offline=True)), row.family, **row.config)


def test_the_embedded_one_knows_colours_and_fruit(shipped):
    y, x = np.mgrid[:64, :64]
    pictures = []
    for color in ((200, 40, 30), (235, 200, 60), (110, 150, 60)):
        light = 1.1 - np.hypot(x - 26, y - 24) / 90
        picture = np.broadcast_to(np.array((252, 243, 220.0)), (64, 64, 3)).copy()
        inside = np.hypot(x - 32, y - 34) < 22
        picture[inside] = (np.array(color) * light[..., None]).clip(0, 255)[inside]
        pictures.append(picture)
    seen = shipped.encode_image(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1)
    said = shipped.encode_text(["a red apple", "a yellow apple", "a green apple"])
    assert (seen @ said.T).argmax(1).tolist() == [0, 1, 2]
