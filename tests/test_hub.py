"""Downloads with the Hub's real client against a local server, faults included."""

import errno
import hashlib
import subprocess
import sys
import time

import pytest
from hub_rig import CONTENT, SECRET, SHA256, SMALL, fails, leftovers, paths, row, server
from hub_server import COMMIT, LFS_POINTER, PAGE

from ganhub import hub
from ganhub.errors import FetchError
from ganhub.hub import download, records, transfer
from ganhub.hub.transfer import FetchProgress, Limits

__all__ = ["server"]


# --- what works


def test_a_file_of_the_hub_is_downloaded_verified_and_remembered(server):
    one = row(sha256=SHA256, bytes=len(CONTENT))
    assert hub.status(one) == hub.Status(False, transfer.snapshot(one.source), len(CONTENT), None)
    path = hub.fetch(one)
    assert path.read_bytes() == CONTENT
    assert hub.status(one) == hub.Status(True, path, len(CONTENT), SHA256)
    assert server.count("GET") == 1
    asked = len(server.requests)
    assert hub.fetch(one) == path
    assert len(server.requests) == asked, "a pinned file that is here costs no request"


def test_what_was_verified_is_not_hashed_again(server, monkeypatch):
    path = hub.fetch(row(sha256=SHA256))
    monkeypatch.setattr(records, "_here", {})  # as after a new start
    monkeypatch.setattr(records, "compute", lambda file: pytest.fail("hashed again"))
    assert hub.fetch(row(sha256=SHA256)) == path


def test_a_small_file_is_named_by_its_git_blob(server):
    server.add("spaces/owner/name", "config.json", SMALL, large=False)
    source = {"hub": "owner/name", "file": "config.json", "revision": COMMIT, "repo_type": "space"}
    path = hub.fetch(row(source))
    assert path.read_bytes() == SMALL
    assert hub.verify(row(source)).against == "weights.lock"


def test_git_blob_sha1(server):
    git = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    hub.fetch(row(git_blob_sha1=git))
    assert hub.verify(row(git_blob_sha1=git)).against == "git_blob_sha1"
    fails(row(git_blob_sha1="0" * 40), "wrong_hash", git[:12])


def test_an_address_of_any_server(server):
    url = server.add_plain("/files/model.pt", CONTENT)
    one = row({"url": url}, sha256=SHA256)
    path = hub.fetch(one)
    assert path.read_bytes() == CONTENT and path.name == "model.pt" and path.is_relative_to(hub.home())
    hub.fetch(one)
    assert server.count("GET") == 1


def test_progress_has_real_counts(server):
    server.fault("GET", "trickle", path="/cdn/")
    server.add("owner/name", "slow.pt", CONTENT[:200_000])
    seen, start = [], time.monotonic()
    hub.fetch(row({"hub": "owner/name", "file": "slow.pt", "revision": COMMIT}), progress=seen.append)
    assert seen[-1].done == seen[-1].total == 200_000 and seen[-1].seconds_left == 0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert any(p.total == 200_000 for p in seen[:-1]), "the size is known before the end"
    assert len(seen) <= 5 * (time.monotonic() - start) + 2, "five a second"


def test_progress_in_words():
    assert FetchProgress(12_300_000, 132_000_000, 4_500_000, 27).describe() == "12.3 of 132 MB, 4.5 MB/s, 27 s left"
    assert FetchProgress(0, None, 0, None).describe() == "0 B"
    assert FetchProgress(1_500, 2_000_000_000, 1e6, 1999).describe() == "0.0 of 2 GB, 1 MB/s, 33 min 19 s left"


def test_progress_can_stop_the_download(server):
    server.fault("GET", "trickle", path="/cdn/")

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.total:
            raise Stop

    start = time.monotonic()
    with pytest.raises(Stop):
        hub.fetch(row(), progress=stop)
    assert time.monotonic() - start < 30 and not leftovers()


