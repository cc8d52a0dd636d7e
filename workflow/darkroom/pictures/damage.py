"""What of a run's results is damaged, missing or out of date, found while the next run is planned.

A file is read only if its size or its time is neither that of its sheet's index nor that of an earlier check, which a
memory holds; losing the memory costs time only. Pictures hold checksums themselves, contact sheets, grids and HTML pages
also say which pictures they show, thumbnails stand with their hash in the index, and a study's table in its measures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from darkroom.base.files import read_json_object, write_bytes
from darkroom.errors import ImageError
from darkroom.pictures.embedded import digest_request, left_out
from darkroom.pictures.formats import PNG, format_of
from darkroom.pictures.infotext import STRIPPED, read_request
from darkroom.pictures.measures import STUDY_CSV, is_study_whole, measures_path
from darkroom.pictures.png import read_picture
from darkroom.pictures.records import (
    CONTACT_SHEET,
    FOLDER,
    INDEX,
    MANIFEST,
    STUDY_PAGE,
    PictureRecord,
    digest_pictures,
    load_index,
    load_scores,
    read_seal,
    read_study_seal,
    scores_path,
    thumbnail_path,
)
from darkroom.request.render_request import RenderRequest


class WantedPicture(Protocol):
    """A picture that should be there: `path` and, without its suffix, `name` below the results folder."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def request(self) -> RenderRequest: ...


@dataclass(frozen=True, slots=True)
class SheetState:
    """`damaged` pictures by path, with the reason; `is_current` if contact sheet, index and thumbnails show the pictures.

    `by_path` are the SHA256 of the pictures that are there, by path.
    """

    damaged: Mapping[str, str]
    is_current: bool
    by_path: Mapping[str, str]

    @property
    def hashes(self) -> list[str]:
        """The SHA256 of the pictures that are there, in the sheet's order."""
        return list(self.by_path.values())


