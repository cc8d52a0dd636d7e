"""Whether an exported sheet holds: each file's hash, then each picture rendered again, as far as the models are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from darkroom.base.text import format_count
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.records import MANIFEST
from darkroom.replay.archive import Archive, open_archive
from darkroom.replay.check import judge
from darkroom.replay.find_files import GivenFiles
from darkroom.replay.find_models import Found
from darkroom.replay.left_out import read_requests
from darkroom.replay.own import Recipe
from darkroom.replay.recipes import Finder, read_picture
from darkroom.replay.rendering import Options, render_again
from darkroom.run.results import RESULTS

Say = Callable[[str], None]


def check_export(path: Path, finder: Finder, options: Options, say: Say, note: Say) -> bool:
    """Check a zip or a folder; lines about it go to `say`, what a person should know otherwise to `note`.

    Returns whether all files are what they were and all rendered pictures bitwise equal. Raises ArchiveError (E-ARCHIVE), and
    what rendering raises.
    """
    with open_archive(path) as archive:
        changes = dict(archive.find_changes())
        for name, how in changes.items():
            say(f"{path / name}: {how}")
        if others := archive.count_others():
            note(f"{path}: {format_count(others, 'file')} in it {'was' if others == 1 else 'were'} not exported")
        whole = len(archive.index.files) - len(changes.keys() & archive.index.files.keys())
        say(f"{path}: {whole:,} of {format_count(len(archive.index.files), 'file')} as exported")
        names = [name for name in archive.index.pictures if name not in changes]
        return _render_all(archive, names, finder, options, say, note) and not changes


def _render_all(archive: Archive, names: list[str], finder: Finder, options: Options, say: Say, note: Say) -> bool:
    files = GivenFiles(in_archive=archive.find)
    found: list[tuple[Recipe, Found]] = []
    by_path: dict[Path, str] = {}
    failed: dict[str, int] = {}
    is_equal, equal = True, 0
    manifest = f"{RESULTS}/{MANIFEST}"
    find_request = (read_requests(archive.read(manifest)) if manifest in archive.index.files else {}).get
    for name in names:
        path = archive.path / name
        by_path[path] = name
        try:
            read = read_picture(archive.read(name), path, find_request)
            recipe, place = finder.find(read)
            files.find_all(recipe)
            found.append((recipe, place))
        except DarkroomError as error:
            is_equal = is_equal and not isinstance(error, ImageError)  # another error is about what isn't there here
            failed[str(error)] = failed.get(str(error), 0) + 1
    for line, count in failed.items():
        note(f"{format_count(count, 'picture')} not rendered again: {line}")
    for recipe, place in found:
        for text in place.notes:
            note(f"{recipe.path}: {text}")
    for replayed in render_again(found, files, options, finder.models.folder):
        verdict = judge(archive.read(by_path[replayed.recipe.path]), replayed)
        for text in (*replayed.notes, *replayed.warnings):
            note(f"{replayed.recipe.path}: {text}")
        say(verdict.describe())
        is_equal, equal = is_equal and verdict.is_equal, equal + verdict.is_equal
    say(f"{archive.path}: {equal:,} of {format_count(len(names), 'picture')} rendered again and bitwise equal")
    return is_equal
