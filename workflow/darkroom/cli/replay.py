"""`darkroom replay`: makes pictures again from their own metadata, compares them with what is rendered, or writes a sheet of them.

Exit codes in addition to those of every verb: 3, with `--check`, where a picture differs from what is rendered again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.cli import render_job
from darkroom.cli.fetch import CONFIG
from darkroom.errors import BadNameError, DarkroomError, RequestError

if TYPE_CHECKING:
    from darkroom.base.validation import Mistakes
    from darkroom.replay.find_files import GivenFiles
    from darkroom.replay.find_models import Found
    from darkroom.replay.own import Recipe
    from darkroom.replay.recipes import Finder
    from darkroom.replay.rendering import Options, Replayed

DIFFERS = 3
"""The exit code of `--check` where a picture isn't bitwise equal, or an exported file isn't what it was."""


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom replay`."""
    text = "a picture of Darkroom or of another tool; with --check also a file or folder of `darkroom export`"
    sub.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help=text)
    text = "the picture to write, in the format of its suffix: .png, .jpg, .webp or .avif; of several pictures a folder"
    sub.add_argument("--output", "-o", type=Path, help=text)
    sub.add_argument("--sheet", type=Path, metavar="SHEET", help="write a sheet of the pictures and render nothing")
    text = "compare the pictures with what is rendered again; exit code 3 if one isn't bitwise equal"
    sub.add_argument("--check", action="store_true", help=text)
    text = "a picture that one was made from, or a folder with such; found by its SHA-256; may be repeated"
    sub.add_argument("--input", dest="inputs", type=Path, action="append", default=[], metavar="PATH", help=text)
    text = f"where models are, found by their hashes; by default what {CONFIG} says, else models/"
    sub.add_argument("--models-dir", type=Path, help=text)
    text = "render all pictures with the model in this folder, whatever they say"
    sub.add_argument("--model", type=Path, metavar="MODEL_DIR", help=text)
    sub.add_argument("--config", type=Path, default=CONFIG, help=f"the configuration; {CONFIG} if not given")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    text = "the number format while rendering; by default the one that each picture was made with"
    sub.add_argument("--dtype", choices=("auto", "fp16", "fp32", "bf16"), help=text)
    text = "threads on a CPU; by default as many as each picture was made with, if there are as many processors"
    sub.add_argument("--threads", type=int, metavar="N", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Render, compare or write the sheet; returns the exit code. Raises the first of all mistakes, before anything is rendered."""
    _check_options(arguments)
    from darkroom.engine.machine import waiting_of_threads
    from darkroom.replay.archive import is_archive
    from darkroom.replay.exported import check_export
    from darkroom.replay.find_files import GivenFiles
    from darkroom.replay.rendering import Options

    archives = [path for path in arguments.pictures if is_archive(path)]
    pictures = [path for path in arguments.pictures if path not in archives]
    if archives and not arguments.check:
        raise RequestError("picture", archives[0], "is a folder or a zip", "add --check, or name pictures in it")
    finder, files = _make_finder(arguments), GivenFiles(arguments.inputs, arguments.config)
    if arguments.sheet:
        return _write_sheet(pictures, finder, files, arguments.sheet)
    outputs = _find_outputs(pictures, arguments.output)
    options = Options(arguments.device, arguments.dtype, arguments.threads)
    found = _find_all(pictures, finder, files)
    os.environ.update(waiting_of_threads())
    is_equal = True
    for replayed in _render(found, files, options, finder):
        is_equal = _finish(replayed, outputs, is_checked=arguments.check) and is_equal
    for archive in archives:
        is_equal = check_export(archive, finder, options, _say, _note) and is_equal
    return 0 if is_equal else DIFFERS


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise RequestError (E-REQUEST) for options that don't fit each other."""
    if not (arguments.output or arguments.sheet or arguments.check):
        raise RequestError("replay", None, "has nothing to do", "add -o FILE, --sheet FILE or --check")
    if arguments.sheet and (arguments.output or arguments.check):
        raise RequestError("--sheet", arguments.sheet, "renders nothing", "leave out -o and --check, or --sheet")
    if arguments.threads is not None and arguments.threads < 1:
        raise RequestError("--threads", arguments.threads, "is no number of threads", "give 1 or more")


def _make_finder(arguments: argparse.Namespace) -> Finder:
    """Finds models where the options say, else where the configuration says, else in `models`. Raises ConfigError (E-CONFIG)."""
    from darkroom.config import load_config
    from darkroom.replay.find_models import ModelsFolder
    from darkroom.replay.recipes import Finder

    config = load_config(arguments.config) if arguments.config.is_file() else None
    folder = arguments.models_dir or Path("models" if config is None else config.models_dir)
    return Finder(ModelsFolder(folder), config, arguments.model)


@contextmanager
def _collecting(mistakes: Mistakes) -> Iterator[None]:
    """Add the error that ends the block, if any, so that those of all pictures are told at once."""
    try:
        yield
    except DarkroomError as error:
        mistakes.add(error)


def _find_all(pictures: Sequence[Path], finder: Finder, files: GivenFiles) -> list[tuple[Recipe, Found]]:
    """What makes each picture, its models and files. Raises the first of all mistakes, with the others as its notes."""
    from darkroom.base.validation import Mistakes
    from darkroom.replay.picture_texts import read_file
    from darkroom.replay.recipes import read_picture

    mistakes, found = Mistakes(), []
    for path in pictures:
        with _collecting(mistakes):
            recipe, place = finder.find(read_picture(read_file(path), path))
            files.find_all(recipe)
            found.append((recipe, place))
    mistakes.raise_all()
    return found


def _write_sheet(pictures: Sequence[Path], finder: Finder, files: GivenFiles, output: Path) -> int:
    from darkroom.base.text import format_count
    from darkroom.base.validation import Mistakes
    from darkroom.replay.picture_texts import read_file
    from darkroom.replay.recipes import read_picture
    from darkroom.replay.sheet_of_pictures import write_sheet

    mistakes, entries = Mistakes(), []
    for path in pictures:
        with _collecting(mistakes):
            entries.append(finder.entry(read_picture(read_file(path), path), files))
    mistakes.raise_all()
    write_sheet(entries, output)
    for entry in entries:
        for text in entry.notes[1:]:
            _note(f"{entry.name}: {text}")
    _say(f"{output}: {format_count(len(entries), 'picture')}")
    return 0


def _render(
    found: Sequence[tuple[Recipe, Found]], files: GivenFiles, options: Options, finder: Finder
) -> Iterator[Replayed]:
    """The pictures rendered again; what a person should know about each is said before and after."""
    from darkroom.replay.rendering import render_again

    for recipe, place in found:
        for text in place.notes:
            _note(f"{recipe.path}: {text}")
    for replayed in render_again(found, files, options, finder.models.folder):
        for text in replayed.notes:
            _note(f"{replayed.recipe.path}: {text}")
        render_job.print_warnings(replayed.warnings, replayed.recipe.path)
        yield replayed


def _find_outputs(pictures: Sequence[Path], output: Path | None) -> dict[Path, Path]:
    """Where each picture goes. Raises RequestError (E-REQUEST) and BadNameError (E-NAME) before anything is rendered."""
    if output is None:
        return {}
    from darkroom.cli.encode import find_output_format
    from darkroom.pictures.formats import BY_SUFFIX

    if len(pictures) == 1 and not output.is_dir():
        find_output_format(output)
        found = {pictures[0]: output}
    else:
        if output.is_file() or (not output.exists() and output.suffix.lower() in BY_SUFFIX):
            raise RequestError("--output", output, "is one file, and there are several pictures", "name a folder")
        found = {picture: output / f"{picture.stem}.png" for picture in pictures}
    taken: dict[Path, Path] = {}
    for picture, target in found.items():
        if (other := taken.setdefault(target, picture)) != picture:
            why = f"would be written to {target}, as {other} would"
            raise BadNameError("picture", picture, why, "replay one of them alone")
        if target.exists() and any(target.samefile(each) for each in pictures if each.exists()):
            raise RequestError("--output", target, "is a picture that is replayed", "write elsewhere")
    return found


def _finish(replayed: Replayed, outputs: Mapping[Path, Path], *, is_checked: bool) -> bool:
    """Write and compare one picture; returns whether it is equal, as far as that was asked."""
    from darkroom.base.files import write_bytes
    from darkroom.cli.encode import find_output_format
    from darkroom.pictures.formats import convert_png
    from darkroom.replay.check import judge
    from darkroom.replay.picture_texts import read_file

    path = replayed.recipe.path
    if path in outputs:
        target = outputs[path]
        write_bytes(target, convert_png(replayed.png, find_output_format(target)))
        if not is_checked:
            _say(f"{path}: rendered again as {target}")
    if not is_checked:
        return True
    verdict = judge(read_file(path), replayed)
    _say(verdict.describe())
    return verdict.is_equal


def _say(line: str) -> None:
    """A line of the outcome; file names and metadata come from anybody, and move no terminal's cursor."""
    print(_printable(line), flush=True)


def _note(line: str) -> None:
    print(_printable(line), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
