"""What the names in a checkpoint may stand for, by exact module and name. Everything else is refused.

An entry here never imports or calls what it is named after: it builds data from checked arguments.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ganhub.checkpoint.nodes import (
    Array,
    DType,
    Persistent,
    Shell,
    Storage,
    Tensor,
    Text,
    Token,
    integers,
    product,
    shown,
)
from ganhub.errors import CheckpointError, UnsafeCheckpoint

if TYPE_CHECKING:
    from ganhub.checkpoint.machine import Machine

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
DTYPES = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16",
    "short": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
NUMPY = {
    "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
    "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "b1": "BOOL",
}  # fmt: skip
STORAGE_TYPES = {Token(module, name): kind for name, kind in STORAGES.items() for module in ("torch", "torch.storage")}
STORAGE_TYPES |= {Token("torch.cuda", name): kind for name, kind in STORAGES.items()}
TENSOR_TYPES = {Token("torch", name): kind for name, kind in DTYPES.items()}
_BUILTIN = ("int", "float", "str", "bool", "list", "tuple", "object", "long", "unicode")
ARRAY = Token("numpy", "ndarray")
DTYPE = Token("numpy", "dtype")
PLAIN = {
    # Classes that only stand as arguments or as plain values.
    *(Token("numpy", name) for name in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool_")),
    *(Token(module, name) for module in ("builtins", "__builtin__") for name in _BUILTIN),
    Token("torch", "Tensor"),
    Token("torch.nn.parameter", "Parameter"),
    ARRAY,
}


def _numbers(m: Machine, dtype: Any, data: Any) -> tuple[DType, memoryview]:
    if type(dtype) is not DType:
        raise UnsafeCheckpoint("holds an array whose element type is no NumPy type")
    if type(data) is str:  # Python 2 wrote bytes as text
        m.budget.spend("unpacked bytes", len(data))
        try:
            data = memoryview(data.encode("latin-1"))
        except UnicodeEncodeError:
            raise CheckpointError("is damaged: it holds an array as text") from None
    if type(data) is not memoryview:
        raise UnsafeCheckpoint("holds an array whose data are no bytes")
    return dtype, data


def array(dtype: DType, data: memoryview, shape: tuple[int, ...], fortran: bool) -> Tensor:
    """A NumPy array over its bytes.

    Raises:
        CheckpointError: an element type without numbers, or bytes that do not fill the shape.
    """
    kind = NUMPY.get(dtype.code)
    if kind is None:
        raise CheckpointError(f"holds a NumPy array of the type {shown(dtype.code)}; only plain numbers are read")
    width = int(dtype.code[1])
    if product(shape) * width != len(data):
        raise UnsafeCheckpoint(f"holds an array of the shape {shown(list(shape))} over {len(data):,} bytes")
    strides = []
    step = 1
    for n in shape if fortran else reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    storage = Storage(kind, len(data) // width, data)
    ordered = tuple(strides) if fortran else tuple(reversed(strides))
    return Tensor(storage, 0, shape, ordered, swapped=dtype.order == ">" and width > 1)


def _rebuild_array(m: Machine, cls: Any, shape: Any, code: Any) -> Array:
    if type(cls) is not Token or cls != ARRAY or shape != (0,):
        raise UnsafeCheckpoint("makes a NumPy array in a way that NumPy never writes")
    return Array()


def _dtype(m: Machine, code: Any, align: Any = False, copy: Any = True) -> DType:
    if type(code) is not str or not 1 <= len(code) <= 12:
        raise UnsafeCheckpoint("names a NumPy element type by something that is no text")
    order = "<"
    if code[0] in "<>|=":
        order, code = code[0], code[1:]
    return DType({"?": "b1", "bool": "b1"}.get(code, code), order)


def _scalar(m: Machine, dtype: Any, data: Any) -> Any:
    dtype, data = _numbers(m, dtype, data)
    if dtype.code[:1] in "US" and dtype.code[1:].isdigit() and len(data) <= 1 << 16:
        m.budget.spend("bytes of text", len(data))
        return text_of(dtype, data)
    form = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"}.get(dtype.code)
    form = form or {"u8": "Q", "u4": "I", "u2": "H", "u1": "B"}.get(dtype.code)
    if form is None:
        raise CheckpointError(f"holds a NumPy number of the type {shown(dtype.code)}, which is not read")
    form = (">" if dtype.order == ">" else "<") + form
    if struct.calcsize(form) != len(data):
        raise UnsafeCheckpoint("holds a NumPy number of the wrong size")
    return struct.unpack(form, data)[0]


def text_of(dtype: DType, data: memoryview) -> str:
    """One fixed-width NumPy string."""
    codec = ("utf-32-be" if dtype.order == ">" else "utf-32-le") if dtype.code[0] == "U" else "latin-1"
    try:
        return str(data, codec).rstrip("\0")
    except UnicodeDecodeError:
        raise CheckpointError("is damaged: it holds NumPy text that is not text") from None


def _from_buffer(m: Machine, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Tensor:
    dtype, data = _numbers(m, dtype, data)
    if order not in ("C", "F") or axes is not None:
        raise UnsafeCheckpoint("holds a NumPy array of an unknown memory order")
    return array(dtype, data, integers(shape), order == "F")


def _view(m: Machine, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None) -> Tensor:
    if type(storage) is not Storage:
        raise UnsafeCheckpoint("makes a tensor of something that is no storage")
    m.budget.spend("values")
    return Tensor(storage, offset, integers(size), integers(stride), dtype)


def _tensor_v2(
    m: Machine, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    return _view(m, storage, offset, size, stride)


def _tensor_v3(
    m: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    kind = TENSOR_TYPES.get(dtype) if type(dtype) is Token else None
    if kind is None or type(storage) is not Storage or storage.dtype != "U8":
        raise UnsafeCheckpoint("holds a tensor of an unknown element type")
    return _view(m, storage, offset, size, stride, kind)


def _parameter(m: Machine, data: Any, grad: Any, hooks: Any, state: Any = None) -> Tensor:
    if type(data) is not Tensor:
        raise UnsafeCheckpoint("makes a parameter of something that is no tensor")
    return data


def _from_type(m: Machine, function: Any, cls: Any, arguments: Any, state: Any) -> Tensor:
    rebuild: dict[str, Callable[..., Tensor]] = {"_rebuild_tensor_v2": _tensor_v2, "_rebuild_parameter": _parameter}
    if type(function) is not Token or function.module != "torch._utils" or function.name not in rebuild:
        raise UnsafeCheckpoint(f"makes a tensor by {shown(function)}")
    call = rebuild[function.name]
    least, most = _counts(call)
    if type(arguments) is not tuple or not least <= len(arguments) <= most:
        raise UnsafeCheckpoint(f"makes a tensor by {function.name} with the wrong arguments")
    return call(m, *arguments)


def _load_bytes(m: Machine, data: Any) -> Storage:
    if m.nested is None:
        raise UnsafeCheckpoint("holds a storage inside a storage")
    if type(data) is not memoryview:
        raise UnsafeCheckpoint("holds a storage that is no byte string")
    m.budget.spend("nested streams")
    m.nested_streams += 1
    return m.nested(data, m.budget)


def _persistent(m: Machine, meta: Any) -> Persistent:
    if not isinstance(meta, dict):
        raise UnsafeCheckpoint("holds a network without a description")
    return Persistent(meta)


def _encode(m: Machine, text: Any, codec: Any) -> memoryview:
    if codec not in ("latin1", "latin-1"):
        raise UnsafeCheckpoint("encodes text in a way that pickle never does")
    try:
        if type(text) is Text:
            m.budget.spend("unpacked bytes", len(text.view))
            return memoryview(str(text.view, "utf-8").encode("latin-1"))
        if type(text) is str:
            m.budget.spend("unpacked bytes", len(text))
            return memoryview(text.encode("latin-1"))
    except UnicodeError:
        raise CheckpointError("is damaged: it holds bytes as text that is not Latin-1") from None
    raise UnsafeCheckpoint("encodes something that is no text")


def _bytes(m: Machine, data: Any = None, codec: Any = None) -> memoryview:
    if data is None:
        return memoryview(b"")
    if type(data) is memoryview and codec is None:
        return data
    if type(data) is str and codec is not None:
        return _encode(m, data, codec)
    raise UnsafeCheckpoint("makes a byte string out of something that is no bytes")


def _members(m: Machine, values: Any = ()) -> set:
    if type(values) not in (list, tuple, set, frozenset):
        raise UnsafeCheckpoint("makes a set out of something that is no list")
    m.budget.spend("values", len(values))
    return {m.key(value) for value in values}


def _frozen(m: Machine, values: Any = ()) -> frozenset:
    return frozenset(_members(m, values))


def _namespace(m: Machine) -> Shell:
    return Shell("namespace")


def _ordered(m: Machine, pairs: Any = ()) -> Shell:
    result = Shell("dict")
    if type(pairs) not in (list, tuple):
        raise UnsafeCheckpoint("makes a dictionary out of something that is no list of pairs")
    m.budget.spend("values", len(pairs))
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise UnsafeCheckpoint("makes a dictionary out of something that is no list of pairs")
        m.put(result, pair[0], pair[1])
    return result


def _default(m: Machine, factory: Any = None) -> Shell:
    if factory is not None and type(factory) is not Token:
        raise UnsafeCheckpoint("makes a dictionary whose default is no class")
    return Shell("dict")


def _numbers_of(m: Machine, *values: Any) -> list:
    if any(type(v) not in (int, float) and v is not None for v in values):
        raise UnsafeCheckpoint("makes a number or a range out of something else")
    return list(values)


def _size(m: Machine, values: Any) -> list[int]:
    return list(integers(values))


def _device(m: Machine, kind: Any, index: Any = None) -> str:
    if type(kind) is not str:
        raise UnsafeCheckpoint("names a device by something that is no text")
    return kind[:32]


def _path(m: Machine, *parts: Any) -> str:
    if len(parts) > 64 or any(type(part) is not str or len(part) > 1024 for part in parts):
        raise UnsafeCheckpoint("names a path by something that is no short text")
    m.budget.spend("bytes of text", sum(map(len, parts)))
    return "/".join(parts).replace("//", "/")


CALLS: dict[Token, Callable[..., Any]] = {
    Token("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    Token("torch.storage", "_load_from_bytes"): _load_bytes,
    Token("torch._utils", "_rebuild_tensor"): _view,
    Token("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    Token("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    Token("torch._utils", "_rebuild_parameter"): _parameter,
    Token("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Token("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    Token("torch", "Size"): _size,
    Token("torch", "device"): _device,
    Token("collections", "OrderedDict"): _ordered,
    Token("collections", "defaultdict"): _default,
    Token("_codecs", "encode"): _encode,
    Token("types", "SimpleNamespace"): _namespace,
    Token("pathlib", "PosixPath"): _path,
    Token("pathlib", "WindowsPath"): _path,
    Token("pathlib._local", "PosixPath"): _path,
    Token("pathlib._local", "WindowsPath"): _path,
    DTYPE: _dtype,
}
for _module in ("numpy.core", "numpy._core"):
    CALLS[Token(f"{_module}.multiarray", "_reconstruct")] = _rebuild_array
    CALLS[Token(f"{_module}.multiarray", "scalar")] = _scalar
    CALLS[Token(f"{_module}.numeric", "_frombuffer")] = _from_buffer
for _module in ("builtins", "__builtin__"):
    CALLS |= {
        Token(_module, "set"): _members,
        Token(_module, "frozenset"): _frozen,
        Token(_module, "bytes"): _bytes,
        Token(_module, "bytearray"): _bytes,
        Token(_module, "dict"): _ordered,
        Token(_module, "complex"): _numbers_of,
        Token(_module, "range"): _numbers_of,
        Token(_module, "xrange"): _numbers_of,
        Token(_module, "slice"): _numbers_of,
    }


def _counts(call: Callable[..., Any]) -> tuple[int, int]:
    parameters = inspect.signature(call).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 0, 1 << 20
    return sum(p.default is p.empty for p in parameters) - 1, len(parameters) - 1


ARGUMENTS = {token: _counts(call) for token, call in CALLS.items()}
"""The least and the most arguments of every call, the machine not counted."""

OBJECTS = {
    Token("dnnlib.util", "EasyDict"): "dict",
    Token("argparse", "Namespace"): "namespace",
    Token("dnnlib.tflib.network", "Network"): "tf",
    Token("pytorch_lightning.utilities.parsing", "AttributeDict"): "dict",
    Token("lightning_fabric.utilities.data", "AttributeDict"): "dict",
    Token("lightning.fabric.utilities.data", "AttributeDict"): "dict",
}

KNOWN = frozenset((*PLAIN, *CALLS, *OBJECTS, *STORAGE_TYPES, *TENSOR_TYPES))


def foreign(module: str, name: str) -> UnsafeCheckpoint:
    """The refusal of a name that is not in the tables."""
    what = shown(f"{module}.{name}")
    if module.startswith(("__main__", "torch.nn.", "models", "model.", "networks")):
        return UnsafeCheckpoint(
            f"was saved as a Python object of the class {what} instead of its weights, and would need that code; "
            "save its state_dict() where the code is"
        )
    if module.startswith(("__torch__", "torch.jit")):
        return UnsafeCheckpoint(f"is a TorchScript program (it names {what}), which is code; its weights are needed")
    return UnsafeCheckpoint(f"asks for the Python name {what}, which no weights need")


def set_state(m: Machine, target: Any, state: Any) -> None:
    """What BUILD does, for the few things that have a state.

    Raises:
        UnsafeCheckpoint: the target or its state is something else.
    """
    if type(target) is Array and target.tensor is None:
        if type(state) is not tuple or len(state) != 5:
            raise UnsafeCheckpoint("gives a NumPy array a state that NumPy never writes")
        _, shape, dtype, fortran, data = state
        dtype, data = _numbers(m, dtype, data)
        target.tensor = array(dtype, data, integers(shape), bool(fortran))
    elif type(target) is DType:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnsafeCheckpoint("gives a NumPy element type a state that NumPy never writes")
        target.order = state[1]
    elif type(target) is Shell:
        if type(state) is tuple and len(state) == 2 and state[0] is None:
            state = state[1]
        if not isinstance(state, dict):
            raise UnsafeCheckpoint("gives a dictionary a state that is no dictionary")
        m.budget.spend("values", len(state))
        if target.kind != "dict":  # the state of an OrderedDict is torch's `_metadata`
            for key, value in state.items():
                m.put(target, key, value)
    elif type(target) is Tensor:
        pass  # attributes of a parameter
    else:
        raise UnsafeCheckpoint("sets the state of something that has none")
