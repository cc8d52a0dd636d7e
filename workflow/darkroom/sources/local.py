"""Fetching a local file: linked where the file system can, else copied; never half there."""

from __future__ import annotations

import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from darkroom.checkpoint.header import Header, read_header
from darkroom.errors import HashError, SourceError
from darkroom.files import TEMPORARY_PREFIX, disk_errors, sync_folder
from darkroom.hashing import autov2, autov3, hash_file
from darkroom.sources.receipt import FetchReceipt

_COPY_BYTES = 64 * 2**20
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def fetch_local(source: str, dest: Path, *, sha256: str | None) -> FetchReceipt:
    """Put the file `source` at `dest`; whatever was at `dest` stays until the new file is checked.

    Raises SourceError (E-SOURCE) where there is no such file, the CheckpointErrors for what is not a safetensors
    file, HashError (E-HASH) for other bytes than `sha256` promises, DiskError (E-DISK).
    """
    path = _resolve(source)
    read_header(path)
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        if _is_same_file(path, dest):
            return _receipt(source, dest, sha256)
        temporary = _temporary_name(dest)
        try:
            _link_or_copy(path, temporary)
            # Checked under its temporary name: what is hashed is what appears at `dest`.
            receipt = _receipt(source, temporary, sha256)
            os.replace(temporary, dest)
            sync_folder(dest.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    return receipt


def _resolve(source: str) -> Path:
    path = Path(source).expanduser()
    try:
        path = path.resolve(strict=True)
    except FileNotFoundError:
        raise SourceError(
            "source", source, "does not exist", "check the checkpoint's source in the configuration"
        ) from None
    except OSError as error:
        raise SourceError("source", source, error.strerror or "can't be read", "check the path") from None
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "is not a regular file"
        raise SourceError("source", source, kind, "give the path of a .safetensors file")
    if not os.access(path, os.R_OK):
        raise SourceError("source", source, "can't be read: permission denied", "check the file's permissions")
    return path


def _is_same_file(path: Path, dest: Path) -> bool:
    try:
        return dest.samefile(path) and not dest.is_symlink()
    except FileNotFoundError:
        return False


def _temporary_name(dest: Path) -> Path:
    """A name that nobody has, in the folder of `dest`."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=dest.suffix, dir=dest.parent)
    os.close(handle)
    os.unlink(name)
    return Path(name)


def _link_or_copy(path: Path, temporary: Path) -> None:
    try:
        os.link(path, temporary)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(path, temporary)


def _copy(path: Path, temporary: Path) -> None:
    with path.open("rb", buffering=0) as reader, temporary.open("xb", buffering=0) as writer:
        size = os.fstat(reader.fileno()).st_size
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        position = 0
        while position < size:
            copied = os.sendfile(writer.fileno(), reader.fileno(), position, min(_COPY_BYTES, size - position))
            if not copied:
                raise SourceError("source", path, "was cut short while it was copied", "leave the file alone meanwhile")
            position += copied
        os.fsync(writer.fileno())


def _receipt(source: str, path: Path, sha256: str | None) -> FetchReceipt:
    header: Header = read_header(path)
    with ThreadPoolExecutor(max_workers=2) as pool:
        whole = pool.submit(hash_file, path)
        data = pool.submit(hash_file, path, skip=header.data_offset)
    found = whole.result()
    if sha256 is not None and found != sha256.lower():
        why = f"its SHA256 is {found}, expected {sha256.lower()}"
        raise HashError("source", source, why, "check the file, or mend the checkpoint's sha256 in the configuration")
    return FetchReceipt(
        source=source,
        size=header.file_size,
        sha256=found,
        autov2=autov2(found),
        autov3=autov3(data.result()),
        title=header.metadata.get("modelspec.title"),
        architecture=header.metadata.get("modelspec.architecture"),
    )
