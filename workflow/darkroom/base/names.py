"""Names that become names of files and folders, on every file system."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*", re.IGNORECASE | re.ASCII)
_RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{n}" for device in ("com", "lpt") for n in range(10))}


def is_reserved(name: str) -> bool:
    """True for a name that Windows keeps for a device, whatever its suffix."""
    return name.split(".")[0].strip().casefold() in _RESERVED


def find_collision(names: Iterable[str], endings: Sequence[str]) -> tuple[str, str] | None:
    """Two names that would have files of the same name, where each is followed by any of the endings; None if none do.

    Upper and lower case count as the same, as file systems of Windows and macOS have it.
    """
    taken: dict[str, str] = {}
    for name in names:
        for file in (f"{name}{ending}".casefold() for ending in endings):
            if taken.setdefault(file, name) != name:
                return name, taken[file]
    return None
