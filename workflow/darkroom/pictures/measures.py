"""Numbers of a study's pictures as they are kept: measures by picture, in results/thumbnails/SHEET/_measures.json.

`darkroom measure` writes the file together with study.csv, whose SHA256 stands in it. It is a cache as the thumbnails are:
`made_of` says which pictures' bytes a measure was taken of, so that only those of new or changed pictures are taken again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from darkroom.base.files import read_json_object, write_bytes
from darkroom.pictures.records import FOLDER
from darkroom.pictures.study_table import Place, StudyTable

STUDY_CSV = "study.csv"


@dataclass(frozen=True, slots=True)
class Measures:
    """The numbers of one picture.

    `difference`, `ssim` and `hash_distance` compare it with the base cell's picture and are None for the base itself and
    where it isn't there. `difference` is the mean absolute difference of 255; it and `ssim` are None for another size too.
    `hash` is the 64-bit perceptual hash in 16 hex digits. `clipped` is the share of pixels that have a channel at 0 or at
    255. `contrast` is the standard deviation of luminance, of 255. `unchanged` names the axes whose value here makes no
    visible change against their base value, all else equal.
    """

    difference: float | None
    ssim: float | None
    hash: str
    hash_distance: int | None
    clipped: float
    contrast: float
    unchanged: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeasuresFile:
    """A sheet's file: `csv` is the SHA256 of study.csv, `pictures` the digest of the pictures that both were made of.

    `made_of` has by picture's name the digest of what its measures were taken of.
    """

    csv: str = ""
    pictures: str = ""
    made_of: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Measures] = field(default_factory=dict)


def measures_path(sheet: str) -> str:
    """Where a sheet's measures lie, relative to the results folder; no checkpoint's name begins like that."""
    return f"{FOLDER}/{sheet}/_measures.json"


def load_measures(results: Path, sheet: str) -> dict[str, Measures]:
    """The measures of a sheet's pictures by `picture.name`; none if the file is missing or damaged."""
    return dict(load_file(results, sheet).measures)


def load_file(results: Path, sheet: str) -> MeasuresFile:
    """A sheet's file of measures; an empty one if it is missing, damaged or of another version."""
    data = read_json_object(results / measures_path(sheet))
    try:
        entries = data["cells"]
        made_of = {name: str(entry["made_of"]) for name, entry in entries.items()}
        return MeasuresFile(data["csv"], data["pictures"], made_of, {n: _measures(e) for n, e in entries.items()})
    except (KeyError, TypeError, AttributeError):
        return MeasuresFile()


def is_study_whole(results: Path, sheet: str, pictures: str | None = None) -> bool:
    """Whether study.csv is the one that the measures were written with, and both are of the `pictures` of this digest."""
    file = load_file(results, sheet)
    try:
        csv = hashlib.sha256((results / sheet / STUDY_CSV).read_bytes()).hexdigest()
    except OSError:
        return False
    return file.csv == csv and pictures in (None, file.pictures)


def save_file(results: Path, sheet: str, file: MeasuresFile) -> None:
    """Replace a sheet's file of measures. Raises DiskError (E-DISK)."""
    cells = {name: {"made_of": file.made_of[name], **asdict(each)} for name, each in file.measures.items()}
    data = {"csv": file.csv, "pictures": file.pictures, "cells": cells}
    write_bytes(results / measures_path(sheet), json.dumps(data, ensure_ascii=False).encode())


def _measures(entry: Mapping[str, Any]) -> Measures:
    given = {each.name: entry[each.name] for each in fields(Measures)}
    return Measures(**given | {"unchanged": tuple(given["unchanged"])})


def unchanged_labels(table: StudyTable, measures: Mapping[str, Measures]) -> dict[str, set[str]]:
    """By axis the labels that make no visible change in any of their cells; an axis without such a label isn't there.

    A cell counts if it can be compared: both its picture and that with the axis' base value have measures.
    """
    found: dict[str, set[str]] = {}
    for number, axis in enumerate(table.dimensions):
        if axis.is_axis:
            seen: dict[int, bool] = {}
            for place in table.cells:
                other = table.without(place, number)
                if other != place and _are_measured(table, measures, place, other):
                    is_unchanged = axis.name in measures[table.cells[place].name].unchanged
                    seen[place[number]] = seen.get(place[number], True) and is_unchanged
            labels = {axis.labels[at] for at, is_unchanged in seen.items() if is_unchanged}
            found |= {axis.name: labels} if labels else {}
    return found


def _are_measured(table: StudyTable, measures: Mapping[str, Measures], *places: Place) -> bool:
    pictures = [table.cells.get(place) for place in places]
    return all(picture is not None and picture.name in measures for picture in pictures)
