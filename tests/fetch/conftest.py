"""What all tests of fetching have: no tokens and proxies of this machine, short waits, a place, a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.sources import patience
from tests.fetch.place import Place
from tests.fixtures.remote import FileServer

_OURS = ("CIVITAI_", "HF_", "HUGGING_FACE_", "DARKROOM_", "REQUESTS_", "CURL_", "SSL_", "NETRC")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(_OURS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")  # nor the login of whoever runs the tests
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.05)
    yield
    if "huggingface_hub" in sys.modules:
        import huggingface_hub

        huggingface_hub.close_session()  # it keeps connections of servers that are gone


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server
