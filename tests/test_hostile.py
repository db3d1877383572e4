"""Attacks on the checkpoint reader: each is refused by a sentence, quickly, in little memory, and nothing runs."""

import ast
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import attacks
import opcodes as op
import pytest

from ganhub.checkpoint import child, raw_bytes, read, sandbox
from ganhub.checkpoint.formats import parse
from ganhub.checkpoint.nodes import Budget
from ganhub.errors import CheckpointError

SECONDS, MEGABYTES = 2.0, 500
NAMES = sorted(attacks.corpus("/nowhere"))
CORPUS: dict[str, dict] = {}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder as the current one, and a marker beside it that only a command of an attack makes."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# A process that is started counts the memory of the one that started it as its own, so a small one does it.
MEASURED = """
import os, sys
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
with open(sys.argv[1], "w") as file:
    print(usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, file=file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def peaks(monkeypatch, tmp_path):
    """Peak memory of every child process, in MB, and its processor time in seconds."""
    seen = []
    run = subprocess.run

    def measured(command, **options):
        usage = tmp_path / "usage"
        done = run([sys.executable, "-I", "-S", "-c", MEASURED, str(usage), *command], **options)
        seen.append(tuple(float(figure) for figure in usage.read_text().split()))
        return done

    monkeypatch.setattr(sandbox.subprocess, "run", measured)
    return seen


def corpus(marker: Path) -> dict:
    """Built once for all tests: the marker's place is part of the attacks."""
    if "all" not in CORPUS:
        CORPUS["marker"] = marker
        CORPUS["all"] = attacks.corpus(str(marker))
    return CORPUS["all"]


def check(name: str, message: str):
    phrase = corpus(Path("/nowhere"))[name][1]
    assert phrase in message and message.startswith("attack.pkl ") and message.endswith("."), message
    assert len(message) < 400 and "\n" not in message and "Traceback" not in message


def attack(name: str, place: Path, peaks: list, marker: Path):
    """The whole way: the file, the child process with its limits, the sentence."""
    data, _ = corpus(marker)[name]
    file = place.parent / "attack.pkl"
    file.write_bytes(data)
    begin = time.process_time()
    with pytest.raises(CheckpointError) as refusal:
        read(file)
    own = time.process_time() - begin
    check(name, refusal.value.message)
    assert not CORPUS["marker"].exists() and not list(place.iterdir()), "something ran"
    assert own < SECONDS
    for megabytes, seconds in peaks:  # processor time, because the clock also counts what else runs here
        assert megabytes < MEGABYTES and own + seconds < SECONDS, f"{megabytes:.0f} MB, {own + seconds:.1f} s"


@pytest.mark.parametrize(
    "name", [n for i, n in enumerate(NAMES) if n.startswith(("bomb", "safetensors")) or i % 8 == 0]
)
def test_attack_is_refused(name, place, peaks, tmp_path_factory):
    attack(name, place, peaks, tmp_path_factory.getbasetemp() / "executed")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_attack_is_refused(name, place, peaks, tmp_path_factory):
    attack(name, place, peaks, tmp_path_factory.getbasetemp() / "executed")


def test_every_attack_is_refused_by_the_reader(place, tmp_path_factory):
    """The reader alone, without the child process: it needs no limits to refuse."""
    cases = corpus(tmp_path_factory.getbasetemp() / "executed")
    for name, (data, phrase) in cases.items():
        if name.startswith(("bomb", "safetensors")):
            continue  # always tried the whole way, above
        begin = time.process_time()
        budget = Budget()
        with pytest.raises(CheckpointError) as refusal:
            raw_bytes.write(parse(memoryview(data), budget), io.BytesIO(), len(data), budget)
        assert phrase in refusal.value.message, (name, refusal.value.message)
        assert time.process_time() - begin < 2 * SECONDS, name
    assert not CORPUS["marker"].exists() and not list(place.iterdir())


def test_corpus_is_large_enough():
    assert len(NAMES) >= 60


def test_reference_hostile_files_are_refused(shared, place):
    files = sorted((shared / "reference" / "hostile").iterdir())
    assert len(files) >= 3
    for file in files:
        with pytest.raises(CheckpointError, match=file.name):
            read(file)
    assert not list(place.iterdir())


