"""`darkroom plan`: how many pictures each prompt becomes, and how many of them aren't there yet."""

from __future__ import annotations

import argparse
from pathlib import Path

from darkroom.cli.fetch import CONFIG


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom plan`."""
    sub.add_argument("--config", type=Path, default=CONFIG, help=f"the configuration; {CONFIG} if not given")


def run(arguments: argparse.Namespace) -> str:
    """A line a sheet, and for a study a line a prompt. Raises what `load_pictures` raises; nothing is fetched or made."""
    from darkroom.config import check_sheets, load_config
    from darkroom.run.asset_folders import expand_folders
    from darkroom.run.results import RESULTS
    from darkroom.sheets.read import load_pictures

    config = load_config(arguments.config)
    check_sheets(config)
    lines = []
    for name, sheet in load_pictures(expand_folders(config)).items():
        missing = sum(not (RESULTS / picture.path).exists() for picture in sheet)
        lines.append(f"{name}: {sheet.describe()}, {missing:,} not there yet")
        lines += [f"  {line}" for line in (*(count.describe() for count in sheet.counts), *sheet.notes())]
    return "\n".join(lines)
