"""Leases: the processes that an engine lives for, and noticing their end. Standard library only.

A lease is a process's identity, as in `darkroom.base.processes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from darkroom.base.processes import identify, is_alive

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    import asyncio

VARIABLE = "DARKROOM_LEASE"
_POLL_S = 1.0


def make_lease(pid: int) -> str:
    """The lease of a running process, for the environment variable `DARKROOM_LEASE` of the jobs."""
    return identify(pid)


def current_lease() -> str | None:
    """The lease in this process's environment, or None."""
    return os.environ.get(VARIABLE) or None


class LeaseWatch:
    """Watches any number of leases from an event loop and calls `on_gone` when the last of their processes has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[], None]) -> None:
        self._loop = loop
        self._on_gone = on_gone
        self._held: dict[str, int | None] = {}  # lease -> pidfd, or None where it is polled

    def add(self, lease: str) -> None:
        """Watch a lease; its process may have ended already."""
        if lease in self._held:
            return
        handle = _open_pidfd(lease)
        self._held[lease] = handle
        # Checked after the pidfd is open: from here on the number can't be reused unnoticed.
        if not is_alive(lease):
            self._drop(lease)
        elif handle is None:
            self._loop.call_later(_POLL_S, self._poll, lease)
        else:
            self._loop.add_reader(handle, self._drop, lease)

    def release(self, lease: str | None) -> bool:
        """Stop watching a lease, without calling `on_gone`; returns whether none is left."""
        if lease in self._held:
            self._let_go(lease)
        return not self._held

    def _poll(self, lease: str) -> None:
        if lease not in self._held:
            return  # released
        if is_alive(lease):
            self._loop.call_later(_POLL_S, self._poll, lease)
        else:
            self._drop(lease)

    def _drop(self, lease: str) -> None:
        self._let_go(lease)
        if not self._held:
            self._on_gone()

    def _let_go(self, lease: str) -> None:
        handle = self._held.pop(lease)
        if handle is not None:
            self._loop.remove_reader(handle)
            os.close(handle)


def _open_pidfd(lease: str) -> int | None:
    """A descriptor that becomes readable when the process ends (pidfd_open(2)), or None where there are none."""
    pid = lease.partition(":")[0]
    if not hasattr(os, "pidfd_open") or not pid.isdecimal():
        return None
    try:
        return os.pidfd_open(int(pid))
    except (OSError, OverflowError):
        return None
