"""Honest checkpoints of every era: their tensors are bit for bit what their authors wrote."""

import argparse
import collections
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import opcodes as op
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganhub.checkpoint import Network, formats, raw_bytes, read, sandbox, save, tensors
from ganhub.checkpoint.machine import Machine
from ganhub.checkpoint.nodes import Budget, Shell
from ganhub.checkpoint.torch_files import storage_from_bytes
from ganhub.errors import CheckpointError

REFUSED = {"git-lfs-pointer.generator.pth", "vgg16_stub.pt"}


def tensors_in(value, path=""):
    """Path and tensor of every tensor, outside of optimizers."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict) and not {"state", "param_groups"} <= value.keys():
        for key, item in value.items():
            yield from tensors_in(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from tensors_in(item, f"{path}/{key}")


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def assert_same(raw, value):
    """Every tensor of `value`, in its order, and no other."""
    want = [(path, t) for path, t in tensors_in(value) if not path.endswith("/n_averaged")]
    got = [(name, key, t) for name, net in raw.networks.items() for key, t in net.tensors.items()]
    assert len(got) == len(want) > 0
    want.sort(key=lambda entry: entry[0].rpartition("/")[0])  # a dictionary's own tensors stand together
    got.sort(key=lambda entry: "/" + entry[0].replace(".", "/") if entry[0] else "")
    for (path, tensor), (name, key, mine) in zip(want, got, strict=True):
        assert path.endswith(key) and equal(tensor, mine), (path, name, key)


def read_here(file: Path, folder: Path):
    """`read` without the child process and the cache, for long lists of files."""
    data, made = file.read_bytes(), folder / "made"
    budget = Budget()
    with made.open("wb") as out:
        raw_bytes.write(formats.parse(memoryview(data), budget), out, len(data), budget)
    return tensors.open_converted(made, file.name, "")


# --- files that other people wrote --------------------------------------------------------------------------------


def test_every_published_torch_file(shared, tmp_path):
    """Everything that torch itself can read without code, tensor by tensor."""
    files = [f for f in sorted(shared.rglob("*")) if f.suffix in (".pth", ".pt", ".ckpt", ".tar")]
    files = [f for f in files if f.name not in REFUSED and f.parent.name != "hostile"]
    assert len(files) > 50
    torch.serialization.clear_safe_globals()
    for file in files:
        with torch.serialization.safe_globals([argparse.Namespace]):
            value = torch.load(file, map_location="cpu", weights_only=True)
        raw = read_here(file, tmp_path)
        assert raw.format == "torch" and raw.name == file.name
        assert_same(raw, value)


def test_every_published_numpy_file(shared, tmp_path):
    files = [f for f in sorted(shared.rglob("*")) if f.suffix in (".npy", ".npz")]
    assert len(files) > 70
    for file in files:
        raw, loaded = read_here(file, tmp_path), np.load(file)
        want = {"": loaded} if file.suffix == ".npy" else {k: loaded[k] for k in loaded.files}
        texts = {k: v for k, v in want.items() if v.dtype.kind in "US"}
        assert raw.format == "numpy" and set(raw.networks[""].tensors) == set(want) - set(texts), file.name
        for key, tensor in raw.networks[""].tensors.items():
            assert np.array_equal(tensor.numpy(), want[key]) and tensor.numpy().dtype == want[key].dtype, (file, key)
        assert all(raw.extra[k] == np.atleast_1d(v).tolist() for k, v in texts.items())


@pytest.mark.parametrize("family", ["stylegan2ada", "stylegan3"])
def test_nvidia_pickles_equal_their_state(reference, shared, family):
    folder = shared / "reference" / family
    pickles = sorted(folder.glob("*.nosrc.pkl"))
    assert pickles
    for file in pickles:
        stem = file.name.split(".")[0]
        raw, facts = read(file), json.loads((folder / f"{stem}.json").read_text())
        network, state = raw.networks["G_ema"], np.load(folder / f"{stem}.G_ema.state.npz")
        assert raw.format == "nvidia-torch" and network.class_name == "Generator"
        assert {"G", "D", "G_ema"} <= set(raw.networks) and raw.networks["D"].class_name == "Discriminator"
        assert network.kwargs == facts["G_init_kwargs"]
        assert set(network.tensors) == set(state.files)
        for key, tensor in network.tensors.items():
            assert tensor.numpy().dtype == state[key].dtype and np.array_equal(tensor.numpy(), state[key]), (file, key)
        assert all(len(text) == 64 for text in raw.extra["source_sha256"])
    assert raw.extra["training_set_kwargs"]["class_name"] == "training.dataset.ImageFolderDataset"


def test_eras_of_one_pickle_are_equal(shared):
    folder = shared / "reference" / "stylegan2ada"
    for stem in ("f_skip_uncond_r32", "cond_c5_r32"):
        new, old = (read(folder / f"{stem}{era}.nosrc.pkl") for era in ("", ".era2021"))
        assert new.sha256 != old.sha256
        for name, network in new.networks.items():
            other = old.networks[name]
            assert network.kwargs == other.kwargs and list(network.tensors) == list(other.tensors)
            assert all(equal(t, other.tensors[k]) for k, t in network.tensors.items())


def test_tensorflow_pickle(shared):
    folder = shared / "reference" / "stylegan2_tf"
    raw, facts = read(folder / "configf_r32.nosrc.pkl"), json.loads((folder / "configf_r32.json").read_text())
    assert raw.format == "nvidia-tf" and list(raw.networks) == ["G", "D", "Gs"]
    shapes = sorted(tuple(shape) for _, shape in facts["Gs_variables"])
    assert sorted(tuple(t.shape) for t in raw.networks["Gs"].tensors.values()) == shapes
    assert {name.rpartition("/")[2] for name, _ in facts["Gs_variables"]} == {
        key.rpartition("/")[2] for key in raw.networks["Gs"].tensors
    }
    assert facts["static_kwargs_G"].items() <= raw.networks["Gs"].kwargs.items()
    assert raw.networks["Gs"].class_name == "G_main" and "Gs_components" in raw.extra


def test_rosinality_training_file(shared):
    folder = shared / "reference" / "rosinality"
    raw = read(folder / "train_r64_cm2.pt")
    assert list(raw.networks) == ["g", "d", "g_ema"]
    for name, file in {"g_ema": "g_ema_keys_r64_cm2.json", "d": "d_keys_r64_cm2.json"}.items():
        want = {key: tuple(shape) for key, shape in json.loads((folder / file).read_text()).items()}
        assert {k: tuple(t.shape) for k, t in raw.networks[name].tensors.items()} == want
    assert raw.extra["args"]["size"] == 64 and "ada_aug_p" in raw.extra
    json.dumps(raw.extra)


def test_python2_pickle_of_arrays(shared):
    raw = read(shared / "reference" / "stackgan2" / "char-CNN-RNN-embeddings.pickle")
    want = pickle.loads(
        (shared / "reference" / "stackgan2" / "char-CNN-RNN-embeddings.pickle").read_bytes(), encoding="latin1"
    )
    got = raw.networks[""].tensors
    assert len(got) == len(want) and all(np.array_equal(got[str(i)].numpy(), a) for i, a in enumerate(want))


def test_repacked_archive_equals_the_original(shared):
    packed = read(shared / "weights" / "negative_samples" / "realesr-animevideov3.rezipped-deflate.pth")
    plain = read(shared / "weights" / "realesr" / "realesr-animevideov3.pth")
    assert all(equal(t, plain.networks["params"].tensors[k]) for k, t in packed.networks["params"].tensors.items())


def test_refusals_of_real_files(shared):
    phrases = {
        "weights/negative_samples/git-lfs-pointer.generator.pth": "Git LFS pointer",
        "reference/projector/vgg16_stub.pt": "TorchScript",
        "reference/stackgan2/filenames.pickle": "no tensors",
    }
    for file, phrase in phrases.items():
        with pytest.raises(CheckpointError, match=phrase):
            read(shared / file)


# --- files written here -------------------------------------------------------------------------------------------


def dtypes() -> dict[str, torch.Tensor]:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    kinds += [torch.int8, torch.uint8, torch.bool]
    found = {str(kind): (torch.arange(24).reshape(2, 3, 4) % 5).to(kind) for kind in kinds}
    return found | {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.arange(12.0).reshape(3, 4).T,
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "slice": torch.arange(20.0)[3:17:2],
        "inner": torch.arange(60).reshape(3, 4, 5)[:, 1:3, ::2],
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_save_of_every_type(tmp_path, zipped, protocol):
    value = dtypes()
    value["tied"] = value["scalar"]
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    raw = read(tmp_path / "a.pt")
    assert list(raw.networks[""].tensors) == list(value)
    assert all(equal(t, value[k]) for k, t in raw.networks[""].tensors.items())


def test_types_without_a_storage_class(tmp_path):
    value = {str(kind): torch.arange(6).to(kind) for kind in (torch.uint16, torch.uint32, torch.uint64)}
    value["f8"] = torch.ones(4).to(torch.float8_e4m3fn)
    torch.save(value, tmp_path / "a.pt")
    got = read(tmp_path / "a.pt").networks[""].tensors
    assert all(
        got[k].dtype == t.dtype and bytes(got[k].view(torch.uint8)) == bytes(t.view(torch.uint8))
        for k, t in value.items()
    )


def test_wrappings(tmp_path):
    net = torch.nn.Linear(3, 2)
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in net.state_dict().items()}}
    moments = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    value = {
        "plain": net.state_dict(),
        "parallel": {f"module.{k}": v for k, v in net.state_dict().items()},
        "compiled": {f"_orig_mod.module.{k}": v for k, v in net.state_dict().items()},
        "averaged": averaged,
        "mixed": {"module.weight": net.weight.data, "bias": net.bias.data},
        "deep": {"model": {"netG": net.state_dict()}},
        "g_optim": optimizer,
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2], name="x"),
        "simple": types.SimpleNamespace(a=1),
        "counts": collections.defaultdict(int, {"a": 1}),
        "epoch": 7,
        "path": Path("a") / "b",
        "device": torch.device("cpu"),
        "shape": torch.Size([2, 3]),
        "loss": np.float32(0.5),
        "nan": float("nan"),
        "dtype": torch.float16,
        "list": [torch.zeros(1), torch.ones(1)],
    }
    torch.save(value, tmp_path / "a.pt")
    raw = read(tmp_path / "a.pt")
    for name in ("plain", "parallel", "compiled", "averaged", "deep.model.netG"):
        assert list(raw.networks[name].tensors) == ["weight", "bias"], name
    assert equal(raw.networks["compiled"].tensors["weight"], net.weight.data)
    assert list(raw.networks["mixed"].tensors) == ["module.weight", "bias"]
    assert list(raw.networks["list"].tensors) == ["0", "1"]
    assert not any(name.startswith("g_optim") for name in (*raw.networks, *raw.extra))
    assert raw.extra["args"] == {"lr": 0.1, "sizes": [1, 2], "name": "x"} and raw.extra["simple"] == {"a": 1}
    assert raw.extra["epoch"] == 7 and raw.extra["loss"] == 0.5 and raw.extra["path"] == "a/b"
    assert raw.extra["shape"] == [2, 3] and raw.extra["dtype"] == "torch.float16" and raw.extra["device"] == "cpu"
    assert raw.extra["nan"] == "nan" and raw.extra["counts"] == {"a": 1}
    json.dumps(raw.extra, allow_nan=False)


def test_single_tensor(tmp_path):
    direction = torch.randn(1, 512)
    torch.save(direction, tmp_path / "age.pt")
    raw = read(tmp_path / "age.pt")
    assert list(raw.networks) == [""] and equal(raw.networks[""].tensors[""], direction)


def test_plain_pickle_of_a_state_dict(tmp_path):
    value = {"w": torch.arange(6.0), "n": np.arange(4)}
    for protocol in (2, 3, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
        raw = read(tmp_path / "a.pkl")
        assert raw.format == "torch" and equal(raw.networks[""].tensors["w"], value["w"])
        assert np.array_equal(raw.networks[""].tensors["n"].numpy(), value["n"])


@pytest.mark.parametrize("order", "<>")
def test_numpy_arrays(tmp_path, order):
    value = {
        kind: np.arange(12).reshape(3, 4).astype(f"{order}{kind}")
        for kind in ("f4", "f8", "f2", "i8", "i2", "u1", "u4")
    }
    value |= {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bool": np.array([True, False]),
        "zero": np.float64(2),
    }
    for name, write in {"a.npz": np.savez, "b.npz": np.savez_compressed}.items():
        write(tmp_path / name, **value)
    for protocol in (2, 3, 4, 5):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(value, protocol))
    for file in sorted(tmp_path.iterdir()):
        raw = read(file)
        for key, want in value.items():
            if key == "zero" and file.suffix == ".pkl":
                assert raw.extra["zero"] == 2.0
                continue
            got = raw.networks[""].tensors[key].numpy()
            assert np.array_equal(got, want) and got.dtype == want.dtype.newbyteorder("="), (file.name, key)


def test_tensorflow_scalars_and_components(tmp_path):
    array = op.Call(
        op.Name("numpy.core.multiarray", "_reconstruct"),
        (op.Name("numpy", "ndarray"), (0,), b"b"),
        state=(
            1,
            (2,),
            op.Call(op.Name("numpy", "dtype"), ("f4", 0, 1), state=(3, "<", None)),
            False,
            struct.pack("<2f", 1, 2),
        ),
    )

    def network(function, variables, components=None, **kwargs):
        state = {"version": 4, "name": function, "build_func_name": function, "static_kwargs": kwargs}
        state |= {"variables": variables, "components": components or {}, "build_module_src": "import os\n"}
        return op.New(op.Name("dnnlib.tflib.network", "Network"), state=state)

    mapping = network("G_mapping", [("Dense0/weight", array)], mapping_layers=2)
    top = network("G_main", [("dlatent_avg", array), ("lod", 0.5)], {"mapping": mapping}, resolution=4)
    (tmp_path / "a.pkl").write_bytes(op.dumps((top, network("D_basic", [("w", array)]), top)))
    raw = read(tmp_path / "a.pkl")
    assert raw.networks["Gs"].kwargs == {"resolution": 4, "mapping_layers": 2}
    assert list(raw.networks["Gs"].tensors) == ["dlatent_avg", "lod", "mapping/Dense0/weight"]
    assert raw.networks["Gs"].tensors["lod"].shape == () and raw.networks["D"].class_name == "D_basic"
    assert raw.extra["Gs_components"] == {"mapping": {"class_name": "G_mapping", "kwargs": {"mapping_layers": 2}}}


# --- a double of NVIDIA's persistence -----------------------------------------------------------------------------

SOURCE = "raise SystemExit('this text must never run')\n"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only pickled, never unpickled by Python")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class EasyDict(dict):
    pass


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


class Saved(torch.nn.Module):
    """A module that pickles as NVIDIA's do: its class name, some source text, its state."""

    def __init__(self, **kwargs):
        super().__init__()
        self._init_args, self._init_kwargs = (), EasyDict(kwargs)

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": type(self).__name__}
        return _reconstruct_persistent_obj, ({**meta, "state": self.__dict__},)


