"""Reading, writing and copying ranges of open files, whatever the system gives at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NoReturn

from darkroom.errors import FormatError

PIECE_BYTES = 2**20
"""How much is read at a time; more falls out of a core's cache between reading, hashing and converting."""
WRITE_BYTES = 2**18
"""How much is written at a time: for more, the system looks for larger runs of free memory, which may take long."""
_NO_RANGE_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}


def read_pieces(file: int, start: int, length: int, buffer: memoryview | None = None) -> Iterator[memoryview]:
    """The bytes of a range in pieces, all but the last of PIECE_BYTES; each is valid until the next is asked for.

    `buffer` of PIECE_BYTES may be given so that many ranges share it. Raises FormatError (E-FORMAT) if the file ends
    before.
    """
    if buffer is None:
        buffer = memoryview(bytearray(min(length, PIECE_BYTES)))
    end = start + length
    while start < end:
        piece = buffer[: min(end - start, PIECE_BYTES)]
        read_range(file, piece, start)
        start += len(piece)
        yield piece


def read_range(file: int, buffer: memoryview, start: int) -> None:
    """Fill `buffer` with the bytes from `start` on. Raises FormatError (E-FORMAT) if the file ends before."""
    read = 0
    while read < len(buffer):
        got = os.preadv(file, [buffer[read:]], start + read)
        if not got:
            fail_changed()
        read += got


def write_range(file: int, data: memoryview | bytes, position: int) -> None:
    """Write all of `data` at `position`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view[:WRITE_BYTES], position)
        view = view[written:]
        position += written


def copy_range(source: int, target: int, start: int, position: int, length: int) -> None:
    """Copy bytes within the kernel, or through a buffer where the file systems can't.

    Raises FormatError (E-FORMAT) if the source ends before.
    """
    end = start + length
    while start < end:
        try:
            count = os.copy_file_range(source, target, end - start, start, position)
        except OSError as error:
            if error.errno not in _NO_RANGE_COPY:
                raise
            for piece in read_pieces(source, start, end - start):
                write_range(target, piece, position)
                position += len(piece)
            return
        if not count:
            fail_changed()
        start, position = start + count, position + count


def fail_changed() -> NoReturn:
    raise FormatError("checkpoint", None, "changed while it was read", "leave the file alone and run the command again")
