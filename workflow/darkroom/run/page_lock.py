"""Who may write pages when, what a run's pages are to show, and how often they may be written.

One process of a project at a time writes its gallery. The commands that make pages wait for a page of a run under way, so what they
write is the last; such a page is left out while they are at work. The lock is in the runtime folder, on a local disk: pages are made on
the machine where Snakemake runs, and a lock there ends with its holder's process (flock(2)).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.base.files import write_bytes
from darkroom.base.job_notes import current_run
from darkroom.warm.paths import runtime_folder

EXPECTED = "expected.json"
"""In a run's folder: the files of the pictures that it was to make, as they were before. Only as long as the gallery isn't finished."""
LEAST_S = 15.0
"""The least time between the beginnings of two pages of a run under way, in seconds."""
SHARE = 0.03
"""The most of one processor's time that such pages may take."""


def write_expected(run: Path, paths: Iterable[str]) -> None:
    """Note the files that a run is to make, and what is there in their places. Raises DiskError (E-DISK)."""
    write_bytes(run / EXPECTED, json.dumps({path: stamp_of(Path(path)) for path in paths}).encode())


def stamp_of(path: Path) -> list[int] | None:
    """What changes when a file is made again: its size in bytes and its time in ns; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def has_pictures_to_come(run: Path) -> bool:
    """Whether pictures that a run is to make aren't there yet; false once its gallery is finished. Raises OSError, ValueError."""
    try:
        expected: dict[str, list[int] | None] = json.loads((run / EXPECTED).read_bytes())
    except FileNotFoundError:
        return False
    return any(stamp_of(Path(path)) in (None, before) for path, before in expected.items())


def pause_after(cpu_s: float) -> float:
    """How long after the beginning of a page that took so much processor time the next one may begin, in seconds."""
    return max(LEAST_S, cpu_s / SHARE)


@contextmanager
def page_lock(*, is_shared: bool = False, waits: bool = True) -> Iterator[bool]:
    """Hold the lock on the project's pages; gives False, at once, if it `waits` for nobody and another holds the lock.

    Those who share it wait only for the one who doesn't. Raises what `runtime_folder` raises, OSError.
    """
    project = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:16]
    how = (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB)
    handle = os.open(runtime_folder() / f"pages-{project}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def end_progress() -> None:
    """Say that the run's gallery is finished; to be called under the lock, so that no page of a run under way replaces it."""
    if run := current_run():
        (run / EXPECTED).unlink(missing_ok=True)
