"""From the data of a file to its networks: which dictionaries are state dicts, which objects NVIDIA's."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ganhub.checkpoint.nodes import Array, Budget, DType, Instance, Persistent, Shell, Storage, Tensor, Text, Token
from ganhub.checkpoint.raw_bytes import numbers
from ganhub.errors import CheckpointError, UnsafeCheckpoint

MAX_DEPTH = 64
T = TypeVar("T")
PREFIXES = ("module.", "_orig_mod.")


@dataclass
class Part:
    """A network before its bytes are copied."""

    class_name: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Content:
    """What a file holds."""

    format: str
    networks: dict[str, Part] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


NOTHING = object()


class _Walk:
    def __init__(self, budget: Budget):
        self.budget = budget
        self.sources: set[Any] = set()

    def step(self, depth: int) -> None:
        self.budget.spend("values")
        if depth > MAX_DEPTH:
            raise UnsafeCheckpoint("holds data inside data without end")

    def word(self, key: Any) -> str:
        """A key as text; keys may be shared by many dictionaries, so every use is counted."""
        text = key if type(key) is str else str(key)
        self.budget.spend("characters of names and settings", len(text) + 1)
        return text

    def plain(self, value: Any, depth: int = 0) -> Any:
        """A JSON-able form; NOTHING for tensors, bytes and objects."""
        self.step(depth)
        kind = type(value)
        if kind is str:
            return self.word(value)
        if kind is int:
            self.budget.spend("characters of names and settings", value.bit_length() // 3 + 1)
            return value
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if value - value == 0 else str(value)  # JSON has no inf and no nan
        if kind is Token:
            return str(value)
        if kind is DType:
            return value.code
        if kind is Array:
            value = tensor_of(value)
        if type(value) is Tensor:
            return _small(value, self.budget)
        if isinstance(value, dict):
            pairs = ((self.word(k), self.plain(v, depth + 1)) for k, v in value.items())
            return {k: v for k, v in pairs if v is not NOTHING}
        if kind in (list, tuple, set, frozenset):
            values = [self.plain(v, depth + 1) for v in value]
            return [None if v is NOTHING else v for v in values]
        return NOTHING

    def split(self, value: Any, path: str, networks: dict[str, Part], depth: int = 0) -> Any:
        """Takes the tensors out of plain containers, a network per container; gives back the rest."""
        self.step(depth)
        if isinstance(value, dict):
            if "state" in value and "param_groups" in value:
                return NOTHING  # an optimizer
            items = [(self.word(k), v) for k, v in value.items()]
        elif type(value) in (list, tuple):
            items = [(str(i), v) for i, v in enumerate(value)]
        elif type(value) in (Tensor, Array):
            networks[path] = Part(tensors={"": tensor_of(value)})
            return NOTHING
        else:
            return self.plain(value, depth)
        tensors: dict[str, Tensor] = {}
        rest: dict[str, Any] = {}
        for key, item in items:
            if type(item) in (Tensor, Array):
                tensors[key] = tensor_of(item)
            elif isinstance(item, dict) or type(item) in (list, tuple):
                inner = self.split(item, self.word(f"{path}.{key}" if path else key), networks, depth + 1)
                if inner is not NOTHING and (inner or not item):
                    rest[key] = inner
            else:
                plain = self.plain(item, depth + 1)
                if plain is not NOTHING:
                    rest[key] = plain
        if tensors:
            self.budget.spend("values", len(tensors))
            if path in networks:
                raise CheckpointError("is damaged: two groups of tensors in it have the same name")
            class_name = value.class_name if type(value) is Instance else ""
            networks[path] = Part(class_name, tensors=without_prefixes(tensors))
        if not isinstance(value, dict) and len(rest) == len(items):
            return list(rest.values())
        return rest

    def modules(self, obj: Persistent) -> Part:
        """Parameters and buffers of an object that NVIDIA's persistence saved, as its state_dict would name them."""
        meta = obj.meta
        state = meta.get("state")
        if not isinstance(state, dict):
            raise CheckpointError("holds a network without a state")
        name = meta.get("class_name")
        kwargs = self.plain(state.get("_init_kwargs", {}))
        part = Part(name if type(name) is str else "", kwargs if type(kwargs) is dict else {})
        arguments = self.plain(state.get("_init_args", ()))
        if type(arguments) is list and arguments:
            part.kwargs["_init_args"] = arguments
        self._collect(obj, "", part.tensors, 0)
        return part

    def _collect(self, obj: Any, prefix: str, tensors: dict[str, Tensor], depth: int) -> None:
        self.step(depth)
        state = obj.meta.get("state") if type(obj) is Persistent else None
        if not isinstance(state, dict):
            raise CheckpointError("is damaged: a module of a network has no state")
        if type(source := obj.meta.get("module_src")) in (str, Text):
            self.sources.add(source)
        for group in ("_parameters", "_buffers"):
            entries = state.get(group, {})
            if not isinstance(entries, dict):
                raise CheckpointError(f"is damaged: the {group} of a network are no dictionary")
            for key, value in entries.items():
                self.step(depth)
                if value is None:
                    continue
                name = self.word(prefix + self.word(key))
                if type(value) is not Tensor or name in tensors:
                    raise CheckpointError("is damaged: a parameter of a network is no tensor, or stands twice")
                tensors[name] = value
        children = state.get("_modules", {})
        if not isinstance(children, dict):
            raise CheckpointError("is damaged: the modules of a network are no dictionary")
        for key, child in children.items():
            if child is not None:
                self._collect(child, f"{prefix}{self.word(key)}.", tensors, depth + 1)

    def hashes(self) -> list[str]:
        """What may be said of source text without running it."""
        texts = (s.view if type(s) is Text else s.encode("utf-8", "surrogatepass") for s in self.sources)
        return sorted(hashlib.sha256(text).hexdigest() for text in texts)

    def variables(self, net: Shell, depth: int = 0) -> tuple[Part, dict[str, Any]]:
        """A TensorFlow-era network: its variables and those of its components, and what the components say."""
        self.step(depth)
        part, components = Part(), {}
        name = net.get("build_func_name")
        part.class_name = name if type(name) is str else ""
        entries = net.get("variables", [])
        inner = net.get("components", {})
        if type(entries) not in (list, tuple) or not isinstance(inner, dict):
            raise CheckpointError("is damaged: a network has no list of variables")
        for entry in entries:
            self.step(depth)
            if type(entry) not in (list, tuple) or len(entry) != 2 or type(entry[0]) is not str:
                raise CheckpointError("is damaged: a variable of a network has no name")
            if type(entry[1]) in (Array, Tensor):
                part.tensors[self.word(entry[0])] = tensor_of(entry[1])
            elif type(entry[1]) in (int, float, bool):
                part.tensors[self.word(entry[0])] = _number(entry[1])
            else:
                raise CheckpointError("is damaged: a variable of a network is no array")
        for key, component in inner.items():
            if type(component) is not Shell or component.kind != "tf":
                continue
            below, deeper = self.variables(component, depth + 1)
            part.kwargs |= below.kwargs
            label = self.word(key)
            part.tensors |= {self.word(f"{label}/{k}"): v for k, v in below.tensors.items()}
            components[label] = {"class_name": below.class_name, "kwargs": below.kwargs, **deeper}
        own = self.plain(net.get("static_kwargs", {}))
        part.kwargs |= own if type(own) is dict else {}
        return part, {"components": components} if components else {}


