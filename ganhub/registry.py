"""The registry: one row per checkpoint, read from YAML and validated.

`weights.yaml` beside `app.py` (or its copy inside the wheel) holds the built-in rows. An owner's rows come from
`registry.yaml` in `home()`, where `ganhub add` writes, from `GANHUB_REGISTRY` (several files, separated like `PATH`),
and from `--registry FILE`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ganhub.errors import RegistryError

Task = Literal[
    "generate",  # seeds -> pictures
    "clip",  # guided by a sentence
    "project",  # a photo's latent can be found
    "directions",  # latents can be moved
    "text",  # sentence -> pictures
    "upscale",
    "age",
    "direction",  # the row is a direction of some generator
    "component",  # the row serves other rows: encoders, feature networks, detectors
]

FAMILIES = tuple(sorted(p.stem for p in (Path(__file__).parent / "models").glob("[!_]*.py")))

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a full commit; a branch may change under us")]


def _inside(path: str) -> str:
    if not path or path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"'{path}' must be a path inside its folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError("must hold only text, numbers, true, false, lists and mappings") from error
    return value


Plain = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Whatever JSON can hold: it goes into converted files and pictures."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EmbeddedSource(_Row):
    embedded: RelativePath
    """File in `ganhub/embedded/`."""


class HubSource(_Row):
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    file: RelativePath
    revision: Commit
    repo_type: Literal["model", "dataset", "space"] = "model"


class UrlSource(_Row):
    url: Annotated[str, Field(pattern=r"^https?://\S+$")]


class PathSource(_Row):
    path: str
    """The owner's own file; a relative path is taken from the folder of the YAML file."""


class ManualSource(_Row):
    manual: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """Page that only a browser can fetch from."""
    file: RelativePath
    """Where the file goes, below the folder for files fetched by hand (`ganhub info ID` prints it in full)."""


Source = EmbeddedSource | HubSource | UrlSource | PathSource | ManualSource
_KINDS: dict[str, type[_Row]] = {
    "embedded": EmbeddedSource,
    "hub": HubSource,
    "url": UrlSource,
    "path": PathSource,
    "manual": ManualSource,
}


class Checkpoint(_Row):
    """One row: what a file is, where it comes from, what it is good for and what its licence allows."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$")]
    aliases: tuple[str, ...] = ()
    """Earlier ids, which go on working."""
    task: tuple[Task, ...] = Field(min_length=1)
    family: str
    """A file in `ganhub/models`."""
    planned: bool = False
    """True while this version has no code for the family: the file can be pulled and verified, not run."""
    source: Source
    sha256: Sha256 | None = None
    git_blob_sha1: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    bytes: Annotated[int, Field(gt=0)] | None = None
    """Shown before the download."""
    config: Plain = {}
    """Only what tensor shapes cannot tell: activation, latent distribution, output range, ..."""
    preprocess: Plain = {}
    components: dict[str, str] = {}
    """Other rows that this one needs, by role."""
    generator: Plain = {}
    """For a direction: the generator it belongs to (`family`, `dataset`, `space`, `w_dim`)."""
    resolution: int | tuple[int, int] | None = None
    """Side, or (height, width), in pixels; shown before the download, checked after."""
    title: str
    description: str = ""
    license: Annotated[str, Field(min_length=1)]
    commercial_use: bool
    credit: str = ""
    dataset: str = ""
    paper: str = ""
    source_url: str = ""
    metrics: dict[str, float] = {}
    golden: Plain = {}

    @model_validator(mode="after")
    def _consistent(self) -> Checkpoint:
        if not self.planned and "component" not in self.task and self.family not in FAMILIES:
            close = difflib.get_close_matches(self.family, FAMILIES, n=1)
            hint = f", did you mean '{close[0]}'?" if close else f"; there are {', '.join(FAMILIES)}"
            raise ValueError(f"family: '{self.family}' is no file in ganhub/models{hint}")
        if "direction" in self.task:
            missing = [key for key in ("family", "dataset") if key not in self.generator]
            if missing:
                raise ValueError(
                    f"generator: a direction names the {' and '.join(missing)} of the generator that it belongs to"
                )
        return self

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, where `config: {classes: [...]}` states them."""
        names = self.config.get("classes")
        return [str(name) for name in names] if isinstance(names, list) else []

    @property
    def revision(self) -> str | None:
        """Commit that the file is pinned to, where its source has commits."""
        return getattr(self.source, "revision", None)


