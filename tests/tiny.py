"""An owner's registry of tiny random networks, for tests of what stands above the engine."""

import torch
import yaml

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.models import mlp_gan, stylegan2

SMALL = {"z_dim": 16, "w_dim": 12, "mapping_features": (12, 12)}


def tiny_networks():
    """One of each kind: with styles, with classes, grey without styles."""
    torch.manual_seed(0)
    nets = {
        "tiny": ("stylegan2", stylegan2.build("G", stylegan2.standard_config("G", 32, 256, 16, **SMALL))),
        "tiny-classes": (
            "stylegan2",
            stylegan2.build("G", stylegan2.standard_config("G", 16, 128, 8, c_dim=3, embed_features=12, **SMALL)),
        ),
        "tiny-grey": ("mlp_gan", mlp_gan.build("G", mlp_gan.plain(8, [16], 1, 28))),
    }
    for _, net in nets.values():
        for name, value in net.state_dict().items():
            if name.endswith(("noise_strength", "w_avg")):
                value.normal_()
    return nets


def write_registry(folder):
    """Saves the networks as safetensors of our own, and the YAML file that names them."""
    rows = []
    for name, (family, net) in tiny_networks().items():
        saved = {"G": Network("Generator", net.config, net.state_dict())}
        checkpoint.save(folder / f"{name}.safetensors", saved, {"family": family})
        side = net.img_size[0]
        row = {"id": name, "task": "generate", "family": family, "source": {"path": f"{name}.safetensors"}}
        rows.append({**row, "resolution": side, "title": name.title(), "license": "apache-2.0", "commercial_use": True})
    rows[0]["aliases"] = ["tiny-of-old"]
    rows[1]["config"] = {"classes": ["ant", "bee", "cat"]}
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows))
    return folder / "rows.yaml"
