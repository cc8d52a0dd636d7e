"""An unfinished download: the folder KEY.part, which ranges of the file it has, and how the rest is cut into pieces.

`data` has every byte at its final offset; `state.json` names the ranges and the version of the file. Data is synced before
the state that names it is written, so that the state is true also after a power cut. Only the owner of the claim on the
folder may open it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darkroom.base.files import TEMPORARY_PREFIX

_SMALLEST_BYTES = 8 * 2**20
_LARGEST_BYTES = 128 * 2**20
_PIECES_EACH = 4
_SAVE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a file: its `size` in bytes if known, and the server's validators (RFC 9110, 8.8)."""

    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    is_date_strong: bool = False

    @property
    def if_range(self) -> str | None:
        """What `If-Range` may name: a strong ETag, or a date that tells two versions apart (RFC 9110, 13.1.5)."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified if self.is_date_strong and not self.etag else None

    def differs_from(self, other: Version) -> bool:
        """True if a field that both versions have differs."""
        pairs = [(self.size, other.size), (self.etag, other.etag)]
        if not (self.etag and other.etag):
            pairs.append((self.last_modified, other.last_modified))
        return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)


@dataclass(slots=True)
class Piece:
    """The range [start, end) of one request; `start` moves as bytes come, `end` is None while the size is unknown."""

    start: int
    end: int | None

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.start >= self.end


class Ranges:
    """Sorted ranges that neither touch nor overlap."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add the bytes [start, end)."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(list(self._starts), list(self._ends), strict=True)

    @property
    def count(self) -> int:
        """The number of bytes in all ranges."""
        return sum(self._ends) - sum(self._starts)

    @property
    def front(self) -> int:
        """The number of bytes from the beginning of the file to the first gap."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def end(self) -> int:
        """Where the last range ends."""
        return self._ends[-1] if self._ends else 0

    def gaps(self, size: int) -> list[tuple[int, int]]:
        """The ranges that a file of `size` bytes still lacks."""
        starts, ends = [0, *self._ends], [*self._starts, size]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


class Partial:
    """An open partial download. Several threads write to it, and others (`readers`) follow its front."""

    def __init__(self, folder: Path, *, is_shared: bool = False) -> None:
        """Open or create it. `is_shared`: a process elsewhere that only seems dead may have the old file open."""
        self.folder = folder
        self.data = folder / "data"
        self.changed = threading.Condition()
        self.version = Version()
        self.ranges = Ranges()
        self.readers: list[threading.Thread] = []
        self.is_closed = self.is_finished = False
        self.generation = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._load()
        if is_shared and self.data.exists():
            own = folder / f"{TEMPORARY_PREFIX}{os.urandom(4).hex()}"
            shutil.copyfile(self.data, own)
            own.replace(self.data)
        self.file = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o666)
        self.resumed = self.ranges.count
        self._saver = threading.Thread(target=self._save_now_and_then, daemon=True)
        self._saver.start()

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at their offset; does nothing once it is closed. Raises OSError."""
        with self.changed:
            if self.is_closed:
                return
            end = offset
            while end < offset + len(data):
                end += os.pwrite(self.file, data[end - offset :], end)
            self.ranges.add(offset, end)
            self.changed.notify_all()

    def wait_for(self, position: int, generation: int) -> int:
        """Wait until the front is beyond `position`, and return it; at most `position` if nothing more will come."""
        with self.changed:
            self.changed.wait_for(lambda: self._is_over(generation) or self.ranges.front > position)
            return -1 if self.is_closed or self.generation != generation else self.ranges.front

    def _is_over(self, generation: int) -> bool:
        return self.is_closed or self.is_finished or self.generation != generation

    def finish(self) -> None:
        """Nothing more will come: the file is complete."""
        with self.changed:
            self.is_finished = True
            self.changed.notify_all()

    def restart(self, version: Version) -> None:
        """Drop all bytes; those that come now are of `version`."""
        with self.changed:
            self.version, self.ranges, self.resumed = version, Ranges(), 0
            self.is_finished, self.generation = False, self.generation + 1
            os.ftruncate(self.file, 0)
            self._write_state([])
            self.changed.notify_all()

    def adopt(self, version: Version) -> None:
        """Keep the bytes, and replace what is known of their version."""
        self.version = version

    def set_size(self, size: int) -> None:
        """The file's size is now known."""
        self.version = replace(self.version, size=size)

    def save(self) -> None:
        """Sync the data and write the state."""
        with self.changed:
            ranges, closed = list(self.ranges), self.is_closed
        if not closed:
            os.fdatasync(self.file) if hasattr(os, "fdatasync") else os.fsync(self.file)
            self._write_state(ranges)

    def close(self) -> None:
        """Save and close it; other threads' writes are dropped from now on. An empty one is deleted."""
        if not self.ranges.count:
            self.discard()
            return
        self._stop()
        try:
            os.fsync(self.file)
            with suppress(OSError):  # without it the next run resumes from the last state
                self._write_state(list(self.ranges))
        finally:
            os.close(self.file)

    def discard(self) -> None:
        """Close it if it is open, and delete it."""
        if not self.is_closed:
            self._stop()
            os.close(self.file)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self) -> None:
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()
        for thread in (self._saver, *self.readers):
            thread.join()

    def _save_now_and_then(self) -> None:
        saved: list[tuple[int, int]] | None = None
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.is_closed, timeout=_SAVE_EVERY_S)
                if self.is_closed:
                    return
                now = list(self.ranges)
            if now != saved:
                with suppress(OSError):  # a full disk shows when bytes are written
                    self.save()
                saved = now

    def _write_state(self, ranges: list[tuple[int, int]]) -> None:
        version = self.version
        state = {
            "size": version.size,
            "etag": version.etag,
            "last_modified": version.last_modified,
            "is_date_strong": version.is_date_strong,
            "ranges": ranges,
        }
        new = self.folder / f"{TEMPORARY_PREFIX}state-{threading.get_ident()}"
        new.write_text(json.dumps(state), encoding="utf-8")
        new.replace(self.folder / "state.json")

    def _load(self) -> None:
        """Read what an earlier owner left; a broken state counts as none."""
        try:
            state: Any = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            length = self.data.stat().st_size
            version = Version(state["size"], state["etag"], state["last_modified"], state["is_date_strong"])
            ranges = [(int(start), int(end)) for start, end in state["ranges"]]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return
        if all(0 <= start < end <= length for start, end in ranges):
            self.version, self.ranges = version, Ranges(ranges)


def cut_into_pieces(gaps: Iterable[tuple[int, int]], connections: int) -> list[Piece]:
    """Pieces in the file's order: a few for each connection, so that a slow connection doesn't hold up the end."""
    gaps = list(gaps)
    missing = sum(end - start for start, end in gaps)
    size = min(_LARGEST_BYTES, max(_SMALLEST_BYTES, missing // (connections * _PIECES_EACH)))
    return [Piece(at, min(at + size, end)) for start, end in gaps for at in range(start, end, size)]
