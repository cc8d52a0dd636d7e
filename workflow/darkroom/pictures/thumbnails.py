"""Thumbnails in results/thumbnails, and the records of the pictures they were made from.

A picture is read, checked, hashed and decoded once; contact sheets and the gallery are made from its record and its
thumbnail. Each prompt sheet has an index of records, keyed by the picture's size and modification time, so that an
update of 1,000 pictures reads only the new ones, and sheets can be updated at the same time. The folder is a cache:
deleting it costs only time.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from darkroom.base.files import TEMPORARY_PREFIX, disk_errors, remove_unfinished_files, write_cache
from darkroom.errors import BadNameError, ImageError
from darkroom.pictures.formats import format_of
from darkroom.pictures.made_by import read_made_by
from darkroom.pictures.measures import measures_path
from darkroom.pictures.picture import GalleryPicture
from darkroom.pictures.png import REDO, read_picture, read_warnings
from darkroom.pictures.records import (
    FOLDER,
    PictureRecord,
    index_path,
    load_index,
    save_index,
    scores_path,
    thumbnail_path,
)

_QUALITY = 90  # with 82, grain shows blocks where one looks closer
_EFFORT = 2  # of WebP's 0 to 6; more saves a few percent and takes three times as long

Item = TypeVar("Item")
Result = TypeVar("Result")


def update_thumbnails(results: Path, pictures: list[GalleryPicture], thumbnail_px: int) -> list[PictureRecord]:
    """Make the thumbnails that are missing or out of date, and write the indexes of the pictures' sheets.

    `thumbnail_px` is the longer edge; smaller pictures are not enlarged. Returns a record for each picture,
    in order. Raises ImageError (E-IMAGE) for a picture that is missing, damaged or without an infotext, and
    BadNameError (E-NAME) for a sheet that would lie in the thumbnails' own folder.
    """
    for picture in pictures:
        if picture.sheet == FOLDER:
            raise BadNameError(
                "sheet", picture.sheet, f"results/{FOLDER} is the gallery's own folder", "rename the sheet"
            )
    known = {sheet: load_index(results, sheet) for sheet in {picture.sheet for picture in pictures}}

    records: dict[str, PictureRecord] = {}
    changed: list[GalleryPicture] = []
    names: dict[str, list[str]] = {sheet: [] for sheet in known}
    for picture in pictures:
        name = picture.name
        names[picture.sheet].append(name)
        record = known[picture.sheet].get(name)
        if record is not None and _is_current(results, picture, record, thumbnail_px):
            records[name] = record if record.versions is not None else _with_versions(record, results / picture.path)
        else:
            changed.append(picture)
    try:
        made = in_threads(lambda picture: _make_one(results, picture, thumbnail_px), changed)
        for picture, record in zip(changed, made, strict=True):
            records[picture.name] = record
    finally:  # also after a damaged picture: the records before it are right
        for sheet, before in known.items():
            entries = {name: found for name in names[sheet] if (found := records.get(name) or before.get(name))}
            if entries != before:
                save_index(results, sheet, entries)
    return [records[picture.name] for picture in pictures]


def remove_stale(results: Path, pictures: list[GalleryPicture]) -> None:
    """Remove thumbnails, scores, indexes and measures, and folders left empty, that belong to none of `pictures` and their sheets."""
    names = [picture.name for picture in pictures]
    wanted = {*map(thumbnail_path, names), *map(scores_path, names)}
    wanted |= {index_path(sheet) for sheet in {picture.sheet for picture in pictures}}
    wanted |= {measures_path(sheet) for sheet in {picture.sheet for picture in pictures if picture.is_cell}}
    top = results / FOLDER
    for path in _files(top):
        name = path.rpartition("/")[2]
        is_ours = name.endswith((".webp", ".json")) and not name.startswith(TEMPORARY_PREFIX)
        if is_ours and f"{FOLDER}/{path}" not in wanted:
            with disk_errors(top / path), suppress(FileNotFoundError):
                (top / path).unlink()
    for folder, _, _ in os.walk(top, topdown=False):
        remove_unfinished_files(Path(folder))  # not those of a study that is being measured at the same time
        if folder != str(top):
            with suppress(OSError):  # not empty
                Path(folder).rmdir()


def read_thumbnail(results: Path, picture: GalleryPicture) -> Image.Image:
    """A picture's thumbnail in RGB, after `update_thumbnails`. Raises ImageError (E-IMAGE) if it is damaged."""
    path = results / thumbnail_path(picture.name)
    try:
        return Image.open(path, formats=["WEBP"]).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        hint = f"delete {results / FOLDER} and run the same command again"
        raise ImageError("thumbnail", path, f"can't be read ({error})", hint) from None