class Registry:
    """All rows, found by id or alias.

    Raises:
        RegistryError: a file cannot be read, or a row is wrong; names file, row and field.
    """

    def __init__(self, rows: Iterable[Checkpoint]):
        self._rows: dict[str, Checkpoint] = {}
        self._names: dict[str, str] = {}
        for row in rows:
            for name in (row.id, *row.aliases):
                if name in self._names:
                    raise RegistryError(
                        f"Two rows are called '{name}' ('{self._names[name]}' and '{row.id}'); give one another id."
                    )
                self._names[name] = row.id
            self._rows[row.id] = row
        for row in self:
            for role, name in row.components.items():
                if name not in self._names:
                    raise RegistryError(
                        f"Row '{row.id}': components.{role} is '{name}', which no row is called{self._close(name)}."
                    )

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(tuple(self._rows.values()))  # rows may be added meanwhile

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, name: str) -> Checkpoint:
        """The row of an id or alias.

        Raises:
            RegistryError: there is none; says which id is close.
        """
        if name in self._names:
            return self._rows[self._names[name]]
        hint = self._close(name) or "; `ganhub list` shows all ids."
        raise RegistryError(f"There is no checkpoint '{name}' in the registry{hint}", "not_found")

    def _close(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._names, n=1, cutoff=0.4)
        return f"; did you mean '{close[0]}'?" if close else ""

    def add(self, row: Checkpoint) -> None:
        """Take in a row while the app runs.

        Raises:
            RegistryError: one of its names is taken.
        """
        for name in (row.id, *row.aliases):
            if name in self._names:
                raise RegistryError(f"There is a row '{name}' already; choose another name.", "taken")
        self._rows[row.id] = row
        self._names |= dict.fromkeys((row.id, *row.aliases), row.id)

    def remove(self, name: str) -> None:
        """Let go of a row."""
        row = self._rows.pop(self.find(name).id)
        for one in (row.id, *row.aliases):
            self._names.pop(one)

    def for_task(self, task: Task) -> list[Checkpoint]:
        """Rows that this version can run for a task, in the order of the files."""
        return [row for row in self if task in row.task and not row.planned]

    def directions_for(self, generator: Checkpoint, w_dim: int | None = None) -> list[Checkpoint]:
        """Directions that belong to a generator's latent space."""
        return [row for row in self.for_task("direction") if _misfit(row, generator, w_dim) is None]


def check_direction(direction: Checkpoint, generator: Checkpoint, w_dim: int | None = None) -> None:
    """Make sure that a direction belongs to a generator.

    The latent spaces of two trainings have the same shape and nothing else in common: a direction of another one
    loads, and changes the picture at random.

    Args:
        direction: a row with the task `direction`.
        generator: the row of the network.
        w_dim: width of the generator's latent space, where it is known.

    Raises:
        RegistryError: `wrong_generator`; says what differs.
    """
    reason = _misfit(direction, generator, w_dim)
    if reason is not None:
        raise RegistryError(f"'{direction.id}' does not fit '{generator.id}': {reason}.", "wrong_generator")


def _misfit(direction: Checkpoint, generator: Checkpoint, w_dim: int | None) -> str | None:
    if "direction" not in direction.task:
        return f"'{direction.id}' is no direction"
    has = {"family": generator.family, "dataset": generator.dataset, "resolution": generator.resolution, "w_dim": w_dim}
    has["sha256"] = generator.sha256
    for key, wanted in direction.generator.items():
        wanted = tuple(wanted) if isinstance(wanted, list) else wanted
        if has.get(key) is not None and has[key] != wanted:
            return f"it belongs to generators with {key} {wanted}, and this one has {has[key] or 'none'}"
    return None


