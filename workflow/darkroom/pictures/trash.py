"""The trash of a results folder: pictures that were replaced or are not asked for any more, moved and never deleted."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from darkroom.base.files import disk_errors
from darkroom.pictures.formats import BY_SUFFIX, PNG
from darkroom.pictures.latents import LATENT_SUFFIX, latent_path
from darkroom.pictures.measures import STUDY_CSV, measures_path
from darkroom.pictures.records import (
    CONTACT_SHEET,
    FOLDER,
    STUDY_PAGE,
    find_grids,
    index_path,
    scores_path,
    thumbnail_path,
)

TRASH = ".trash"
_STEM = r"[a-z0-9][a-z0-9_.-]*(?:-[0-9]+|\.[0-9]+-[a-z][a-z0-9]*)"
_NAME = re.compile(_STEM + re.escape(PNG.suffix))
SIGNED_PNG = ".c2pa.png"
"""How the signed copy of a PNG ends, which is no PNG of a run."""
_ENCODED = [SIGNED_PNG, *(suffix for suffix, kind in BY_SUFFIX.items() if kind is not PNG)]
_ENCODED_NAME = re.compile(f"({_STEM})({'|'.join(map(re.escape, _ENCODED))})")
_LATENT_NAME = re.compile(_STEM + re.escape(LATENT_SUFFIX))


def find_pictures(results: Path) -> list[str]:
    """The pictures in a results folder, as `SHEET/CHECKPOINT/ID-SEED.SUFFIX` relative to it, those of stages too; sorted."""
    return _find(results, [PNG.suffix], _NAME)


def find_encoded(results: Path) -> list[str]:
    """The files beside pictures that were made of them, in other formats or signed, as `find_pictures` has pictures."""
    return _find(results, _ENCODED, _ENCODED_NAME)


def find_latents(results: Path) -> list[str]:
    """The files of latents in a results folder, as `find_pictures` has pictures."""
    return _find(results, [LATENT_SUFFIX], _LATENT_NAME)


def _find(results: Path, suffixes: Iterable[str], name: re.Pattern[str]) -> list[str]:
    found = (path for suffix in suffixes for path in results.glob(f"*/*/*{suffix}"))
    paths = (path.relative_to(results).parts for path in found if name.fullmatch(path.name))
    return sorted("/".join(parts) for parts in paths if parts[0] != FOLDER and not parts[0].startswith("."))


def find_unwanted(results: Path, wanted: Collection[str]) -> dict[str, list[str]]:
    """The files that are not among the `wanted` paths, each with what belongs to it: thumbnail, scores, latents, …

    They are pictures, grids, and what was encoded of pictures that are wanted still.

    A sheet's contact sheet and index, and a study's table, page and measures, belong to its last picture if none of the sheet is
    wanted. Paths are relative to `results`.
    """
    there = sorted([*find_pictures(results), *find_latents(results)])
    unwanted = [path for path in there if path not in wanted]
    sheets = {path.partition("/")[0] for path in wanted}
    pictures = {latent_path(path): path for path in unwanted}
    found = {
        path: [place(path.rpartition(".")[0]) for place in (thumbnail_path, scores_path)]
        for path in unwanted
        if path not in pictures
    }
    for path in unwanted:
        if path in pictures:
            found[pictures[path]].append(path)
    alone: list[str] = []
    for path in (each for each in find_encoded(results) if each not in wanted):
        folder, _, name = path.rpartition("/")
        match = _ENCODED_NAME.fullmatch(name)
        assert match is not None
        found.get(f"{folder}/{match[1]}{PNG.suffix}", alone).append(path)
    for sheet in {path.partition("/")[0] for path in unwanted} - sheets:
        last = [path for path in found if path.startswith(f"{sheet}/")][-1]
        found[last] += [
            f"{sheet}/{CONTACT_SHEET}",
            f"{sheet}/{STUDY_CSV}",
            f"{sheet}/{STUDY_PAGE}",
            index_path(sheet),
            measures_path(sheet),
        ]
    found |= {path: [] for path in alone}
    found |= {path: [] for path in find_grids(results) if path not in wanted}
    return {path: [other for other in others if (results / other).exists()] for path, others in found.items()}


def find_unwanted_pages(results: Path, wanted: Collection[str]) -> dict[str, list[str]]:
    """Contact sheets, tables and pages of studies, and files of scores that are not among the `wanted` paths, as `find_unwanted` does.

    A study's measures belong to its table.
    """
    pages = [path for name in (CONTACT_SHEET, STUDY_CSV, STUDY_PAGE) for path in results.glob(f"*/{name}")]
    scores = results.glob(f"{FOLDER}/*/*/*.json")
    there = sorted(path.relative_to(results).as_posix() for path in (*pages, *scores))
    found: dict[str, list[str]] = {path: [] for path in there if path not in wanted and not path.startswith(".")}
    for path in found:
        sheet, _, name = path.partition("/")
        if name == STUDY_CSV and (results / measures_path(sheet)).exists():
            found[path].append(measures_path(sheet))
    return found


def new_trash(results: Path) -> Path:
    """The folder for what is moved now, `.trash/YEAR-MONTH-DAY_HOURMINUTESECOND`; it isn't made yet."""
    return results / TRASH / time.strftime("%Y-%m-%d_%H%M%S")


def move_to_trash(results: Path, paths: Iterable[str], trash: Path) -> None:
    """Move files, given relative to `results`, to the same places below `trash`. Raises DiskError (E-DISK)."""
    for path in paths:
        place, number = trash / path, 1
        while place.exists():
            number += 1
            place = (trash / path).with_stem(f"{Path(path).stem}.{number}")
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            (results / path).rename(place)
