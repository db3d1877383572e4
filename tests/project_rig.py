"""An owner's registry of a tiny StyleGAN2, a direction and a tiny feature network, for tests of latents of photos."""

import engine_rig as rig
import numpy as np
import torch
import yaml

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.directions import Direction, save_direction
from ganhub.models import features, stylegan2

FACES = "Portraits of nobody"


def face(seed, c_dim=0):
    """A StyleGAN2 of 16 pixels whose pictures differ clearly."""
    torch.manual_seed(seed)
    small = {"z_dim": 16, "w_dim": 16, "mapping_features": (16, 16), "embed_features": 16, "c_dim": c_dim}
    G = stylegan2.build("G", stylegan2.standard_config("G", 16, 256, 16, **small))
    with torch.no_grad():
        for name, value in G.named_parameters():
            if name.endswith("noise_strength"):
                value.fill_(0.05)
            if "torgb.weight" in name:
                value.mul_(0.5)
        classes = torch.eye(c_dim)[torch.arange(500) % c_dim] if c_dim else None
        G.mapping.w_avg.copy_(G.mapping(torch.randn(500, 16), classes)[:, 0].mean(0))
    return G.eval().requires_grad_(False)


def eyes():
    torch.manual_seed(7)
    return features.build("G", {"widths": [8, 16, 16, 16], "size": 16}).eval().requires_grad_(False)


NETWORKS = {
    "tiny-face": (
        "stylegan2",
        lambda: face(1),
        {"task": ["generate", "project", "clip", "directions"]},
    ),
    "tiny-kinds": ("stylegan2", lambda: face(3, c_dim=3), {"task": ["generate", "project"]}),
    "tiny-flat": ("dcgan", rig.dcgan_network, {"task": "generate"}),
    "tiny-features": ("features", eyes, {"task": "component"}),
}


def write_faces(folder):
    """Saves the networks as safetensors of our own, a direction, and the YAML file that names them."""
    common = {"license": "CC0-1.0", "commercial_use": True}
    rows = []
    for name, (family, make, more) in NETWORKS.items():
        network = make()
        saved = {"G": Network("Generator", network.config, network.state_dict())}
        checkpoint.save(folder / f"{name}.safetensors", saved, {"family": family})
        row = {"id": name, "family": family, "source": {"path": f"{name}.safetensors"}, "title": name.title()}
        rows.append({**common, "dataset": FACES, **row, **more})
    belongs = {"family": "stylegan2", "dataset": FACES, "w_dim": 16}
    vector = np.random.RandomState(0).randn(16)
    save_direction(Direction("tiny-smile", "Smile", "w", vector, 2.0, None, belongs), folder / "smile.safetensors")
    row = {
        "id": "tiny-smile",
        "task": "direction",
        "family": "stylegan2",
        "source": {"path": "smile.safetensors"},
        "title": "Smile",
    }
    rows.append({**common, **row, "generator": {**belongs, "space": "w"}})
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows))
    return folder / "rows.yaml"
