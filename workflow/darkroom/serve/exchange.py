"""A request and its answer as the log tells it: method, path, status, milliseconds, error code, request id and client.

Never a query, a prompt or a key.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from darkroom.base.logs import request_id
from darkroom.base.text import shorten

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that has disconnected; used in the log and in metrics."""
_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_LONGEST_PATH = 200


@dataclass(eq=False, slots=True)
class Exchange:
    """A request and what came of it. `status` is 0 until an answer has begun."""

    method: str
    path: str
    client: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    status: int = 0
    code: str | None = None
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(cls, scope: Mapping[str, Any]) -> Exchange:
        """The exchange of an ASGI scope, now the current one of its task.

        It has the id that a client or a proxy sends as `X-Request-Id`, if that looks like one.
        """
        sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        exchange = cls(scope["method"], scope["path"], (scope.get("client") or ("socket",))[0])
        if _ID.fullmatch(sent):
            exchange.id = sent
        request_id.set(exchange.id)
        _current.set(exchange)
        return exchange

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def log(self) -> None:
        """Write its line."""
        status = self.status or CLIENT_CLOSED_REQUEST
        path = "".join(sign if sign.isprintable() else "\ufffd" for sign in shorten(self.path, _LONGEST_PATH))
        fields = {
            "method": self.method,
            "path": path,
            "status": status,
            "ms": round(1000 * self.seconds, 1),
            "code": self.code,
            "client": self.client,
        }
        text = f"{self.client} {self.method} {path} {status} {fields['ms']} ms {self.code or ''}".rstrip()
        token = request_id.set(self.id)  # what is no request has no task of its own
        logger.info("%s", text, extra={"fields": {key: value for key, value in fields.items() if value is not None}})
        request_id.reset(token)


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def note_error(code: str) -> None:
    """Name the error that the current exchange is answered with."""
    if exchange := _current.get():
        exchange.code = code
