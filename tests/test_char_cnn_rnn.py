"""The char-CNN-RNN against the PyTorch port, one sentence at a time."""

import json

import numpy as np
import pytest
import torch

from ganhub import models
from ganhub.checkpoint import Network, RawCheckpoint, read
from ganhub.errors import BadInput, CheckpointError
from ganhub.models import char_cnn_rnn
from ganhub.models.char_cnn_rnn import ALPHABET, HOW, LENGTH, encode_text

SMALL = {"widths": [6, 7, 8], "dim": 5, "cell": "gru", "pools": 2}


def one_hot(labels):
    """The reference's labels [N, 201], 0 where there is nothing -> [N, 70, 201]."""
    columns = torch.nn.functional.one_hot(torch.from_numpy(labels), len(ALPHABET) + 1)
    return columns[..., 1:].transpose(1, 2).float()


def recipe(config, names):
    """The weights of the reference cases without a file."""
    encoder = char_cnn_rnn.build("G", config).eval()
    state = {
        name: torch.from_numpy(np.random.RandomState(2000 + i).uniform(-0.08, 0.08, shape).astype(np.float32))
        for i, (name, shape) in enumerate(names)
    }
    encoder.load_state_dict(state)
    return encoder


FULL = {
    "icml": {"widths": [384, 512, 512], "dim": 1024, "cell": "gru", "pools": 2},
    "cvpr": {"widths": [384, 512, 256], "dim": 1024, "cell": "rnn", "pools": 3},
}


@pytest.mark.parametrize("variant", FULL)
@torch.inference_mode()
def test_published_sizes_equal_the_port(shared, reference, variant):
    case = reference(f"charcnnrnn/full_birds_{variant}")
    names = json.loads((shared / f"reference/charcnnrnn/full_birds_{variant}.keys.json").read_text())
    encoder = recipe(FULL[variant], names)
    sentences = one_hot(case.inputs["labels"])
    together = encoder(sentences)
    case.check("embedding", together)
    case.check("embedding", torch.cat([encoder(one[None]) for one in sentences]))
    if variant == "icml":
        wrong = case.outputs["WRONG_batched_by_port"]
        assert np.abs(together[:3].numpy() - wrong).max() > 0.02  # the port mixes the sentences of a batch


@pytest.mark.parametrize("ending", ["pth", "t7"])
@pytest.mark.parametrize("variant", ["icml", "cvpr"])
@torch.inference_mode()
def test_files_equal_the_port(shared, reference, variant, ending):
    raw = read(shared / f"reference/charcnnrnn/small_birds_{variant}.{ending}")
    assert models.detect(raw) == "char_cnn_rnn"
    encoder = models.read(raw)
    assert encoder.config["cell"] == FULL[variant]["cell"] and encoder.config["pools"] == FULL[variant]["pools"]
    case = reference(f"charcnnrnn/small_birds_{variant}")
    case.check("embedding", encoder(one_hot(case.inputs["labels"])))
    prepared = models.prepare("char_cnn_rnn", encoder, "fast")
    case.check("embedding", prepared(one_hot(case.inputs["labels"])))


def test_sentences_are_read_as_by_the_port(shared, reference):
    about = json.loads((shared / "reference/charcnnrnn/alphabet.json").read_text())
    assert (about["alphabet"], about["doc_length"]) == (ALPHABET, LENGTH)
    labels = reference("charcnnrnn/full_birds_icml").inputs["labels"]
    for sentence, want in zip(about["sentences"], one_hot(labels), strict=True):
        assert torch.equal(encode_text(sentence, "port")[0], want), sentence


def letters(columns):
    """What the columns say; a dot for an empty one."""
    return "".join(ALPHABET[c.argmax()] if c.any() else "." for c in columns.T)


def test_three_ways_to_read():
    sentence = "A réd-bird!"
    got = {how: letters(encode_text(sentence, how)[0])[:12] for how in HOW}
    assert got == {"nips2016": "a r.d-bird!.", "icml2016": ". r.d-bird!.", "port": "a r d-bird!."}
    columns, reading = encode_text(sentence)
    assert columns[:, 5].argmax() == 59  # the second dash of the alphabet
    assert (reading.text, reading.unknown, reading.cut) == ("a r·d-bird!", "é", "")
    assert encode_text(sentence, "icml2016")[1].unknown == "Aé"


def test_long_and_empty_sentences():
    columns, reading = encode_text("x" * 200 + "yz 世界")
    assert (letters(columns)[-2:], reading.cut, reading.unknown) == ("xy", "z 世界", "")
    columns, reading = encode_text("")
    assert not columns.any() and reading == char_cnn_rnn.Reading("", "", "")
    with pytest.raises(BadInput, match="there are nips2016, icml2016, port"):
        encode_text("a", "loudly")


@torch.inference_mode()
def test_a_sentence_says_the_same_in_any_company():
    torch.manual_seed(0)
    for config in (SMALL, {**SMALL, "cell": "rnn"}, {**SMALL, "cell": "rnn", "pools": 3}, {**SMALL, "pools": 3}):
        encoder = char_cnn_rnn.build("G", config).eval()
        sentences = torch.stack([encode_text(text)[0] for text in ("a red bird", "", "blue " * 50)])
        together = encoder(sentences)
        alone = torch.cat([encoder(one[None]) for one in sentences])
        assert together.shape == (3, 5) and torch.allclose(together, alone, atol=1e-6)
        assert (together[0] - together[2]).abs().max() > 1e-3


def test_row_may_say_how_often_is_pooled(shared):
    raw = read(shared / "reference/charcnnrnn/small_birds_cvpr.pth")
    assert models.read(raw, pools=2).config["pools"] == 2
    with pytest.raises(CheckpointError, match="config.pools must be 2 or 3, not 4"):
        models.read(raw, pools=4)
    with pytest.raises(CheckpointError, match="config.steps means nothing"):
        models.read(raw, steps=4)


def test_refuses_what_does_not_fit(shared):
    raw = read(shared / "reference/charcnnrnn/small_birds_icml.t7")
    first = next(iter(raw.networks))
    fewer = RawCheckpoint("odd.t7", "torch7", {k: n for k, n in raw.networks.items() if k != first}, raw.extra)
    with pytest.raises(CheckpointError, match="odd.t7 is no char-CNN-RNN: it has 2 convolutions"):
        char_cnn_rnn.read(fewer)
    tensors = {**read(shared / "reference/charcnnrnn/small_birds_icml.pth").networks[""].tensors}
    tensors.pop("rnn.h2h_reset.bias")
    with pytest.raises(CheckpointError, match="rnn.h2h_reset.bias' is missing"):
        char_cnn_rnn.read(RawCheckpoint("odd.pth", "torch", {"": Network("", {}, tensors)}))
    with pytest.raises(BadInput, match=r"\[N, 70, 201\], not \[1, 70, 200\]"):
        char_cnn_rnn.build("G", SMALL)(torch.zeros(1, 70, 200))


def test_saved_without_sharing(shared):
    """The layers of every step stand for themselves, with equal weights."""
    raw = read(shared / "reference/charcnnrnn/small_birds_icml.t7")
    networks = {}
    for path, network in raw.networks.items():
        networks[path] = network
        if "modules.3.modules" in path:
            networks[path.replace("modules.3.", "modules.3.modules.99.")] = network
    again = char_cnn_rnn.read(RawCheckpoint("a.t7", "torch7", networks, raw.extra))
    plain = char_cnn_rnn.read(raw)
    assert all(torch.equal(t, plain.state_dict()[k]) for k, t in again.state_dict().items())