def test_offline_with_the_file_here(server, monkeypatch):
    path = hub.fetch(row(sha256=SHA256))
    asked = len(server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.fetch(row(sha256=SHA256)) == path and len(server.requests) == asked


def test_embedded_and_path(tmp_path):
    file = tmp_path / "own.pt"
    file.write_bytes(CONTENT)
    assert hub.fetch(row({"path": str(file)}, sha256=SHA256)) == file
    assert hub.verify(row({"path": str(file)})).against == "nothing"
    fails(row({"path": str(file)}, sha256="0" * 64), "wrong_hash", str(file), "correct the row")
    fails(row({"path": str(tmp_path / "none.pt")}), "missing", "none.pt")
    fails(row({"embedded": "none.safetensors"}), "missing", "none.safetensors", "install ganhub again")


def test_manual():
    one = row({"manual": "https://drive.google.com/file/d/ID/view", "file": "stackgan/netG.pth"}, sha256=SHA256)
    place = hub.manual_path(one)
    assert place == hub.home() / "manual" / "stackgan" / "netG.pth"
    fails(one, "manual", "https://drive.google.com/file/d/ID/view", str(place))
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert hub.fetch(one) == place
    place.write_bytes(PAGE)
    fails(one, "html_page", one.source.manual)


# --- what servers answer: fault -> code, words of the sentence

REFUSED = [
    ("repo_missing", "repo_not_found", ["owner/name", "gone or private", "set HF_TOKEN"]),
    ("revision_missing", "revision_not_found", [COMMIT[:12], "gone"]),
    ("file_missing", "file_not_found", ["folder/model.pt", "correct the row"]),
    ("gated_401", "gated", ["/owner/name", "accept", "set HF_TOKEN"]),
    ("gated_403", "gated", ["/owner/name", "accept", "set HF_TOKEN"]),
    ("bad_token", "bad_token", ["set HF_TOKEN"]),
    ("forbidden", "forbidden", ["ask its owner"]),
    ("disabled", "disabled", ["switched off"]),
    ("429", "rate_limited", ["try again in a minute"]),
    ("429_long", "rate_limited", ["try again in a minute"]),
    ("500", "server_error", ["500", "try again"]),
    ("503", "server_error", ["503", "try again"]),
    ("page", "not_a_hub", ["not a Hub", "HF_ENDPOINT"]),
    ("circle", "unreachable", ["circle"]),
    ("other_commit", "wrong_revision", ["ffffffffffff"]),
]


@pytest.mark.parametrize(("fault", "code", "words"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refused(server, fault, code, words):
    server.fault("HEAD", fault)
    fails(row(), code, *words)
    assert server.count("GET") == 0
    assert server.count("HEAD") == (3 if code in ("server_error",) or fault == "429" else server.count("HEAD"))


@pytest.mark.parametrize("fault", ["repo_missing", "gated_403", "bad_token"])
def test_refused_with_a_token(server, monkeypatch, fault):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    server.fault("HEAD", fault)
    words = "your HF_TOKEN" if fault != "bad_token" else "is not valid"
    fails(row(), dict((f, c) for f, c, _ in REFUSED)[fault], words)


def test_the_token_reaches_the_hub_and_nobody_else(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.fetch(row(sha256=SHA256))
    hub.fetch(row({"url": server.add_plain("/files/x.pt", SMALL)}))
    told = {r.path.split("/")[1] for r in server.requests if SECRET in r.headers.get("authorization", "")}
    assert told == {"owner"}
    for file in hub.home().rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


def test_a_refusal_that_passes(server):
    server.fault("HEAD", "503", times=1)
    server.fault("GET", "500", times=1)
    assert hub.fetch(row(sha256=SHA256)).read_bytes() == CONTENT


def test_a_refusal_between_the_calls(server):
    """The library hides the second refusal behind "check your connection"."""
    server.fault("HEAD", "nothing", times=1)
    server.fault("HEAD", "forbidden")
    fails(row(), "forbidden")


def test_an_error_of_the_file_server(server):
    server.fault("GET", "500")
    fails(row(), "server_error", "500")


def test_nobody_answers(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    fails(row(), "unreachable", "http://127.0.0.1:9", "check the network")


def test_the_endpoint_is_no_address(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "not-an-address")
    fails(row(), "bad_address", "not-an-address")


def test_offline(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails(row(), "offline", "ganhub pull some-row")
    fails(row({"url": server.url + "/x"}), "offline")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fails(row(), "offline", offline=True)
    assert not server.requests


def test_the_first_answer_hangs(server, monkeypatch):
    monkeypatch.setattr(transfer, "LIMITS", Limits(answer=0.5, retries=0))
    server.fault("HEAD", "hang")
    start = time.monotonic()
    fails(row(), "timeout", "does not answer")
    assert time.monotonic() - start < 45, "the library alone waits for 63 s"


def test_a_later_answer_hangs(server, monkeypatch):
    """The library's own second try would wait for a minute."""
    monkeypatch.setattr(transfer, "LIMITS", Limits(answer=30, stall=2.5))
    server.fault("HEAD", "nothing", times=1)
    server.fault("HEAD", "hang")
    fails(row(), "timeout", "sent nothing for 2 s")


def test_the_body_stalls(server, monkeypatch):
    monkeypatch.setattr(transfer, "LIMITS", Limits(stall=2))
    server.fault("GET", "stall")
    fails(row(), "timeout", "sent nothing for 2 s")
    assert not leftovers()


@pytest.mark.parametrize("kind", ["hub", "url"])
def test_the_body_trickles(server, monkeypatch, kind):
    monkeypatch.setattr(transfer, "LIMITS", Limits(total=2, slowest=1e9))
    server.fault("GET", "trickle")
    source = {"url": server.add_plain("/files/x.pt", CONTENT)} if kind == "url" else None
    fails(row(source), "too_slow", "2.1 MB")


def test_the_body_is_cut_once(server):
    server.fault("GET", "cut", times=1)
    assert hub.fetch(row(sha256=SHA256)).read_bytes() == CONTENT
    ranges = [r.headers.get("range") for r in server.requests if r.method == "GET"]
    assert ranges[0] is None and ranges[-1].startswith("bytes=1"), "it goes on where it was cut"


@pytest.mark.slow
def test_the_body_is_always_cut(server):
    server.add("owner/name", "folder/model.pt", CONTENT[:100])
    server.fault("GET", "cut")
    fails(row(), "connection_lost", "broke the connection off")


def test_the_body_is_short_but_consistent(server):
    server.fault("GET", "short")
    fails(row(sha256=SHA256, bytes=len(CONTENT)), "truncated", "less than the whole file")


def test_wrong_bytes_are_fetched_once_more_and_then_refused(server):
    server.fault("GET", "wrong_bytes", times=1)
    assert hub.fetch(row(sha256=SHA256)).read_bytes() == CONTENT
    assert server.count("GET") == 2


@pytest.mark.parametrize("hashed", [True, False])
def test_wrong_bytes_every_time(server, hashed):
    server.fault("GET", "wrong_bytes")
    one = row(sha256=SHA256 if hashed else None)
    fails(one, "wrong_hash", "not used")
    assert server.count("GET") == 2
    assert not hub.status(one).on_disk
    assert not [p for p in transfer.hub_cache().rglob("*") if p.is_file() and p.stat().st_size >= len(CONTENT)]


def test_another_file_than_the_registry_names_is_not_downloaded(server):
    fails(row(sha256="0" * 64), "wrong_hash", SHA256[:12], "000000000000", "not downloaded")
    assert server.count("GET") == 0


@pytest.mark.parametrize(("kind", "code"), [("lfs_pointer", "lfs_pointer"), ("page", "html_page")])
def test_something_else_instead_of_the_file(server, kind, code):
    one = row({"url": server.add_plain("/files/x.pt", CONTENT)}, sha256=SHA256)
    server.fault("GET", kind)
    fails(one, code)
    server.add("owner/name", "pointer.pt", LFS_POINTER if kind == "lfs_pointer" else PAGE, large=False)
    server.clear()
    fails(row({"hub": "owner/name", "file": "pointer.pt", "revision": COMMIT}), code)


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    path = hub.fetch(row(sha256=SHA256))
    path.resolve().write_bytes(CONTENT[:1000])
    with pytest.raises(FetchError, match="wrong|hash|bytes"):
        hub.verify(row(sha256=SHA256, bytes=len(CONTENT)))
    fails(row(sha256=SHA256, bytes=len(CONTENT)), "truncated", "1000 of 2097152 bytes", offline=True)
    assert hub.fetch(row(sha256=SHA256)).read_bytes() == CONTENT


def test_the_disk_is_too_small(server, monkeypatch):
    usage = transfer.shutil.disk_usage("/")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda place: usage._replace(free=50_000_000))
    fails(row(bytes=400_000_000), "disk_full", "400 MB", "50 MB", "HF_HOME")
    assert not server.requests
    server.fault("HEAD", "huge")
    fails(row(), "disk_full", "2.1 GB")


def test_the_disk_gets_full(server):
    """A limit on the size of files is a disk that takes no more."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from hub_rig import *
transfer.LIMITS = FAST
for source in [None, {"url": sys.argv[1]}]:
    fails(row(source), "disk_full", "free some space")
assert not leftovers()
"""
    url = server.add_plain("/files/x.pt", CONTENT)
    subprocess.run([sys.executable, "-c", code, url], check=True, env=paths(), timeout=200)


def test_a_folder_that_cannot_be_written(server, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("HF_HOME", str(blocked / "hf"))
    fails(row(), "unwritable", "HF_HOME")
    monkeypatch.setenv("GANHUB_HOME", str(blocked / "home"))
    fails(row(), "unwritable", "GANHUB_HOME")
    own = tmp_path / "own.pt"
    own.write_bytes(SMALL)
    assert hub.fetch(row({"path": str(own)}, sha256=hashlib.sha256(SMALL).hexdigest())) == own


# --- addresses


def test_an_address_goes_on_in_the_next_call(server):
    one = row({"url": server.add_plain("/files/model.pt", CONTENT)}, sha256=SHA256)
    server.fault("GET", "stall", times=1)

    def stop(progress):
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch(one, progress=stop)
    assert hub.fetch(one).read_bytes() == CONTENT
    asked = server.requests[-1].headers["range"]
    assert asked == f"bytes={len(CONTENT) // 2}-"


@pytest.mark.parametrize("why", ["the file is another", "no_range", "no_etag"])
def test_an_address_starts_anew_when_it_must(server, monkeypatch, why):
    one = row({"url": server.add_plain("/files/model.pt", CONTENT)})
    if why == "no_etag":
        server.fault("GET", "cut_no_etag", times=1)
    else:
        server.fault("GET", "cut", times=1)
    monkeypatch.setattr(transfer, "LIMITS", Limits(retries=0))
    fails(one, "connection_lost", "broke the connection off")
    other = CONTENT[::-1]
    server.add_plain("/files/model.pt", other)
    if why == "no_range":
        server.fault("GET", "no_range")
    assert hub.fetch(one).read_bytes() == other
    assert ("range" in server.requests[-1].headers) == (why != "no_etag")


def test_a_server_that_always_cuts_is_followed_to_the_end(server):
    """Each try brings half of the rest: the connection is bad, not dead."""
    url = server.add_plain("/files/model.pt", CONTENT[:1000])
    server.fault("GET", "cut", times=6)
    assert hub.fetch(row({"url": url})).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        ("ftp", "bad_address", "neither http nor https"),
        ("circle", "unreachable", "circle"),
        ("forbidden", "forbidden", "by hand"),
        ("repo_missing", "file_not_found", "gone"),
        ("503", "server_error", "503"),
        ("429", "rate_limited", "too many"),
    ],
)
def test_an_address_that_refuses(server, fault, code, word):
    url = server.add_plain("/files/model.pt", CONTENT)
    server.fault("GET", fault)
    fails(row({"url": url}), code, word, "127.0.0.1")


def test_an_address_keeps_its_secret(server, monkeypatch):
    url = server.url.replace("http://", f"http://user:{SECRET}@")
    fails(row({"url": f"{url}/none.pt?key={SECRET}"}), "file_not_found")
    monkeypatch.setenv("HF_ENDPOINT", url)
    server.fault("HEAD", "other_commit")
    fails(row(), "wrong_revision", "127.0.0.1")


def test_reasons_that_no_server_gives():
    request = {"row": "x", "url": "http://server/x", "revision": COMMIT}
    told = {
        "disk_full": OSError(errno.ENOSPC, "No space left on device"),
        "unwritable": OSError(errno.EACCES, "Permission denied"),
        "fetch": RuntimeError(SECRET),
    }
    for code, error in told.items():
        refused = download.explain(error, request)
        assert refused.code == code and SECRET not in refused.sentence
