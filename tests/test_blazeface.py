"""BlazeFace: its published files, and what it says against values of the code that they were published with."""

import numpy as np
import pytest
import torch

from ganhub import checkpoint, models
from ganhub.checkpoint import Network, RawCheckpoint
from ganhub.errors import CheckpointError


@pytest.mark.parametrize(
    "model, file, anchors", [("front", "blazeface", "anchors"), ("back", "blazefaceback", "anchorsback")]
)
def test_published_files(shared, model, file, anchors):
    folder = shared / "weights" / "blazeface_hollance"
    raw = checkpoint.read(folder / f"{file}.pth")
    assert models.detect(raw) == "blazeface"
    network = models.read(raw)
    assert network.config == {"model": model}
    assert np.abs(network.places.numpy() - np.load(folder / f"{anchors}.npy")[:, :2]).max() < 1e-6
    faces, logits = network(torch.zeros(2, 3, network.side, network.side))
    assert faces.shape == (2, 896, 16) and logits.shape == (2, 896) and (logits < 0).all()


@pytest.mark.parametrize("model, file", [("front", "blazeface"), ("back", "blazefaceback")])
def test_equals_the_library(shared, model, file):
    library = pytest.importorskip("face_alignment.detection.blazeface.net_blazeface")
    folder = shared / "weights" / "blazeface_hollance"
    theirs = library.BlazeFace(back_model=model == "back").eval()
    theirs.load_state_dict(torch.load(folder / f"{file}.pth", weights_only=True))
    theirs.load_anchors_from_npy(np.load(folder / "anchors.npy"), "cpu")
    mine = models.read(checkpoint.read(folder / f"{file}.pth"))
    x = torch.rand(1, 3, mine.side, mine.side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        raw, scores = theirs(x)
        want = theirs._decode_boxes(raw, theirs.anchors)
        faces, logits = mine(x)
    assert torch.allclose(logits, scores[..., 0], atol=1e-5)
    assert torch.allclose(faces[..., 4:], want[..., 4:], atol=1e-6)
    low, high = want[..., [1, 0]], want[..., [3, 2]]
    assert torch.allclose(faces[..., :2], (low + high) / 2, atol=1e-6)
    assert torch.allclose(faces[..., 2:4], high - low, atol=1e-6)


def test_refusals(shared):
    raw = checkpoint.read(shared / "weights" / "blazeface_hollance" / "blazeface.pth")
    (network,) = raw.networks.values()
    tensors = {key: tensor for key, tensor in network.tensors.items() if key != "backbone1.4.convs.1.bias"}
    with pytest.raises(CheckpointError, match="'backbone1.4.convs.1.bias' is missing"):
        models.read(RawCheckpoint("f.pth", "torch", {"": Network("", {}, tensors)}, {}, "0" * 64))
    with pytest.raises(CheckpointError, match="is no BlazeFace"):
        models.read(RawCheckpoint("f.pth", "torch", {"": Network("", {}, {})}, {}, "0" * 64), "blazeface")
