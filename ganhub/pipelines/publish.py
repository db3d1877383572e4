"""A training's folder -> what is put on the Hub: weights, card, preview, and the row with which others add it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ganhub
from ganhub import checkpoint, imaging, models
from ganhub.errors import BadInput
from ganhub.hub import records, upload
from ganhub.metrics.features import IDS
from ganhub.pipelines import _card
from ganhub.pipelines.generate import LoadedGenerator
from ganhub.registry import Checkpoint, PathSource, Registry, Task, dump_row

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

WEIGHTS = "model.safetensors"
PREVIEW_PSI = 0.7
SHEET = 8
"""Rows and columns of a sheet."""
LARGEST_CELL = 128
"""Pixels; larger pictures are shown smaller on sheets."""
LARGEST_LOG = 2 << 20
"""Bytes of a log that is published; a longer one stays at home."""
GENERATE: tuple[Task, ...] = ("generate",)
TASKS: dict[str, tuple[Task, ...]] = {"stylegan2": ("generate", "clip", "project")}
PAPERS = {
    "stylegan2": "https://arxiv.org/abs/2006.06676",
    "stylegan3": "https://arxiv.org/abs/2106.12423",
    "dcgan": "https://arxiv.org/abs/1511.06434",
    "sagan": "https://arxiv.org/abs/1805.08318",
    "mlp_gan": "https://arxiv.org/abs/1406.2661",
}


@dataclass(frozen=True)
class Publication:
    """A folder that is ready to be pushed.

    Args:
        files: names in `folder`, all that is pushed.
        row: as `weights.yaml` holds it; its source is the file beside it.
    """

    repository: str
    folder: Path
    files: list[str]
    row: Checkpoint


def publish(
    run: str | Path,
    to: str,
    *,
    title: str | None = None,
    license: str | None = None,
    description: str = "",
    device: str | None = None,
) -> Publication:
    """Write what is to be published of a run into `RUN/publish`; nothing is sent.

    Args:
        run: folder of a training, with `run.json` and `G.safetensors`.
        to: `OWNER/NAME` on the Hub.
        title: made from NAME by default.
        license: of the weights, which is their owner's choice; `license` of `run.json` by default.
        description: a sentence or two on what it draws.

    Raises:
        BadInput: the run lacks something that has to be published, or its network is no use.
        CheckpointError: its weights cannot be read.
    """
    run = Path(run)
    name = check_repository(to)
    about = _about(run)
    license = license or about.get("license")
    if not license:
        raise BadInput(
            "The weights need a licence, which is yours to choose; name it with --license, for example "
            "--license cc0-1.0 or --license apache-2.0."
        )
    data = about["data"]
    file, header = _weights(run)
    family = str(header["family"])
    row = Checkpoint(
        id=slug(name),
        task=TASKS.get(family, GENERATE),
        family=family,
        source=PathSource(path=str(file.resolve())),
        config={"classes": data["classes"]} if data.get("classes") else {},
        title=title or re.sub(r"[-_]+", " ", name[:1].upper() + name[1:]),
        description=description.strip(),
        license=license,
        commercial_use=_card.is_open(license) and _card.is_open(data["license"]),
        credit=data.get("credit", ""),
        dataset=data["name"],
        paper=PAPERS.get(family, ""),
        source_url=f"https://huggingface.co/{to}",
    )
    folder = run / "publish"
    found = records.compute(file)
    measured = _measured(run, found.sha256)
    with _opened(row, device) as network:
        facts = network.spec
        labels = [k % facts["c_dim"] for k in range(SHEET)] if facts["c_dim"] else []
        psi = PREVIEW_PSI if facts["w_dim"] else None
        sheet, pictures = _sheet(network, labels, psi or 1.0)
        if all((picture == pictures[0]).all() for picture in pictures):
            raise BadInput(f"{file} draws the same picture for 64 seeds; train again before you publish.", "collapsed")
        folder.mkdir(parents=True, exist_ok=True)
        about_sheet = {"ganhub": ganhub.__version__, "task": "generate", "checkpoint": row.id, "license": license}
        about_sheet |= {"seeds": list(range(SHEET**2)), "generated": True, "notice": "AI-generated"}
        imaging.save_image(sheet, folder / "grid.png", about_sheet | {"psi": psi or 1.0})
        if psi is not None:
            imaging.save_image(_sheet(network, labels, 1.0)[0], folder / "samples.png", about_sheet | {"psi": 1.0})
        seen = _pictures(network, [0], 0 if labels else None, 1.0)[0]
    shutil.copyfile(file, folder / WEIGHTS)
    height, width = facts["img_size"]
    final = {
        "source": PathSource(path=WEIGHTS),
        "sha256": found.sha256,
        "bytes": found.bytes,
        "resolution": height if height == width else (height, width),
        "metrics": _row_metrics(measured),
        "golden": {"seed": 0, **({"label": 0} if labels else {}), "cells": imaging.cells(seen)},
    }
    row = Checkpoint.model_validate({**row.model_dump(), **final})
    files = ["README.md", WEIGHTS, upload.ROW_FILE, "grid.png", *(["samples.png"] if psi is not None else [])]
    for extra in ("metrics.png", "metrics.jsonl", "log.jsonl"):
        if (run / extra).is_file() and (run / extra).stat().st_size <= LARGEST_LOG:
            shutil.copyfile(run / extra, folder / extra)
            files.append(extra)
    log = _lines(run / "log.jsonl")
    kimg = header.get("kimg") or next((line["kimg"] for line in reversed(log) if "kimg" in line), None)
    seconds = next((line["seconds"] for line in reversed(log) if "seconds" in line), None)
    card = _card.write(_card.Facts(row, to, about, facts, kimg, seconds, measured, files, psi, labels))
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / upload.ROW_FILE).write_text(dump_row(row), encoding="utf-8")
    return Publication(to, folder, files, row)


def push(made: Publication) -> upload.Pushed:
    """Send a publication to the Hub as one commit.

    Raises:
        PublishError: it did not arrive; says why.
    """
    return upload.push(made.folder, made.files, made.repository, f"Publish {made.row.title}")


def check_repository(name: str) -> str:
    """NAME of `OWNER/NAME`.

    Raises:
        BadInput: the Hub knows no such names.
    """
    plain = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
    if len(name) > 96 or not re.fullmatch(f"{plain}/{plain}", name, re.ASCII) or re.search(r"--|\.\.|\.git$", name):
        raise BadInput(
            f"'{name[:60]}' is no name of a repository; write OWNER/NAME, both of letters, digits and single '-', '_' "
            "or '.' between them."
        )
    return name.split("/")[1]


def slug(name: str) -> str:
    """A name as an id of the registry."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gan"


