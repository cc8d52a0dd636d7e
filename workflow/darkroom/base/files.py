"""Files that appear whole or not at all; ranges of open files; hard links and copies; free space.

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

from darkroom.base.processes import is_living, new_owner
from darkroom.base.text import in_bytes
from darkroom.errors import DiskError, FormatError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from typing import NoReturn

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


def check_room(folder: Path, source: str, need: int | None) -> None:
    """Raise DiskError (E-DISK) if fewer than `need` bytes are free where `folder` lies."""
    import shutil  # which every picture would pay for

    free = shutil.disk_usage(folder).free
    if need is not None and need > free:
        why = f"{in_bytes(need)} are needed for {source}, {in_bytes(free)} are free"
        raise DiskError("no room to download to", folder, why, "free some disk space and run the same command again")
