"""A public server with another engine, each in a process of its own, and ways to ask it and to watch it."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.unit.warm.bench import LIMIT_S, is_running, wait_until

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
FAKE_ENGINE = Path(__file__).parents[1] / "unit/warm/fake_engine.py"
KEY = "canary-4f1d9a"
SITE = "https://app.example"
QUICK: dict[str, Any] = {"width": 64, "height": 64, "steps": 2}


class Stand:
    """A server that runs in `folder`; `model` is the folder of its model, the stand-in's told by files how to act."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], model: Path) -> None:
        self.folder = folder
        self.process = process
        self.model = model
        self.url = ""
        self._pool = ThreadPoolExecutor(32)

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def wait_for_address(self) -> None:
        def is_there() -> bool:
            assert self.process.poll() is None, self.log
            found = re.search(r'serving .* on (http://[^\s"]+)', self.log)
            self.url = found[1] if found else ""
            return bool(found)

        wait_until(is_there, "the server's address in its log")

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=LIMIT_S, verify=False, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        return self.ask("POST", path, content=content, headers=headers, **options)

    def render(self, prompt: str = "x", **settings: Any) -> httpx.Response:
        return self.post("/render", {"request": {"prompt": prompt, **QUICK, **settings}})

    def render_beside(self, prompt: str, **settings: Any) -> Future[httpx.Response]:
        return self.beside(self.render, prompt, **settings)

    def beside(self, ask: Callable[..., httpx.Response], *arguments: Any, **options: Any) -> Future[httpx.Response]:
        """Ask in another thread."""
        return self._pool.submit(ask, *arguments, **options)

    def metric(self, name: str) -> float:
        """The value of a metric, by its whole name with labels."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=LIMIT_S)

    def send(self, data: bytes) -> bytes:
        """What comes back for these bytes until the server closes the connection."""
        with self.connect() as connection:
            with suppress(ConnectionError):
                connection.sendall(data)
            return read_all(connection)

    def release(self) -> None:
        """Let the pictures go on that wait for it (prompts "slow" and "stuck")."""
        (self.model / "go").touch()

    def forget(self) -> None:
        """Reset the server for the next test: undo `release` and clear the notes about pictures. The queue must be empty."""
        assert self.metric("darkroom_queue_waiting") == 0
        for name in ("go", "renders", "finished"):
            (self.model / name).unlink(missing_ok=True)

    def noted(self, name: str) -> list[str]:
        path = self.model / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_render(self, prompt: str) -> None:
        wait_until(lambda: prompt in self.noted("renders"), f"rendering {prompt}")

    @property
    def engine_pids(self) -> list[int]:
        """The processes of its engines, in the order of their starts."""
        return [int(line) for line in self.noted("engines")]

    def wait_for_end(self) -> int:
        """Wait until the server has ended, then that nothing is left of it; returns its exit code."""
        code = self.process.wait(LIMIT_S)
        wait_until(lambda: not any(map(is_running, self.engine_pids)), "end of the engines")
        return code

    @property
    def peak_bytes(self) -> int:
        """The most memory that the server's own process has held so far (proc(5), VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def basic(user: str, key: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


@contextmanager
def stand(
    folder: Path,
    *options: str,
    engine: Path = FAKE_ENGINE,
    environment: Mapping[str, str] = {},
    behaviour: str = "ok",
    is_address: bool = True,
    descriptors: int | None = None,
    top: Mapping[str, Any] = {},
    **settings: Any,
) -> Iterator[Stand]:
    """Run a server in that folder; `settings` are of the config's `serve` section, `top` are others.

    It serves the first model in the folder; where there is none, the stand-in that acts by `behaviour`. Unless it listens
    at no address, it is yielded once it does. `descriptors` is the most that its process may have.
    """
    models = folder / "models/diffusers"
    folder.mkdir(parents=True, exist_ok=True)
    if not models.exists():
        make_stand_in(models / "fake", behaviour)
    (name,) = (path.name for path in models.iterdir())
    config = {"checkpoints": {name: {"source": "x"}}, "serve": {"port": 0, **settings}, **top}
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [sys.executable, str(FAKE_SERVER), str(engine), "serve", "--config", "config.yaml", *options]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            preexec_fn=None if descriptors is None else partial(limit_descriptors, descriptors),
        )
    one = Stand(folder, process, models / name)
    try:
        if is_address:
            one.wait_for_address()
        yield one
    finally:
        process.kill()
        process.wait()
        for pid in one.engine_pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def limit_descriptors(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def make_stand_in(model: Path, behaviour: str = "ok") -> None:
    """The folder of a stand-in model."""
    model.mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    (model / "behaviour.txt").write_text(behaviour)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed, in whichever way."""
    blocks = []
    with suppress(ConnectionError):
        while block := connection.recv(65536):
            blocks.append(block)
    return b"".join(blocks)
