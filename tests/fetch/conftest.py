"""What all tests of fetching have: no tokens and proxies of this machine, short waits, a place, a server."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from darkroom.sources import retry
from tests.fetch.place import DATA, PATH, Place
from tests.fixtures.remote import FileServer, Resource
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.hub import Hub

_OURS = ("CIVITAI_", "HF_", "HUGGING_FACE_", "DARKROOM_", "REQUESTS_", "CURL_", "SSL_", "NETRC")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(_OURS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")  # nor the login of whoever runs the tests
    monkeypatch.setattr(retry, "FIRST_WAIT_S", FIRST_WAIT_S)
    yield
    if "huggingface_hub" in sys.modules:
        import huggingface_hub

        huggingface_hub.close_session()  # it keeps connections of servers that are gone


FIRST_WAIT_S = 0.05


class Clock:
    """A clock for the pauses between attempts: a wait returns at once and moves the clock forward."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.waits)

    def make_event(self) -> threading.Event:
        clock = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                if timeout:
                    clock.waits.append(timeout)
                return self.is_set()

        return Event()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replaces the clock of fetches that run in this process."""
    clock = Clock()
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(retry, "threading", SimpleNamespace(Event=clock.make_event))
    return clock


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def file(server: FileServer) -> Resource:
    """At PATH of `server`."""
    return server.add(PATH, Resource(DATA))


@pytest.fixture
def civitai(monkeypatch: pytest.MonkeyPatch) -> Iterator[Civitai]:
    """With one model, civitai:101@201, whose file is 301."""
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        yield civitai


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub
