"""Connections: how many may be open, how long a client may take, and what it gets if it sends no HTTP.

A process has so many descriptors, and one that has used them up can neither accept a connection nor start an engine. So
the soft limit is raised, and connections take only what the server itself leaves.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import random
import sys
import time
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from darkroom.base.sockets import is_own_peer
from darkroom.errors import BusyError, RequestError
from darkroom.serve.bodies import Receive
from darkroom.serve.exchange import Exchange
from darkroom.serve.guard import Application, Scope, Send
from darkroom.serve.http import answer_error, error_body

logger = logging.getLogger(__name__)

_OWN_DESCRIPTORS = 64
"""What the server needs in addition to connections: engines, files of results/ and of the models folder, log, page."""
_SPARE = 16
"""How many connections over the limit get an answer; those after them are closed at once."""
_FLOOD_S = 60.0
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def log_floods_once(loop: asyncio.AbstractEventLoop) -> None:
    """Have the event loop report at most once a minute that a connection can't be accepted, which it retries by itself."""
    last = -_FLOOD_S

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES):
            loop.default_exception_handler(context)
        elif time.monotonic() - last >= _FLOOD_S:
            last = time.monotonic()
            logger.error("no connection can be accepted for now: %s", error.strerror)

    loop.set_exception_handler(handle)


class Gate:
    """The limit on open connections: `most`, or less where the process may have fewer descriptors."""

    def __init__(self, most: int, descriptors: int) -> None:
        self.most = max(1, min(most, descriptors - _OWN_DESCRIPTORS))
        self._is_flooded = False

    def admits(self, count: int) -> bool:
        """Whether the last of so many connections is within the limit; logs the first one of a flood that isn't."""
        if count > self.most and not self._is_flooded:
            self._is_flooded = True
            logger.warning("%d connections are open, which is the most: others are refused", self.most)
        return count <= self.most

    def is_overrun(self, count: int) -> bool:
        """Whether there are too many even for an answer."""
        return count > self.most + _SPARE

    def leave(self, count: int) -> None:
        """So many are left: a flood is over once half of them have gone."""
        self._is_flooded = self._is_flooded and count > self.most // 2


async def refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    """The application for connections over the limit."""
    if scope["type"] == "http":
        error = BusyError("server", None, "has as many open connections as it may", "send the request again later")
        error.is_unavailable = True
        error.retry_after_s = random.randint(1, 10)
        response = answer_error(error)
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


class GuardedProtocol(H11Protocol):
    """Closes connections of other users, and of clients that send no whole head or read nothing of an answer in time.

    Otherwise a few clients could hold all connections ("slow loris"), and one could keep the server from ending.
    `timeout_s` is the limit for both, `gate` the one on all connections together, `busy` the application for those over
    it. What is answered before there is a request has the shape of every other error.
    """

    timeout_s: float
    gate: Gate
    busy: Application
    _has_sent = False
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        is_surplus = not self.gate.admits(len(self.connections))
        if not is_own_peer(transport.get_extra_info("socket")) or self.gate.is_overrun(len(self.connections)):
            transport.abort()
            return
        if is_surplus:
            self.app = self.busy
        transport.set_write_buffer_limits(
            high=0
        )  # so that `pause_writing` is called for anything that isn't read at once
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        self._has_sent = True
        if self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._wait_for_head()  # the first piece of the next request on a kept connection
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)
        self.gate.leave(len(self.connections))

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles what the parser raised, which says whether the head is too long."""
        error = sys.exc_info()[1]
        is_too_long = getattr(error, "error_status_hint", None) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_long else HTTPStatus.BAD_REQUEST
        hint = "send what an HTTP library writes"
        self._refuse(RequestError("request", None, f"is no valid HTTP: {error or msg}", hint), status)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.timeout_s, self._give_up)

    def _give_up(self) -> None:
        why = f"its head was not there within {self.timeout_s:g} s"
        self._refuse(RequestError("request", None, why, "send it at once"), HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, error: RequestError, status: int) -> None:
        """Answer what is no request, unless an answer has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            exchange = Exchange("-", "-", (self.client or ("socket",))[0], status=status, code=error.code)
            body = json.dumps(error_body(error)).encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                f"x-request-id: {exchange.id}",
                "connection: close",
            )
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
            if self._has_sent:  # idle connections that are closed are no news
                exchange.log()
        self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _wait_for_client(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._answer_timer = self.loop.call_later(self.timeout_s, self._check_client, left)

    def _check_client(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._wait_for_client()
        else:
            self.transport.abort()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None


def make_protocol(read_timeout_s: float, connections: Gate, refusal: Application) -> type[GuardedProtocol]:
    """The protocol class with a limit (seconds) on sending a whole head, and on reading the next piece of an answer."""

    class Limited(GuardedProtocol):
        timeout_s = read_timeout_s
        gate = connections
        busy = staticmethod(refusal)

    return Limited
