"""Throws mutated and grammar-made files at the checkpoint reader: `python -m benchmarks.fuzz_checkpoint -n 300000`.

In one process, straight at the reader of the child process. An audit hook ends the run if anything is executed,
compiled, imported or opened. Prints one JSON line; cases that break the rule (only CheckpointError may come out, in
under two seconds of processor time) are kept in `--keep DIR` as hex.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import time
import traceback
from pathlib import Path

from ganhub.checkpoint import raw_bytes
from ganhub.checkpoint.formats import parse
from ganhub.checkpoint.machine import OPCODES
from ganhub.checkpoint.nodes import Budget
from ganhub.checkpoint.symbols import KNOWN
from ganhub.errors import CheckpointError
from tests import opcodes as op

FORBIDDEN = ("exec", "compile", "import", "open", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.")
FORBIDDEN += ("socket.", "ctypes.", "pickle.find_class", "marshal.", "shutil.", "os.remove", "os.rename")
FOREIGN = ["posix system", "builtins eval", "builtins getattr", "torch serialization.os.system", "os path"]
watching = False


def hook(event: str, arguments: tuple) -> None:
    if watching and event.startswith(FORBIDDEN):
        os.write(2, f"the reader caused {event} {str(arguments)[:200]}\n".encode())
        os._exit(3)


def seeds() -> list[bytes]:
    """Small honest files of every kind."""
    numbers = struct.pack("<6f", *range(6))
    weight = op.tensor(op.nested(numbers), (2, 3))
    array = op.Call(
        op.Name("numpy.core.multiarray", "_reconstruct"),
        (op.Name("numpy", "ndarray"), (0,), b"b"),
        state=(1, (2, 3), op.Call(op.Name("numpy", "dtype"), ("f4", 0, 1), state=(3, "<", None)), False, numbers),
    )
    net = op.module({"weight": weight}, {"b4": op.module({"bias": op.tensor(op.nested(numbers), (6,))})}, "import os\n")
    tf = op.New(
        op.Name("dnnlib.tflib.network", "Network"),
        state={"static_kwargs": {"resolution": 4}, "build_func_name": "G_main", "variables": [("w", array)]},
    )
    state = {
        "w": op.tensor(op.storage_id("0", 6), (2, 3)),
        "args": op.New(op.Name("argparse", "Namespace"), state={"a": 1}),
    }
    old = {"w": op.tensor(op.storage_id("0", 6, legacy=True), (3, 2), (1, 3))}
    plain = {"a": [1, 2.5, "x", None, True, (1, 2), b"abc", {1: 2}], "b": {"c": {"d"}}, "e": 2**70}
    npy = (
        b"\x93NUMPY\1\0v\0"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".ljust(117)
        + b"\n"
        + numbers
    )
    files = [op.dumps(op.snapshot(net), p) for p in (2, 3, 4, 5)] + [op.dumps((tf, tf, tf)), op.dumps([array])]
    files += [op.torch_zip(state, {"0": numbers}), op.torch_zip(state, {"0": numbers}, compress=True)]
    files += [op.stream(old, {"0": (6, numbers)}), npy, op.archive({"w.npy": npy}), op.archive({"w.npy": npy}, True)]
    files += [pickle.dumps([plain, collections.OrderedDict(a=1)], p) for p in (2, 3, 4, 5)]
    return files


def value(r: random.Random, depth: int = 0):
    """A random value of the grammar: plain data, known and foreign calls, broken tensors."""
    pick = r.randrange(20 if depth < 4 else 8)
    if pick < 6:
        texts = ["", "weight", "module.x", "latin1", "f4", "<", "storage", "cpu", "é" * 3, "x" * r.randrange(300)]
        odd = [0, 1, -1, 7, 2**31, 2**61 - 1, 2**63, -(2**64), 1.5, float("nan"), None, True, False, b"", b"b"]
        return r.choice([r.choice(texts), r.choice(odd), os.urandom(0) + r.randbytes(r.randrange(40))])
    if pick < 8:
        return op.Name(*(r.choice(FOREIGN).split() if r.random() < 0.1 else r.choice(NAMES)))
    inner = [value(r, depth + 1) for _ in range(r.randrange(5))]
    if pick < 10:
        return r.choice([list, tuple])(inner)
    if pick < 12:
        return {r.choice(["a", "state", "_parameters", "_modules", "w", 1]): v for v in inner}
    if pick < 15:
        return op.Call(op.Name(*r.choice(NAMES)), tuple(inner), r.choice([None, {"k": 1}]), r.choice([None, inner]))
    if pick < 16:
        return op.New(op.Name(*r.choice(NAMES)), r.choice([None, {"k": 1}]), r.choice([None, {"variables": inner}]))
    if pick < 18:
        shape = tuple(r.choice([0, 1, 2, 3, 2**31, 2**47]) for _ in range(r.randrange(4)))
        stride = r.choice([None, tuple(r.choice([0, 1, 2, 2**40]) for _ in shape)])
        data = op.nested(
            r.randbytes(r.choice([0, 4, 24])), r.choice(["FloatStorage", "BoolStorage", "X"]), r.choice([1, 4])
        )
        return op.tensor(data, shape, stride, r.choice([0, 1, 100, -1]))
    if pick < 19:
        return op.storage_id(r.choice(["0", "1", "../x"]), r.choice([0, 1, 6, 2**40]), legacy=r.random() < 0.5)
    return op.module({"w": value(r, depth + 1)}, {"m": value(r, depth + 1)}, "import os")


NAMES = [tuple(token) for token in KNOWN]
KINDS = [("FloatStorage", 4), ("HalfStorage", 2), ("LongStorage", 8), ("BoolStorage", 1), ("BFloat16Storage", 2)]


def honest(r: random.Random, depth: int = 0, legacy: bool | None = None):
    """A file as its authors write it, with a wrong value in one place out of fifty.

    `legacy` says how a storage is referred to: None for a stream of its own.
    """

    def sometimes(right):
        return value(r, 3) if r.random() < 0.02 else right

    def weight():
        shape = tuple(r.randrange(1, 4) for _ in range(r.randrange(4)))
        count = 1
        for n in shape:
            count *= n
        kind, width = r.choice(KINDS)
        if legacy is None:
            storage = op.nested(bytes(count * width), kind, width)
        else:
            storage = op.storage_id("0", 6, legacy=legacy)
        made = op.tensor(storage, shape, r.choice([None, None, None, tuple(r.randrange(4) for _ in shape)]))
        return made._replace(args=tuple(sometimes(part) for part in made.args))

    weights = {f"w{i}": sometimes(weight()) for i in range(r.randrange(4))}
    inner = {f"m{i}": sometimes(honest(r, depth + 1, legacy)) for i in range(r.randrange(3) if depth < 3 else 0)}
    if legacy is not None:
        ordered = op.Call(op.Name("collections", "OrderedDict"), (), weights, {"_metadata": {}})
        first = op.tensor(op.storage_id("0", 6, legacy=legacy), (6,))
        return sometimes(
            {
                "first": first,
                "g_ema": ordered,
                **inner,
                "args": op.New(op.Name("argparse", "Namespace"), state={"a": 1}),
            }
        )
    return op.module(sometimes(weights), sometimes(inner), "import os", _init_kwargs=sometimes({"z_dim": 4, "k": [1]}))


def instructions(r: random.Random) -> bytes:
    """Random instructions, most of them known, with arguments that look right."""
    codes = list(OPCODES)
    out = bytearray(b"\x80" + bytes([r.choice([2, 3, 4, 5])]))
    for _ in range(r.randrange(1, 60)):
        pick = r.random()
        if pick < 0.3:
            out += op.emit(value(r, 3), r.choice([2, 4]))
        elif pick < 0.95:
            out.append(r.choice(codes))
            out += r.choice([b"", b"\0", b"\1\0\0\0", b"\3abc", b"\0" * 8])
        else:
            out.append(r.randrange(256))
    return bytes(out) + b"."


def mutated(r: random.Random, files: list[bytes]) -> bytes:
    data = bytearray(r.choice(files))
    for _ in range(r.choice([1, 1, 2, 4, 16])):
        place = r.randrange(len(data) + 1)
        kind = r.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << r.randrange(8)
        elif kind == 1:
            data[place : place + r.randrange(9)] = r.randbytes(r.randrange(9))
        elif kind == 2:
            other = r.choice(files)
            start = r.randrange(len(other))
            data[place:place] = other[start : start + r.randrange(64)]
        elif kind == 3:
            del data[place : place + r.randrange(1, 64)]
        elif kind == 4:
            data[place : place + 4] = struct.pack("<I", r.choice([0, 1, 255, 2**31 - 1, 2**32 - 1, len(data)]))
        else:
            start = r.randrange(len(data) + 1)
            data[place:place] = data[start : start + r.randrange(32)]
        if not data:
            data = bytearray(b"\x80")
    return bytes(data)


def case(r: random.Random, files: list[bytes]) -> bytes:
    kind = r.randrange(14)
    if kind > 11:
        return op.dumps(op.snapshot(honest(r)), r.choice([2, 4]))
    if kind == 11:
        return op.torch_zip(honest(r, legacy=False), {"0": bytes(24)}, r.random() < 0.3)
    if kind == 10:
        return op.stream(honest(r, legacy=True), {"0": (6, bytes(24))})
    if kind < 4:
        return mutated(r, files)
    if kind < 6:
        return instructions(r)
    made = value(r)
    if kind == 6:
        return op.dumps(made, r.choice([2, 3, 4, 5]))
    if kind == 7:
        return op.dumps(op.snapshot(made), r.choice([2, 4]))
    if kind == 8:
        return op.torch_zip(made, {"0": bytes(24), "1": bytes(24)}, r.random() < 0.3)
    return op.stream(made, {"0": (6, bytes(24))}, r.choice([None, {r.randrange(5): instructions(r)}]))


def attempt(data: bytes) -> str:
    """`refused` or `accepted`.

    Raises:
        Exception: whatever else the reader raised, which is a bug.
    """
    try:
        budget = Budget()
        raw_bytes.write(parse(memoryview(data), budget), io.BytesIO(), len(data), budget)
    except CheckpointError:
        return "refused"
    return "accepted"


def main() -> int:
    global watching
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    limit = 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    r, files = random.Random(args.seed), seeds()
    for data in files:
        attempt(data)  # loads whatever is loaded late
    assert {attempt(data) for data in files[:12]} == {"accepted"}, "an honest seed is refused"
    sys.addaudithook(hook)
    counts: collections.Counter[str] = collections.Counter()
    slowest, begin = 0.0, time.time()
    for number in range(args.n):
        data = case(r, files)
        start = time.process_time()
        watching = True
        try:
            outcome = attempt(data)
        except Exception:
            outcome = "crashes"
            watching = False
            problem = traceback.format_exc()
            sys.stderr.write(f"input {number}: {problem}\n")
        watching = False
        took = time.process_time() - start
        slowest = max(slowest, took)
        counts[outcome] += 1
        if args.keep and (outcome == "crashes" or took > 2):
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{args.seed}-{number}.hex").write_text(data.hex() + "\n")
    result = {"inputs": args.n, "seed": args.seed, **{k: counts[k] for k in ("refused", "accepted", "crashes")}}
    print(json.dumps({**result, "slowest_s": round(slowest, 3), "seconds": round(time.time() - begin)}))
    return 1 if counts["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
