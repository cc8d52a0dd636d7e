"""What must hold of the header parser for any file whatever, checked for one file at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from darkroom.checkpoint.header import DTYPE_BYTES, Header, encode_header, read_header
from darkroom.errors import CheckpointError

ACCEPTED = "accepted"


def examine(path: Path, content: bytes) -> str:
    """Write `content` to `path` and read it as a checkpoint; the answer is ACCEPTED or the refusal in general words.

    Raises AssertionError if the parser breaks its promises, and lets every exception through that is not a
    CheckpointError: a broken file may raise no other.
    """
    path.write_bytes(content)
    try:
        header = read_header(path)
    except CheckpointError as error:
        assert str(path) in str(error), f"the message does not name the file: {error}"
        return f"{error.code} {_general(error.why)}"
    assert_tiled(header, len(content))
    assert_read_alike(content, header)
    assert_written_alike(path, content, header)
    return ACCEPTED


def is_read_by_safetensors(content: bytes) -> bool:
    """True if the safetensors library reads the file; it is the more lenient of the two."""
    try:
        deserialize(content)
    except SafetensorError:
        return False
    return True


def assert_tiled(header: Header, size: int) -> None:
    """The tensors cover the data exactly, one after the other, each as long as its shape and dtype say."""
    assert header.file_size == size
    position = 0
    for tensor in sorted(header.tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        assert tensor.start == position
        length = DTYPE_BYTES[tensor.dtype]
        for count in tensor.shape:
            length *= count
        assert tensor.end - tensor.start == length
        position = tensor.end
    assert header.data_offset + position == size


def assert_read_alike(content: bytes, header: Header) -> None:
    """The safetensors library reads the same names, dtypes, shapes, bytes and metadata."""
    found = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in deserialize(content)}
    data = memoryview(content)[header.data_offset :]
    assert found == {name: (t.dtype, t.shape, bytes(data[t.start : t.end])) for name, t in header.tensors.items()}
    # The library gives the metadata of files only, so another parser of JSON stands in.
    parsed: dict[str, Any] = json.loads(content[8 : header.data_offset])
    assert header.metadata == (parsed.get("__metadata__") or {})


def assert_written_alike(path: Path, content: bytes, header: Header) -> None:
    """What was read can be written and is read again as the same."""
    rows = [(name, t.dtype, t.shape, t.start, t.end) for name, t in header.tensors.items()]
    path.write_bytes(encode_header(rows, header.metadata) + content[header.data_offset :])
    again = read_header(path)
    assert (again.tensors, again.metadata) == (header.tensors, header.metadata)


def _general(why: str) -> str:
    """A reason without names and numbers, so that equal ones can be counted."""
    return re.sub(r"(?<!\w)'.*?'(?!\w)|\[[^\]]*\]|\b\d[\d,]*|(?<=not what )\w+", "…", why, flags=re.DOTALL)
