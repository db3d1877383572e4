"""An owner's registry of tiny networks that enlarge pictures, for tests of the super-resolution tab."""

import torch
import yaml

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.models import srresnet

NETWORKS = {"tiny-x4": (0, 2), "tiny-other": (1, 2), "tiny-x2": (2, 1)}
"""Seed and number of doublings."""


def network(seed, doublings):
    """Bilinear, with a little detail of its own."""
    torch.manual_seed(seed)
    built = srresnet.SRResNet(
        channels=8, blocks=1, ups=((2, 8),) * doublings, kernels=(3, 3), norm=False, base="bilinear"
    )
    with torch.no_grad():
        built.last.weight.mul_(0.1)
        built.last.bias.zero_()
    return built


def write_upscalers(folder):
    """Saves the networks as safetensors of our own, and the YAML file that names them; one of them is not here."""
    common = {"task": "upscale", "family": "srresnet", "license": "CC0-1.0", "commercial_use": True}
    rows = []
    for name, (seed, doublings) in NETWORKS.items():
        built = network(seed, doublings)
        saved = {"G": Network("Generator", built.config, built.state_dict())}
        checkpoint.save(folder / f"{name}.safetensors", saved, {"family": "srresnet"})
        rows.append({**common, "id": name, "source": {"path": f"{name}.safetensors"}, "title": name.title()})
    rows[0]["components"] = {"blend": "tiny-other"}
    away = {"id": "away-x4", "source": {"url": "https://example.org/away.safetensors"}, "title": "Away"}
    rows.append({**common, **away, "bytes": 5_000_000, "config": {"scale": 4}})
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows))
    return folder / "rows.yaml"
