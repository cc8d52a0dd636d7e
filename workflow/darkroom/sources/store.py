"""The store of downloads: files by their content, a record of each source, and the links made from them.

    DOWNLOADS/SHA256          a finished file; models/checkpoints/NAME.safetensors is another name of it
    DOWNLOADS/KEY.json        the receipt of a source's last fetch, and the server's validators
    DOWNLOADS/KEY.part/       an unfinished download
    DOWNLOADS/KEY….claim.…    a process works on it

Snakemake deletes a job's outputs before it starts the job. That removes one name of a stored file, and the job links it
again without asking the source.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.base.claims import claim, is_anyone_at_work, staging_folder
from darkroom.base.files import (
    disk_errors,
    link_or_copy,
    read_json_object,
    replacing,
    sync_folder,
    write_bytes,
    write_json,
)
from darkroom.base.hashing import hash_file
from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.publish import check_destination
from darkroom.errors import DiskError, FetchError, SourceError
from darkroom.sources.partial import Partial
from darkroom.sources.receipt import FetchReceipt

_BLOB = re.compile(r"[0-9a-f]{64}")


class Record(BaseModel):
    """The result of a source's last fetch. `etag` and `last_modified` are a plain URL's, to ask whether it has changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    receipt: FetchReceipt
    etag: str | None = None
    last_modified: str | None = None


