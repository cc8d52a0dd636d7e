"""`darkroom serve`: the HTTP application on an address or a private Unix socket, until the process is asked to end."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.base.sockets import is_loopback, listen_privately
from darkroom.config import ServeConfig
from darkroom.errors import ConfigError
from darkroom.serve.guard import KEY_VARIABLE, read_key
from darkroom.serve.metrics import Metrics
from darkroom.serve.setup import Setup, make_service
from darkroom.serve.shutdown import Lifecycle

if TYPE_CHECKING:
    import uvicorn

    from darkroom.serve.guard import Application
    from darkroom.serve.service import Service

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_ACCEPTED_AT_ONCE = 16
"""How many connections asyncio accepts before the first of them is counted."""
_MAX_HEAD_BYTES = 64 * 1024
_DRAINED_POLL_S = 0.05
_MOST_DESCRIPTORS = 65_536


def serve(setup: Setup) -> int:
    """Serve until a signal ends it or no engine is left; returns the exit code.

    Raises ConfigError (E-CONFIG) for an address that can't be used, and for one on a network without an API key.
    """
    key = read_key()
    if setup.socket is None and key is None and not is_loopback(setup.serve.host):
        why = "is not a loopback address, and there is no API key: anybody on the network could use the server"
        raise ConfigError("serve.host =", setup.serve.host, why, f"set {KEY_VARIABLE}, or use 127.0.0.1")
    listener = listen(setup.serve, setup.socket)
    try:
        return asyncio.run(_serve(setup, listener, key))
    finally:
        if setup.socket is not None:
            setup.socket.unlink(missing_ok=True)


async def _serve(setup: Setup, listener: socket.socket, key: str | None) -> int:
    """Raise the limit on descriptors, start the engines, then make the application while they import their libraries, and run it."""
    descriptors = raise_descriptor_limit()
    service = make_service(setup, Metrics())
    lifecycle = Lifecycle(service.dispatcher, setup.engine.start_timeout_s)
    logger.info("serving %s on %s", ", ".join(setup.models.names), describe(listener))
    service.dispatcher.start()

    def make_app() -> Application:
        from darkroom.serve.app import create_guarded_app

        is_on_socket = listener.family == socket.AF_UNIX
        return create_guarded_app(service, lifespan=lifecycle.lifespan, key=key, is_on_socket=is_on_socket)

    app = await asyncio.to_thread(make_app)
    await _run_uvicorn(app, service, lifecycle, listener, descriptors)
    return lifecycle.exit_code


async def _run_uvicorn(
    app: Application, service: Service, lifecycle: Lifecycle, listener: socket.socket, descriptors: int
) -> None:
    import uvicorn

    from darkroom.serve.app import observed
    from darkroom.serve.protocol import Gate, log_floods_once, make_protocol, refuse_connection

    log_floods_once(asyncio.get_running_loop())
    gate = Gate(service.config.max_connections, descriptors)
    config = uvicorn.Config(
        app,
        http=make_protocol(service.config.read_timeout_s, gate, observed(refuse_connection, service.metrics)),
        backlog=_ACCEPTED_AT_ONCE,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        log_level="error",
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
    server = uvicorn.Server(config)

    async def stop_once_drained() -> None:
        while service.dispatcher.pictures_under_way:  # until then, who comes is told to come again
            await asyncio.sleep(_DRAINED_POLL_S)
        server.should_exit = True

    stopping: list[asyncio.Task[None]] = []  # the event loop itself keeps no task alive
    lifecycle.attach(lambda: stopping.append(asyncio.create_task(stop_once_drained())))
    waiting = asyncio.create_task(_lengthen_queue(server, listener))
    try:
        await server.serve(sockets=[listener])
    finally:
        waiting.cancel()


async def _lengthen_queue(server: uvicorn.Server, listener: socket.socket) -> None:
    """Let the kernel keep more connections waiting than are accepted at once, which asyncio has as one number."""
    while not server.started:
        await asyncio.sleep(_DRAINED_POLL_S)
    listener.listen(_BACKLOG)


def raise_descriptor_limit() -> int:
    """Raise the process's soft limit on descriptors as far as it may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST_DESCRIPTORS
    with suppress(ValueError, OSError):  # macOS has another, lower limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


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