class Layer(Saved):
    def __init__(self, inputs, outputs, half=False):
        super().__init__(inputs=inputs, outputs=outputs)
        kind = torch.float16 if half else torch.float32
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs, 3, 3).to(kind, memory_format=torch.channels_last))
        self.register_buffer("filter", torch.randn(4, 4))
        self.register_buffer("none", None)
        self.up_filter = np.arange(4, dtype=np.float32)
        self.activation = {"gain": np.float64(np.sqrt(2)), "names": {"a", "b"}}


class Generator(Saved):
    def __init__(self, c_dim=0, **kwargs):
        super().__init__(c_dim=c_dim, **kwargs)
        self.b4 = Layer(2, 3)
        self.b8 = Layer(3, 4, half=True)
        if c_dim:
            self.embed = Layer(c_dim, 2)
        self.register_buffer("w_avg", torch.randn(5))


@pytest.fixture
def nvidia(monkeypatch):
    """Modules of NVIDIA's names, as they stand where such files are written."""
    names = {"torch_utils": {}, "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj}}
    names |= {"dnnlib": {}, "dnnlib.util": {"EasyDict": EasyDict}}
    for name, members in names.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_double_of_nvidia_persistence(tmp_path, nvidia, protocol, c_dim):
    torch.manual_seed(protocol)
    kwargs = {"z_dim": np.int64(8), "synthesis_kwargs": EasyDict(channel_base=np.float64(16), fir=np.arange(3.0))}
    net, ema = Generator(c_dim, **kwargs), Generator(c_dim, **kwargs)
    snapshot = {"G": net, "D": None, "G_ema": ema, "augment_pipe": None, "training_set_kwargs": EasyDict(size=(2, 3))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(snapshot, protocol))
    raw = read(tmp_path / "a.pkl")
    assert raw.format == "nvidia-torch" and set(raw.networks) == {"G", "G_ema"}
    for name, module in {"G": net, "G_ema": ema}.items():
        network, state = raw.networks[name], module.state_dict()
        assert network.class_name == "Generator" and list(network.tensors) == list(state)
        assert all(equal(t, state[k]) for k, t in network.tensors.items())
        assert network.kwargs == {
            "c_dim": c_dim,
            "z_dim": 8,
            "synthesis_kwargs": {"channel_base": 16.0, "fir": [0, 1, 2]},
        }
    assert raw.extra["training_set_kwargs"] == {"size": [2, 3]} and len(raw.extra["source_sha256"]) == 1


# --- the machine against Python's own -----------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text(max_size=8) | st.integers(-5, 5) | st.booleans() | st.none()
trees = st.recursive(
    leaves | st.sets(st.text(max_size=4)) | st.frozensets(st.integers(-9, 9)),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner) | inner.map(lambda x: [x, x])
    ),
    max_leaves=20,
)


