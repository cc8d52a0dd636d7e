"""`darkroom export`: one sheet with all that made it, as a zip for a colleague or a paper's supplement."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from darkroom.cli.fetch import CONFIG
from darkroom.errors import RequestError


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom export`."""
    sub.add_argument("sheet", metavar="SHEET", help="the name of a sheet whose pictures and pages are finished")
    sub.add_argument("--output", "-o", type=Path, required=True, help="the zip to write")
    sub.add_argument("--config", type=Path, default=CONFIG, help=f"the configuration; {CONFIG} if not given")


def run(arguments: argparse.Namespace) -> str:
    """Write the archive; returns a line about it. Raises what `collect` and `write_archive` raise."""
    if arguments.output.suffix.lower() != ".zip":
        raise RequestError("--output", arguments.output, "is no name of a zip", "end its name in .zip")
    from darkroom.base.text import format_bytes, format_count
    from darkroom.replay.packing import collect, write_archive

    export = collect(arguments.config, arguments.sheet)
    index = write_archive(export, arguments.output)
    for note in export.notes:
        print(note, file=sys.stderr)
    size = format_bytes(arguments.output.stat().st_size)
    pictures, files = format_count(len(index.pictures), "picture"), format_count(len(index.files), "file")
    return f"{arguments.output}: {pictures}, {files}, {size}"
