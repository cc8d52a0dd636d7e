"""Taking away the sockets of engines that were killed. Standard library only."""

from __future__ import annotations

import fcntl
from contextlib import suppress

from darkroom.errors import SocketError
from darkroom.warm.paths import ServerFiles, runtime_folder


def remove_dead_sockets() -> None:
    """Remove what lies at the socket of each engine whose lock for life nobody holds."""
    with suppress(SocketError, OSError):
        for lock in list(runtime_folder().glob("*.lock")):
            files = ServerFiles(lock.with_suffix(".sock"))
            with lock.open() as handle, suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # While this lock is held, none can begin to listen there.
                files.socket.unlink(missing_ok=True)
                files.socket.with_name(files.socket.name + ".new").unlink(missing_ok=True)
