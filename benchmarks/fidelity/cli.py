"""Pictures that a command-line tool wrote, named `RUN:FILE`; RUN tells truncation, class, noise mode, and seeds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganhub.errors import GanHubError
from ganhub.imaging import to_uint8
from ganhub.latents import z_from_seeds

from . import cases
from .cases import Case
from .networks import Opened, opened
from .rules import NUMBER, Ask, Rules, Skip, layers, number

RULES = Rules()
RUN = re.compile(
    rf"(?P<word>[a-zA-Z]+)(?:_class(?P<label>\d+))?(?:_rows(?P<rows>[\d,]+)_cols(?P<cols>[\d,]+)_styles(?P<styles>[\d,-]+))?"
    rf"(?:_trunc(?P<psi>{NUMBER}))?(?:_(?P<noise>const|none))?"
)


def fits(case: Case) -> bool:
    runs = {name.partition(":")[0] for name in case.outputs if ":" in name}
    return bool(runs) and all("trunc" in run and RUN.fullmatch(run) for run in runs)


@RULES.on("", r"(?P<run>[^:]+):(?:seed)?(?P<seed>\d+)")
def picture(ask: Ask) -> tuple[Tensor, str]:
    run, one = _run(ask)
    return _pictures(one, ask.case, run, _latents(one, ask.case, run, [int(ask.found["seed"] or 0)]))[0], one.path.name


@RULES.on("", r"(?P<run>[^:]+):(?P<row>\d+)-(?P<col>\d+)")
def mixed(ask: Ask) -> tuple[Tensor, str]:
    run, one = _run(ask)
    ws = _mix(one, ask.case, run, int(ask.found["row"] or 0), int(ask.found["col"] or 0))
    return _pictures(one, ask.case, run, ws)[0], one.path.name


@RULES.on("", r"(?P<run>[^:]+):grid")
def grid(ask: Ask) -> tuple[Tensor, str]:
    """Columns above, rows at the left, a black corner."""
    run, one = _run(ask)
    rows, cols = (None, *_seeds(run["rows"])), (None, *_seeds(run["cols"]))
    lines = []
    for row in rows:
        line = []
        for col in cols:
            if row is None and col is None:
                line.append(torch.zeros(*_size(one, ask.case), 3, dtype=torch.uint8))
            elif row is None or col is None:
                line.append(_pictures(one, ask.case, run, _latents(one, ask.case, run, [row or col or 0]))[0])
            else:
                line.append(_pictures(one, ask.case, run, _mix(one, ask.case, run, row, col))[0])
        lines.append(torch.cat(line, 1))
    return torch.cat(lines, 0), one.path.name


def _seeds(text: str) -> list[int]:
    return [int(seed) for seed in text.split(",")]


def _run(ask: Ask) -> tuple[dict[str, Any], Opened]:
    match = RUN.fullmatch(ask.found["run"] or "")
    if match is None:
        raise Skip("the name of its run is not understood")
    return match.groupdict(), _network(ask.case, ask.found["run"] or "", match.groupdict())


def _network(case: Case, name: str, run: dict[str, Any]) -> Opened:
    """The checkpoint of a run: the only one of the folder with its picture size and class, or the one whose name
    has the run's first word; a run without such a word belongs to the checkpoint of the other runs of the case.

    Raises:
        Skip: several checkpoints are left.
    """
    candidates = _candidates(case, name, run)
    named = [one for one in candidates if run["word"] in re.split(r"[_.\-]", one.path.name)]
    if not named and len(_weights(candidates)) > 1:
        for other in {key.partition(":")[0] for key in case.outputs} - {name}:
            match = RUN.fullmatch(other)
            if match:
                found = _candidates(case, other, match.groupdict())
                named += [
                    one for one in found if one in candidates and match["word"] in re.split(r"[_.\-]", one.path.name)
                ]
    left = named or candidates
    if not left:
        raise Skip("no checkpoint beside it has its picture size and class")
    if len(_weights(left)) > 1:
        raise Skip(f"several checkpoints could be meant: {', '.join(one.path.name for one in left)}")
    return left[0]


def _weights(found: list[Opened]) -> set[str]:
    """Different checkpoints among files; two forms of one file have one stem."""
    return {one.path.name.partition(".")[0] for one in found}


def _candidates(case: Case, name: str, run: dict[str, Any]) -> list[Opened]:
    shape = next(a.shape for key, a in case.outputs.items() if key.startswith(f"{name}:") and not key.endswith("grid"))
    found = []
    for path in cases.checkpoints(case.path.parent):
        try:
            one = opened(path)
            G: Any = one.net("G", case)
        except (Skip, GanHubError):
            continue
        classes = getattr(G, "c_dim", 0)
        wanted = classes == 0 if run["label"] is None else classes > int(run["label"])
        if G.w_dim and wanted and tuple(G.img_size) == shape[:2]:
            found.append(one)
    return found


def _size(one: Opened, case: Case) -> tuple[int, int]:
    G: Any = one.net("G", case)
    return G.img_size


def _latents(one: Opened, case: Case, run: dict[str, Any], seeds: list[int]) -> Tensor:
    G: Any = one.net("G", case)
    z = torch.as_tensor(np.asarray(z_from_seeds(seeds, G.z_dim)))
    c = None
    if run["label"] is not None:
        c = torch.nn.functional.one_hot(torch.tensor([int(run["label"])]), G.c_dim).float().expand(len(z), -1)
    return G.mapping(z, c, psi=number(run["psi"] or "1"))


def _mix(one: Opened, case: Case, run: dict[str, Any], row: int, col: int) -> Tensor:
    """w of the row's seed with the column's in the mixed layers."""
    ws, other = _latents(one, case, run, [row, col]).split(1)
    chosen = layers(run["styles"]) if "-" in run["styles"] or "," in run["styles"] else [int(run["styles"])]
    ws = ws.clone()
    ws[:, chosen] = other[:, chosen]
    return ws


def _pictures(one: Opened, case: Case, run: dict[str, Any], ws: Tensor) -> Tensor:
    G: Any = one.net("G", case)
    return torch.as_tensor(to_uint8(G.synthesis(ws, noise_mode=run["noise"] or "const")))
