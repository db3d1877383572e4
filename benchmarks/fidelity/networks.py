"""Checkpoints of a case, read with the project's own reader."""

from __future__ import annotations

import importlib
import json
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ganhub import models
from ganhub.checkpoint import RawCheckpoint, read
from ganhub.errors import CheckpointError, GanHubError

from . import cases
from .cases import Case
from .rules import Skip


class Opened:
    """A checkpoint of a family known here; networks are built when first asked for.

    Raises:
        CheckpointError: the file cannot be read.
        Skip: its family is not built yet, or has no rules here.
    """

    def __init__(self, path: Path):
        self.path = path
        self.raw: RawCheckpoint = read(path)
        try:
            self.family = models.detect(self.raw)
        except CheckpointError as error:
            raise Skip(f"family not built yet: {error.message}") from error
        self.rules = rules_of(self.family)
        self._nets: dict[tuple[str, str], nn.Module | CheckpointError] = {}

    def net(self, part: str, case: Case) -> nn.Module:
        """Generator (`G`) or discriminator (`D`) of the file.

        Raises:
            CheckpointError: the file has none, or it does not fit.
        """
        # What tensors cannot tell (a registry row would): here the case's own shapes do.
        config: dict[str, Any] = self.rules.config(case) if hasattr(self.rules, "config") else {}
        key = (part, json.dumps(config, sort_keys=True))
        if key not in self._nets:
            try:
                self._nets[key] = models.read(self.raw, self.family, part, **config)
            except CheckpointError as error:
                self._nets[key] = error
        found = self._nets[key]
        if isinstance(found, CheckpointError):
            raise found
        return found

    def has(self, part: str, case: Case) -> bool:
        try:
            self.net(part, case)
        except CheckpointError:
            return False
        return True


@lru_cache(maxsize=16)
def opened(path: Path) -> Opened:
    return Opened(path)


def rules_of(family: str) -> ModuleType:
    """The file beside this one that knows a family's arrays.

    Raises:
        Skip: there is none.
    """
    name = f"{__package__}.{family}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise Skip(f"family '{family}' has no arrays here") from error


def of_case(case: Case) -> tuple[list[Opened], list[str]]:
    """Checkpoints that a case belongs to, and one sentence for each of its files that cannot be read.

    A file belongs to the case whose stem it bears. A case with no such file may own a checkpoint of its folder that
    bears no case's stem (`1000_G.pth`), if that is the only one whose latent and picture sizes are the case's.

    Raises:
        Skip: there is none, or several could be meant.
    """
    mine, free = cases.beside(case.path)
    if not mine:
        return _by_fit(case, free), []
    found, unreadable, reasons = [], [], []
    for path in mine:
        try:
            found.append(opened(path))
        except Skip as reason:
            reasons.append(str(reason))
        except GanHubError as error:
            unreadable.append(error.message)
    if not found and not unreadable:
        raise Skip(reasons[0])
    return found, unreadable


def _by_fit(case: Case, files: list[Path]) -> list[Opened]:
    fitting: list[Opened] = []
    for path in files:
        try:
            candidate = opened(path)
        except (Skip, GanHubError):
            continue
        if any(candidate.rules.RULES.find(name, case) for name in case.outputs) and _fits(candidate, case):
            fitting.append(candidate)
    for part in ("G", "D"):
        several = [c.path.name for c in fitting if c.has(part, case)]
        if len(several) > 1:
            raise Skip(f"no checkpoint bears its stem, and several could be meant: {', '.join(several)}")
    if not fitting:
        raise Skip("no checkpoint of a family built here stands beside it")
    return fitting


def _fits(candidate: Opened, case: Case) -> bool:
    """Whether the case's latents and pictures have the sizes of the checkpoint's networks."""
    pictures = {a.shape[1:] for a in (*case.inputs.values(), *case.outputs.values()) if a.ndim == 4 and a.shape[2] > 1}
    if candidate.has("G", case):
        net: Any = candidate.net("G", case)
        z = case.inputs.get("z")
        return z is not None and z.shape[1] == net.z_dim and (net.img_channels, *net.img_size) in pictures
    if candidate.has("D", case):
        net = candidate.net("D", case)
        return (net.img_channels, *net.img_size) in pictures
    return False
