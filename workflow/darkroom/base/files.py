"""Files that appear whole or not at all; ranges of open files; hard links and copies; free space.

A temporary file's name says whose it is, `.darkroom-tmp-OWNER.SUFFIX`, which tells one that is being written from one
that a killed process left behind.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from darkroom.base.processes import is_living, new_owner
from darkroom.base.text import format_bytes
from darkroom.errors import DiskError, FormatError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from typing import Any, NoReturn

TEMPORARY_PREFIX = ".darkroom-tmp-"
PIECE_BYTES = 2**20
"""How much is read at a time; more falls out of a core's cache between reading, hashing and converting."""
WRITE_BYTES = 2**18
"""How much is written at a time: for more, the system looks for larger runs of free memory, which may take long."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_RANGE_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

Stamp = tuple[int, int, int]


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file atomically: other readers see the old content or the new, also after a power cut.

    Raises DiskError (E-DISK) if the disk is full or the file system refuses; the old file is then untouched.
    """
    write_together({Path(path): data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files as `write_bytes` does; none appears before all are on the disk. Raises DiskError (E-DISK)."""
    with ExitStack() as stack:
        for path, data in files.items():
            stack.enter_context(disk_errors(path))
            temporary = stack.enter_context(replacing(path))
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def write_cache(path: Path, data: bytes) -> None:
    """Write a file that others see whole or not at all, but which a power cut may lose or leave empty.

    For files that are made again when their size or hash is wrong: waiting for the disk takes longer than making one.
    Raises DiskError (E-DISK).
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def write_json(path: Path | str, data: object) -> None:
    """Write indented JSON atomically, with a newline at its end. Raises DiskError (E-DISK)."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file is missing, broken or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` for the block to make a file at; at the block's end it replaces `path`.

    If the block raises, the temporary file is deleted and `path` is untouched. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):  # still there, too, if both were hard links to one file (rename(2))
            os.unlink(temporary)


def temporary_path(path: Path) -> Path:
    """An unused name beside `path`, for a file that is to replace `path`."""
    # Not tempfile: every render client would pay for its imports.
    return path.with_name(f"{TEMPORARY_PREFIX}{new_owner()}{path.suffix}")


def remove_unfinished_files(folder: Path) -> None:
    """Remove the temporary files in `folder` whose processes are gone; the folder may be missing."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            owner = path.name.removeprefix(TEMPORARY_PREFIX)
            if owner != path.name and not path.is_dir() and not is_living(owner, path, time.time()):
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_stamp(status: os.stat_result) -> Stamp:
    """What changes when a file is written to or replaced: size in bytes, modification time in ns, inode."""
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about a full disk, a read-only volume or permissions into a DiskError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            hint = "free some disk space and run the same command again"
        elif error.errno in _REFUSED:
            hint = "check the folder's permissions"
        else:
            raise
        raise DiskError("can't write", path, os.strerror(error.errno), hint) from error


def check_free_space(path: Path, need: int, what: str, hint: str) -> None:
    """Raise DiskError (E-DISK) if fewer than `need` bytes, which `what` takes, are free where `path` is or will be."""
    import shutil  # here, since every picture would pay for it

    with disk_errors(path):
        free = shutil.disk_usage(next(folder for folder in (path, *path.absolute().parents) if folder.exists())).free
    if need > free:
        why = f"{what} needs {format_bytes(need)}, {format_bytes(free)} are free"
        raise DiskError("not enough free space for", path, why, hint)


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
    """Write all of `data` at `position`. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view[:WRITE_BYTES], position)
        view = view[written:]
        position += written


def copy_range(source: int, target: int, start: int, position: int, length: int) -> None:
    """Copy bytes within the kernel, or through a buffer where the file systems can't.

    Raises FormatError (E-FORMAT) if the source ends before, OSError.
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
    """Raise FormatError (E-FORMAT): the checkpoint changed while it was read."""
    raise FormatError("checkpoint", None, "changed while it was read", "leave the file alone and run the command again")


def link(path: Path, dest: Path) -> bool:
    """Make `dest` a hard link to `path`; False where the file system has no links or they would lead elsewhere.

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
    """Make `dest` a hard link to `path`, or a synced copy of it. Raises what `link` and `copy` raise."""
    if not link(path, dest):
        copy(path, dest)
