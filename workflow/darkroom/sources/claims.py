"""Mutual exclusion between processes and threads without locks of the file system, which not every volume keeps.

A claim on `PATH` is a file `PATH.claim.OWNER`. It is made first; then the folder is read, and whoever sees a living
claim of somebody else takes its own back and waits. So two never hold the same claim: the later one to read sees both.
An owner on this machine lives as long as its process does; one elsewhere (another machine or container on the same
volume) as long as its file's time goes on.
"""

from __future__ import annotations

import os
import platform
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom.files import disk_errors
from darkroom.processes import identify, is_alive

BEAT_S = 10.0
STALE_S = 120.0
"""Without a beat for so long an owner elsewhere counts as dead."""
_POLL_S = 0.2
_MARK = ".claim."


@contextmanager
def claim(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the claim on `path` for the time of the block; waits for others, calling `on_wait` once before.

    Gives True if it was taken over from an owner elsewhere who stopped beating, and who might wake up again.
    Raises DiskError (E-DISK) where the file system refuses.
    """
    with disk_errors(path):
        mine, took_over = _take(path, on_wait)
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(mine, stop), daemon=True)
        beat.start()
    try:
        yield took_over
    finally:
        stop.set()
        beat.join()
        with suppress(FileNotFoundError):
            mine.unlink()


def _take(path: Path, on_wait: Callable[[], None] | None) -> tuple[Path, bool]:
    took_over = waited = False
    while True:
        mine = path.with_name(f"{path.name}{_MARK}{_here()}-{identify(os.getpid())}-{os.urandom(4).hex()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            living, removed = _look(path, mine)
        except FileNotFoundError:
            continue  # the one before has deleted the folder with all that was in it
        except BaseException:
            mine.unlink(missing_ok=True)
            raise
        took_over |= removed
        if not living:
            return mine, took_over
        mine.unlink(missing_ok=True)
        if not waited and on_wait is not None:
            on_wait()
        waited = True
        with suppress(FileNotFoundError):  # as above
            while _look(path, None)[0]:
                time.sleep(_POLL_S)
        time.sleep(random.uniform(0, _POLL_S))


def is_anyone_at_work(folder: Path) -> bool:
    """Whether there is a living claim in `folder`."""
    return folder.is_dir() and any(
        _MARK in other.name and _is_living(other, time.time()) for other in list(folder.iterdir())
    )


def _look(path: Path, mine: Path | None) -> tuple[bool, bool]:
    """Whether others hold living claims, and whether a silent one from elsewhere was removed, which only a claimant does."""
    living = removed = False
    # With a claim of one's own both times are the volume's, whose clock may differ from this machine's.
    now = time.time() if mine is None else mine.stat().st_mtime
    for other in path.parent.iterdir():
        if not other.name.startswith(path.name + _MARK) or other == mine:
            continue
        if _is_living(other, now):
            living = True
        elif mine is not None:
            removed |= not _is_from_here(other)
            with suppress(FileNotFoundError):
                other.unlink()
    return living, removed


def _is_from_here(other: Path) -> bool:
    return other.name.rpartition(_MARK)[2].startswith(f"{_here()}-")


def _is_living(other: Path, now: float) -> bool:
    if _is_from_here(other):
        return is_alive(other.name.rpartition(_MARK)[2].split("-")[1])
    try:
        return now - other.stat().st_mtime <= STALE_S
    except FileNotFoundError:
        return False


def _beat(mine: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):
            os.utime(mine)


def _here() -> str:
    """What tells this machine since its start, and this container on it, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return platform.node().replace("-", "_") or "here"
