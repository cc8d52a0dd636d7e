"""`python -m darkroom.run.progress_page RUN`: writes the gallery of a run under way, from the pictures that are there.

The run starts it now and then as a process of low priority, and learns from its last line how many seconds of processor time it took
beyond what the finished gallery is spared: a thumbnail is made once. Prints nothing else; whatever fails leaves the page as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.base.files import write_bytes
from darkroom.errors import DarkroomError
from darkroom.pictures.gallery import RESULTS, build_planned_gallery, pictures_of
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.progress import EXPECTED, Progress, page_lock
from darkroom.pictures.thumbnails import update_thumbnails
from darkroom.run.plan import PLAN_FILE

LEAST_S = 15.0
"""The least time between the beginnings of two pages, in seconds."""
SHARE = 0.02
"""The most of one processor's time that pages may take."""
_MARGIN_S = 60.0
_LOWEST = 19  # nice(2)


def write_expected(run: Path, paths: Iterable[str]) -> None:
    """Note the files that a run is to make, and what is there in their places. Raises DiskError (E-DISK)."""
    write_bytes(run / EXPECTED, json.dumps({path: _stamp(Path(path)) for path in paths}).encode())


def pause_after(cpu_s: float) -> float:
    """How long after the beginning of a page that took so much processor time the next one may begin, in seconds."""
    return max(LEAST_S, cpu_s / SHARE)


def write_page(run: Path, *, is_running: bool, failed: int = 0) -> float:
    """Write the page of a run; returns the seconds of processor time that `pause_after` takes.

    Does nothing once the gallery is finished, or while pages are being made. Raises what `build_planned_gallery` raises.
    """
    with page_lock(waits=not is_running) as is_held:
        expected = _read(run / EXPECTED)
        if not is_held or expected is None:
            return time.process_time()
        plan = json.loads(PLAN_FILE.read_text(encoding="utf-8"))
        pictures = pictures_of(plan)
        there = [picture for picture in pictures if _is_there(picture, expected)]
        begun = time.process_time()
        update_thumbnails(RESULTS, there, plan["config"]["gallery"]["thumbnail_px"])
        spared = time.process_time() - begun
        now = time.time()
        due = round(now + pause_after(2 * (time.process_time() - spared)) + _MARGIN_S) if is_running else None
        progress = Progress(len(there), len(pictures), round(now), is_running, due, failed)
        build_planned_gallery(plan, there, progress)
        return time.process_time() - spared


def _is_there(picture: GalleryPicture, expected: Mapping[str, Any]) -> bool:
    """Whether a picture that was to be made has been made, or one that was as wanted is there."""
    path = RESULTS / picture.path
    stamp = _stamp(path)
    return stamp is not None and stamp != expected.get(str(path))


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("python -m darkroom.run.progress_page", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    run: Path = parser.parse_args(arguments).run
    os.nice(_LOWEST)
    try:
        print(write_page(run, is_running=True))
    except (DarkroomError, OSError):  # such as a picture that is damaged: the run itself says so
        print(time.process_time())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
