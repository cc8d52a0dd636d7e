"""How far a run is, as its gallery says it while pictures are made, and who may write pages when.

One process at a time writes the gallery's page (flock(2) on a file of the project). The commands that make pages wait for it, so what
they write is the last; a page of a run under way is left out while they are at work.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.base.files import write_bytes
from darkroom.base.job_notes import current_run

LEAST_S = 15.0
"""The least time between the beginnings of two pages of a run under way, in seconds."""
SHARE = 0.03
"""The most of one processor's time that such pages may take."""
LOCK = Path(".snakemake/darkroom/pages.lock")
EXPECTED = "expected.json"
"""In a run's folder: the files of the pictures that it was to make, as they were before. Only as long as the gallery isn't finished."""


@dataclass(frozen=True, slots=True)
class Progress:
    """So many pictures of those `expected` were there at `written` (seconds since the epoch), `failed` of the others failed.

    A run that `is_running` writes a newer page before `next_by`; one that doesn't is known to have ended.
    """

    made: int
    expected: int
    written: int
    is_running: bool
    next_by: int | None = None
    failed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For the page's script and template."""
        return {**asdict(self), "text": self.describe(), "time": time.strftime("%Y-%m-%d %H:%M:%S", self._local)}

    def describe(self) -> str:
        """`612 of 2,000 pictures`, and how the run ended if it has."""
        count = f"{self.made:,} of {self.expected:,} picture{'' if self.expected == 1 else 's'}"
        failed = f"; {self.failed:,} failed" if self.failed else ""
        return count if self.is_running else f"{count}: the run ended before all were made{failed}"

    @property
    def _local(self) -> time.struct_time:
        return time.localtime(self.written)


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


def pause_after(cpu_s: float) -> float:
    """How long after the beginning of a page that took so much processor time the next one may begin, in seconds."""
    return max(LEAST_S, cpu_s / SHARE)


@contextmanager
def page_lock(*, is_shared: bool = False, waits: bool = True) -> Iterator[bool]:
    """Hold the lock on the project's pages; gives False if it can't be had, at once unless it `waits`.

    Those who share it wait only for the one who doesn't. Without a file system that has such locks, nobody waits.
    """
    how = (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB)
    try:
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, how)
        except OSError:  # held by another, or there are no locks here
            yield False
            return
        yield True
    finally:
        os.close(handle)


def end_progress() -> None:
    """Say that the run's gallery is finished; to be called under the lock, so that no page of a run under way replaces it."""
    if run := current_run():
        (run / EXPECTED).unlink(missing_ok=True)
