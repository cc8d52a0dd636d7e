"""Ratings: what people think of a sheet's pictures, in the file SHEET.ratings.csv beside the sheet.

    picture,rating,against,note
    base/cat-1,4,,good fur                     a rating: 1 to 5, or reject
    base/cat-2,reject,,
    base/cat-1,better,base/cat-3,              a comparison: better, worse or tie

A picture is named by its place below results/SHEET/. The gallery writes the file, people and spreadsheets may edit it: commas
or semicolons, any line ends, with or without a byte order mark. Nothing of it goes into a picture.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.text import did_you_mean, format_count, read_text, shorten
from darkroom.base.validation import Mistakes
from darkroom.errors import SheetError
from darkroom.sheets.tables import find_delimiter, read_rows

RATINGS_SUFFIX = ".ratings.csv"
REJECT = "reject"
COLUMNS = ("picture", "rating", "against", "note")
RATINGS = ("1", "2", "3", "4", "5", REJECT)
OUTCOMES = ("better", "worse", "tie")
_SUFFIX = re.compile(r"\.(png|webp|jpe?g|avif)$", re.IGNORECASE)
_NAME = re.compile(r"[^/\\\s]+/[a-z0-9][a-z0-9_.-]*-[0-9]+(\.[^/\\]+)?")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Rated:
    """A picture's rating, `1` to `5`, `reject`, or empty where there is only a note; `line` is where it stands."""

    rating: str
    note: str
    line: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two pictures, and how the first is in comparison to the second: `better`, `worse` or `tie`."""

    picture: str
    outcome: str
    against: str
    note: str = ""


@dataclass(slots=True)
class Ratings:
    """The ratings of one sheet, in the file's order. Pictures are named `CHECKPOINT/ID-SEED…`, without a suffix.

    `is_whole` is False if lines were left out because of mistakes in them.
    """

    path: Path
    pictures: dict[str, Rated] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    is_whole: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data for the gallery."""
        return {
            "pictures": {name: [each.rating, each.note] for name, each in self.pictures.items()},
            "comparisons": [[each.picture, each.outcome, each.against, each.note] for each in self.comparisons],
        }

    def describe_unknown(self, known: Collection[str]) -> str | None:
        """A line about the rated pictures that are none of the `known`; None if there are none."""
        named = [*self.pictures, *(name for each in self.comparisons for name in (each.picture, each.against))]
        unknown = [name for name in dict.fromkeys(named) if name not in known]
        if not unknown:
            return None
        more = f" and {len(unknown) - _MOST_NAMED:,} more" if len(unknown) > _MOST_NAMED else ""
        what = "that no sheet asks for now; their ratings are kept"
        return f"{self.path}: {format_count(len(unknown), 'picture')} {what}: {', '.join(unknown[:_MOST_NAMED])}{more}"


def ratings_path(sheet: Path) -> Path:
    """Where the ratings of a sheet's pictures are: `prompts/demo.ratings.csv` for `prompts/demo.yaml`."""
    return sheet.with_name(sheet.stem + RATINGS_SUFFIX)


def is_ratings_file(path: Path) -> bool:
    """True for a name that ratings have, so that a pattern for sheets such as `prompts/*.csv` doesn't mean it."""
    return path.name.lower().endswith(RATINGS_SUFFIX)


def read_ratings(path: Path, sheet: str, mistakes: Mistakes) -> Ratings:
    """The ratings in a file. Lines that can't be read are left out and go to `mistakes` as SheetErrors (E-SHEET)."""
    ratings = Ratings(path)
    before = len(mistakes.errors)
    with mistakes.collect():
        text = read_text(path, what="ratings", error=SheetError)
        rows = read_rows(path, text, find_delimiter(path, text), "ratings")
        number, names = next(rows, (1, []))
        names = [name.strip() for name in names]
        _check_columns(names, f"{path}:{number}")
        for number, cells in rows:
            if any(cell.strip() for cell in cells):
                with mistakes.collect():
                    _read_row(ratings, dict(_pair(names, cells, f"{path}:{number}")), sheet, number)
    ratings.is_whole = len(mistakes.errors) == before
    return ratings


def _check_columns(names: Sequence[str], place: str) -> None:
    for name in names:
        if name not in COLUMNS:
            raise SheetError("column", name, f"is unknown in ratings ({place})", _hint(name, COLUMNS))
        if names.count(name) > 1:
            raise SheetError("column", name, f"stands there twice ({place})", "leave one of the two out")
    for name in COLUMNS[:2]:
        if name not in names:
            raise SheetError(
                "ratings", place, f"have no column '{name}'", f"write {','.join(COLUMNS)} into the first row"
            )


def _hint(value: str, known: Iterable[str]) -> str:
    return did_you_mean(value, known, f"known are {', '.join(known)}", most=1, cutoff=0.5)


def _pair(names: Sequence[str], cells: Sequence[str], place: str) -> Iterable[tuple[str, str]]:
    if any(cell.strip() for cell in cells[len(names) :]):
        hint = "put a note with the separator in it in double quotes"
        raise SheetError("row", place, f"has {len(cells)} cells; the first row names {len(names)}", hint)
    return zip(names, (cell.strip() for cell in cells), strict=False)


def _read_row(ratings: Ratings, row: Mapping[str, str], sheet: str, number: int) -> None:
    place = f"{ratings.path}:{number}"
    picture = _read_name("picture", row["picture"], sheet, place)
    rating, against, note = (row.get(key, "") for key in COLUMNS[1:])
    note = note[1:] if _ESCAPED.match(note) else note
    if against:
        other = _read_name("against", against, sheet, place)
        if rating not in OUTCOMES:
            why = f"is no outcome of a comparison ({place})"
            hint = "write better, worse or tie; a rating stands on a line without 'against'"
            raise SheetError("rating", rating, why, hint if rating in RATINGS else _hint(rating, OUTCOMES))
        if other == picture:
            raise SheetError("against", against, f"is the picture itself ({place})", "name another picture")
        ratings.comparisons.append(Comparison(picture, rating, other, note))
        return
    if rating in OUTCOMES:
        raise SheetError("rating", rating, f"needs another picture ({place})", "name it in the column 'against'")
    if rating not in RATINGS and (rating or not note):
        raise SheetError("rating", rating, f"is neither 1 to 5 nor {REJECT} ({place})", _hint(rating, RATINGS))
    if (known := ratings.pictures.get(picture)) is not None:
        raise SheetError("picture", picture, f"is rated on line {known.line} too ({place})", "leave one of the two out")
    ratings.pictures[picture] = Rated(rating, note, number)


def _read_name(column: str, value: str, sheet: str, place: str) -> str:
    """A picture's name, without the suffix that it may have."""
    name = _SUFFIX.sub("", value)
    if _NAME.fullmatch(name):
        return name
    inner = name.replace("\\", "/").removeprefix("./").removeprefix("results/").removeprefix(f"{sheet}/")
    hint = f"write {inner}" if _NAME.fullmatch(inner) else f"write CHECKPOINT/ID-SEED, as below results/{sheet}/"
    raise SheetError(column, shorten(value), f"is no picture's place ({place})", hint)
