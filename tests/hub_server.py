"""A server on 127.0.0.1 that answers like the Hub, with faults that can be switched on.

    with HubServer() as server:
        server.add("owner/name", "model.pt", content)            # resolved as a large file: redirected to a CDN
        server.fault("HEAD", "gated_401")                         # until server.clear()
        server.fault("GET", "cut", times=1)
        server.url                                                # for HF_ENDPOINT
        server.requests                                           # what was asked, with headers
    server.users["hf_..."] = ["name", "an-organisation"]      # a token that may write, and for whom
    server.commits["owner/name"]                              # commits that were made, oldest first

The CDN has another host name (`localhost`), as on the Hub, so that a token must not reach it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"

REFUSALS = {
    "repo_missing": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "revision_missing": (404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}),
    "file_missing": (404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}),
    "gated_401": (401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}),
    "gated_403": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "You are not in the authorized list."}),
    "bad_token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "forbidden": (403, {}),
    "disabled": (403, {"X-Error-Message": "Access to this resource is disabled."}),
    "conflict": (409, {"X-Error-Message": "You already created this model repo"}),
    "moved_on": (412, {"X-Error-Message": "A commit has happened since"}),
    "bad_card": (400, {"X-Error-Message": "license must be one of"}),
    "429": (429, {}),
    "429_long": (429, {"Retry-After": "3600"}),
    "500": (500, {}),
    "503": (503, {}),
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 132717355\n"
PAGE = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    method: str
    kind: str
    times: int | None
    path: str


@dataclass(frozen=True)
class Stored:
    content: bytes
    large: bool
    commit: str

    @property
    def etag(self) -> str:
        """The Hub names a large file by sha256 and a small one by its git blob."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


