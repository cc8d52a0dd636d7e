"""results/SHEET/study.csv: a row a picture of a study, in the sheet's order, for pandas, R and spreadsheets.

UTF-8 without a byte order mark, RFC 4180, decimal points, nothing in a cell for a value that isn't there. The columns are
sheet, prompt (its id), checkpoint, seed, draw, the label of each axis, file and base (below results/), sha256, the numbers of
`Measures`, the configured scores, and error for a picture that is missing. An axis named as another column has the prefix
`axis_`, a score `score_`.

A spreadsheet takes a text that begins with one of `= + - @` or a tab for a formula. Such a text gets an apostrophe in
front, unless it is a number; so does one that already has apostrophes there, which makes it reversible.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from darkroom.base.files import write_bytes
from darkroom.pictures.measures import Measures
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import PictureRecord
from darkroom.pictures.study_table import StudyTable

_BEFORE = ("sheet", "prompt", "checkpoint", "seed", "draw")
_AFTER = ("file", "base", "sha256", *(each.name for each in fields(Measures) if each.name != "scores"))
_ERROR = "error"
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def write_study_csv(
    path: Path,
    table: StudyTable,
    pictures: Sequence[GalleryPicture],
    records: Mapping[str, PictureRecord],
    measures: Mapping[str, Measures],
    missing: Mapping[str, str],
    scores: Sequence[str] = (),
) -> str:
    """Write the file, and return its SHA256. Raises DiskError (E-DISK).

    `missing` has the reasons by picture's name, `scores` the names of the configured scores.
    """
    places = {picture.name: place for place, picture in table.cells.items()}
    axes = [each.name for each in table.dimensions if each.is_axis]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    own = name_columns([("axis", each) for each in axes] + [("score", each) for each in scores])
    writer.writerow([*_BEFORE, *own[: len(axes)], *_AFTER, *own[len(axes) :], _ERROR])
    for picture in pictures:
        study, place = picture.study or {}, places[picture.name]
        labels = table.labels_of(place)
        base = table.cells.get(table.base_of(place))
        row: list[object] = [picture.sheet, study.get("prompt", picture.id), picture.checkpoint, picture.seed]
        row += [study.get("draw", 1), *(labels[axis] for axis in axes), picture.path]
        row += [base.path if base is not None and base is not picture else None]
        row += [records[picture.name].sha256 if picture.name in records else None]
        each = measures.get(picture.name)
        row += [*_numbers(each), *(each.scores.get(name) if each else None for name in scores)]
        row += [missing.get(picture.name)]
        writer.writerow([_cell(value) for value in row])
    data = text.getvalue().encode()
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def name_columns(named: Sequence[tuple[str, str]]) -> list[str]:
    """The columns of axes and scores, given as pairs of `axis` or `score` and a name.

    They are the names, with `axis_` or `score_` in front of those that another column has.
    """
    taken = {*_BEFORE, *_AFTER, _ERROR}
    names = []
    for kind, name in named:
        while name in taken:
            name = f"{kind}_{name}"
        taken.add(name)
        names.append(name)
    return names


def _numbers(measures: Measures | None) -> list[object]:
    if measures is None:
        return [None] * (len(fields(Measures)) - 1)
    values = {each.name: getattr(measures, each.name) for each in fields(Measures) if each.name != "scores"}
    return list((values | {"unchanged": ";".join(measures.unchanged)}).values())


def _cell(value: object) -> str:
    """A value as text; a float is written in full, without an exponent."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
