"""Thumbnails in results/thumbnails, and what was learnt about each picture while making them.

A picture is read, checked and hashed once. `thumbnails/index.json` remembers its size and modification
time beside what was found, so that an update of 1,000 pictures reads only the new ones. The file is a
cache: deleting the whole folder costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from darkroom.errors import ImageError, NameError
from darkroom.files import disk_errors, write_bytes
from darkroom.outputs.picture import GalleryPicture
from darkroom.outputs.png import REDO, decode_png, read_picture, read_warnings, text_of_png

FOLDER = "thumbnails"
INDEX = f"{FOLDER}/index.json"
_QUALITY = 82
_EFFORT = 2  # of WebP's 0 to 6; more saves a few percent and takes three times as long


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """What is known of a picture: of which state of its file (bytes, mtime in ns), its SHA256 and its infotext.

    `warnings` are what the engine said that deserves a look. `width` and `height` are the picture's, `thumbnail_width` and `thumbnail_height` its thumbnail's, in pixels.
    """

    size: int
    mtime_ns: int
    thumbnail_px: int
    sha256: str
    infotext: str
    width: int
    height: int
    thumbnail_width: int
    thumbnail_height: int
    warnings: list[str]


def thumbnail_path(picture: GalleryPicture) -> str:
    """Where a picture's thumbnail lies, relative to the results folder."""
    return f"{FOLDER}/{picture.name}.webp"


def update_thumbnails(results: Path, pictures: list[GalleryPicture], thumbnail_px: int) -> list[PictureRecord]:
    """Make the thumbnails that are missing or out of date, remove those without a picture.

    `thumbnail_px` is the longer edge; smaller pictures are not enlarged. Returns a record for each picture,
    in order. Raises ImageError (E-IMAGE) for a picture that is missing, damaged or without an infotext, and
    NameError (E-NAME) for a sheet that would lie in the thumbnails' own folder.
    """
    for picture in pictures:
        if picture.sheet == FOLDER:
            raise NameError("sheet", picture.sheet, f"results/{FOLDER} is the gallery's own folder", "rename the sheet")
    known = _load_index(results)

    def update(picture: GalleryPicture) -> PictureRecord:
        return _update_one(results, picture, thumbnail_px, known.get(picture.name))

    # Decoding and encoding release the interpreter's lock.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as workers:
        try:
            records = list(workers.map(update, pictures))
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    _save_index(results, pictures, records)
    _remove_stale(results, {thumbnail_path(picture) for picture in pictures})
    return records


def _update_one(
    results: Path, picture: GalleryPicture, thumbnail_px: int, known: PictureRecord | None
) -> PictureRecord:
    path, thumbnail = results / picture.path, results / thumbnail_path(picture)
    try:
        state = path.stat()
    except OSError:
        raise ImageError("picture", path, "is missing", "run the same command again") from None
    now = (state.st_size, state.st_mtime_ns, thumbnail_px)
    if known and (known.size, known.mtime_ns, known.thumbnail_px) == now and thumbnail.exists():
        return known
    data = read_picture(path)
    image = decode_png(data, path)
    texts = text_of_png(data, path)
    infotext = texts.get("parameters")
    if infotext is None:
        raise ImageError("picture", path, "does not say how it was made (no 'parameters' text)", REDO)
    small, encoded = make_thumbnail(image, thumbnail_px)
    write_bytes(thumbnail, encoded)
    digest = hashlib.sha256(data).hexdigest()
    return PictureRecord(*now, digest, infotext, *image.size, *small.size, read_warnings(texts))


def make_thumbnail(image: Image.Image, thumbnail_px: int) -> tuple[Image.Image, bytes]:
    """The picture fitted into a square of `thumbnail_px`, and its WebP bytes."""
    small = image.copy()
    small.thumbnail((thumbnail_px, thumbnail_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=_EFFORT)
    return small, buffer.getvalue()


def _load_index(results: Path) -> dict[str, PictureRecord]:
    """The remembered records by picture name; none if the file is missing, damaged or of another revision."""
    try:
        entries: dict[str, dict[str, Any]] = json.loads((results / INDEX).read_bytes())
        return {name: PictureRecord(**fields) for name, fields in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save_index(results: Path, pictures: list[GalleryPicture], records: list[PictureRecord]) -> None:
    entries = {picture.name: asdict(record) for picture, record in zip(pictures, records, strict=True)}
    write_bytes(results / INDEX, json.dumps(entries, ensure_ascii=False).encode())


def _remove_stale(results: Path, wanted: set[str]) -> None:
    """Remove thumbnails, and folders left empty, that belong to no picture any more."""
    top = results / FOLDER
    for path in _files(top):
        if path.suffix == ".webp" and path.relative_to(results).as_posix() not in wanted:
            with disk_errors(path), suppress(FileNotFoundError):
                path.unlink()
    for folder, _, _ in os.walk(top, topdown=False):
        if folder != str(top):
            with suppress(OSError):  # not empty
                Path(folder).rmdir()


def _files(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield Path(folder, name)
