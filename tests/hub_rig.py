"""Rows, a server and expectations for the tests of downloads."""

import hashlib
import os

import pytest
from hub_server import COMMIT, HubServer

from ganhub import hub
from ganhub.errors import FetchError
from ganhub.hub import transfer
from ganhub.hub.transfer import Limits
from ganhub.registry import Checkpoint

CONTENT = bytes(range(256)) * 8192  # 2 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SMALL = b'{"small": true}'
FAST = Limits(answer=30, stall=120, backoff=0.05, wait=120)
"""Retries at once, and patience with a busy machine."""
SECRET = "hf_" + "s" * 34


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(transfer, "LIMITS", FAST)
    with HubServer() as server:
        server.add("owner/name", "folder/model.pt", CONTENT)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def row(source=None, **fields):
    source = source or {"hub": "owner/name", "file": "folder/model.pt", "revision": COMMIT}
    rest = {"task": ["component"], "family": "x", "title": "T", "license": "MIT", "commercial_use": True}
    return Checkpoint(id=fields.pop("id", "some-row"), source=source, **rest, **fields)


def fails(row, code, *words, **options):
    """Fetching must fail with this code and one sentence that names the row and these words."""
    with pytest.raises(FetchError) as caught:
        hub.fetch(row, **options)
    message = caught.value.message
    assert caught.value.code == code, message
    assert f"'{row.id}'" in message and "\n" not in message and message.endswith(".")
    for word in words:
        assert word in message, message
    assert SECRET not in message and "Traceback" not in message
    return message


def leftovers():
    return [p for p in [*transfer.hub_cache().rglob("*"), *hub.home().rglob("*.part*")] if "incomplete" in p.name]


def paths():
    here = os.path.dirname(__file__)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.path.dirname(here)])}
