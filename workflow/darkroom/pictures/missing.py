"""Why pictures of a run that failed are not there, from their jobs' logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

LOGS = Path("logs/render")
NOT_YET = "not rendered yet"
_ERROR = re.compile(r"E-[A-Z]+(?:-[A-Z]+)* ")
_MOST_BYTES = 64 * 1024  # an error is near the beginning; the end of the engine's log follows it


class PlacedPicture(Protocol):
    """A picture's place: `path` and, without its suffix, `name` below the results folder."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...


def find_missing(results: Path, pictures: Iterable[PlacedPicture], logs: Path = LOGS) -> dict[str, str]:
    """The reason for each picture, by its name, whose file isn't in `results`: its job's error, or that it isn't made yet.

    `logs` is the folder with `SHEET/CHECKPOINT/ID-SEED.log`.
    """
    return {
        picture.name: _read_error(logs / f"{picture.name}.log")
        for picture in pictures
        if not (results / picture.path).is_file()
    }


def _read_error(log: Path) -> str:
    """The line `E-CODE what 'value': why. Hint: action.` of a log."""
    try:
        with log.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return NOT_YET
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if _ERROR.match(line)), NOT_YET)


def without_hint(reason: str) -> str:
    """What happened, without what to do."""
    return reason.partition(" Hint: ")[0]
