"""How far a run is, as its gallery says it while pictures are made."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any


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
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.written))
        return {**asdict(self), "text": self.describe(), "time": when}

    def describe(self) -> str:
        """`612 of 2,000 pictures`, and how the run ended if it has."""
        count = f"{self.made:,} of {self.expected:,} picture{'' if self.expected == 1 else 's'}"
        failed = f"; {self.failed:,} failed" if self.failed else ""
        what = "all were" if self.made < self.expected else "its pages were"
        return count if self.is_running else f"{count}: the run ended before {what} made{failed}"
