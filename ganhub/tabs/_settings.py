"""Settings of the Generate tab as plain values: from controls to a request, from a file or an address to controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganhub.directions import parse_moves
from ganhub.errors import BadInput, GanHubError
from ganhub.latents import EASINGS, METHODS, Latents, parse_layers
from ganhub.pipelines import generate as pipeline
from ganhub.pipelines.requests import (
    MAX_PSI,
    NOISE_MODES,
    PRECISIONS,
    GenerateRequest,
    InterpolateRequest,
    MixRequest,
    Request,
    SweepRequest,
)
from ganhub.registry import Registry
from ganhub.tabs._widgets import FURTHEST, page_seeds, seeds_text

MAKES = {
    "generate": "Pictures",
    "interpolate": "Video",
    "sweep": "Truncation",
    "mix": "Style mix",
}
"""What can be made, by the name of its pipeline."""

RUNS: dict[str, Any] = {
    "generate": pipeline.generate,
    "interpolate": pipeline.interpolate,
    "sweep": pipeline.sweep,
    "mix": pipeline.mix,
}

MOST_CELLS = 144
"""Pictures of one sweep or mixing grid made in the page."""
MOST_FRAMES = 900
"""Frames of one video made in the page."""

AUTO = "auto"

DEFAULTS: dict[str, Any] = {
    "make": "generate",
    "checkpoint": "",
    "seeds": "0-7",
    "psi": 1.0,
    "cutoff": "",
    "label": None,
    "noise_mode": "const",
    "precision": "exact",
    "psis": "0, 0.25, 0.5, 0.75, 1",
    "cols": "100-103",
    "layers": "0-3",
    "frames": 30,
    "fps": 30,
    "loop": True,
    "easing": "none",
    "space": AUTO,
    "method": AUTO,
    "moves": "",
}
"""Every setting of the tab, by the name it has in the page's address."""


def request_of_settings(
    settings: Mapping[str, Any], visitor: str, video: str | Path | None = None, latents: Latents | None = None
) -> Request:
    """What the controls ask for.

    Args:
        settings: as in `DEFAULTS`.
        video: the MP4 to write, for an interpolation.
        latents: saved latents that stand in for the seeds of `generate`.

    Raises:
        BadInput: a setting cannot be read, or asks for more than the page gives.
    """
    how: dict[str, Any] = {
        "psi": number("psi", settings["psi"]),
        "cutoff": _whole("cutoff", settings["cutoff"]),
        "label": _whole("class", settings["label"]),
        "noise_mode": settings["noise_mode"],
        "precision": settings["precision"],
        "visitor": visitor,
    }
    make, checkpoint = settings["make"], settings["checkpoint"]
    if make == "generate":
        how["moves"] = parse_moves(settings["moves"])
        if latents is not None:
            return GenerateRequest.from_latents(checkpoint, latents, **how)
        return GenerateRequest(checkpoint, seeds=page_seeds(settings["seeds"]), **how)
    if make == "sweep":
        psis = numbers("psi", settings["psis"])
        seeds = page_seeds(settings["seeds"])
        _within(len(psis) * len(seeds), MOST_CELLS, "pictures", "name fewer seeds or values of psi")
        return SweepRequest(checkpoint, seeds=seeds, psis=psis, **{**how, "psi": 1.0})
    if make == "mix":
        rows, cols = page_seeds(settings["seeds"]), page_seeds(settings["cols"])
        _within(len(rows) * len(cols), MOST_CELLS, "pictures", "name fewer seeds")
        layers = parse_layers(str(settings["layers"] or ""))
        return MixRequest(checkpoint, rows=rows, cols=cols, layers=layers, **how)
    if make == "interpolate":
        request = InterpolateRequest(
            checkpoint,
            seeds=page_seeds(settings["seeds"], least=2),
            frames=_whole("number of frames", settings["frames"]),  # type: ignore[arg-type]  # None is refused
            fps=_whole("frames per second", settings["fps"]),  # type: ignore[arg-type]
            loop=bool(settings["loop"]),
            easing=settings["easing"],
            space=None if settings["space"] == AUTO else settings["space"],
            method=None if settings["method"] == AUTO else settings["method"],
            file=video,
            **how,
        )
        _within(request.total, MOST_FRAMES, "frames", "name fewer seeds or frames")
        return request
    raise BadInput(f"'{str(make)[:40]}' is none of {', '.join(MAKES)}.")


