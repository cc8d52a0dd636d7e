"""What the HTTP interfaces share: errors as answers, clients that disconnect, and headers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer

from darkroom.base.text import shorten
from darkroom.errors import (
    AuthError,
    BusyError,
    CancellationError,
    DarkroomError,
    DeadlineError,
    InputError,
    ModelError,
    OriginError,
    OutOfMemoryError,
    ServerError,
    UnknownModelError,
)
from darkroom.serve.exchange import note_error

T = TypeVar("T")

EVENTS = "text/event-stream"
ASKS_FOR_KEY = Depends(HTTPBearer(auto_error=False, description="The API key, where the server has one."))
"""A dependency for the OpenAPI document only: the guard checks the key."""
_STATUSES: tuple[tuple[type[DarkroomError], int], ...] = (
    (AuthError, 401),
    (OriginError, 403),
    (UnknownModelError, 404),
    (CancellationError, 409),
    (BusyError, 429),
    (DeadlineError, 504),
    (InputError, 422),
    (ServerError, 503),
    (ModelError, 503),
    (OutOfMemoryError, 507),
)
_WORTH_ANOTHER_TRY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_WHOLE_PATH = re.compile(r"\A/(?:[^/]+/)+")
_PATH = re.compile(r"(?<![\w.])/(?!v1/|sdapi/|controlnet/)(?:[^\s/'\":;,()]+/)+([^\s/'\":;,()]*)")
"""A path inside a text, other than one of this server's own routes."""
_FIELD = re.compile(r"(?:request|input): (\w+)(?![\w ])")
_MOST_SHOWN = 1000


class ClientGone(Exception):
    """The client has disconnected."""


class Refusal(Exception):
    """A request's error, and the status to answer it with instead of the one of its class."""

    def __init__(self, error: DarkroomError, status: int) -> None:
        self.error = error
        self.status = status
        super().__init__(str(error))


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Do the work while the client is connected; otherwise cancel it and raise ClientGone.

    All of the request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(_wait_for_end(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _wait_for_end(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def wants_fresh(request: Request) -> bool:
    """Whether the client asks for a picture that isn't from results/: `Cache-Control: no-cache` (RFC 9111, section 5.2.1.4)."""
    return "no-cache" in request.headers.get("cache-control", "").lower()


async def stream_events(events: AsyncIterator[str]) -> Response:
    """An answer of server-sent events (HTML standard 9.2). Raises the error that occurs before the first one."""
    first = await anext(events)

    async def chain() -> AsyncIterator[str]:
        yield first
        async for each in events:
            yield each

    return StreamingResponse(
        chain(), media_type=EVENTS, headers={"X-Accel-Buffering": "no"}
    )  # nginx would hold it back


def write_event(name: str, data: dict[str, Any]) -> str:
    """One server-sent event with JSON."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def status_of(error: DarkroomError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, BusyError) and error.is_unavailable:
        return HTTPStatus.SERVICE_UNAVAILABLE
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def error_body(error: DarkroomError, *, hides_paths: bool = True) -> dict[str, Any]:
    """An error as JSON: its parts, and `message`, `type` and `param` (a field) as OpenAI's clients read them.

    Parts are cut to a thousand characters and, with `hides_paths`, paths of this machine to their last part.
    """
    parts = {name: text and shorten(text, _MOST_SHOWN) for name, text in error.as_dict().items()}
    if hides_paths:
        parts["value"] = parts["value"] and _WHOLE_PATH.sub("", parts["value"])
        parts = {name: text and _PATH.sub(r"\1", text) for name, text in parts.items()}
    message = str(DarkroomError.from_dict(parts))
    kind = "invalid_request_error" if status_of(error) < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return {"error": {**parts, "message": message, "type": kind, "param": _wrong_field(parts)}}


def _wrong_field(parts: Mapping[str, str | None]) -> str | None:
    """The field that an error is about; an unknown one is the error's value."""
    found = _FIELD.match(parts["what"] or "")
    return parts["value"] if found and found[1] == "field" else found and found[1]


def answer_error(error: DarkroomError, *, status: int | None = None, hides_paths: bool = True) -> Response:
    """An error as an HTTP answer, noted for the log; `status` overrides the one of its class.

    OpenAI's clients ask again after a 409 and any 5xx unless `x-should-retry` says no (`openai/_base_client.py`).
    """
    note_error(error.code)
    status = status or status_of(error)
    headers = {} if status in _WORTH_ANOTHER_TRY else {"X-Should-Retry": "false"}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, AuthError):
        headers["WWW-Authenticate"] = "Bearer, Basic"
    return JSONResponse(error_body(error, hides_paths=hides_paths), status, headers)
