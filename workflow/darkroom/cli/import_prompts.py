"""`darkroom import-prompts`: prompts and settings that other programs keep, as a YAML sheet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.cli.fetch import CONFIG
from darkroom.errors import SheetError

if TYPE_CHECKING:
    from darkroom.replay.model_matching import KnownModel


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom import-prompts`."""
    text = "pictures of A1111, Forge, ComfyUI, SwarmUI, InvokeAI, NovelAI, Fooocus or Civitai, folders of them, A1111's prompts from file, styles.csv, tables, JSON lines"
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help=text)
    sub.add_argument("--output", "-o", type=Path, help="the sheet to write, .yaml; it is printed if not given")
    text = "the models folder in which pictures' models are looked for; that of the configuration if not given"
    sub.add_argument("--models", type=Path, metavar="DIR", help=text)
    text = f"the configuration that names the models; {CONFIG} if not given, and none without that file"
    sub.add_argument("--config", type=Path, help=text)


def run(arguments: argparse.Namespace) -> str:
    """The sheet, or a line about it where it was written to a file.

    Raises SheetError (E-SHEET), ImageError (E-IMAGE) or DiskError (E-DISK); nothing is written then.
    """
    from darkroom.base.files import write_bytes
    from darkroom.base.text import format_count
    from darkroom.replay.find_files import GivenFiles
    from darkroom.replay.imported import import_files
    from darkroom.replay.sheet_of_pictures import sheet_text

    output: Path | None = arguments.output
    if output is not None:
        _check_output(output)
    found = import_files(arguments.files, _known(arguments), GivenFiles((), arguments.config or CONFIG))
    about = [f"Imported from {', '.join(path.name for path in arguments.files)}"]
    text = sheet_text(found.entries, about=about, left_out=found.left_out, styles_file=found.styles_file)
    left_out = text.count("\n  # left out: ")
    said = format_count(len(found.entries) + len(found.left_out) - left_out, "prompt")
    if left_out:
        said += f", {left_out:,} left out: the reasons stand in the sheet's last lines"
    if output is None:
        print(said, file=sys.stderr)
        return text.rstrip("\n")
    write_bytes(output, text.encode())
    return f"{output}: {said}"


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise SheetError("output", output, "is no YAML sheet's name", "end it in .yaml")
    if output.exists():
        raise SheetError("output", output, "exists already", "name another file, or remove this one")


def _known(arguments: argparse.Namespace) -> list[KnownModel] | None:
    """The models of the configuration and the models folder; None if there is neither. Raises ConfigError (E-CONFIG)."""
    from darkroom.config import load_config
    from darkroom.replay.model_matching import known_models
    from darkroom.run.asset_folders import expand_folders

    path: Path | None = arguments.config or (CONFIG if CONFIG.exists() else None)
    if path is not None:
        config = expand_folders(load_config(path))
        return known_models(arguments.models or config.models_dir, config)
    folder = arguments.models or Path("models")
    return known_models(folder) if folder.is_dir() else None
