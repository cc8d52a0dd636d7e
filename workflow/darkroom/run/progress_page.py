"""`python -m darkroom.run.progress_page RUN PLAN`: writes the gallery of a run under way, from the pictures that are there.

The run starts it now and then as a process of low priority, and learns from the number that it prints how many seconds of processor
time it took beyond what the finished gallery is spared: a thumbnail is made once. Whatever fails leaves the page as it is. At the end of
a run that didn't come to its gallery it writes the last page, with `--ended`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.errors import DarkroomError
from darkroom.pictures.gallery import RESULTS, build_planned_gallery, pictures_of
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.run_progress import Progress
from darkroom.pictures.thumbnails import update_thumbnails
from darkroom.run.page_lock import EXPECTED, page_lock, pause_after, stamp_of

_MARGIN_S = 60.0
_LOWEST = 19  # nice(2)


def write_page(run: Path, plan_file: Path, *, is_running: bool, failed: int = 0) -> float:
    """Write the page of a run; returns the seconds of processor time that `pause_after` takes.

    Does nothing once the gallery is finished, or while pages are being made. Raises what `build_planned_gallery` raises.
    """
    with page_lock(waits=not is_running) as is_held:
        expected = _read(run / EXPECTED)
        if not is_held or expected is None:
            return time.process_time()
        plan = json.loads(plan_file.read_text(encoding="utf-8"))
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
    stamp = stamp_of(path)
    return stamp is not None and stamp != expected.get(str(path))


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
    parser.add_argument("plan", type=Path, help="the plan that Snakemake left in .snakemake/darkroom")
    parser.add_argument("--ended", action="store_true", help="the run has ended: this is its last page")
    parser.add_argument("--failed", type=int, default=0, help="how many pictures have failed")
    given = parser.parse_args(arguments)
    if not given.ended:
        os.nice(_LOWEST)
    try:
        print(write_page(given.run, given.plan, is_running=not given.ended, failed=given.failed))
    except (DarkroomError, OSError):  # such as a picture that is damaged: the run itself says so
        print(time.process_time())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
