"""`darkroom serve`: the HTTP application on an address or a private Unix socket, until the process is asked to end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from darkroom.base.logs import configure_log
from darkroom.base.sockets import is_loopback, is_own_peer, listen_privately
from darkroom.config import ServeConfig
from darkroom.errors import ConfigError
from darkroom.serve.guard import KEY_VARIABLE, read_key
from darkroom.serve.metrics import Metrics
from darkroom.serve.setup import Setup, make_service
from darkroom.serve.shutdown import Lifecycle

if TYPE_CHECKING:
    from darkroom.serve.guard import Application

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_MAX_HEAD_BYTES = 64 * 1024
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def serve(setup: Setup) -> int:
    """Serve until a signal ends it or no engine is left; returns the exit code.

    Raises ConfigError (E-CONFIG) for an address that can't be used, and for one on a network without an API key.
    """
    key = read_key()
    if setup.socket is None and key is None and not is_loopback(setup.serve.host):
        why = "is not a loopback address, and there is no API key: anybody on the network could use the server"
        raise ConfigError("serve.host =", setup.serve.host, why, f"set {KEY_VARIABLE}, or use 127.0.0.1")
    configure_log()
    listener = listen(setup.serve, setup.socket)
    try:
        return asyncio.run(_serve(setup, listener, key))
    finally:
        if setup.socket is not None:
            setup.socket.unlink(missing_ok=True)


async def _serve(setup: Setup, listener: socket.socket, key: str | None) -> int:
    """Start the engines, then make the application while they import their libraries, and run it."""
    service = make_service(setup, Metrics())
    lifecycle = Lifecycle(service.dispatcher, setup.engine.start_timeout_s)
    logger.info("serving %s on %s", ", ".join(setup.models.names), describe(listener))
    service.dispatcher.start()

    def make_app() -> Application:
        from darkroom.serve.app import create_guarded_app

        is_on_socket = listener.family == socket.AF_UNIX
        return create_guarded_app(service, lifespan=lifecycle.lifespan, key=key, is_on_socket=is_on_socket)

    app = await asyncio.to_thread(make_app)
    await _run_uvicorn(app, lifecycle, listener, service.config.read_timeout_s)
    return lifecycle.exit_code


async def _run_uvicorn(app: Application, lifecycle: Lifecycle, listener: socket.socket, read_timeout_s: float) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        http=make_protocol(read_timeout_s),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        log_level="warning",
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    lifecycle.attach(stop)
    await server.serve(sockets=[listener])


def listen(config: ServeConfig, path: Path | None) -> socket.socket:
    """A listening socket, at `path` if given, else at the config's address. Raises ConfigError (E-CONFIG) if that fails."""
    try:
        return _listen_at_path(path) if path else _listen_at_address(config)
    except OSError as error:
        where = path or f"{config.host}:{config.port}"
        raise ConfigError("address", where, error.strerror or "can't be used", "choose another") from None


def _listen_at_address(config: ServeConfig) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    return listener


def _listen_at_path(path: Path) -> socket.socket:
    """A socket with mode 0600. Raises ConfigError (E-CONFIG) for a folder that others can enter."""
    folder = path.absolute().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError("socket", path, "its folder is open to others", f"chmod 700 {folder}, or choose another")
    if path.is_socket():
        path.unlink()
    return listen_privately(path, _BACKLOG)


def describe(listener: socket.socket) -> str:
    """Where it listens, as a URL or a path."""
    if listener.family == socket.AF_UNIX:
        return str(listener.getsockname())
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GuardedProtocol(H11Protocol):
    """Closes connections of other users, and of clients that send no whole head or read nothing of an answer in time.

    Otherwise a few clients could hold all connections ("slow loris"), and one could keep the server from ending.
    """

    timeout_s: float
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not is_own_peer(transport.get_extra_info("socket")):
            transport.abort()
            return
        transport.set_write_buffer_limits(
            high=0
        )  # so that `pause_writing` is called for anything that isn't read at once
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._wait_for_head()  # the first piece of the next request on a kept connection
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.timeout_s, self._give_up)

    def _give_up(self) -> None:
        self.transport.write(_TIMED_OUT)
        self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _wait_for_client(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._answer_timer = self.loop.call_later(self.timeout_s, self._check_client, left)

    def _check_client(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._wait_for_client()
        else:
            self.transport.abort()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None


def make_protocol(read_timeout_s: float) -> type[GuardedProtocol]:
    """The protocol class with a limit (seconds) on sending a whole head, and on reading the next piece of an answer."""

    class Timed(GuardedProtocol):
        timeout_s = read_timeout_s

    return Timed
