"""One engine in one thread: loads it, then renders one picture at a time in the order of the requests.

PNG encoding happens outside that thread, so that it overlaps the next picture.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from darkroom.errors import DarkroomError, ServerError
from darkroom.request import RenderRequest
from darkroom.serve.answers import Named, Rendered, collect_facts, encode_answer
from darkroom.warm.summary import summarise

logger = logging.getLogger(__name__)


class RenderEngine(Named, Protocol):
    """The part of `darkroom.engine.Engine` that a worker uses."""

    def render(self, request: RenderRequest, *, cancelled: Callable[[], bool]) -> Rendered: ...


class Stopped(Exception):
    """The picture was given up: its client went away, or the worker is stopping (`is_stopping`)."""

    def __init__(self, *, is_stopping: bool) -> None:
        self.is_stopping = is_stopping
        super().__init__("the worker is stopping" if is_stopping else "the client went away")


class Worker:
    """Owns an engine and its thread. `load` is called in that thread; its errors reach all who wait.

    All methods are called from one event loop.
    """

    def __init__(self, load: Callable[[], RenderEngine]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._loading: asyncio.Future[RenderEngine] | None = None
        self._stopping = asyncio.Event()
        self._cancel_all = threading.Event()
        self._failure: DarkroomError | None = None
        self.pictures_under_way = 0

    def start(self) -> None:
        """Begin to load the engine."""
        self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        self._loading.add_done_callback(lambda done: done.cancelled() or done.exception())  # may have no waiter

    def stop(self, *, cancel: bool) -> None:
        """Take no more pictures; with `cancel`, give up those under way at their next step."""
        self._stopping.set()
        if cancel:
            self._cancel_all.set()

    def give_up(self, error: DarkroomError) -> None:
        """Answer everybody who waits for the engine, now and later, with this error."""
        self._failure = error
        self._stopping.set()

    async def ready(self) -> RenderEngine:
        """Wait for the engine. Raises the error its loading ended with, what `give_up` was told, and Stopped."""
        if self._loading is None:
            raise ServerError("engine", None, "has not been started")
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            either: set[asyncio.Future[Any]] = {self._loading, stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self._failure is not None:
            raise self._failure
        if self._stopping.is_set():
            raise Stopped(is_stopping=True)
        return self._loading.result()

    async def render(self, request: RenderRequest, cancelled: threading.Event) -> tuple[bytes, dict[str, Any]]:
        """A picture as PNG bytes and its facts. Setting `cancelled` from anywhere gives it up: raises Stopped."""
        engine = await self.ready()
        self.pictures_under_way += 1
        try:
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(self._thread, self._render, engine, request, cancelled)
            png = await asyncio.to_thread(encode_answer, engine, picture)
        finally:
            self.pictures_under_way -= 1
        facts = collect_facts(picture)
        logger.info("%s", summarise(facts))
        return png, facts

    def _render(self, engine: RenderEngine, request: RenderRequest, cancelled: threading.Event) -> Rendered:
        from darkroom.engine import Cancelled

        def is_given_up() -> bool:
            return cancelled.is_set() or self._cancel_all.is_set()

        try:
            if is_given_up():
                raise Cancelled
            return engine.render(request, cancelled=is_given_up)
        except Cancelled:
            raise Stopped(is_stopping=self._cancel_all.is_set()) from None


def as_error(error: BaseException) -> DarkroomError:
    """The error to show for whatever went wrong; anything without a code is logged with its traceback."""
    if isinstance(error, DarkroomError):
        return error
    logger.error("unexpected error", exc_info=error)
    why = f"{type(error).__name__}: {error}"
    return DarkroomError("unexpected error in the engine", None, why, "read the engine's log")
