"""From a server's start to its end: engines loaded or not, signals, draining."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from darkroom.errors import DarkroomError, ServerError
from darkroom.serve.service import Service

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

CANCEL_GRACE_S = 1.0
FAILURE_LINGER_S = 1.0
EXIT_SIGNALLED = 128 + signal.SIGTERM


class Lifecycle:
    """Watches a service and decides when the server around it ends; `exit_code` says how it went.

    The first SIGTERM or SIGINT drains: no request is taken any more, those that were are answered. A second one ends at
    once. A server whose engines can't be started, or not again, tells all who wait and ends with 1.
    """

    def __init__(self, service: Service, start_timeout_s: float) -> None:
        self.exit_code = 0
        self.is_ending = False
        self._service = service
        self._start_timeout_s = start_timeout_s
        self._server: uvicorn.Server | None = None

    def attach(self, server: uvicorn.Server) -> None:
        """Name the server that is to be ended."""
        self._server = server

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Run from the server's start to its end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        watching = [asyncio.create_task(self._watch_loading()), asyncio.create_task(self._watch_engines())]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await self._service.close()

    def on_ready(self) -> None:
        """Called once when a model is loaded."""

    def on_end(self) -> None:
        """Called first at any end."""

    def end(self, reason: str, *, cancel: bool) -> None:
        """Begin to end, or hurry an end that drains."""
        logger.info("ending: %s", reason)
        self.is_ending = True
        self.on_end()
        self._service.stop(cancel=cancel)
        if cancel:
            asyncio.get_running_loop().call_later(CANCEL_GRACE_S, leave, self.exit_code)
        if self._server is not None:
            self._server.should_exit = True

    async def _watch_loading(self) -> None:
        started = time.monotonic()
        try:
            await asyncio.wait_for(self._service.ready(), self._start_timeout_s)
        except TimeoutError:
            why = f"is not loaded after {self._start_timeout_s:g} s"
            await self._fail(ServerError("model", None, why, "raise engine.start_timeout_s in the config"))
        except DarkroomError:
            return  # told to end, or no engine is left, which `_watch_engines` sees to
        else:
            logger.info("ready after %.1f s", time.monotonic() - started)
            self.on_ready()

    async def _watch_engines(self) -> None:
        await self._fail(await self._service.wait_broken())

    async def _fail(self, error: DarkroomError) -> None:
        """Stay a moment after a failure: all who wait are told, and none of them starts it again."""
        if self.is_ending:
            return
        logger.error("%s", error)
        self._service.give_up(error)
        self.exit_code = 1
        await asyncio.sleep(FAILURE_LINGER_S)
        self.end("there is no engine that works", cancel=True)

    def _on_signal(self) -> None:
        if self.is_ending:
            logger.info("ending at once")
            self.on_end()
            leave(EXIT_SIGNALLED)
        under_way = self._service.pictures_under_way
        self.end(f"told to; draining {under_way} job{'' if under_way == 1 else 's'}", cancel=False)


def leave(exit_code: int) -> None:
    """End the process now. The engines' processes see their channels close and end too."""
    logging.shutdown()
    os._exit(exit_code)
