"""What the interfaces share: errors as answers, the end of a client, and what its headers ask for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response
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

T = TypeVar("T")

ASKS_FOR_KEY = Depends(HTTPBearer(auto_error=False, description="The API key, where the server has one."))
"""A dependency for the OpenAPI document alone: the guard is what asks for the key."""
CLIENT_CLOSED_REQUEST = 499
"""As nginx logs it; nobody is there to read it."""
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
_PATH = re.compile(r"(?<![\w.])/(?!v1/|sdapi/)(?:[^\s/'\":;,()]+/)+([^\s/'\":;,()]*)")
"""A path inside a text; those of this server's own routes are no secret."""
_MOST_SHOWN = 1000


class ClientGone(Exception):
    """The client went away; nobody waits for the answer."""


class Refusal(Exception):
    """An error of a request, and the status to answer it with in place of the one that follows from its class."""

    def __init__(self, error: DarkroomError, status: int) -> None:
        self.error = error
        self.status = status
        super().__init__(str(error))


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Do the work as long as the client is there. Raises ClientGone, with the work cancelled, when it leaves.

    The request's body must have been read.
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
    """Whether the client wants a picture made anew: `Cache-Control: no-cache` (RFC 9111, section 5.2.1.4)."""
    return "no-cache" in request.headers.get("cache-control", "").lower()


def status_of(error: DarkroomError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def error_body(error: DarkroomError, *, is_public: bool) -> dict[str, Any]:
    """An error as JSON: its parts, and `message`, `type` and `param` as OpenAI's clients read them.

    Parts are cut to a thousand characters. For the public, paths of this machine are cut to their last part.
    """
    parts = {name: text and shorten(text, _MOST_SHOWN) for name, text in error.as_dict().items()}
    if is_public:
        parts["value"] = parts["value"] and _WHOLE_PATH.sub("", parts["value"])
        parts = {name: text and _PATH.sub(r"\1", text) for name, text in parts.items()}
    told = DarkroomError.from_dict(parts)
    kind = "invalid_request_error" if status_of(error) < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return {"error": {**parts, "message": str(told), "type": kind, "param": None}}


def answer_error(error: DarkroomError, *, is_public: bool, status: int | None = None) -> Response:
    """An error as an HTTP answer; `status` overrides the one that follows from its class.

    OpenAI's clients ask again after a 409 and any 5xx unless `x-should-retry` says no (`openai/_base_client.py`).
    """
    status = status or status_of(error)
    headers = {} if status in _WORTH_ANOTHER_TRY else {"X-Should-Retry": "false"}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, AuthError):
        headers["WWW-Authenticate"] = "Bearer, Basic"
    return JSONResponse(error_body(error, is_public=is_public), status, headers)


def facts_header(facts: dict[str, Any]) -> str:
    """Facts for a header: JSON in ASCII, without line breaks."""
    return json.dumps(facts)
