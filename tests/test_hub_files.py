"""What is remembered of files, several that fetch at once, and real files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hub_rig import CONTENT, FAST, SHA256, SMALL, fails, leftovers, paths, row, server

from ganhub import hub
from ganhub.errors import FetchError
from ganhub.hub import records, transfer
from ganhub.hub.transfer import Limits
from ganhub.registry import PathSource, UrlSource, load_registry

__all__ = ["server"]


# --- rows without a hash


def test_the_lock_file(server):
    one = row({"url": server.add_plain("/files/model.pt", CONTENT)})
    path = hub.fetch(one)
    line = records.lock_file().read_text().splitlines()[-1]
    assert line.split()[:2] == [SHA256, "some-row"] and line.endswith(one.source.url)
    path.unlink()
    server.add_plain("/files/model.pt", CONTENT[::-1])
    fails(one, "changed", str(records.lock_file()), "remove the line of 'some-row'", SHA256[:12])
    assert not path.exists()
    kept = records.lock_file().read_text().splitlines()[:-1]
    records.lock_file().write_text("\n".join(kept))
    assert hub.fetch(one).read_bytes() == CONTENT[::-1]
    assert hub.forget(one) and not hub.forget(one)
    server.add_plain("/files/model.pt", CONTENT)
    path.unlink()
    assert hub.fetch(one).read_bytes() == CONTENT


def test_a_damaged_lock_file_is_no_excuse(server):
    records.lock_file().parent.mkdir(parents=True, exist_ok=True)
    records.lock_file().write_text("nonsense\n")
    with pytest.raises(FetchError, match="Line 1 of .*weights.lock") as caught:
        hub.fetch(row())
    assert caught.value.code == "unreadable"


# --- several at once


def test_processes_and_threads_share_one_download(server):
    server.fault("GET", "trickle")
    server.add("owner/name", "folder/model.pt", CONTENT[:200_000])
    code = "from hub_rig import *; transfer.LIMITS = FAST; print(hub.fetch(row()))"
    other = subprocess.Popen([sys.executable, "-c", code], env=paths(), stdout=subprocess.PIPE, text=True)
    got, seen = [], []
    threads = [threading.Thread(target=lambda: got.append(hub.fetch(row(), progress=seen.append))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    out, _ = other.communicate(timeout=200)
    assert len(set(got)) == 1 and out.strip() == str(got[0])
    assert server.count("GET") == 1
    assert len({p.done for p in seen}) > 3, "those that wait see the progress too"


def test_those_that_wait_share_the_failure(server):
    server.fault("HEAD", "503")
    told = []

    def ask():
        with pytest.raises(FetchError) as caught:
            hub.fetch(row())
        told.append((caught.value.code, caught.value.message))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert len(told) == 6 and len(set(told)) == 1 and told[0][0] == "server_error"
    assert server.count("HEAD") == 3, "one download tried, and tried again"
    server.clear()
    assert hub.fetch(row(sha256=SHA256)).read_bytes() == CONTENT, "a later one tries anew"


def test_a_holder_that_stands_still(server, monkeypatch):
    monkeypatch.setattr(transfer, "LIMITS", Limits(wait=1))
    server.fault("GET", "trickle")
    code = "from hub_rig import *; print(1, flush=True); hub.fetch(row(), progress=lambda p: print(p.done, flush=True))"
    holder = subprocess.Popen([sys.executable, "-c", code], env=paths(), stdout=subprocess.PIPE, text=True)
    try:
        while holder.stdout.readline().strip() in ("0", "1"):
            pass
        holder.send_signal(signal.SIGSTOP)
        fails(row(), "busy", f"process {holder.pid}", "end it")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    server.clear()
    monkeypatch.setattr(transfer, "LIMITS", FAST)
    assert hub.fetch(row(sha256=SHA256)).read_bytes() == CONTENT, "a holder that died is no obstacle"


def test_the_child_ends_with_its_parent(server):
    server.fault("GET", "trickle")
    code = "from hub_rig import *; hub.fetch(row(), progress=lambda p: print(p.done, flush=True))"
    parent = subprocess.Popen([sys.executable, "-c", code], env=paths(), stdout=subprocess.PIPE, text=True)
    while int(parent.stdout.readline()) == 0:
        pass
    assert leftovers()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while leftovers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not leftovers()


def test_a_child_that_dies_is_told(server, monkeypatch):
    monkeypatch.setattr(transfer.sys, "executable", "/bin/false")
    fails(row(), "fetch", "ended early", "exit code 1")
    monkeypatch.setattr(transfer.sys, "executable", "/bin/none")
    fails(row(), "fetch", "no process can be started", "No such file")


# --- leftovers and records


def test_sweep(server):
    blobs = transfer.hub_cache() / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    old, new, blob = blobs / "aa.1234.incomplete", blobs / "bb.1234.incomplete", blobs / "cc"
    part = hub.home() / "url" / "0123" / "model.pt.part"
    part.parent.mkdir(parents=True)
    for file in (old, new, blob, part):
        file.write_bytes(SMALL)
    for file in (old, blob, part):
        os.utime(file, (time.time() - 90_000,) * 2)
    assert transfer.sweep() == 2
    assert not old.exists() and new.exists() and blob.exists() and not part.exists()


def test_a_changed_file_is_hashed_again(tmp_path):
    file = tmp_path / "own.pt"
    file.write_bytes(b"one")
    first = records.digest(file)
    assert records.remembered(file) == first == records.compute(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert records.remembered(file) is None and records.digest(file) != first


def test_a_damaged_record_is_computed_again(tmp_path, monkeypatch):
    file = tmp_path / "own.pt"
    file.write_bytes(SMALL)
    for text in ["nonsense", "[]", json.dumps({str(file.resolve()): 3})]:
        monkeypatch.setattr(records, "_here", {})
        hub.home().mkdir(exist_ok=True)
        (hub.home() / "verified.json").write_text(text)
        assert records.digest(file) == records.compute(file)


def test_many_write_the_records_at_once(tmp_path):
    files = [tmp_path / f"{n}.pt" for n in range(16)]
    for file in files:
        file.write_bytes(file.name.encode())
    threads = [threading.Thread(target=records.digest, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = json.loads((hub.home() / "verified.json").read_text())
    assert sorted(table) == sorted(str(f.resolve()) for f in files)


def test_cache_folder_by_the_variables_of_the_library(server, monkeypatch, tmp_path):
    """Ours is the library's own, whatever combination is set."""
    code = "from huggingface_hub import constants as c; print(c.HF_HUB_CACHE)"
    for settings in [{"HF_HUB_CACHE": "~/one"}, {"HUGGINGFACE_HUB_CACHE": "two"}, {"XDG_CACHE_HOME": "three"}, {}]:
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        assert str(transfer.hub_cache()) == theirs


