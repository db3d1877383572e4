"""Torch7 files: written here as Torch7 writes them, and hostile ones."""

import io
import struct
import sys

import numpy as np
import pytest
import torch

from ganhub.checkpoint import formats, raw_bytes, read, torch7
from ganhub.checkpoint.nodes import Budget
from ganhub.errors import CheckpointError, UnsafeCheckpoint


class Obj:
    """An object of a Torch7 class."""

    def __init__(self, name, content):
        self.name, self.content = name, content


class Closure(bytes):
    """Compiled Lua code."""


class Writer:
    """Writes values as `torch.save` of Torch7 does: numbers as doubles, everything with an identity once."""

    KINDS = {np.dtype(code): name for code, name in
             {"u1": "Byte", "i1": "Char", "i2": "Short", "i4": "Int", "i8": "Long", "f4": "Float", "f8": "Double",
              "f2": "Half"}.items()}  # fmt: skip

    def __init__(self, cuda=False, version="V 1"):
        self.out, self.index, self.cuda, self.version = bytearray(), {}, cuda, version
        self.keep = []

    def whole(self, *numbers):
        self.out += struct.pack(f"<{len(numbers)}i", *numbers)

    def long(self, *numbers):
        self.out += struct.pack(f"<{len(numbers)}q", *numbers)

    def text(self, text):
        data = text.encode()
        self.whole(len(data))
        self.out += data

    def known(self, kind, value):
        """Writes kind and index; whether the value stands in the file already."""
        self.keep.append(value)
        again = id(value) in self.index
        self.whole(kind, self.index.setdefault(id(value), len(self.index) + 1))
        return again

    def begin(self, name):
        if self.version:
            self.text(self.version)
        self.text(name)

    def write(self, value):
        if value is None:
            self.whole(0)
        elif isinstance(value, bool):
            self.whole(5, value)
        elif isinstance(value, (int, float)):
            self.whole(1)
            self.out += struct.pack("<d", value)
        elif isinstance(value, str):
            self.whole(2)
            self.text(value)
        elif isinstance(value, Closure):
            if not self.known(8, value):
                self.whole(len(value))
                self.out += value
                self.write({})
        elif isinstance(value, (dict, list)):
            if not self.known(3, value):
                items = value.items() if isinstance(value, dict) else enumerate(value, 1)
                self.whole(len(value))
                for key, item in items:
                    self.write(key)
                    self.write(item)
        elif isinstance(value, Obj):
            if not self.known(4, value):
                self.begin(value.name)
                self.write(value.content)
        else:
            self.tensor(value)
        return self

    def tensor(self, array):
        if self.known(4, array):
            return
        kind = self.KINDS[array.dtype]
        prefix = "torch.Cuda" + ("" if kind == "Float" else kind) if self.cuda else f"torch.{kind}"
        self.begin(f"{prefix}Tensor")
        base = array if array.base is None else array.base
        self.whole(array.ndim)
        self.long(*array.shape, *(s // array.itemsize for s in array.strides))
        start = (array.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // array.itemsize
        self.long(start + 1)
        flat = self.index.setdefault(("flat", id(base)), base.reshape(-1))
        if not self.known(4, flat):
            self.begin(f"{prefix}Storage")
            self.long(flat.size)
            self.out += flat.tobytes()


def t7(value, **options):
    return bytes(Writer(**options).write(value).out)


def load(tmp_path, value, **options):
    (tmp_path / "a.t7").write_bytes(t7(value, **options))
    return read(tmp_path / "a.t7")


@pytest.mark.parametrize("cuda", [False, True], ids=["cpu", "cuda"])
@pytest.mark.parametrize("version", ["V 1", ""], ids=["V 1", "before versions"])
def test_tensors_of_every_kind(tmp_path, cuda, version):
    arrays = {kind: (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype) for dtype, kind in Writer.KINDS.items()}
    flat = np.arange(60, dtype="f4")
    arrays |= {"transposed": flat[:12].reshape(3, 4).T, "inner": flat.reshape(3, 4, 5)[:, 1:3, ::2]}
    raw = load(tmp_path, arrays, cuda=cuda, version=version)
    assert raw.format == "torch7"
    got = raw.networks[""].tensors
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        assert got[name].numpy().dtype == array.dtype and np.array_equal(got[name].numpy(), array), name


def test_plain_values(tmp_path):
    values = {
        "opt": {"learning_rate": 4e-4, "emb_dim": 1024, "name": "cub_c10", "cuda": True, "none": None},
        "losses": [0.5, 0.25, float("inf")],
        "sparse": {1000: 0, 2000: 1, 2.5: "half", True: "yes"},
        "umlaut": "B\u00e4r",
        "function": Closure(b"\x1bLua...os.execute('true')"),
        "weights": np.ones((2, 2), "f4"),
        "empty": np.zeros((), "f4")[None][:0],
        "objects": [Obj("nn.Identity", {"train": False, "output": np.ones(3, "f4"), "_buffer": np.ones(3, "f4")})],
    }
    raw = load(tmp_path, values)
    opt = {"learning_rate": 4e-4, "emb_dim": 1024, "name": "cub_c10", "cuda": True, "none": None}
    assert raw.extra == {
        "opt": opt,
        "losses": [0.5, 0.25, "inf"],
        "sparse": {"1000": 0, "2000": 1, "2.5": "half", "True": "yes"},
        "umlaut": "B\u00e4r",
        "objects": [{"train": False, "class": "nn.Identity"}],
    }
    assert raw.networks[""].tensors["weights"].shape == (2, 2) and list(raw.networks) == [""]


def graph(depth):
    """Modules as nngraph saves them: nodes that point to each other in circles, and weights shared by all steps."""
    weight, bias = np.arange(6, dtype="f4").reshape(2, 3), np.arange(2, dtype="f4")
    modules, nodes = [], []
    for _ in range(depth):
        module = Obj("nn.Linear", {"gradWeight": weight + 1, "weight": weight[:], "bias": bias[:], "train": False})
        node = {"data": {"module": module}, "children": [], "parents": nodes[-1:]}
        for parent in nodes[-1:]:
            parent["children"].append(node)
        modules.append(module)
        nodes.append(node)
    return Obj("nn.gModule", {"forwardnodes": nodes, "fg": Obj("graph.Graph", {"nodes": nodes}), "modules": modules})


@pytest.fixture
def deep_recursion():
    """For the writer of these tests; the reader needs none."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    yield
    sys.setrecursionlimit(limit)


def test_shared_modules_in_a_deep_graph(tmp_path, deep_recursion):
    raw = load(tmp_path, {"protos": {"enc": graph(500)}})
    assert {k: n.class_name for k, n in raw.networks.items()} == {"protos.enc.modules.0": "nn.Linear"}
    tensors = raw.networks["protos.enc.modules.0"].tensors
    assert set(tensors) == {"weight", "bias"} and torch.equal(tensors["weight"], torch.arange(6.0).reshape(2, 3))
    encoder = raw.extra["protos"]["enc"]
    assert encoder["class"] == "nn.gModule" and len(encoder["modules"]) == 500 and set(encoder) == {"class", "modules"}


def test_a_table_inside_itself(tmp_path):
    table = {"weight": np.ones((2, 2), "f4"), "inner": {}}
    table["inner"]["outer"] = table
    raw = load(tmp_path, table)
    assert raw.networks[""].tensors["weight"].shape == (2, 2) and raw.extra == {"inner": {}}


def header(ndim, shape, strides, offset, storage=b"\0\0\0\0", name="torch.FloatTensor"):
    w = Writer()
    w.whole(4, 1)
    w.begin(name)
    w.whole(ndim)
    w.long(*shape, *strides, offset)
    return bytes(w.out) + storage


def storage(size, data=b"", name="torch.FloatStorage", index=2):
    w = Writer()
    w.whole(4, index)
    w.begin(name)
    w.long(size)
    return bytes(w.out) + data


def nested(levels):
    return b"".join(struct.pack("<iiiid", 3, i, 1, 1, 1.0) for i in range(1, levels + 1)) + struct.pack("<i", 0)


FOUR = storage(4, bytes(16))
HOSTILE = {
    "cut off": (t7({"a": np.ones(100, "f4")})[:-1], "cut off"),
    "data after the end": (t7({"a": np.ones(3, "f4")}) + b"x", "other data after its end"),
    "unknown kind": (struct.pack("<iii", 3, 1, 1) + struct.pack("<i", 77), "unknown kind 77"),
    "text of 2 GB": (struct.pack("<iiiii", 3, 1, 1, 2, 2**31 - 1), "says a wrong length"),
    "text of negative length": (struct.pack("<iiiii", 3, 1, 1, 2, -5), "says a wrong length"),
    "a billion pairs": (struct.pack("<iii", 3, 1, 2**30), "cut off"),
    "no class": (struct.pack("<iii", 4, 1, 3) + b"V 1" + struct.pack("<i", 0), "no class"),
    "class of odd letters": (struct.pack("<iii", 4, 1, 5) + b"os()\n", "no class"),
    "storage of 8 EB": (header(1, [4], [1], 1, storage(2**62)), "says a wrong length"),
    "storage of negative size": (header(1, [4], [1], 1, storage(-4)), "says a wrong length"),
    "tensor outside its storage": (header(1, [5], [1], 1, FOUR), "outside its storage"),
    "tensor of an overflowing shape": (header(3, [2**40] * 3, [1] * 3, 1, FOUR), "outside its storage"),
    "tensor that repeats": (header(2, [2**30, 4], [0, 1], 1, FOUR), "repeats one element"),
    "tensor of negative stride": (header(1, [4], [-1], 4, FOUR), "impossible shape or stride"),
    "tensor before its storage": (header(1, [4], [1], 0, FOUR), "begins before its numbers"),
    "tensor of 100 dimensions": (header(100, [], [], 1), "has 100 dimensions"),
    "tensor over text": (header(1, [1], [1], 1, struct.pack("<ii4s", 2, 4, b"abcd")), "no storage of its kind"),
    "tensor over itself": (header(1, [1], [1], 1, struct.pack("<ii", 4, 1)), "no storage of its kind"),
    "tensor over another kind": (
        header(1, [1], [1], 1, storage(1, bytes(8), "torch.DoubleStorage")),
        "no storage of its kind",
    ),
    "tables without end": (nested(30_000), "inside tables without end"),
    "deep data": (nested(100), "inside data without end"),
    "very many values": (t7([True] * 300_001), "Torch7 values"),
    "many odd keys": (t7({-i: 0 for i in range(1, 20_500)}), "keys that are no text"),
    "nothing but numbers": (t7({"a": 1}), "no tensors"),
    "code only": (t7({"f": Closure(b"\x1bLua")}), "no tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    data, phrase = HOSTILE[name]
    with pytest.raises(CheckpointError, match=phrase):  # the reader alone
        budget = Budget()
        raw_bytes.write(formats.parse(memoryview(data), budget), io.BytesIO(), len(data), budget)
    (tmp_path / "evil.t7").write_bytes(data)
    with pytest.raises(CheckpointError, match=f"evil.t7.*{phrase}"):
        read(tmp_path / "evil.t7")


def test_views_that_blow_up_are_refused(tmp_path):
    numbers = np.ones(1_000_000, "f4")
    with pytest.raises(UnsafeCheckpoint, match="bytes of tensors in"):
        load(tmp_path, {str(i): numbers[i:] for i in range(9)})


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_sentences(seed):
    """Whatever byte is changed, the reader answers or refuses."""
    data = t7({"protos": {"enc": graph(3)}, "opt": {"a": 1, "b": "text"}, "losses": [1.5, 2.5]})
    rng = np.random.RandomState(seed)
    for _ in range(1500):
        broken = bytearray(data)
        for place in rng.randint(8, len(data), rng.randint(1, 4)):
            broken[place] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 127, 128, 255, rng.randint(256)])
        broken = bytes(broken[: rng.randint(9, len(data))] if rng.rand() < 0.2 else broken)
        budget = Budget()
        try:
            raw_bytes.write(formats.parse(memoryview(broken), budget), io.BytesIO(), len(broken), budget)
        except CheckpointError as error:
            assert error.message.isprintable()


def test_starts_are_those_of_real_files(shared):
    for file in sorted((shared / "reference" / "charcnnrnn").glob("*.t7")):
        assert file.read_bytes()[:8] in torch7.STARTS
