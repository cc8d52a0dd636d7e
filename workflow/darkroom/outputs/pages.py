"""The pages of a run, made from its plan: which pictures there are, and what is known of their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darkroom.checkpoint.audit import read_audit
from darkroom.outputs.contact_sheet import make_contact_sheet
from darkroom.outputs.gallery import build_gallery
from darkroom.outputs.picture import GalleryPicture

RESULTS = Path("results")


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
    pictures = [_picture(p) for ps in plan["sheets"].values() for p in ps]
    models = Path(plan["config"]["models_dir"]) / "diffusers"
    audits = {name: read_audit(models / name) for name in plan["config"]["checkpoints"]}
    checkpoints = {name: audit.facts() for name, audit in audits.items() if audit is not None}
    gallery = plan["config"]["gallery"]
    build_gallery(RESULTS, pictures, checkpoints, title=gallery["title"], thumbnail_px=gallery["thumbnail_px"])
    return f"{RESULTS / 'index.html'}: {len(pictures)} pictures"


def _picture(data: dict[str, Any]) -> GalleryPicture:
    return GalleryPicture(**data)
