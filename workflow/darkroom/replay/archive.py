"""The file or folder that `darkroom export` makes, read without being unpacked, and whether its files are what they were.

A zip comes from anybody: names that lead out of a folder, links, two entries of one name, entries that share bytes, and more
bytes than such an archive can hold are refused before anything is read, and nothing is ever written.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.base.files import PIECE_BYTES
from darkroom.base.text import format_bytes, shorten
from darkroom.errors import ArchiveError
from darkroom.pictures.inputs import MAX_BYTES

INDEX, SUMS = "export.json", "SHA256SUMS"
"""What the archive holds, with hashes; and the same hashes as `sha256sum --check` reads them."""
_MOST_ENTRIES = 500_000
_MOST_INDEX = 2**28
_LEAST_LIMIT, _RATIO = 2**26, 20
"""An archive may hold that many bytes, or that many times its own size: pictures hardly get smaller."""
_LONGEST_NAME = 1_000
_LOCAL_HEADER = 30  # bytes before an entry's name and data (APPNOTE.TXT 6.3.10, section 4.3.7)
_DAMAGED = "get it again from whoever made it"


class ExportedFile(BaseModel):
    """A file's size in bytes and its SHA-256 (hex)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ExportIndex(BaseModel):
    """export.json: the sheet's name, the exporting Darkroom's version, its pictures, and all files by their names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    sheet: str
    darkroom: str
    pictures: list[str]
    files: dict[str, ExportedFile]

    def to_bytes(self) -> bytes:
        return (self.model_dump_json(indent=2) + "\n").encode()

    def sums(self) -> bytes:
        """SHA256SUMS: a line for each file, the index among them."""
        hashes = {name: file.sha256 for name, file in self.files.items()}
        hashes[INDEX] = hashlib.sha256(self.to_bytes()).hexdigest()
        return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()


class _Files(Protocol):
    """Files by their names, with forward slashes."""

    def names(self) -> list[str]: ...

    def open(self, name: str) -> IO[bytes]: ...


class Archive:
    """An export, opened by `open_archive`; `index` says what it holds."""

    def __init__(self, path: Path, files: _Files) -> None:
        self.path, self._files = path, files
        self._names = set(files.names())
        if INDEX not in self._names:
            raise ArchiveError("archive", path, f"has no {INDEX}", "give what `darkroom export` has made")
        data = self.read(INDEX, most=_MOST_INDEX)
        try:
            self.index = ExportIndex.model_validate_json(data)
        except (ValidationError, RecursionError):
            raise ArchiveError("archive", path, f"its {INDEX} can't be read", _DAMAGED) from None
        for name in (*self.index.files, *self.index.pictures):
            check_name(name, path)
        if stray := next((name for name in self.index.pictures if name not in self.index.files), None):
            raise ArchiveError("archive", path, f"its {INDEX} has no hash of {shorten(stray)}", _DAMAGED)
        self._by_hash = {file.sha256: name for name, file in self.index.files.items()}

    def read(self, name: str, *, most: int = MAX_BYTES) -> bytes:
        """A file's bytes. Raises ArchiveError (E-ARCHIVE) for one that is missing, damaged or larger than `most`."""
        with self._reading(name) as file:
            data = file.read(most + 1)
        if len(data) > most:
            why = f"{shorten(name)} is larger than {format_bytes(most)}"
            raise ArchiveError("archive", self.path, why, _DAMAGED)
        return data

    def find(self, sha256: str) -> bytes | None:
        """The bytes of the file that the index lists with that SHA-256; None if there is none, or if it is another one now."""
        name = self._by_hash.get(sha256)
        if name is None or name not in self._names:
            return None
        data = self.read(name)
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def find_changes(self) -> Iterator[tuple[str, str]]:
        """Each file that isn't as it was exported, and how. Raises ArchiveError (E-ARCHIVE) for one that can't be read."""
        for name, known in self.index.files.items():
            if name not in self._names:
                yield name, "is missing"
            elif self._hash(name) != known.sha256:
                yield name, "has other bytes than were exported"
        if SUMS not in self._names:
            yield SUMS, "is missing"
        elif self.read(SUMS, most=_MOST_INDEX) != self.index.sums():
            yield SUMS, "doesn't list the hashes of the index"

    def count_others(self) -> int:
        """How many files are there that weren't exported."""
        return len(self._names - self.index.files.keys() - {INDEX, SUMS})

    def _hash(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._reading(name) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    @contextmanager
    def _reading(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._files.open(name) as file:
                yield file
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
            raise ArchiveError("archive", self.path, f"{shorten(name)} is damaged ({error})", _DAMAGED) from None
        except FileNotFoundError:
            raise ArchiveError("archive", self.path, f"{shorten(name)} is missing", _DAMAGED) from None
        except OSError as error:
            why = f"{shorten(name)}: {error.strerror or error}"
            raise ArchiveError("archive", self.path, why, "check the file") from None


def is_archive(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as a zip."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK" or path.suffix.lower() == ".zip"
    except OSError:
        return path.suffix.lower() == ".zip"


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """An exported zip, or the folder that it was unpacked to. Raises ArchiveError (E-ARCHIVE)."""
    if path.is_dir():
        yield Archive(path, _Folder(path))
        return
    try:
        with zipfile.ZipFile(path) as file:
            yield Archive(path, _Zip(path, file))
    except FileNotFoundError:
        raise ArchiveError("archive", path, "does not exist", "check the path") from None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError) as error:
        raise ArchiveError("archive", path, f"is no zip that can be read ({error})", _DAMAGED) from None


def check_name(name: str, path: Path) -> None:
    """Raise ArchiveError (E-ARCHIVE) for a name that isn't that of a file below a folder."""
    parts = name.split("/")
    is_plain = not any(part in ("", ".", "..") for part in parts) and "\\" not in name and ":" not in parts[0]
    if not is_plain or not name.isprintable() or len(name) > _LONGEST_NAME:
        why = f"has the name '{shorten(name)}', which leads out of a folder or is none"
        raise ArchiveError("archive", path, why, "don't unpack it: no export has such a name")


class _Folder:
    """An unpacked archive. Links are not followed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        found = (Path(folder, name) for folder, _, names in os.walk(self._root) for name in names)
        return [path.relative_to(self._root).as_posix() for path in found]

    def open(self, name: str) -> IO[bytes]:
        path = self._root / name
        for part in (path, *path.parents):
            if part == self._root:
                break
            if part.is_symlink():
                why = f"{shorten(name)} is a link, or in a folder that is one"
                raise ArchiveError("archive", self._root, why, "unpack it again: no export has links")
        if path.exists() and not path.is_file():
            raise ArchiveError("archive", self._root, f"{shorten(name)} is no file", "unpack it again")
        return path.open("rb")


class _Zip:
    """A zip whose entries are all as those of an export. Raises ArchiveError (E-ARCHIVE)."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._file = file
        entries = file.infolist()
        if len(entries) > _MOST_ENTRIES:
            why = f"has {len(entries):,} entries; at most {_MOST_ENTRIES:,} are read"
            raise ArchiveError("archive", path, why, _DAMAGED)
        seen: set[str] = set()
        for entry in entries:
            _check_entry(entry, path)
            if entry.filename in seen:
                raise ArchiveError("archive", path, f"has two entries '{shorten(entry.filename)}'", _DAMAGED)
            seen.add(entry.filename)
        _check_sizes(entries, path)
        self._names = [entry.filename for entry in entries if not entry.is_dir()]

    def names(self) -> list[str]:
        return self._names

    def open(self, name: str) -> IO[bytes]:
        return self._file.open(name)


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    # `orig_filename` is the name before Python has cut it at a NUL or turned backslashes round.
    check_name(entry.orig_filename.removesuffix("/"), path)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "no file"
        raise ArchiveError("archive", path, f"'{shorten(entry.filename)}' is {what}", "no export has such an entry")
    if entry.flag_bits & 1:
        raise ArchiveError("archive", path, f"'{shorten(entry.filename)}' is encrypted", "get it without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(
            "archive", path, f"'{shorten(entry.filename)}' is compressed in a way that isn't read", _DAMAGED
        )


def _check_sizes(entries: list[zipfile.ZipInfo], path: Path) -> None:
    """Raise ArchiveError (E-ARCHIVE) for entries that share bytes, and for many more bytes than the archive has."""
    ends, size = 0, path.stat().st_size
    for entry in sorted(entries, key=lambda each: each.header_offset):
        if entry.header_offset < ends:
            raise ArchiveError(
                "archive", path, f"'{shorten(entry.filename)}' shares bytes with another entry", _DAMAGED
            )
        ends = entry.header_offset + _LOCAL_HEADER + entry.compress_size
    whole = sum(entry.file_size for entry in entries)
    if whole > max(_LEAST_LIMIT, _RATIO * size):
        why = f"would hold {format_bytes(whole)} in {format_bytes(size)}, as no archive of pictures does"
        raise ArchiveError("archive", path, why, "don't unpack it")
