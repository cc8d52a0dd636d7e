"""The pages of studies after a run in which jobs failed, made from the pictures that are there.

They say of each other picture why it is missing. The next run makes them again: the missing pictures are its jobs' inputs,
and planning finds that a page doesn't show the pictures that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from darkroom.base.secrets import redact
from darkroom.base.text import format_count
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.damage import check_text
from darkroom.pictures.formats import format_of
from darkroom.pictures.measures import STUDY_CSV
from darkroom.pictures.missing import find_missing
from darkroom.pictures.png import read_picture
from darkroom.pictures.records import STUDY_PAGE
from darkroom.run.grids import RESULTS, make_grid_file
from darkroom.run.plan import PLAN_FILE, Plan
from darkroom.sheets.read import PlannedSheet


def make_partial_pages(plan: Plan) -> Iterator[str]:
    """Make the pages of each study that lacks some of its pictures, and say so in a line, or in a line what went wrong."""
    for sheet in plan.grids:
        missing = _find_missing(plan.sheets[sheet])
        there = len(plan.sheets[sheet]) - len(missing)
        if missing and there:
            yield f"{sheet}: {format_count(there, 'picture')} of {len(plan.sheets[sheet]):,} are there; pages of these:"
            yield from _make_pages(plan, sheet, missing)


def _make_pages(plan: Plan, sheet: str, missing: Mapping[str, str]) -> Iterator[str]:
    """Make each page that shows pictures one by one: the table, and the grids of which some pictures are missing."""
    from darkroom.pictures.measuring import measure_study
    from darkroom.pictures.study_page import make_study_page

    folder = RESULTS / sheet
    jobs: list[Callable[[], str]] = [
        lambda: measure_study(PLAN_FILE, sheet, folder / STUDY_CSV),
        lambda: make_study_page(PLAN_FILE, sheet, folder / STUDY_PAGE, missing),
    ]
    for make in jobs:
        try:
            yield make()
        except (DarkroomError, OSError) as error:
            yield redact(str(error))
    grids = plan.grids[sheet]
    for grid in grids.by_stem.values():
        names = {picture.name for picture in grids.shown(grid)}
        if names & missing.keys() and names - missing.keys():
            output = RESULTS / sheet / grid.file
            try:
                make_grid_file(PLAN_FILE, sheet, output, missing)
                yield f"{output}: {len(names & missing.keys())} of {format_count(len(names), 'picture')} missing"
            except (DarkroomError, OSError) as error:
                yield redact(str(error))


def _find_missing(pictures: PlannedSheet) -> dict[str, str]:
    """Why pictures aren't there, or aren't those that the sheet asks for now, by their names."""
    missing = find_missing(RESULTS, pictures)
    for picture in pictures:
        if picture.name not in missing:
            path = RESULTS / picture.path
            try:
                check_text(format_of(path).read_text(read_picture(path), path), path, picture.request)
            except ImageError as error:
                missing[picture.name] = error.why
    return missing
