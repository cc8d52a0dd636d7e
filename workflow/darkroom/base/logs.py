"""The log of a long-lived process: lines of text or JSON on stderr. Standard library only.

A line belongs to the request whose id `request_id` holds. Tracebacks keep out what a user sent: the message of an
exception may quote a prompt, so only those of errors that come from the machine or from code are shown.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from contextvars import ContextVar
from typing import Any

FORMATS = ("text", "json")
FORMAT_VARIABLE = "DARKROOM_LOG_FORMAT"
"""Names the format for this process and those that it starts."""
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_QUOTES_NOTHING = (ArithmeticError, AttributeError, ImportError, MemoryError, NameError, RuntimeError, TypeError)
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def configure_log() -> None:
    """Log to stderr in the format that DARKROOM_LOG_FORMAT names, text by default."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if os.environ.get(FORMAT_VARIABLE) == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def describe_exception(error: BaseException) -> str:
    """The type of an exception, with its message where that can't quote what a user sent."""
    name = type(error).__name__
    if isinstance(error, OSError):
        return f"{name}: {error.strerror}" if error.strerror else name
    return f"{name}: {error}" if isinstance(error, _QUOTES_NOTHING) and str(error) else name


def format_traceback(error: BaseException) -> str:
    """A traceback as Python prints it, but with the exceptions as `describe_exception` tells them."""
    text = ""
    if error.__cause__ is not None:
        text = format_traceback(error.__cause__) + _CAUSE
    elif error.__context__ is not None and not error.__suppress_context__:
        text = format_traceback(error.__context__) + _CONTEXT
    frames = "".join(traceback.format_tb(error.__traceback__))
    text += f"Traceback (most recent call last):\n{frames}{describe_exception(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        text += "".join(f"One of the group:\n{format_traceback(each)}" for each in error.exceptions)
    return text


class TextLines(logging.Formatter):
    """`2026-11-30 10:00:00,000 message`, and the id of the request if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # what another handler may have kept
        text = super().format(record)
        found = request_id.get()
        return f"{text} [{found}]" if found else text

    def formatException(self, ei: Any) -> str:
        return format_traceback(ei[1]).rstrip() if ei[1] is not None else ""


class JsonLines(logging.Formatter):
    """An object a line: `time` (UTC), `level`, `message`, `request_id`, `traceback`, and what `extra={"fields": …}` adds."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line["message"] = record.getMessage()
        if found := request_id.get():
            line["request_id"] = found
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = format_traceback(record.exc_info[1])
        return json.dumps({**line, **getattr(record, "fields", {})}, ensure_ascii=False)
