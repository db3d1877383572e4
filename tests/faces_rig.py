"""An owner's registry of tiny networks that change ages, and photos of people, for tests of the Faces tab."""

import numpy as np
import torch
import yaml
from PIL import Image
from skimage import data

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.models import agingan, fran

BOTH, EYES = ("older", "younger"), {"align": "eyes", "size": 64, "margin": 2.6}


def write_agers(folder):
    """Saves the networks as safetensors of our own, and the YAML file that names them; one of them is not here."""
    torch.manual_seed(0)
    cyclic = {"ngf": 4, "blocks": 1, "norm": "instance", "img_size": 64}
    built = {
        "tiny-both": ("agingan", agingan.build("G", {**cyclic, "directions": list(BOTH)}), EYES),
        "tiny-older": (
            "agingan",
            agingan.build("G", {**cyclic, "directions": ["older"]}),
            {"align": "face", "size": 64, "face": 32},
        ),
        "tiny-years": ("fran", fran.build("G", {"widths": [4, 8], "ages": [10, 90], "img_size": 64}), {"size": 64}),
    }
    with torch.no_grad():  # what comes out of the first shows in its last layer only
        built["tiny-years"][1].final_conv.weight.mul_(30)
    common = {"task": "age", "license": "CC0-1.0", "commercial_use": True}
    rows = []
    for name, (family, network, preprocess) in built.items():
        saved = {"G": Network("Generator", network.config, network.state_dict())}
        checkpoint.save(folder / f"{name}.safetensors", saved, {"family": family})
        row = {"id": name, "family": family, "source": {"path": f"{name}.safetensors"}, "title": name.title()}
        rows.append({**common, **row, "preprocess": preprocess})
    away = {"id": "away-ager", "source": {"url": "https://example.org/away.safetensors"}, "title": "Away"}
    rows.append(
        {**common, **away, "family": "agingan", "bytes": 5_000_000, "preprocess": {"align": "ffhq", "size": 64}}
    )
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows))
    return folder / "rows.yaml"


def astronaut():
    """A public portrait by NASA, with the eyes at (204, 101) and (247, 103)."""
    return Image.fromarray(data.astronaut())


def crowd(count, side=128):
    """So many faces of one size beside each other, on grey."""
    face = astronaut().crop((160, 40, 290, 170)).resize((side, side))
    out = Image.new("RGB", (side * count + 20 * (count + 1), side + 40), (128, 128, 128))
    for number in range(count):
        out.paste(face, (20 + number * (side + 20), 20))
    return out


def noise(size=(200, 150)):
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (*size[::-1], 3)).astype(np.uint8))