class ResultsCheck:
    """Checks a results folder. `memory` is the file that remembers what was found whole."""

    def __init__(self, results: Path, memory: Path) -> None:
        self._results, self._file = results, memory.absolute()  # the working folder may change before `save`
        self._known = read_json_object(memory)
        self._found: dict[str, list[object]] = {}
        self._checked = {INDEX}
        self._digests: dict[str, str] = {}

    def check_sheet(self, sheet: str, pictures: Sequence[WantedPicture]) -> SheetState:
        """The state of one sheet's pictures and pages."""
        self._checked.add(sheet)
        index = load_index(self._results, sheet)
        damaged: dict[str, str] = {}
        hashes, is_current = dict[str, str](), True
        for picture in pictures:
            record = index.get(picture.name)
            try:
                digest = self._hash(picture, record)
            except FileNotFoundError:
                is_current = False
                continue
            except ImageError as error:
                damaged[picture.path] = error.why
                is_current = False
                continue
            hashes[picture.path] = digest
            self._digests[picture.path] = digest
            is_current = (
                is_current and record is not None and record.sha256 == digest and self._has_thumbnail(picture, record)
            )
        is_current = is_current and self.shows(f"{sheet}/{CONTACT_SHEET}", list(hashes.values()))
        return SheetState(damaged, is_current, hashes)

    def shows(self, name: str, hashes: Sequence[str]) -> bool:
        """Whether a contact sheet or a grid, given below the results folder, is whole and shows the pictures of these SHA256."""
        stamp, digest = self._stamp(name), digest_pictures(hashes)
        if stamp is None:
            return False
        if self._known.get(name) != [*stamp, digest]:
            path = self._results / name
            try:
                data = read_picture(path)
                PNG.check(data, path)
                if PNG.read_text(data, path).get("pictures", digest) != digest:
                    return False
            except ImageError:
                return False
        self._found[name] = [*stamp, digest]
        return True

    def check_encoded(self, name: str) -> None:
        """Check a file that was made of a picture, given below the results folder, as far as that is possible without decoding.

        Raises ImageError (E-IMAGE) if it isn't whole, or has lost its metadata; one that is missing isn't damaged.
        """
        stamp = self._stamp(name)
        if stamp is None:
            return
        if self._known.get(name) != stamp:
            path = self._results / name
            data, kind = read_picture(path), format_of(path)
            kind.check(data, path)
            check_text(kind.read_text(data, path), path, None)
        self._found[name] = stamp

    def are_scores_current(self, picture: WantedPicture) -> bool:
        """Whether a picture's scores are whole and its own; to be called after `check_sheet`. True without the picture."""
        digest, name = self._digests.get(picture.path), scores_path(picture.name)
        if digest is None:
            return True
        stamp = self._stamp(name)
        if stamp is None or (
            self._known.get(name) != [*stamp, digest] and load_scores(self._results, picture.name, digest) is None
        ):
            return False
        self._found[name] = [*stamp, digest]
        return True

    def is_gallery_current(self, hashes: Sequence[str]) -> bool:
        """Whether index.html and manifest.jsonl are whole and about the pictures of these SHA256."""
        page, manifest = self._stamp(INDEX), self._stamp(MANIFEST)
        if page is None or manifest is None:
            return False
        digest = digest_pictures(sorted(hashes))
        known = self._known.get(INDEX)
        if known != [*page, *manifest, digest]:
            try:
                if not _is_gallery(
                    (self._results / INDEX).read_bytes(), (self._results / MANIFEST).read_bytes(), digest
                ):
                    return False
            except OSError:
                return False
        self._found[INDEX] = [*page, *manifest, digest]
        return True

    def is_study_current(self, sheet: str, hashes: Sequence[str]) -> bool:
        """Whether a study's table and measures are whole and about the pictures of these SHA256, in their order."""
        name = f"{sheet}/{STUDY_CSV}"
        table, measures = self._stamp(name), self._stamp(measures_path(sheet))
        if table is None or measures is None:
            return False
        found = [*table, *measures, digest_pictures(hashes)]
        if self._known.get(name) != found and not is_study_whole(self._results, sheet, digest_pictures(hashes)):
            return False
        self._found[name] = found
        return True

    def is_study_page_current(self, sheet: str, hashes: Sequence[str]) -> bool:
        """Whether a study's page is whole and shows the pictures of these SHA256."""
        name, digest = f"{sheet}/{STUDY_PAGE}", digest_pictures(sorted(hashes))
        stamp = self._stamp(name)
        if stamp is None:
            return False
        if self._known.get(name) != [*stamp, digest]:
            try:
                if read_study_seal((self._results / name).read_bytes()) != (True, digest):
                    return False
            except OSError:
                return False
        self._found[name] = [*stamp, digest]
        return True

    def save(self) -> None:
        """Remember what was found whole. Raises DiskError (E-DISK)."""
        others = {name: known for name, known in self._known.items() if _sheet_of(name) not in self._checked}
        if (found := others | self._found) != self._known:
            write_bytes(self._file, json.dumps(found).encode())

    def _hash(self, picture: WantedPicture, record: PictureRecord | None) -> str:
        """The SHA256 of a picture that is whole; raises FileNotFoundError, or ImageError (E-IMAGE) for a damaged one."""
        stamp = self._stamp(picture.path)
        if stamp is None:
            raise FileNotFoundError(picture.path)
        if record is not None and [record.size, record.mtime_ns] == stamp:
            return record.sha256
        known = self._known.get(picture.path)
        if not (isinstance(known, list) and known[:2] == stamp):
            path = self._results / picture.path
            data, kind = read_picture(path), format_of(path)
            digest = hashlib.sha256(data).hexdigest()
            if record is None or digest != record.sha256:
                kind.check(data, path)
                check_text(kind.read_text(data, path), path, None if record is None else picture.request)
            known = [*stamp, digest]
        self._found[picture.path] = known
        return str(known[2])

    def _has_thumbnail(self, picture: WantedPicture, record: PictureRecord) -> bool:
        return record.fits_thumbnail(self._results / thumbnail_path(picture.name))

    def _stamp(self, name: str) -> list[object] | None:
        """Size in bytes and modification time in ns; None if there is no such file."""
        try:
            status = Path(self._results, name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]


def _sheet_of(name: str) -> str:
    """The sheet of a file in the results folder; scores lie below the thumbnails' folder."""
    parts = name.split("/")
    return parts[1] if parts[0] == FOLDER and len(parts) > 1 else parts[0]


def check_text(texts: Mapping[str, str], path: Path, request: RenderRequest | None) -> None:
    """Raise ImageError (E-IMAGE) for a picture without its metadata, or made of another request than the one given."""
    if not {"parameters", "darkroom"} <= texts.keys():
        raise ImageError("picture", path, STRIPPED)
    if request is None:
        return
    if (digest := left_out(texts)) is not None:
        is_made_of = digest == digest_request(request)
    else:
        is_made_of = read_request(texts, path).to_json() == request.to_json()
    if not is_made_of:
        raise ImageError("picture", path, "was made with other settings than the sheet's")


def _is_gallery(page: bytes, manifest: bytes, digest: str) -> bool:
    seal = read_seal(page)
    if seal is None:  # of an earlier version
        return page.rstrip().endswith(b"</html>") and _is_json_lines(manifest)
    is_whole, manifest_sha256, pictures = seal
    return is_whole and manifest_sha256 == hashlib.sha256(manifest).hexdigest() and pictures == digest


def _is_json_lines(manifest: bytes) -> bool:
    try:
        return all(isinstance(json.loads(line), dict) for line in manifest.splitlines())
    except ValueError:
        return False
