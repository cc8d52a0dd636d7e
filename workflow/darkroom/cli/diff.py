"""`darkroom diff`: which pictures of two runs are the same, which changed and how, and which only one of them has.

Exit codes are those of diff: 0 the same pictures, 1 others, 2 something is wrong.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import DarkroomError

if TYPE_CHECKING:
    from darkroom.pictures.two_runs import Run, RunDifference


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom diff`."""
    text = "a run: its manifest.jsonl, its results folder or its project's folder"
    sub.add_argument("old", type=Path, metavar="OLD", help=text)
    sub.add_argument("new", type=Path, metavar="NEW", help="the run that it is compared with")
    sub.add_argument("--json", action="store_true", help="as JSON")
    text = "also write a page with both pictures of each change; it shows the runs' files where they are"
    sub.add_argument("--html", type=Path, metavar="FILE", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Print what differs; returns 0 or 1. Raises InputError (E-INPUT), ImageError (E-IMAGE) and DiskError (E-DISK), all with 2."""
    from darkroom.cli.log import write_outcome
    from darkroom.pictures.runs_page import write_runs_page
    from darkroom.pictures.two_runs import compare_runs, read_run

    try:
        old, new = read_run(arguments.old), read_run(arguments.new)
        found = compare_runs(old, new)
        if arguments.html is not None:
            write_runs_page(arguments.html, old, new, found)
    except DarkroomError as error:
        error.exit_code = 2
        raise
    text = _as_json(found) if arguments.json else _printable(_describe(found, old, new))
    print(text)
    if arguments.log is not None:
        write_outcome(arguments.log, text)
    return int(not found.is_empty)


def _describe(found: RunDifference, old: Run, new: Run) -> str:
    from darkroom.base.text import format_count

    lines = [f"same: {format_count(len(found.same), 'picture')}"]
    lines += [f"changed: {format_count(len(found.changed), 'picture')}"] if found.changed else []
    lines += [f"  {change.name}: {change.describe()}" for change in found.changed]
    for run, names in ((old, found.only_old), (new, found.only_new)):
        lines += [f"only in {run.manifest}: {format_count(len(names), 'picture')}"] if names else []
        lines += [f"  {name}" for name in names]
    pairs = [(key, *(", ".join(each) for each in both)) for key, both in found.made_by.items()]
    lines += [f"made by {key} {before} → {after}" for key, before, after in pairs]
    return "\n".join(lines)


def _as_json(found: RunDifference) -> str:
    return json.dumps({**asdict(found), "is_same": found.is_empty}, ensure_ascii=False, indent=2)


def _printable(text: str) -> str:
    """A manifest comes from anybody: nothing in it may move a terminal's cursor."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
