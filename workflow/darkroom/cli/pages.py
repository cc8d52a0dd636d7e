"""`darkroom contact-sheet`, `grid`, `measure`, `study-page` and `gallery`: the pages of a run, from the plan that it left."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

_PLAN = "the plan that Snakemake left in .snakemake/darkroom"
_STUDY = "the name of a sheet that is a study"


def add_contact_sheet(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom contact-sheet`."""
    _add_options(sub, "the sheet's name", "the PNG to write")


def add_measure(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom measure`."""
    _add_options(sub, _STUDY, "the study.csv to write")


def add_study_page(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom study-page`."""
    _add_options(sub, _STUDY, "the study.html to write")


def add_grid(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom grid`."""
    _add_options(sub, _STUDY, "the PNG to write; its name says which of the grids")


def _add_options(sub: argparse.ArgumentParser, sheet: str, output: str) -> None:
    """The options of a page of one sheet, with the help of two of them."""
    sub.add_argument("sheet", metavar="SHEET", help=sheet)
    sub.add_argument("--plan", type=Path, required=True, help=_PLAN)
    sub.add_argument("--output", type=Path, required=True, help=output)


def add_gallery(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom gallery`."""
    sub.add_argument("--plan", type=Path, required=True, help=_PLAN)


def run_contact_sheet(arguments: argparse.Namespace) -> str:
    """Make one sheet's contact sheet; returns a line that says so. Raises ImageError (E-IMAGE)."""
    from darkroom.pictures.gallery import make_sheet_page

    return _make(make_sheet_page, arguments)


def run_measure(arguments: argparse.Namespace) -> str:
    """Measure one study's pictures; returns a line that says so. Raises ImageError (E-IMAGE) and InputError (E-INPUT)."""
    from darkroom.pictures.measuring import measure_study

    return _make(measure_study, arguments)


def run_study_page(arguments: argparse.Namespace) -> str:
    """Make one study's page; returns a line that says so. Raises ImageError (E-IMAGE) and InputError (E-INPUT)."""
    from darkroom.pictures.study_page import make_study_page

    return _make(make_study_page, arguments)


def run_grid(arguments: argparse.Namespace) -> str:
    """Draw one of a study's grids; returns a line that says so. Raises ImageError (E-IMAGE) and BadNameError (E-NAME)."""
    from darkroom.run.grids import make_grid_file

    return _make(make_grid_file, arguments)


def run_gallery(arguments: argparse.Namespace) -> str:
    """Make the gallery and its manifest; returns a line that says so. Raises ImageError (E-IMAGE).

    It is the last page of a run: none of a run under way follows.
    """
    from darkroom.pictures.gallery import make_gallery_page
    from darkroom.run.page_lock import end_progress, page_lock

    with page_lock():
        line = make_gallery_page(arguments.plan)
        end_progress()
    return line


def _make(make: Callable[[Path, str, Path], str], arguments: argparse.Namespace) -> str:
    """Make a page of one sheet while no gallery is built, which would write the same index of thumbnails."""
    from darkroom.run.page_lock import page_lock

    with page_lock(is_shared=True):
        return make(arguments.plan, arguments.sheet, arguments.output)