def builtin_file() -> Path:
    """`weights.yaml`: inside the package when installed from a wheel, else at the top of the checkout."""
    packaged = Path(__file__).parent / "weights.yaml"
    return packaged if packaged.exists() else Path(__file__).parent.parent / "weights.yaml"


def home() -> Path:
    """Folder for what GAN Hub keeps between runs: `$GANHUB_HOME`, or `~/.cache/ganhub`."""
    return Path(os.environ.get("GANHUB_HOME") or Path.home() / ".cache" / "ganhub").expanduser()


def added_file() -> Path:
    """The rows that `ganhub add` brought, where it was not told another file."""
    return home() / "registry.yaml"


def load_registry(extra: str | Path | Iterable[str | Path] | None = None) -> Registry:
    """The built-in rows, then those that were added, then those of `GANHUB_REGISTRY`, then those of `extra`.

    Raises:
        RegistryError: a file cannot be read, or a row is wrong.
    """
    files = [builtin_file()]
    files += [added_file()] if added_file().exists() else []
    files += [Path(p) for p in os.environ.get("GANHUB_REGISTRY", "").split(os.pathsep) if p]
    if extra is not None:
        files += [Path(extra)] if isinstance(extra, (str, Path)) else [Path(p) for p in extra]
    once: dict[Path, Path] = {}
    for file in files:
        once.setdefault(file.resolve(), file)
    return Registry(row for file in once.values() for row in read_rows(file))


