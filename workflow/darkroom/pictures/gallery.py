"""The pages of a run: results/index.html, the gallery of all pictures with what made them, and the contact sheets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from darkroom.base.files import write_bytes
from darkroom.checkpoint.audit import read_audit
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.gallery_chunks import remove_stale_chunks, write_chunks, write_times
from darkroom.pictures.gallery_data import BLOCK, DETAILS, TEXTS, Shown, collect_chunks, find_earlier
from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.made_by import find_mixed_sheets
from darkroom.pictures.measures import load_measures
from darkroom.pictures.picture import GalleryPicture, find_scores, group_pictures, make_manifest
from darkroom.pictures.records import (
    CHUNKS,
    CONTACT_SHEET,
    FIRST_GRID,
    INDEX,
    MANIFEST,
    STUDY_PAGE,
    PictureRecord,
    digest_pictures,
    seal_page,
    seal_unfinished_page,
)
from darkroom.pictures.run_progress import Progress
from darkroom.pictures.thumbnails import remove_stale, update_thumbnails
from darkroom.pictures.web_page import render_template, script_json

RESULTS = Path("results")
_STYLES = (
    "tokens.css",
    "parts.css",
    "gallery.css",
    "gallery_filter.css",
    "viewer.css",
    "gallery_compare.css",
    "gallery_rating.css",
)
_SCRIPTS = (
    "dom.js",
    "viewer.js",
    "gallery_model.js",
    "gallery_state.js",
    "gallery_search.js",
    "gallery_filter.js",
    "gallery_order.js",
    "gallery_card.js",
    "gallery_list.js",
    "gallery_facets.js",
    "gallery_viewer.js",
    "gallery_zoom.js",
    "gallery_compare.js",
    "gallery_comparing.js",
    "gallery_copy.js",
    "gallery_rating.js",
    "gallery_ratings_file.js",
    "gallery_pairs.js",
    "gallery.js",
)

Facts = list[tuple[str, str]]
"""Pairs of a label and a text."""


def build_gallery(
    results: Path,
    pictures: list[GalleryPicture],
    checkpoints: dict[str, Facts],
    *,
    title: str,
    thumbnail_px: int,
    has_scores: bool = False,
    progress: Progress | None = None,
    ratings: Mapping[str, Any] | None = None,
) -> None:
    """Write thumbnails, the page's data, manifest.jsonl and last index.html below `results`, in the pictures' order.

    `checkpoints` are the facts for the footer by checkpoint; `thumbnail_px` is a thumbnail's longer edge; with `has_scores`
    the manifest has the pictures' scores; `ratings` are what people think of the pictures, by sheet, as `Ratings.as_dict` has
    it. With the `progress` of a run, `pictures` are those that are there: the page says so and is sealed as one to be built
    again, the manifest stays as it is, and nothing is removed. The same input gives the same bytes, but for the
    times of the pictures' files. Raises ImageError (E-IMAGE) that names a picture which is missing, damaged or without an
    infotext; the earlier page then stays as it is.
    """
    pictures = [picture for _, _, members in group_pictures(pictures) for picture in members]
    records = update_thumbnails(results, pictures, thumbnail_px)
    scores = find_scores(results, pictures, records) if has_scores else {}
    manifest = make_manifest(pictures, records, scores)
    if progress is None:
        remove_stale(results, pictures)
        write_bytes(results / MANIFEST, manifest)
    lines = dict(zip((picture.path for picture in pictures), manifest.decode().split("\n"), strict=False))
    shown = [pair for pair in zip(pictures, records, strict=True) if pair[0].is_result]
    measures = {
        name: each
        for sheet in {picture.sheet for picture, _ in shown if picture.is_cell}
        for name, each in load_measures(results, sheet).items()
    }
    by_path = {picture.path: picture for picture in pictures}
    data = collect_chunks(shown, lines, by_path, scores, measures)
    names = write_chunks(results, data.chunks)
    digest = digest_pictures(record.sha256 for _, record in shown)
    write_times(results, digest, [record.mtime_ns // 10**9 for _, record in shown])
    head = {
        "chunks": names,
        "pictures": digest,
        "texts": data.texts,
        "ratings": _rated(ratings or {}),
        "mixed": find_mixed_sheets(zip(pictures, records, strict=True)),
    }
    page = render_page(shown, checkpoints, title, thumbnail_px, head, progress).encode()
    if progress is not None:
        write_bytes(results / INDEX, seal_unfinished_page(page))
        return
    write_bytes(results / INDEX, seal_page(page, manifest, (record.sha256 for record in records)))
    remove_stale_chunks(results, names)


def render_page(
    shown: Sequence[Shown],
    checkpoints: dict[str, Facts],
    title: str,
    thumbnail_px: int,
    head: Mapping[str, Any],
    progress: Progress | None,
) -> str:
    """The page's HTML; `shown` come grouped, `head` has what was found out of their data."""
    groups = group_pictures([picture for picture, _ in shown])
    sheets = {sheet: members[0].is_cell for sheet, _, members in groups}
    links = {sheet: _links(sheet, is_study) for sheet, is_study in sheets.items()}
    more = {
        "count": len(shown),
        "groups": [[sheet, checkpoint, len(members)] for sheet, checkpoint, members in groups],
        "links": links,
        "folder": CHUNKS,
        "sizes": {"blocks": BLOCK, "texts": TEXTS, "details": DETAILS},
        "thumbnail": thumbnail_px,
    }
    return render_template(
        "index.html.j2",
        (*_STYLES, *(() if progress is None else ("progress.css",))),
        (*_SCRIPTS, *(() if progress is None else ("progress.js",))),
        loads_scripts=True,
        title=title,
        total=len(shown),
        links=links,
        checkpoints=checkpoints,
        compares=False,
        progress=None if progress is None else progress.as_dict(),
        mixed=head["mixed"],
        head=script_json({**more, **head}),
    )


