"""Checks a results folder by its manifest: every byte of every picture, and that the pages are there and whole.

What is found damaged gets the time of the check, because a run reads only files whose time is not that of its last check:
so the next one finds it too, and makes it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.errors import ImageError
from darkroom.pictures.formats import PNG, format_of
from darkroom.pictures.gallery_chunks import find_damaged_chunks
from darkroom.pictures.latents import is_damaged
from darkroom.pictures.measures import STUDY_CSV, is_study_whole, load_measures, measures_path
from darkroom.pictures.picture import is_cell, read_manifest
from darkroom.pictures.png import read_picture
from darkroom.pictures.records import (
    CONTACT_SHEET,
    FIRST_GRID,
    INDEX,
    MANIFEST,
    STUDY_PAGE,
    UNFINISHED,
    find_grids,
    load_index,
    load_scores,
    read_seal,
    read_study_seal,
    scores_path,
    thumbnail_path,
)
from darkroom.pictures.trash import find_encoded, find_latents, find_pictures

MISSING, DAMAGED, CHANGED = "missing", "damaged", "changed since"
STRIPPED, UNWANTED = "without metadata", "not asked for any more"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a file: `kind` is one of the constants above, `why` says more, or nothing."""

    path: Path
    kind: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}" + (f" ({self.why})" if self.why else "")


def check_results(results: Path, below: str = "") -> tuple[int, list[Finding]]:
    """The number of whole pictures in a results folder, and what is wrong, in the manifest's order.

    `below` limits both to the pictures whose paths begin so; pages are checked without it.
    """
    entries = _read_entries(results)
    findings = [] if entries is not None else [Finding(results / MANIFEST, _state(results / MANIFEST))]
    there = [path for path in find_pictures(results) if path.startswith(below)]
    listed = [entry for entry in entries or ({"file": path} for path in there) if entry["file"].startswith(below)]
    findings += [finding for entry in listed if (finding := _check_scores(results, entry))]
    found = [finding for entry in listed if (finding := _check_picture(results / entry["file"], entry.get("sha256")))]
    findings += found
    if entries is not None:
        files = {entry["file"] for entry in listed}
        findings += [Finding(results / path, UNWANTED) for path in there if path not in files]
    latents = (results / path for path in find_latents(results) if path.startswith(below))
    findings += [Finding(path, DAMAGED) for path in latents if is_damaged(path)]
    encoded = (results / path for path in find_encoded(results) if path.startswith(below))
    findings += [finding for path in encoded if (finding := _check_picture(path, None))]
    if not below:
        findings += _check_pages(results, listed)
    for finding in findings:
        if finding.kind not in (MISSING, UNWANTED):
            with suppress(OSError):
                os.utime(finding.path)
    return len(listed) - len(found), findings


def _read_entries(results: Path) -> list[dict[str, Any]] | None:
    """The manifest's entries; None if it is missing or damaged."""
    try:
        entries = read_manifest(results)
        return entries if all(isinstance(entry["file"], str) for entry in entries) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_picture(path: Path, sha256: str | None) -> Finding | None:
    if not path.exists():
        return Finding(path, MISSING)
    try:
        data, kind = read_picture(path), format_of(path)
        if sha256 is not None and hashlib.sha256(data).hexdigest() == sha256:
            return None
        kind.decode(data, path)
        if not {"parameters", "darkroom"} <= kind.read_text(data, path).keys():
            return Finding(path, STRIPPED)
    except ImageError as error:
        return Finding(path, DAMAGED, error.why)
    return None if sha256 is None else Finding(path, CHANGED)


def _check_scores(results: Path, entry: dict[str, Any]) -> Finding | None:
    name, path = entry["file"].rpartition(".")[0], results / entry["file"]
    if entry.get("scores") is None or not path.exists():
        return None
    is_right = load_scores(results, name, entry["sha256"]) == entry["scores"]
    return None if is_right else Finding(results / scores_path(name), _state(results / scores_path(name)))


def _check_pages(results: Path, entries: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    names = dict.fromkeys(entry["file"].rpartition(".")[0] for entry in entries)
    for sheet in dict.fromkeys(name.partition("/")[0] for name in names):
        is_study = any(entry["file"].startswith(f"{sheet}/") and is_cell(entry.get("study")) for entry in entries)
        pages = [
            CONTACT_SHEET,
            *([FIRST_GRID] if is_study else []),
            *(Path(path).name for path in find_grids(results, sheet)),
        ]
        for page in (results / sheet / name for name in dict.fromkeys(pages)):
            try:
                PNG.check(read_picture(page), page)
            except ImageError as error:
                yield Finding(page, _state(page), error.why if page.exists() else "")
        if is_study:
            yield from _check_study(results, sheet)
        for name, record in load_index(results, sheet).items():
            thumbnail = results / thumbnail_path(name)
            if name in names and not record.fits_thumbnail(thumbnail):
                yield Finding(thumbnail, _state(thumbnail))
    page, manifest = results / INDEX, results / MANIFEST
    try:
        data = page.read_bytes()
        seal = read_seal(data)
        yield from (Finding(path, _state(path)) for path in find_damaged_chunks(results, data))
        if seal is not None and not seal[0]:
            yield Finding(page, DAMAGED)
        elif (
            seal is not None
            and manifest.exists()
            and seal[1] not in (UNFINISHED, hashlib.sha256(manifest.read_bytes()).hexdigest())
        ):
            yield Finding(manifest, DAMAGED, f"it is not the one of {page}")
    except OSError:
        yield Finding(page, _state(page))


def _check_study(results: Path, sheet: str) -> Iterator[Finding]:
    table, measures = results / sheet / STUDY_CSV, results / measures_path(sheet)
    if not table.exists():
        yield Finding(table, MISSING)
    elif not load_measures(results, sheet):
        yield Finding(measures, _state(measures))
    elif not is_study_whole(results, sheet):
        yield Finding(table, DAMAGED)
    page = results / sheet / STUDY_PAGE
    try:
        seal = read_study_seal(page.read_bytes())
    except OSError:
        seal = None
    if seal is None or not seal[0]:
        yield Finding(page, _state(page))


def _state(path: Path) -> str:
    return DAMAGED if path.exists() else MISSING
