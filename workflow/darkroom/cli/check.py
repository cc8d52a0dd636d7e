"""`darkroom check`: every mistake in the configuration and its prompt sheets, with its line, before anything is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.base.text import format_count
from darkroom.cli.fetch import CONFIG

if TYPE_CHECKING:
    from darkroom.base.validation import Mistakes
    from darkroom.config import Config


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom check`."""
    sub.add_argument("--config", type=Path, default=CONFIG, help=f"the configuration; {CONFIG} if not given")


def run(arguments: argparse.Namespace) -> str:
    """One line about what the configuration asks for.

    Raises the first InputError with all others as its notes. Reads no model: what only its file can tell is found when
    a run is planned.
    """
    from darkroom.base.validation import Mistakes
    from darkroom.config import check_sheets, read_config, read_valid
    from darkroom.run.asset_folders import expand_folders
    from darkroom.run.encoded import EncodedFiles
    from darkroom.sheets.read import read_sheets

    mistakes = Mistakes()
    config = read_valid(read_config(arguments.config).data, arguments.config, mistakes)
    sheets = {}
    if config is not None:
        with mistakes.collect():
            check_sheets(config)
        with mistakes.collect():
            config = expand_folders(config)
        _check_sources(config, mistakes)
        sheets = read_sheets(config, mistakes)
        EncodedFiles(config, sheets).check(mistakes)
    mistakes.raise_all()
    assert config is not None
    pictures = sum(map(len, sheets.values()))
    found = {"checkpoint": len(config.checkpoints), "sheet": len(sheets), "picture": pictures}
    return f"{arguments.config}: {', '.join(format_count(*each[::-1]) for each in found.items())}, no mistakes"


def _check_sources(config: Config, mistakes: Mistakes) -> None:
    """Sources whose text means nothing, and paths where nothing is; nothing is hashed and nobody is asked."""
    from darkroom.base.strict_yaml import locate
    from darkroom.config import SECTIONS
    from darkroom.errors import InputError, SourceError
    from darkroom.run.sources import receipt_path
    from darkroom.sheets.settings import placed
    from darkroom.sources.references import parse_reference

    for section in SECTIONS:
        for name, given in getattr(config, section).items():
            if not given.source:  # a folder that isn't there
                continue
            try:
                reference = parse_reference(given.source)
                is_gone = reference.is_local and not Path(given.source).expanduser().exists()
                if is_gone and not receipt_path(config.models_dir, section, name).is_file():
                    hint = "fix its path in the configuration"
                    raise SourceError("source", given.source, "is no file and no folder", hint)
            except InputError as error:
                mistakes.add(placed(error, locate(config.path, [section, name, "source"])))
