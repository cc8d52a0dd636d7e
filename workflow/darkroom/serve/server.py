"""`darkroom serve`: the HTTP application on an address or a Unix socket, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darkroom.config import Config, EngineConfig, ServeConfig
from darkroom.errors import ConfigError
from darkroom.serve.app import create_app
from darkroom.serve.dispatcher import Dispatcher
from darkroom.serve.engines import EngineOptions
from darkroom.serve.guard import Application, Guard, guarded
from darkroom.serve.keys import KEY_VARIABLE, is_loopback, read_key
from darkroom.serve.lifecycle import Lifecycle
from darkroom.serve.metrics import Metrics
from darkroom.serve.models import Models
from darkroom.serve.protocol import make_protocol
from darkroom.serve.service import Service
from darkroom.serve.slot import DEFAULT_COMMAND
from darkroom.sheets import unfold

logger = logging.getLogger(__name__)

RESULTS = Path("results")
_BACKLOG = 2048
_MAX_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a server is started with; `render` holds the defaults of requests, `socket` a path in place of an address."""

    models: Models
    serve: ServeConfig
    engine: EngineConfig
    render: dict[str, Any]
    socket: Path | None = None
    command: Sequence[str] = DEFAULT_COMMAND

    @classmethod
    def of_config(
        cls, models: Models, config: Config | None, engine: EngineConfig, socket: Path | None = None, **changes: Any
    ) -> Setup:
        """From a configuration, or the defaults of one; `changes` are values of its `serve` section.

        Raises ConfigError (E-CONFIG) for one that can't be.
        """
        render = unfold(config.render, "config render") if config else {}
        render.pop("seeds", None)
        given = {**(config.serve if config else ServeConfig()).model_dump(), **changes}
        try:
            return cls(models, ServeConfig.model_validate(given), engine, render, socket)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"serve.{first['loc'][0]} =", first["input"], first["msg"], "give another value"
            ) from None


def serve(setup: Setup) -> int:
    """Serve until told to end; returns the exit code.

    Raises ConfigError (E-CONFIG) for an address that can't be had, and for one on a network without an API key.
    """
    key = read_key()
    if setup.socket is None and key is None and not is_loopback(setup.serve.host):
        why = "is not a loopback address, and there is no API key: anybody on the network could use the server"
        raise ConfigError("serve.host =", setup.serve.host, why, f"set {KEY_VARIABLE}, or use 127.0.0.1")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    listener = _listen(setup)
    try:
        return asyncio.run(_serve(setup, listener, key))
    finally:
        if setup.socket is not None:
            setup.socket.unlink(missing_ok=True)


def make_service(setup: Setup, metrics: Metrics) -> Service:
    """The service of a set-up, not started yet; to be called in the event loop that it will run in."""
    engine, models = setup.engine, setup.models
    options = [
        EngineOptions(dict(models.files), device, engine.dtype, engine.memory, models_dir=models.models_dir, probe=True)
        for device in setup.serve.devices or [engine.device]
    ]
    dispatcher = Dispatcher(options, models.default, limit=setup.serve.queue, metrics=metrics, command=setup.command)
    results = RESULTS.absolute() if setup.serve.results else None
    return Service(models, dispatcher, setup.serve, metrics, defaults=setup.render, results=results)


async def _serve(setup: Setup, listener: socket.socket, key: str | None) -> int:
    metrics = Metrics()
    service = make_service(setup, metrics)
    lifecycle = Lifecycle(service, setup.engine.start_timeout_s)
    guard = Guard.of_config(setup.serve, key) if setup.socket is None else Guard.of_socket(setup.serve, key)
    app = guarded(create_app(service, lifespan=lifecycle.lifespan), guard, metrics, is_public=True)
    logger.info("serving %s on %s", ", ".join(setup.models.names), _address(setup, listener))
    await run_uvicorn(app, lifecycle, listener, setup.serve.read_timeout_s)
    return lifecycle.exit_code


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


def _listen(setup: Setup) -> socket.socket:
    try:
        return _listen_at_path(setup.socket) if setup.socket else _listen_at_address(setup.serve)
    except OSError as error:
        where = setup.socket or f"{setup.serve.host}:{setup.serve.port}"
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
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


def _address(setup: Setup, listener: socket.socket) -> str:
    if setup.socket is not None:
        return str(setup.socket)
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
