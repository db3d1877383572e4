"""`python -m benchmarks.fidelity DIR`: one JSON line per array, a last one with the counts; 1 if anything failed."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganhub.errors import CheckpointError, GanHubError

from . import cases, cli, networks, ops
from .cases import Case, Tolerances
from .networks import Opened
from .rules import NOT_UNDERSTOOD, Ask, Rule, Skip

Line = dict[str, Any]
WITHOUT_STEM = (ops, cli)
"""Cases that are no checkpoint's own: functions alone, and pictures of several checkpoints."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("dir", type=Path, help="folder of reference cases (searched below), or one .npz file")
    root = parser.parse_args(argv).dir
    if not root.exists():
        parser.error(f"{root} does not exist")
    counts = Counter(arrays=0, ok=0, failed=0, skipped=0)
    base = root if root.is_dir() else root.parent
    for path in cases.find(root):
        for line in run(path):
            number = line.get("arrays", 1)
            counts["arrays"] += number
            counts["skipped" if "skipped" in line else "ok" if line["ok"] else "failed"] += number
            print(json.dumps({"case": path.relative_to(base).as_posix(), **line}), flush=True)
    print(json.dumps(counts))
    return 1 if counts["failed"] else 0


@torch.no_grad()
def run(path: Path) -> Iterator[Line]:
    """Lines of one case; whatever is wrong with it becomes a line."""
    try:
        case = cases.load(path)
    except ValueError as error:
        yield {"ok": False, "error": str(error)}
        return
    try:
        if case.is_state:
            yield from _state(case)
        elif case.outputs:
            yield from _case(case)
        else:
            raise Skip("tensors by name, not a case: it holds no arrays 'out_*'")
    except Skip as reason:
        yield {"arrays": len(case.outputs) or len(case.tensors), "skipped": str(reason)}


def _case(case: Case) -> Iterator[Line]:
    tolerances = Tolerances(case.path)
    for special in WITHOUT_STEM:
        if special.fits(case):
            for name in case.outputs:
                rule = special.RULES.find(name, case)
                yield _answer(case, name, rule, None, tolerances) if rule else _skipped(name, NOT_UNDERSTOOD)
            return
    opened, unreadable = networks.of_case(case)
    for sentence in unreadable:
        yield {"arrays": 1 if opened else len(case.outputs), "ok": False, "error": sentence}
    if not opened:
        return
    for name in case.outputs:
        yield from _array(case, name, opened, tolerances)


def _array(case: Case, name: str, opened: list[Opened], tolerances: Tolerances) -> Iterator[Line]:
    """The array by every checkpoint of the case that has the part it asks for."""
    asked = [(one, found) for one in opened if (found := one.rules.RULES.find(name, case))]
    if asked and not asked[0][1][0].part:
        yield _answer(case, name, asked[0][1], None, tolerances)
        return
    able = [(one, found) for one, found in asked if one.has(found[0].part, case)]
    for one, found in able:
        yield _answer(case, name, found, one, tolerances)
    broken = [(one, found) for one, found in asked if _should_have(one, found[0], case)]
    for one, (rule, _) in broken:
        try:
            one.net(rule.part, case)
        except CheckpointError as error:
            yield {"checkpoint": one.path.name, "array": name, "ok": False, "error": error.message}
    if not asked:
        yield _skipped(name, NOT_UNDERSTOOD)
    elif not able and not broken:
        part = {"G": "generator", "D": "discriminator"}[asked[0][1][0].part]
        yield _skipped(name, f"no {part} among its checkpoints ({', '.join(one.path.name for one, _ in asked)})")


def _should_have(one: Opened, rule: Rule, case: Case) -> bool:
    """Whether a network that cannot be built is a failure: the file names it, or gives nothing else either."""
    if one.has(rule.part, case):
        return False
    return rule.part in one.raw.networks or not any(one.has(part, case) for part in ("G", "D"))


def _answer(
    case: Case, name: str, found: tuple[Rule, dict[str, str | None]], one: Opened | None, tolerances: Tolerances
) -> Line:
    rule, groups = found
    line: Line = {"checkpoint": one.path.name if one else None, "array": name}
    half = bool(one and getattr(one.rules, "half", lambda raw: False)(one.raw))
    try:
        tolerance = tolerances.of(name, case.outputs[name], half)
        net, raw = (one.net(rule.part, case), one.raw) if one else (None, None)
        got = rule.answer(Ask(name, groups, case, net, raw))
        if isinstance(got, tuple):
            got, line["checkpoint"] = got
        off = cases.difference(got, case.outputs[name])
    except Skip as reason:
        return _skipped(name, str(reason))
    except GanHubError as error:
        return {**line, "ok": False, "error": error.message}
    except Exception as error:  # a strange case must not end the run
        return {**line, "ok": False, "error": f"{type(error).__name__}: {error}"}
    return {**line, "difference": off, "tolerance": tolerance, "ok": off <= tolerance}


def _skipped(name: str, reason: str) -> Line:
    return {"array": name, "skipped": reason}


def _state(case: Case) -> Iterator[Line]:
    """Tensors that the reader gives, against the same tensors stored by name."""
    opened, unreadable = networks.of_case(case)
    for sentence in unreadable:
        yield {"ok": False, "error": sentence}
    part = case.path.name.removesuffix(".state.npz").rpartition(".")[2]
    for one in opened:
        held = one.raw.networks.get(part)
        for name, want in case.tensors.items():
            line: Line = {"checkpoint": one.path.name, "array": name}
            if held is None or name not in held.tensors:
                yield {**line, "ok": False, "error": f"the reader gives no tensor '{name}' in '{part}'"}
                continue
            try:
                off = cases.difference(held.tensors[name].to(torch.from_numpy(np.zeros(1, want.dtype)).dtype), want)
            except (ValueError, TypeError) as error:
                yield {**line, "ok": False, "error": str(error)}
                continue
            yield {**line, "difference": off, "tolerance": 0.0, "ok": off == 0}
        extra = sorted(set(held.tensors) - set(case.tensors)) if held else []
        if extra:
            yield {
                "checkpoint": one.path.name,
                "array": extra[0],
                "ok": False,
                "error": f"the reader gives {len(extra)} tensors more than the reference, first '{extra[0]}'",
            }


if __name__ == "__main__":
    sys.exit(main())
