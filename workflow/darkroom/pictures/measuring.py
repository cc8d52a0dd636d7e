"""Takes the measures of a study's pictures: each is compared with the base cell, and axis by axis with its base value.

Only cells whose own picture, or one that they are compared with, is new or changed are measured; for these the pictures are
decoded, some at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from darkroom import revisions
from darkroom.base.text import did_you_mean, format_count
from darkroom.errors import InputError
from darkroom.pictures import comparison
from darkroom.pictures.comparison import Floats, Pixels
from darkroom.pictures.formats import format_of
from darkroom.pictures.measures import Measures, MeasuresFile, load_file, save_file
from darkroom.pictures.missing import find_missing
from darkroom.pictures.picture import GalleryPicture, find_scores
from darkroom.pictures.png import read_picture
from darkroom.pictures.records import PictureRecord, digest_pictures
from darkroom.pictures.study_csv import write_study_csv
from darkroom.pictures.study_table import Place, StudyTable, make_table
from darkroom.pictures.thumbnails import in_threads, update_thumbnails

RESULTS = Path("results")
_DECODED = 12  # pictures kept beside those that threads work on; of 1024 × 1024 each takes 4 MB


def measure_study(plan_file: Path, sheet: str, output: Path) -> str:
    """Measure a study's pictures and write its study.csv; returns a line that says so.

    Pictures that are missing get a row that says why. Raises ImageError (E-IMAGE) for a damaged picture, and InputError
    (E-INPUT) for a sheet that is no study.
    """
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    if sheet not in plan["studies"]:
        hint = did_you_mean(sheet, plan["studies"], "axes: in the sheet makes a study of it")
        raise InputError("sheet", sheet, "is no study of the planned run", hint)
    pictures = [GalleryPicture(**fields) for fields in plan["sheets"][sheet]]
    table = make_table(sheet, pictures, plan["studies"][sheet])
    missing = find_missing(RESULTS, pictures)
    there = [picture for picture in pictures if picture.name not in missing]
    found = update_thumbnails(RESULTS, there, plan["config"]["gallery"]["thumbnail_px"])
    records = {picture.name: record for picture, record in zip(there, found, strict=True)}
    file, count = update_measures(RESULTS, table, records)
    names = list(plan["config"].get("scores", {}))
    scores = find_scores(RESULTS, there, found) if names else {}
    measures = {name: replace(each, scores=scores.get(name, {})) for name, each in file.measures.items()}
    shown = [picture for picture in pictures if picture.is_result]
    csv_sha256 = write_study_csv(output, table, shown, records, measures, missing, names)
    save_file(RESULTS, sheet, replace(file, csv=csv_sha256, measures=measures))
    parts = [format_count(len(pictures), "picture"), f"{count:,} of them measured"]
    parts += [f"{len(missing):,} missing"] if missing else []
    return f"{output}: {', '.join(parts)}"


def update_measures(results: Path, table: StudyTable, records: Mapping[str, PictureRecord]) -> tuple[MeasuresFile, int]:
    """A sheet's file of measures without `csv`, and how many pictures were measured for it; the others' were known.

    `records` are those of the pictures that are there, in the sheet's order. If a picture can't be read, what was measured
    before it is kept.
    """
    known = load_file(results, table.sheet)
    cells = [cell for cell in _cells(table, records) if cell.picture.name in records]
    made_of = {cell.picture.name: cell.made_of for cell in cells}
    new = [cell for cell in cells if known.made_of.get(cell.picture.name) != cell.made_of]
    measures = {name: each for name, each in known.measures.items() if known.made_of[name] == made_of.get(name)}
    pictures = digest_pictures(record.sha256 for record in records.values())
    try:
        for cell, each in zip(new, in_threads(_Ruler(results).measure, new), strict=True):
            measures[cell.picture.name] = each
    except BaseException:
        save_file(results, table.sheet, _file("", made_of, measures))
        raise
    return _file(pictures, made_of, measures), len(new)


def _file(pictures: str, made_of: Mapping[str, str], measures: Mapping[str, Measures]) -> MeasuresFile:
    return MeasuresFile("", pictures, {name: made_of[name] for name in measures}, measures)


@dataclass(frozen=True, slots=True)
class _Cell:
    """A picture, that of its base cell, and by axis those with the axis' base value, as far as they are there."""

    picture: GalleryPicture
    base: GalleryPicture | None
    others: Mapping[str, GalleryPicture]
    made_of: str


