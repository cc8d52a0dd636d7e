"""`darkroom serve`: the HTTP application on an address or a Unix socket, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from darkroom.base.sockets import is_loopback
from darkroom.errors import ConfigError
from darkroom.serve.guard import KEY_VARIABLE, read_key
from darkroom.serve.lifecycle import Lifecycle
from darkroom.serve.listening import describe, listen, run_uvicorn
from darkroom.serve.metrics import Metrics
from darkroom.serve.service import Service
from darkroom.serve.setup import Setup, make_service

if TYPE_CHECKING:
    from darkroom.serve.guard import Application

logger = logging.getLogger(__name__)


def serve(setup: Setup) -> int:
    """Serve until told to end; returns the exit code.

    Raises ConfigError (E-CONFIG) for an address that can't be had, and for one on a network without an API key.
    """
    key = read_key()
    if setup.socket is None and key is None and not is_loopback(setup.serve.host):
        why = "is not a loopback address, and there is no API key: anybody on the network could use the server"
        raise ConfigError("serve.host =", setup.serve.host, why, f"set {KEY_VARIABLE}, or use 127.0.0.1")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    listener = listen(setup.serve, setup.socket)
    try:
        return asyncio.run(_serve(setup, listener, key))
    finally:
        if setup.socket is not None:
            setup.socket.unlink(missing_ok=True)


async def _serve(setup: Setup, listener: socket.socket, key: str | None) -> int:
    service = make_service(setup, Metrics())
    lifecycle = Lifecycle(service, setup.engine.start_timeout_s)
    logger.info("serving %s on %s", ", ".join(setup.models.names), describe(listener))
    await run(service, lifecycle, listener, key=key)
    return lifecycle.exit_code


async def run(
    service: Service,
    lifecycle: Lifecycle,
    listener: socket.socket,
    *,
    key: str | None = None,
    wrap: Callable[[Application], Application] = lambda app: app,
) -> None:
    """Serve a service at a socket until its lifecycle ends it; `wrap` is put around the application.

    The engines begin at once: they import their libraries while this process imports its own.
    """
    service.start()

    def make() -> Application:
        from darkroom.serve.app import create_guarded_app

        is_on_socket = listener.family == socket.AF_UNIX
        return wrap(create_guarded_app(service, lifespan=lifecycle.lifespan, key=key, is_on_socket=is_on_socket))

    app = await asyncio.to_thread(make)
    await run_uvicorn(app, lifecycle, listener, service.config.read_timeout_s)
