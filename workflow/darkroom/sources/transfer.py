"""Downloading one file: resumed where it stopped, in parallel ranges, never of two versions, hashed as it comes.

Every request for a part names the version that it wants (`If-Range`), and every response is checked for the range and the
version that it is of. What comes is written to its final place and hashed behind the front; nothing has a name
before its hash is known.
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
from darkroom.sources.progress import Progress
from darkroom.sources.range_request import NO_VERSION, START_BYTES, RangeRequests, StartOver, WrongRange, check_size
from darkroom.sources.retry import RetryPolicy
from darkroom.sources.source import RemoteFile
from darkroom.sources.web import HttpClient, Response
from darkroom.sources.workers import Workers


class FollowingHash(threading.Thread):
    """The SHA256 of a partial download's bytes from the beginning, or of a safetensors file's data alone."""

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
        """The hash, once the download is finished."""
        self.join()
        return self._digest.hexdigest()


PARALLEL_FROM_BYTES = 32 * 2**20
"""What is still missing has to be at least this much for more than one connection."""
_MAX_CHANGES = 3
_FREE_SPACE_HINT = "free some disk space and run the same command again"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`sha256` of the whole file; `data_sha256` of a safetensors file's data, without its header."""

    size: int
    sha256: str
    data_sha256: str | None = None
    version: Version = field(default_factory=Version)


class WrongBytes(Exception):
    """What came has the SHA256 `found`, which is not the wanted one."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


class Transfer:
    """One download of one file into `partial`."""

    def __init__(
        self,
        source: str,
        file: RemoteFile,
        partial: Partial,
        client: HttpClient,
        *,
        is_weights: bool,
        wanted: str | None,
        connections: int,
        stall_timeout_s: float,
        retry: RetryPolicy,
        progress: Progress,
    ) -> None:
        """`wanted` is the SHA256 that the file must have, where anybody knows it."""
        self._source = source
        self._file = file
        self._partial = partial
        self._is_weights = is_weights
        self._wanted = wanted
        self._connections = connections
        self._retry = retry
        self._progress = progress
        self._requests = RangeRequests(source, file, partial, client, wanted, is_weights=is_weights)
        self._workers = Workers(
            source, self._requests, partial, stall_timeout_s=stall_timeout_s, retry=retry, progress=progress
        )
        self._hashes: list[FollowingHash] = []

    def run(self) -> Downloaded:
        """Bring what is missing and check the hash. The partial download is kept whatever fails.

        Raises WrongBytes for another hash than is wanted, NotWeightsError, PickleError or FormatError for what is no
        safetensors file, HashError (E-HASH) for another size than the source promises, RangeError, StallError,
        NetworkError, AuthError, SourceError, DiskError.
        """
        partial = self._partial
        if partial.resumed and not self._requests.can_resume:
            self._progress.say(NO_VERSION)
            partial.restart(Version())
        elif partial.resumed:
            size = partial.version.size
            self._progress.say(
                f"resuming {format_progress(partial.resumed, size) if size else format_bytes(partial.resumed)}"
            )
        try:
            while True:
                was_resumed = partial.resumed > 0
                self._follow()
                with disk_errors(partial.folder):
                    self._bring_all()
                    partial.finish()
                    sha256, *data = [each.hexdigest() for each in self._hashes]
                if self._wanted is None or sha256 == self._wanted:
                    return Downloaded(partial.ranges.front, sha256, data[0] if data else None, partial.version)
                if not was_resumed:
                    raise WrongBytes(sha256)
                self._progress.say("what was resumed has another hash than expected, starting again")
                partial.restart(Version())
        finally:
            self._progress.end()

    def _follow(self) -> None:
        """Hash what is there and what comes from now on."""
        kinds = [False, True] if self._is_weights else [False]
        self._hashes = [FollowingHash(self._partial, data_only=kind) for kind in kinds]

    def _restart(self, version: Version) -> None:
        self._partial.restart(version)
        self._follow()

    def _bring_all(self) -> None:
        """Bring every missing byte, starting over where the server leaves no other way."""
        changes = restarts = wrong = 0
        pending: Response | None = None
        while True:
            try:
                return self._bring(pending)
            except StartOver as again:
                self._progress.say(again.why)
                changes, restarts = (changes + 1, 0) if again.is_change else (changes, restarts + 1)
                if changes > _MAX_CHANGES or restarts > max(1, self._retry.retries):
                    if again.response is not None:
                        again.response.close()
                    why = "keeps changing" if restarts == 0 else "can't be resumed, and the connection is cut each time"
                    raise NetworkError("source", self._source, why, "run the same command again later") from None
                self._restart(again.version)
                pending = again.response
            except WrongRange as error:
                wrong += 1
                self._restart(Version())
                pending = None
                if wrong > 1:
                    hint = "fetch it another way, and give its path"
                    raise RangeError("source", self._source, str(error), hint) from None
                self._progress.say(f"{error}, restarting")

    def _bring(self, response: Response | None) -> None:
        """Bring every missing byte; `response`, if any, gives the file from its beginning."""
        partial = self._partial
        piece = Piece(partial.ranges.front, None)
        if (size := partial.version.size) is not None:
            if not (gaps := partial.ranges.gaps(size)):
                return
            piece.end = gaps[0][1]
        response = response or self._retry.attempt(self._source, lambda: self._requests.open(piece))
        if response is None:
            return
        if piece.start == 0:
            # Which were looked at already. From now on there is something that all other responses have to belong to.
            start = response.read(START_BYTES)
            partial.write(0, start)
            piece.start = len(start)
        try:
            size = partial.version.size
            check_size(self._source, self._file, size)
            if size is not None:
                check_free_space(partial.folder, size - partial.ranges.count, self._source, _FREE_SPACE_HINT)
        except BaseException:
            response.close()
            raise
        self._progress.begin(size, partial.ranges.count)
        if size is None:
            self._workers.bring([piece], response, 1)
        elif self._may_part(size):
            self._workers.bring(
                cut_into_pieces(partial.ranges.gaps(size), self._connections), response, self._connections
            )
        else:
            self._workers.bring([Piece(start, end) for start, end in partial.ranges.gaps(size)], response, 1)

    def _may_part(self, size: int) -> bool:
        missing = size - self._partial.ranges.count
        can_part = self._requests.has_ranges and self._requests.can_resume
        return can_part and self._connections > 1 and missing >= PARALLEL_FROM_BYTES
