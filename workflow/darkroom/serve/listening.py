"""Listening: at an address, or at a Unix socket that only its user can reach; and serving an application there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.config import ServeConfig
from darkroom.errors import ConfigError
from darkroom.serve.lifecycle import Lifecycle
from darkroom.unix_sockets import listen_privately

if TYPE_CHECKING:
    from darkroom.serve.guard import Application

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

    from darkroom.serve.protocol import make_protocol

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
