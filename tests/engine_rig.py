"""Tiny real networks, and an engine around them, for the tests of the engine."""

import threading
import time

import numpy as np
import torch

from ganhub import models
from ganhub.engine import Engine, Fit, Job
from ganhub.engine.cache import Key
from ganhub.models import dcgan, stylegan2
from ganhub.registry import Checkpoint, Registry


def row(name, family, **more):
    facts = {"task": ("generate",), "source": {"path": "/nowhere"}, "title": name, "license": "mit"}
    return Checkpoint(id=name, family=family, commercial_use=True, **{**facts, **more})


def stylegan2_network(seed=0, resolution=16, c_dim=0, **more):
    config = stylegan2.standard_config(
        "G", resolution, 256, 16, z_dim=16, c_dim=c_dim, w_dim=16, mapping_features=(16, 16), embed_features=16, **more
    )
    return randomised(models.family("stylegan2").build("G", config), seed)


def dcgan_network(seed=0, widths=(16, 8)):
    return randomised(dcgan.build("G", dcgan.plain(8, list(widths), 3)), seed)


def randomised(network, seed):
    """Weights from a seed, with noise and mean latent that are not zero, as training leaves them."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith(("noise_strength", "w_avg", ".bias")):
            tensor.copy_(torch.randn(tensor.shape, generator=g) * 0.1)
        elif tensor.is_floating_point() and tensor.ndim and not name.endswith(("running_var", "running_mean")):
            tensor.copy_(torch.randn(tensor.shape, generator=g) * (1.0 if name.startswith(("map", "syn")) else 0.2))
    return network.float().eval().requires_grad_(False)


NETWORKS = {
    "style": ("stylegan2", lambda: stylegan2_network(1)),
    "style-b": ("stylegan2", lambda: stylegan2_network(2)),
    "classes": ("stylegan2", lambda: stylegan2_network(3, c_dim=3)),
    "conv": ("dcgan", lambda: dcgan_network(4)),
    "conv-b": ("dcgan", lambda: dcgan_network(5)),
    "conv-c": ("dcgan", lambda: dcgan_network(6)),
}
Z_DIM = {"style": 16, "style-b": 16, "classes": 16, "conv": 8, "conv-b": 8, "conv-c": 8}


class Reader:
    """Gives the tiny networks in place of files, and counts; `slow`, `hold` and `errors` make it misbehave."""

    def __init__(self):
        self.calls, self.slow, self.errors, self.hold = [], 0.0, {}, None

    def __call__(self, row, path):
        self.calls.append(row.id)
        time.sleep(self.slow)
        if self.hold is not None:
            self.hold.wait(10)
        if row.id in self.errors:
            raise self.errors[row.id]
        return NETWORKS[row.id][1]()


def engine(reader=None, **settings):
    """An engine on the CPU that knows the tiny networks."""
    rows = Registry(row(name, family) for name, (family, _) in NETWORKS.items())
    settings = {"device": "cpu", "fetch": lambda row, progress=None: row.id, "read": reader or Reader(), **settings}
    return Engine(rows, **settings)


def z(seed, checkpoint="conv"):
    return np.random.RandomState(seed).randn(Z_DIM[checkpoint])


def job(seed=0, checkpoint="conv", visitor="", deadline=None, precision=None, operation="generate", **item):
    item = {"z": z(seed, checkpoint), "seed": seed, **item}
    return Job(checkpoint, operation, item, visitor, precision, deadline)


def fit(target, checkpoint="conv", **more):
    settings = {"steps": 30, "lr": 0.05, **more}
    return Fit(checkpoint, "fit", {"target": target}, **settings)


def network(engine, checkpoint, precision="exact"):
    """The published network itself."""
    engine.describe(checkpoint, precision)
    return engine._cache.get(Key(checkpoint, precision)).network


def expected(checkpoint, seed, **kwargs):
    """The picture of a seed by a bare call of the network, alone."""
    G = NETWORKS[checkpoint][1]()
    with torch.no_grad():
        image = G(torch.from_numpy(z(seed, checkpoint)[None]).float(), **kwargs)
    return (image[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()


def apart(a, b):
    """Largest difference of two pictures in levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


class Pause:
    """Holds the worker inside a network's forward until `go` is called; `entered` tells that it is there."""

    def __init__(self, network):
        self.entered, self._open = threading.Event(), threading.Event()
        self._handle = network.register_forward_pre_hook(self._wait)

    def _wait(self, module, args):
        self.entered.set()
        assert self._open.wait(20), "the test forgot to let the worker go"

    def go(self):
        self._open.set()
        self._handle.remove()


class Batches:
    """Sizes of the batches that a network was called with."""

    def __init__(self, network):
        self.sizes = []
        network.register_forward_pre_hook(lambda module, args: self.sizes.append(len(args[0])))


def held_network(engine, checkpoint, precision="exact"):
    """The published network itself, while the worker is held."""
    return engine._cache.get(Key(checkpoint, precision)).network
