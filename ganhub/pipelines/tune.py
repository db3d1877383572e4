"""Pivotal tuning: a copy of a generator that draws one photo better, and everything near it nearly as before.

"Pivotal Tuning for Latent-based Editing of Real Images" (Roich et al., 2021, https://arxiv.org/abs/2106.05744), without
its locality term: the latent stays where the projection found it, and the weights of the synthesis network move.

This is training, so it runs beside the engine and not in it: from a shell or from Python, never for visitors of a page.
A step costs what three pictures cost, and the copy is a file as large as the generator's.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ganhub import checkpoint, hub, imaging, models
from ganhub.checkpoint import Network
from ganhub.engine import device as devices
from ganhub.engine import perception
from ganhub.errors import BadInput
from ganhub.imaging.mark import mark
from ganhub.latents import Latents
from ganhub.pipelines._work import imaged, provenance
from ganhub.pipelines.faces import need_consent
from ganhub.pipelines.project import brought, eyes_for
from ganhub.pipelines.requests import Picture, Progress, number, whole
from ganhub.registry import Checkpoint, Registry, make_row, to_yaml

PIXEL_WEIGHT = 1.0


@dataclass(frozen=True)
class TuneRequest:
    """A photo, its latent, and where the copy goes.

    Raises:
        BadInput: when made without consent, or with something that cannot be done.
    """

    checkpoint: str
    target: Image.Image | np.ndarray
    latents: Latents
    """w+ of the photo; the first of them."""
    folder: Path
    """`ID-tuned.safetensors` and `ID-tuned.yaml`, its row, are written there."""
    consent: bool = False
    """The person in the photo is an adult and agrees."""
    steps: int = 200
    lr: float = 1e-3
    features: str | None = None
    """As in `ProjectRequest`."""
    device: str | None = None
    mark: bool = True

    def __post_init__(self):
        need_consent(self.consent)
        whole("number of steps", self.steps, 1, 5000, required=True)
        number("learning rate", self.lr, 1e-6, 1)
        if self.latents.space != "w+":
            raise BadInput("Tuning starts from latents of the space w+, as projections give them.")


@dataclass(frozen=True)
class TuneResult:
    """A copy of a generator."""

    row: Checkpoint
    file: Path
    registry: Path
    """The row in a file, for `--registry`."""
    latents: Latents
    """The same, of the copy."""
    picture: Picture
    figures: dict[str, Any]
    """`measure`, and `before` and `after`: [distance, rmse in levels of 255]."""


def tune(registry: Registry, request: TuneRequest) -> Generator[Any, None, None]:
    """Progress, then a `TuneResult`.

    Raises:
        GanHubError: a checkpoint cannot be had, or something does not fit.
    """
    row = registry.find(request.checkpoint)
    eyes = eyes_for(registry, request.features)
    device = devices.choose(request.device)
    G, network = _read(row).to(device), _read(eyes.row).to(device)
    if not getattr(G, "w_dim", 0) or request.latents.values.shape[1:] != (G.num_ws, G.w_dim):
        raise BadInput(f"These latents have not the shape of those of '{row.id}'.")
    target, _ = brought(request.target, tuple(G.img_size), G.img_channels)
    wanted_pixels = perception.pixels_of([target], device)
    heads = perception.heads_of({"heads": eyes.heads}, network, device)
    ws = torch.from_numpy(request.latents.values[:1].astype(np.float32)).to(device)
    with torch.no_grad():
        wanted = perception.features(network, wanted_pixels, heads)
    weights = list(G.synthesis.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=request.lr)

    def apart(images: torch.Tensor) -> torch.Tensor:
        return (perception.features(network, images, heads) - wanted).square().sum()

    def figures() -> tuple[np.ndarray, list[float]]:
        """The picture as it is written, and how far that is from the photo."""
        with torch.no_grad():
            pixels = imaging.to_uint8(G.synthesis(ws, noise_mode="const"))[0]
            far = float(apart(perception.pixels_of([pixels], device)))
        rmse = float(np.sqrt(np.square(pixels.astype(np.float64) - target).mean()))
        return pixels, [round(far, 4), round(rmse, 2)]

    _, before = figures()
    began = time.monotonic()
    for step in range(1, request.steps + 1):
        images = G.synthesis(ws, noise_mode="const")
        far = apart(images)
        loss = far + PIXEL_WEIGHT * ((images - wanted_pixels) / 2).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        left = (request.steps - step) * (time.monotonic() - began) / step
        words = f"Tuning step {step} of {request.steps}, distance {float(far.detach()):.3f}"
        yield Progress(step, request.steps, words, seconds_left=left)
    pixels, after = figures()
    yield _written(request, row, eyes.title, G, pixels, before, after)


def _read(row: Checkpoint) -> Any:
    return models.read(checkpoint.read(hub.fetch(row), sha256=row.sha256), row.family, **row.config)


def _written(
    request: TuneRequest, row: Checkpoint, measure: str, G: Any, pixels: np.ndarray, before: Any, after: Any
) -> TuneResult:
    name = f"{row.id}-tuned"
    request.folder.mkdir(parents=True, exist_ok=True)
    file, rows = request.folder / f"{name}.safetensors", request.folder / f"{name}.yaml"
    state = {key: value.detach().cpu().contiguous() for key, value in G.state_dict().items()}
    checkpoint.save(file, {"G": Network("Generator", G.config, state)}, {"family": row.family, "source": row.id})
    kept = ("task", "family", "resolution", "license", "commercial_use", "credit", "dataset", "preprocess", "paper")
    entry = {key: value for key, value in row.model_dump(mode="json", exclude_defaults=True).items() if key in kept}
    entry |= {"id": name, "title": f"{row.title}, tuned to a photo", "source": {"path": file.name}}
    new = make_row(entry, str(rows))
    rows.write_text(to_yaml([entry]), encoding="utf-8")
    latents = Latents("w+", request.latents.values[:1], name, label=request.latents.label)
    figures = {"measure": measure, "before": before, "after": after, "steps": request.steps}
    about = provenance("tune", new, "", {"steps": request.steps, "lr": request.lr, "figures": figures})
    image = imaging.to_pil(pixels)
    shown = imaged(mark(image.convert("RGB")) if request.mark else image, about, name)
    return TuneResult(new, file, rows, latents, shown, figures)
