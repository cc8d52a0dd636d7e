"""Frames between the server and an engine's process: a JSON object and raw bytes, over a socket pair.

A frame is two lengths (big-endian, 4 bytes each), the JSON text, then the bytes. No object is ever rebuilt from what
comes in: JSON holds plain data, and the bytes are a PNG.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from typing import Any, Self

Message = dict[str, Any]

_LENGTHS = struct.Struct(">II")
_MAX_BYTES = 2**30


class ChannelBroken(Exception):
    """The other side sent what isn't a frame."""


def pack(message: Message, payload: bytes = b"") -> bytes:
    """A frame's bytes."""
    text = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


class Channel:
    """The engine's end: blocking, and safe to send on from several threads. A context manager that closes it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._connection.close()

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Send a frame; raises BrokenPipeError when the other side has gone, or this one was closed meanwhile."""
        with self._lock:
            try:
                self._connection.sendall(pack(message, payload))
            except OSError as error:
                raise BrokenPipeError(str(error)) from error

    def receive(self) -> tuple[Message, bytes] | None:
        """The next frame, or None when the other side has gone. Raises ChannelBroken."""
        head = self._file.read(_LENGTHS.size)
        if len(head) < _LENGTHS.size:
            return None
        text, payload = (self._file.read(length) for length in _check(head))
        return _parse(text), payload


async def receive(reader: asyncio.StreamReader) -> tuple[Message, bytes] | None:
    """The next frame at the server's end, or None when the engine has gone. Raises ChannelBroken."""
    try:
        text_bytes, payload_bytes = _check(await reader.readexactly(_LENGTHS.size))
        text, payload = await reader.readexactly(text_bytes), await reader.readexactly(payload_bytes)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _parse(text), payload


def _parse(text: bytes) -> Message:
    try:
        message: Message = json.loads(text)
    except ValueError:
        raise ChannelBroken("a frame without JSON") from None
    return message


def _check(head: bytes) -> tuple[int, int]:
    text, payload = _LENGTHS.unpack(head)
    if max(text, payload) > _MAX_BYTES:
        raise ChannelBroken("a frame of more than 1 GiB")
    return text, payload
