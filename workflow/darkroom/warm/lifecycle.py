"""When a warm engine ends: its leases have gone, it was idle, a signal came, or its model could not be loaded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darkroom.serve.lifecycle import Lifecycle
from darkroom.serve.service import Service
from darkroom.warm.lease import LeaseWatch

if TYPE_CHECKING:
    from darkroom.serve.bodies import Receive
    from darkroom.serve.guard import Application, Scope, Send

LEASE_HEADER = b"darkroom-lease"
RELEASE_PATH = "/release"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server is held to, in seconds, and the lease it starts with."""

    start_timeout_s: float
    idle_timeout_s: float
    lease: str | None


class LeasedLifecycle(Lifecycle):
    """A lifecycle that ends with the runs it works for, when they need it no longer, or after some time without work.

    `remove_socket` takes the socket file away; it is called first at any end, so that the next client starts
    an engine of its own instead of meeting one that ends.
    """

    def __init__(self, service: Service, limits: Limits, remove_socket: Callable[[], None]) -> None:
        super().__init__(service, limits.start_timeout_s)
        self._remove_socket = remove_socket
        self._limits = limits
        self._leases: LeaseWatch | None = None
        self._active = 0
        self._last_use = time.monotonic()

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Run from the server's start to its end."""
        self._leases = LeaseWatch(asyncio.get_running_loop(), self._on_leases_gone)
        async with super().lifespan(app):
            if self._limits.lease is not None:
                self._leases.add(self._limits.lease)
            yield

    def wrap(self, app: Application) -> Application:
        """The application with an eye on each request: who holds a lease, and when there was work last."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] == "/healthz":
                return await app(scope, receive, send)
            lease = dict(scope["headers"]).get(LEASE_HEADER, b"").decode("latin-1")
            if scope["path"] == RELEASE_PATH:
                return await self._release(lease, send)
            if lease and self._leases is not None and not self.is_ending:
                self._leases.add(lease)
            self._active += 1
            try:
                return await app(scope, receive, send)
            finally:
                self._active -= 1
                self._last_use = time.monotonic()

        return watched

    async def _release(self, lease: str, send: Send) -> None:
        """A run has no more use for this engine. Says whether the engine ends now, since no other run has."""
        ends = self._leases is None or self._leases.release(lease)
        body = json.dumps({"ends": ends}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if ends and not self.is_ending:
            self.end("its device is needed for another model", cancel=False)

    def on_end(self) -> None:
        self._remove_socket()

    def on_ready(self) -> None:
        self._last_use = time.monotonic()
        self._check_idle()

    def _check_idle(self) -> None:
        if self.is_ending:
            return
        left = self._last_use + self._limits.idle_timeout_s - time.monotonic()
        if self._active:
            left = self._limits.idle_timeout_s
        if left <= 0:
            self.end(f"no work for {self._limits.idle_timeout_s:g} s", cancel=False)
        else:
            asyncio.get_running_loop().call_later(left, self._check_idle)

    def _on_leases_gone(self) -> None:
        self.end("all runs it worked for have ended", cancel=True)
