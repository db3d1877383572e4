"""An owner's registry of tiny networks that draw from sentences, for tests of the text-to-image tab."""

import engine_rig as rig
import torch
import yaml

from ganhub import checkpoint
from ganhub.checkpoint import Network
from ganhub.models import char_cnn_rnn, stackgan

FRUIT = "USDA Pomological Watercolor Collection"


def painter():
    config = {"z_dim": 8, "text_dim": 12, "code_dim": 6, "start": 16, "widths": [[8], [4], [4]], "residuals": [1, 1]}
    return rig.randomised(stackgan.build("G", config), 0)


def encoder():
    return rig.randomised(char_cnn_rnn.build("G", {"widths": [8, 8, 8], "dim": 12, "cell": "gru", "pools": 2}), 1)


def eyes():
    """The smallest CLIP of open_clip."""
    from ganhub.models import clip

    torch.manual_seed(5)
    vision = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    config = {"clip": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}, "vocabulary": None}
    network = clip.build("G", {**config, "mean": list(clip.MEAN), "std": list(clip.STD)})
    return network.eval().requires_grad_(False)


CLIP = {"clip": "tiny-eyes"}
NETWORKS = {
    "tiny-painter": ("stackgan", painter, {"task": "text", "components": {"text_encoder": "tiny-words"}}),
    "tiny-words": ("char_cnn_rnn", encoder, {"task": "component"}),
    "tiny-style": ("stylegan2", rig.stylegan2_network, {"task": ["generate", "clip"], "components": CLIP}),
    "tiny-eyes": ("clip", eyes, {"task": "component"}),
}


def write_imaginers(folder):
    """Saves the networks as safetensors of our own, and the YAML file that names them; one of them is not here."""
    common = {"license": "CC0-1.0", "commercial_use": True, "dataset": FRUIT}
    rows = []
    for name, (family, make, more) in NETWORKS.items():
        network = make()
        config = network.config
        saved = {"G": Network("Generator", config, network.state_dict())}
        checkpoint.save(folder / f"{name}.safetensors", saved, {"family": family})
        row = {"id": name, "family": family, "source": {"path": f"{name}.safetensors"}, "title": name.title()}
        rows.append({**common, **row, **more})
    away = {"id": "away-birds", "task": "text", "family": "stackgan", "title": "Away", "bytes": 5_000_000}
    away |= {"source": {"url": "https://example.org/away.safetensors"}, "components": {"text_encoder": "tiny-words"}}
    rows.append({**common, **away, "dataset": "CUB-200-2011 (birds)"})
    (folder / "rows.yaml").write_text(yaml.safe_dump(rows))
    return folder / "rows.yaml"
