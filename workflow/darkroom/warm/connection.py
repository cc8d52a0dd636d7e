"""HTTP/1.1 over a Unix socket, as little of it as the render client needs. Standard library only.

`http.client` alone takes longer to import than the whole of this package's client. Nothing is sent before the
socket file and the process behind it are known to be ours (unix(7): SO_PEERCRED).
"""

from __future__ import annotations

import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from darkroom.base.sockets import read_peer
from darkroom.errors import SocketError
from darkroom.warm.paths import foreign

_MAX_HEAD_BYTES = 64 * 1024
_BLOCK_BYTES = 256 * 1024
_BACKLOG_PAUSE_S = 0.02


class ConnectionLost(Exception):
    """The other side went away before its answer was complete."""


class Answer:
    """An HTTP answer; header names in lower case."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Connection:
    """One kept-alive connection to an engine; a context manager that closes it."""

    def __init__(self, path: Path, channel: socket.socket) -> None:
        self._channel = channel
        self._received = b""
        self.server_pid = _check_peer(path, channel)

    @classmethod
    def open(cls, path: Path, *, timeout_s: float) -> Connection | None:
        """Connect, or None when nobody listens there.

        Raises SocketError (E-SOCKET) for another user's socket, and TimeoutError when whoever listens has
        not taken up connections for that long.
        """
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if status.st_uid != os.geteuid():
            raise foreign(path, status.st_uid)
        if not stat.S_ISSOCK(status.st_mode):
            raise SocketError("engine socket", path, "is not a socket", "remove it")
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect(path, channel, timeout_s)
            return cls(path, channel)
        except (FileNotFoundError, ConnectionRefusedError):
            channel.close()
            return None
        except BaseException:
            channel.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def request(
        self, method: str, target: str, *, timeout_s: float, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a request and wait for its answer, `timeout_s` seconds for all of it.

        Raises ConnectionLost, and TimeoutError when time is up.
        """
        deadline = time.monotonic() + timeout_s
        fields = {"host": "darkroom", "content-length": str(len(body)), **(headers or {})}
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            self._channel.settimeout(timeout_s)
            # An answer may have been given, and the rest of the request not been wanted.
            with suppress(BrokenPipeError):
                self._channel.sendall(head.encode("latin-1") + b"\r\n" + body)
            return self._read_answer(deadline)
        except (ConnectionError, EOFError) as error:
            raise ConnectionLost(str(error)) from None

    def _read_answer(self, deadline: float) -> Answer:
        while b"\r\n\r\n" not in self._received:
            if len(self._received) > _MAX_HEAD_BYTES:
                raise EOFError("the answer's header has no end")
            self._receive(deadline)
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        blocks, have = [self._received], len(self._received)
        self._received = b""
        while have < length:
            blocks.append(self._block(deadline))
            have += len(blocks[-1])
        body = b"".join(blocks)
        self._received = body[length:]
        return Answer(int(first.split(" ", 2)[1]), headers, body[:length])

    def _receive(self, deadline: float) -> None:
        self._received += self._block(deadline)

    def _block(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("time is up")
        self._channel.settimeout(left)
        block = self._channel.recv(_BLOCK_BYTES)
        if not block:
            raise EOFError("the connection was closed")
        return block


def _connect(path: Path, channel: socket.socket, timeout_s: float) -> None:
    """Connect, waiting for room in the listener's backlog: a Unix socket says EAGAIN where it is full."""
    deadline = time.monotonic() + timeout_s
    channel.setblocking(False)
    while True:
        try:
            return channel.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("the backlog is full") from None
            time.sleep(_BACKLOG_PAUSE_S)


def _check_peer(path: Path, channel: socket.socket) -> int | None:
    """The pid of the process that listens, after checking that it is the same user's; None where unknowable."""
    peer = read_peer(channel)
    if peer is None:
        return None
    pid, uid = peer
    if uid != os.geteuid():
        raise foreign(path, uid)
    return pid