def settings_of_request(request: Request) -> dict[str, Any]:
    """The settings with which a request is made again; only those that it has."""
    values: dict[str, Any] = {
        "make": request.task,
        "checkpoint": request.checkpoint,
        "psi": request.psi,
        "cutoff": request.cutoff,
        "label": request.label,
        "noise_mode": request.noise_mode,
        "precision": request.precision or "exact",
    }
    if isinstance(request, MixRequest):
        values["seeds"], values["cols"] = seeds_text(request.rows), seeds_text(request.cols)
        values["layers"] = seeds_text(request.layers)
    elif isinstance(request, (GenerateRequest, SweepRequest, InterpolateRequest)) and len(request.seeds):
        values["seeds"] = seeds_text(request.seeds)
    if isinstance(request, GenerateRequest):
        values["moves"] = moves_text(request.moves)
    if isinstance(request, SweepRequest):
        values["psis"] = ", ".join(f"{psi:g}" for psi in request.psis)
    if isinstance(request, InterpolateRequest):
        values |= {name: getattr(request, name) for name in ("frames", "fps", "loop", "easing")}
        values |= {"space": request.space or AUTO, "method": request.method or AUTO}
    return values


def checked(values: Mapping[str, Any], registry: Registry) -> tuple[dict[str, Any], list[str]]:
    """Settings from outside (an address, a file): those that the page can show, and the names of the others."""
    found: dict[str, Any] = {}
    refused = []
    for name in DEFAULTS:
        if name not in values:
            continue
        if values[name] is None:
            found[name] = DEFAULTS[name]
            continue
        text = str(values[name])
        try:
            found[name] = _read(name, text.lower() if isinstance(values[name], bool) else text[:1000], registry)
        except (GanHubError, ValueError):
            refused.append(name)
    return found, refused


def _read(name: str, text: str, registry: Registry) -> Any:
    if name == "checkpoint":
        row = registry.find(text)
        return one_of(row.id, [r.id for r in registry.for_task("generate")])
    if name in ("seeds", "cols"):
        return seeds_text(page_seeds(text))
    if name == "layers":
        return seeds_text(parse_layers(text))
    if name == "psis":
        return ", ".join(f"{psi:g}" for psi in numbers("psi", text))
    if name == "moves":
        moves = [(registry.find(name).id, strength) for name, strength in parse_moves(text)]
        if any(not abs(strength) <= FURTHEST for _, strength in moves):
            raise BadInput(f"The page's sliders end at {FURTHEST}.")
        return moves_text(moves)
    if name == "psi":
        return number("psi", text)
    if name == "loop":
        return one_of(text, ["true", "false"]) == "true"
    if name in ("cutoff", "label", "frames", "fps"):
        most = {"cutoff": 64, "label": 1_000_000, "frames": 240, "fps": 60}[name]
        value = int(text)
        if not (0 if name in ("cutoff", "label") else 1) <= value <= most:
            raise BadInput(f"The {name} {value} is out of range.")
        return value
    known = {
        "make": list(MAKES),
        "noise_mode": list(NOISE_MODES),
        "precision": list(PRECISIONS),
        "easing": list(EASINGS),
        "space": [AUTO, "z", "w"],
        "method": [AUTO, *METHODS],
    }
    return one_of(text, known[name])


def moves_text(moves: Sequence[tuple[str, float]]) -> str:
    """What `parse_moves` reads."""
    return ", ".join(f"{name}={strength:g}" for name, strength in moves if strength)


def one_of(text: str, known: list[str]) -> str:
    """Raises:
    BadInput: `text` is none of the known ones.
    """
    if text not in known:
        raise BadInput(f"'{text[:40]}' is none of {', '.join(known[:10])}.")
    return text


def numbers(name: str, text: str) -> tuple[float, ...]:
    """`0, 0.5, 1` -> (0.0, 0.5, 1.0).

    Raises:
        BadInput: something else than numbers, or a number out of range.
    """
    parts = [part for part in str(text or "").replace(";", ",").replace(" ", ",").split(",") if part]
    if not parts:
        raise BadInput(f"Name at least one value of {name}, like 0, 0.5, 1.")
    return tuple(number(name, part) for part in parts)


def number(name: str, value: Any) -> float:
    """Raises:
    BadInput: no number from -2 to 2.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not -MAX_PSI <= found <= MAX_PSI:
        raise BadInput(f"The {name} '{str(value)[:40]}' must be a number from {-MAX_PSI:g} to {MAX_PSI:g}.")
    return round(found, 4)


def _whole(name: str, value: Any) -> int | None:
    """A whole number from a control; an empty one is None.

    Raises:
        BadInput: something else.
    """
    if value is None or value == "":
        return None
    try:
        return int(str(value)) if not isinstance(value, float) else int(value)
    except (ValueError, OverflowError):
        raise BadInput(f"The {name} '{str(value)[:40]}' must be a whole number, or empty.") from None


def _within(count: int, most: int, what: str, remedy: str) -> None:
    if count > most:
        raise BadInput(f"That makes {count} {what}, and the page makes at most {most} at a time; {remedy}.")
