"""Fetching a local file: linked where the file system can, else copied; never half there."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from darkroom.checkpoint.header import Header, read_header
from darkroom.checkpoint.linking import link_or_copy
from darkroom.checkpoint.sidecar import read_sidecar
from darkroom.errors import SourceError
from darkroom.files import disk_errors, sync_folder, temporary_path
from darkroom.hashing import check_sha256, hash_file
from darkroom.sources.dates import first_fetched
from darkroom.sources.receipt import FetchReceipt

SHA256_HINT = "check the file, or mend the source's sha256 in the configuration"


def fetch_local(
    source: str,
    dest: Path,
    *,
    sha256: str | None,
    check: Callable[[Path], object],
    dates: Path | None = None,
) -> FetchReceipt:
    """Put the file `source` at `dest`; whatever was at `dest` stays until the new file is checked.

    `dates` is the file that remembers when bytes were first fetched. Raises what `check` raises of the file, and
    SourceError (E-SOURCE) where there is no such file, the CheckpointErrors for what is not a safetensors file,
    HashError (E-HASH) for other bytes than `sha256` promises, ConfigError (E-CONFIG) for a broken sidecar, DiskError
    (E-DISK).
    """
    path = _resolve(source)
    read_header(path)
    check(path)
    parameterization = read_sidecar(Path(source).expanduser())  # beside the link, where the source is one
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        if _is_same_file(path, dest):
            return _receipt(source, dest, sha256, parameterization, dates)
        temporary = temporary_path(dest)
        try:
            link_or_copy(path, temporary)
            # Checked under its temporary name: what is hashed is what appears at `dest`.
            receipt = _receipt(source, temporary, sha256, parameterization, dates)
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
        raise SourceError("source", source, "does not exist", "check the source in the configuration") from None
    except OSError as error:
        raise SourceError("source", source, error.strerror or "can't be read", "check the path") from None
    if not path.is_file():
        raise SourceError("source", source, "is not a regular file", "give the path of a .safetensors file")
    if not os.access(path, os.R_OK):
        raise SourceError("source", source, "can't be read: permission denied", "check the file's permissions")
    return path


def _is_same_file(path: Path, dest: Path) -> bool:
    try:
        return dest.samefile(path) and not dest.is_symlink()
    except FileNotFoundError:
        return False


def _receipt(
    source: str, path: Path, sha256: str | None, parameterization: str | None, dates: Path | None
) -> FetchReceipt:
    header: Header = read_header(path)
    with ThreadPoolExecutor(max_workers=2) as pool:
        whole = pool.submit(hash_file, path)
        data = pool.submit(hash_file, path, skip=header.data_offset)
    found = whole.result()
    check_sha256("source", source, found, sha256, SHA256_HINT)
    return FetchReceipt.of_file(
        source, header, found, data.result(), parameterization=parameterization, fetched=first_fetched(found, dates)
    )
