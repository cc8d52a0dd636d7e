"""Files that appear whole or not at all: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from darkroom.errors import DiskError

TEMPORARY_PREFIX = ".darkroom-tmp-"


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file atomically: other readers see the old content or the new, also after a power cut.

    Raises DiskError (E-DISK) when the file system has no room or refuses; the old file is then untouched.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: every render client would pay for its imports.
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}{path.suffix}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write_json(path: Path | str, data: Any) -> None:
    """Write indented JSON atomically, with a newline at its end."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses (no room, read-only, no permission) into a DiskError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskError(
                "no room to write",
                path,
                os.strerror(error.errno),
                "free some disk space and run the same command again",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskError("can't write", path, os.strerror(error.errno), "check the folder's permissions") from error
        raise