class Store:
    """The store in `folder`, which is made when something is put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of that SHA256 is, or would be."""
        return self.folder / sha256

    def has(self, sha256: str, size: int | None = None) -> bool:
        """True if that file is there, with that size if one is given."""
        try:
            status = self.path(sha256).stat()
        except FileNotFoundError:
            return False
        return size is None or status.st_size == size

    def has_all(self, receipt: FetchReceipt) -> bool:
        """True if every file that a receipt names is there with its size."""
        if receipt.files is None:
            return self.has(receipt.sha256, receipt.size)
        return all(self.has(file.sha256, file.size) for file in receipt.files.values())

    def is_sound(self, sha256: str) -> bool:
        """True if that file is there and has that hash; a damaged one is deleted."""
        if not self.has(sha256):
            return False
        if hash_file(self.path(sha256)) == sha256:
            return True
        self.forget(sha256)
        return False

    def is_whole(self, receipt: FetchReceipt) -> bool:
        """True if every file that a receipt names is there and unchanged; damaged ones are deleted, to be downloaded again."""
        hashes = [receipt.sha256] if receipt.files is None else [file.sha256 for file in receipt.files.values()]
        return self.has_all(receipt) and all([self.is_sound(sha256) for sha256 in hashes])

    def record(self, name: str) -> Record | None:
        """The record of the source `name`; None if there is none, or none that can be read."""
        try:
            return Record.model_validate_json(self._key(name, ".json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write_record(self, name: str, record: Record) -> None:
        """Write the record of the source `name`. Raises DiskError (E-DISK)."""
        write_bytes(self._key(name, ".json"), record.model_dump_json(indent=2).encode())

    def forget_record(self, name: str) -> None:
        """Delete the record of the source `name`."""
        self._key(name, ".json").unlink(missing_ok=True)

    def claim_source(self, name: str, on_wait: Callable[[], None]) -> AbstractContextManager[bool]:
        """Keep other processes from fetching the source `name` during the block."""
        return claim(self._key(name, ".source"), on_wait)

    @contextmanager
    def partial(self, identity: str, on_wait: Callable[[], None]) -> Iterator[Callable[[], Partial]]:
        """Claim the download of `identity`; the function that is given opens its partial download. Raises DiskError (E-DISK)."""
        folder = self._key(identity, ".part")
        opened: list[Partial] = []

        def open_partial() -> Partial:
            with disk_errors(folder):
                opened.append(Partial(folder, is_shared=took_over))
            return opened[0]

        with claim(folder, on_wait) as took_over:
            try:
                yield open_partial
            finally:
                for each in opened:
                    if not each.is_closed:
                        with suppress(OSError):
                            each.close()

    def publish(self, partial: Partial, sha256: str) -> Path:
        """Give a finished download its name. Raises DiskError (E-DISK), SourceError (E-SOURCE) if another process took it over."""
        path = self.path(sha256)
        with disk_errors(path):
            partial.close()
            try:
                partial.data.replace(path)
            except FileNotFoundError:
                why = "another process took over its download"
                raise SourceError("source", sha256, why, "run the same command again") from None
            sync_folder(self.folder)
            partial.discard()
        return path

    def forget(self, sha256: str) -> None:
        """Delete a file whose bytes are not those of its name."""
        with suppress(FileNotFoundError):
            self.path(sha256).unlink()

    def _key(self, text: str, ending: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}{ending}"


def prune(folder: Path, receipts: Iterable[Path]) -> tuple[int, int]:
    """Delete the files that none of these receipts name; returns their number and their bytes.

    Unfinished downloads stay, so that the next run can resume them. Raises FetchError (E-FETCH) while a process is
    fetching, DiskError (E-DISK), SourceError (E-SOURCE) for a receipt that can't be read.
    """
    if is_anyone_at_work(folder):
        raise FetchError("downloads", folder, "another process is fetching right now", "run it again afterwards")
    used: set[str] = set()
    for path in receipts:
        receipt = FetchReceipt.read(path)
        used.add(receipt.sha256)
        used.update(file.sha256 for file in (receipt.files or {}).values())
    count = size = 0
    with disk_errors(folder):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _BLOB.fullmatch(path.name) and path.name not in used:
                count, size = count + 1, size + path.stat().st_size
                path.unlink()
        for path in sorted(folder.glob("*.json")) if count else []:
            with suppress(OSError, ValidationError):
                if not Store(folder).has_all(Record.model_validate_json(path.read_bytes()).receipt):
                    path.unlink()
    return count, size


def place_file(blob: Path, dest: Path, check: Callable[[Path], object]) -> None:
    """Make `dest` the file `blob`, a safetensors file that passes `check`.

    Raises what `check` raises, the CheckpointErrors, DiskError (E-DISK).
    """
    read_header(blob)
    check(blob)
    with disk_errors(dest), replacing(dest) as temporary:
        link_or_copy(blob, temporary)
        os.utime(temporary)  # a job's output has to be newer than its input


def place_folder(blobs: Mapping[str, Path], dest: Path, source: str) -> None:
    """Make the folder `dest` from these files by their relative paths, if they are a usable Diffusers model.

    Raises ModelError (E-MODEL), IndexFileError (E-INDEX), the CheckpointErrors, BadNameError (E-NAME) if `dest` is another
    kind of folder, SourceError (E-SOURCE) for a file that no model needs, DiskError (E-DISK).
    """
    check_destination(dest, source=None)
    with staging_folder(dest) as staging:
        for relative, blob in blobs.items():
            place = staging.new / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(blob, place)
            if relative.endswith(".safetensors"):
                read_header(place)
        if extra := set(blobs) - set(model_files(staging.new)):
            raise SourceError("source", source, f"{min(extra)} is no part of a model", "use another source")
        staging.publish()


def first_fetched(sha256: str, cache: Path | None = None) -> date:
    """The day that the JSON file `cache` remembers for these bytes, else today, which it remembers from then on.

    A broken cache counts as empty, and one that can't be written is left alone. A receipt must not change when the same
    bytes are fetched again, so their day is kept apart from the receipt, which may have been deleted.
    """
    day = datetime.now(UTC).date()
    if cache is None:
        return day
    return _read_date(read_json_object(cache).get(sha256)) or _remember(cache, sha256, day)


def _remember(cache: Path, sha256: str, day: date) -> date:
    """The day that is remembered: of two concurrent callers, the first one's."""
    try:
        with claim(cache.with_name("." + cache.name)):
            days = {key: value for key, value in read_json_object(cache).items() if _read_date(value) is not None}
            day = _read_date(days.get(sha256)) or day
            write_json(cache, days | {sha256: day.isoformat()})
    except (OSError, DiskError):
        pass
    return day


def _read_date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        return None
