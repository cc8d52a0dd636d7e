"""results/SHEET/study.html: a study's pictures as a table, with rows, columns and pages to choose.

One file that opens from disk, like the gallery. It holds no picture but the addresses of thumbnails and pictures; only the
cells in sight are in the document, so that 10,000 of them scroll as well as 100.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from darkroom.base.files import write_bytes
from darkroom.base.text import did_you_mean
from darkroom.errors import InputError
from darkroom.pictures.made_by import find_mixed_sheets
from darkroom.pictures.measures import STUDY_CSV, Measures, load_measures
from darkroom.pictures.missing import find_missing
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.records import CONTACT_SHEET, FIRST_GRID, INDEX, PictureRecord, seal_study_page
from darkroom.pictures.study_data import collect_data
from darkroom.pictures.study_table import StudyTable, make_table
from darkroom.pictures.thumbnails import update_thumbnails
from darkroom.pictures.web_page import pack_json, render_template, script_json

RESULTS = Path("results")
_STYLES = ("tokens.css", "parts.css", "viewer.css", "study.css")
_SCRIPTS = (
    "dom.js",
    "unpack.js",
    "viewer.js",
    "study_model.js",
    "study_state.js",
    "study_grid.js",
    "study_cell.js",
    "study_controls.js",
    "study_blink.js",
    "study.js",
)


def make_study_page(
    plan_file: Path, sheet: str, output: Path, missing: Mapping[str, str] | None = None, results: Path = RESULTS
) -> str:
    """Write the page of one study from what is there; returns a line that says so.

    `missing` says of pictures by name why they aren't there, if the caller knows; their cells say it. Raises ImageError (E-IMAGE) for a damaged one, and
    InputError (E-INPUT) for a sheet that is no study.
    """
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    if sheet not in plan["studies"]:
        hint = did_you_mean(sheet, plan["studies"], "axes: in the sheet makes a study of it")
        raise InputError("sheet", sheet, "is no study of the planned run", hint)
    pictures = [GalleryPicture(**each) for each in plan["sheets"][sheet]]
    missing = find_missing(results, pictures) if missing is None else missing
    build_study_page(
        results,
        make_table(sheet, pictures, plan["studies"][sheet]),
        load_measures(results, sheet),
        missing,
        output,
        thumbnail_px=plan["config"]["gallery"]["thumbnail_px"],
    )
    return f"{output}: {len(pictures) - len(missing)} pictures" + (f", {len(missing)} missing" if missing else "")


def build_study_page(
    results: Path,
    table: StudyTable,
    measures: Mapping[str, Measures],
    missing: Mapping[str, str],
    output: Path,
    *,
    thumbnail_px: int,
) -> None:
    """Write a table's page to `output`, results/SHEET/study.html; thumbnails that are not there are made.

    `measures` are by picture name, `missing` the reasons of pictures that are not there. The same input gives the same
    bytes. Raises ImageError (E-IMAGE); the earlier page then stays as it is.
    """
    pictures = [picture for picture in table.pictures if picture.name not in missing]
    records = update_thumbnails(results, pictures, thumbnail_px)
    by_name = {picture.name: record for picture, record in zip(pictures, records, strict=True)}
    page = render_page(table, by_name, measures, missing, thumbnail_px=thumbnail_px).encode()
    write_bytes(output, seal_study_page(page, (record.sha256 for record in records)))


def render_page(
    table: StudyTable,
    records: Mapping[str, PictureRecord],
    measures: Mapping[str, Measures],
    missing: Mapping[str, str],
    *,
    thumbnail_px: int,
) -> str:
    """The page's HTML; `records`, `measures` and `missing` are by picture name."""
    data = collect_data(table, records, measures, missing)
    return render_template(
        "study.html.j2",
        _STYLES,
        _SCRIPTS,
        sheet=table.sheet,
        compares=True,
        index=f"../{INDEX}",
        links=[("Grid", FIRST_GRID), ("Contact sheet", CONTACT_SHEET), ("study.csv", STUDY_CSV)],
        mixed=find_mixed_sheets((picture, records.get(picture.name)) for picture in table.pictures).get(table.sheet),
        head=script_json(data.head | {"thumbnail": thumbnail_px}),
        cells=pack_json(data.cells),
        texts=[pack_json(chunk) for chunk in data.texts],
    )
