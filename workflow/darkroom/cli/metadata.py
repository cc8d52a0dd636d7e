"""`darkroom metadata`: writes the metadata of PNGs again as the configuration has it; nothing is rendered."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from darkroom.cli.fetch import CONFIG
from darkroom.errors import ImageError


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom metadata`."""
    sub.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="PNGs of Darkroom, or a results folder")
    text = f"the configuration whose metadata section says what stays in them; {CONFIG} if not given"
    sub.add_argument("--config", type=Path, default=CONFIG, help=text)


def run(arguments: argparse.Namespace) -> str:
    """Write the files that change, each whole or not at all; returns a line about them. Raises ImageError (E-IMAGE)."""
    from darkroom.base.files import write_bytes
    from darkroom.base.text import format_count
    from darkroom.config import load_config
    from darkroom.pictures.embedded import limit_png
    from darkroom.pictures.formats import PNG
    from darkroom.pictures.png import read_picture

    metadata = load_config(arguments.config).metadata
    paths, changed = list(_find(arguments.pictures)), 0
    for path in paths:
        data = read_picture(path)
        PNG.check(data, path)
        if "darkroom" not in PNG.read_text(data, path):
            hint = "leave it out: only what Darkroom has written is changed"
            raise ImageError("picture", path, "has no metadata of Darkroom", hint)
        if (made := limit_png(data, metadata, path)) != data:
            write_bytes(path, made)
            changed += 1
    words = f"prompts {'stay' if metadata.prompt else 'left out'}, {'with' if metadata.marking else 'without'} the mark"
    return f"{format_count(len(paths), 'picture')}, {changed:,} written again: {words}"


def _find(given: Sequence[Path]) -> Iterator[Path]:
    from darkroom.pictures.trash import find_pictures

    for path in given:
        if not path.is_dir():
            yield path
            continue
        found = [path / each for each in find_pictures(path)]
        if not found:
            raise ImageError("folder", path, "holds no pictures of a run", "name a results folder, or the files")
        yield from found
