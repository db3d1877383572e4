"""A pickle machine without objects: it reads the opcodes, and builds nothing but plain data.

Python's unpickler calls whatever a file names; restricting it has failed again and again. Here a global is a
token, which never becomes an object; what a call may give is written in `symbols.py`, by exact module and name;
every other opcode or name ends the reading. Bytes stay views of the file, and one budget covers all that a file
costs, nested streams included.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pickletools import code2op  # type: ignore[attr-defined]
from typing import Any

from ganhub.checkpoint.nodes import INSTRUCTIONS, LIMITS, LONG_TEXT, Budget, Shell, Storage, Text, Token, shown
from ganhub.checkpoint.symbols import ARGUMENTS, CALLS, KNOWN, OBJECTS, foreign, set_state
from ganhub.errors import CheckpointError, UnsafeCheckpoint


class Machine:
    """Reads one pickle stream.

    Args:
        data: the bytes; the stream begins at `start`.
        budget: shared with every other stream of the same file.
        nested: reads the bytes of a storage that is a stream of its own; None inside such a stream.
        persistent: what a persistent id (torch's storages) stands for; None where the format has none.
    """

    def __init__(
        self,
        data: memoryview,
        budget: Budget,
        start: int = 0,
        nested: Callable[[memoryview, Budget], Storage] | None = None,
        persistent: Callable[[Any], Any] | None = None,
    ):
        self.data, self.budget, self.nested, self.persistent = data, budget, nested, persistent
        self.pos = start
        self.frame = start  # where the frame that is being read ends
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.protocol = -1
        self.nested_streams = 0

    def run(self) -> Any:
        """The value of the stream; `pos` is then the first byte after it.

        Raises:
            UnsafeCheckpoint: it asks for something that data never needs.
            CheckpointError: it is cut off or damaged.
        """
        first = self.take(1)[0]
        if first != 0x80:
            self.pos -= 1  # protocol 0 or 1: read on, to say what it asks for
        else:
            self.protocol = self.take(1)[0]
            if not 2 <= self.protocol <= 5:
                raise CheckpointError(f"is a pickle of protocol {self.protocol}; 2 to 5 are known")
        data, table, budget = self.data, OPCODES, self.budget
        while True:
            if self.pos >= len(data):
                raise CheckpointError("is cut off: its pickle ends in the middle")
            code = data[self.pos]
            self.pos += 1
            if code == 0x2E:  # STOP
                break
            budget.instructions -= 1
            if budget.instructions < 0:
                raise UnsafeCheckpoint(f"holds more than {INSTRUCTIONS:,} pickle instructions")
            operation = table.get(code)
            if operation is None:
                raise UnsafeCheckpoint(f"holds the pickle instruction {_name(code)}, which checkpoints do not use")
            operation(self)
        if self.protocol < 0:
            raise CheckpointError("is a pickle of protocol 0 or 1, which is not read")
        if self.frame > self.pos:
            raise UnsafeCheckpoint("ends inside a frame of its pickle")
        if len(self.stack) != 1 or self.marks:
            raise CheckpointError(f"holds a pickle that ends with {len(self.stack)} values instead of one")
        return self.stack[0]

    def take(self, size: int) -> memoryview:
        start, stop = self.pos, self.pos + size
        if stop > len(self.data):
            raise CheckpointError("is cut off: its pickle ends in the middle")
        if start < self.frame < stop:
            raise UnsafeCheckpoint("holds a pickle instruction that crosses the end of its frame")
        self.pos = stop
        return self.data[start:stop]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        length = bytes(self.data[self.pos : self.pos + 256]).find(b"\n")
        if length < 0:
            raise CheckpointError("holds a name without an end")
        return bytes(self.take(length + 1)[:-1]).decode("utf-8", "backslashreplace")

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise CheckpointError("is damaged: its pickle takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise CheckpointError("is damaged: its pickle closes a group that was never opened")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def key(self, value: Any) -> Any:
        """A dictionary key whose hash nobody can make expensive."""
        kind = type(value)
        if kind is str:
            if len(value) > 4096:
                raise UnsafeCheckpoint("holds a key of more than 4,096 characters")
            return value
        self.budget.spend("keys that are no text")
        if kind is bool or value is None:
            return value
        if kind is int and abs(value) < 2**61 - 1:
            return value
        if kind is Token:
            return str(value)
        self.budget.spend("keys that are tuples, bytes or fractions")
        if kind is float:
            return value
        if kind is memoryview and len(value) <= 256:
            return bytes(value)
        if kind is tuple and len(value) <= 16 and all(_flat(part) for part in value):
            return value
        raise UnsafeCheckpoint("uses a value as a dictionary key that no checkpoint needs as one")

    def put(self, target: Any, key: Any, value: Any) -> None:
        if not isinstance(target, dict):
            raise UnsafeCheckpoint(f"sets an item of a {_kind(target)}")
        target[self.key(key)] = value

    def remember(self, index: int) -> None:
        self.budget.spend("memo entries")
        if index >= LIMITS["memo entries"] or index in self.memo:
            raise UnsafeCheckpoint(f"writes the memo entry {index:,}, which a pickler never does")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise CheckpointError(f"is damaged: its pickle refers to the value {index:,}, which it does not hold")
        self.stack.append(self.memo[index])

    def text(self, view: memoryview) -> Any:
        if len(view) > LONG_TEXT:
            return Text(view)
        self.budget.spend("bytes of text", len(view))
        try:
            return str(view, "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise CheckpointError("is damaged: it holds text that is not UTF-8") from None

    def old_text(self, size: int) -> Any:
        """Python 2 wrote text and bytes alike; long ones are bytes of arrays."""
        if size < 0:
            raise CheckpointError("is damaged: it holds text of negative length")
        view = self.take(size)
        if size > 1 << 16:
            return view
        self.budget.spend("bytes of text", size)
        return str(view, "latin-1")

    def name(self, module: Any, name: Any) -> Token:
        if type(module) is not str or type(name) is not str:
            raise UnsafeCheckpoint("builds the name of a global out of something that is no text")
        self.budget.spend("Python names")
        token = Token(module, name)
        if token not in KNOWN:
            raise foreign(module, name)
        return token

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Token:
            raise UnsafeCheckpoint(f"calls a {_kind(function)}")
        if type(arguments) is not tuple:
            raise UnsafeCheckpoint(f"calls {function} with a {_kind(arguments)} instead of arguments")
        self.budget.spend("values", len(arguments))
        call = CALLS.get(function)
        if call is None:
            raise UnsafeCheckpoint(f"calls {function}, which is only known as a name")
        least, most = ARGUMENTS[function]
        if not least <= len(arguments) <= most:
            raise UnsafeCheckpoint(f"calls {function} with {len(arguments)} arguments")
        self.stack.append(call(self, *arguments))

    def new(self) -> None:
        arguments, cls = self.pop(), self.pop()
        kind = OBJECTS.get(cls) if type(cls) is Token else None
        if kind is None:
            raise UnsafeCheckpoint(f"makes an object of {shown(cls) if type(cls) is Token else _kind(cls)}")
        if arguments != ():
            raise UnsafeCheckpoint(f"makes an object of {cls} with arguments")
        self.stack.append(Shell(kind))

    def build(self) -> None:
        state = self.pop()
        set_state(self, self.top(), state)

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise UnsafeCheckpoint(f"appends to a {_kind(target)}")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            raise CheckpointError("is damaged: it sets a key without a value")
        for i in range(0, len(values), 2):
            self.put(target, values[i], values[i + 1])

    def add_items(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            raise UnsafeCheckpoint(f"adds members to a {_kind(target)}")
        target.update(self.key(value) for value in values)

    def open_frame(self) -> None:
        if self.pos < self.frame:
            raise UnsafeCheckpoint("holds a pickle frame inside a frame")
        size = self.number("<Q")
        if size > len(self.data) - self.pos:
            raise CheckpointError("is cut off: a frame of its pickle is longer than the file")
        self.frame = self.pos + size

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise UnsafeCheckpoint("refers to data outside of itself")
        self.stack.append(self.persistent(self.pop()))


def _flat(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**61 - 1
    return type(value) in (str, bool, float) or value is None


def _kind(value: Any) -> str:
    names = {memoryview: "byte string", dict: "dictionary", Token: "name", Shell: "dictionary", Text: "text"}
    return names.get(type(value), "text" if type(value) is str else type(value).__name__.lower())


def _name(code: int) -> str:
    known = code2op.get(chr(code))
    return known.name if known else f"0x{code:02x}"


def _push(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value(m))


def _tuple(size: int) -> Callable[[Machine], None]:
    def operation(m: Machine) -> None:
        values = [m.pop() for _ in range(size)]
        m.stack.append(tuple(reversed(values)))

    return operation


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.stack.append(m.name(module, name))


def _one_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.put(m.top(), key, value)


def _long(m: Machine) -> int:
    return int.from_bytes(m.take(m.take(1)[0]), "little", signed=True)


OPCODES: dict[int, Callable[[Machine], None]] = {
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("J"): _push(lambda m: m.number("<i")),
    ord("K"): _push(lambda m: m.number("<B")),
    ord("M"): _push(lambda m: m.number("<H")),
    0x8A: _push(_long),
    ord("G"): _push(lambda m: m.number(">d")),
    ord("U"): _push(lambda m: m.old_text(m.number("<B"))),
    ord("T"): _push(lambda m: m.old_text(m.number("<i"))),
    0x8C: _push(lambda m: m.text(m.take(m.number("<B")))),
    ord("X"): _push(lambda m: m.text(m.take(m.number("<I")))),
    0x8D: _push(lambda m: m.text(m.take(m.number("<Q")))),
    ord("C"): _push(lambda m: m.take(m.number("<B"))),
    ord("B"): _push(lambda m: m.take(m.number("<I"))),
    0x8E: _push(lambda m: m.take(m.number("<Q"))),
    0x96: _push(lambda m: m.take(m.number("<Q"))),  # BYTEARRAY8
    ord(")"): _push(lambda m: ()),
    ord("]"): _push(lambda m: []),
    ord("}"): _push(lambda m: {}),
    0x8F: _push(lambda m: set()),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): lambda m: m.stack.append(tuple(m.since_mark())),
    0x91: lambda m: m.stack.append(frozenset(m.key(v) for v in m.since_mark())),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("s"): _one_item,
    ord("u"): lambda m: m.set_items(m.since_mark()),
    0x90: lambda m: m.add_items(m.since_mark()),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.number("<B")),
    ord("j"): lambda m: m.recall(m.number("<I")),
    ord("c"): _push(lambda m: m.name(m.line(), m.line())),
    0x93: _stack_global,
    ord("R"): Machine.reduce,
    0x81: Machine.new,
    ord("b"): Machine.build,
    ord("Q"): Machine.persistent_id,
    0x95: Machine.open_frame,
}