def _opened(row: Checkpoint, device: str | None) -> LoadedGenerator:
    """The generator of a row that is in no registry yet, on an engine of its own, which ends with it."""
    from ganhub.engine import Engine

    engine = Engine(Registry([row]), device=device)
    return LoadedGenerator(row.id, engine, on_close=lambda: engine.close(drain=False))


def _pictures(network: LoadedGenerator, seeds: list[int], label: int | None, psi: float) -> list[np.ndarray]:
    """uint8 [H, W, C] of each seed."""
    import numpy as np

    images = network.generate(seeds, label=label, psi=psi).images
    return [np.atleast_3d(np.asarray(image)) for image in images]


def _sheet(network: LoadedGenerator, labels: list[int], psi: float) -> tuple[Image.Image, list[np.ndarray]]:
    """Seeds 0 to 63 row by row, each row of one class where there are classes; and the single pictures."""
    from PIL import Image

    pictures: list[np.ndarray] = []
    for k in range(SHEET):
        seeds = list(range(k * SHEET, (k + 1) * SHEET))
        pictures += _pictures(network, seeds, labels[k] if labels else None, psi)
    cells = [Image.fromarray(picture.squeeze()) for picture in pictures]
    scale = LARGEST_CELL / max(cells[0].size)
    if scale < 1:
        size = (round(cells[0].width * scale), round(cells[0].height * scale))
        cells = [cell.resize(size, Image.Resampling.LANCZOS) for cell in cells]
    return imaging.grid(cells, columns=SHEET), pictures


