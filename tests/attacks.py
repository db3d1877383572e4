"""The corpus of attacks: name -> (bytes, a piece of the sentence that refuses it). Built here, nothing is committed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile

import opcodes as op
from opcodes import Call, Name, New, Persistent, Raw

NUMBERS = struct.pack("<6f", *range(6))
WEIGHT = op.tensor(op.nested(NUMBERS), (2, 3))
LINEAR = op.tensor(op.storage_id("0", 6), (2, 3))
DICT = Call(Name("collections", "OrderedDict"))


def net(**state) -> dict:
    return op.snapshot(op.module({"weight": WEIGHT}, **state))


def in_net(value, protocol: int = 2) -> bytes:
    """A snapshot whose tensors are fine, with one more value in it."""
    return op.dumps({**net(), "training_set_kwargs": value}, protocol)


def code_runners(marker: str) -> dict[str, tuple[bytes, str]]:
    """Files that run a command under Python's unpickler, or one step further."""
    touch = f"touch {marker}"
    source = f"open({marker!r}, 'w').write('x')"
    system = Call(Name("posix", "system"), (touch,))
    calls = {
        "posix.system": system,
        "os.system": Call(Name("os", "system"), (touch,)),
        "builtins.eval": Call(Name("builtins", "eval"), (source,)),
        "builtins.exec": Call(Name("builtins", "exec"), (source,)),
        "__builtin__.execfile": Call(Name("__builtin__", "execfile"), (marker,)),
        "builtins.__import__": Call(Name("builtins", "__import__"), ("antigravity",)),
        "builtins.getattr": Call(
            Call(Name("builtins", "getattr"), (Call(Name("builtins", "__import__"), ("os",)), "system")), (touch,)
        ),
        "subprocess.Popen": Call(Name("subprocess", "Popen"), (["touch", marker],)),
        "pty.spawn": Call(Name("pty", "spawn"), (["touch", marker],)),
        "numpy.testing._private.utils.runstring": Call(Name("numpy.testing._private.utils", "runstring"), (source, {})),
        "numpy.f2py.crackfortran.getlincoef": Call(Name("numpy.f2py.crackfortran", "getlincoef"), (source, [])),
        "torch.utils.collect_env.run": Call(Name("torch.utils.collect_env", "run"), (touch,)),
        "torch.serialization._legacy_load": Call(Name("torch.serialization", "_legacy_load"), (b"", None)),
        "torch.load": Call(Name("torch", "load"), (marker,)),
        "numpy.load": Call(Name("numpy", "load"), (marker, None, True)),
        "pkgutil.resolve_name": Call(Call(Name("pkgutil", "resolve_name"), ("os:system",)), (touch,)),
        "importlib.import_module": Call(Name("importlib", "import_module"), ("this",)),
        "operator.methodcaller": Call(Call(Name("operator", "methodcaller"), ("system", touch)), (Name("os", "path"),)),
        "operator.attrgetter": Call(Name("operator", "attrgetter"), ("system",)),
        "pip.main": Call(Name("pip", "main"), (["install", "x"],)),
        "runpy._run_code": Call(Name("runpy", "_run_code"), (source, {})),
        "timeit.timeit": Call(Name("timeit", "timeit"), (source,)),
        "_posixsubprocess.fork_exec": Call(Name("_posixsubprocess", "fork_exec"), ([b"/bin/true"],)),
        "_interpreters.exec": Call(Name("_interpreters", "exec"), (0, source)),
        "functools.partial": Call(Call(Name("functools", "partial"), (Name("os", "system"), touch))),
        "types.FunctionType": Call(Name("types", "FunctionType"), (None, {})),
        "ctypes.CDLL": Call(Name("ctypes", "CDLL"), (marker,)),
        "shutil.copyfile": Call(Name("shutil", "copyfile"), ("/etc/hostname", marker)),
        "builtins.open": Call(Name("builtins", "open"), (marker, "w")),
        "copyreg._reconstructor": Call(Name("copyreg", "_reconstructor"), (Name("os", "x"), Name("os", "y"), None)),
        "copyreg.add_extension": Call(Name("copyreg", "add_extension"), ("os", "system", 1)),
        "bdb.Bdb.run": Call(Name("bdb", "Bdb.run"), (source,)),
        "torch.FloatTensor": Call(Name("torch", "FloatTensor"), (2**36,)),
        "torch_utils.persistence.import_hook": Call(Name("torch_utils.persistence", "import_hook"), ()),
    }
    found = {f"call {name}": (in_net(value), f"'{name}'") for name, value in calls.items()}
    dotted = {
        "torch": "serialization.os.system",
        "torch._utils": "_rebuild_tensor_v2.__globals__",
        "collections": "OrderedDict.fromkeys",
        "numpy": "dtype.__class__",
    }
    for package, name in dotted.items():
        for protocol in (2, 4):
            attack = in_net(Call(Name(package, name), (touch,)), protocol)
            found[f"dotted {package} {name} protocol {protocol}"] = (attack, f"'{package}.{name}'")
    for odd in ("torch._utils ", "torch._utils\r", "Torch._utils", "torch._utils.", "", "torch.\u200b_utils"):
        found[f"name {odd!r}"] = (in_net(Call(Name(odd, "_rebuild_tensor_v2"), ()), 4), "asks for the Python name")
    whole = New(Name("__main__", "Generator"), state={"a": 1})
    found["whole module"] = (op.dumps(whole), "class '__main__.Generator' instead of its weights")
    torch_module = New(Name("torch.nn.modules.linear", "Linear"), state={"a": 1})
    found["whole torch module"] = (op.torch_zip(torch_module, {}), "save its state_dict()")
    found["protocol 0"] = (f"cposix\nsystem\n(S'{touch}'\ntR.".encode(), "'posix.system'")
    found["protocol 0 in a list"] = (f"(lp0\ncposix\nsystem\n(S'{touch}'\ntRa.".encode(), "LIST")
    found["protocol 1"] = (
        b"}q\0(U\1acposix\nsystem\n(U" + bytes([len(touch)]) + touch.encode() + b"tRu.",
        "posix.system",
    )
    opcodes = {
        "INST": b"(X\1\0\0\0aiposix\nsystem\n",
        "OBJ": b"(cbuiltins\nlist\no",
        "EXT1": b"\x82\1",
        "EXT2": b"\x83\1\0",
        "EXT4": b"\x84\1\0\0\0",
        "NEWOBJ_EX": b"cdnnlib.util\nEasyDict\n)}\x92",
        "PERSID": b"Phttp://x\n",
        "DUP": b"N2",
        "POP": b"NN0",
        "POP_MARK": b"N(N1",
        "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "STRING": b"S'x'\n",
        "UNICODE": b"Vx\n",
        "INT": b"I1\n",
        "LONG": b"L1\n",
        "FLOAT": b"F1\n",
        "GET": b"g0\n",
        "NEXT_BUFFER": b"\x97",
        "READONLY_BUFFER": b"N\x98",
        "0xff": b"\xff",
    }
    found |= {f"opcode {name}": (in_net(Raw(code)), f"instruction {name}") for name, code in opcodes.items()}
    found["persistent id"] = (in_net(Persistent(("storage", Name("torch", "FloatStorage"), "0", "cpu", 6))), "outside")
    for place, name in enumerate(("magic", "protocol", "system", "object", "keys")):
        bad = op.dumps(system)
        found[f"nested {name}"] = (op.dumps(net_with(op.nested(NUMBERS, parts={place: bad}))), "'posix.system'")
    load = Name("torch.storage", "_load_from_bytes")
    found["nested bare pickle"] = (op.dumps(net_with(Call(load, (op.dumps(system),)))), "'posix.system'")
    found["nested in protocol 4"] = (in_net(Call(load, (op.dumps(system, 4),)), 4), "'posix.system'")
    found["zip with a call"] = (op.torch_zip({"w": LINEAR, "x": system}, {"0": NUMBERS}), "'posix.system'")
    found["stream with a call"] = (op.stream({"x": system}, {}), "'posix.system'")
    found["TorchScript"] = (
        op.torch_zip({"w": LINEAR}, {"0": NUMBERS}, **{"archive/code/__torch__.py": source.encode()}),
        "TorchScript",
    )
    found["TorchScript constants"] = (op.torch_zip({}, {}, **{"archive/constants.pkl": b"x"}), "TorchScript")
    found["TorchScript class"] = (op.torch_zip(New(Name("__torch__", "Net")), {}), "TorchScript")
    found["source text without tensors"] = (op.dumps(op.snapshot(op.module(source=source))), "no tensors")
    tf = {"build_module_src": source, "build_func_name": "G", "static_kwargs": {}, "variables": []}
    network = New(Name("dnnlib.tflib.network", "Network"), state=tf)
    found["TensorFlow source without variables"] = (op.dumps((network, network, network)), "no tensors")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("params.npy", npy("|O", "(1,)") + pickle.dumps([1]) + op.dumps(system))
    found["npz of objects"] = (out.getvalue(), "Python objects")
    found["npy of objects"] = (npy("|O", "(1,)") + op.dumps(system), "Python objects")
    found["npy header with code"] = (npy_header(f"{{'descr': {source}, 'shape': (1,)}}"), "header")
    found["second pickle after the end"] = (op.dumps(net()) + op.dumps(system), "after its end")
    found["zip behind a pickle"] = (op.dumps(net()) + op.torch_zip(system, {}), "after its end")
    found["pickle before a zip"] = (op.dumps(system)[:-1] + op.torch_zip({"w": LINEAR}, {"0": NUMBERS}), "posix.system")
    found["script before a zip"] = (b"#!/bin/sh\n" + op.torch_zip({"w": LINEAR}, {"0": NUMBERS}), "script")
    return found


