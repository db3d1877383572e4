"""A generator with a planted attribute, and what scores it: one direction of w decides how red its pictures are."""

import numpy as np
import torch
import yaml

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.models import attributes, mlp_gan, stylegan2

SIZE, DIM = 16, 16
DATA = "planted pictures"


def true_direction():
    vector = np.random.RandomState(7).randn(DIM)
    return vector / np.linalg.norm(vector)


def generator():
    """A StyleGAN2 whose red channel is brighter along `true_direction`, and whose green one along another."""
    torch.manual_seed(0)
    config = stylegan2.standard_config("G", SIZE, 256, 16, z_dim=DIM, w_dim=DIM, mapping_features=(DIM, DIM))
    net = stylegan2.build("G", config).eval().requires_grad_(False)
    state = net.state_dict()
    for name, tensor in state.items():
        if name.endswith(("noise_strength", "torgb.weight", "torgb.bias")):
            tensor.zero_()
    red, green = torch.from_numpy(true_direction()).float(), torch.randn(DIM)
    last = [name for name in state if name.endswith("torgb.weight")][-1].removesuffix(".weight")
    affine, weight = state[f"{last}.affine.weight"], state[f"{last}.weight"]
    conv = last.replace("torgb", "conv1")
    state[f"{conv}.weight"].zero_()  # what comes in is the same everywhere: its bias
    state[f"{conv}.bias"].fill_(1.0)
    affine.zero_()
    affine[0], affine[1] = red * 20, green / green.norm() * 20
    state[f"{last}.affine.bias"].zero_()
    weight[0, 0], weight[1, 1] = 0.2, 0.2
    net.load_state_dict(state)
    return net


def judge():
    """Says how red and how green pictures are: its first layers pass on the halves of each, above 0 and below."""
    net = attributes.build("G", {"attributes": ["red", "green"], "widths": [4, 4, 4, 4], "size": 16, "places": 2})
    for name, tensor in net.state_dict().items():
        if name.endswith("weight") and tensor.ndim > 1:
            tensor.zero_()
    edge, low = net.trunk.low[0][0].weight.data, net.trunk.low[1][0].weight.data
    for k in range(4):
        edge[k, k // 2, 1:3, 1:3] = 0.25 * (-1) ** k
        low[k, k, 1, 1] = 1
        net.head.weight.data[k // 2, k] = 4.0 * (-1) ** k
    return net.eval().requires_grad_(False)


def write_rows(folder):
    """`planted`, `planted-z` (no w), and the network `planted-judge`, with the YAML file that names them."""
    torch.manual_seed(2)
    seen = {"config": {"attributes": ["red", "green"]}, "task": "component"}
    made = {
        "planted-judge": ("attributes", judge(), seen),
        "planted": ("stylegan2", generator(), {"task": ["generate", "clip"], "resolution": SIZE}),
        "planted-z": ("mlp_gan", mlp_gan.build("G", mlp_gan.plain(8, [16], 1, 28)), {"task": "generate"}),
    }
    rows = []
    for name, (family, net, more) in made.items():
        saved = {"G": Network("Generator", net.config, net.state_dict())}
        checkpoint.save(folder / f"{name}.safetensors", saved, {"family": family})
        row = {"id": name, "family": family, "source": {"path": f"{name}.safetensors"}, "title": name.title()}
        rows.append({**row, "license": "CC0-1.0", "commercial_use": True, "dataset": DATA, **more})
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows))
    return folder / "rows.yaml"
