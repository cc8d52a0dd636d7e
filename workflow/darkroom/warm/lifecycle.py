"""When a warm engine ends: its leases have gone, it was idle, a signal came, or its model could not be loaded."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.errors import DarkroomError, ServerError
from darkroom.serve.worker import Stopped, Worker, as_error
from darkroom.warm.lease import LeaseWatch

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

LEASE_HEADER = b"darkroom-lease"
CANCEL_GRACE_S = 1.0
FAILURE_LINGER_S = 1.0
EXIT_SIGNALLED = 128 + signal.SIGTERM

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server is held to, in seconds, and the lease it starts with."""

    start_timeout_s: float
    idle_timeout_s: float
    lease: str | None


class Lifecycle:
    """Starts a worker and decides when the server around it ends; `exit_code` says how it went.

    `remove_socket` takes the socket file away; it is called first at any end, so that the next client starts
    an engine of its own instead of meeting one that ends.
    """

    def __init__(self, worker: Worker, limits: Limits, remove_socket: Callable[[], None]) -> None:
        self._worker = worker
        self._limits = limits
        self._remove_socket = remove_socket
        self._server: uvicorn.Server | None = None
        self._leases: LeaseWatch | None = None
        self._is_ending = False
        self._active = 0
        self._last_use = time.monotonic()
        self.exit_code = 0

    def attach(self, server: uvicorn.Server) -> None:
        """Name the server that is to be ended."""
        self._server = server

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Run from the server's start to its end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        self._leases = LeaseWatch(loop, self._on_leases_gone)
        self._worker.start()
        if self._limits.lease is not None:
            self._leases.add(self._limits.lease)
        loading = asyncio.create_task(self._watch_loading())
        try:
            yield
        finally:
            loading.cancel()

    def wrap(self, app: Application) -> Application:
        """The application with an eye on each request: who holds a lease, and when there was work last."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] == "/healthz":
                return await app(scope, receive, send)
            lease = dict(scope["headers"]).get(LEASE_HEADER)
            if lease and self._leases is not None and not self._is_ending:
                self._leases.add(lease.decode("latin-1"))
            self._active += 1
            try:
                return await app(scope, receive, send)
            finally:
                self._active -= 1
                self._last_use = time.monotonic()

        return watched

    async def _watch_loading(self) -> None:
        started = time.monotonic()
        try:
            await asyncio.wait_for(self._worker.ready(), self._limits.start_timeout_s)
        except Stopped:
            return
        except TimeoutError:
            why = f"is not loaded after {self._limits.start_timeout_s:g} s"
            await self._fail(ServerError("model", None, why, "raise engine.start_timeout_s in the config"))
        except Exception as error:
            await self._fail(as_error(error))
        else:
            logger.info("ready after %.1f s", time.monotonic() - started)
            self._last_use = time.monotonic()
            self._check_idle()

    async def _fail(self, error: DarkroomError) -> None:
        """Stay a moment after a failed start: all who wait for it are told, and none of them starts it again."""
        logger.error("%s", error)
        self._worker.give_up(error)
        self.exit_code = 1
        await asyncio.sleep(FAILURE_LINGER_S)
        self._end("the engine could not be started", cancel=True)

    def _check_idle(self) -> None:
        if self._is_ending:
            return
        left = self._last_use + self._limits.idle_timeout_s - time.monotonic()
        if self._active:
            left = self._limits.idle_timeout_s
        if left <= 0:
            self._end(f"no work for {self._limits.idle_timeout_s:g} s", cancel=False)
        else:
            asyncio.get_running_loop().call_later(left, self._check_idle)

    def _on_leases_gone(self) -> None:
        self._end("all runs it worked for have ended", cancel=True)

    def _on_signal(self) -> None:
        if self._is_ending:
            logger.info("ending at once")
            leave(EXIT_SIGNALLED)
        under_way = self._worker.pictures_under_way
        self._end(f"told to; draining {under_way} job{'' if under_way == 1 else 's'}", cancel=False)

    def _end(self, reason: str, *, cancel: bool) -> None:
        """Begin to end, or hurry an end that drains."""
        logger.info("ending: %s", reason)
        self._is_ending = True
        self._remove_socket()
        self._worker.stop(cancel=cancel)
        if cancel:
            asyncio.get_running_loop().call_later(CANCEL_GRACE_S, leave, self.exit_code)
        if self._server is not None:
            self._server.should_exit = True


def leave(exit_code: int) -> None:
    """End the process now, whatever its threads are doing: a model that loads or renders can't be interrupted."""
    logging.shutdown()
    os._exit(exit_code)
