"""A latent whose picture fits a sentence, as a CLIP sees it.

The loss is one minus the cosine between picture and sentence in CLIP's features (Radford et al., 2021,
https://arxiv.org/abs/2103.00020), as in StyleCLIP (Patashnik et al., 2021, https://arxiv.org/abs/2103.17249), over
random cut-outs where they are asked for: a network that sees the same picture a little differently every time is harder
to fool.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganhub import latents
from ganhub.engine.operations import Facts, Item, check_label, one_hot, to_device
from ganhub.errors import BadInput

SPACES = ("w", "w+", "s", "z")
MAX_CUTOUTS = 64
SMALLEST_CUT = 0.6
"""Side of the smallest cut-out, of the picture's."""
PULLS = ("away", "mean", "start", "noise")


class Turn(NamedTuple):
    """Where a fit stands: what is random in a step depends on this and on nobody else in the batch."""

    seed: int
    step: int
    steps: int

    def generator(self) -> torch.Generator:
        """Random numbers of this step of this fit."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.step) % 2**63)


class Guided:
    """Finds a latent whose picture fits a sentence.

    Item: `text` [D], features of the sentence; `away` [D] or None, of what it should not look like; `space` `w`, `w+`,
    `s` (styles) or `z`; `start`, a latent (of `w+` for styles too), or None for the seed's at `psi`; `cutouts` of a
    picture, 0 for the picture itself; weights: `away_weight`, `mean_weight` (pull towards the mean latent),
    `start_weight`, and `noise_weight` (added to the latent, gone by the middle of the steps). `label` for a network
    with classes.
    """

    def check(self, item: Item, facts: Facts, critic: Facts | None) -> None:
        if critic is None or not (critic["looks"] and critic["reads"]):
            raise BadInput("A picture is held against a sentence by a CLIP; name one.")
        space = item.get("space", "w")
        if space not in SPACES:
            raise BadInput(f"There is no space '{space}'; choose {', '.join(SPACES)}.")
        if space != "z" and not facts["w_dim"]:
            raise BadInput("This checkpoint has no mapping network; choose the space z.")
        for name in ("text", "away"):
            value = item.get(name)
            if (value is None and name == "away") or (
                isinstance(value, np.ndarray) and value.shape == (critic["text_dim"],) and np.isfinite(value).all()
            ):
                continue
            raise BadInput(f"'{name}' must be {critic['text_dim']} features of a sentence.")
        start, shapes = item.get("start"), [latents.shape_of(space, facts)]
        shapes += [latents.shape_of("w+", facts)] if space == "s" else []
        if start is not None and (not isinstance(start, np.ndarray) or start.shape not in shapes):
            raise BadInput(f"'start' must be a latent of shape {list(shapes[0])}.")
        cutouts = item.get("cutouts", 0)
        if isinstance(cutouts, bool) or not isinstance(cutouts, int) or not 0 <= cutouts <= MAX_CUTOUTS:
            raise BadInput(f"There may be 0 to {MAX_CUTOUTS} cut-outs, not {cutouts!r}.")
        for name in PULLS:
            weight = item.get(f"{name}_weight", 0.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 100:
                raise BadInput(f"'{name}_weight' must be a number from 0 to 100, not {weight!r}.")
        check_label(item, facts)

    def group(self, item: Item) -> Any:
        return item.get("space", "w"), item.get("cutouts", 0)

    def start(
        self, G: Any, item: Item, seed: int, device: torch.device, critic: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        space = item.get("space", "w")
        label = one_hot([item], G.c_dim, device)
        if item.get("start") is not None:
            latent = torch.from_numpy(item["start"]).float().to(device)
        else:
            z = to_device(latents.z_from_seeds([seed], G.z_dim, G.z_distribution), device)
            latent = z[0].float() if space == "z" else G.mapping(z, label, psi=item.get("psi", 0.7))[0].float()
            latent = latent[0] if space == "w" else latent
        mean = torch.zeros_like(latent) if space == "z" else G.w_avg.float().expand(G.num_ws, -1)
        mean = mean[0] if space == "w" else mean
        if space == "s":
            latent, mean = (x if x.ndim == 1 else G.synthesis.to_styles(x[None])[0] for x in (latent, mean))
        away = item.get("away")
        text = torch.from_numpy(item["text"]).float().to(device)
        constants = {
            "text": text,
            "away": torch.zeros_like(text) if away is None else torch.from_numpy(away).float().to(device),
            "pulls": torch.tensor([float(item.get(f"{name}_weight", 0.0)) for name in PULLS], device=device),
            "origin": latent.clone(),
            "mean": mean.clone(),
        }
        if label is not None:
            constants["label"] = label[0]
        return latent, constants

    def loss(
        self, G: Any, latent: Tensor, constants: dict[str, Tensor], item: Item, critic: Any, turns: list[Turn]
    ) -> Tensor:
        space, cutouts = self.group(item)
        away, mean, start, noise = constants["pulls"].unbind(1)
        draws = [turn.generator() for turn in turns]
        shown = latent
        if noise.any():
            left = [max(0.0, 1 - 2 * turn.step / turn.steps) ** 2 for turn in turns]
            fading = torch.tensor(left, device=latent.device)
            jitter = torch.stack([torch.randn(latent.shape[1:], generator=draw) for draw in draws]).to(latent.device)
            shown = latent + jitter * (noise * fading).reshape(-1, *[1] * (latent.ndim - 1))
        if space == "z":
            images = G(shown, constants.get("label"))
        else:
            ws = shown[:, None].expand(-1, G.num_ws, -1) if space == "w" else shown
            paint = G.synthesis.from_styles if space == "s" else G.synthesis
            how: dict[str, Any] = {"noise_mode": "const"}
            if hasattr(G.synthesis, "from_styles"):  # it can stop where the CLIP takes in no more pixels
                how["least"] = round(critic.image_size / (SMALLEST_CUT if cutouts else 1))
            images = paint(ws, **how)
        seen = cut(images.float(), cutouts, draws, critic.image_size) if cutouts else images.float()
        features = critic.encode_image(seen).float().unflatten(0, (len(latent), max(1, cutouts)))
        loss = 1 - (features * constants["text"][:, None]).sum(2).mean(1)
        loss = loss + away * (features * constants["away"][:, None]).sum(2).mean(1)
        for weight, anchor in ((mean, constants["mean"]), (start, constants["origin"])):
            loss = loss + weight * (latent - anchor).square().flatten(1).mean(1)
        return loss


def cut(images: Tensor, count: int, draws: list[torch.Generator], size: int) -> Tensor:
    """Random parts of pictures [N, C, H, W], half of them mirrored: [N * count, C, size, size], row after row."""
    grids = []
    for draw in draws:
        side, x, y, flip = torch.rand(4, count, generator=draw).unbind(0)
        side = SMALLEST_CUT + side * (1 - SMALLEST_CUT)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = side * torch.where(flip < 0.5, -1.0, 1.0)
        theta[:, 1, 1] = side
        theta[:, 0, 2] = (2 * x - 1) * (1 - side)
        theta[:, 1, 2] = (2 * y - 1) * (1 - side)
        grids.append(theta)
    theta = torch.cat(grids).to(images)
    grid = F.affine_grid(theta, [len(theta), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images.repeat_interleave(count, 0), grid, padding_mode="reflection", align_corners=False)
