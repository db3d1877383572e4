"""What the pickle machine builds instead of objects, and the budget that it builds them on."""

from __future__ import annotations

from typing import Any, NamedTuple

from ganhub.errors import UnsafeCheckpoint

INSTRUCTIONS = 600_000
LIMITS = {
    "memo entries": 500_000,
    "bytes of text": 64 << 20,
    "keys that are no text": 20_000,
    "keys that are tuples, bytes or fractions": 1_000,
    "nested streams": 6_000,
    "strided copies": 250_000,
    "Python names": 10_000,
    "unpacked bytes": 256 << 20,
    "values": 250_000,
    "characters of names and settings": 4 << 20,
}
LONG_TEXT = 1 << 20
"""Characters; longer text stays a view, because protocol 2 writes arrays as text."""


class Budget:
    """What one file may cost; shared by all streams inside it."""

    def __init__(self) -> None:
        self.left = dict(LIMITS)
        self.instructions = INSTRUCTIONS  # an attribute of its own, because it is counted most

    def spend(self, what: str, amount: int = 1) -> None:
        self.left[what] -= amount
        if self.left[what] < 0:
            raise UnsafeCheckpoint(f"holds more than {LIMITS[what]:,} {what}, which no checkpoint needs")


class Token(NamedTuple):
    """A name in a file. Nothing is imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Text:
    """UTF-8 text too long to decode without need."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview):
        self.view = view


class Shell(dict):
    """A dictionary that stands for an object of a class named in `symbols.py`."""

    __slots__ = ("kind",)

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind


class Instance(dict):
    """A table of a Torch7 class."""

    __slots__ = ("class_name",)

    def __init__(self, class_name: str):
        super().__init__()
        self.class_name = class_name


def shown(text: object) -> str:
    """Text of a file for a message: short, printable, in quotes."""
    plain = str(text)[:80].encode("ascii", "backslashreplace").decode("ascii")
    return "'" + "".join(c if c.isprintable() else "?" for c in plain) + "'"


class Storage:
    """The numbers of torch tensors: `dtype` in the words of safetensors, `size` in elements.

    `data` is None until the bytes of the file are found for it.
    """

    __slots__ = ("dtype", "size", "data")

    def __init__(self, dtype: str, size: int, data: memoryview | None = None):
        self.dtype, self.size, self.data = dtype, size, data


class Tensor:
    """A checked view of a storage: offset, shape and strides in elements of `dtype`; `swapped` is big-endian."""

    __slots__ = ("storage", "dtype", "offset", "shape", "strides", "swapped")

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: str | None = None,
        swapped: bool = False,
    ):
        self.dtype = dtype or storage.dtype
        check_view(storage.size * SIZES[storage.dtype] // SIZES[self.dtype], offset, shape, strides)
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        self.swapped = swapped

    @property
    def count(self) -> int:
        return product(self.shape)


class Persistent:
    """An object that NVIDIA's `persistence` saved: class name, source text and state."""

    __slots__ = ("meta",)

    def __init__(self, meta: dict):
        self.meta = meta


class DType:
    """A NumPy element type: `code` such as `f4`, `U12`; byte order `<`, `>`, `|` or `=`."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, order: str = "<"):
        self.code, self.order = code, order


class Array:
    """A NumPy array that is being built; `tensor` is None until its state came."""

    __slots__ = ("tensor",)

    def __init__(self) -> None:
        self.tensor: Tensor | None = None


SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of an element, by the names that safetensors gives them."""


def product(numbers: tuple[int, ...]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def check_view(size: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """A tensor must lie inside its storage and hold no element twice.

    Raises:
        UnsafeCheckpoint: it does not.
    """
    if len(shape) != len(strides):
        raise UnsafeCheckpoint("holds a tensor whose shape and strides do not match")
    if type(offset) is not int or not 0 <= offset < 1 << 48:
        raise UnsafeCheckpoint("holds a tensor with an impossible offset")
    count = product(shape)
    if count == 0:
        return
    if any(n > 1 and stride == 0 for n, stride in zip(shape, strides, strict=True)):
        raise UnsafeCheckpoint("holds a tensor that repeats one element by a stride of zero")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= size or count > size - offset:
        raise UnsafeCheckpoint(f"holds a tensor of {count:,} elements that reaches outside its storage of {size:,}")


def integers(value: Any) -> tuple[int, ...]:
    """A shape or strides as a tuple.

    Raises:
        UnsafeCheckpoint: it is no short list of whole numbers that a tensor could have.
    """
    if type(value) not in (tuple, list) or len(value) > 8:
        raise UnsafeCheckpoint("holds a tensor whose shape is no short list")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in value):
        raise UnsafeCheckpoint("holds a tensor with an impossible shape or stride")
    return tuple(value)
