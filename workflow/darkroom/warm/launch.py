"""Starting a server detached from the job, and reading the end of its log. Standard library only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.errors import DarkroomError, ServerError

TAIL_LINES = 20
_TAIL_BYTES = 16 * 1024
_MAX_LOG_BYTES = 4 * 2**20


@contextmanager
def start_lock(path: Path) -> Iterator[int | None]:
    """Try to take the lock of the client that starts a server, or of that server; yields its descriptor, or None."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        os.close(handle)


def start(
    command: list[str], log: Path, timeout_s: float, model_dir: Path, lock: int, environment: dict[str, str] | None
) -> None:
    """Start the server; returns once its socket is bound, long before the model is loaded.

    The start lock passes to the server, which is so known to run even if this process is killed right away.

    The command detaches by itself: its first process ends when the second one has the socket. It runs in a session of its
    own, so that Ctrl-C reaches it through its lease and not as a signal. Raises ServerError (E-SERVER) with the end of
    the log.
    """
    import subprocess

    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.unlink()
    try:
        with log.open("ab") as out:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=environment,
                pass_fds=(lock,),
                start_new_session=True,
                timeout=timeout_s,
            )
        why = f"its process ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        why = f"it did not open its socket within {timeout_s:g} s"
    except OSError as failure:
        why = f"{command[0]}: {failure.strerror}"
    else:
        if done.returncode == 0:
            return
    raise with_log_tail(ServerError("engine did not start for", model_dir, why, f"read {log}"), log)


def with_log_tail(error: DarkroomError, log: Path) -> DarkroomError:
    """The error with the last lines of the engine's log as a note."""
    lines = _tail(log)
    if lines:
        error.add_note("\n".join([f"The last lines of {log}:", *(f"  {line}" for line in lines)]))
    return error


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-TAIL_LINES:]
