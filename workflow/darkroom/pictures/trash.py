"""The trash of a results folder: pictures that were replaced or are not asked for any more, moved and never deleted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from darkroom.base.files import disk_errors

TRASH = ".trash"


def new_trash(results: Path) -> Path:
    """The folder for what is moved now, `.trash/YEAR-MONTH-DAY_HOURMINUTESECOND`; it isn't made yet."""
    return results / TRASH / time.strftime("%Y-%m-%d_%H%M%S")


def move_to_trash(results: Path, paths: Iterable[str], trash: Path) -> None:
    """Move files, given relative to `results`, to the same places below `trash`. Raises DiskError (E-DISK)."""
    for path in paths:
        place = trash / path
        number = 1
        while place.exists():
            number += 1
            place = (trash / path).with_stem(f"{Path(path).stem}.{number}")
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            (results / path).rename(place)