def net_with(storage) -> dict:
    return op.snapshot(op.module({"weight": op.tensor(storage, (2, 3))}))


def npy_header(header: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"


def npy(descr: str, shape: str) -> bytes:
    return npy_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


def odd_calls() -> dict[str, tuple[bytes, str]]:
    """Known names, used as nobody uses them."""
    utils, multi = "torch._utils", "numpy.core.multiarray"
    dtype = Call(Name("numpy", "dtype"), ("f4", 0, 1))
    shell = Call(Name(multi, "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"))
    values = {
        "bytearray of a number": (Call(Name("builtins", "bytearray"), (10**11,)), "byte string out of"),
        "bytes of a number": (Call(Name("builtins", "bytes"), (10**11,)), "byte string out of"),
        "storage of a number": (Call(Name("torch.storage", "_load_from_bytes"), (10**9,)), "no byte string"),
        "storage of nothing": (Call(Name("torch.storage", "_load_from_bytes"), ()), "0 arguments"),
        "tensor of a dictionary": (op.tensor({}, (1,)), "no storage"),
        "tensor without arguments": (Call(Name(utils, "_rebuild_tensor_v2"), ()), "0 arguments"),
        "parameter of a text": (Call(Name(utils, "_rebuild_parameter"), ("x", True, DICT)), "no tensor"),
        "tensor by a foreign function": (
            Call(Name("torch._tensor", "_rebuild_from_type_v2"), (Name("builtins", "set"), 1, (), {})),
            "makes a tensor by",
        ),
        "call of a dictionary": (Call({}, ()), "calls a dictionary"),
        "call of a class that is only a name": (Call(Name("numpy", "float64"), ("1",)), "only known as a name"),
        "arguments that are a list": (Call(Name("collections", "OrderedDict"), [1]), "instead of arguments"),
        "dictionary of texts": (Call(Name("collections", "OrderedDict"), (["ab", 1],)), "list of pairs"),
        "set of dictionaries": (Call(Name("builtins", "set"), ([{}],)), "dictionary key"),
        "default that is no class": (Call(Name("collections", "defaultdict"), ("x",)), "no class"),
        "codec": (Call(Name("_codecs", "encode"), ("x", "zip")), "encodes text"),
        "array of another class": (Call(Name(multi, "_reconstruct"), (Name("builtins", "set"), (0,), b"b")), "NumPy"),
        "array with a large first shape": (
            Call(Name(multi, "_reconstruct"), (Name("numpy", "ndarray"), (2**40,), b"b")),
            "NumPy never writes",
        ),
        "array of objects": (
            shell._replace(state=(1, (1,), Call(Name("numpy", "dtype"), ("O",)), False, [DICT])),
            "bytes",
        ),
        "array larger than its bytes": (shell._replace(state=(1, (2**40,), dtype, False, b"abcd")), "over 4 bytes"),
        "array with a negative side": (shell._replace(state=(1, (-1,), dtype, False, b"abcd")), "impossible shape"),
        "array of 100,000 sides": (shell._replace(state=(1, (1,) * 100_000, dtype, False, b"abcd")), "short list"),
        "array state twice": (
            Raw(
                op.emit(shell._replace(state=(1, (1,), dtype, False, b"abcd")))
                + op.emit((1, (1,), dtype, False, b""))
                + b"b"
            ),
            "state",
        ),
        "dtype of a number": (Call(Name("numpy", "dtype"), (5,)), "no text"),
        "dtype of a structure": (
            Call(Name(multi, "scalar"), (Call(Name("numpy", "dtype"), ("V8",)), b"12345678")),
            "V8",
        ),
        "number of the wrong size": (Call(Name(multi, "scalar"), (dtype, b"123")), "wrong size"),
        "state of a plain dictionary": (Raw(b"}}b"), "state of something that has none"),
        "state of a name": (Raw(b"cbuiltins\nset\n}b"), "state of something that has none"),
        "state of a list": (Raw(b"]}b"), "state of something that has none"),
        "object of a function": (New(Name(utils, "_rebuild_tensor_v2")), "makes an object"),
        "object with arguments": (New(Name("dnnlib.util", "EasyDict"), args=(1,)), "with arguments"),
        "object of a text": (New("os"), "makes an object"),
        "items of a tensor": (
            op.tensor(op.nested(NUMBERS), (2, 3))._replace(items={"a": 1}),
            "sets an item of a tensor",
        ),
        "items of a list": (Raw(b"](K\1K\2u"), "sets an item of a list"),
        "append to a dictionary": (Raw(b"}Na"), "appends to a dictionary"),
        "members of a list": (Raw(b"](N\x90"), "adds members to a list"),
        "name made of numbers": (Raw(b"K\1K\2\x93"), "no text"),
        "namespace with a list": (New(Name("argparse", "Namespace"), state=[1]), "no dictionary"),
        "device of a number": (Call(Name("torch", "device"), (1,)), "device"),
        "range of texts": (Call(Name("builtins", "range"), ("a",)), "number or a range"),
    }
    return {f"odd: {name}": (in_net(value), phrase) for name, (value, phrase) in values.items()}


def laughs(first: bytes, group: bytes, levels: int) -> Raw:
    """Each level holds the one before ten times, through the memo."""
    code = b"(" + first + b"r" + struct.pack("<I", 100_000)
    for i in range(levels):
        again = b"j" + struct.pack("<I", 100_000 + i)
        code += b"(" + again * 10 + group + b"r" + struct.pack("<I", 100_001 + i)
    return Raw(code + b"t")


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that would cost much memory or time."""
    head = b"\x80\4"
    long = b"X" + struct.pack("<I", 900_000) + b"a" * 900_000
    listed = b"](" + b"\x8c\1a" * 100_000 + b"e\x94"
    collide = [i * (2**61 - 1) for i in range(1, 20_000)]
    floats = [float(i) * 2.0**61 for i in range(5_000)]
    keys = {"a" * 8: 1}
    load = op.emit(Name("torch.storage", "_load_from_bytes"))
    inner = op.emit((op.stream(op.storage_id("1", 6, legacy=True), {"1": (6, NUMBERS)}),))
    storage_again = b"(" + load + b"r\1\0\0\0" + inner + b"r\2\0\0\0" + b"j\1\0\0\0j\2\0\0\0R" * 20_000 + b"t"
    first = Raw(op.emit(op.nested(bytes(5**8), "ByteStorage", 1)) + b"r\1\0\0\0")
    many, turned = Raw(b"j\1\0\0\0"), tuple(5**i for i in range(8))
    again = op.module(modules=Raw(b"j\1\0\0\0"))
    values = {
        "laughs of tuples": (in_net(laughs(b"X\1\0\0\0a", b"t", 12)), "more than 250,000 values"),
        "laughs of large texts": (in_net(laughs(long, b"t", 5)), "names and settings"),
        "laughs as a key": (in_net(Raw(b"}" + laughs(b"N", b"t", 12).code + b"Ns")), "dictionary key"),
        "deep lists": (head + b"]" * 290_000 + b"a" * 289_999 + b".", "without end"),
        "deep tuples": (in_net(Raw(b")" + b"\x85" * 500_000)), "without end"),
        "list in itself": (op.dumps({"w": [1], "x": Raw(b"]r\x01\0\0\0j\x01\0\0\0a")}), "without end"),
        "module in itself": (
            op.dumps({"G": op.module(modules=Raw(b"}r\1\0\0\0X\1\0\0\0a" + op.emit(again) + b"s"))}),
            "without end",
        ),
        "memo entry 2**31": (in_net(Raw(b"Nr" + struct.pack("<I", 2**31))), "memo entry 2,147,483,648"),
        "memo entry twice": (in_net(Raw(b"Nq\1Nq\1")), "memo entry 1"),
        "memo bomb": (head + b"N" + b"\x94" * 600_000 + b".", "memo entries"),
        "marks": (head + b"(" * 2_000_000 + b".", "instructions"),
        "instructions": (head + b"N" * 1_500_000 + b".", "instructions"),
        "sets": (head + b"\x8f" * 599_000 + b".", "values instead of one"),
        "dictionaries": (head + b"(" + b"}" * 590_000 + b"t.", "values"),
        "text of 2**62 bytes": (in_net(Raw(b"\x8d" + struct.pack("<Q", 2**62))), "cut off"),
        "bytes of 2**62": (in_net(Raw(b"\x8e" + struct.pack("<Q", 2**62))), "cut off"),
        "bytearray of 2**62": (in_net(Raw(b"\x96" + struct.pack("<Q", 2**62)), 5), "cut off"),
        "old text of negative length": (in_net(Raw(b"T" + struct.pack("<i", -5))), "negative length"),
        "colliding numbers": (
            in_net(Raw(b"}(" + b"".join(op.emit(k) + b"N" for k in collide) + b"u")),
            "dictionary key",
        ),
        "colliding fractions": (in_net(Raw(b"}(" + b"".join(op.emit(k) + b"N" for k in floats) + b"u")), "fractions"),
        "colliding tuples": (
            in_net(Raw(b"}(" + b"".join(op.emit((k, k + 1)) + b"N" for k in range(5_000)) + b"u")),
            "keys that are tuples",
        ),
        "many number keys": (
            in_net(Raw(b"}(" + b"".join(op.emit(k << 40) + b"N" for k in range(60_000)) + b"u")),
            "keys that are no text",
        ),
        "long key": (in_net({"k" * 5000: 1}), "key of more than 4,096"),
        "set of a large list again and again": (
            head + listed + b"cbuiltins\nset\n\x94" + b"(" + b"h\1h\0\x85R" * 50_000 + b"t\x87.",
            "values",
        ),
        "dictionary of pairs again and again": (
            head
            + b"]("
            + b"\x8c\1aK\2\x86" * 50_000
            + b"e\x94ccollections\nOrderedDict\n\x94("
            + b"h\1h\0\x85R" * 50_000
            + b"t\x86.",
            "values",
        ),
        "bytes of one text again and again": (
            head + long + b"\x94c_codecs\nencode\n\x94(" + b"h\1h\0X\6\0\0\0latin1\x86R" * 1_000 + b"t\x87.",
            "unpacked bytes",
        ),
        "path of one text again and again": (
            in_net(
                Raw(b"cpathlib\nPosixPath\n(" + op.emit("a" * 1000) + b"r\x01\0\0\0" + b"j\x01\0\0\0" * 90_000 + b"tR")
            ),
            "short text",
        ),
        "arguments without end": (
            in_net(Raw(b"cbuiltins\nrange\n(" + b"N" * 550_000 + b"tR")),
            "values",
        ),
        "number of 255 bytes as a shape": (
            in_net(op.tensor(op.nested(NUMBERS), (1,))._replace(function=Name("torch", "Size"), args=([2**2000] * 7,))),
            "impossible shape",
        ),
        "one storage again and again": (
            op.dumps({"G": op.module({"w": WEIGHT}), "x": Raw(storage_again)}),
            "nested streams",
        ),
        "names without end": (head + b"cnumpy\ndtype\n" * 590_000 + b".", "Python names"),
        "strided copies": (
            op.dumps({"G": op.module({f"w{i}": op.tensor(many if i else first, (5,) * 8, turned) for i in range(6)})}),
            "strided copies",
        ),
        "settings of many texts": (in_net([f"{i:0200d}" for i in range(30_000)]), "names and settings"),
        "shared names": (
            op.dumps({**net(), **{f"k{i}": keys for i in range(3)}, "z": laughs(op.emit({"k" * 4000: 1}), b"t", 4)}),
            "names and settings",
        ),
    }
    return {f"bomb: {name}": case for name, case in values.items()}


def tensors() -> dict[str, tuple[bytes, str]]:
    """Tensors that reach outside their storage, or are larger than the file."""

    def of(shape, stride, offset=0, storage=None):
        return op.dumps(op.snapshot(op.module({"w": op.tensor(storage or op.nested(NUMBERS), shape, stride, offset)})))

    shared = Raw(op.emit(op.nested(bytes(400_000))) + b"r" + struct.pack("<I", 99_999))
    again = Raw(b"j" + struct.pack("<I", 99_999))
    views = {f"w{i}": op.tensor(shared if i == 0 else again, (100_000,)) for i in range(3_000)}
    inner = op.stream(op.storage_id("1", 6, legacy=True), {"1": (6, NUMBERS)})
    load = Name("torch.storage", "_load_from_bytes")
    values = {
        "4 TB by a stride of zero": (of((2**40,), (0,)), "stride of zero"),
        "stride of zero": (of((2, 3), (0, 1)), "stride of zero"),
        "offset past the end": (of((1,), (1,), 2**30), "outside its storage"),
        "negative offset": (of((1,), (1,), -1), "impossible offset"),
        "negative stride": (of((2,), (-1,)), "impossible shape or stride"),
        "offset that is a text": (of((1,), (1,), "0"), "impossible offset"),
        "shape larger than the storage": (of((2**31, 2**31), (1, 1)), "outside its storage"),
        "overlapping rows": (of((3, 3), (1, 1)), "outside its storage"),
        "shape of 2**62": (of((0, 2**62), (1, 1)), "impossible shape"),
        "17 dimensions": (of((1,) * 17, (1,) * 17), "short list"),
        "strides of another length": (of((2, 3), (1,)), "do not match"),
        "fractions as a shape": (of((2.5,), (1,)), "impossible shape"),
        "views of one storage": (op.dumps({"G": op.module(views)}), "bytes of tensors in"),
        "truth values of 7": (of((2,), (1,), 0, op.nested(b"\7\1", "BoolStorage", 1)), "neither true nor false"),
        "storage in a storage": (
            op.dumps(net_with(op.nested(NUMBERS, parts={3: op.dumps(Call(load, (inner,)))}))),
            "storage inside a storage",
        ),
        "storage that is a dictionary": (op.dumps(net_with(op.nested(NUMBERS, parts={3: op.dumps({})}))), "storage"),
        "storage of another size": (
            op.dumps(net_with(Call(load, (op.stream(op.storage_id("1", 6, legacy=True), {"1": (9, NUMBERS)}),)))),
            "6 numbers, then 9",
        ),
        "storage cut off": (op.dumps(net_with(Call(load, (inner[:-4],)))), "cut off"),
        "data after a storage": (op.dumps(net_with(Call(load, (inner + b"x",)))), "after its end"),
        "storage of 2**60": (
            op.dumps(net_with(Call(load, (op.stream(op.storage_id("1", 2**60, legacy=True), {"1": (2**60, b"")}),)))),
            "impossible size",
        ),
        "storage that is missing": (
            op.stream({"w": op.tensor(op.storage_id("a", 6, legacy=True), (6,))}, {}),
            "does not fit",
        ),
        "storage of an unknown type": (
            op.torch_zip({"w": op.tensor(op.storage_id("0", 6, "QInt8Storage"), (6,))}, {"0": b"123456"}),
            "QInt8Storage",
        ),
        "storage described twice": (
            op.torch_zip({"a": LINEAR, "b": op.tensor(op.storage_id("0", 3, "DoubleStorage"), (3,))}, {"0": NUMBERS}),
            "in two ways",
        ),
        "storage larger than its record": (
            op.torch_zip({"w": op.tensor(op.storage_id("0", 2**40), (2**40,))}, {"0": NUMBERS}),
            "1,099,511,627,776 numbers lie in the 24 bytes",
        ),
        "storage by a path": (op.torch_zip({"w": op.tensor(op.storage_id("../../x", 6), (6,))}, {}), "names a storage"),
        "storage that is not there": (op.torch_zip({"w": LINEAR}, {}), "is missing"),
        "big-endian archive": (
            op.torch_zip({"w": LINEAR}, {"0": NUMBERS}, **{"archive/byteorder": b"big"}),
            "big-endian",
        ),
        "npy larger than its bytes": (npy("<f4", "(1099511627776,)"), "over 0 bytes"),
        "npy of 2**100": (npy("<f4", f"({2**100},)"), "impossible shape"),
        "npy with a negative side": (npy("<f4", "(-1,)"), "header"),
        "npy of structures": (
            npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
            "header",
        ),
        "npy header of 4 GB": (b"\x93NUMPY\2\0\xff\xff\xff\xff" + b" " * 100, "longer than it"),
        "parameter that is a text": (op.dumps(op.snapshot(op.module({"w": "x"}))), "no tensor"),
        "modules that are a list": (op.dumps(op.snapshot(op.module({"w": WEIGHT}, [1]))), "no dictionary"),
        "network without a state": (
            op.dumps(op.snapshot(Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), ({},)))),
            "without a state",
        ),
    }
    return {f"tensor: {name}": case for name, case in values.items()}


def archives() -> dict[str, tuple[bytes, str]]:
    """Zip archives that other readers understand in different ways, or that unpack without end."""
    good = {"archive/data.pkl": op.dumps({"w": LINEAR}), "archive/data/0": NUMBERS}
    plain = op.archive(good)

    def named(name: str) -> bytes:
        return op.archive({**good, name: b"x"})

    def with_mode(mode: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            for name, data in good.items():
                z.writestr(name, data)
            link = zipfile.ZipInfo("archive/data/1")
            link.create_system, link.external_attr = 3, mode << 16
            z.writestr(link, b"/etc/passwd")
        return out.getvalue()

    zeros = op.archive({"archive/data.pkl": op.dumps({"w": op.tensor(op.storage_id("0", 2**27), (2**27,))})})
    bomb = io.BytesIO(zeros)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as z, z.open("archive/data/0", "w") as entry:
        for _ in range(512):
            entry.write(bytes(1 << 20))
    first = plain.index(b"PK\1\2")
    second = plain.index(b"PK\1\2", first + 4)
    end = len(plain) - 22
    lying = bytearray(plain)
    lying[second + 42 : second + 46] = struct.pack("<L", 0)  # the second record begins where the first does
    overlap = bytearray(plain)
    overlap[first + 20 : first + 28] = struct.pack("<LL", second - 40, second - 40)
    encrypted = bytearray(plain)
    encrypted[first + 8] |= 1
    method = bytearray(plain)
    method[first + 10] = 12
    sizes = bytearray(op.archive(good, compress=True))
    place = sizes.index(b"PK\1\2")
    sizes[place + 24 : place + 28] = struct.pack("<L", 50)
    count = bytearray(plain)
    count[end + 8 : end + 12] = struct.pack("<HH", 9, 9)
    crc = bytearray(op.archive(good, compress=True))
    crc[place + 16] ^= 1
    values = {
        "DEFLATE bomb": (bomb.getvalue(), "zip bomb"),
        "two data.pkl": (op.archive([*good.items(), ("archive/data.pkl", op.dumps({}))]), "two records named"),
        "two storages of a name": (op.archive([*good.items(), ("archive/data/0", b"other")]), "two records named"),
        "data.pkl in two folders": (op.archive({**good, "other/data.pkl": op.dumps({})}), "2 records named data.pkl"),
        "data.pkl two folders deep": (op.archive({"a/b/data.pkl": op.dumps({})}), "data.pkl"),
        "foreign record": (named("evil.py"), "foreign record 'evil.py'"),
        "path upwards": (named("archive/../../x"), "leaves it"),
        "absolute path": (named("/etc/passwd"), "leaves it"),
        "Windows path": (plain.replace(b"archive/data/0", b"archive\\data\\0"), "leaves it"),
        "drive": (plain.replace(b"archive/data/0", b"c:chive/data/0"), "leaves it"),
        "link": (with_mode(0o120777), "the link"),
        "data before it": (b"PK\3\4" + plain, "directory does not fit"),
        "data after it": (plain + b"x" * 30, "data after its end"),
        "comment": (plain[:-2] + b"\4\0" + b"PK\5\6", "data after its end"),
        "cut off": (plain[:-30], "cut off"),
        "one record for two names": (bytes(lying), "names the record"),
        "overlapping records": (bytes(overlap), "overlap"),
        "encrypted": (bytes(encrypted), "encrypted"),
        "unknown method": (bytes(method), "method (12)"),
        "size that lies": (bytes(sizes), "not what its directory says"),
        "count that lies": (bytes(count), "damaged zip archive"),
        "checksum that lies": (bytes(crc), "not what its directory says"),
        "renamed in one place": (plain.replace(b"archive/data/0", b"archive/data/1", 1), "also"),
        "without data": (op.archive({"readme.txt": b"x"}), "without torch's or NumPy's data"),
        "30,000 records": (op.archive({f"a/{i}": b"" for i in range(30_000)}), "directory does not fit"),
        "empty": (op.archive({}), "without torch's or NumPy's data"),
        "data after the pickle": (
            op.archive({**good, "archive/data.pkl": op.dumps({"w": LINEAR}) + b"x"}),
            "after its end",
        ),
    }
    return {f"zip: {name}": case for name, case in values.items()}


def frames() -> dict[str, tuple[bytes, str]]:
    """Pickles whose outline lies."""
    body = op.emit(net(), 4) + b"."

    def framed(size: int, code: bytes = body) -> bytes:
        return b"\x80\4\x95" + struct.pack("<Q", size) + code

    inside = b"\x95" + struct.pack("<Q", 2) + body
    values = {
        "frame longer than the file": (framed(2**40), "longer than the file"),
        "frame that ends in an instruction": (framed(4), "crosses the end"),
        "frame in a frame": (framed(len(inside), inside), "frame inside a frame"),
        "end inside a frame": (framed(len(body) + 1, body + b"N"), "ends inside a frame"),
        "protocol 9": (b"\x80\x09" + body, "protocol 9"),
        "protocol in the middle": (b"\x80\4\x80\4" + body, "instruction PROTO"),
        "no end": (op.dumps(net())[:-1], "cut off"),
        "two values": (b"\x80\4NN.", "2 values instead of one"),
        "no value": (b"\x80\4.", "0 values instead of one"),
        "open group": (b"\x80\4(N.", "instead of one"),
        "value from under a mark": (b"\x80\4N(a.", "not there"),
        "unknown memo entry": (b"\x80\4h\x05.", "the value 5"),
        "key without a value": (b"\x80\4}(Nu.", "key without a value"),
        "text that is not UTF-8": (b"\x80\4\x8c\1\xff.", "not UTF-8"),
        "name without an end": (b"\x80\2c" + b"a" * 1000 + b".", "without an end"),
        "data outside of torch": (op.dumps({"a": 1}), "holds no tensors"),
    }
    return {f"frame: {name}": case for name, case in values.items()}


def safetensors() -> dict[str, tuple[bytes, str]]:
    """Malformed safetensors files; these are opened by the serving process itself."""

    def made(header: object, data: bytes = NUMBERS) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def entry(shape=(2, 3), begin=0, end=24, dtype="F32"):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}

    ours = {"__metadata__": {"ganhub": '{"networks": {"G": {}}}'}, "D.w": entry()}
    values = {
        "overlap": made({"a": entry(), "b": entry((1, 3), 12, 24)}),
        "gap": made({"a": entry((1, 3), 12, 24)}),
        "data behind": made({"a": entry()}, NUMBERS + b"x"),
        "cut off": made({"a": entry()}, NUMBERS[:-1]),
        "two of a name": made(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"),
        "shape that overflows": made({"a": entry((2**63, 2**63))}),
        "shape of another size": made({"a": entry((2, 4))}),
        "negative shape": made({"a": entry((-2, -3))}),
        "unknown type": made({"a": entry(dtype="F33")}),
        "offsets backwards": made({"a": entry((2, 3), 24, 0)}),
        "deep JSON": made(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "no JSON": made(b"{" + b"x" * 50),
        "header of 9 MB": made(b'{"a":"' + b"x" * (9 << 20) + b'"}'),
        "our header with a wrong part": made(ours),
        "our header that is no JSON": made({"__metadata__": {"ganhub": "{"}, "G.w": entry()}),
        "our header that is a list": made({"__metadata__": {"ganhub": "[]"}, "G.w": entry()}),
    }
    phrases = {"header of 9 MB": "larger than any network needs", "our header": "damaged header"}
    found = {}
    for name, data in values.items():
        phrase = next((text for key, text in phrases.items() if name.startswith(key)), "damaged safetensors file")
        found[f"safetensors: {name}"] = (data, phrase)
    length = struct.pack("<Q", 2**63) + b'{"a":1}'
    found["safetensors: length 2**63"] = (length, "no known kind")
    return found


def others() -> dict[str, tuple[bytes, str]]:
    """Files that are no checkpoints at all."""
    return {
        "empty": (b"", "is empty"),
        "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "LFS pointer"),
        "web page": (b"<!DOCTYPE html><html><title>Sign in</title>", "web page"),
        "XML error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        "JSON": (b'{"error": "Repository not found"}' * 3, "text file (JSON)"),
        "zeros": (bytes(5000), "zeros"),
        "gzip": (b"\x1f\x8b" + bytes(50), "gzip"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        "program": (b"\x7fELF" + bytes(50), "program"),
        "tar": (bytes(257).replace(b"\0", b"x", 1) + b"ustar  \0" + bytes(500), "tar archive"),
        "picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
        "Torch7": (struct.pack("<iii", 4, 1, 3) + b"V 1" + bytes(50), "Torch7"),
        "noise": (bytes(range(7, 250)), "no known kind"),
    }


def corpus(marker: str) -> dict[str, tuple[bytes, str]]:
    """Every attack by name."""
    groups = [code_runners(marker), odd_calls(), bombs(), tensors(), archives(), frames(), safetensors(), others()]
    found: dict[str, tuple[bytes, str]] = {}
    for group in groups:
        found |= group
    return found
