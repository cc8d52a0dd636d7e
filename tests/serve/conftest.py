"""Servers that many tests share, and one on this machine that no server may ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fixtures.serving import make_site, serve
from tests.serve.stand import KEY, SITE, Stand, stand
from tests.unit.warm.bench import LIMIT_S


class Canary(BaseHTTPRequestHandler):
    """Sings on any request."""

    songs: list[str]

    def do_GET(self) -> None:
        self.songs.append(self.path)
        self.send_response(404)
        self.end_headers()

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """The address of an HTTP server on this machine, and the paths that it was asked for."""
    songs: list[str] = []
    handler = type("Handler", (Canary,), {"songs": songs})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/secret", songs
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `darkroom serve`. Tests leave its default model as it was."""
    with serve(make_site(tmp_path_factory.mktemp("site"), model_dir)) as address:
        yield address


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A running server with the stand-in engine and short time limits. Tests leave no work in it behind."""
    with stand(tmp_path_factory.mktemp("fake"), read_timeout_s=2) as one:
        assert one.get("/readyz").status_code == 200
        yield one


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A server with a key; pages of one other site may use it."""
    key = {"DARKROOM_API_KEY": KEY}
    with stand(tmp_path_factory.mktemp("locked"), environment=key, allowed_origins=[SITE], timeout_s=LIMIT_S) as one:
        assert one.get("/readyz").status_code == 200
        yield one
