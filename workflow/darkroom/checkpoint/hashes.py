"""Hashes of a model folder's files: SHA256 and samples, remembered, and weights scanned for NaN and Inf.

What was read once is remembered in `NAME.hashes.json` beside the folder, by size and modification time, so that a
folder is read on first sight only. Losing the memory costs time only: one that can't be read counts as empty, and one
that can't be written is no reason to stop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom import revisions
from darkroom.base.files import PIECE_BYTES, read_range, write_bytes
from darkroom.base.hashing import hash_file
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.numbers import holds_nonfinite
from darkroom.checkpoint.verified import FileIdentity, sample_file
from darkroom.errors import DiskError, FormatError, HashError, NanWeightError

_BUFFERS = 4
_HINT = "download it again; if its SHA256 is right, the weights were saved broken: use another version"


def scan(
    file: int, header: Header, name: object, *, checked: Container[str] | None = None, stop: Event | None = None
) -> str:
    """The SHA256 (hex) of an open safetensors file, of which `header` was read; `name` is the file's, for errors.

    Tensors of which the name is in `checked` (None: all) are looked through on the way. Raises NanWeightError
    (E-NANWEIGHT) that names the first tensor with NaN or Inf. `stop` ends the reading early, without a hash.
    """
    hasher = _Hasher()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="darkroom-sha256") as pool:
        hashing = pool.submit(hasher.run)
        try:
            for start, end, dtype, tensor in _segments(header, checked):
                for position in range(start, end, PIECE_BYTES):
                    if stop is not None and stop.is_set():
                        return ""
                    buffer = hasher.spare.get()
                    piece = buffer[: min(end - position, PIECE_BYTES)]
                    read_range(file, piece, position)
                    hasher.full.put((buffer, len(piece)))
                    if dtype is not None and holds_nonfinite(piece, dtype):
                        raise NanWeightError("checkpoint", name, f"the tensor '{tensor}' holds NaN or Inf", _HINT)
        finally:
            hasher.full.put(None)
        return hashing.result()


class _Hasher:
    """Hashes what is put into `full`, a buffer and how much of it counts, and gives the buffers back through `spare`.

    SHA256 takes longer than everything else that is done with a file: in a thread of its own it never waits.
    """

    def __init__(self) -> None:
        self.spare: SimpleQueue[memoryview] = SimpleQueue()
        self.full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for _ in range(_BUFFERS):
            self.spare.put(memoryview(bytearray(PIECE_BYTES)))

    def run(self) -> str:
        """Hash until None comes; the SHA256 in hex."""
        digest = hashlib.sha256()
        while (found := self.full.get()) is not None:
            buffer, count = found
            digest.update(buffer[:count])
            self.spare.put(buffer)
        return digest.hexdigest()


def _segments(header: Header, checked: Container[str] | None) -> Iterator[tuple[int, int, str | None, str]]:
    """The whole file as ranges (start, end, dtype or None, tensor); what needs no look is joined into long ones."""
    begun = position = 0
    for name, info in sorted(header.tensors.items(), key=lambda item: item[1].start):
        if checked is None or name in checked:
            start, end = header.data_offset + info.start, header.data_offset + info.end
            if begun < start:
                yield begun, start, None, ""
            yield start, end, info.dtype, name
            begun = position = end
    if position < header.file_size:
        yield begun, header.file_size, None, ""


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
