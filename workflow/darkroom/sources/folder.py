"""Fetching a Diffusers folder: what a model needs of it, linked where the file system can, else copied.

A snapshot in Hugging Face's cache is such a folder too; its links are followed to their files.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.linking import link_or_copy
from darkroom.checkpoint.publish import check_destination
from darkroom.checkpoint.staging import staging_folder
from darkroom.checkpoint.verified import content_digest
from darkroom.errors import SourceError
from darkroom.hashing import check_sha256, hash_file
from darkroom.sources.dates import first_fetched
from darkroom.sources.local import SHA256_HINT
from darkroom.sources.receipt import FetchedFile, FetchReceipt

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
        receipt = _receipt(source, staging.new, files, dates)
        check_sha256("source", source, receipt.sha256, sha256, SHA256_HINT)
        staging.publish()
    return receipt


def _receipt(source: str, folder: Path, relatives: Sequence[str], dates: Path | None) -> FetchReceipt:
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashes = list(pool.map(lambda relative: hash_file(folder / relative), relatives))
    files = {
        relative: FetchedFile(size=(folder / relative).stat().st_size, sha256=sha256)
        for relative, sha256 in sorted(zip(relatives, hashes, strict=True))
    }
    digest = content_digest(files)
    return FetchReceipt.of_folder(source, files, digest, fetched=first_fetched(digest, dates))
