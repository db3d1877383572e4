"""Networks of the library spandrel (https://github.com/chaiNNer-org/spandrel): SwinIR, HAT, DAT, OmniSR, SPAN and more.

Every architecture of its registry that makes one picture from one picture, larger or better, is read: one row with
`family: spandrel` is all that a checkpoint takes. Files are opened by the project's own reader; spandrel sees tensors
only. What `rrdb`, `compact` and `srresnet` read is theirs. Needs `pip install 'ganhub[upscale]'`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from typing import Any

import torch
from torch import Tensor, nn

from ganhub.checkpoint import RawCheckpoint
from ganhub.errors import CheckpointError
from ganhub.models import _upscale

TAKES_THE_REST = True

_ENOUGH = 50.0
"""PSNR in decibels from which a faster form counts as the same network."""


class Enlarger(nn.Module):
    """Pictures [N, C, h, w] in [0, 1] -> [N, C, h * scale, w * scale], clamped to [0, 1] as spandrel does.

    Config: `architecture`, an id of spandrel's registry; `class`, a name that its module exports; `arguments` of it.
    """

    reach = 0
    """Most of these networks look at windows or at the whole picture."""

    def __init__(self, descriptor: Any):
        super().__init__()
        self.descriptor = descriptor  # no module: it knows how its model is called
        self.model: nn.Module = descriptor.model
        self.scale: int = descriptor.scale
        self.img_channels: int = descriptor.input_channels
        self.multiple: int = descriptor.size_requirements.multiple_of
        self.config: dict[str, Any] = _config(descriptor)

    def forward(self, x: Tensor) -> Tensor:
        # Some models change their input; the call runs in inference mode, whose tensors nobody else may change.
        return self.descriptor(x.clone()).clone()


class Fast(nn.Module):
    """An `Enlarger` whose products are in bfloat16; sums, norms and masks stay as they are."""

    def __init__(self, network: Enlarger):
        super().__init__()
        self.network, self.config = network, network.config
        self.scale, self.img_channels = network.scale, network.img_channels
        self.reach, self.multiple = network.reach, network.multiple

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).to(x.dtype)


def _library() -> Any:
    if importlib.util.find_spec("spandrel") is None:
        raise CheckpointError(
            "This network is read by the library spandrel, which is not installed; "
            "run `pip install 'ganhub[upscale]'`.",
            "missing_library",
        )
    return importlib.import_module("spandrel")


def _config(descriptor: Any) -> dict[str, Any]:
    """What makes the model again: its class among those that the architecture exports, and its arguments."""
    name, model = descriptor.architecture.id, descriptor.model
    module = importlib.import_module(f"spandrel.architectures.{name}")
    exported = [key for key in module.__all__ if getattr(module, key) is type(model)]
    defaults = {key: value.default for key, value in inspect.signature(type(model)).parameters.items()}
    # Some defaults are functions and classes; what is told from tensors is plain.
    arguments = {k: v for k, v in model.hyperparameters.items() if k not in defaults or v != defaults[k]}
    return {"architecture": name, "class": exported[0], "arguments": json.loads(json.dumps(arguments))}


def _described(library: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """The descriptor of a state dict.

    Raises:
        CheckpointError: spandrel does not know it, or it does not make one picture from one.
    """
    try:
        descriptor = library.ModelLoader().load_from_state_dict(dict(tensors))
    except library.UnsupportedModelError:
        raise CheckpointError(f"{name} is of no architecture that spandrel {library.__version__} knows.") from None
    except Exception as error:  # whatever a network of tensors that do not fit each other runs into
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(f"{name} cannot be read by spandrel: {text.rstrip('.')}.") from error
    architecture = descriptor.architecture.name
    if not isinstance(descriptor, library.ImageModelDescriptor) or descriptor.purpose not in ("SR", "Restoration"):
        raise CheckpointError(f"{name} is a {architecture}, made for {descriptor.purpose}, not to enlarge pictures.")
    if descriptor.input_channels != descriptor.output_channels:
        raise CheckpointError(
            f"{name} ({architecture}) makes {descriptor.output_channels} channels from {descriptor.input_channels}; "
            "only networks that keep them are run."
        )
    return descriptor


def detect(raw: RawCheckpoint) -> bool:
    tensors = _upscale.chosen(raw)
    if not tensors or importlib.util.find_spec("spandrel") is None:
        return False
    return any(entry.detect(tensors) for entry in _library().MAIN_REGISTRY)


def read(raw: RawCheckpoint, part: str = "G", **config: Any) -> nn.Module:
    """The network of a published file. `config` may say the `scale`, which must be the file's.

    Raises:
        CheckpointError: spandrel is missing or does not know the file, or the network is for something else.
    """
    library = _library()
    network = Enlarger(_described(library, _upscale.chosen(raw), raw.name))
    _upscale.agreed(raw.name, {"scale": network.scale}, config, set())
    return network


def build(part: str, config: dict[str, Any]) -> nn.Module:
    """A network of random weights from its config.

    Raises:
        CheckpointError: spandrel is missing, or has no such architecture or class.
    """
    library = _library()
    name, cls = config["architecture"], config["class"]
    if name not in library.MAIN_REGISTRY:
        raise CheckpointError(f"spandrel {library.__version__} has no architecture '{name}'; install a newer one.")
    module = importlib.import_module(f"spandrel.architectures.{name}")
    kind = getattr(module, cls) if cls in module.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise CheckpointError(f"The architecture {name} of spandrel has no network '{cls}'.")
    model = kind(**config["arguments"])
    return Enlarger(_described(library, model.state_dict(), f"A network of the class {cls}"))


def prepare(network: nn.Module, precision: str) -> nn.Module:
    """`exact`: as it is; `fast`: bfloat16 where spandrel says that the architecture bears it, and it does (50 dB)."""
    assert isinstance(network, Enlarger), "only a plain form is prepared"
    dtype = _upscale.dtype_of(precision, network)
    if dtype != torch.bfloat16 or not network.descriptor.supports_bfloat16:
        return network
    side = max(32, network.descriptor.size_requirements.minimum)
    side += -side % network.multiple
    x = torch.rand(1, network.img_channels, side, side, generator=torch.Generator().manual_seed(0))
    x = x.to(next(network.parameters()).device)
    fast = Fast(network)
    return fast if _psnr(fast(x), network(x)) >= _ENOUGH else network


def _psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().clamp_min(1e-12).log10())
