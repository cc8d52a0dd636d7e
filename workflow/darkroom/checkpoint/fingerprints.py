"""Fingerprints of a model folder's files: SHA256 and samples, and weights looked through for NaN and Inf.

What was read once is remembered in `NAME.hashes.json` beside the folder, by size and modification time, so that a
folder is read on first sight only. Losing the memory costs time only: one that can't be read counts as empty, and one
that can't be written is no reason to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom import revisions
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.scan import scan
from darkroom.checkpoint.verified import FileIdentity, sample_file
from darkroom.errors import DiskError, FormatError, HashError
from darkroom.files import write_bytes
from darkroom.hashing import hash_file


class Fingerprint(FileIdentity):
    """A file that was read whole; `scanned` says that its tensors were looked through."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    mtime_ns: int
    scanned: bool

    def identity(self) -> FileIdentity:
        """The part of it that two equal files share."""
        return FileIdentity(size=self.size, sha256=self.sha256, sample=self.sample)


class _Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    revision: int
    files: dict[str, Fingerprint]


def hashes_path(model_dir: Path) -> Path:
    """Where a folder's fingerprints are remembered: `NAME.hashes.json` beside `NAME/`."""
    return model_dir.with_name(f"{model_dir.name}.hashes.json")


def recall(model_dir: Path) -> dict[str, Fingerprint]:
    """What is remembered of a folder's files, by their relative paths."""
    try:
        memory = _Memory.model_validate_json(hashes_path(model_dir).read_bytes())
    except (OSError, ValidationError):
        return {}
    return memory.files if memory.revision == revisions.VERIFY else {}


def remember(model_dir: Path, found: Mapping[str, Fingerprint]) -> None:
    """Remember the fingerprints of a folder's files in place of what was remembered of it."""
    memory = _Memory(revision=revisions.VERIFY, files=dict(found))
    with suppress(OSError, DiskError):
        write_bytes(hashes_path(model_dir), (memory.model_dump_json(indent=2) + "\n").encode())


def forget(model_dir: Path) -> None:
    """Remove what is remembered of a folder, before another one takes its place. Raises OSError."""
    hashes_path(model_dir).unlink(missing_ok=True)


def take_fingerprints(
    folder: Path,
    files: Iterable[str],
    headers: Mapping[str, Header],
    *,
    known: Mapping[str, Fingerprint],
    again: bool = False,
    shown: Mapping[str, Path] | None = None,
) -> dict[str, Fingerprint]:
    """The fingerprints of a folder's files by relative path, two at a time, the largest first.

    Those in `headers` are weights and are looked through. A file that is `known` with the same size, time and sample
    is not read, unless `again` asks for it. `shown` gives paths to name in errors instead of the files' own. Raises
    NanWeightError (E-NANWEIGHT), HashError (E-HASH) for a file that changed though its size and time did not,
    FormatError (E-FORMAT) for one that changes meanwhile.
    """
    named, stop = shown or {}, Event()

    def take(file: str) -> Fingerprint:
        path = folder / file
        return _take(path, named.get(file, path), headers.get(file), known.get(file), again, stop)

    largest_first = sorted(files, key=lambda file: (-(folder / file).stat().st_size, file))
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="darkroom-hash") as pool:
        futures = {file: pool.submit(take, file) for file in largest_first}
        try:
            return {file: futures[file].result() for file in sorted(futures)}
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _take(
    path: Path, shown: Path, header: Header | None, known: Fingerprint | None, again: bool, stop: Event
) -> Fingerprint:
    size, mtime_ns = _stamp(path)
    sample = sample_file(path)
    same = known if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns) else None
    if same is not None and not again and same.sample == sample and (same.scanned or header is None):
        return same
    if header is None:
        sha256 = hash_file(path)
    else:
        with path.open("rb", buffering=0) as file:
            sha256 = scan(file.fileno(), header, shown, stop=stop)
    if _stamp(path) != (size, mtime_ns) or (header is not None and header.file_size != size):
        raise FormatError("file", shown, "changed while it was read", "leave the folder alone and run it again")
    if same is not None and same.sha256 != sha256:
        why = f"its SHA256 is {sha256}, was {same.sha256} on first sight; size and time are the same as then"
        hint = "rebuild the folder: its disk may be failing; if the change is yours, delete NAME.hashes.json beside it"
        raise HashError("file", shown, why, hint)
    return Fingerprint(size=size, sha256=sha256, sample=sample, mtime_ns=mtime_ns, scanned=header is not None)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