class HubServer:
    """Repositories and plain files, answered by threads; see the module."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Stored] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.users: dict[str, list[str]] = {}
        self.commits: dict[str, list[str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.released = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def add(self, repo: str, file: str, content: bytes, *, large: bool = True, commit: str = COMMIT) -> str:
        """Put a file into a repository (`owner/name`, `datasets/owner/name`, `spaces/owner/name`); gives its sha256."""
        self.repositories[repo, file] = Stored(content, large, commit)
        return hashlib.sha256(content).hexdigest()

    def add_plain(self, path: str, content: bytes) -> str:
        """Serve a file at an address of its own, as any web server would; gives the address."""
        self.files[path] = content
        return self.url + path

    def fault(self, method: str, kind: str, times: int | None = None, path: str = "") -> None:
        """Answer wrongly to a method (of an address that contains `path`), always or the next `times` times."""
        self._faults.append(Fault(method, kind, times, path))

    def clear(self) -> None:
        """All is well again."""
        with self._lock:
            self._faults.clear()

    def count(self, method: str, path: str = "") -> int:
        return sum(r.method == method and path in r.path for r in self.requests)

    def take(self, method: str, path: str) -> str:
        """The fault for one request, or an empty string."""
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.path in path and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault.kind
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        fault = self.hub.take(self.command, path)
        if fault == "cut" and self.command in ("POST", "PUT"):
            self.close_connection = True
            self.connection.close()
            return None
        self.body = self._read() if self.command in ("POST", "PUT") else b""
        if fault in REFUSALS:
            return self._send(*REFUSALS[fault])
        if fault == "hang":
            self.hub.released.wait(60)
            self.close_connection = True
            return None
        if fault == "page":
            return self._send(200, {"Content-Type": "text/html"}, PAGE)
        if fault == "circle":
            return self._send(302, {"Location": self.path})
        if fault == "ftp":
            return self._send(302, {"Location": "ftp://127.0.0.1/file"})
        if path in self.hub.files:
            content = self.hub.files[path]
            return self._content(content, f'"{hashlib.md5(content).hexdigest()}"', fault)
        if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            for stored in self.hub.repositories.values():
                if stored.etag == match[1]:
                    return self._content(stored.content, f'"{stored.etag}"', fault)
        if match := re.fullmatch(r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups(), fault)
        if match := re.fullmatch(r"/upload/([0-9a-f]{64})", path):
            return self._upload(match[1], fault)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch()
        if path.startswith("/api/"):
            return self._api(path.removeprefix("/api/"))
        return self._send(404, {})

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _api(self, path: str) -> None:
        """What the Hub's library asks to look at a repository, to make one, and to commit to it."""
        if match := re.fullmatch(r"models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2] or "main")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path == "validate-yaml":
            front = json.loads(self.body)["content"].split("---\n")[1]
            if len(str(yaml.safe_load(front).get("license", ""))) > 40:
                return self._send(400, {}, json.dumps({"errors": [{"message": '"license" is no licence'}]}).encode())
            return self._json({"errors": [], "warnings": []})
        if token not in self.hub.users:
            return self._send(*REFUSALS["bad_token"])
        mine = self.hub.users[token]
        if path == "whoami-v2":
            return self._json({"type": "user", "name": mine[0], "orgs": [{"name": name} for name in mine[1:]]})
        if path == "repos/create":
            asked = json.loads(self.body)
            name = f"{asked['organization'] or mine[0]}/{asked['name']}"
            if name in self.hub.commits:
                return self._send(*REFUSALS["conflict"])
            self.hub.commits[name] = [hashlib.sha1(name.encode()).hexdigest()]
            self.hub.add(name, ".gitattributes", b"*.safetensors filter=lfs\n", large=False,
                         commit=self.hub.commits[name][0])  # fmt: skip
            return self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": "0"})
        match = re.fullmatch(r"models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if match is None or match[1] not in self.hub.commits:
            return self._send(*REFUSALS["repo_missing"])
        if match[1].split("/")[0] not in mine:
            return self._send(*REFUSALS["forbidden"])
        if match[2] == "commit":
            return self._commit(match[1])
        modes = [self._mode(match[1], file["path"]) for file in json.loads(self.body)["files"]]
        return self._json({"files": modes})

    def _mode(self, repo: str, file: str) -> dict[str, Any]:
        stored = self.hub.repositories.get((repo, file))
        mode = "lfs" if file.endswith((".safetensors", ".png")) else "regular"
        return {"path": file, "uploadMode": mode, "shouldIgnore": False, "oid": stored.etag if stored else None}

    def _info(self, repo: str, revision: str) -> None:
        files = {file: stored for (name, file), stored in self.hub.repositories.items() if name == repo}
        if not files:
            return self._send(*REFUSALS["repo_missing"])
        commit = next(iter(files.values())).commit
        if revision not in ("main", commit):
            return self._send(*REFUSALS["revision_missing"])
        siblings = []
        for file, stored in files.items():
            size = len(stored.content)
            lfs = {"sha256": stored.etag, "size": size, "pointerSize": 130} if stored.large else None
            siblings.append({"rfilename": file, "size": size, "blobId": stored.etag[:40], "lfs": lfs})
        card = files["README.md"].content.decode() if "README.md" in files else ""
        front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        data = yaml.safe_load(front[1]) if front else None
        self._json({"id": repo, "sha": commit, "siblings": siblings, "cardData": data, "tags": [], "private": False})

    def _batch(self) -> None:
        have = {stored.etag for stored in self.hub.repositories.values()}
        objects = []
        for entry in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.cdn}/upload/{entry['oid']}"}}
            objects.append(entry if entry["oid"] in have else {**entry, "actions": upload})
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, sha256: str, fault: str) -> None:
        content = self.body[: len(self.body) // 2] if fault == "short" else self.body
        if hashlib.sha256(content).hexdigest() != sha256:
            return self._send(400, {})
        self.hub.uploads[sha256] = content
        return self._send(200, {})

    def _commit(self, repo: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = next(line["value"] for line in lines if line["key"] == "header").get("parentCommit")
        if parent not in (None, self.hub.commits[repo][-1]):
            return self._send(*REFUSALS["moved_on"])
        commit = hashlib.sha1(self.body).hexdigest()
        files = {file: stored for (name, file), stored in self.hub.repositories.items() if name == repo}
        for file, stored in files.items():
            self.hub.add(repo, file, stored.content, large=stored.large, commit=commit)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.add(repo, value["path"], base64.b64decode(value["content"]), large=False, commit=commit)
            elif line["key"] == "lfsFile":
                self.hub.add(repo, value["path"], self.hub.uploads[value["oid"]], commit=commit)
        self.hub.commits[repo].append(commit)
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True})

    def _resolve(self, repo: str, revision: str, file: str, fault: str) -> None:
        stored = self.hub.repositories.get((repo, file))
        if stored is None:
            known = any(name == repo for name, _ in self.hub.repositories)
            return self._send(*REFUSALS["file_missing" if known else "repo_missing"])
        if revision != stored.commit:
            return self._send(*REFUSALS["revision_missing"])
        headers = {"X-Repo-Commit": "f" * 40 if fault == "other_commit" else stored.commit}
        if not stored.large:
            return self._content(stored.content, f'"{stored.etag}"', fault, headers)
        size = len(stored.content) * (1000 if fault == "huge" else 1)
        headers |= {"X-Linked-Etag": f'"{stored.etag}"', "X-Linked-Size": str(size)}
        return self._send(302, {**headers, "Location": f"{self.hub.cdn}/cdn/{stored.etag}"})

    def _content(self, content: bytes, etag: str, fault: str, headers: dict[str, str] | None = None) -> None:
        """A whole body or, for a range, the rest of it; wrong in the way the fault says."""
        headers = {"ETag": etag, "Content-Type": "application/octet-stream", **(headers or {})}
        if fault == "wrong_bytes":
            content = bytes(b ^ 0xFF for b in content)
        elif fault == "lfs_pointer":
            content = LFS_POINTER
        elif fault == "short":
            content = content[: len(content) // 2]
        elif fault == "cut_no_etag":
            del headers["ETag"]
            fault = "cut"
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and fault != "no_range" and self.headers.get("If-Range", etag) == etag:
            start, status = int(asked[1]), 206
            if start >= len(content):
                return self._send(416, {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if self.command == "HEAD" or fault not in ("cut", "trickle", "stall"):
            return self._send(status, headers, body)
        self._head(status, {**headers, "Content-Length": str(len(body))})
        try:
            if fault == "trickle":
                for at in range(0, len(body), 4000):
                    self.wfile.write(body[at : at + 4000])
                    self.wfile.flush()
                    if self.hub.released.wait(0.05):
                        break
            else:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "stall":
                    self.hub.released.wait(60)
                else:
                    time.sleep(0.05)
        except OSError:
            pass  # the client has left
        self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self._head(status, {"Content-Length": str(len(body)), **headers})
        if self.command != "HEAD":
            try:
                self.wfile.write(body)
            except OSError:
                self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what was asked is in `HubServer.requests`."""
