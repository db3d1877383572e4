"""Look what a repository of the Hub holds, and put files into one.

As in `transfer`, a child process speaks to the server, because no setting of the Hub's library bounds how long a call
may take: this file run by itself is that process.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganhub.errors import FetchError, PublishError
from ganhub.hub import transfer

ROW_FILE = "weights.yaml"
"""What `ganhub publish` puts beside a checkpoint, and `ganhub add` reads."""


@dataclass(frozen=True)
class HubFile:
    """What the Hub says of a file: its size, and the hash that it names it by (large files by sha256)."""

    bytes: int | None
    sha256: str | None
    git_blob_sha1: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Args:
        page: its address for a browser.
        license: as the front matter of its card says it, or an empty string.
    """

    name: str
    commit: str
    page: str
    files: dict[str, HubFile]
    license: str


@dataclass(frozen=True)
class Pushed:
    """A commit that was made."""

    commit: str
    page: str


def look(repository: str, revision: str | None = None) -> Repository:
    """The files of a model repository (`owner/name`) at a branch, tag or commit; the newest by default.

    Raises:
        FetchError: there is no such repository or revision, or the Hub cannot be asked.
    """
    said = _ask({"hub": repository, "revision": revision or "main"}, transfer.LIMITS.total)
    if "code" in said:
        raise FetchError(said["sentence"], said["code"])
    answer = said["answer"]
    files = {name: HubFile(**about) for name, about in answer.pop("files").items()}
    return Repository(repository, files=files, **answer)


def push(folder: Path, names: Sequence[str], repository: str, message: str) -> Pushed:
    """Put files of a folder into a model repository as one commit; the repository is made where there is none.

    Args:
        names: files in `folder`; nothing else of it is sent.
        repository: `owner/name`.
        message: of the commit.

    Raises:
        PublishError: one sentence; its code is `no_token`, `bad_token`, `wrong_owner`, `forbidden`, `exists`,
            `changed`, `refused`, or one of those that a download has.
    """
    size = sum((folder / name).stat().st_size for name in names)
    request = {"hub": repository, "folder": str(folder), "files": list(names), "message": message}
    said = _ask(request, transfer.LIMITS.total + size / transfer.LIMITS.slowest)
    if "code" in said:
        raise PublishError(said["sentence"], said["code"])
    return Pushed(**said["answer"])


def _ask(request: dict[str, Any], limit: float) -> dict[str, Any]:
    """The last word of the child, or a sentence of our own once `limit` seconds are over."""
    limits = transfer.LIMITS
    request |= {
        "row": request["hub"],
        "repo_type": "model",
        "answer": limits.answer,
        "silence": limits.stall,
        "retries": limits.retries,
        "backoff": limits.backoff,
    }
    with transfer.child(request, "upload.py") as messages:
        try:
            return messages.get(timeout=limit)
        except queue.Empty:
            sentence = f"'{request['hub']}': the Hub did not finish within {limit:.0f} s; check the network, try again."
            return {"code": "timeout", "sentence": sentence}


# --- The child process. ---


