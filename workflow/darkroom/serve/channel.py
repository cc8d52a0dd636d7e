"""The two ends of a stream of frames: blocking, for an engine's process, and for an event loop, for a server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping
from typing import Self

from darkroom.serve.frames import HEAD, MAX_BYTES, Message, pack, pack_files, read_head, read_text


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
        """Send a frame. Raises BrokenPipeError if either side has closed the connection."""
        with self._lock:
            try:
                self._connection.sendall(pack(message, payload))
            except OSError as error:
                raise BrokenPipeError(str(error)) from error

    def send_files(self, message: Message, files: Mapping[str, bytes]) -> None:
        """Send a frame with files. Raises BrokenPipeError as `send`."""
        with self._lock:
            try:
                for part in pack_files(message, files):
                    self._connection.sendall(part)
            except OSError as error:
                raise BrokenPipeError(str(error)) from error

    def receive(self) -> tuple[Message, bytes] | None:
        """The next frame, or None if the other side has closed the connection. Raises FrameError."""
        head = self._file.read(HEAD.size)
        if len(head) < HEAD.size:
            return None
        text, payload = (self._file.read(length) for length in read_head(head))
        return read_text(text), payload


async def receive(
    reader: asyncio.StreamReader, *, max_text: int = MAX_BYTES, max_payload: int = MAX_BYTES
) -> tuple[Message, bytes] | None:
    """The next frame at the server's end, or None if the other side has closed the connection.

    Raises FrameError, also for a frame over a limit (bytes) before any of it is read.
    """
    try:
        text_bytes, payload_bytes = read_head(await reader.readexactly(HEAD.size), max_text, max_payload)
        text, payload = await reader.readexactly(text_bytes), await _read_blocks(reader, payload_bytes)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return read_text(text), payload


async def _read_blocks(reader: asyncio.StreamReader, count: int) -> bytes:
    """As `readexactly`, without the reader growing a buffer of all of it first: for a picture that takes 2.5 times as long."""
    blocks = []
    while count:
        block = await reader.read(count)
        if not block:
            raise ConnectionResetError
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)
