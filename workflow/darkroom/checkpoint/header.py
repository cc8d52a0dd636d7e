"""The safetensors header: a strict reader, a writer, and a check for other formats. No torch, no numpy.

A file is 8 bytes of little-endian header length, a JSON object (name to dtype, shape and data_offsets, and
`__metadata__`) padded with spaces, then the tensors' bytes without gaps. Format and the 100 MB cap:
https://github.com/huggingface/safetensors, "Format". A file that this reader accepts, the safetensors
library accepts and reads alike; tests/fuzz checks that.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from darkroom.errors import FormatError, NotWeightsError, PickleError

Shape = tuple[int, ...]
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 50_000
"""SDXL base has 2,516, and a LoRA of all its layers with alphas 8,000."""
MAX_DIMENSIONS = 16
_MAX_TOKENS = (MAX_DIMENSIONS + 16) * MAX_TENSORS
"""The most texts, commas and opening brackets: parsed, each may take 100 bytes."""
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_PICKLE_HINT = "use the checkpoint's .safetensors version; pickles can run code and are never opened"
_DOWNLOAD_HINT = "download the file again; a token may be missing"
# Protocols 0 and 1 have no magic number: a class, or a list, a tuple or a mapping that is put into the memo.
_OLD_PICKLE = re.compile(rb"\A(?:c[A-Za-z_][\w.]*\n[\w.]+\n|\((?:[cild]|dp|lp)|[\]})][qr])")
_PIECE_BYTES = 2**20
_NOT_IN_JSON = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[,\[{]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `start` and `end` are bytes counted from the end of the header."""

    dtype: str
    shape: Shape
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: the tensors cover the `file_size - data_offset` bytes of data exactly, without overlap."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_offset: int
    file_size: int


