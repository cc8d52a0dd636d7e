"""The gallery's data beside results/index.html: scripts in results/thumbnails/_gallery that the page loads as it needs them.

A page that is opened from disk can load scripts and pictures, but nothing else. A chunk's name ends with the SHA256 of its bytes: the
page names the chunks it was made with, an earlier page goes on with its own until the new one is there, and whether a
chunk is whole can be told from the file alone. Only what changed is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from darkroom.base.files import disk_errors, remove_unfinished_files, write_bytes
from darkroom.pictures.records import CHUNKS

TIMES = f"{CHUNKS}/times.js"
"""When each picture was made. It has a fixed name, and the page doesn't hold its hash, which the pictures alone decide."""
_DIGITS = 32
_NAME = re.compile(rf"(?:blocks|texts|details)-([0-9a-f]{{{_DIGITS}}})\.js")
_LISTED = re.compile(rb'"((?:blocks|texts|details)-[0-9a-f]{%d}\.js)"' % _DIGITS)


def make_chunk(kind: str, number: int, rows: Iterable[str]) -> bytes:
    """The bytes of one chunk: a call that hands JSON rows to the page. `kind` is blocks, texts or details."""
    body = ",\n".join(rows)
    return f'Gallery.receive("{kind}",{number},[{body}]);\n'.encode()


def write_chunks(results: Path, chunks: Mapping[str, Sequence[bytes]]) -> dict[str, list[str]]:
    """Write the chunks of each kind that aren't there, or damaged; returns their names. Raises DiskError (E-DISK)."""
    return {kind: [_write(results, kind, data) for data in each] for kind, each in chunks.items()}


def write_times(results: Path, pictures: str, times: Sequence[int]) -> None:
    """Write when each picture's file was made, in seconds, for the page that shows the pictures of this digest."""
    data = f'Gallery.receive("times",0,{json.dumps([pictures, *times], separators=(",", ":"))});\n'.encode()
    path = results / TIMES
    if not (path.is_file() and path.read_bytes() == data):
        write_bytes(path, data)


def remove_stale_chunks(results: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Remove the chunks that are not among `names`, after the page that names them was written. Raises DiskError (E-DISK)."""
    wanted = {name for each in names.values() for name in each}
    folder = results / CHUNKS
    for path in list(folder.glob("*-*.js")):
        if path.name not in wanted and _NAME.fullmatch(path.name):
            with disk_errors(path), suppress(FileNotFoundError):
                path.unlink()
    remove_unfinished_files(folder)


def stamp_chunks(results: Path) -> str | None:
    """A hash of names, sizes and times of the files in the chunks' folder, which changes when one of them does; None without it.

    It takes a few milliseconds, so that planning reads the page and its chunks only after something has changed.
    """
    try:
        with os.scandir(results / CHUNKS) as entries:
            found = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    except FileNotFoundError:
        return ""
    except OSError:
        return None
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def find_damaged_chunks(results: Path, page: bytes) -> Iterator[Path]:
    """The chunks of a page that are missing or not as they were written."""
    for path in chunk_paths(results, page):
        found = _NAME.fullmatch(path.name)
        try:
            if found is not None and not _digest(path.read_bytes()).startswith(found[1]):
                yield path
        except OSError:
            yield path
    if _LISTED.search(page) and not (results / TIMES).is_file():
        yield results / TIMES


def chunk_paths(results: Path, page: bytes) -> list[Path]:
    """Where the chunks of a page lie; none for a page of an earlier version."""
    return [results / CHUNKS / name.decode() for name in dict.fromkeys(_LISTED.findall(page))]


def _write(results: Path, kind: str, data: bytes) -> str:
    path = results / CHUNKS / f"{kind}-{_digest(data)}.js"
    try:
        is_there = path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        is_there = False
    if not is_there:
        write_bytes(path, data)
    return path.name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
