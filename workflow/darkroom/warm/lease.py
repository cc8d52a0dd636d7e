"""Leases: which process an engine lives for, and noticing that it has gone. Standard library only.

A lease is `PID:STARTTIME`. The start time (proc(5), /proc/PID/stat, field 22, in clock ticks since boot) tells a
process from a later one that got its number. Where there is no /proc, the start time is 0 and isn't compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

VARIABLE = "DARKROOM_LEASE"
_POLL_S = 1.0
_DEAD_STATES = ("Z", "X")


def make_lease(pid: int) -> str:
    """The lease of a running process, to be put into `DARKROOM_LEASE` by the process that starts the jobs."""
    return f"{pid}:{_start_time(pid) or 0}"


def current_lease() -> str | None:
    """The lease this process was given by the environment, if any."""
    return os.environ.get(VARIABLE) or None


def is_alive(lease: str) -> bool:
    """Whether the lease's own process still runs; False also for text that isn't a lease."""
    pid, _, start = lease.partition(":")
    if not (pid.isdecimal() and start.isdecimal() and int(pid) > 0):
        return False
    if Path("/proc/self/stat").exists():
        return _start_time(int(pid)) == int(start)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None when the process is gone, a zombie, or there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command's name, in brackets, may hold anything
    return None if fields[0] in _DEAD_STATES else int(fields[19])


class LeaseWatch:
    """Watches any number of leases from an event loop and calls back once when the last of them has gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[], None]) -> None:
        self._loop = loop
        self._on_gone = on_gone
        self._held: dict[str, int | None] = {}  # lease -> pidfd, or None where it is polled

    def add(self, lease: str) -> None:
        """Hold on to a lease; one whose process has already gone counts as gone."""
        if lease in self._held:
            return
        handle = _open_pidfd(lease)
        self._held[lease] = handle
        # Asked after the pidfd is open: from here on the number can't pass to another process unnoticed.
        if not is_alive(lease):
            self._drop(lease)
        elif handle is None:
            self._loop.call_later(_POLL_S, self._poll, lease)
        else:
            self._loop.add_reader(handle, self._drop, lease)

    def _poll(self, lease: str) -> None:
        if is_alive(lease):
            self._loop.call_later(_POLL_S, self._poll, lease)
        else:
            self._drop(lease)

    def _drop(self, lease: str) -> None:
        handle = self._held.pop(lease)
        if handle is not None:
            self._loop.remove_reader(handle)
            os.close(handle)
        if not self._held:
            self._on_gone()


def _open_pidfd(lease: str) -> int | None:
    """A descriptor that becomes readable when the process ends (pidfd_open(2)), or None where there are none."""
    pid = lease.partition(":")[0]
    if not hasattr(os, "pidfd_open") or not pid.isdecimal():
        return None
    try:
        return os.pidfd_open(int(pid))
    except (OSError, OverflowError):
        return None
