"""Frames: a JSON object and raw bytes in one message, as the processes here exchange them. Standard library only.

A frame is two lengths (big-endian, 4 bytes each), the JSON text, then the payload. Both directions may carry a payload: a
picture from an engine, or an input image to one. Only plain data is ever built from what is received.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from typing import Any

Message = dict[str, "Any"]
"""A frame's JSON object."""
HEAD = struct.Struct(">II")
"""The lengths of the JSON text and of the payload."""
MAX_BYTES = 2**30


class FrameError(Exception):
    """The other side sent something that isn't a frame, or a longer one than it may send."""


def pack(message: Message, payload: bytes = b"") -> bytes:
    """The frame's bytes."""
    text = json.dumps(message, separators=(",", ":")).encode()
    return HEAD.pack(len(text), len(payload)) + text + payload


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
