"""`darkroom contact-sheet` and `darkroom gallery`: the pages of a run, from the plan that it left."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_contact_sheet(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom contact-sheet`."""
    sub.add_argument("sheet")
    sub.add_argument("--plan", type=Path, required=True)
    sub.add_argument("--output", type=Path, required=True)


def add_gallery(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom gallery`."""
    sub.add_argument("--plan", type=Path, required=True)


def run_contact_sheet(arguments: argparse.Namespace) -> str:
    """Make one sheet's contact sheet; returns a line that says so. Raises ImageError (E-IMAGE)."""
    from darkroom.pictures.gallery import make_sheet_page

    return make_sheet_page(arguments.plan, arguments.sheet, arguments.output)


def run_gallery(arguments: argparse.Namespace) -> str:
    """Make the gallery and its manifest; returns a line that says so. Raises ImageError (E-IMAGE)."""
    from darkroom.pictures.gallery import make_gallery_page

    return make_gallery_page(arguments.plan)
