"""Whose a file is, by its name, and whether that process still runs: for claims, and for files that aren't finished.

An owner is `HERE-PID.STARTTIME-RANDOM`, and HERE tells this machine since its start, and this container on it, from
others. One from here lives as long as its process does; of one from elsewhere (another machine or container on the same
volume) there is only the file's time to go by. Standard library only.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from darkroom.processes import identify, is_alive

STALE_S = 120.0
"""Without a sign of life for so long an owner elsewhere counts as dead."""


def new_owner() -> str:
    """A name for something of this process that nothing else has."""
    return f"{here()}-{identify(os.getpid()).replace(':', '.')}-{os.urandom(4).hex()}"


def is_from_here(owner: str) -> bool:
    """Whether it is a process of this machine and container, dead or alive."""
    return owner.startswith(f"{here()}-")


def is_living(owner: str, file: Path, now: float) -> bool:
    """Whether the owner of `file`, which only they keep up to date, still runs."""
    if is_from_here(owner):
        return is_alive(owner.split("-")[1].replace(".", ":"))
    try:
        return now - file.stat().st_mtime <= STALE_S
    except FileNotFoundError:
        return False


@cache
def here() -> str:
    """This machine since its start, and this container on it, without a hyphen."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return os.uname().nodename.replace("-", "_") or "here"
