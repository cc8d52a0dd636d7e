"""results/index.html: one page with every picture and what made it, which opens from disk without a server.

Style, script and data stand in the page itself; its Content-Security-Policy allows just these, by their
SHA256, and pictures of its own origin, so that nothing is fetched from a network and no prompt can run code.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from darkroom.files import write_bytes
from darkroom.outputs.infotext import read_infotext
from darkroom.outputs.manifest import write_manifest
from darkroom.outputs.picture import GalleryPicture, group_pictures, shorten_middle
from darkroom.outputs.thumbnails import PictureRecord, remove_stale, thumbnail_path, update_thumbnails
from darkroom.resources import RESOURCES

INDEX = "index.html"
_CAPTION_CHARACTERS = 90
_ALT_CHARACTERS = 200

Facts = list[tuple[str, str]]
"""Pairs of a label and a text."""


def build_gallery(
    results: Path, pictures: list[GalleryPicture], checkpoints: dict[str, Facts], *, title: str, thumbnail_px: int
) -> None:
    """Write thumbnails, manifest.jsonl and last index.html below `results`, in the pictures' order.

    `checkpoints` are the facts for the footer by checkpoint; `thumbnail_px` is a thumbnail's longer edge. The
    same input gives the same bytes. Raises ImageError (E-IMAGE) that names a picture which is missing, damaged or
    silent about how it was made; the page of before is then untouched.
    """
    pictures = [picture for _, _, members in group_pictures(pictures) for picture in members]
    records = update_thumbnails(results, pictures, thumbnail_px)
    remove_stale(results, pictures)
    write_manifest(results, pictures, records)
    write_bytes(results / INDEX, render_page(pictures, records, checkpoints, title, thumbnail_px).encode())


def render_page(
    pictures: list[GalleryPicture],
    records: list[PictureRecord],
    checkpoints: dict[str, Facts],
    title: str,
    thumbnail_px: int,
) -> str:
    """The page's HTML; `pictures` come grouped, `records[i]` belongs to `pictures[i]`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = RESOURCES / "gallery"
    script = (folder / "gallery.js").read_text("utf-8")
    style = (folder / "gallery.css").read_text("utf-8") + f":root {{ --thumb: {thumbnail_px}px; }}\n"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [_card(*pair, place) for place, pair in enumerate(zip(pictures, records, strict=True))]
    by_name = {picture.name: card for picture, card in zip(pictures, cards, strict=True)}
    page = environment.get_template("index.html.j2").render(
        title=title,
        version=importlib.metadata.version("darkroom"),
        total=len(pictures),
        groups=[
            {"sheet": sheet, "checkpoint": checkpoint, "cards": [by_name[p.name] for p in members]}
            for sheet, checkpoint, members in group_pictures(pictures)
        ],
        checkpoints=checkpoints,
        policy=_policy(style, script),
        # Markup: our own files, and JSON without a letter that HTML could take for its own.
        style=Markup(style),
        script=Markup(script),
        data=Markup(_script_json([_details(*pair) for pair in zip(pictures, records, strict=True)])),
    )
    return str(page)


def _policy(style: str, script: str) -> str:
    """Nothing but this page's own style, script and pictures. `file:` for browsers whose 'self' excludes it."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src 'self' file:",
            f"style-src '{_csp_hash(style)}'",
            f"script-src '{_csp_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(data: Any) -> str:
    """JSON that can stand in a script element: no `<` to end it, `&` and `>` escaped too for other parsers."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _card(picture: GalleryPicture, record: PictureRecord, place: int) -> dict[str, Any]:
    prompt = str(picture.request.get("prompt", "")) or "(no prompt)"
    return {
        "place": place,
        "thumbnail": quote(thumbnail_path(picture)),
        "width": record.thumbnail_width,
        "height": record.thumbnail_height,
        "alt": shorten_middle(prompt, _ALT_CHARACTERS),
        "caption": shorten_middle(prompt, _CAPTION_CHARACTERS),
        "facts": f"{picture.id} · seed {picture.seed}",
        "warning": "; ".join(record.warnings),
    }


def _details(picture: GalleryPicture, record: PictureRecord) -> dict[str, Any]:
    """What the script shows of one picture in the full view, and searches."""
    settings = read_infotext(record.infotext)["settings"]
    shown = {
        "Warning": "; ".join(record.warnings),
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
        "width": record.width,
        "height": record.height,
        "prompt": picture.request.get("prompt", ""),
        "negative": picture.request.get("negative_prompt", ""),
        "settings": [[key, value] for key, value in shown.items() if value],
        "parameters": record.infotext,
    }