def _about(run: Path) -> dict[str, Any]:
    """`run.json`, with what the card needs, and without the machine's paths."""
    file = run / "run.json"
    if not run.is_dir():
        raise BadInput(f"There is no folder {run}; name the folder of a training (`ganhub train ... --out RUN`).")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{run} is no folder of a training: it has no run.json.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read ({error}); repair it or train again.") from error
    data = about.get("data") if isinstance(about, dict) else None
    if not isinstance(data, dict) or not data.get("name"):
        raise BadInput(f"{file} does not say what the network was trained on (`data`); train again with ganhub.")
    license = str(data.get("license") or "").strip()
    if not license or license.lower() in ("unstated", "unknown", "none"):
        raise BadInput(
            f"The pictures of '{data['name']}' have no licence, so what was trained on them cannot be published; state "
            f"it with `ganhub data prepare ... --license NAME`, or as data.license in {file}.",
            "no_license",
        )
    if re.match(r"cc[ -]by\b", license.lower()) and not data.get("credit"):
        raise BadInput(
            f"The licence of '{data['name']}', {license}, asks to name the author; state it with "
            f"`ganhub data prepare ... --credit TEXT`, or as data.credit in {file}.",
            "no_credit",
        )
    about["data"] = {k: v for k, v in data.items() if k != "path"} | {"license": license}
    for key in ("command", "settings"):
        about[key] = _without_paths(about.get(key))
    return about


def _without_paths(value: Any) -> Any:
    """Names of files in place of their paths: nobody needs to know how a disk is laid out."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str) and not value.startswith(("hf://", "http://", "https://")):
        option, sign, rest = value.partition("=")
        if sign and option.startswith("--"):
            return f"{option}={_without_paths(rest)}"
        if os.sep in value and " " not in value:
            return Path(value).name
    return value


def _weights(run: Path) -> tuple[Path, dict[str, Any]]:
    """G.safetensors, which is finite and says what it is, and its header."""
    file = run / "G.safetensors"
    if not file.is_file():
        raise BadInput(f"{run} has no G.safetensors yet: train until the first snapshot, then publish.", "no_weights")
    raw = checkpoint.read(file)
    if raw.format != "ganhub":
        raise BadInput(f"{file} does not say what it is; `ganhub convert` makes a file that does.")
    network = models.read(raw)
    for key, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise BadInput(
                f"{file} is broken: '{key}' holds numbers that are not finite; the training has diverged, so go back "
                "to an earlier snapshot.",
                "not_finite",
            )
    return file, raw.extra


def _lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file. A line that was cut off is left out."""
    return list(_parsed(file.read_text(encoding="utf-8").splitlines())) if file.is_file() else []


def _parsed(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _measured(run: Path, sha256: str) -> list[dict[str, Any]]:
    """The last line of the training's own measurements, and what `ganhub evaluate` wrote of this very file."""
    found = {line.get("features"): line for line in _lines(run / "metrics.jsonl")[-1:]}
    file = run / "evaluation.json"
    if file.is_file():
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{file} cannot be read ({error}); run `ganhub evaluate` again.") from error
        for entry in entries:
            if entry.get("sha256", sha256) != sha256:
                raise BadInput(
                    f"{file} holds figures of an earlier network; run `ganhub evaluate {run} --write ...` again in the "
                    f"features '{entry.get('features')}', or remove the file.",
                    "stale",
                )
            found[entry.get("features")] = entry
    return [line for line in found.values() if _card.numbers(line)]


def _row_metrics(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Figures for the row; their names tell the features, without which a number says nothing."""
    metrics = {}
    for line in measured:
        features = str(line.get("features") or "unnamed")
        for key, value in _card.numbers(line).items():
            if key in ("frechet", "kernel", "precision", "recall"):
                metrics[IDS.get(features, {}).get(key, f"{key}_{features}")] = round(value, 4)
    return metrics
