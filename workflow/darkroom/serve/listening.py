"""Listening at an address or a private Unix socket, and uvicorn's HTTP/1.1 protocol with stricter rules."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from darkroom.base.sockets import listen_privately, read_peer
from darkroom.config import ServeConfig
from darkroom.errors import ConfigError
from darkroom.serve.lifecycle import Lifecycle

if TYPE_CHECKING:
    from darkroom.serve.guard import Application

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(H11Protocol):
    """Closes a connection that another user opened, that sends no whole head in time, or takes nothing of its answer.

    Without that a few clients could hold all connections ("slow loris"), and one could keep the server from ending.
    """

    timeout_s: float
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not is_own_peer(transport.get_extra_info("socket")):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of all that isn't taken at once
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._wait_for_head()  # the first piece of a further request on a kept connection
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
    """The protocol class for a server that waits that many seconds for a whole head, and for a piece of an answer to go."""

    class Timed(GuardedProtocol):
        timeout_s = read_timeout_s

    return Timed


def is_own_peer(connection: Any) -> bool:
    """Whether the process at a Unix socket's other end belongs to our user, or to root, who may do anything anyway."""
    if connection is None or connection.family != socket.AF_UNIX:
        return True
    peer = read_peer(connection)
    return peer is None or peer[1] in (os.geteuid(), 0)


_BACKLOG = 2048
_MAX_HEAD_BYTES = 64 * 1024


def listen(config: ServeConfig, path: Path | None) -> socket.socket:
    """A listening socket, at `path` if there is one, else at the address. Raises ConfigError (E-CONFIG) if it can't be had."""
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
    """A socket with mode 0600 in a folder that only we can enter. Raises ConfigError (E-CONFIG) for another folder."""
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


async def run_uvicorn(app: Application, lifecycle: Lifecycle, listener: socket.socket, read_timeout_s: float) -> None:
    """Serve an application on a listening socket until its lifecycle ends it."""
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
    lifecycle.attach(server)
    await server.serve(sockets=[listener])
