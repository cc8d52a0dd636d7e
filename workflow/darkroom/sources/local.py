"""Fetching a local file or Diffusers folder: linked where the file system can, else copied; never half there.

A snapshot in Hugging Face's cache is such a folder too; its links are followed to their files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from darkroom.base.claims import staging_folder
from darkroom.base.files import disk_errors, link_or_copy, sync_folder, temporary_path
from darkroom.base.hashing import check_sha256, hash_file
from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import Header, read_header
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.prediction import read_sidecar
from darkroom.checkpoint.publish import check_destination
from darkroom.checkpoint.verified import content_digest
from darkroom.errors import SourceError
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.store import first_fetched

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


_HINT = "give a folder as diffusers saves it, or the path of a .safetensors file"


def fetch_folder(source: str, dest: Path, *, sha256: str | None, dates: Path | None = None) -> FetchReceipt:
    """Make the folder `dest` of the files of the Diffusers folder `source`, whole or not at all.

    `dates` is the file that remembers when bytes were first fetched. Raises SourceError (E-SOURCE) for a folder without
    model_index.json, ModelError (E-MODEL) and IndexFileError (E-INDEX) for what isn't a usable model, the
    CheckpointErrors for weights that aren't safetensors files, HashError (E-HASH) for another content than `sha256`
    promises, NameError (E-NAME) if `dest` is another kind of folder, DiskError (E-DISK).
    """
    folder = Path(source).expanduser().resolve()
    if not (folder / INDEX).is_file():
        raise SourceError("source", source, f"is a folder without {INDEX}", _HINT)
    files = model_files(folder)
    for relative in files:
        if relative.endswith(".safetensors"):
            read_header(folder / relative)
    check_destination(dest, source=folder)
    with staging_folder(dest) as staging:
        for relative in files:
            place = staging.new / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy((folder / relative).resolve(), place)
        # Hashed where they were put: what is hashed is what appears at `dest`.
        receipt = _folder_receipt(source, staging.new, files, dates)
        check_sha256("source", source, receipt.sha256, sha256, SHA256_HINT)
        staging.publish()
    return receipt


def _folder_receipt(source: str, folder: Path, relatives: Sequence[str], dates: Path | None) -> FetchReceipt:
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashes = list(pool.map(lambda relative: hash_file(folder / relative), relatives))
    files = {
        relative: FetchedFile(size=(folder / relative).stat().st_size, sha256=sha256)
        for relative, sha256 in sorted(zip(relatives, hashes, strict=True))
    }
    digest = content_digest(files)
    return FetchReceipt.of_folder(source, files, digest, fetched=first_fetched(digest, dates))