def plain(value):
    """The machine's values as Python's unpickler gives them."""
    if type(value) is memoryview:
        return bytes(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(v) for v in value)
    return value


def kinds(value):
    """Types all the way down: 1, 1.0 and True are equal, and so are sets and frozen sets."""
    if isinstance(value, dict):
        return [(type(k), kinds(v)) for k, v in value.items()]
    if type(value) in (list, tuple):
        return [type(value), *map(kinds, value)]
    return type(value)


@given(trees, st.sampled_from([2, 3, 4, 5]))
@settings(max_examples=200, deadline=None)
def test_same_data_as_pythons_unpickler(tree, protocol):
    data = pickle.dumps(tree, protocol)
    machine = Machine(memoryview(data), Budget())
    got = plain(machine.run())
    assert got == tree and machine.pos == len(data) and kinds(got) == kinds(tree)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_odd_plain_values(protocol):
    value = [
        b"",
        bytearray(b"ab"),
        collections.OrderedDict(a=1),
        b"x" * 70_000,
        "é\ud800",
        2**500,
        -1,
        frozenset(),
        1j,
        range(3),
    ]
    got = Machine(memoryview(pickle.dumps(value, protocol)), Budget()).run()
    assert [bytes(got[0]), bytes(got[1]), got[2], bytes(got[3]), *got[4:8]] == [b"", b"ab", {"a": 1}, *value[3:8]]
    assert type(got[2]) is Shell and got[8:] == [[0.0, 1.0], [0, 3, 1]]


