"""The store of downloads: files by content, a record of each source, the day of the first fetch, and the links made from it.

Receipts hold it, and a receipt has to stay as it is when the same bytes are fetched again, also after it was deleted.
Losing the memory costs nothing but that.

    DOWNLOADS/SHA256          a finished file; models/checkpoints/NAME.safetensors is another name of it
    DOWNLOADS/KEY.json        the receipt of a source's last fetch, and the server's validators
    DOWNLOADS/KEY.part/       a download that isn't finished
    DOWNLOADS/KEY….claim.…    somebody is at work on it

Snakemake deletes what a job makes before it starts the job. Here it loses one of a file's names, and the next job
links it again without asking anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.base.claims import claim, is_anyone_at_work, staging_folder
from darkroom.base.files import disk_errors, link_or_copy, sync_folder, temporary_path, write_bytes, write_json
from darkroom.base.hashing import hash_file
from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.publish import check_destination
from darkroom.errors import DiskError, FetchError, SourceError
from darkroom.sources.partial import Partial
from darkroom.sources.receipt import FetchReceipt


def first_fetched(sha256: str, cache: Path | None = None) -> date:
    """The day that the JSON file `cache` remembers for these bytes, else today, which it remembers from then on.

    A memory that is broken or can't be written is no reason to stop.
    """
    day = datetime.now(UTC).date()
    if cache is None:
        return day
    return _read_date(_load(cache).get(sha256)) or _remember(cache, sha256, day)


def _remember(cache: Path, sha256: str, day: date) -> date:
    """What is remembered then: of two who ask at once, the first one's day."""
    from darkroom.base.claims import claim

    try:
        with claim(cache.with_name("." + cache.name)):
            days = {key: value for key, value in _load(cache).items() if _read_date(value) is not None}
            day = _read_date(days.get(sha256)) or day
            write_json(cache, days | {sha256: day.isoformat()})
    except (OSError, DiskError):
        pass
    return day


def _load(cache: Path) -> dict[str, Any]:
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _read_date(value: Any) -> date | None:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        return None


_BLOB = re.compile(r"[0-9a-f]{64}")


class Record(BaseModel):
    """What a source's last fetch brought. `etag` and `last_modified` are a plain URL's, to ask whether it has changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    receipt: FetchReceipt
    etag: str | None = None
    last_modified: str | None = None


class Downloads:
    """The store in `folder`, which is made when something is put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of that SHA256 is, or would be."""
        return self.folder / sha256

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Whether that file is there, whole as far as its size tells."""
        try:
            status = self.path(sha256).stat()
        except FileNotFoundError:
            return False
        return size is None or status.st_size == size

    def has_all(self, receipt: FetchReceipt) -> bool:
        """Whether everything that a receipt speaks of is there."""
        if receipt.files is None:
            return self.has(receipt.sha256, receipt.size)
        return all(self.has(file.sha256, file.size) for file in receipt.files.values())

    def is_sound(self, sha256: str) -> bool:
        """Whether that file is there and unchanged, which is read through; a damaged one is deleted."""
        if not self.has(sha256):
            return False
        if hash_file(self.path(sha256)) == sha256:
            return True
        self.forget(sha256)
        return False

    def is_whole(self, receipt: FetchReceipt) -> bool:
        """Whether all that a receipt speaks of is here and unchanged; what isn't is deleted, to be downloaded again."""
        hashes = [receipt.sha256] if receipt.files is None else [file.sha256 for file in receipt.files.values()]
        return self.has_all(receipt) and all([self.is_sound(sha256) for sha256 in hashes])

    def record(self, name: str) -> Record | None:
        """The record of the source `name`; None if there is none, or none that can be read."""
        try:
            return Record.model_validate_json(self._key(name, ".json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write_record(self, name: str, record: Record) -> None:
        """Remember it. Raises DiskError (E-DISK)."""
        write_bytes(self._key(name, ".json"), record.model_dump_json(indent=2).encode())

    def forget_record(self, name: str) -> None:
        """Know nothing of it any more."""
        self._key(name, ".json").unlink(missing_ok=True)

    def claim_source(self, name: str, on_wait: Callable[[], None]) -> AbstractContextManager[bool]:
        """Keep others from fetching the source `name` meanwhile."""
        return claim(self._key(name, ".source"), on_wait)

    @contextmanager
    def partial(self, identity: str, on_wait: Callable[[], None]) -> Iterator[Callable[[], Partial]]:
        """Claim the download of `identity`; what is given opens what there is of it. Raises DiskError (E-DISK)."""
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
        """Give a finished download its name. Raises DiskError (E-DISK), SourceError (E-SOURCE) if somebody took it away."""
        path = self.path(sha256)
        with disk_errors(path):
            partial.close()
            try:
                partial.data.replace(path)
            except FileNotFoundError:
                why = "somebody else went on with its download"
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
    """Delete the files that none of these receipts speak of; how many, and how many bytes that were.

    Downloads that aren't finished stay: they are what the next run goes on with. Raises FetchError (E-FETCH) while
    somebody is fetching, DiskError (E-DISK), SourceError (E-SOURCE) for a receipt that can't be read.
    """
    if is_anyone_at_work(folder):
        raise FetchError("downloads", folder, "somebody is fetching right now", "run it again afterwards")
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
                if not Downloads(folder).has_all(Record.model_validate_json(path.read_bytes()).receipt):
                    path.unlink()
    return count, size


def place_file(blob: Path, dest: Path, check: Callable[[Path], object]) -> None:
    """Make `dest` the file `blob`, a safetensors file that passes `check`.

    Raises what `check` raises, the CheckpointErrors, DiskError (E-DISK).
    """
    read_header(blob)
    check(blob)
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(dest)
        try:
            link_or_copy(blob, temporary)
            os.utime(temporary)  # a job's output is to be newer than its input
            os.replace(temporary, dest)
            sync_folder(dest.parent)
        finally:
            with suppress(FileNotFoundError):  # it stays where both were names of one file already (rename(2))
                temporary.unlink()


def place_folder(blobs: Mapping[str, Path], dest: Path, source: str) -> None:
    """Make the folder `dest` of these files by their relative paths, if they are a usable Diffusers model.

    Raises ModelError (E-MODEL), IndexFileError (E-INDEX), the CheckpointErrors, NameError (E-NAME) if `dest` is another
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
