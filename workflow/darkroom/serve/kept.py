"""Pictures that are answered with a link: kept in memory for an hour, under names that can't be guessed."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

LIFETIME_S = 3600.0
"""As long as OpenAI keeps the pictures behind its links."""
MAX_BYTES = 256 * 2**20


class KeptPictures:
    """PNGs by name; the oldest are given up when there are too many."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._pictures: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def add(self, png: bytes) -> str:
        """Keep a picture; returns its name."""
        name = secrets.token_urlsafe(24)
        self._pictures[name] = (self._now() + LIFETIME_S, png)
        self._bytes += len(png)
        while self._bytes > MAX_BYTES and len(self._pictures) > 1:
            self._drop_oldest()
        return name

    def get(self, name: str) -> bytes | None:
        """The picture of that name, or None where there is none (any more)."""
        while self._pictures and next(iter(self._pictures.values()))[0] <= self._now():
            self._drop_oldest()
        found = self._pictures.get(name)
        return None if found is None else found[1]

    def _drop_oldest(self) -> None:
        _, (_, png) = self._pictures.popitem(last=False)
        self._bytes -= len(png)
