"""Request bodies: read as a whole before the application is called, within limits on size and time, and checked if JSON."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from darkroom.errors import BusyError, LimitError, RequestError
from darkroom.serve.http import ClientGone, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_VALUES = 2_000
"""The most values in a JSON body. Each wrong one takes a thousand bytes and 5 µs in pydantic's list of errors."""
MAX_DEPTH = 64
_SMALL_BYTES = 8192
_REASONS: dict[type[Exception], str] = {
    UnicodeDecodeError: "another encoding",
    UnicodeEncodeError: "half a surrogate pair",
}


class Uploads:
    """How many bytes of bodies are held at this moment, of at most `most`: what is received, and requests being answered."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0

    def grow(self, count: int) -> None:
        """Count that many more. Raises Refusal (503) if they are too many."""
        self.bytes += count
        if self.bytes > self.most:
            why = f"holds {self.most:,} bytes of uploads, which is the most at a time"
            error = BusyError("server", None, why, "send the request again later")
            error.is_unavailable = True
            error.retry_after_s = random.randint(1, 10)
            raise Refusal(error, HTTPStatus.SERVICE_UNAVAILABLE)


async def read_body(receive: Receive, max_bytes: int, timeout_s: float, uploads: Uploads) -> bytes:
    """All of a request's body, which stays counted in `uploads` until the caller takes it off.

    Raises Refusal (408, 413, 503), and ClientGone if the client disconnects first; then nothing stays counted.
    """
    body = bytearray()
    is_whole = False
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece = message.get("body", b"")
                body += piece
                uploads.grow(len(piece))
                if len(body) > max_bytes:
                    raise too_long(None, max_bytes)
                if not message.get("more_body", False):
                    is_whole = True
                    return bytes(body)
    except TimeoutError:
        late = RequestError("request body", None, f"was not there within {timeout_s:g} s", "send it at once")
        raise Refusal(late, HTTPStatus.REQUEST_TIMEOUT) from None
    finally:
        if not is_whole:
            uploads.bytes -= len(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first returns the body that was read, then the messages that follow."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def too_long(length: str | None, max_bytes: int) -> Refusal:
    """The refusal of a body with too many bytes."""
    error = LimitError("request body", length, f"may have {max_bytes:,} bytes", "shorten it")
    return Refusal(error, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


async def check_json(body: bytes) -> None:
    """Raise Refusal: 400 for a body that isn't JSON in UTF-8 (RFC 8259), 413 for too many or too deeply nested values.

    Half a surrogate pair, which JSON can express, is refused too: it can't be encoded in an answer or a file. A large
    body is checked outside of the event loop.
    """
    if len(body) < _SMALL_BYTES:
        _check_json(body)
    else:
        await asyncio.to_thread(_check_json, body)


def _check_json(body: bytes) -> None:
    _count_roughly(body)
    try:
        level, count = [json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)], 1
        for _ in range(MAX_DEPTH):
            level = [each for value in level for each in _look_into(value)]
            count += len(level)
            if not level or count > MAX_VALUES:
                break
    except RecursionError:
        raise _too_much() from None
    except ValueError as error:
        reason = _REASONS.get(type(error), str(error))
        wrong = RequestError("request body", None, f"is not JSON in UTF-8: {reason}", "send what a JSON library writes")
        raise Refusal(wrong, HTTPStatus.BAD_REQUEST) from None
    if level:
        raise _too_much()


def _count_roughly(body: bytes) -> None:
    """Raise Refusal (413) for far too many values before they are built, which takes a hundred times as long."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = plain.count(b'"')
    if quotes <= 2 * MAX_VALUES:
        outside = b"".join(plain.split(b'"')[::2])
        if sum(map(outside.count, (b",", b"[", b"{"))) <= 2 * MAX_VALUES:
            return
    raise _too_much()


def _look_into(value: Any) -> list[Any]:
    """The values inside a value. Raises UnicodeEncodeError for a string that isn't Unicode text."""
    if isinstance(value, str):
        value.encode()
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _too_much() -> Refusal:
    why = f"may hold {MAX_VALUES:,} values, nested at most {MAX_DEPTH} deep"
    return Refusal(LimitError("request body", None, why, "send less"), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
