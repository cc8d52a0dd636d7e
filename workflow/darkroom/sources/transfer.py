"""Downloading one file: resumable, in parallel ranges, all of one version, hashed while it is downloaded.

Every range request names its version (`If-Range`), and every response is checked for its range and its version. Bytes are
written at their final offset and hashed as soon as all bytes before them are there; the file gets its name in the store
once its hash is known.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field

from darkroom.base.files import check_free_space, disk_errors
from darkroom.base.hashing import BLOCK_BYTES
from darkroom.base.text import format_bytes, format_progress
from darkroom.errors import NetworkError, RangeError
from darkroom.sources.partial import Partial, Piece, Version, cut_into_pieces
from darkroom.sources.range_request import (
    NO_VERSION,
    START_BYTES,
    DownloadTask,
    RangeRequests,
    StartOver,
    WrongRange,
    check_size,
)
from darkroom.sources.web import Response
from darkroom.sources.workers import Workers

PARALLEL_FROM_BYTES = 32 * 2**20
"""Several connections are used if at least this much is missing."""
_MAX_CHANGES = 3
_FREE_SPACE_HINT = "free some disk space and run the same command again"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`size` in bytes, `sha256` of the whole file; `data_sha256` of a safetensors file's data, without its header."""

    size: int
    sha256: str
    data_sha256: str | None = None
    version: Version = field(default_factory=Version)


class WrongBytes(Exception):
    """The download has the SHA256 `found`, which is not the wanted one."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


class Transfer:
    """One download of one file."""

    def __init__(self, task: DownloadTask) -> None:
        self._task = task
        self._requests = RangeRequests(task)
        self._workers = Workers(task, self._requests)
        self._hashes: list[FollowingHash] = []

    def run(self) -> Downloaded:
        """Download what is missing and check the hash. The partial download is kept, whatever fails.

        Raises WrongBytes for another hash than the wanted one, NotWeightsError, PickleError or FormatError for what is no
        safetensors file, HashError (E-HASH) for another size than the source promises, RangeError, StallError,
        NetworkError, AuthError, SourceError, DiskError.
        """
        partial = self._task.partial
        if partial.resumed and not self._requests.can_resume:
            self._task.progress.say(NO_VERSION)
            partial.restart(Version())
        elif partial.resumed:
            size = partial.version.size
            self._task.progress.say(
                f"resuming {format_progress(partial.resumed, size) if size else format_bytes(partial.resumed)}"
            )
        try:
            while True:
                was_resumed = partial.resumed > 0
                self._follow()
                with disk_errors(partial.folder):
                    self._download_all()
                    partial.finish()
                    sha256, *data = [each.hexdigest() for each in self._hashes]
                if self._task.wanted is None or sha256 == self._task.wanted:
                    return Downloaded(partial.ranges.front, sha256, data[0] if data else None, partial.version)
                if not was_resumed:
                    raise WrongBytes(sha256)
                self._task.progress.say("the resumed download has another hash than expected, starting again")
                partial.restart(Version())
        finally:
            self._task.progress.end()

    def _follow(self) -> None:
        """Start hashing the partial download from its beginning."""
        kinds = [False, True] if self._task.is_weights else [False]
        self._hashes = [FollowingHash(self._task.partial, data_only=kind) for kind in kinds]

    def _restart(self, version: Version) -> None:
        self._task.partial.restart(version)
        self._follow()

    def _download_all(self) -> None:
        """Download every missing byte, starting over if there is no other way."""
        changes = restarts = wrong = 0
        pending: Response | None = None
        while True:
            try:
                return self._download(pending)
            except StartOver as again:
                self._task.progress.say(again.why)
                changes, restarts = (changes + 1, 0) if again.is_change else (changes, restarts + 1)
                if changes > _MAX_CHANGES or restarts > max(1, self._task.retry.retries):
                    if again.response is not None:
                        again.response.close()
                    why = "keeps changing" if restarts == 0 else "can't be resumed, and the connection is cut each time"
                    raise NetworkError("source", self._task.source, why, "run the same command again later") from None
                self._restart(again.version)
                pending = again.response
            except WrongRange as error:
                wrong += 1
                self._restart(Version())
                pending = None
                if wrong > 1:
                    hint = "fetch it another way, and give its path"
                    raise RangeError("source", self._task.source, str(error), hint) from None
                self._task.progress.say(f"{error}, restarting")

    def _download(self, response: Response | None) -> None:
        """Download every missing byte; `response`, if any, is the file from its beginning."""
        partial = self._task.partial
        piece = Piece(partial.ranges.front, None)
        if (size := partial.version.size) is not None:
            if not (gaps := partial.ranges.gaps(size)):
                return
            piece.end = gaps[0][1]
        response = response or self._task.retry.attempt(self._task.source, lambda: self._requests.open(piece))
        if response is None:
            return
        if piece.start == 0:
            # These were checked already. All further responses have to be of the version that is begun here.
            start = response.read(START_BYTES)
            partial.write(0, start)
            piece.start = len(start)
        try:
            size = partial.version.size
            check_size(self._task.source, self._task.file, size)
            if size is not None:
                check_free_space(partial.folder, size - partial.ranges.count, self._task.source, _FREE_SPACE_HINT)
        except BaseException:
            response.close()
            raise
        self._task.progress.begin(size, partial.ranges.count)
        if size is None:
            self._workers.download([piece], response, 1)
        elif self._can_split(size):
            self._workers.download(
                cut_into_pieces(partial.ranges.gaps(size), self._task.connections), response, self._task.connections
            )
        else:
            self._workers.download([Piece(start, end) for start, end in partial.ranges.gaps(size)], response, 1)

    def _can_split(self, size: int) -> bool:
        missing = size - self._task.partial.ranges.count
        can_split = self._requests.has_ranges and self._requests.can_resume
        return can_split and self._task.connections > 1 and missing >= PARALLEL_FROM_BYTES


class FollowingHash(threading.Thread):
    """Computes the SHA256 of a growing partial download, or of a safetensors file's data without its header."""

    def __init__(self, partial: Partial, *, data_only: bool = False) -> None:
        super().__init__(daemon=True)
        self._partial = partial
        self._generation = partial.generation
        self._data_only = data_only
        self._digest = hashlib.sha256()
        partial.readers.append(self)
        self.start()

    def run(self) -> None:
        block = memoryview(bytearray(BLOCK_BYTES))
        position = 0
        if self._data_only:
            if self._partial.wait_for(7, self._generation) < 8:
                return
            position = 8 + int.from_bytes(os.pread(self._partial.file, 8, 0), "little")
        while (front := self._partial.wait_for(position, self._generation)) > position:
            got = os.preadv(self._partial.file, [block[: front - position]], position)
            self._digest.update(block[:got])
            position += got

    def hexdigest(self) -> str:
        """The hash (lower-case hex); waits until the download is finished."""
        self.join()
        return self._digest.hexdigest()