def test_pythons_unpickler_runs_these_attacks(tmp_path):
    """The control: the same bytes are no duds."""
    marker = tmp_path / "executed"
    touch = f"touch {marker}"
    duds = {
        "call": op.dumps(op.Call(op.Name("posix", "system"), (touch,))),
        "dotted": op.dumps(op.Call(op.Name("subprocess", "os.system"), (touch,)), 4),
        "protocol 0": attacks.code_runners(str(marker))["protocol 0"][0],
    }
    for name, data in duds.items():
        file = tmp_path / "attack.pkl"
        file.write_bytes(data)
        subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(file)!r}, 'rb'))"], check=True)
        assert marker.exists(), name
        marker.unlink()
        with pytest.raises(CheckpointError):
            read(file)
        assert not marker.exists()


def test_extension_says_nothing(tmp_path):
    bad = op.dumps(op.Call(op.Name("posix", "system"), ("true",)))
    for name in ("weights.safetensors", "weights.npz", "weights.txt", "weights"):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(CheckpointError, match="posix.system"):
            read(tmp_path / name)


def test_hostile_source_with_good_tensors_is_data(place, tmp_path):
    marker = tmp_path / "executed"
    source = f"open({str(marker)!r}, 'w').write('x')\n"
    file = tmp_path / "network.pkl"
    file.write_bytes(op.dumps(op.snapshot(op.module({"weight": attacks.WEIGHT}, source=source))))
    raw = read(file)
    assert raw.format == "nvidia-torch" and raw.networks["G_ema"].tensors["weight"].shape == (2, 3)
    assert len(raw.extra["source_sha256"]) == 1 and source not in repr(raw.extra)
    assert not marker.exists() and not list(place.iterdir())


def test_message_shows_nothing_unprintable(tmp_path):
    file = tmp_path / "a.pkl"
    name = op.Name("os\x1b[31m\u202e" + "x" * 5000, "system")
    file.write_bytes(op.dumps(op.Call(name, ()), 4))
    with pytest.raises(CheckpointError) as refusal:
        read(file)
    assert refusal.value.message.isprintable() and len(refusal.value.message) < 300


def test_child_has_no_files_no_network_and_little_memory(tmp_path):
    """The limits are real: what the machine would never do fails in the process that it runs in."""
    probes = {
        "open('/etc/passwd'); [open('/dev/null') for _ in range(50)]": "Too many open files",
        "bytearray(600 << 20)": "MemoryError",
        "import os; os.fork()": "BlockingIOError" if os.getuid() else "",
        "import socket; socket.create_connection(('127.0.0.1', PORT), 3)": "Network is unreachable",
    }
    import socket

    server = socket.create_server(("127.0.0.1", 0))
    for code, problem in probes.items():
        code = code.replace("PORT", str(server.getsockname()[1]))
        program = (
            f"import sys; sys.path.insert(0, sys.argv[1]); from ganhub.checkpoint import child; child.limit(0); {code}"
        )
        root = str(Path(sandbox.ganhub.__file__).parent.parent)
        done = subprocess.run([sys.executable, "-I", "-S", "-c", program, root], capture_output=True, text=True)
        if "socket" in code and "Network is unreachable" not in done.stderr:
            pytest.skip("this system gives no network namespace to an ordinary process")
        assert problem in done.stderr and (not problem or done.returncode), (code, done.stderr)
    server.close()


def test_dead_child_is_a_sentence(tmp_path, monkeypatch):
    file = tmp_path / "a.pkl"
    file.write_bytes(op.dumps({"a": 1}))
    endings = {
        "import os; os.kill(os.getpid(), 9)": "ended with the code -9",
        "print('nonsense')": "ended with the code 0",
    }
    for program, phrase in endings.items():
        monkeypatch.setattr(sandbox, "START", program)
        with pytest.raises(CheckpointError, match=phrase):
            read(file)
    monkeypatch.setattr(sandbox, "START", "import time; time.sleep(60)")
    monkeypatch.setattr(sandbox, "TIMEOUT", 1)
    begin = time.perf_counter()
    with pytest.raises(CheckpointError, match="could not be read within 1 seconds"):
        read(file)
    assert time.perf_counter() - begin < 20


def test_limits_of_the_child_fit_the_promise():
    assert child.MEMORY < MEGABYTES << 20


def test_nothing_in_the_package_unpickles():
    """No module calls Python's unpickler in any of its forms."""
    root = Path(sandbox.ganhub.__file__).parent
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name.split(".")[0] for alias in node.names}, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden, file
            elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                assert (node.arg, node.value.value) != ("weights_only", False), file
                assert (node.arg, node.value.value) != ("allow_pickle", True), file
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "__import__", "torch.jit.load"), f"{file} calls {called}"
                if called == "torch.load":
                    assert any(k.arg == "weights_only" for k in node.keywords), f"{file} trusts a default"
