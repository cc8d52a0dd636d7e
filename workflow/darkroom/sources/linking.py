"""Bringing a file's bytes to a second place: linked where the file system can, else copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from darkroom.errors import SourceError

_COPY_BYTES = 64 * 2**20
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def link_or_copy(path: Path, dest: Path) -> None:
    """Make `dest`, which must not exist yet, the same file as `path`, or a synced copy of it. Raises OSError.

    Raises SourceError (E-SOURCE) if the file gets shorter while it is copied.
    """
    try:
        os.link(path, dest)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(path, dest)


def _copy(path: Path, dest: Path) -> None:
    with path.open("rb", buffering=0) as reader, dest.open("xb", buffering=0) as writer:
        size = os.fstat(reader.fileno()).st_size
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        position = 0
        while position < size:
            copied = os.sendfile(writer.fileno(), reader.fileno(), position, min(_COPY_BYTES, size - position))
            if not copied:
                raise SourceError("source", path, "was cut short while it was copied", "leave the file alone meanwhile")
            position += copied
        os.fsync(writer.fileno())
