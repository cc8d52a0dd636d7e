"""`darkroom replay`: makes pictures again from their own metadata, compares them with what is rendered, or writes a sheet of them.

Exit codes in addition to those of every verb: 3, with `--check`, where a picture differs from what is rendered again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.cli import render_job
from darkroom.cli.fetch import CONFIG
from darkroom.errors import BadNameError, DarkroomError, RequestError

if TYPE_CHECKING:
    from darkroom.base.validation import Mistakes
    from darkroom.replay.find_files import GivenFiles
    from darkroom.replay.find_models import Found, ModelsFolder
    from darkroom.replay.own import Recipe
    from darkroom.replay.rendering import Options, Replayed

DIFFERS = 3
"""The exit code of `--check` where a picture isn't bitwise equal, or an exported file isn't what it was."""
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_QUALITY = 95


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom replay`."""
    text = "a picture of Darkroom or of another tool; with --check also a file or folder of `darkroom export`"
    sub.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help=text)
    text = "the picture to write, in the format of its suffix: .png, .jpg or .webp; of several pictures a folder"
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
    from darkroom.replay.find_files import GivenFiles
    from darkroom.replay.find_models import ModelsFolder
    from darkroom.replay.rendering import Options

    recipes = read_recipes(arguments.pictures)
    outputs = _outputs(arguments)
    models = ModelsFolder(find_models_dir(arguments))
    files = GivenFiles(arguments.inputs, arguments.config)
    found = find_all(recipes, models, files, arguments.model)
    options = Options(arguments.device, arguments.dtype, arguments.threads)
    is_equal = True
    for replayed in replay(found, files, options, models):
        is_equal = _finish(replayed, arguments, outputs) and is_equal
    return 0 if is_equal else DIFFERS


def _check_options(arguments: argparse.Namespace) -> None:
    """Raise RequestError (E-REQUEST) for options that don't fit each other."""
    if not (arguments.output or arguments.sheet or arguments.check):
        raise RequestError("replay", None, "has nothing to do", "add -o FILE, --sheet FILE or --check")
    if arguments.sheet and (arguments.output or arguments.check):
        raise RequestError("--sheet", arguments.sheet, "renders nothing", "leave out -o and --check, or --sheet")
    if arguments.threads is not None and arguments.threads < 1:
        raise RequestError("--threads", arguments.threads, "is no number of threads", "give 1 or more")


def read_recipes(paths: Sequence[Path]) -> list[Recipe]:
    """What makes each picture again. Raises the first of all mistakes, with the others as its notes."""
    from darkroom.base.validation import Mistakes

    mistakes, recipes = Mistakes(), []
    for path in paths:
        with collecting(mistakes):
            recipes.append(_read(path))
    mistakes.raise_all()
    return recipes


def _read(path: Path) -> Recipe:
    from darkroom.errors import ImageError
    from darkroom.replay.own import read_file, read_own

    recipe = read_own(read_file(path), path)
    if recipe is None:
        hint = "use the file that was made first: programs that edit or send pictures leave it out"
        raise ImageError("picture", path, "does not say how it was made", hint)
    return recipe


@contextmanager
def collecting(mistakes: Mistakes) -> Iterator[None]:
    """Add the error that ends the block, if any, so that those of all pictures are told at once."""
    try:
        yield
    except DarkroomError as error:
        mistakes.add(error)


def find_models_dir(arguments: argparse.Namespace) -> Path:
    """The models folder: as given, else the configuration's, else `models`. Raises ConfigError (E-CONFIG)."""
    if arguments.models_dir is not None:
        return Path(arguments.models_dir)
    if arguments.config.is_file():
        from darkroom.config import load_config

        return Path(load_config(arguments.config).models_dir)
    return Path("models")


def find_all(
    recipes: Sequence[Recipe], models: ModelsFolder, files: GivenFiles, model: Path | None
) -> list[tuple[Recipe, Found]]:
    """The models, assets and files of all pictures. Raises the first of all mistakes, with the others as its notes."""
    from darkroom.base.validation import Mistakes

    mistakes, found = Mistakes(), []
    for recipe in recipes:
        with collecting(mistakes):
            found.append((recipe, models.find(recipe, model)))
        with collecting(mistakes):
            files.find_all(recipe)
    mistakes.raise_all()
    return found


def replay(
    found: Sequence[tuple[Recipe, Found]], files: GivenFiles, options: Options, models: ModelsFolder
) -> Iterator[Replayed]:
    """The pictures rendered again, with what a person should know about each on stderr."""
    from darkroom.serve.supervisor import ENVIRONMENT

    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    from darkroom.replay.rendering import render_again

    for replayed in render_again(found, files, options, models.folder):
        for note in replayed.notes:
            print(f"{replayed.recipe.path}: {note}", file=sys.stderr)
        render_job.print_warnings(replayed.warnings, replayed.recipe.path)
        yield replayed


def _outputs(arguments: argparse.Namespace) -> dict[Path, Path]:
    """Where each picture goes. Raises RequestError (E-REQUEST) and BadNameError (E-NAME) before anything is rendered."""
    output: Path | None = arguments.output
    if output is None:
        return {}
    pictures: list[Path] = arguments.pictures
    if len(pictures) == 1 and not output.is_dir():
        render_job.check_suffix(output, _FORMATS)
        found = {pictures[0]: output}
    else:
        if output.is_file() or (not output.exists() and output.suffix.lower() in _FORMATS):
            raise RequestError("--output", output, "is one file, and there are several pictures", "name a folder")
        found = {picture: output / f"{picture.stem}.png" for picture in pictures}
    taken: dict[Path, Path] = {}
    for picture, target in found.items():
        other = taken.setdefault(target, picture)
        if other != picture:
            why = f"would be written to {target}, as {other} would"
            raise BadNameError("picture", picture, why, "replay one of them alone")
        if any(target.exists() and target.samefile(each) for each in pictures if each.exists()):
            raise RequestError("--output", target, "is a picture that is replayed", "write elsewhere")
    return found


def _finish(replayed: Replayed, arguments: argparse.Namespace, outputs: dict[Path, Path]) -> bool:
    """Write and compare one picture; returns whether it is equal, as far as that was asked."""
    from darkroom.base.files import write_bytes
    from darkroom.pictures.lossy import convert_png

    path = replayed.recipe.path
    if path in outputs:
        target = outputs[path]
        output_format = _FORMATS[render_job.check_suffix(target, _FORMATS)]
        write_bytes(target, convert_png(replayed.png, output_format, _QUALITY))
        if not arguments.check:
            print(f"{path}: rendered again as {target}")
    if not arguments.check:
        return True
    from darkroom.replay.check import judge
    from darkroom.replay.own import read_file

    verdict = judge(read_file(path), replayed)
    print(verdict.describe(), flush=True)
    return verdict.is_equal