# --- real files


@pytest.mark.slow
def test_real_files_are_what_the_registry_says(shared, server):
    """Every row whose file is at hand, brought through a server and verified against its own hash."""
    known = {one.sha256: one for one in load_registry() if isinstance(one.source, UrlSource) and one.sha256}
    brought = []
    for file in sorted((shared / "weights").rglob("*")):
        content = file.read_bytes() if file.is_file() else b""
        one = known.get(hashlib.sha256(content).hexdigest())
        if one is not None:
            assert one.bytes == len(content), one.id
            name = transfer.file_name(one.source.url)
            url = UrlSource(url=server.add_plain(f"/{one.id}/{name}", content))
            assert hub.fetch(one.model_copy(update={"source": url})).read_bytes() == content
            brought.append(one.id)
    assert {"realesr-animevideov3", "direction-smile", "lpips-vgg", "blazeface-back", "srgan-leftthomas-x4"} <= set(
        brought
    )


def test_real_files_that_are_wrong(shared):
    samples = shared / "weights" / "negative_samples"
    official = load_registry().find("realesr-animevideov3")
    for name, code in [
        ("realesr-animevideov3.rezipped-deflate.pth", "truncated"),
        ("git-lfs-pointer.generator.pth", "lfs_pointer"),
    ]:
        source = PathSource(path=str(samples / name))
        fails(official.model_copy(update={"source": source}), code)
        fails(
            official.model_copy(update={"source": source, "bytes": None}), "wrong_hash" if code == "truncated" else code
        )