def _look(request: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import HfApi

    from ganhub.hub import download

    info = HfApi(library_name="ganhub").model_info(
        request["hub"], revision=request["revision"], files_metadata=True, timeout=request["answer"]
    )
    if not re.fullmatch("[0-9a-f]{40}", info.sha or "") or info.siblings is None:
        raise download.Refused("not_a_hub", f"what answers at {download.endpoint()} is not a Hub; {download.PORTAL}")
    files = {}
    for entry in info.siblings:
        name = entry.rfilename
        if not name.isprintable() or name.startswith("/") or "\\" in name or ".." in name.split("/"):
            continue  # nobody can mean such a file
        sha256 = entry.lfs.sha256 if entry.lfs is not None else None
        files[name] = {"bytes": entry.size, "sha256": sha256, "git_blob_sha1": None if sha256 else entry.blob_id}
    named = info.card_data.get("license") if info.card_data is not None else None
    license = named if isinstance(named, str) and named.isprintable() else ""
    return {"commit": info.sha, "page": f"{download.endpoint()}/{request['hub']}", "files": files, "license": license}


def _push(request: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub import errors as hub
    from huggingface_hub.utils import get_session

    from ganhub.hub import download

    name, page = request["hub"], f"{download.endpoint()}/{request['hub']}"
    if get_token() is None:
        raise download.Refused(
            "no_token",
            f"nobody is signed in; make a token that may write at {download.endpoint()}/settings/tokens, set HF_TOKEN "
            "to it (or run `hf auth login`), then try again",
        )
    get_session().timeout = request["silence"]  # by default the library waits for ever
    api = HfApi(library_name="ganhub")
    me = api.whoami()
    mine = [me["name"], *(org["name"] for org in me.get("orgs", ()))]
    owner = name.split("/")[0]
    if owner.lower() not in [own.lower() for own in mine]:
        raise download.Refused(
            "wrong_owner",
            f"the token belongs to {me['name']}, who may publish for {' and '.join(mine)}, not for {owner}; "
            f"name --to {me['name']}/{name.split('/')[1]}, or use a token of {owner}",
        )
    head = None
    try:
        info = api.model_info(name, timeout=request["answer"])
    except hub.RepositoryNotFoundError:
        api.create_repo(name)
    else:
        head = info.sha
        foreign = {entry.rfilename for entry in info.siblings or ()} - {".gitattributes", "README.md"}
        if foreign and ROW_FILE not in foreign:
            raise download.Refused(
                "exists",
                f"{page} holds other files ({', '.join(sorted(foreign)[:3])}) and was not published from here; choose "
                "another name, or empty it first",
            )
    operations = [CommitOperationAdd(file, Path(request["folder"]) / file) for file in request["files"]]
    made = api.create_commit(name, operations, commit_message=request["message"], parent_commit=head)
    return {"commit": made.oid, "page": page}


def _explain(error: BaseException, request: dict[str, Any]) -> Any:
    """The reason behind an exception, as a `Refused` of the download; what differs for a whole repository is here."""
    from huggingface_hub import errors as hub

    from ganhub.hub import download

    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # how the library wraps the failure of one file
    if isinstance(error, download.Refused):
        return error
    where = download.endpoint()
    page = f"{where}/{request['hub']}"
    sends = "folder" in request
    if isinstance(error, ValueError) and isinstance(error.__cause__, hub.BadRequestError):
        words = str(error).partition("\n")[2]  # what the Hub has against the front matter of README.md
        return download.Refused("refused", f"the Hub does not take README.md ({_line(words)}); correct it")
    status = error.response.status_code if isinstance(error, hub.HfHubHTTPError) else 0
    if isinstance(error, hub.OfflineModeIsEnabled):
        return download.Refused("offline", "the network is switched off; unset HF_HUB_OFFLINE, then try again")
    if isinstance(error, ConnectionError):  # from Xet, which has an HTTP client of its own
        return download.Refused("connection_lost", f"the connection to {where} broke off; try again", True)
    if isinstance(error, json.JSONDecodeError):
        return download.Refused("not_a_hub", f"what answers at {where} is not a Hub; {download.PORTAL}")
    if sends and (status == 401 and not isinstance(error, hub.GatedRepoError)):
        return download.Refused(
            "bad_token", f"the Hub does not know the token; make one that may write at {where}/settings/tokens"
        )
    if sends and status == 403:
        return download.Refused(
            "forbidden",
            f"the token may not write to {page}; make one with the right to write at {where}/settings/tokens",
        )
    if sends and status == 409:
        return download.Refused("exists", f"{page} was made by somebody else a moment ago; choose another name")
    if sends and status == 412:
        return download.Refused("changed", f"{page} was changed meanwhile; look at it, then try again")
    if sends and status in (400, 413, 422):
        words = str(getattr(error, "server_message", None) or f"status {status}")
        return download.Refused("refused", f"the Hub does not take the files ({_line(words)}); correct them")
    if isinstance(error, hub.RevisionNotFoundError):
        wanted = request["revision"]
        return download.Refused("revision_not_found", f"{page} has no revision '{wanted}'; leave it out for the newest")
    if isinstance(error, hub.RepositoryNotFoundError) and not isinstance(error, hub.GatedRepoError):
        return download.Refused(
            "repo_not_found",
            f"there is no model {page}, or it is private; check the name, or set HF_TOKEN to a token that may read it",
        )
    refused = download.explain(error, {"file": "", "revision": "", **request})
    if refused.code == "fetch":
        done = "upload" if sends else "look at the repository"
        refused = download.Refused("fetch", f"the {done} failed ({type(error).__name__}); try again")
    return refused


def _line(words: str) -> str:
    """What a server said, on one line and without what steers a terminal."""
    return "".join(c for c in " ".join(words.split()) if c.isprintable())[:200].strip("- .")


def main() -> int:
    from ganhub.hub import download

    request = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=download.end_with_parent, daemon=True).start()
    work = _push if "folder" in request else _look
    for attempt in range(request["retries"] + 1):
        try:
            answer = work(request)
        except Exception as error:
            refused = _explain(error, request)
        else:
            download.say(answer=answer)
            return 0
        wait = request["backoff"] * 2**attempt if refused.after is None else refused.after
        if not refused.again or attempt == request["retries"] or wait > 10:
            break
        time.sleep(wait)
    download.say(code=refused.code, sentence=f"'{request['row']}': {refused.sentence}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