def _rated(ratings: Mapping[str, Any]) -> dict[str, Any]:
    """The ratings for the page, with what tells them from those that another page was built with."""
    return {"digest": hashlib.sha256(json.dumps(ratings).encode()).hexdigest(), "sheets": ratings}


def _links(sheet: str, is_study: bool) -> list[tuple[str, str]]:
    """Names and addresses of a sheet's other pages."""
    study = [("Table", STUDY_PAGE), ("Grid", FIRST_GRID)] if is_study else []
    return [(name, quote(f"{sheet}/{file}")) for name, file in [*study, ("Contact sheet", CONTACT_SHEET)]]


def describe_picture(
    picture: GalleryPicture, record: PictureRecord, by_path: Mapping[str, GalleryPicture]
) -> dict[str, Any]:
    """What a study's page shows of one picture. `by_path` are all pictures of the page."""
    settings = read_infotext(record.infotext)["settings"]
    shown = {
        "Warning": "; ".join(record.warnings),
        "Stage": picture.last_stage,
        **(picture.study or {}).get("axes", {}),
        **settings,
        "Emphasis": picture.request.get("emphasis"),
        "Made by": record.made_by.describe() if record.made_by and record.made_by.versions else None,
        "PNG SHA256": record.sha256,
    }
    return {
        "sheet": picture.sheet,
        "checkpoint": picture.checkpoint,
        "id": picture.id,
        "seed": str(picture.seed),
        "sampler": f"{settings.get('Sampler', '')} {settings.get('Schedule type', '')}",
        "file": picture.path,
        "url": quote(picture.path),
        "earlier": find_earlier(picture, by_path),
        "width": record.width,
        "height": record.height,
        "prompt": picture.request.get("prompt", ""),
        "negative": picture.request.get("negative_prompt", ""),
        "settings": [[key, value] for key, value in shown.items() if value],
        "parameters": record.infotext,
    }


def make_sheet_page(plan_file: Path, sheet: str, output: Path) -> str:
    """Write one sheet's thumbnails and contact sheet; returns a line that says so. Raises ImageError (E-IMAGE)."""
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    pictures = [GalleryPicture(**each) for each in plan["sheets"][sheet]]
    gallery = plan["config"]["gallery"]
    make_contact_sheet(RESULTS, pictures, output, columns=gallery["columns"], thumbnail_px=gallery["thumbnail_px"])
    return f"{output}: {len(pictures)} pictures"


def make_gallery_page(plan_file: Path) -> str:
    """Write index.html, manifest.jsonl and thumbnails that are missing; returns a line that says so.

    Raises ImageError (E-IMAGE) for a damaged picture, ModelError (E-MODEL) for a damaged audit.
    """
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    pictures = pictures_of(plan)
    build_planned_gallery(plan, pictures)
    return f"{RESULTS / 'index.html'}: {len(pictures)} pictures"


def pictures_of(plan: Mapping[str, Any]) -> list[GalleryPicture]:
    """All pictures of a plan."""
    pictures = ((data, sheet in plan.get("studies", ())) for sheet, each in plan["sheets"].items() for data in each)
    return [_picture(data, is_study=is_study) for data, is_study in pictures]


def build_planned_gallery(
    plan: Mapping[str, Any], pictures: list[GalleryPicture], progress: Progress | None = None
) -> None:
    """`build_gallery` with all that the plan says of the page. Raises what it raises, and ModelError (E-MODEL) for a damaged audit."""
    models = Path(plan["config"]["models_dir"]) / "diffusers"
    audits = {name: read_audit(models / name) for name in plan["config"]["checkpoints"]}
    checkpoints = {name: audit.facts() for name, audit in audits.items() if audit is not None}
    gallery, has_scores = plan["config"]["gallery"], bool(plan["config"].get("scores"))
    sizes = {"title": gallery["title"], "thumbnail_px": gallery["thumbnail_px"]}
    how: dict[str, Any] = {"has_scores": has_scores, "progress": progress, "ratings": plan.get("ratings")}
    build_gallery(RESULTS, pictures, checkpoints, **sizes, **how)


def _picture(data: dict[str, Any], *, is_study: bool) -> GalleryPicture:
    study = data.get("study")
    return GalleryPicture(**data if is_study or not study else {**data, "study": {**study, "continued": True}})
