"""What was learnt from each finished picture: records in an index for each prompt sheet, below results/thumbnails.

Contact sheets, gallery and manifest are made from records and thumbnails, and planning compares files with them. Nothing
here decodes a picture, so that planning may import it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.base.files import read_json_object, write_bytes
from darkroom.pictures.made_by import MadeBy, made_by_of

FOLDER = "thumbnails"
CHUNKS = f"{FOLDER}/_gallery"
"""The folder of the gallery's data, relative to the results folder; no sheet's name begins like that."""
INDEX, MANIFEST, CONTACT_SHEET = "index.html", "manifest.jsonl", "contact-sheet.png"
STUDY_PAGE = "study.html"
FIRST_GRID = "grid.png"
_GRID = re.compile(r"grid(-[0-9]+)?(\.[a-z0-9_.-]+)?\.png")
_SEAL = b"<!-- page %s manifest %s pictures %s -->\n"
_STUDY_SEAL = b"<!-- page %s pictures %s -->\n"
UNFINISHED = "0" * 64
"""In place of digests, in the seal of a page that a run writes while its pictures are made."""
_SEALED = re.compile(_SEAL.replace(b"%s", b"([0-9a-f]{64})") + rb"\Z")
_STUDY_SEALED = re.compile(_STUDY_SEAL.replace(b"%s", b"([0-9a-f]{64})") + rb"\Z")


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """What was read from a picture's file (`size` bytes, `mtime_ns`): its SHA256 and its infotext.

    `thumbnail_px` and `quality` are how its thumbnail was made, `thumbnail_size` the thumbnail's bytes. `warnings` are
    the engine's, for a person to look at. `width` and `height` are the picture's, `thumbnail_width` and
    `thumbnail_height` the thumbnail's, in pixels. `thumbnail_mtime_ns` and `thumbnail_sha256` are the thumbnail's; an
    index of an earlier version has neither. `versions` and `made_on` are as in `MadeBy`; None in an index of an earlier version.
    """

    size: int
    mtime_ns: int
    thumbnail_px: int
    quality: int
    thumbnail_size: int
    sha256: str
    infotext: str
    width: int
    height: int
    thumbnail_width: int
    thumbnail_height: int
    warnings: list[str]
    thumbnail_mtime_ns: int = 0
    thumbnail_sha256: str = ""
    versions: dict[str, str] | None = None
    made_on: dict[str, Any] | None = None

    @property
    def made_by(self) -> MadeBy | None:
        """By which versions and where the picture was made; None if it wasn't read."""
        return None if self.versions is None else made_by_of(self.versions, self.made_on)

    def fits_thumbnail(self, path: Path | str) -> bool:
        """Whether the thumbnail at `path` is the one that was made."""
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path costs more than the call
            if status.st_size != self.thumbnail_size:
                return False
            if not self.thumbnail_sha256 or status.st_mtime_ns == self.thumbnail_mtime_ns:
                return True
            return hashlib.sha256(Path(path).read_bytes()).hexdigest() == self.thumbnail_sha256
        except OSError:
            return False


def find_grids(results: Path, sheet: str = "*") -> list[str]:
    """The grids of a sheet, or of all, as `SHEET/grid….png` relative to the results folder, sorted."""
    found = (path for path in results.glob(f"{sheet}/grid*.png") if _GRID.fullmatch(path.name))
    return sorted(path.relative_to(results).as_posix() for path in found if path.parent.name[0] != ".")


def thumbnail_path(name: str) -> str:
    """Where the thumbnail of the picture `SHEET/CHECKPOINT/ID-SEED` lies, relative to the results folder."""
    return f"{FOLDER}/{name}.webp"


def index_path(sheet: str) -> str:
    """Where a sheet's index lies, relative to the results folder; no checkpoint's name begins like that."""
    return f"{FOLDER}/{sheet}/_index.json"


def scores_path(name: str) -> str:
    """Where the scores of the picture `SHEET/CHECKPOINT/ID-SEED` lie, relative to the results folder."""
    return f"{FOLDER}/{name}.json"


def load_scores(results: Path, name: str, sha256: str) -> dict[str, float] | None:
    """A picture's scores by their names; None if the file is missing, damaged, or of another picture than that of `sha256`."""
    data = read_json_object(results / scores_path(name))
    scores = data.get("scores")
    if data.get("picture") != sha256 or not isinstance(scores, dict):
        return None
    return scores if all(isinstance(each, int | float) for each in scores.values()) else None


def load_index(results: Path, sheet: str) -> dict[str, PictureRecord]:
    """The remembered records by picture name; none if the file is missing, damaged or of another revision."""
    try:
        entries: dict[str, dict[str, Any]] = json.loads((results / index_path(sheet)).read_bytes())
        return {name: PictureRecord(**fields) for name, fields in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save_index(results: Path, sheet: str, records: Mapping[str, PictureRecord]) -> None:
    """Replace a sheet's index. Raises DiskError (E-DISK)."""
    entries = {name: asdict(record) for name, record in records.items()}
    write_bytes(results / index_path(sheet), json.dumps(entries, ensure_ascii=False).encode())


def digest_pictures(hashes: Iterable[str]) -> str:
    """One hash of pictures' SHA256, in their order: it stands in the pages made from them."""
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def seal_page(page: bytes, manifest: bytes, hashes: Iterable[str]) -> bytes:
    """The gallery's page with a last line that holds the SHA256 of the page before it, of the manifest, and of all pictures.

    `hashes` are the pictures' SHA256, in any order.
    """
    digests = (hashlib.sha256(page), hashlib.sha256(manifest))
    words = (*(digest.hexdigest() for digest in digests), digest_pictures(sorted(hashes)))
    return page + _SEAL % tuple(word.encode() for word in words)


def seal_unfinished_page(page: bytes) -> bytes:
    """The gallery's page of a run under way, with a last line that no pictures fit: the page is whole, but to be built again."""
    return page + _SEAL % tuple(word.encode() for word in (hashlib.sha256(page).hexdigest(), UNFINISHED, UNFINISHED))


def read_seal(page: bytes) -> tuple[bool, str, str] | None:
    """True if a sealed page is whole, the manifest's SHA256 and the pictures' digest; None without a seal."""
    found = _SEALED.search(page)
    if found is None:
        return None
    own, manifest, pictures = (word.decode() for word in found.groups())
    return hashlib.sha256(page[: found.start()]).hexdigest() == own, manifest, pictures


def seal_study_page(page: bytes, hashes: Iterable[str]) -> bytes:
    """A study's page with a last line that holds the SHA256 of the page before it, and of the pictures that it shows."""
    words = (hashlib.sha256(page).hexdigest(), digest_pictures(sorted(hashes)))
    return page + _STUDY_SEAL % tuple(word.encode() for word in words)


def read_study_seal(page: bytes) -> tuple[bool, str] | None:
    """True if a study's sealed page is whole, and the pictures' digest; None without a seal."""
    found = _STUDY_SEALED.search(page)
    if found is None:
        return None
    own, pictures = (word.decode() for word in found.groups())
    return hashlib.sha256(page[: found.start()]).hexdigest() == own, pictures
