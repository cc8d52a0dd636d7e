"""In which order the clients of one process send their pictures. Standard library only.

Clients that are started at once wait for the same engine in threads, and the quickest would be the first to ask. The engine renders
in the order in which it is asked, and each LoRA that changes costs time, so they ask in the order of their plan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from darkroom.warm.connection import check_stopped

_PAUSE_S = 0.1
_sending: ContextVar[Callable[[], AbstractContextManager[None]]] = ContextVar("sending", default=nullcontext)


class Turns:
    """The turns of pictures, named by their files. `before` gives those in flight that come before a picture."""

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
                self._changed.wait(_PAUSE_S)
        try:
            yield
        finally:
            self._mark(picture)

    def _mark(self, picture: str) -> None:
        with self._changed:
            self._sent.add(picture)
            self._changed.notify_all()


def in_turn() -> AbstractContextManager[None]:
    """Waits on entering until this thread's picture may be sent. Raises KeyboardInterrupt after `connection.stop_clients`."""
    return _sending.get()()
