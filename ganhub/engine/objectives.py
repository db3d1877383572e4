"""What a fit looks for. A new objective is one class with these methods and one entry in `OBJECTIVES`.

Rows of one batch never see each other: everything here works on [N, ...] tensors row by row.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ganhub import latents
from ganhub.engine.guided import Guided, Turn
from ganhub.engine.operations import Facts, Item, check_label, one_hot, to_device
from ganhub.engine.projection import Projection
from ganhub.errors import BadInput


class Objective(Protocol):
    """A loss on a generator's latent, one number per row.

    Three methods more are asked where an objective has them: `rate(fit, step)`, the learning rate of a step;
    `settle(G, latent [N, ...], item)`, the latents as they go on after a step; `answer(G, latent, item)`, what of one
    row's latent is shown and returned.
    """

    def check(self, item: Item, facts: Facts, critic: Facts | None) -> None:
        """Raises BadInput when the item does not fit the network, or the one that is looked through."""

    def group(self, item: Item) -> Any:
        """Fits may share a batch where this is equal."""

    def start(
        self, G: Any, item: Item, seed: int, device: torch.device, critic: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A fit's first latent, and its constants (targets, classes), each without the batch dimension."""

    def loss(
        self, G: Any, latent: Tensor, constants: dict[str, Tensor], item: Item, critic: Any, turns: list[Turn]
    ) -> Tensor:
        """Latents [N, ...] and constants [N, ...] -> [N].

        `item` is any of the batch, for what `group` made equal; `turns` are [N] places to draw random numbers from.
        """


class PixelFit:
    """Finds the latent whose picture is nearest to a target, by the mean squared difference of pixels.

    Item: `target` uint8 [H, W, C] of the generator's own size; `space` `w` or `z` (default: w where there is one);
    `label` for a network with classes. Starts from the seed's latent, at half truncation in w.
    """

    def check(self, item: Item, facts: Facts, critic: Facts | None) -> None:
        if facts["img_size"] is None:
            raise BadInput(f"The checkpoint '{facts['checkpoint']}' is no generator of pictures; choose another.")
        shape = (*facts["img_size"], facts["img_channels"])
        target = item.get("target")
        if not isinstance(target, np.ndarray) or target.dtype != np.uint8 or target.shape != shape:
            raise BadInput(
                f"'target' must be a uint8 picture of shape {list(shape)}, the size that this checkpoint draws."
            )
        if item.get("space") not in (None, "w", "z"):
            raise BadInput(f"There is no space '{item['space']}' to fit in; choose w or z.")
        if item.get("space") == "w" and not facts["w_dim"]:
            raise BadInput("This checkpoint has no mapping network; fit in the space z.")
        check_label(item, facts)

    def group(self, item: Item) -> Any:
        return item.get("space")

    def start(
        self, G: Any, item: Item, seed: int, device: torch.device, critic: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = torch.from_numpy(item["target"]).to(device).permute(2, 0, 1).float()
        constants = {"target": (pixels - 127.5) / 127.5}
        label = one_hot([item], G.c_dim, device)
        if label is not None:
            constants["label"] = label[0]
        z = to_device(latents.z_from_seeds([seed], G.z_dim, G.z_distribution), device)
        if self._space(G, item) == "w":
            return G.mapping(z, label, psi=0.5)[0, 0].float(), constants
        return z[0].float(), constants

    def loss(
        self, G: Any, latent: Tensor, constants: dict[str, Tensor], item: Item, critic: Any, turns: list[Turn]
    ) -> Tensor:
        if self._space(G, item) == "w":
            images = G.synthesis(latent[:, None].expand(-1, G.num_ws, -1), noise_mode="const")
        else:
            images = G(latent, constants.get("label"))
        return (images.float() - constants["target"]).square().flatten(1).mean(1)

    @staticmethod
    def _space(G: Any, item: Item) -> str:
        return item.get("space") or ("w" if G.w_dim else "z")


def find(name: str) -> Objective:
    """The objective of a name.

    Raises:
        BadInput: there is none.
    """
    if name not in OBJECTIVES:
        raise BadInput(f"There is no objective '{name}'; there are {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]


OBJECTIVES: dict[str, Objective] = {"fit": PixelFit(), "guided": Guided(), "project": Projection()}
