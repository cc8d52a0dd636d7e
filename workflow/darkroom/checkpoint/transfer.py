"""Carrying out a plan: ranges of the sources are copied inside the kernel while a second thread hashes and scans them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from darkroom.checkpoint.byte_ranges import copy_range, fail_changed, read_pieces, write_range
from darkroom.checkpoint.numbers import convert_numbers, transpose_numbers
from darkroom.checkpoint.plan import Copy, Plan, SourceFile
from darkroom.checkpoint.scan import scan
from darkroom.errors import CheckpointError


def transfer(plan: Plan, sources: Sequence[SourceFile], files: Sequence[int], outputs: Sequence[int]) -> list[str]:
    """Write and sync every output of the plan and return the SHA256 of each source.

    `files` and `outputs` are file descriptors. Raises NanWeightError (E-NANWEIGHT) for NaN or Inf in a tensor that is
    used, CheckpointError (E-CHECKPOINT) for numbers that don't fit into the new format, FormatError (E-FORMAT) if a
    source changes meanwhile, OSError where the file system refuses.
    """
    before, stop = [_stamp(file) for file in files], Event()

    def scan_all() -> list[str]:
        return [
            scan(file, source.header, source.path, checked=used, stop=stop)
            for file, source, used in zip(files, sources, plan.used, strict=True)
        ]

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="darkroom-scan") as pool:
        scanning = pool.submit(scan_all)
        try:
            for output, file in zip(plan.outputs, outputs, strict=True):
                write_range(file, output.header, 0)
            for copy in plan.copies:
                _stop_if_failed(scanning)
                _carry(copy, files[copy.source], outputs[copy.output])
            for file in outputs:
                os.fsync(file)
        except BaseException:
            stop.set()
            raise
        found = scanning.result()
    if [_stamp(file) for file in files] != before:
        fail_changed()
    return found


def _stop_if_failed(scanning: Future[list[str]]) -> None:
    if scanning.done():
        scanning.result()


def _carry(copy: Copy, source: int, file: int) -> None:
    if copy.transpose is not None:
        whole = b"".join(bytes(piece) for piece in read_pieces(source, copy.start, copy.length))
        turned = transpose_numbers(whole, copy.dtype, copy.transpose)
        write_range(file, _converted(copy, turned), copy.target)
    elif copy.dtype == copy.target_dtype:
        copy_range(source, file, copy.start, copy.target, copy.length)
    else:
        position = copy.target
        for piece in read_pieces(source, copy.start, copy.length):
            data = _converted(copy, piece)
            write_range(file, data, position)
            position += len(data)


def _converted(copy: Copy, data: memoryview | bytes) -> memoryview:
    try:
        return convert_numbers(data, copy.dtype, copy.target_dtype)
    except OverflowError as error:
        raise CheckpointError("tensor", copy.name, str(error), "convert with --dtype fp32 or bf16") from None


def _stamp(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns
