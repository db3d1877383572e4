"""A repository of the Hub -> a row of the owner's registry, after the file and what it draws were checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ganhub import checkpoint, hub, imaging, models
from ganhub.directions import read_direction
from ganhub.engine.loading import check_resolution
from ganhub.errors import BadInput, CheckpointError, FetchError, GanHubError, RegistryError
from ganhub.hub import Progress, records, upload
from ganhub.hub.upload import ROW_FILE, HubFile, Repository
from ganhub.latents import z_from_seeds
from ganhub.pipelines import _card
from ganhub.pipelines.publish import GENERATE, TASKS, check_repository, slug
from ganhub.registry import (
    FAMILIES,
    MAX_FOREIGN_BYTES,
    Checkpoint,
    HubSource,
    Registry,
    append_row,
    load_registry,
    make_row,
    read_foreign,
)

FIELDS = {"id", "task", "family", "config", "resolution", "title", "description", "license", "commercial_use", "credit"}
FIELDS |= {"dataset", "paper", "source_url", "metrics", "golden", "generator", "sha256", "bytes", "source"}
"""What a stranger may say of his generator; his aliases and components could change rows that are here."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".pkl", ".ckpt", ".bin", ".npz")


@dataclass(frozen=True)
class Added:
    """A row that now stands in the owner's registry.

    Args:
        registry: the file that it was written to.
        path: the checkpoint on this machine, verified.
        difference: in levels (0 to 255) between the picture that the row promises and the one drawn here; None where
            it promises none.
    """

    row: Checkpoint
    registry: Path
    path: Path
    difference: int | None


def add(address: str, registry: Path, *, id: str | None = None, progress: Progress | None = None) -> Added:
    """Bring a checkpoint from the Hub, check it, and write its row.

    What the repository says is data and is not trusted: the row is validated, its file is the one at the commit that
    was looked at, its hash is computed here, and a picture is drawn before anything is written.

    Args:
        address: `hf://OWNER/NAME`, `hf://OWNER/NAME@REVISION`, or the address of its page.
        registry: file that the row is added to; made where there is none.
        id: another id for the row.
        progress: of the download.

    Raises:
        BadInput: the address cannot be read.
        FetchError: the repository cannot be had, or its file is not what the row says.
        RegistryError: the row is wrong or refused, or its id is taken.
        CheckpointError: the file cannot be read.
    """
    name, revision = parse(address)
    known = load_registry(registry if registry.exists() else None)
    there = upload.look(name, revision)
    row = _published(there) if ROW_FILE in there.files else _made(there, progress)
    row = row.model_copy(update={"id": check_id(id)}) if id else row
    _new(row, known)
    path = hub.fetch(row, progress=progress)
    found = records.digest(path)
    if row.bytes not in (None, found.bytes):
        raise FetchError(
            f"{there.page} holds a file of {found.bytes} bytes where its row says {row.bytes}, and is not added.",
            "wrong_size",
        )
    row = row.model_copy(update={"sha256": found.sha256, "bytes": found.bytes})
    difference = None
    if "direction" in row.task:
        read_direction(row, path)
    else:
        network = _network(row, path)
        difference = _difference(row, network)
        height, width = network.img_size
        row = row.model_copy(update={"resolution": height if height == width else (height, width)})
    with records.guarded(registry):
        _new(row, load_registry(registry if registry.exists() else None))
        append_row(registry, row)
    return Added(row, registry, path, difference)


def parse(address: str) -> tuple[str, str | None]:
    """`owner/name` and revision of an address.

    Raises:
        BadInput: it names no model repository.
    """
    wrong = BadInput(
        f"'{address[:100]}' names no model on the Hub; write hf://OWNER/NAME, hf://OWNER/NAME@REVISION, or the address "
        "of its page."
    )
    try:
        parts = urlsplit(address)
        hosts = {"huggingface.co", "hf.co", urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc} - {""}
    except ValueError:
        raise wrong from None
    if parts.scheme == "hf":
        path, sign, revision = (parts.netloc + parts.path).partition("@")
        if path.count("/") != 1 or (sign and not revision):
            raise wrong
    elif parts.scheme in ("http", "https") and parts.netloc in hosts:
        pieces = parts.path.strip("/").split("/")
        path, rest = "/".join(pieces[:2]), pieces[2:]
        if rest and (rest[0] not in ("tree", "commit") or len(rest) < 2):
            raise wrong
        revision = unquote("/".join(rest[1:]))
    else:
        raise wrong
    if path.split("/")[0] in ("datasets", "spaces"):
        raise wrong
    check_repository(path)
    if len(revision) > 200 or not revision.isprintable():
        raise wrong
    return path, revision or None


def check_id(name: str) -> str:
    """An id that a person chose.

    Raises:
        BadInput: it is none.
    """
    if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        raise BadInput(f"'{name[:60]}' is no id: it takes lower-case letters and digits, joined by '-' or '.'.")
    return name


def _new(row: Checkpoint, known: Registry) -> None:
    """The row can stand beside those that are there."""
    here = [other for other in known if row.id in (other.id, *other.aliases)]
    if here:
        source = here[0].source
        if isinstance(source, HubSource) and source == row.source:
            raise RegistryError(f"'{row.id}' is in the registry already, at the same commit.", "exists")
        raise RegistryError(
            f"The registry has another checkpoint '{row.id}' ({here[0].title}); add this one as --id ANOTHER-NAME.",
            "exists",
        )
    Registry([*known, row])


def _published(there: Repository) -> Checkpoint:
    """The row that the repository's own `weights.yaml` holds."""
    size = there.files[ROW_FILE].bytes
    if size is None or size > MAX_FOREIGN_BYTES:
        raise RegistryError(
            f"{ROW_FILE} of {there.page} is refused: its {size or 0:,} bytes are more than any row needs.", "unsafe"
        )
    return read_row(hub.fetch(_pointer(there, ROW_FILE)).read_bytes(), there)


def read_row(text: bytes, there: Repository) -> Checkpoint:
    """A stranger's row, pinned to the commit of his repository.

    Args:
        text: of its `weights.yaml`.

    Raises:
        RegistryError: it is wrong, or says what is not for a stranger to say.
        FetchError: it names another hash than the repository.
    """
    name = f"{ROW_FILE} of {there.page}"
    rows = read_foreign(text, name)
    if len(rows) != 1:
        raise RegistryError(f"{name} holds {len(rows)} rows; `ganhub add` takes a repository with one.")
    entry = rows[0]
    more = [str(key)[:40] for key in entry if key not in FIELDS]
    if more:
        raise RegistryError(
            f"{name} is refused: it says {', '.join(more[:5])}, which is not for a stranger to say.", "unsafe"
        )
    source = _source(entry.get("source"), there, name)
    links = [key for key in ("paper", "source_url") if not re.match(r"https?://|$", str(entry.get(key, "")))]
    if links:
        raise RegistryError(f"{name} is refused: {links[0]} is no web address.", "unsafe")
    row = make_row({**entry, "source": source, "source_url": there.page}, name)
    draws = "generate" in row.task and set(row.task) <= set(TASKS["stylegan2"])
    if row.family not in FAMILIES or not (draws or row.task == ("direction",)):
        raise RegistryError(f"{name} is refused: it describes no generator of pictures (task, family).", "unsafe")
    listed = there.files[source["file"]]
    if row.sha256 and listed.sha256 and row.sha256 != listed.sha256:
        raise FetchError(
            f"{there.page} is not consistent: its row names the sha256 {row.sha256[:12]}… and its {source['file']} has "
            f"{listed.sha256[:12]}…; tell its owner.",
            "wrong_hash",
        )
    return row if row.sha256 else row.model_copy(update=_hashes(listed))


def _source(said: Any, there: Repository, name: str) -> dict[str, Any]:
    """Which file a published row means, as a source on the Hub; it must be one of the repository's own."""
    kinds = sorted(str(kind) for kind in said) if isinstance(said, dict) else []
    file = None
    if kinds == ["path"]:
        file = said["path"]
    elif "hub" in kinds and said["hub"] == there.name and said.get("repo_type", "model") == "model":
        file = said.get("file")
    if file is None:
        raise RegistryError(
            f"{name} is refused: its source must be a file of the repository itself, not {', '.join(kinds)[:60]!r}.",
            "unsafe",
        )
    if not isinstance(file, str) or file not in there.files:
        raise RegistryError(f"{name} names the file {str(file)[:80]!r}, which the repository does not hold.", "unsafe")
    return {"hub": there.name, "file": file, "revision": there.commit}


