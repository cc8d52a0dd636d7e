"""The pages of a run: results/index.html, the gallery of all pictures with what made them, and the contact sheets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from darkroom.base.files import write_bytes
from darkroom.checkpoint.audit import read_audit
from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.infotext import read_infotext
from darkroom.pictures.picture import (
    GalleryPicture,
    find_scores,
    group_pictures,
    shorten_middle,
    write_manifest,
)
from darkroom.pictures.records import (
    INDEX,
    STUDY_PAGE,
    PictureRecord,
    seal_page,
    seal_unfinished_page,
    thumbnail_path,
)
from darkroom.pictures.run_progress import Progress
from darkroom.pictures.thumbnails import remove_stale, update_thumbnails
from darkroom.pictures.web_page import render_template, script_json

RESULTS = Path("results")
_CAPTION_CHARACTERS = 90
_ALT_CHARACTERS = 200

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
) -> None:
    """Write thumbnails, manifest.jsonl and last index.html below `results`, in the pictures' order.

    `checkpoints` are the facts for the footer by checkpoint; `thumbnail_px` is a thumbnail's longer edge; with `has_scores`
    the manifest has the pictures' scores. With the `progress` of a run, `pictures` are those that are there: the page says so,
    is sealed as one to be built again, and nothing else is written or removed. The same input
    gives the same bytes. Raises ImageError (E-IMAGE) that names a picture which is missing, damaged or without an
    infotext; the earlier page then stays as it is.
    """
    pictures = [picture for _, _, members in group_pictures(pictures) for picture in members]
    records = update_thumbnails(results, pictures, thumbnail_px)
    page = render_page(pictures, records, checkpoints, title, thumbnail_px, progress).encode()
    if progress is not None:
        write_bytes(results / INDEX, seal_unfinished_page(page))
        return
    remove_stale(results, pictures)
    scores = find_scores(results, pictures, records) if has_scores else {}
    manifest = write_manifest(results, pictures, records, scores)
    write_bytes(results / INDEX, seal_page(page, manifest, (record.sha256 for record in records)))


def render_page(
    pictures: list[GalleryPicture],
    records: list[PictureRecord],
    checkpoints: dict[str, Facts],
    title: str,
    thumbnail_px: int,
    progress: Progress | None = None,
) -> str:
    """The page's HTML; `pictures` come grouped, `records[i]` belongs to `pictures[i]`."""
    by_path = {picture.path: picture for picture in pictures}
    shown = [pair for pair in zip(pictures, records, strict=True) if pair[0].is_result]
    by_name = {pair[0].name: _card(*pair, place) for place, pair in enumerate(shown)}
    groups = [
        {
            "sheet": sheet,
            "checkpoint": checkpoint,
            "cards": [by_name[p.name] for p in members],
            "table": quote(f"{sheet}/{STUDY_PAGE}") if members[0].study is not None else None,
        }
        for sheet, checkpoint, members in group_pictures([picture for picture, _ in shown])
    ]
    return render_template(
        "index.html.j2",
        ("tokens.css", "gallery.css", "viewer.css", *(() if progress is None else ("progress.css",))),
        ("dom.js", "viewer.js", "gallery.js", *(() if progress is None else ("progress.js",))),
        variables=f"--thumb: {thumbnail_px}px;",
        title=title,
        total=len(shown),
        groups=groups,
        checkpoints=checkpoints,
        compares=False,
        progress=None if progress is None else progress.as_dict(),
        data=script_json([describe_picture(*pair, by_path) for pair in shown]),
    )


def _card(picture: GalleryPicture, record: PictureRecord, place: int) -> dict[str, Any]:
    prompt = str(picture.request.get("prompt", "")) or "(no prompt)"
    return {
        "place": place,
        "thumbnail": quote(thumbnail_path(picture.name)),
        "width": record.thumbnail_width,
        "height": record.thumbnail_height,
        "alt": shorten_middle(prompt, _ALT_CHARACTERS),
        "caption": shorten_middle(prompt, _CAPTION_CHARACTERS),
        "facts": " · ".join(filter(None, (picture.id, f"seed {picture.seed}", picture.last_stage))),
        "warning": "; ".join(record.warnings),
    }


def _earlier(picture: GalleryPicture, by_path: Mapping[str, GalleryPicture]) -> list[tuple[str, str]]:
    """The pictures that the picture was made of, by their stages and addresses, the first one first."""
    found: list[tuple[str, str]] = []
    path = picture.before
    while path is not None:
        before = by_path.get(path)
        found.insert(0, ("first pass" if before is None else before.last_stage or "first pass", quote(path)))
        path = None if before is None else before.before
    return found


def describe_picture(
    picture: GalleryPicture, record: PictureRecord, by_path: Mapping[str, GalleryPicture]
) -> dict[str, Any]:
    """What a page's script shows of one picture; the gallery searches it too. `by_path` are all pictures of the page."""
    settings = read_infotext(record.infotext)["settings"]
    shown = {
        "Warning": "; ".join(record.warnings),
        "Stage": picture.last_stage,
        **(picture.study or {}).get("axes", {}),
        **settings,
        "Emphasis": picture.request.get("emphasis"),
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
        "earlier": _earlier(picture, by_path),
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
    pictures = [_picture(p) for p in plan["sheets"][sheet]]
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
    return [_picture(p) for ps in plan["sheets"].values() for p in ps]


def build_planned_gallery(
    plan: Mapping[str, Any], pictures: list[GalleryPicture], progress: Progress | None = None
) -> None:
    """`build_gallery` with all that the plan says of the page. Raises what it raises, and ModelError (E-MODEL) for a damaged audit."""
    models = Path(plan["config"]["models_dir"]) / "diffusers"
    audits = {name: read_audit(models / name) for name in plan["config"]["checkpoints"]}
    checkpoints = {name: audit.facts() for name, audit in audits.items() if audit is not None}
    gallery, has_scores = plan["config"]["gallery"], bool(plan["config"].get("scores"))
    sizes = {"title": gallery["title"], "thumbnail_px": gallery["thumbnail_px"]}
    build_gallery(RESULTS, pictures, checkpoints, **sizes, has_scores=has_scores, progress=progress)


def _picture(data: dict[str, Any]) -> GalleryPicture:
    return GalleryPicture(**data)
