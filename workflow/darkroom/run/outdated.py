"""Pictures that other versions of the libraries made than the installed ones: which they are, and what sheets mix.

A newer torch or diffusers is no reason to render. With `rerender: versions` it is one, and these pictures are forced as those
are that a damaged file makes; no job's params know of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from darkroom.errors import ImageError
from darkroom.pictures.made_by import MadeBy, count_versions, describe_mix, read_made_by
from darkroom.pictures.png import read_png_text
from darkroom.pictures.records import PictureRecord, load_index
from darkroom.run.plan import Plan
from darkroom.sheets.planned import PlannedPicture


class OutdatedPictures:
    """The finished pictures of a plan that the installed versions didn't make, with those that stages made of such pictures."""

    def __init__(self, plan: Plan, results: Path) -> None:
        self._plan, self._results = plan, results
        self._indexes: dict[str, dict[str, PictureRecord]] = {}
        self._found: dict[str, bool] = {}

    def __contains__(self, picture: PlannedPicture) -> bool:
        if picture.path not in self._found:
            before = self._plan.before(picture)
            made_by = self._made_by(picture)
            is_there = made_by is not None
            is_other = made_by is not None and not made_by.is_by_installed
            self._found[picture.path] = is_other or (is_there and before is not None and before in self)
        return self._found[picture.path]

    def _made_by(self, picture: PlannedPicture) -> MadeBy | None:
        """What made the picture; None if it is missing or damaged, which others see to."""
        if picture.sheet not in self._indexes:
            self._indexes[picture.sheet] = load_index(self._results, picture.sheet)
        record = self._indexes[picture.sheet].get(picture.name)
        path = self._results / picture.path
        try:
            state = path.stat()
            if record and (record.size, record.mtime_ns) == (state.st_size, state.st_mtime_ns) and record.made_by:
                return record.made_by
            return read_made_by(read_png_text(path))
        except (OSError, ImageError):
            return None


def tell_mixed_sheets(plan: Plan, results: Path) -> Iterator[str]:
    """A line for each sheet whose finished pictures were made by different versions, as far as its index knows them."""
    for name, pictures in plan.sheets.items():
        index = load_index(results, name)
        records = (index.get(picture.name) for picture in pictures)
        line = describe_mix(name, count_versions(r.made_by for r in records if r is not None and r.made_by is not None))
        if line is not None:
            yield line


def print_mixed_sheets(plan: Plan, results: Path) -> None:
    """The lines of `tell_mixed_sheets` on stderr, at a run's end."""
    for line in tell_mixed_sheets(plan, results):
        print(line, file=sys.stderr, flush=True)
