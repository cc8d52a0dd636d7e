"""Bringing a file's bytes to a second place: linked where the file system can, else copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from darkroom.checkpoint.byte_ranges import copy_range

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def link(path: Path, dest: Path) -> bool:
    """Make `dest` the same file as `path`; False where the file system has no links or they would lead elsewhere.

    Raises OSError for all else.
    """
    try:
        os.link(path, dest)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def copy(path: Path, dest: Path) -> None:
    """Make `dest`, which must not exist yet, a synced copy of `path`.

    Raises FormatError (E-FORMAT) if the file gets shorter meanwhile, OSError.
    """
    with path.open("rb", buffering=0) as reader, dest.open("xb", buffering=0) as writer:
        copy_range(reader.fileno(), writer.fileno(), 0, 0, os.fstat(reader.fileno()).st_size)
        os.fsync(writer.fileno())


def link_or_copy(path: Path, dest: Path) -> None:
    """Make `dest` the same file as `path`, or a synced copy of it. Raises what `link` and `copy` raise."""
    if not link(path, dest):
        copy(path, dest)
