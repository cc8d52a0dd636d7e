"""The day on which bytes were first brought here, remembered by their SHA256.

Receipts hold it, and a receipt has to stay as it is when the same bytes are fetched again, also after it was deleted.
Losing the memory costs nothing but that.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from darkroom.errors import DiskError
from darkroom.files import write_json


def first_fetched(sha256: str, cache: Path | None = None) -> date:
    """The day that the JSON file `cache` remembers for these bytes, else today, which it remembers from then on.

    A memory that is broken or can't be written is no reason to stop.
    """
    day = datetime.now(UTC).date()
    if cache is None:
        return day
    return _read_date(_load(cache).get(sha256)) or _remember(cache, sha256, day)


def _remember(cache: Path, sha256: str, day: date) -> date:
    """What is remembered then: of two who ask at once, the first one's day."""
    from darkroom.claims import claim

    try:
        with claim(cache.with_name("." + cache.name)):
            days = {key: value for key, value in _load(cache).items() if _read_date(value) is not None}
            day = _read_date(days.get(sha256)) or day
            write_json(cache, days | {sha256: day.isoformat()})
    except (OSError, DiskError):
        pass
    return day


def _load(cache: Path) -> dict[str, Any]:
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _read_date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        return None
