"""Frames: a JSON object and raw bytes in one message, as the processes here exchange them. Standard library only.

A frame is two lengths (big-endian, 4 bytes each), the JSON text, then the payload: a picture from an engine, or several
files one after the other, whose names and lengths are in the JSON. Only plain data is ever built from what is received.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Message = dict[str, "Any"]
"""A frame's JSON object."""
HEAD = struct.Struct(">II")
"""The lengths of the JSON text and of the payload."""
MAX_BYTES = 2**30
MAX_FILES_BYTES = 2**28
"""The most bytes of the picture files that a picture is made from: more than one of the largest has."""
MAX_FILES = 64
NO_FILES: Mapping[str, bytes] = {}
BEFORE, BEFORE_LATENT = "before", "before.latent"
"""The names of two files that have no SHA-256 in the request: the picture before the next stage, and its latents."""
_FILES = "files"


class FrameError(Exception):
    """The other side sent something that isn't a frame, or a longer one than it may send."""


def pack(message: Message, payload: bytes = b"") -> bytes:
    """The frame's bytes."""
    text = json.dumps(message, separators=(",", ":")).encode()
    return HEAD.pack(len(text), len(payload)) + text + payload


def pack_files(message: Message, files: Mapping[str, bytes]) -> list[bytes]:
    """The parts of a frame with files in its payload, to be sent in this order; no file is copied."""
    if not files:
        return [pack(message)]
    lengths = [[name, len(data)] for name, data in files.items()]
    text = json.dumps({**message, _FILES: lengths}, separators=(",", ":")).encode()
    return [HEAD.pack(len(text), sum(map(len, files.values()))) + text, *files.values()]


def read_files(message: Message, payload: bytes) -> dict[str, bytes]:
    """The files of a frame by name; a single one isn't copied. Raises FrameError if names and lengths don't fit the payload."""
    files: dict[str, bytes] = {}
    start = 0
    for name, length in _lengths(message.get(_FILES, [])):
        files[name] = payload[start : start + length]
        start += length
    if start != len(payload) or sum(map(len, files.values())) != start:
        raise FrameError("a payload that isn't made of the files it names")
    return files


def _lengths(entries: Any) -> list[tuple[str, int]]:
    if isinstance(entries, list) and len(entries) <= MAX_FILES:
        pairs = [each for each in entries if isinstance(each, list) and len(each) == 2]
        found = [(name, size) for name, size in pairs if isinstance(name, str) and type(size) is int and size >= 0]
        if len(found) == len(entries) == len({name for name, _ in found}):
            return found
    raise FrameError("a list of files that can't be read")


def read_head(head: bytes, max_text: int = MAX_BYTES, max_payload: int = MAX_BYTES) -> tuple[int, int]:
    """The lengths of a frame's text and payload. Raises FrameError if one is over its limit (bytes)."""
    text, payload = HEAD.unpack(head)
    for length, limit in ((text, max_text), (payload, max_payload)):
        if length > limit:
            raise FrameError(f"a frame with {length:,} bytes where {limit:,} are allowed")
    return text, payload


def read_text(text: bytes) -> Message:
    """A frame's JSON object. Raises FrameError for anything else."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise FrameError("a frame without JSON") from None
    if not isinstance(message, dict):
        raise FrameError("a frame without a JSON object")
    return message
