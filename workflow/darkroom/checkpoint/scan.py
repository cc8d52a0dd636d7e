"""Reading a weight file once, for its SHA256 and for numbers that no model can work with."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from threading import Event

from darkroom.checkpoint.byte_ranges import PIECE_BYTES, read_pieces
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.numbers import holds_nonfinite
from darkroom.errors import NanWeightError

_HINT = "download it again; if its SHA256 is right, the weights were saved broken: use another version"


def scan(
    file: int, header: Header, name: object, *, checked: Container[str] | None = None, stop: Event | None = None
) -> str:
    """The SHA256 (hex) of an open safetensors file, of which `header` was read; `name` is the file's, for errors.

    Tensors of which the name is in `checked` (None: all) are looked through on the way. Raises NanWeightError
    (E-NANWEIGHT) that names the first tensor with NaN or Inf. `stop` ends the reading early; the hash is then wrong.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
    for start, end, dtype, tensor in _segments(header, checked):
        for piece in read_pieces(file, start, end - start, buffer):
            if stop is not None and stop.is_set():
                return digest.hexdigest()
            digest.update(piece)
            if dtype is not None and holds_nonfinite(piece, dtype):
                raise NanWeightError("checkpoint", name, f"the tensor '{tensor}' holds NaN or Inf", _HINT)
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
