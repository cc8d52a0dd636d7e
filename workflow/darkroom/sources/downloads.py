"""The store of what was downloaded: files by their content, and a record of each source that led to them.

    DOWNLOADS/SHA256          a finished file; models/checkpoints/NAME.safetensors is another name of it
    DOWNLOADS/KEY.json        the receipt of a source's last fetch, and the server's validators
    DOWNLOADS/KEY.part/       a download that isn't finished
    DOWNLOADS/KEY….claim.…    somebody is at work on it

Snakemake deletes what a job makes before it starts the job. Here it loses one of a file's names, and the next job
links it again without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.claims import claim, is_anyone_at_work
from darkroom.errors import FetchError, SourceError
from darkroom.files import disk_errors, sync_folder, write_bytes
from darkroom.hashing import hash_file
from darkroom.sources.partial import Partial
from darkroom.sources.receipt import FetchReceipt

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
