"""`darkroom prune`: lists the pictures and pages that no prompt sheet asks for any more, and moves them to a trash folder."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

CONFIG = Path("config/config.yaml")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom prune`."""
    text = f"what any of these configurations asks for stays; {CONFIG} if not given"
    sub.add_argument("--config", type=Path, nargs="+", default=[CONFIG], help=text)
    sub.add_argument("--yes", action="store_true", help="move them to results/.trash instead of listing them only")


def run(arguments: argparse.Namespace) -> str:
    """List or move them; returns a line for each and one about all. Raises what reading the sheets raises."""
    from darkroom.base.text import format_bytes, format_count
    from darkroom.config import load_config
    from darkroom.run.results import RESULTS, find_not_asked_for, prune_pictures

    found = find_not_asked_for(map(load_config, arguments.config))
    if not found:
        return "every picture, grid and page in results/ is asked for"
    files = [path for picture, others in found.items() for path in (picture, *others)]
    size = format_bytes(sum((RESULTS / path).stat().st_size for path in files))
    kinds = Counter(map(_kind, found))
    what = f"{' and '.join(format_count(number, kind) for kind, number in kinds.items())} that {'is' if len(found) == 1 else 'are'}n't"
    lines = [f"{RESULTS / path}" for path in found]
    if arguments.yes:
        return "\n".join([*lines, f"moved {what} asked for any more, {size}, to {prune_pictures(found)}"])
    return "\n".join([*lines, f"{what} asked for any more, {size}; --yes moves them to results/.trash"])


def _kind(path: str) -> str:
    """What a path in results/ is, in a word or two."""
    from darkroom.pictures.formats import PNG, find_format
    from darkroom.pictures.trash import SIGNED_PNG

    if path.endswith(SIGNED_PNG) or find_format(path) not in (PNG, None):
        return "encoded file"
    if path.endswith(".json"):
        return "score"
    if path.count("/") > 1:
        return "picture"
    return "grid" if Path(path).name.startswith("grid") else "page"
