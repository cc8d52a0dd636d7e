"""Which process is meant, whether it still runs, and which process owns a file. Standard library only.

An identity is `PID:STARTTIME`. The start time (proc(5), /proc/PID/stat, field 22, in clock ticks since boot) tells a
process from a later one with the same number. Without /proc the start time is 0 and isn't compared.

An owner is `HERE-PID.STARTTIME-RANDOM`. HERE identifies the running machine and the container on it. An owner from here
lives as long as its process does; an owner from elsewhere (another machine or container on the same volume) lives as
long as it keeps updating its file's modification time.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

STALE_S = 120.0
"""An owner from elsewhere whose file is older counts as dead."""
_DEAD_STATES = ("Z", "X")


def identify(pid: int) -> str:
    """The identity of a running process."""
    return f"{pid}:{_start_time(pid) or 0}"


def is_alive(identity: str) -> bool:
    """True if that process still runs; False also for text that isn't an identity."""
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


def age_s() -> float:
    """Seconds since this process began; 0 where that is unknown."""
    ticks = _start_time(os.getpid())
    return 0.0 if ticks is None else time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def new_owner() -> str:
    """A new owner for something that this process makes; no two are the same."""
    return f"{here()}-{identify(os.getpid()).replace(':', '.')}-{os.urandom(4).hex()}"


def is_from_here(owner: str) -> bool:
    """True if the owner is a process of this machine and container, dead or alive."""
    return owner.startswith(f"{here()}-")


def is_living(owner: str, file: Path, now: float) -> bool:
    """True if the owner of `file`, which nobody else updates, still runs; `now` is in seconds since the epoch."""
    if is_from_here(owner):
        return is_alive(owner.split("-")[1].replace(".", ":"))
    try:
        return now - file.stat().st_mtime <= STALE_S
    except FileNotFoundError:
        return False


@cache
def here() -> str:
    """The running machine and the container on it, without a hyphen."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return os.uname().nodename.replace("-", "_") or "here"


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, or None when the process is gone, a zombie, or there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command's name, in brackets, may hold anything
    return None if fields[0] in _DEAD_STATES else int(fields[19])