def in_threads(function: Callable[[Item], Result], items: list[Item]) -> Iterator[Result]:
    """The results in the items' order; after a failure no further item is started. Pillow's codecs release the GIL."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as workers:
        try:
            yield from workers.map(function, items)
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


def _is_current(results: Path, picture: GalleryPicture, known: PictureRecord, thumbnail_px: int) -> bool:
    """Whether a picture and its thumbnail are those of the record."""
    if (known.thumbnail_px, known.quality) != (thumbnail_px, _QUALITY):
        return False
    try:
        status = os.stat(f"{results}/{picture.path}")  # noqa: PTH116 -- a Path costs more than the call
    except OSError:
        return False
    is_same = (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)
    return is_same and known.fits_thumbnail(f"{results}/{thumbnail_path(picture.name)}")


def _make_one(results: Path, picture: GalleryPicture, thumbnail_px: int) -> PictureRecord:
    path, thumbnail = results / picture.path, results / thumbnail_path(picture.name)
    try:
        state = path.stat()
    except OSError:
        raise ImageError("picture", path, "is missing", "run the same command again") from None
    now = (state.st_size, state.st_mtime_ns, thumbnail_px, _QUALITY)
    data, kind = read_picture(path), format_of(path)
    image, texts = kind.decode(data, path), kind.read_text(data, path)
    infotext = texts.get("parameters")
    if infotext is None:
        raise ImageError("picture", path, "does not say how it was made (no 'parameters' text)", REDO)
    small, encoded = make_thumbnail(image, thumbnail_px)
    if not (thumbnail.is_file() and thumbnail.read_bytes() == encoded):
        write_cache(thumbnail, encoded)
    digest, thumbnail_digest = (hashlib.sha256(each).hexdigest() for each in (data, encoded))
    sizes = (*image.size, *small.size)
    made_ns = thumbnail.stat().st_mtime_ns
    made_by = read_made_by(texts)
    made = (dict(made_by.versions), dict(made_by.made_on))
    thumbnail_stamp = (made_ns, thumbnail_digest)
    return PictureRecord(*now, len(encoded), digest, infotext, *sizes, read_warnings(texts), *thumbnail_stamp, *made)


def _with_versions(record: PictureRecord, path: Path) -> PictureRecord:
    """The record of an earlier version's index with what it lacks, which takes no decoding."""
    made_by = read_made_by(format_of(path).read_text(read_picture(path), path))
    return replace(record, versions=dict(made_by.versions), made_on=dict(made_by.made_on))


def make_thumbnail(image: Image.Image, thumbnail_px: int) -> tuple[Image.Image, bytes]:
    """The picture fitted into a square of `thumbnail_px`, and its WebP bytes.

    A smaller picture is encoded without loss: contact sheets enlarge it, and would enlarge WebP's artefacts too.
    """
    small = image.copy()
    small.thumbnail((thumbnail_px, thumbnail_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    if max(image.size) < thumbnail_px:
        small.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        small.save(buffer, "WEBP", quality=_QUALITY, method=_EFFORT)
    return small, buffer.getvalue()


def _files(top: Path) -> Iterator[str]:
    """The files below a folder, relative to it."""
    for folder, _, names in os.walk(top):
        prefix = Path(folder).relative_to(top).as_posix() + "/"
        yield from names if prefix == "./" else (prefix + name for name in names)
