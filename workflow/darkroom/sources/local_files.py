"""Fetching a local file or Diffusers folder: linked where the file system can, else copied; complete or not at all.

A snapshot in Hugging Face's cache is such a folder too; its links are followed to their files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from darkroom.base.claims import staging_folder
from darkroom.base.files import disk_errors, link_or_copy, replacing
from darkroom.base.hashing import check_sha256, hash_file
from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.prediction import read_sidecar
from darkroom.checkpoint.publish import check_destination
from darkroom.checkpoint.verified import content_digest
from darkroom.errors import SourceError
from darkroom.sources.receipt import FetchedFile, FetchReceipt
from darkroom.sources.source import FetchRequest
from darkroom.sources.store import first_fetched

_SHA256_HINT = "check the file, or fix the source's sha256 in the configuration"
_FOLDER_HINT = "give a folder as diffusers saves it, or the path of a .safetensors file"


def fetch_file(source: str, request: FetchRequest) -> FetchReceipt:
    """Put the file `source` at `request.dest`; whatever was there before stays until the new file is checked.

    Raises what `request.check` raises, SourceError (E-SOURCE) if there is no such file, the CheckpointErrors for what is
    not a safetensors file, HashError (E-HASH) for other bytes than `request.sha256`, ConfigError (E-CONFIG) for a broken
    sidecar, DiskError (E-DISK).
    """
    path, dest = _resolve(source), request.dest
    read_header(path)
    request.check(path)
    parameterization = read_sidecar(Path(source).expanduser())  # beside the link, where the source is one
    with disk_errors(dest):
        if _is_same_file(path, dest):
            return _file_receipt(source, dest, parameterization, request)
        with replacing(dest) as temporary:
            link_or_copy(path, temporary)
            # Hashed under its temporary name: what is hashed is what appears at `dest`.
            return _file_receipt(source, temporary, parameterization, request)


def fetch_folder(source: str, request: FetchRequest) -> FetchReceipt:
    """Make the folder `request.dest` from the files of the Diffusers folder `source`, complete or not at all.

    Raises SourceError (E-SOURCE) for a folder without model_index.json, ModelError (E-MODEL) and IndexFileError
    (E-INDEX) for what isn't a usable model, the CheckpointErrors for weights that aren't safetensors files, HashError
    (E-HASH) for another content than `request.sha256`, BadNameError (E-NAME) if `request.dest` is another kind of
    folder, DiskError (E-DISK).
    """
    folder, dest = Path(source).expanduser().resolve(), request.dest
    if not (folder / INDEX).is_file():
        raise SourceError("source", source, f"is a folder without {INDEX}", _FOLDER_HINT)
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
        # Hashed in the staging folder: what is hashed is what appears at `dest`.
        receipt = _folder_receipt(source, staging.new, files, request.dates)
        check_sha256("source", source, receipt.sha256, request.sha256, _SHA256_HINT)
        staging.publish()
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


def _file_receipt(source: str, path: Path, parameterization: str | None, request: FetchRequest) -> FetchReceipt:
    header = read_header(path)
    with ThreadPoolExecutor(max_workers=2) as pool:
        whole = pool.submit(hash_file, path)
        data = pool.submit(hash_file, path, skip=header.data_offset)
    found = whole.result()
    check_sha256("source", source, found, request.sha256, _SHA256_HINT)
    return FetchReceipt.of_file(
        source,
        header,
        found,
        data.result(),
        parameterization=parameterization,
        fetched=first_fetched(found, request.dates),
    )


def _folder_receipt(source: str, folder: Path, relatives: Sequence[str], dates: Path | None) -> FetchReceipt:
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashes = list(pool.map(lambda relative: hash_file(folder / relative), relatives))
    files = {
        relative: FetchedFile(size=(folder / relative).stat().st_size, sha256=sha256)
        for relative, sha256 in sorted(zip(relatives, hashes, strict=True))
    }
    digest = content_digest(files)
    return FetchReceipt.of_folder(source, files, digest, fetched=first_fetched(digest, dates))
