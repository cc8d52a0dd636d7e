"""When and how a server ends: signals, draining, engines that can't be started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from darkroom.errors import DarkroomError, ServerError
from darkroom.serve.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

CANCEL_GRACE_S = 1.0
FAILURE_LINGER_S = 1.0
EXIT_SIGNALLED = 128 + signal.SIGTERM


class Lifecycle:
    """Watches a dispatcher and decides when the server around it ends; `exit_code` is the process's.

    The first SIGTERM or SIGINT drains: no new request is taken, and those under way are answered. A second one ends the
    process at once. If no engine can be started (again), everyone who waits gets the error, and the exit code is 1.
    """

    def __init__(self, dispatcher: Dispatcher, start_timeout_s: float) -> None:
        self.exit_code = 0
        self.is_ending = False
        self._dispatcher = dispatcher
        self._start_timeout_s = start_timeout_s
        self._stop_server: Callable[[], None] = lambda: None

    def attach(self, stop_server: Callable[[], None]) -> None:
        """Name the function that has the server finish its requests and end."""
        self._stop_server = stop_server

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
            await self._dispatcher.stop()

    def on_ready(self) -> None:
        """Called once when a model is loaded."""

    def on_end(self) -> None:
        """Called first at any end."""

    def end(self, reason: str, *, cancel: bool) -> None:
        """Begin to end; with `cancel` also when draining, and then within a moment."""
        logger.info("ending: %s", reason)
        self.is_ending = True
        self.on_end()
        self._dispatcher.drain(cancel=cancel)
        if cancel:
            asyncio.get_running_loop().call_later(CANCEL_GRACE_S, leave, self.exit_code)
        self._stop_server()

    async def _watch_loading(self) -> None:
        started = time.monotonic()
        try:
            await asyncio.wait_for(self._dispatcher.wait_ready(), self._start_timeout_s)
        except TimeoutError:
            why = f"is not loaded after {self._start_timeout_s:g} s"
            await self._fail(ServerError("model", None, why, "raise engine.start_timeout_s in the config"))
        except DarkroomError:
            return  # it is ending, or no engine is left, which `_watch_engines` handles
        else:
            logger.info("ready after %.1f s", time.monotonic() - started)
            self.on_ready()

    async def _watch_engines(self) -> None:
        await self._fail(await self._dispatcher.wait_broken())

    async def _fail(self, error: DarkroomError) -> None:
        """Fail all jobs, and stay for a moment, so that no client that waits starts another server."""
        if self.is_ending:
            return
        logger.error("%s", error)
        self._dispatcher.fail_all(error)
        self.exit_code = 1
        await asyncio.sleep(FAILURE_LINGER_S)
        self.end("there is no engine that works", cancel=True)

    def _on_signal(self) -> None:
        if self.is_ending:
            logger.info("ending at once")
            self.on_end()
            leave(EXIT_SIGNALLED)
        under_way = self._dispatcher.pictures_under_way
        self.end(f"told to; draining {under_way} job{'' if under_way == 1 else 's'}", cancel=False)


def leave(exit_code: int) -> None:
    """End the process now; the engines' processes end when their channels are closed."""
    logging.shutdown()
    os._exit(exit_code)
