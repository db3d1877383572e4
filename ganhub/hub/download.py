"""The process that speaks to servers: run as a file, it imports nothing of ganhub.

Reads one request (JSON) from standard input and says how far it is, a JSON line each, on standard output; the last
line is `{"file", "claimed"}` or `{"code", "sentence"}`. Ends when standard input does.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
from huggingface_hub import errors as hub
from huggingface_hub.utils import get_session

_AGENT = {"user-agent": "ganhub"}
_PIECE = 1 << 15
_PLACES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}


class Refused(Exception):
    """The reason that a file does not come: a code, a sentence without the row's name, and whether to try again."""

    def __init__(self, code: str, sentence: str, again: bool = False, after: float | None = None):
        super().__init__(sentence)
        self.code, self.sentence, self.again, self.after = code, sentence, again, after


class Status(Exception):
    """An answer that is no file, from a server that is not the Hub."""

    def __init__(self, status: int, headers: Any):
        super().__init__(status)
        self.status, self.headers = status, headers


class Reporter:
    """Says how many bytes are here, at most ten times a second."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.said = 0.0
        self.most = 0

    def __call__(self, done: int, total: int | None = None) -> None:
        self.most = max(self.most, done)
        news = total is not None and total != self.total
        self.total = total if news else self.total
        if news or time.monotonic() - self.said >= 0.1:
            self.said = time.monotonic()
            say(done=done, total=self.total)


_speaking = threading.Lock()  # Xet tells its progress from threads of its own


def say(**message: Any) -> None:
    with _speaking:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def bar(report: Reporter) -> type:
    """A progress bar as the Hub's library wants it, which counts and draws nothing."""

    class Bar:
        def __init__(self, *args: Any, total: int | None = None, initial: int = 0, **kwargs: Any):
            self.total, self.n, self.came = total, initial, initial
            report(self.n, total)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *args: Any) -> None:
            report(self.n, self.total)

        def update(self, count: float | None = 1) -> None:
            self.n += int(count or 0)
            self._say()

        def update_transfer(self, count: float) -> None:
            """Bytes from the network; with Xet they come before those on the disk."""
            self.came += int(count)
            self._say()

        def _say(self) -> None:
            came = self.came if self.total is None else min(self.came, self.total)
            report(max(self.n, came), self.total)

        def __getattr__(self, name: str) -> Any:  # set_postfix_str, refresh, close, ...
            return lambda *args, **kwargs: None

    return Bar


def from_hub(request: dict[str, Any], report: Reporter) -> dict[str, str]:
    """One file of a commit, through the Hub's own library."""
    where = {"repo_id": request["hub"], "filename": request["file"], "repo_type": request["repo_type"]}
    # Asked first and once: the download itself hides the reason of a failure, and retries for a minute and more.
    known = get_hf_file_metadata(
        hf_hub_url(**where, revision=request["revision"]), timeout=request["answer"], library_name="ganhub"
    )
    if known.commit_hash is None or known.etag is None:
        raise Refused("not_a_hub", f"what answers at {endpoint()} is not a Hub; {PORTAL}")
    if known.commit_hash != request["revision"]:
        commit, wanted = known.commit_hash[:12], request["revision"][:12]
        raise Refused("wrong_revision", f"{endpoint()} gives commit {commit} for {wanted}; check HF_ENDPOINT")
    wanted = request["sha256"]
    if wanted and len(known.etag) == 64 and known.etag != wanted:
        raise Refused(
            "wrong_hash",
            f"{request['hub']} holds a file with the hash {known.etag[:12]}…, not the {wanted[:12]}… that the registry "
            "names, and it is not downloaded; correct the row, or use another",
        )
    report(0, known.size)
    file = hf_hub_download(
        **where,
        revision=request["revision"],
        cache_dir=request["cache"],
        etag_timeout=request["answer"],
        tqdm_class=bar(report),
        library_name="ganhub",
    )
    named = known.etag if len(known.etag) in (40, 64) else ""
    return {"file": file, "claimed": named}


