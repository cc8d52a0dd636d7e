"""The client's connection to a warm engine: one frame out, one frame back, and news while a model is loaded (see `serve.frames`). Standard library only.

Nothing is sent before the socket file and the process behind it are known to belong to this user (unix(7): SO_PEERCRED).
"""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path

from darkroom.base.sockets import read_peer, send_pictures_whole
from darkroom.errors import SocketError
from darkroom.serve.frames import HEAD, NO_FILES, FrameError, Message, pack_files, read_files, read_head, read_text
from darkroom.warm.paths import foreign

_BLOCK_BYTES = 256 * 1024
_BACKLOG_PAUSE_S = 0.02
_TURN_PAUSE_S = 0.1
_sending: ContextVar[Callable[[], AbstractContextManager[None]]] = ContextVar("sending", default=nullcontext)
_open: set[Connection] = set()
_is_stopped = False


class ConnectionLost(Exception):
    """The server closed the connection before its answer was complete."""


def stop_clients() -> None:
    """Have all clients in this process end with KeyboardInterrupt, those in other threads too, now and from now on."""
    global _is_stopped
    _is_stopped = True
    for connection in list(_open):
        connection.shut_down()


def check_stopped() -> None:
    """Raise KeyboardInterrupt after `stop_clients`."""
    if _is_stopped:
        raise KeyboardInterrupt


class Turns:
    """In which order the clients of one process send their pictures, which are named by their files.

    Clients that are started at once wait for the same engine in threads, and the quickest would be the first to ask. The engine
    renders in the order in which it is asked, and each LoRA that changes costs time, so they ask in the order of their plan:
    `before` gives the pictures in flight that come before one.
    """

    def __init__(self, before: Callable[[str], Collection[str]]) -> None:
        self._before = before
        self._changed = threading.Condition()
        self._sent: set[str] = set()

    @contextmanager
    def of(self, picture: str) -> Iterator[None]:
        """What this thread sends inside waits for its turn; an end without having sent counts as having sent."""
        with self._changed:
            self._sent.discard(picture)
        token = _sending.set(lambda: self._send(picture))
        try:
            yield
        finally:
            _sending.reset(token)
            self._mark(picture)

    @contextmanager
    def _send(self, picture: str) -> Iterator[None]:
        with self._changed:
            while not self._sent.issuperset(self._before(picture)):
                check_stopped()
                self._changed.wait(_TURN_PAUSE_S)
        try:
            yield
        finally:
            self._mark(picture)

    def _mark(self, picture: str) -> None:
        with self._changed:
            self._sent.add(picture)
            self._changed.notify_all()


def in_turn() -> AbstractContextManager[None]:
    """Waits on entering until this thread's picture may be sent. Raises KeyboardInterrupt after `stop_clients`."""
    return _sending.get()()


class Connection:
    """One connection to an engine's server; a context manager that closes it. `server_pid` is None if unknown."""

    def __init__(self, path: Path, connected: socket.socket) -> None:
        self._socket = connected
        send_pictures_whole(connected)
        self.server_pid = _check_peer(path, connected)
        _open.add(self)

    @classmethod
    def open(cls, path: Path, *, timeout_s: float) -> Connection | None:
        """Connect, or return None if no server listens there.

        Raises SocketError (E-SOCKET) for another user's socket, TimeoutError if the server doesn't accept in time.
        """
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if status.st_uid != os.geteuid():
            raise foreign(path, status.st_uid)
        if not stat.S_ISSOCK(status.st_mode):
            raise SocketError("engine socket", path, "is not a socket", "remove it")
        check_stopped()
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect(path, connecting, timeout_s)
            return cls(path, connecting)
        except (FileNotFoundError, ConnectionRefusedError):
            connecting.close()
            return None
        except BaseException:
            connecting.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        _open.discard(self)
        self._socket.close()

    def shut_down(self) -> None:
        """Have whoever reads or writes here notice that the connection has ended."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def ask(
        self,
        message: Message,
        files: Mapping[str, bytes] = NO_FILES,
        *,
        timeout_s: float,
        on_loading: Callable[[int, int], None] | None = None,
        sending: AbstractContextManager[None] | None = None,
    ) -> tuple[Message, dict[str, bytes]]:
        """Send a frame and wait for the answer: its message and files. `timeout_s` limits both together.

        `on_loading` gets the bytes of the model that are read and those there are, as often as the server tells them. `sending` is
        entered while the frame is sent.

        Raises ConnectionLost, TimeoutError when the time is up, and KeyboardInterrupt after `stop_clients`.
        """
        deadline = time.monotonic() + timeout_s
        check_stopped()
        try:
            self._socket.settimeout(timeout_s)
            # A server that ends says so and closes the connection, whatever it is sent.
            with sending or nullcontext(), suppress(BrokenPipeError):
                for part in pack_files(message, files):
                    self._socket.sendall(part)
            while True:
                text, payload = read_head(self._read(HEAD.size, deadline))
                answer = read_text(self._read(text, deadline))
                if answer.get("event") != "loading":
                    return answer, read_files(answer, self._read(payload, deadline))
                if on_loading is not None:
                    on_loading(answer["done"], answer["total"])
        except (ConnectionError, EOFError, FrameError) as error:
            check_stopped()
            raise ConnectionLost(str(error)) from None

    def _read(self, count: int, deadline: float) -> bytes:
        blocks = []
        while count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("time is up")
            self._socket.settimeout(left)
            block = self._socket.recv(min(count, _BLOCK_BYTES))
            if not block:
                raise EOFError("the connection was closed")
            blocks.append(block)
            count -= len(block)
        return b"".join(blocks)


def _connect(path: Path, connecting: socket.socket, timeout_s: float) -> None:
    """Connect; while the listener's backlog is full (EAGAIN on a Unix socket), try again."""
    deadline = time.monotonic() + timeout_s
    connecting.setblocking(False)
    while True:
        try:
            return connecting.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("the backlog is full") from None
            time.sleep(_BACKLOG_PAUSE_S)


def _check_peer(path: Path, connected: socket.socket) -> int | None:
    """The process number of the server, or None if unknown. Raises SocketError (E-SOCKET) for another user's process."""
    peer = read_peer(connected)
    if peer is None:
        return None
    pid, uid = peer
    if uid != os.geteuid():
        raise foreign(path, uid)
    return pid
