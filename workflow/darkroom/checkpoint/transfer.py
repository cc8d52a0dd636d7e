"""The transfer of a conversion: threads copy or convert ranges of the sources, while another hashes and scans them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import TypeVar

from darkroom.base.files import PIECE_BYTES, copy_range, fail_changed, file_stamp, read_pieces, write_range
from darkroom.checkpoint.conversion import Conversion, Copy
from darkroom.checkpoint.hashes import scan
from darkroom.checkpoint.numbers import Converter, transpose_numbers
from darkroom.errors import CheckpointError, FormatError

T = TypeVar("T")

_COPIERS = 2
_SYNC_EVERY_S = 0.5  # the disk works while numbers are copied, and little is left to wait for at the end


def transfer(conversion: Conversion, folder: Path) -> None:
    """Write and sync every output of a planned conversion below `folder`, and fill in the SHA256 of each source.

    Raises NanWeightError (E-NANWEIGHT) for NaN or Inf in a tensor that is used, CheckpointError (E-CHECKPOINT) for
    numbers that don't fit into the new format, FormatError (E-FORMAT) for a source that changed since its header was
    read, OSError where the file system refuses.
    """
    with ExitStack() as opened:
        sources = []
        for source in conversion.sources:
            file = opened.enter_context(source.path.open("rb", buffering=0))
            if os.fstat(file.fileno()).st_size != source.header.file_size:
                why = "changed while it was read"
                raise FormatError("checkpoint", source.path, why, "leave the file alone meanwhile")
            sources.append(file.fileno())
        outputs = []
        for output in conversion.outputs:
            path = folder / output.path
            path.parent.mkdir(parents=True, exist_ok=True)
            outputs.append(opened.enter_context(path.open("xb", buffering=0)).fileno())
        before = [file_stamp(os.fstat(file)) for file in sources]
        conversion.hashes = _Transfer(conversion, sources, outputs).run()
        if [file_stamp(os.fstat(file)) for file in sources] != before:
            fail_changed()


class _Transfer:
    """The threads of one transfer between open files, given by their descriptors."""

    def __init__(self, conversion: Conversion, sources: Sequence[int], outputs: Sequence[int]) -> None:
        self.conversion = conversion
        self.sources = sources
        self.outputs = outputs
        self.stop = Event()
        self.written = Event()
        self.waiting: SimpleQueue[Copy] = SimpleQueue()
        for copy in conversion.copies:
            self.waiting.put(copy)

    def run(self) -> list[str]:
        """Write everything; the SHA256 of each source."""
        with (
            ThreadPoolExecutor(max_workers=2 + _COPIERS, thread_name_prefix="darkroom-transfer") as pool,
            _stops_others(self.stop),
        ):

            def start(work: Callable[[], T]) -> Future[T]:
                return pool.submit(_stops_others(self.stop)(work))

            scanning, syncing = start(self._scan_all), start(self._sync_meanwhile)
            for output, file in zip(self.conversion.outputs, self.outputs, strict=True):
                write_range(file, output.header, 0)
            for copying in [start(self._copy_all) for _ in range(_COPIERS)]:
                copying.result()
            self.written.set()
            syncing.result()
            self._sync()
            return scanning.result()

    def _scan_all(self) -> list[str]:
        files = zip(self.sources, self.conversion.sources, self.conversion.used, strict=True)
        return [scan(file, source.header, source.path, checked=used, stop=self.stop) for file, source, used in files]

    def _copy_all(self) -> None:
        copier = _Copier(self.sources, self.outputs)
        with suppress(Empty):
            while not self.stop.is_set():
                copier.copy(self.waiting.get_nowait())

    def _sync_meanwhile(self) -> None:
        while not self.written.wait(_SYNC_EVERY_S) and not self.stop.is_set():
            self._sync()

    def _sync(self) -> None:
        for file in self.outputs:
            os.fsync(file)


@contextmanager
def _stops_others(stop: Event) -> Iterator[None]:
    """A failure in one thread ends the work of all: the end of a source may be gigabytes away."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


class _Copier:
    """Does copies one after the other, in the same buffers."""

    def __init__(self, files: Sequence[int], outputs: Sequence[int]) -> None:
        self.files = files
        self.outputs = outputs
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        self.converters: dict[tuple[str, str], Converter] = {}

    def copy(self, copy: Copy) -> None:
        source, file = self.files[copy.source], self.outputs[copy.output]
        if copy.transpose is not None:
            whole = b"".join(bytes(piece) for piece in self._pieces(copy))
            turned = transpose_numbers(whole, copy.dtype, copy.transpose)
            write_range(file, self._converted(copy, turned), copy.target)
        elif copy.dtype == copy.target_dtype:
            copy_range(source, file, copy.start, copy.target, copy.length)
        else:
            position = copy.target
            for piece in self._pieces(copy):
                data = self._converted(copy, piece)
                write_range(file, data, position)
                position += len(data)

    def _pieces(self, copy: Copy) -> Iterator[memoryview]:
        return read_pieces(self.files[copy.source], copy.start, copy.length, self.buffer)

    def _converted(self, copy: Copy, data: memoryview | bytes) -> memoryview:
        key = (copy.dtype, copy.target_dtype)
        converter = self.converters.setdefault(key, Converter(*key))
        try:
            return converter.convert(data)
        except OverflowError as error:
            raise CheckpointError("tensor", copy.name, str(error), "convert with --dtype fp32 or bf16") from None
