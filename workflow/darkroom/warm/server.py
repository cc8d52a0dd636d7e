"""The warm engine's process, `python -m darkroom.warm.server`: started by the render client, ended with its leases.

It binds its socket before it imports anything large, so that clients can queue while the model loads. A lock held
for life keeps a second one off the same socket. It ends by itself: see `lifecycle`.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.base.sockets import listen_privately
from darkroom.serve.lifecycle import Lifecycle
from darkroom.serve.service import Service
from darkroom.warm.lease import LeaseWatch
from darkroom.warm.paths import ServerFiles

if TYPE_CHECKING:
    from darkroom.serve.bodies import Receive
    from darkroom.serve.guard import Application, Scope, Send

LEASE_HEADER = b"darkroom-lease"
RELEASE_PATH = "/release"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server is held to, in seconds, and the lease it starts with."""

    start_timeout_s: float
    idle_timeout_s: float
    lease: str | None


class LeasedLifecycle(Lifecycle):
    """A lifecycle that ends with the runs it works for, when they need it no longer, or after some time without work.

    `remove_socket` takes the socket file away; it is called first at any end, so that the next client starts
    an engine of its own instead of meeting one that ends.
    """

    def __init__(self, service: Service, limits: Limits, remove_socket: Callable[[], None]) -> None:
        super().__init__(service, limits.start_timeout_s)
        self._remove_socket = remove_socket
        self._limits = limits
        self._leases: LeaseWatch | None = None
        self._active = 0
        self._last_use = time.monotonic()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Run from the server's start to its end."""
        self._leases = LeaseWatch(asyncio.get_running_loop(), self._on_leases_gone)
        async with super().lifespan(app):
            if self._limits.lease is not None:
                self._leases.add(self._limits.lease)
            yield

    def wrap(self, app: Application) -> Application:
        """The application with an eye on each request: who holds a lease, and when there was work last."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] == "/healthz":
                return await app(scope, receive, send)
            lease = dict(scope["headers"]).get(LEASE_HEADER, b"").decode("latin-1")
            if scope["path"] == RELEASE_PATH:
                return await self._release(lease, send)
            if lease and self._leases is not None and not self.is_ending:
                self._leases.add(lease)
            self._active += 1
            try:
                return await app(scope, receive, send)
            finally:
                self._active -= 1
                self._last_use = time.monotonic()

        return watched

    async def _release(self, lease: str, send: Send) -> None:
        """A run has no more use for this engine. Says whether the engine ends now, since no other run has."""
        ends = self._leases is None or self._leases.release(lease)
        body = json.dumps({"ends": ends}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if ends and not self.is_ending:
            self.end("its device is needed for another model", cancel=False)

    def on_end(self) -> None:
        self._remove_socket()

    def on_ready(self) -> None:
        self._last_use = time.monotonic()
        self._check_idle()

    def _check_idle(self) -> None:
        if self.is_ending:
            return
        left = self._last_use + self._limits.idle_timeout_s - time.monotonic()
        if self._active:
            left = self._limits.idle_timeout_s
        if left <= 0:
            self.end(f"no work for {self._limits.idle_timeout_s:g} s", cancel=False)
        else:
            asyncio.get_running_loop().call_later(left, self._check_idle)

    def _on_leases_gone(self) -> None:
        self.end("all runs it worked for have ended", cancel=True)


logger = logging.getLogger(__name__)

_BACKLOG = 1024
_LOCK_PAUSE_S = 0.05

_QUEUE = 100_000


def main(arguments: Sequence[str] | None = None, command: Sequence[str] | None = None) -> None:
    """Run an engine until it is no longer needed; never returns. `command` starts the engine's own process in place of the usual one."""
    options = _parse(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    files = ServerFiles(options.socket)
    lock = _hold(files.life_lock, options.start_timeout)
    if lock is None:
        logger.error("another engine still holds %s", files.life_lock)
        sys.exit(1)
    listener = _bind(files.socket)
    if options.detach and os.fork():
        os._exit(0)  # the client waits for this first process only; the second one goes on with socket and lock
    identity = _identity(files.socket)

    def remove_socket() -> None:
        if identity is not None and _identity(files.socket) == identity:
            with suppress(FileNotFoundError):
                files.socket.unlink()

    def leave_early(number: int, _frame: object) -> None:
        remove_socket()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave_early)  # until the lifecycle takes over: nothing is under way yet
    logger.info("engine %d starts for %s", os.getpid(), options.model_dir)
    try:
        code = asyncio.run(_serve(listener, options, command, remove_socket))
    except (Exception, SystemExit):
        logger.exception("the server failed")
        code = 1
    remove_socket()
    logger.info("ended")
    logging.shutdown()
    os._exit(code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m darkroom.warm.server", description=__doc__)
    parser.add_argument("--model-dir", type=Path, required=True, help="the Diffusers folder")
    parser.add_argument("--verified", type=Path, help="the model's verified receipt; other bytes are refused")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; its folder must be private")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--start-timeout", type=float, default=900, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    parser.add_argument("--lease", help="PID:STARTTIME of the process to live for")
    parser.add_argument("--detach", action="store_true", help="go on in the background once the socket is bound")
    return parser.parse_args(arguments)


def _hold(path: Path, timeout_s: float) -> int | None:
    """The lock for life, or None when another engine keeps it; one that is ending is waited for."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                return None
            time.sleep(_LOCK_PAUSE_S)


def _bind(path: Path) -> socket.socket:
    """Listen on a socket with mode 0600 that appears at `path` complete; what a dead engine left there is replaced."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    listener = listen_privately(temporary, _BACKLOG)
    temporary.rename(path)
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


async def _serve(
    listener: socket.socket,
    options: argparse.Namespace,
    command: Sequence[str] | None,
    remove_socket: Callable[[], None],
) -> int:
    from darkroom.checkpoint.audit import read_identity
    from darkroom.config import ServeConfig
    from darkroom.serve.dispatcher import Dispatcher
    from darkroom.serve.engines import EngineOptions, ModelFiles
    from darkroom.serve.metrics import Metrics
    from darkroom.serve.models import Model, Models
    from darkroom.serve.server import run
    from darkroom.serve.service import Service
    from darkroom.serve.slot import DEFAULT_COMMAND

    name, model_hash = read_identity(options.model_dir)
    model = Model(name, ModelFiles(options.model_dir, options.verified), model_hash, None)
    models = Models([model], options.model_dir.parent.parent)
    wanted = EngineOptions(dict(models.files), options.device, options.dtype, options.memory)
    metrics = Metrics()
    dispatcher = Dispatcher([wanted], name, limit=_QUEUE, metrics=metrics, command=command or DEFAULT_COMMAND)
    service = Service(models, dispatcher, ServeConfig(), metrics, is_private=True)
    limits = Limits(options.start_timeout, options.idle_timeout, options.lease)
    lifecycle = LeasedLifecycle(service, limits, remove_socket)
    await run(service, lifecycle, listener, wrap=lifecycle.wrap)
    return lifecycle.exit_code


if __name__ == "__main__":
    main()
