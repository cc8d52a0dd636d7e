"""A study's table as the data of its page: what every cell has as columns, long texts in chunks that are read on demand.

A cell is a picture by its number, in the order of the places. A place is one number: the labels' numbers along the
dimensions, the last one running fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from darkroom.pictures.gallery import describe_picture
from darkroom.pictures.measures import Measures, unchanged_labels
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import PictureRecord
from darkroom.pictures.study_table import PROMPTS, Place, StudyTable

CHUNK = 128
"""Pictures whose texts are packed together: gzip finds what they share, and a chunk is read in a millisecond or two."""
_LARGEST_RATIO = 2.0

_NUMBERS: dict[str, Callable[[Measures], float | None]] = {
    "difference": lambda each: _round(each.difference, 2),
    "ssim": lambda each: _round(each.ssim, 4),
    "hash_distance": lambda each: each.hash_distance,
    "clipped": lambda each: _round(each.clipped, 4),
    "contrast": lambda each: _round(each.contrast, 2),
}


@dataclass(frozen=True, slots=True)
class StudyData:
    """JSON-ready data: `head` is what the page needs at once, `cells` what it needs for any cell, `texts` the chunks."""

    head: dict[str, Any]
    cells: dict[str, Any]
    texts: list[list[dict[str, Any]]]


def collect_data(
    table: StudyTable,
    records: Mapping[str, PictureRecord],
    measures: Mapping[str, Measures],
    missing: Mapping[str, str],
) -> StudyData:
    """The data of a study's page; `records`, `measures` and the reasons of `missing` pictures are by picture name.

    A picture has a record or a reason; it need not have measures.
    """
    pictures = [table.cells[place] for place in sorted(table.cells)]
    found = [measures.get(picture.name) if picture.name in records else None for picture in pictures]
    same = unchanged_labels(table, {name: each for name, each in measures.items() if name in records})
    head = {
        "sheet": table.sheet,
        "dimensions": [
            {"name": each.name, "labels": each.labels, "base": each.base, "isAxis": each.is_axis}
            for each in table.dimensions
        ],
        "bases": [[*key, label] for key, label in table.bases.items()],
        "prompts": next(n for n, each in enumerate(table.dimensions) if each.name == PROMPTS),
        "unchanged": [[each.labels.index(label) for label in same.get(each.name, ())] for each in table.dimensions],
        "rows": table.rows,
        "columns": table.columns,
        "cells": len(pictures),
        "chunk": CHUNK,
        "ratio": _ratio([records[each.name] for each in pictures if each.name in records]),
    }
    cells = {
        "at": _steps([_number(table, place) for place in sorted(table.cells)]),
        "file": [picture.path.removeprefix(f"{table.sheet}/") for picture in pictures],
        "numbers": _columns(found),
        "unchanged": [0 if each is None else _mask(table, each.unchanged) for each in found],
        "missing": {n: missing[each.name] for n, each in enumerate(pictures) if each.name not in records},
        "warnings": {n: text for n, each in enumerate(pictures) if (text := _warning(records.get(each.name)))},
    }
    by_path = {picture.path: picture for picture in table.pictures}
    texts = [_describe(picture, records.get(picture.name), by_path) for picture in pictures]
    return StudyData(head, cells, [texts[n : n + CHUNK] for n in range(0, len(texts), CHUNK)])


def _describe(
    picture: GalleryPicture, record: PictureRecord | None, by_path: Mapping[str, GalleryPicture]
) -> dict[str, Any]:
    """What is shown of one picture in full; of one that isn't there what was asked for."""
    if record is not None:
        shown = describe_picture(picture, record, by_path)
        earlier = [(name, f"../{url}") for name, url in shown["earlier"]]  # the page lies in the sheet's folder
        kept = {key: shown[key] for key in ("prompt", "negative", "settings", "parameters", "width", "height")}
        return kept | ({"earlier": earlier} if earlier else {})
    request = picture.request
    return {"prompt": request.get("prompt", ""), "negative": request.get("negative_prompt", ""), "settings": []}


def _number(table: StudyTable, place: Place) -> int:
    number = 0
    for each, at in zip(table.dimensions, place, strict=True):
        number = number * len(each.labels) + at
    return number


def _steps(numbers: Sequence[int]) -> list[int]:
    """The first number, then differences, which are small and alike."""
    return [*numbers[:1], *(after - before for before, after in pairwise(numbers))]


def _columns(found: Sequence[Measures | None]) -> dict[str, list[float | None]]:
    """A column for each number that some cell has; external scores are called `score NAME`."""
    columns = {name: [None if each is None else read(each) for each in found] for name, read in _NUMBERS.items()}
    for score in dict.fromkeys(score for each in found if each is not None for score in each.scores):
        columns[f"score {score}"] = [None if each is None else _digits(each.scores.get(score)) for each in found]
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def _mask(table: StudyTable, names: Sequence[str]) -> int:
    """The dimensions of these names as bits of a number."""
    return sum(1 << n for n, each in enumerate(table.dimensions) if each.name in names)


def _warning(record: PictureRecord | None) -> str:
    return "" if record is None else "; ".join(record.warnings)


def _ratio(records: Sequence[PictureRecord]) -> float:
    """Height to width of the place for a picture: of the tallest one, within bounds."""
    tallest = max((each.thumbnail_height / max(1, each.thumbnail_width) for each in records), default=1.0)
    return round(min(max(tallest, 1 / _LARGEST_RATIO), _LARGEST_RATIO), 3)


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