def _made(there: Repository, progress: Progress | None) -> Checkpoint:
    """A row for a repository without one, from its only checkpoint and the licence of its card."""
    found = [name for name in there.files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if len(found) != 1:
        what = f"{len(found)} files that may be checkpoints ({', '.join(sorted(found)[:3])}, ...)" if found else "none"
        raise BadInput(
            f"{there.page} has no {ROW_FILE}, and holds {what} where one could be added; write a row for the one you "
            "mean in a YAML file of your own (CONTRIBUTING.md shows how)."
        )
    pointer = _pointer(there, found[0])
    raw = checkpoint.read(hub.fetch(pointer, progress=progress))
    try:
        family = models.detect(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{there.page} cannot be added: {error.message}", error.code) from error
    license = there.license or "unstated"
    fields = pointer.model_dump() | {
        "task": TASKS.get(family, GENERATE),
        "family": family,
        "planned": False,
        "title": there.name.split("/")[1],
        "license": license,
        "commercial_use": _card.is_open(license),
        "credit": there.name.split("/")[0],
        "source_url": there.page,
    }
    return make_row(fields, there.page)


def _pointer(there: Repository, file: str) -> Checkpoint:
    """One file of the repository as a row, so that it is fetched and verified as all others are."""
    listed = there.files[file]
    return Checkpoint(
        id=slug(there.name.split("/")[1]),
        task=("component",),
        family="file",
        source=HubSource(hub=there.name, file=file, revision=there.commit),
        title=file,
        license=there.license or "unstated",
        commercial_use=False,
        bytes=listed.bytes or None,
        **_hashes(listed),
    )


def _hashes(listed: HubFile) -> dict[str, Any]:
    return {"sha256": listed.sha256} if listed.sha256 else {"git_blob_sha1": listed.git_blob_sha1}


def _network(row: Checkpoint, path: Path) -> models.Generator:
    """The generator in a row's file, which is what the row says.

    Raises:
        CheckpointError: it is not.
    """
    raw = checkpoint.read(path, sha256=row.sha256)
    own = raw.extra.get("family", row.family) if raw.format == "ganhub" else row.family
    if own != row.family:
        raise CheckpointError(
            f"{path.name} says that it is a {str(own)[:40]!r}, and the row of '{row.id}' {row.family}."
        )
    try:
        network: Any = models.read(raw, row.family, **row.config)
        is_one = isinstance(network, models.Generator)
    except GanHubError:
        raise
    except Exception as error:  # a stranger's config can be anything
        why = f"{type(error).__name__}: {str(error)[:100]}".splitlines()[0].rstrip(".")
        raise CheckpointError(f"The row of '{row.id}' does not fit its file {path.name} ({why}).") from error
    if not is_one:
        raise CheckpointError(f"{path.name} of '{row.id}' holds no generator of pictures.")
    check_resolution(row, network)
    return network


def _difference(row: Checkpoint, network: models.Generator) -> int | None:
    """Largest difference between the picture that a row promises and the one drawn here, in levels."""
    import torch

    wrong = RegistryError(f"Row '{row.id}': golden must be {{seed, cells}} with the mean colours of 4x4 cells.")
    seed, label = row.golden.get("seed", 0), row.golden.get("label", 0)
    if (
        type(seed) is not int
        or not 0 <= seed < 2**32
        or type(label) is not int
        or not 0 <= label < max(network.c_dim, 1)
    ):
        raise wrong
    z = torch.from_numpy(z_from_seeds([seed], network.z_dim, network.z_distribution)).float()
    c = torch.eye(network.c_dim)[[label]] if network.c_dim else None
    with torch.inference_mode():
        drawn = np.array(imaging.cells(imaging.to_uint8(network(z, c))[0]))
    if not row.golden:
        return None
    try:
        promised = np.array(row.golden.get("cells"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if promised.shape != drawn.shape or not (np.abs(promised) < 1000).all():
        raise wrong
    return int(np.abs(promised - drawn).max().round())