def read_rows(file: Path) -> list[Checkpoint]:
    """Rows of one YAML file.

    Raises:
        RegistryError: names the file, the row and the field.
    """
    try:
        loader = _UniqueKeys(file.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except OSError as error:
        raise RegistryError(f"The registry {file} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RegistryError(f"The registry {file} is not valid YAML{_why(error)}.") from error
    if data is None:
        return []
    if not isinstance(data, list):
        raise RegistryError(f"The registry {file} must be a list of rows, each beginning with '- id:'.")
    return [_row(entry, file, n.start_mark.line + 1) for entry, n in zip(data, node.value, strict=True)]


def _why(error: Exception) -> str:
    """Where and why YAML cannot be read."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}" if mark else ""
    if isinstance(error, (UnicodeDecodeError, RecursionError)):
        return ": not text"
    return f"{where}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"


MAX_FOREIGN_BYTES = 64 * 1024
_MAX_FOREIGN_DEPTH = 8
_MAX_FOREIGN_TEXT = 4000
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal or turn the direction of a text."""


def read_foreign(data: bytes, name: str) -> list[dict[str, Any]]:
    """Rows that a stranger wrote, as plain mappings that are still to be checked by `make_row`.

    Refused is what no row needs: tags, anchors (a few lines of which can stand for gigabytes), deep nesting, characters
    that steer a terminal, and more than 64 kB.

    Args:
        data: the text of a YAML file.
        name: of the file, for messages.

    Raises:
        RegistryError: it is refused, or no list of mappings.
    """
    if len(data) > MAX_FOREIGN_BYTES:
        raise RegistryError(f"{name} is refused: its {len(data):,} bytes are more than any row needs.", "unsafe")
    depth = 0
    try:
        for event in yaml.parse(data, Loader=_UniqueKeys):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            value = getattr(event, "value", "")
            reasons = {
                "anchors": getattr(event, "anchor", None) is not None,
                "tags": getattr(event, "tag", None) is not None,
                "nesting that deep": depth > _MAX_FOREIGN_DEPTH,
                "text that long": len(value) > _MAX_FOREIGN_TEXT,
                "control characters": _UNSEEN.search(value) is not None,
            }
            for reason, given in reasons.items():
                if given:
                    raise RegistryError(f"{name} is refused: a row has no need for {reason}.", "unsafe")
        rows = yaml.load(data, Loader=_UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RegistryError(f"{name} is not valid YAML{_why(error)}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RegistryError(f"{name} must be a list of rows, each beginning with '- id:'.")
    return rows


def make_row(entry: dict[str, Any], name: str) -> Checkpoint:
    """One row from a plain mapping.

    Args:
        name: of the file that it stands in, for messages.

    Raises:
        RegistryError: names the field.
    """
    return _row(entry, Path(name), 1)


def to_yaml(value: Any) -> str:
    """Plain data as YAML, in its own order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def dump_row(row: Checkpoint) -> str:
    """A row as the text that `read_rows` reads back; what is as by default is left out."""
    return to_yaml([row.model_dump(mode="json", exclude_defaults=True)])


def append_row(file: Path, row: Checkpoint) -> None:
    """Add a row at the end of a registry file, which is made where there is none; what is in it stays as it is.

    Raises:
        RegistryError: the file cannot be read or written, or is no list to which lines can be added.
    """
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    known = read_rows(file) if before else []
    text = before + ("\n" if before.strip() else "") + dump_row(row)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        try:
            fits = [r.id for r in read_rows(part)] == [*(r.id for r in known), row.id]
        except RegistryError:
            fits = False
        if not fits:
            raise RegistryError(f"Rows cannot be added to {file} as it is written; name another file with --registry.")
        os.replace(part, file)
    except OSError as error:
        raise RegistryError(f"{file} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def _row(entry: Any, file: Path, line: int) -> Checkpoint:
    where = f"of {file}, line {line}"
    if not isinstance(entry, dict):
        raise RegistryError(f"The row {where}, must be a mapping that begins with 'id:'.")
    entry = dict(entry)
    if isinstance(entry.get("task"), str):
        entry["task"] = [entry["task"]]
    problems: list[str] = []
    if "source" in entry:
        entry["source"], problems = _source(entry["source"], file)
    try:
        row = Checkpoint.model_validate(entry)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems += [_problem(e, Checkpoint) for e in found if not problems or e["loc"][:1] != ("source",)]
    if problems:
        raise RegistryError(f"Row '{entry.get('id', '?')}' ({where}): {'; '.join(problems)}.")
    return row


def _source(source: Any, file: Path) -> tuple[Any, list[str]]:
    """The source of a row, and what is wrong with it: a union's own messages would tell of all five kinds."""
    kinds = ", ".join(_KINDS)
    if not isinstance(source, dict):
        return source, [f"source must be a mapping with one of {kinds}"]
    named = [kind for kind in _KINDS if kind in source]
    if not named:
        close = [match for key in source for match in difflib.get_close_matches(str(key), _KINDS, n=1)]
        return source, [f"source has none of {kinds}" + (f", did you mean '{close[0]}'?" if close else "")]
    if len(named) > 1:
        return source, [f"source names {' and '.join(named)}, where one says where the file is"]
    kind = _KINDS[named[0]]
    if kind is PathSource and isinstance(source["path"], str):
        path = Path(source["path"]).expanduser()
        source = {**source, "path": str(path if path.is_absolute() else (file.parent / path).resolve())}
    try:
        return kind.model_validate(source), []
    except ValidationError as error:
        return source, [_problem(e, kind, "source.") for e in error.errors(include_url=False)]


_FORMS = {
    "id": "must be lower-case letters and digits, joined by '-' or '.'",
    "sha256": "must be 64 lower-case hex digits",
    "git_blob_sha1": "must be 40 lower-case hex digits",
    "revision": "must be a full 40-hex commit, not a branch: a branch may change",
    "hub": "must be owner/name",
    "url": "must be an address that begins with http:// or https://",
    "manual": "must be an address that begins with http:// or https://",
}


def _problem(error: Any, model: type[BaseModel], prefix: str = "") -> str:
    where = prefix + ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(error["loc"][-1]), model.model_fields, n=1)
        return f"{where} is no field" + (f", did you mean '{close[0]}'?" if close else "")
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] in _FORMS:
        return f"{where} {_FORMS[error['loc'][-1]]}"
    what = error["msg"].removeprefix("Value error, ")
    what = what[:1].lower() + what[1:].replace("Input should be", "must be")
    return f"{where} {what.replace('input should be', 'must be')}" if error["loc"] else what


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML keeps the last of two equal keys without a word; a registry must not."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
