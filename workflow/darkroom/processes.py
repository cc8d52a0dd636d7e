"""Which process is meant, and whether it still runs. Standard library only.

An identity is `PID:STARTTIME`. The start time (proc(5), /proc/PID/stat, field 22, in clock ticks since boot) tells a
process from a later one that got its number. Where there is no /proc, the start time is 0 and isn't compared.
"""

from __future__ import annotations

import os
from pathlib import Path

_DEAD_STATES = ("Z", "X")


def identify(pid: int) -> str:
    """The identity of a running process."""
    return f"{pid}:{_start_time(pid) or 0}"


def is_alive(identity: str) -> bool:
    """Whether that very process still runs; False also for text that isn't an identity."""
    pid, _, start = identity.partition(":")
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
