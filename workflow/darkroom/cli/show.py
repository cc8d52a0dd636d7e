"""`darkroom show`: what made a picture, from its own metadata: its prompt and settings, for people or as JSON."""

from __future__ import annotations

import argparse
import io
import json
import struct
from pathlib import Path
from typing import Any

from darkroom.errors import ImageError
from darkroom.pictures.infotext import Infotext, read_infotext


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom show`."""
    sub.add_argument("picture", type=Path, metavar="PICTURE", help="a PNG, JPEG or WebP of Darkroom or A1111")
    sub.add_argument("--json", action="store_true", help="as JSON, with the whole request")


def run(arguments: argparse.Namespace) -> str:
    """The picture's prompt and settings. Raises ImageError (E-IMAGE) for a file that isn't a picture or has no metadata."""
    texts = _read_texts(arguments.picture)
    if "parameters" not in texts:
        hint = "use the file that was made first: programs that edit or send pictures leave it out"
        raise ImageError("picture", arguments.picture, "has no prompt and settings in its metadata", hint)
    infotext = read_infotext(texts["parameters"])
    if arguments.json:
        made = _read_json(texts.get("darkroom"))
        return json.dumps({**infotext, "parameters": texts["parameters"], **made}, ensure_ascii=False, indent=2)
    return _printable(_describe(infotext))


def _read_texts(path: Path) -> dict[str, str]:
    """The metadata by keyword: `parameters`, and `darkroom` in a PNG that Darkroom made."""
    from darkroom.pictures.formats import PNG
    from darkroom.pictures.png import SIGNATURE, read_picture

    data = read_picture(path)
    if data.startswith(SIGNATURE):
        return PNG.read_text(data, path)
    comment = _read_user_comment(data, path)
    return {"parameters": comment} if comment else {}


def _read_user_comment(data: bytes, path: Path) -> str:
    """EXIF's UserComment (CIPA DC-008, 4.6.5: eight bytes name the character code), where A1111 writes the infotext."""
    from PIL import Image

    try:
        exif = Image.open(io.BytesIO(data), formats=["JPEG", "WEBP"]).getexif()
        comment = exif.get_ifd(0x8769).get(0x9286, b"")
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        raise ImageError("picture", path, "is no PNG, JPEG or WebP that can be read", "give a picture's file") from None
    if not isinstance(comment, bytes):
        return str(comment)
    if comment.startswith(b"UNICODE\0"):
        return comment[8:].decode("utf-16-be", "replace")
    return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace")


def _read_json(text: str | None) -> dict[str, Any]:
    """The exact request and what else a picture of Darkroom says of itself; empty for other pictures."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(infotext: Infotext) -> str:
    rows = [
        ("Prompt", infotext["prompt"]),
        ("Negative prompt", infotext["negative_prompt"]),
        *infotext["settings"].items(),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows if text)


def _printable(text: str) -> str:
    """Metadata comes from anybody: nothing in it may move a terminal's cursor."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
