"""Carrying out a plan: some threads copy ranges of the sources, or convert them, while another hashes and scans them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event
from typing import TypeVar

from darkroom.base.files import PIECE_BYTES, copy_range, fail_changed, file_stamp, read_pieces, write_range
from darkroom.checkpoint.hashes import scan
from darkroom.checkpoint.numbers import Converter, transpose_numbers
from darkroom.checkpoint.plan import Copy, Plan, SourceFile
from darkroom.errors import CheckpointError

T = TypeVar("T")

_CARRIERS = 2
_SYNC_EVERY_S = 0.5  # the disk works while numbers are copied, and little is left to wait for at the end


def transfer(plan: Plan, sources: Sequence[SourceFile], files: Sequence[int], outputs: Sequence[int]) -> list[str]:
    """Write and sync every output of the plan and return the SHA256 of each source.

    `files` and `outputs` are file descriptors. Raises NanWeightError (E-NANWEIGHT) for NaN or Inf in a tensor that is
    used, CheckpointError (E-CHECKPOINT) for numbers that don't fit into the new format, FormatError (E-FORMAT) if a
    source changes meanwhile, OSError where the file system refuses.
    """
    before, stop, written = [file_stamp(os.fstat(file)) for file in files], Event(), Event()
    waiting: SimpleQueue[Copy] = SimpleQueue()
    for copy in plan.copies:
        waiting.put(copy)

    def scan_all() -> list[str]:
        return [
            scan(file, source.header, source.path, checked=used, stop=stop)
            for file, source, used in zip(files, sources, plan.used, strict=True)
        ]

    def carry_all() -> None:
        carrier = _Carrier(files, outputs)
        with suppress(Empty):
            while not stop.is_set():
                carrier.carry(waiting.get_nowait())

    def sync_meanwhile() -> None:
        while not written.wait(_SYNC_EVERY_S) and not stop.is_set():
            _sync(outputs)

    with (
        ThreadPoolExecutor(max_workers=2 + _CARRIERS, thread_name_prefix="darkroom-transfer") as pool,
        _stops_others(stop),
    ):

        def start(work: Callable[[], T]) -> Future[T]:
            return pool.submit(_stops_others(stop)(work))

        scanning, syncing = start(scan_all), start(sync_meanwhile)
        for output, file in zip(plan.outputs, outputs, strict=True):
            write_range(file, output.header, 0)
        for carrying in [start(carry_all) for _ in range(_CARRIERS)]:
            carrying.result()
        written.set()
        syncing.result()
        _sync(outputs)
        found = scanning.result()
    if [file_stamp(os.fstat(file)) for file in files] != before:
        fail_changed()
    return found


def _sync(outputs: Sequence[int]) -> None:
    for file in outputs:
        os.fsync(file)


@contextmanager
def _stops_others(stop: Event) -> Iterator[None]:
    """Whoever fails ends the work of all: the source's end may be gigabytes away."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


class _Carrier:
    """Carries out copies, one after the other, in the same work space."""

    def __init__(self, files: Sequence[int], outputs: Sequence[int]) -> None:
        self.files = files
        self.outputs = outputs
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        self.converters: dict[tuple[str, str], Converter] = {}

    def carry(self, copy: Copy) -> None:
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