def refuse_other_formats(file: BinaryIO, name: object) -> None:
    """Raise unless an open file begins as a safetensors file does: 8 bytes of length, then a JSON object.

    Raises PickleError (E-PICKLE) for pickles and zip archives, NotWeightsError (E-NOTWEIGHTS) for HTML,
    JSON and Git LFS pointers, FormatError (E-FORMAT) for anything else. The file's position is kept.
    """
    place = file.tell()
    start = file.read(512)
    file.seek(place)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        why = "is a Git LFS pointer, not the file itself"
        raise NotWeightsError("checkpoint", name, why, "run 'git lfs pull' in the folder it came from")
    if re.match(rb"<[!?/a-z]", text):
        raise NotWeightsError("checkpoint", name, "is an HTML or XML page, not weights", _DOWNLOAD_HINT)
    if re.match(rb'(?:\{\s*["}]|\[\s*["{\[\]])', text):
        raise NotWeightsError("checkpoint", name, "is JSON text, not weights", _DOWNLOAD_HINT)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        raise PickleError(
            "checkpoint", name, "is a zip archive, as torch.save writes, with a pickle inside", _PICKLE_HINT
        )
    if (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or _OLD_PICKLE.match(start):
        raise PickleError("checkpoint", name, "is a pickle", _PICKLE_HINT)
    if start.startswith(b"GGUF"):
        raise FormatError("checkpoint", name, "is a GGUF file", "use the checkpoint's .safetensors version")
    if len(start) < 10:
        raise FormatError("checkpoint", name, f"holds {len(start)} bytes, too few for weights", "download it again")
    raise FormatError("checkpoint", name, "does not begin like a safetensors file", "download it again")


def read_header(path: Path | str) -> Header:
    """Read and check a safetensors file's header.

    Raises PickleError (E-PICKLE), NotWeightsError (E-NOTWEIGHTS) or FormatError (E-FORMAT).
    """
    return _Reader(Path(path)).read()


def encode_header(tensors: Iterable[tuple[str, str, Shape, int, int]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data, padded to a multiple of 8; `tensors` are (name, dtype, shape, start, end)."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, dtype, shape, start, end in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    body = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


class _Reader:
    """Reads and checks one header; every error names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, why: str) -> NoReturn:
        raise FormatError("checkpoint", self.path, why, "download or convert it again")

    def read(self) -> Header:
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                refuse_other_formats(file, self.path)
                raw = self._raw_header(file, size)
        except OSError as error:
            self.fail(error.strerror or "can't be read")
        data_offset = 8 + len(raw)
        entries = self._parse(raw)
        metadata = self._metadata(entries.pop("__metadata__", {}))
        if len(entries) > MAX_TENSORS:
            self.fail(f"has {len(entries):,} tensors; at most {MAX_TENSORS:,} are allowed")
        tensors = {name: self._tensor(name, entry, size) for name, entry in entries.items()}
        self._check_coverage(tensors, size - data_offset)
        return Header(tensors, metadata, data_offset, size)

    def _raw_header(self, file: BinaryIO, size: int) -> bytearray:
        """The header's bytes, read as long as they can be JSON: the claimed size is never allocated at once."""
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            self.fail(f"claims a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
        if 8 + length > size:
            self.fail(f"claims a header of {length:,} bytes but holds {size:,}: the file is truncated")
        file.seek(8 + length - 1)
        if file.read(1) not in (b"}", b" "):
            self.fail("has a header that does not end as JSON does")
        file.seek(8)
        raw = bytearray()
        while len(raw) < length:
            piece = file.read(min(length - len(raw), _PIECE_BYTES))
            if not piece or _NOT_IN_JSON.search(piece):
                self.fail("has a header that is not valid JSON")
            raw += piece
        return raw

    def _parse(self, raw: bytearray) -> dict[str, Any]:
        # A text counts once, however long: training tools write megabytes of JSON as one text into the metadata.
        if sum(1 for _ in islice(_TOKEN.finditer(raw), _MAX_TOKENS + 1)) > _MAX_TOKENS:
            self.fail(f"has a header of more items than {MAX_TENSORS:,} tensors need, which is the most allowed")

        def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                seen: set[str] = set()
                twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
                self.fail(f"names '{_short(twice)}' twice in its header")
            return found

        try:
            data = json.loads(
                raw.decode("utf-8"),
                object_pairs_hook=refuse_duplicates,
                parse_int=_count,
                parse_constant=_refuse_constant,
            )
        except (ValueError, RecursionError):
            self.fail("has a header that is not valid JSON")
        if not isinstance(data, dict):
            self.fail("has a header that is not a JSON object")
        return data

    def _metadata(self, data: Any) -> dict[str, str]:
        if data is None:  # as some writers put it for no metadata
            return {}
        if not isinstance(data, dict) or not all(_is_text(text) for pair in data.items() for text in pair):
            self.fail("has a __metadata__ that is not a mapping of text to text")
        return data

    def _tensor(self, name: str, entry: Any, file_size: int) -> TensorInfo:
        if not _is_text(name):
            self.fail(f"names a tensor '{_short(name)}', which is not text")
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            self.fail(f"tensor '{_short(name)}' lacks dtype, shape or data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str):
            self.fail(f"tensor '{_short(name)}' has a dtype that is not text")
        if dtype not in DTYPE_BYTES:
            self.fail(f"tensor '{_short(name)}' has the unknown dtype '{_short(dtype)}'")
        if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
            self.fail(f"tensor '{_short(name)}' has a shape that is not a list of at most {MAX_DIMENSIONS} sizes")
        if not _is_countable(dtype, shape):
            self.fail(f"tensor '{_short(name)}' of shape {shape} has more bytes than can be counted in 64 bits")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self.fail(f"tensor '{_short(name)}' has data_offsets that are not a range")
        start, end = offsets
        if end > file_size:
            self.fail(f"tensor '{_short(name)}' ends beyond the file's {file_size:,} bytes: truncated or damaged")
        expected = DTYPE_BYTES[dtype] * math.prod(shape)
        if end - start != expected:
            self.fail(f"tensor '{_short(name)}' of shape {shape} takes {end - start:,} bytes, not what {dtype} needs")
        return TensorInfo(dtype, tuple(shape), start, end)

    def _check_coverage(self, tensors: Mapping[str, TensorInfo], data_size: int) -> None:
        position = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
            if tensor.start < position:
                self.fail(f"tensor '{_short(name)}' overlaps the one before it")
            if tensor.start > position:
                self.fail(f"{tensor.start - position:,} bytes before tensor '{_short(name)}' belong to no tensor")
            position = tensor.end
        if position > data_size:
            self.fail(f"is truncated: {position - data_size:,} bytes are missing at its end")
        if position < data_size:
            self.fail(f"has {data_size - position:,} bytes after its last tensor")


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _is_countable(dtype: str, shape: list[int]) -> bool:
    """True if the size in bits, with sizes of 0 counted as 1, fits into 64 bits."""
    return 8 * DTYPE_BYTES[dtype] * math.prod(max(size, 1) for size in shape) < 2**64


def _is_text(value: Any) -> bool:
    """True for text that UTF-8 can encode; escapes in JSON can give lone surrogates."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE.search(value) is None)


def _count(digits: str) -> int:
    """A JSON integer; minus zero is refused, as the safetensors library does."""
    return -1 if digits == "-0" else int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _short(name: str) -> str:
    return name if len(name) <= 120 else name[:117] + "..."