def test_large_bytes_in_protocol_2(tmp_path):
    """Protocol 2 writes bytes as text, half of them in two bytes."""
    tensor = torch.randn(300_000)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": tensor}, 2))
    assert equal(read(tmp_path / "a.pkl").networks[""].tensors["w"], tensor)


def test_storage_of_torch_itself():
    data = pickle.dumps(torch.arange(5.0).untyped_storage(), 2)
    budget = Budget()
    storage = Machine(memoryview(data), budget, nested=storage_from_bytes).run()
    assert bytes(storage.data) == struct.pack("<5f", *range(5))


# --- cache, own files ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({"w": torch.arange(4.0)}, file)
    return file


def conversions(monkeypatch) -> list:
    seen = []
    run = sandbox._run
    monkeypatch.setattr(sandbox, "_run", lambda *args: seen.append(args) or run(*args))
    return seen


def test_converted_once(saved, tmp_path, monkeypatch, own_home):
    seen = conversions(monkeypatch)
    for _ in range(3):
        raw = read(saved)
    assert len(seen) == 1
    made = own_home / "converted" / f"{raw.sha256}.safetensors"
    assert sorted(f.suffix for f in made.parent.iterdir()) == [".json", ".safetensors"]
    copy = tmp_path / "another name"
    copy.write_bytes(saved.read_bytes())
    assert read(copy).name == "another name" and len(seen) == 1
    assert read(saved, cache=tmp_path / "here").networks and (tmp_path / "here").is_dir() and len(seen) == 2


