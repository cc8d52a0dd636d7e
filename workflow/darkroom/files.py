"""Files that appear whole or not at all: written under a temporary name, synced, then renamed.

A temporary name says whose it is, `.darkroom-tmp-OWNER.SUFFIX`, so that what a killed process left can be told from what
is being written.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom.errors import DiskError
from darkroom.owners import is_living, new_owner

TEMPORARY_PREFIX = ".darkroom-tmp-"


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file atomically: other readers see the old content or the new, also after a power cut.

    Raises DiskError (E-DISK) when the file system has no room or refuses; the old file is then untouched.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: every render client would pay for its imports.
        temporary = temporary_path(path)
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


def write_json(path: Path | str, data: object) -> None:
    """Write indented JSON atomically, with a newline at its end."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def temporary_path(path: Path) -> Path:
    """A name beside `path` that nobody has, for what is to become `path`."""
    return path.with_name(f"{TEMPORARY_PREFIX}{new_owner()}{path.suffix}")


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files in `folder` whose processes are gone; there may be none, and no folder."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            owner = path.name.removeprefix(TEMPORARY_PREFIX)
            if owner != path.name and not path.is_dir() and not is_living(owner, path, time.time()):
                path.unlink(missing_ok=True)


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