def from_url(request: dict[str, Any], report: Reporter) -> dict[str, str]:
    """One file from any server; goes on where an earlier try ended, if the file there is still the same one."""
    target = Path(request["target"])
    part, note = Path(f"{target}.part"), Path(f"{target}.part.seen")
    seen = note.read_text(encoding="latin-1") if note.exists() else ""  # how the server named what it sent
    have = part.stat().st_size if part.exists() and seen else 0
    headers = {**_AGENT, "accept-encoding": "identity"}
    if have:
        headers |= {"range": f"bytes={have}-", "if-range": seen}
    with get_session().stream(
        "GET", request["url"], headers=headers, timeout=request["answer"], follow_redirects=True
    ) as answer:
        if answer.status_code == 416:
            part.unlink()
            raise Refused("truncated", "the server has less of the file than is here already; try again", True, 0)
        if answer.status_code not in (200, 206):
            raise Status(answer.status_code, answer.headers)
        if answer.status_code == 200:
            have = 0
        elif not answer.headers.get("content-range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise Refused("truncated", "the server sent another part of the file than it was asked for", True, 0)
        plain = answer.headers.get("content-encoding", "identity") == "identity"
        length = answer.headers.get("content-length", "")
        total = have + int(length) if plain and length.isdigit() else None
        strong = answer.headers.get("etag", "")
        seen = strong if strong and not strong.startswith("W/") else answer.headers.get("last-modified", "")
        if seen and plain:
            note.write_text(seen, encoding="latin-1")
        else:
            note.unlink(missing_ok=True)  # nothing tells whether it is the same file the next time
        report(have, total)
        with part.open("ab" if have else "wb") as stream:
            for chunk in answer.iter_bytes():
                stream.write(chunk)
                have += len(chunk)
                report(have)
        if total is not None and have != total:
            raise Refused("truncated", f"the connection ended after {have} of {total} bytes; try again", True)
    os.replace(part, target)
    note.unlink(missing_ok=True)
    return {"file": str(target), "claimed": ""}


def endpoint() -> str:
    """The address of the Hub, without a password that may stand in it."""
    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


PORTAL = "check HF_ENDPOINT, and that no sign-in page or proxy of the network stands between"


def explain(error: BaseException, request: dict[str, Any]) -> Refused:
    """The reason behind an exception of the Hub's library, its HTTP client or the disk."""
    while isinstance(error, (hub.LocalEntryNotFoundError, ValueError)) and error.__cause__ is not None:
        error = error.__cause__  # the library says "check your connection" for whatever the server said
    if isinstance(error, Refused):
        return error
    kinds = {kind.__name__ for kind in type(error).__mro__}  # the HTTP client differs between versions of the library
    site = request.get("hub") and endpoint() or urlsplit(request["url"]).hostname
    if isinstance(error, hub.HfHubHTTPError):
        return explain_hub(error, request)
    if isinstance(error, Status):
        return explain_url(error, request)
    if isinstance(error, hub.FileMetadataError):
        return Refused("not_a_hub", f"what answers at {site} is not a Hub; {PORTAL}")
    if isinstance(error, hub.OfflineModeIsEnabled):
        return Refused("offline", "downloads are switched off; unset HF_HUB_OFFLINE")
    if "TimeoutException" in kinds:
        return Refused("timeout", f"{site} does not answer; check the network, or try again in a minute", True)
    if "ProxyError" in kinds:
        return Refused("unreachable", f"the proxy refuses the way to {site}; check HTTPS_PROXY")
    if "ConnectError" in kinds:
        return Refused("unreachable", f"{site} cannot be reached; check the network, or work with what is here", True)
    if "TooManyRedirects" in kinds:
        return Refused("unreachable", f"{site} sends in a circle; correct the address in the row")
    if "UnsupportedProtocol" in kinds or "InvalidURL" in kinds:
        return Refused("bad_address", f"{site} leads to an address that is neither http nor https, and is not followed")
    if "TransportError" in kinds:
        return Refused("connection_lost", f"{site} broke the connection off before the end; try again", True)
    if isinstance(error, OSError) and error.errno in _PLACES:
        return Refused("disk_full", "the disk is full; free some space, or set HF_HOME and GANHUB_HOME to another disk")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return Refused("truncated", f"{site} sent less than the whole file; try again", True)
    if isinstance(error, OSError) and error.errno is not None:
        return Refused(
            "unwritable", f"the file cannot be stored ({error.strerror}); set HF_HOME and GANHUB_HOME elsewhere"
        )
    return Refused("fetch", f"the download failed ({type(error).__name__}); try again")


def explain_hub(error: hub.HfHubHTTPError, request: dict[str, Any]) -> Refused:
    """What the Hub refused, and who can change that."""
    name, status = request["hub"], error.response.status_code
    prefix = "" if request["repo_type"] == "model" else f"{request['repo_type']}s/"
    page = f"{endpoint()}/{prefix}{name}"
    token = get_token() is not None
    if isinstance(error, hub.GatedRepoError):
        how = " with the account of your HF_TOKEN" if token else ", then set HF_TOKEN to a token of that account"
        return Refused("gated", f"its owner wants the licence accepted first; open {page}, accept it{how}")
    if isinstance(error, hub.RevisionNotFoundError):
        return Refused(
            "revision_not_found", f"commit {request['revision'][:12]} is gone from {page}; choose another row"
        )
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return Refused("file_not_found", f"{page} has no file {request['file']} at that commit; correct the row")
    if isinstance(error, hub.RepositoryNotFoundError):
        how = "the account of your HF_TOKEN may not see it" if token else "if it is private, set HF_TOKEN"
        return Refused("repo_not_found", f"{page} is gone or private; {how}, else choose another row")
    if isinstance(error, hub.DisabledRepoError):
        return Refused("disabled", f"{page} has been switched off; choose another row")
    if status == 401 and token:
        return Refused("bad_token", "the token in HF_TOKEN is not valid; renew or unset it")
    if status == 401:
        return Refused("bad_token", f"{page} asks for a token; set HF_TOKEN")
    if status == 403:
        return Refused("forbidden", f"{page} may not be read with this account; ask its owner, or choose another row")
    return explain_status(status, error.response.headers, endpoint())


def explain_url(error: Status, request: dict[str, Any]) -> Refused:
    site = urlsplit(request["url"]).hostname or "the server"
    if error.status in (404, 410):
        return Refused("file_not_found", f"the file is gone from {site}; correct the address in the row")
    if error.status in (401, 403):
        return Refused(
            "forbidden", f"{site} does not give the file to everybody; fetch it by hand and use a row with path"
        )
    return explain_status(error.status, error.headers, site)


def explain_status(status: int, headers: Any, site: str) -> Refused:
    after = headers.get("retry-after", "")
    if status == 429:
        return Refused(
            "rate_limited",
            f"{site} gets too many requests; try again in a minute, with HF_TOKEN set for a higher limit",
            True,
            float(after) if after.isdigit() else None,
        )
    if status in (408, 425) or status >= 500:
        return Refused(
            "server_error", f"{site} answers with an error of its own ({status}); try again in a minute", True
        )
    return Refused("fetch", f"{site} answers with status {status}; check the row")


def main() -> int:
    request = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, so that unfinished files are removed
    threading.Thread(target=end_with_parent, daemon=True).start()
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE  # also the step of progress
    report = Reporter()
    bring = from_hub if "hub" in request else from_url
    left = request["retries"]
    while True:
        most = report.most
        try:
            say(**bring(request, report))
            return 0
        except Exception as error:
            refused = explain(error, request)
        if report.most > most:
            left = request["retries"]  # the connection is bad, not dead
        wait = request["backoff"] * 2 ** (request["retries"] - left) if refused.after is None else refused.after
        given_up = refused.code == "connection_lost" and "hub" in request and report.total  # the library tried for us
        if not refused.again or left == 0 or wait > 10 or given_up:
            say(code=refused.code, sentence=f"'{request['row']}': {refused.sentence}.")
            return 1
        left -= 1
        time.sleep(wait)


def end_with_parent() -> None:
    """Ends this process when standard input ends, which the parent holds."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