def test_damaged_or_old_conversion_is_made_anew(saved, monkeypatch, own_home):
    raw = read(saved)
    made = own_home / "converted" / f"{raw.sha256}.safetensors"
    card = made.with_suffix(".json")
    seen = conversions(monkeypatch)
    data = bytearray(made.read_bytes())
    data[-1] ^= 1
    made.write_bytes(data)
    assert equal(read(saved).networks[""].tensors["w"], torch.arange(4.0)) and len(seen) == 1
    facts = json.loads(card.read_text())
    card.write_text(json.dumps({**facts, "converter": sandbox.VERSION - 1}))
    read(saved)
    assert len(seen) == 2
    card.write_text("{")
    read(saved)
    assert len(seen) == 3
    made.unlink()
    read(saved)
    assert len(seen) == 4


def test_wrong_hash(saved):
    raw = read(saved)
    assert read(saved, sha256=raw.sha256.upper()).sha256 == raw.sha256
    with pytest.raises(CheckpointError, match="sha256") as error:
        read(saved, sha256="0" * 64)
    assert error.value.code == "wrong_hash"


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        read(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="device"):
        read(tmp_path / "pipe")


def test_cache_that_cannot_be_written(saved, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be converted"):
        read(saved, cache=tmp_path / "file" / "below")


def test_truncated_files_are_refused(saved, tmp_path):
    data = saved.read_bytes()
    for stop in range(0, len(data), 97):
        (tmp_path / "cut.pt").write_bytes(data[:stop])
        with pytest.raises(CheckpointError):
            formats.parse(memoryview(data[:stop]), Budget())
    with pytest.raises(CheckpointError, match=r"cut.pt is cut off"):
        read(tmp_path / "cut.pt")


def test_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file

    value = {f"module.{k}": v.contiguous() for k, v in dtypes().items()}
    save_file(value, tmp_path / "a.bin", metadata={"format": "pt", "author": "x"})
    raw = read(tmp_path / "a.bin")
    assert raw.format == "safetensors" and raw.extra["author"] == "x"
    assert all(equal(raw.networks[""].tensors[k.removeprefix("module.")], v) for k, v in value.items())


def test_own_files(tmp_path):
    G = {"b4.weight": torch.randn(2, 3), "half": torch.randn(3).bfloat16(), "view": torch.arange(6.0).reshape(2, 3).T}
    D = {"weight": G["b4.weight"]}
    config = {"size": 4, "channels": [3, 4]}
    file = tmp_path / "new" / "g.safetensors"
    save(file, {"G": Network("x", config, G), "D": Network("x", {}, D)}, {"family": "dcgan", "source_sha256": "0" * 64})
    raw = read(file)
    assert raw.format == "ganhub" and raw.extra["family"] == "dcgan" and raw.extra["source_sha256"] == "0" * 64
    assert raw.networks["G"].kwargs == config and raw.networks["G"].class_name == "dcgan"
    for part, want in {"G": G, "D": D}.items():
        assert set(raw.networks[part].tensors) == set(want)
        assert all(equal(raw.networks[part].tensors[k], t) for k, t in want.items())
    assert [f.name for f in file.parent.iterdir()] == ["g.safetensors"]
    with pytest.raises(CheckpointError, match="family"):
        save(file, {}, {})
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(file / "below", {"G": Network("x", {}, D)}, {"family": "dcgan"})


def test_import_is_light():
    code = "import sys, ganhub.checkpoint; assert not {'torch', 'numpy', 'safetensors', 'pickle'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_child_loads_neither_torch_nor_numpy():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ganhub.checkpoint.child; "
    code += "assert not {'torch', 'numpy', 'safetensors', 'pydantic'} & set(sys.modules)"
    root = str(Path(sandbox.ganhub.__file__).parent.parent)
    subprocess.run([sys.executable, "-I", "-S", "-c", code, root], check=True)


def test_remains_of_a_killed_conversion_are_swept(saved, own_home):
    old, new = own_home / "converted" / "0123456789ab-x", own_home / "converted" / "0123456789ab-y"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "tensors").write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    read(saved)
    assert new.exists() and not old.exists()


def test_full_disk_is_a_sentence(saved):
    with pytest.raises(CheckpointError, match="No space left on device"), open("/dev/full", "w+b", 0) as full:
        sandbox._run(saved.open("rb"), full, saved.name)


def test_archive_with_a_wide_directory(tmp_path, monkeypatch):
    """An archive of more than 65,535 records or 4 GB has a second directory record."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    data = op.torch_zip({"w": op.tensor(op.storage_id("0", 2), (2,))}, {"0": struct.pack("<2f", 1, 2)})
    assert b"PK\6\6" in data
    (tmp_path / "a.pt").write_bytes(data)
    assert read(tmp_path / "a.pt").networks[""].tensors["w"].tolist() == [1, 2]


def test_archive_with_wide_sizes(tmp_path):
    """NumPy announces sizes over 4 GB in every local header."""
    np.savez(tmp_path / "a.npz", w=np.arange(3))
    assert struct.pack("<HH", 1, 16) in (tmp_path / "a.npz").read_bytes()[:64]
    assert read(tmp_path / "a.npz").networks[""].tensors["w"].tolist() == [0, 1, 2]
