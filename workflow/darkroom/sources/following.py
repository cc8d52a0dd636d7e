"""Hashing a file while it is being downloaded: behind the front, from the page cache, so that nothing is read twice."""

from __future__ import annotations

import hashlib
import os
import threading

from darkroom.hashing import BLOCK_BYTES
from darkroom.sources.partial import Partial


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
