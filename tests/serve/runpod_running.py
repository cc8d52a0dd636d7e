"""Workers as processes, and what the tests ask of them."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.fixtures.serving import LIMIT_S, wait_for

ROOT = Path(__file__).resolve().parents[2]
JOB = {"prompt": "a red star", "width": 64, "height": 64, "steps": 2, "seed": 5}
COMMAND = (sys.executable, "-m", "darkroom.cli", "runpod")


def environment(given: Mapping[str, str] = {}) -> dict[str, str]:
    """Ours, without what a worker's container would have."""
    outer = {
        key: value for key, value in os.environ.items() if not key.startswith(("RUNPOD_", "BUCKET_", "DIFFUSERS_"))
    }
    return {**outer, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **given}


def run(folder: Path, *options: str | Path, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, options)]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )


class Running:
    """A worker that is running, and what it has logged."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, text: str) -> None:
        def is_there() -> bool | None:
            assert self.process.poll() is None, self.log
            return text in self.log or None

        wait_for(is_there)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    @property
    def others(self) -> list[int]:
        """The processes that it started and that are alive."""
        found: list[int] = []
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):  # the thread has ended
                found += map(int, children.read_text().split())
        return found


@contextmanager
def start(folder: Path, command: Sequence[str | Path], env: Mapping[str, str] = {}) -> Iterator[Running]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment(env), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Running(process, log)
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def free_port() -> int:
    """A port that nobody has, below those that the kernel gives to others in the seconds until it is used."""
    while True:
        port = random.randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def serve_api(folder: Path, model_dir: Path, env: Mapping[str, str] = {}) -> Iterator[tuple[str, Running]]:
    """The SDK's local API; its address, once it answers."""
    port = free_port()
    options = ["--device", "cpu", "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with start(folder, [*COMMAND, model_dir, *options], env) as worker:
        worker.wait_for_log("Uvicorn running")
        yield f"http://127.0.0.1:{port}", worker


def is_alive(number: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about doesn't."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def post(address: str, path: str, body: object = None) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return dict(json.load(answer))


def decode(image: str) -> bytes:
    head, _, data = image.partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data, validate=True)
