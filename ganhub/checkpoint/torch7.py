"""Torch7's own files (`.t7`, binary): tables, numbers, tensors and class objects as data. Functions are skipped.

Two passes. The reader goes through the bytes without recursion, because graphs of modules nest hundreds of levels
deep; `_Kept` then makes plain containers of what it found. There every table stands once, where it is met first, and
so does every tensor: modules that share a weight name it many times. What a module keeps between two calls and how a
graph is wired are left out; the list `modules`, which every container has, names all layers in their order.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from types import GeneratorType
from typing import Any

from ganhub.checkpoint.nodes import INSTRUCTIONS, LONG_TEXT, SIZES, Budget, Instance, Storage, Tensor, integers, shown
from ganhub.errors import CheckpointError, UnsafeCheckpoint

STARTS = (b"\3\0\0\0\1\0\0\0", b"\4\0\0\0\1\0\0\0")
"""A table or a class object, the first of the file."""
MAX_DEPTH = 20_000
MAX_KEPT = 64
NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN, FUNCTION, OLD_CLOSURE, CLOSURE = range(9)

_NUMBERS = {"Byte": "U8", "Char": "I8", "Short": "I16", "Int": "I32", "Long": "I64"}
_NUMBERS |= {"Float": "F32", "Double": "F64", "Half": "F16", "": "F32"}
_NAMED = {f"torch.{n}": kind for n, kind in _NUMBERS.items() if n}
_NAMED |= {f"torch.Cuda{n}": kind for n, kind in _NUMBERS.items()}
STORAGES = {f"{name}Storage": kind for name, kind in _NAMED.items()}
TENSORS = {f"{name}Tensor": kind for name, kind in _NAMED.items()}

PASSING = {"output", "gradInput", "gradWeight", "gradBias"}
WIRING = {"fg", "bg", "forwardnodes", "backwardnodes", "innode", "outnode"}
NOTHING = object()

Step = Generator[Any, Any, Any]


class _Table:
    """A Lua table: `items` are the values of 1, 2, 3, ..."""

    __slots__ = ("items", "named")

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.named: dict[str, Any] = {}


class _Object:
    """A table, or something else, of a class."""

    __slots__ = ("class_name", "content")

    def __init__(self, class_name: str):
        self.class_name, self.content = class_name, None


class _View:
    """A tensor that is being read; `offset` counts from 1, and 0 dimensions mean no element."""

    __slots__ = ("dtype", "shape", "strides", "offset", "storage")

    def __init__(self, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int):
        self.dtype, self.shape, self.strides, self.offset = dtype, shape, strides, offset
        self.storage: Storage | None = None


def read(data: memoryview, budget: Budget) -> Any:
    """The value of a Torch7 file, in plain containers for `content_of`.

    Raises:
        UnsafeCheckpoint: more of something than any checkpoint needs, or data after its end.
        CheckpointError: it is cut off or damaged.
    """
    reader = _Reader(data, budget)
    value = reader.run()
    if reader.pos != len(data):
        raise UnsafeCheckpoint("holds a Torch7 object with other data after its end")
    kept = _Kept(budget).of(value)
    return None if kept is NOTHING else kept


class _Reader:
    def __init__(self, data: memoryview, budget: Budget):
        self.data, self.budget, self.pos = data, budget, 0
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        value = self.value()
        stack: list[Step] = []
        while True:
            if type(value) is GeneratorType:  # a value with others inside, which come first
                if len(stack) >= MAX_DEPTH:
                    raise UnsafeCheckpoint("holds Torch7 tables inside tables without end")
                stack.append(value)
                value = None
            elif not stack:
                return value
            try:
                value = stack[-1].send(value)
            except StopIteration as done:
                stack.pop()
                value = done.value

    def take(self, size: int) -> memoryview:
        if size < 0 or size > len(self.data) - self.pos:
            raise CheckpointError("is a damaged Torch7 file: it is cut off, or says a wrong length")
        self.pos += size
        return self.data[self.pos - size : self.pos]

    def whole(self) -> int:
        return struct.unpack("<i", self.take(4))[0]

    def longs(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.take(8 * count))

    def text(self) -> Any:
        view = self.take(self.whole())
        if len(view) > LONG_TEXT:
            return NOTHING
        self.budget.spend("bytes of text", len(view))
        return str(view, "utf-8", "backslashreplace")

    def value(self) -> Any:
        """A number, text, truth value or nothing; for all else the steps that read it."""
        self.budget.instructions -= 1
        if self.budget.instructions < 0:
            raise UnsafeCheckpoint(f"holds more than {INSTRUCTIONS:,} Torch7 values")
        kind = self.whole()
        if kind == NUMBER:
            number = struct.unpack("<d", self.take(8))[0]
            return int(number) if abs(number) < 1 << 53 and number == int(number) else number
        if kind == STRING:
            return self.text()
        if kind == BOOLEAN:
            return self.whole() != 0
        if kind == NIL:
            return None
        if kind == FUNCTION:
            return self.function()
        if kind in (TABLE, OBJECT, CLOSURE, OLD_CLOSURE):
            index = self.whole()
            if index in self.memo:
                return self.memo[index]
            self.budget.spend("memo entries")
            if kind == TABLE:
                self.memo[index] = table = _Table()
                return self.table(table)
            if kind == OBJECT:
                return self.object(index)
            self.memo[index] = NOTHING
            return self.function()
        raise CheckpointError(f"is a damaged Torch7 file: it holds a value of the unknown kind {kind}")

    def function(self) -> Step:
        """Passes over compiled code and what it has caught."""
        self.take(self.whole())
        caught = self.value()
        if type(caught) is GeneratorType:
            yield caught
        return NOTHING

    def table(self, table: _Table) -> Step:
        for _ in range(self.whole()):
            key = self.value()
            if type(key) is GeneratorType:
                key = yield key
            value = self.value()
            if type(value) is GeneratorType:
                value = yield value
            if type(key) is int and key == len(table.items) + 1:
                table.items.append(value)
            elif type(key) is str and len(key) <= 4096:
                table.named[key] = value
            elif type(key) in (int, float, bool):
                self.budget.spend("keys that are no text")
                table.named[str(key)] = value
        return table

    def object(self, index: int) -> Any:
        version = self.text()
        name = self.text() if type(version) is str and re.fullmatch(r"V \d+", version) else version
        if type(name) is not str or not re.fullmatch(r"[\w.]{1,256}", name):
            raise CheckpointError("is a damaged Torch7 file: an object in it has no class")
        if name in STORAGES:
            kind, size = STORAGES[name], self.longs(1)[0]
            self.memo[index] = Storage(kind, size, self.take(size * SIZES[kind]))
            return self.memo[index]
        if name in TENSORS:
            sides = self.whole()
            if not 0 <= sides <= 8:
                raise CheckpointError(f"is a damaged Torch7 file: a tensor in it has {sides} dimensions")
            view = _View(TENSORS[name], self.longs(sides), self.longs(sides), self.longs(1)[0])
            self.memo[index] = view
            return self.tensor(view)
        self.memo[index] = thing = _Object(name)
        return self.content(thing)

    def tensor(self, view: _View) -> Step:
        storage = self.value()
        if type(storage) is GeneratorType:
            storage = yield storage
        if storage is not None and (type(storage) is not Storage or storage.dtype != view.dtype):
            raise UnsafeCheckpoint("holds a Torch7 tensor whose numbers are no storage of its kind")
        view.storage = storage
        return view

    def content(self, thing: _Object) -> Step:
        content = self.value()
        thing.content = (yield content) if type(content) is GeneratorType else content
        return thing


class _Kept:
    """Plain containers of what was read; NOTHING for what is left out."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.seen: set[int] = set()
        self.given: set[tuple[Any, ...]] = set()

    def of(self, value: Any, depth: int = 0) -> Any:
        if type(value) is _View:
            return self.tensor(value)
        if type(value) not in (_Table, _Object):
            return NOTHING if type(value) is Storage else value
        if depth > MAX_KEPT:
            raise UnsafeCheckpoint("holds data inside data without end")
        if id(value) in self.seen:
            return NOTHING
        self.seen.add(id(value))
        if type(value) is _Table:
            return self.table(value, depth)
        result = Instance(value.class_name)
        content = value.content
        if type(content) is _Table and id(content) not in self.seen:
            self.seen.add(id(content))
            fields = self.named(content, depth, inside=True)
            result.update(fields)
        elif (kept := self.of(content, depth + 1)) is not NOTHING:
            result["content"] = kept
        result["class"] = value.class_name
        return result

    def table(self, table: _Table, depth: int) -> Any:
        if table.items and not table.named:
            kept = (self.of(item, depth + 1) for item in table.items)
            return [None if item is NOTHING else item for item in kept]
        return self.named(table, depth)

    def named(self, table: _Table, depth: int, inside: bool = False) -> dict[str, Any]:
        result = {}
        pairs = [*table.named.items(), *((str(i), item) for i, item in enumerate(table.items, 1))]
        if inside:
            pairs = [(k, v) for k, v in pairs if k not in PASSING and k not in WIRING and not k.startswith("_")]
            pairs.sort(key=lambda pair: pair[0] != "modules")  # where a layer is met first, its path says what it is
        for key, value in pairs:
            kept = self.of(value, depth + 1)
            if kept is not NOTHING:
                result[key] = kept
        return result

    def tensor(self, view: _View) -> Any:
        if view.storage is None or not view.shape:
            return NOTHING
        same = (id(view.storage), view.offset, view.shape, view.strides)
        if same in self.given:
            return NOTHING
        self.given.add(same)
        self.budget.spend("values")
        if view.offset < 1:
            raise UnsafeCheckpoint(f"holds a Torch7 tensor that begins before its numbers ({shown(view.offset)})")
        return Tensor(view.storage, view.offset - 1, integers(view.shape), integers(view.strides))
