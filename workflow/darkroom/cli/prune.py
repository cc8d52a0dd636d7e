"""`darkroom prune`: lists the pictures that no prompt sheet asks for any more, and moves them to a trash folder."""

from __future__ import annotations

import argparse
from pathlib import Path

CONFIG = Path("config/config.yaml")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom prune`."""
    text = f"what any of these configurations asks for stays; {CONFIG} if not given"
    sub.add_argument("--config", type=Path, nargs="+", default=[CONFIG], help=text)
    sub.add_argument("--yes", action="store_true", help="move them to results/.trash instead of listing them only")


def run(arguments: argparse.Namespace) -> str:
    """List or move the pictures; returns a line for each and one about all. Raises what reading the sheets raises."""
    from darkroom.base.text import format_bytes, format_count
    from darkroom.config import load_config
    from darkroom.pictures.formats import PNG, find_format
    from darkroom.pictures.trash import SIGNED_PNG
    from darkroom.run.results import RESULTS, find_not_asked_for, prune_pictures

    found = find_not_asked_for(map(load_config, arguments.config))
    if not found:
        return "every file in results/ is asked for"
    files = [path for picture, others in found.items() for path in (picture, *others)]
    size = format_bytes(sum((RESULTS / path).stat().st_size for path in files))
    grids = sum(path.count("/") == 1 for path in found)
    encoded = sum(path.endswith(SIGNED_PNG) or find_format(path) not in (PNG, None) for path in found)
    kinds = ((len(found) - grids - encoded, "picture"), (grids, "grid"), (encoded, "encoded file"))
    counts = [format_count(*each) for each in kinds if each[0]]
    what = f"{' and '.join(counts)} that {'is' if len(found) == 1 else 'are'}n't"
    lines = [f"{RESULTS / path}" for path in found]
    if arguments.yes:
        return "\n".join([*lines, f"moved {what} asked for any more, {size}, to {prune_pictures(found)}"])
    return "\n".join([*lines, f"{what} asked for any more, {size}; --yes moves them to results/.trash"])
