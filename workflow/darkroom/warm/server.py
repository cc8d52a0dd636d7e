"""The warm engine's process: `python -m darkroom.warm.server`, started by the render client.

It binds its socket before it imports anything large, so that clients can queue while the model loads. A lock held
for life keeps a second one off the same socket. It ends by itself: see `lifecycle`.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from darkroom.unix_sockets import listen_privately
from darkroom.warm.paths import ServerFiles

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
    from darkroom.warm.lifecycle import LeasedLifecycle, Limits

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
