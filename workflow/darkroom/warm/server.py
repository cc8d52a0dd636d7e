"""The warm engine's process, `python -m darkroom.warm.server JSON`: started by the render client, ended with its leases.

The socket is bound before anything large is imported, so that clients can queue while the model loads. A lock held for
the process's whole life keeps a second server off the same socket. `frame_server` says what happens in between.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from darkroom.base.logs import configure_log
from darkroom.base.sockets import listen_privately
from darkroom.warm.options import ServerOptions
from darkroom.warm.paths import BACKLOG, ServerFiles

logger = logging.getLogger(__name__)

_LOCK_PAUSE_S = 0.05


def main(command: Sequence[str] | None = None) -> None:
    """Run an engine until it is no longer needed; never returns. `command` replaces the one that starts the engine's process."""
    options = ServerOptions.from_json(sys.argv[1])
    configure_log()
    files = ServerFiles(options.socket)
    lock = _hold(files.life_lock, options.start_timeout_s)
    if lock is None:
        logger.error("another engine still holds %s", files.life_lock)
        sys.exit(1)
    listener = _bind(files.socket)
    if options.detach and os.fork():
        os._exit(0)  # the client waits for this process only; the forked one goes on with the socket and the lock
    identity = _identity(files.socket)

    def remove_socket() -> None:
        if identity is not None and _identity(files.socket) == identity:
            with suppress(FileNotFoundError):
                files.socket.unlink()

    def leave_early(number: int, _frame: object) -> None:
        remove_socket()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave_early)  # until the event loop handles signals: nothing is under way yet
    logger.info("engine %d starts for %s", os.getpid(), options.model_dir)
    try:
        from darkroom.warm.frame_server import serve

        code = asyncio.run(serve(listener, options, command, remove_socket))
    except (Exception, SystemExit):
        logger.exception("the server failed")
        code = 1
    remove_socket()
    logger.info("ended")
    logging.shutdown()
    os._exit(code)


def _hold(path: Path, timeout_s: float) -> int | None:
    """Take the lock for life; waits for a server that is ending. Returns its descriptor, or None after the time-out."""
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
    """Listen on a socket with mode 0600 that appears at `path` ready for use, in place of one that a dead server left."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    listener = listen_privately(temporary, BACKLOG)
    temporary.rename(path)
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


if __name__ == "__main__":
    main()
