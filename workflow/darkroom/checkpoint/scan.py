"""Reading a weight file once, for its SHA256 and for numbers that no model can work with."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

from darkroom.checkpoint.byte_ranges import PIECE_BYTES, read_range
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.numbers import holds_nonfinite
from darkroom.errors import NanWeightError

_BUFFERS = 4
_HINT = "download it again; if its SHA256 is right, the weights were saved broken: use another version"


def scan(
    file: int, header: Header, name: object, *, checked: Container[str] | None = None, stop: Event | None = None
) -> str:
    """The SHA256 (hex) of an open safetensors file, of which `header` was read; `name` is the file's, for errors.

    Tensors of which the name is in `checked` (None: all) are looked through on the way. Raises NanWeightError
    (E-NANWEIGHT) that names the first tensor with NaN or Inf. `stop` ends the reading early, without a hash.
    """
    hasher = _Hasher()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="darkroom-sha256") as pool:
        hashing = pool.submit(hasher.run)
        try:
            for start, end, dtype, tensor in _segments(header, checked):
                for position in range(start, end, PIECE_BYTES):
                    if stop is not None and stop.is_set():
                        return ""
                    buffer = hasher.spare.get()
                    piece = buffer[: min(end - position, PIECE_BYTES)]
                    read_range(file, piece, position)
                    hasher.full.put((buffer, len(piece)))
                    if dtype is not None and holds_nonfinite(piece, dtype):
                        raise NanWeightError("checkpoint", name, f"the tensor '{tensor}' holds NaN or Inf", _HINT)
        finally:
            hasher.full.put(None)
        return hashing.result()


class _Hasher:
    """Hashes what is put into `full`, a buffer and how much of it counts, and gives the buffers back through `spare`.

    SHA256 takes longer than everything else that is done with a file: in a thread of its own it never waits.
    """

    def __init__(self) -> None:
        self.spare: SimpleQueue[memoryview] = SimpleQueue()
        self.full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for _ in range(_BUFFERS):
            self.spare.put(memoryview(bytearray(PIECE_BYTES)))

    def run(self) -> str:
        """Hash until None comes; the SHA256 in hex."""
        digest = hashlib.sha256()
        while (found := self.full.get()) is not None:
            buffer, count = found
            digest.update(buffer[:count])
            self.spare.put(buffer)
        return digest.hexdigest()


def _segments(header: Header, checked: Container[str] | None) -> Iterator[tuple[int, int, str | None, str]]:
    """The whole file as ranges (start, end, dtype or None, tensor); what needs no look is joined into long ones."""
    begun = position = 0
    for name, info in sorted(header.tensors.items(), key=lambda item: item[1].start):
        if checked is None or name in checked:
            start, end = header.data_offset + info.start, header.data_offset + info.end
            if begun < start:
                yield begun, start, None, ""
            yield start, end, info.dtype, name
            begun = position = end
    if position < header.file_size:
        yield begun, header.file_size, None, ""