def content_of(value: Any, kind: str, budget: Budget) -> Content:
    """The networks of a file and everything else that is plain data.

    Args:
        value: what the machine gave.
        kind: `torch` or `numpy`, the format where no object of NVIDIA's is in the file.

    Raises:
        UnsafeCheckpoint: data without end.
        CheckpointError: there are no tensors in it.
    """
    walk = _Walk(budget)
    if isinstance(value, dict):
        named = [(walk.word(k), v) for k, v in value.items()]
    elif type(value) in (list, tuple):
        labels = ("G", "D", "Gs") if len(value) == 3 else tuple(str(i) for i in range(min(len(value), 16)))
        named = list(zip(labels, value, strict=False))
    else:
        named = [("", value)]
    content = Content(kind)
    if any(type(v) is Persistent for _, v in named):
        content.format = "nvidia-torch"
        for key, item in named:
            if type(item) is Persistent:
                part = walk.modules(item)
                if part.tensors:
                    content.networks[key] = part
            elif (plain := walk.plain(item)) is not NOTHING:
                content.extra[key] = plain
        content.extra["source_sha256"] = walk.hashes()
    elif any(type(v) is Shell and v.kind == "tf" for _, v in named):
        content.format = "nvidia-tf"
        for key, item in named:
            if type(item) is Shell and item.kind == "tf":
                content.networks[key], facts = walk.variables(item)
                content.extra |= {f"{key}_{fact}": v for fact, v in facts.items()}
            elif (plain := walk.plain(item)) is not NOTHING:
                content.extra[key] = plain
    else:
        rest = walk.split(value, "", content.networks)
        if rest is not NOTHING and rest:
            content.extra = rest if isinstance(rest, dict) else {"": rest}
    content.networks = {k: part for k, part in content.networks.items() if part.tensors}
    if not content.networks:
        raise CheckpointError("holds no tensors")
    return content


def tensor_of(value: Tensor | Array) -> Tensor:
    if type(value) is Array:
        if value.tensor is None:
            raise CheckpointError("is damaged: it holds an array without its numbers")
        return value.tensor
    assert type(value) is Tensor
    return value


def _number(value: float) -> Tensor:
    """A variable of no dimension (noise strengths, `lod`), which TensorFlow gives as a number."""
    try:
        data = struct.pack("<f", value)
    except OverflowError:
        raise CheckpointError("is damaged: a variable of a network is no 32-bit number") from None
    return Tensor(Storage("F32", 1, memoryview(data)), 0, (), ())


def _small(tensor: Tensor, budget: Budget) -> Any:
    """The numbers of a small array inside arguments; NOTHING for a large one."""
    if tensor.count > 256:
        return NOTHING
    budget.spend("values", tensor.count + 1)
    return numbers(tensor, budget)


def without_prefixes(tensors: dict[str, T]) -> dict[str, T]:
    """Names without what DataParallel, AveragedModel and torch.compile put before them."""
    found = True
    while found:
        found = False
        for prefix in PREFIXES:
            others = [k for k in tensors if not k.startswith(prefix)]
            if len(others) < len(tensors) and set(others) <= {"n_averaged"}:
                tensors = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
                found = True
    return tensors
