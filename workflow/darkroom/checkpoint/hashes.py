"""Reading files whole: their SHA256, and NaN and Inf in weights.

A file whose size, modification time and sample are those of a remembered fingerprint (`darkroom.checkpoint.verified`)
is not read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Event

from darkroom.base.files import PIECE_BYTES, read_range
from darkroom.base.hashing import hash_file
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.numbers import holds_nonfinite
from darkroom.checkpoint.verified import Fingerprint, sample_file
from darkroom.errors import FormatError, HashError, NanWeightError

_BUFFERS = 4
_HINT = "download it again; if its SHA256 is right, the weights were saved broken: use another version"


def scan(
    file: int, header: Header, name: object, *, checked: Container[str] | None = None, stop: Event | None = None
) -> str:
    """The SHA256 (hex) of an open safetensors file with that `header`; `name` is the file's, for errors.

    Tensors named in `checked` (None: all) are checked for NaN and Inf on the way. `stop` ends the reading early,
    without a hash. Raises NanWeightError (E-NANWEIGHT) that names the first tensor with NaN or Inf.
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

    Files in `headers` are weights and are checked for NaN and Inf. A file that is `known` with the same size, time and
    sample is not read, unless `again` is true. `shown` gives paths to name in errors instead of the files' own.

    Raises NanWeightError (E-NANWEIGHT), HashError (E-HASH) for a file that changed though its size and time did not,
    FormatError (E-FORMAT) for a file that changes while it is read.
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


class _Hasher:
    """Hashes the buffers put into `full`, each with its number of bytes, and returns them through `spare`.

    SHA256 takes longer than everything else that is done with a file: in a thread of its own it never waits.
    """

    def __init__(self) -> None:
        self.spare: SimpleQueue[memoryview] = SimpleQueue()
        self.full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for _ in range(_BUFFERS):
            self.spare.put(memoryview(bytearray(PIECE_BYTES)))

    def run(self) -> str:
        """Hash until `full` gives None; the SHA256 in hex."""
        digest = hashlib.sha256()
        while (found := self.full.get()) is not None:
            buffer, count = found
            digest.update(buffer[:count])
            self.spare.put(buffer)
        return digest.hexdigest()


def _segments(header: Header, checked: Container[str] | None) -> Iterator[tuple[int, int, str | None, str]]:
    """The whole file as ranges (start, end, dtype, tensor); unchecked neighbours are one range without dtype."""
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