def _cells(table: StudyTable, records: Mapping[str, PictureRecord]) -> list[_Cell]:
    """The cells in an order in which those with the same base follow each other, the base first."""

    def find(place: Place, other: Place) -> GalleryPicture | None:
        picture = table.cells.get(other)
        return None if other == place or picture is None or picture.name not in records else picture

    cells = []
    for place in sorted(table.cells, key=lambda place: (table.base_of(place), place != table.base_of(place), place)):
        picture = table.cells[place]
        if picture.name in records:
            base = find(place, table.base_of(place))
            axes = [(n, each.name) for n, each in enumerate(table.dimensions) if each.is_axis]
            others = {name: other for n, name in axes if (other := find(place, table.without(place, n)))}
            used = {"": picture, "base": base, **others}
            parts = [f"{name}={records[each.name].sha256}" for name, each in used.items() if each is not None]
            cells.append(_Cell(picture, base, others, digest_pictures([str(revisions.MEASURE), *parts])))
    return cells


class _Decoded:
    """A decoded picture, and what is computed of it when it is needed."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    @cached_property
    def luminance(self) -> Pixels:
        return comparison.to_luminance(self.pixels)

    @cached_property
    def hash(self) -> str:
        return comparison.perceptual_hash(self.luminance)

    @cached_property
    def strips(self) -> Floats:
        return comparison.strip_means(self.pixels)


class _Ruler:
    """Measures cells, in several threads at once. Strips of all pictures are kept, the pictures only for a while."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._strips: dict[str, tuple[tuple[int, ...], Floats]] = {}
        self._decode = lru_cache(maxsize=_DECODED)(self._read)

    def measure(self, cell: _Cell) -> Measures:
        """The measures of a cell. Raises ImageError (E-IMAGE)."""
        own = self._decode(cell.picture.path)
        distance, mean, similarity = None, None, None
        if cell.base is not None:
            base = self._decode(cell.base.path)
            distance = comparison.hash_distance(own.hash, base.hash)
            if own.pixels.shape == base.pixels.shape:
                mean = round(float(comparison.difference(own.pixels, base.pixels).mean()), 4)
                similarity = comparison.ssim(own.luminance, base.luminance)
                similarity = None if similarity is None else round(similarity, 6)
        return Measures(
            difference=mean,
            ssim=similarity,
            hash=own.hash,
            hash_distance=distance,
            clipped=round(comparison.clipped_share(own.pixels), 6),
            contrast=round(float(np.std(own.luminance)), 4),
            unchanged=tuple(axis for axis, other in cell.others.items() if not self._differs(own, other.path)),
        )

    def _differs(self, own: _Decoded, path: str) -> bool:
        """Whether a picture visibly differs from the one at `path`, which is decoded only if its strips are alike."""
        if path in self._strips:
            shape, strips = self._strips[path]
            if shape != own.pixels.shape or comparison.are_strips_visible(own.strips, strips):
                return True
        other = self._decode(path)
        if other.pixels.shape != own.pixels.shape:
            return True
        return comparison.is_visible(comparison.difference(own.pixels, other.pixels))

    def _read(self, path: str) -> _Decoded:
        file = self._results / path
        decoded = _Decoded(np.asarray(format_of(file).decode(read_picture(file), file).convert("RGB")))
        self._strips[path] = decoded.pixels.shape, decoded.strips
        return decoded
