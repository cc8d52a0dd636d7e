"""What was measured of a study's pictures, by picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.pictures.records import FOLDER


@dataclass(frozen=True, slots=True)
class Measures:
    """A picture's numbers: `difference`, `ssim` and `hash_distance` are to its base cell, None without one."""

    difference: float | None
    ssim: float | None
    hash: str
    hash_distance: int | None
    clipped: float
    contrast: float
    unchanged: tuple[str, ...]
    scores: Mapping[str, float]


def load_measures(results: Path, sheet: str) -> dict[str, Measures]:
    """The measures of a sheet's pictures by name; none if the file is missing or damaged."""
    try:
        entries = json.loads((results / FOLDER / sheet / "_measures.json").read_bytes())
        return {name: Measures(**{**each, "unchanged": tuple(each["unchanged"])}) for name, each in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
