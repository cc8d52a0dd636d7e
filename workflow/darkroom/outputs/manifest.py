"""results/manifest.jsonl: what made each picture, one JSON object a line, for scripts and for archives.

Keys: sheet, checkpoint, id, seed, file (relative to the results folder), sha256 (of the PNG), model_hash
(AutoV2 as the picture itself states it, or null), warnings and request (as RenderRequest). Nothing in it depends on
when or where the run was made.
"""

from __future__ import annotations

import json
from pathlib import Path

from darkroom.files import write_bytes
from darkroom.outputs.infotext import read_infotext
from darkroom.outputs.picture import GalleryPicture
from darkroom.outputs.thumbnails import PictureRecord

MANIFEST = "manifest.jsonl"


def write_manifest(results: Path, pictures: list[GalleryPicture], records: list[PictureRecord]) -> None:
    """Write the manifest atomically, in the pictures' order; `records[i]` belongs to `pictures[i]`."""
    lines = [_line(picture, record) for picture, record in zip(pictures, records, strict=True)]
    write_bytes(results / MANIFEST, "".join(lines).encode())


def _line(picture: GalleryPicture, record: PictureRecord) -> str:
    entry = {
        "sheet": picture.sheet,
        "checkpoint": picture.checkpoint,
        "id": picture.id,
        "seed": picture.seed,
        "file": picture.path,
        "sha256": record.sha256,
        "model_hash": read_infotext(record.infotext)["settings"].get("Model hash"),
        "warnings": record.warnings,
        "request": picture.request,
    }
    return json.dumps(entry, ensure_ascii=False) + "\n"
