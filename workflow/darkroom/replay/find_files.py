"""Finds picture files that people gave, a first picture or a mask, by the SHA-256 that a request has of them.

They are looked for where the user says, among those that planning remembers, beside the picture, and at last in the sheets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from darkroom.base.files import read_json_object
from darkroom.base.hashing import hash_file
from darkroom.config import load_config
from darkroom.errors import ImageError, RequestError
from darkroom.pictures.inputs import MAX_BYTES, MEMORY
from darkroom.replay.own import Recipe

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class GivenFiles:
    """Looks for files; each is read and hashed once. `places` are files and folders that the user named.

    `in_archive` has the bytes of an exported sheet's files by their SHA-256.
    """

    def __init__(
        self,
        places: Sequence[Path] = (),
        config: Path | None = None,
        in_archive: Callable[[str], bytes | None] = lambda _: None,
    ) -> None:
        for place in places:
            if not place.exists():
                raise RequestError("--input", place, "does not exist", "name a picture, or a folder with pictures")
        self._places, self._config, self._in_archive = places, config, in_archive

    def find_all(self, recipe: Recipe) -> dict[str, bytes]:
        """The bytes of all files that a picture was made from, by their SHA-256. Raises ImageError (E-IMAGE), which names one."""
        return {sha256: self._find(sha256, recipe.path) for sha256 in recipe.request.pictures}

    def find_paths(self, recipe: Recipe) -> dict[str, Path]:
        """Where those files are, as far as they are found."""
        found = {sha256: next(self._matching(sha256, recipe.path), None) for sha256 in recipe.request.pictures}
        return {sha256: path for sha256, path in found.items() if path is not None}

    def _find(self, sha256: str, picture: Path) -> bytes:
        if (packed := self._in_archive(sha256)) is not None:
            return packed
        for path in self._matching(sha256, picture):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        why = f"was made from a picture file whose SHA-256 is {sha256}, which is not found"
        raise ImageError("picture", picture, why, "say where that file is: --input FILE or --input FOLDER")

    def _matching(self, sha256: str, picture: Path) -> Iterator[Path]:
        return (path for path in self._candidates(sha256, picture) if _hash(path) == sha256)

    def _candidates(self, sha256: str, picture: Path) -> Iterator[Path]:
        for place in self._places:
            yield from _pictures_in(place) if place.is_dir() else [place]
        yield from _remembered(sha256)
        yield from _pictures_in(picture.parent)
        if self._config is not None and self._config.is_file() and sha256 in _named_in_sheets(self._config):
            yield Path(_named_in_sheets(self._config)[sha256])


def _pictures_in(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())


def _remembered(sha256: str) -> Iterator[Path]:
    """Files that planning has once found to have that hash."""
    for name, entry in read_json_object(MEMORY).items():
        if isinstance(entry, dict) and entry.get("sha256") == sha256:
            yield Path(name)


@cache
def _named_in_sheets(config: Path) -> Mapping[str, str]:
    """The paths of the files that the configured sheets begin with or name as masks, by their SHA-256."""
    from darkroom.run.asset_folders import expand_folders
    from darkroom.sheets.read import load_pictures

    sheets = load_pictures(expand_folders(load_config(config)))
    return {sha256: path for sheet in sheets.values() for picture in sheet for sha256, path in picture.files.items()}


@cache
def _hash(path: Path) -> str | None:
    """A file's SHA-256; None if it can't be read, or is larger than any picture that is taken."""
    try:
        return hash_file(path) if path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return None
