"""What an answer to a request for a file says: which version and part it is of, and whether it is that file at all."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from email.utils import parsedate_to_datetime

from darkroom.checkpoint.sniff import refuse_other_formats
from darkroom.errors import FormatError, HashError, NotWeightsError
from darkroom.sources.access import shown
from darkroom.sources.partial import Version
from darkroom.sources.remote_files import RemoteFile
from darkroom.sources.web import Answer

START_BYTES = 512
_STRONG_AFTER = timedelta(seconds=60)
_NUMBER = "[0-9]{1,18}"


def version_of(answer: Answer) -> tuple[Version, int | None]:
    """The version that an answer is of, and the first byte that it gives; None where it doesn't say which (206)."""
    headers = answer.headers
    if headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        return Version(), 0  # length and validators are those of other bytes
    etag, date = headers.get("ETag"), headers.get("Last-Modified")
    start: int | None = 0
    size = None
    if answer.status == 200:
        length = headers.get("Content-Length", "")
        size = int(length) if re.fullmatch(_NUMBER, length) and "Transfer-Encoding" not in headers else None
    else:
        # RFC 9110, 14.4: `bytes 0-99/1234`, `bytes 0-99/*`, and `bytes */1234` of 416.
        text = headers.get("Content-Range", "").strip()
        found = re.fullmatch(rf"bytes\s+(?:({_NUMBER})-({_NUMBER})|\*)/({_NUMBER}|\*)", text)
        size = int(found[3]) if found and found[3] != "*" else None
        start = int(found[1]) if found and found[1] and (size is None or int(found[2]) < size) else None
    return Version(size, etag, date, _is_strong(date, headers.get("Date"))), start


def _is_strong(date: str | None, now: str | None) -> bool:
    """Whether nothing can have changed unseen in the second that a date names (RFC 9110, 8.8.2.2)."""
    if date is None or now is None:
        return False
    try:
        return parsedate_to_datetime(now) - parsedate_to_datetime(date) >= _STRONG_AFTER
    except (ValueError, TypeError):
        return False


def check_start(answer: Answer, source: str, file: RemoteFile, *, is_weights: bool) -> None:
    """Wait for a file's first bytes, and make sure that they aren't a login page's, an error's, a pointer's or a pickle's.

    Raises NotWeightsError (E-NOTWEIGHTS), PickleError (E-PICKLE), FormatError (E-FORMAT), Passing.
    """
    start = answer.peek(START_BYTES)
    if not is_weights:
        return
    try:
        refuse_other_formats(io.BytesIO(start), source)
    except (NotWeightsError, FormatError):
        found = _what_instead(start, answer.headers.get("Content-Type", "").partition(";")[0].strip().lower())
        if found is None:
            raise
        why, hint = f"the server sent {found} instead of weights", "check the address in a browser"
        if (access := file.access) is not None:
            why += "; a token may be refused" if access.token else "; a token may be missing"
            hint = f"set {access.variable}; tokens are made at {access.token_page}"
        raise NotWeightsError("source", source, why, hint) from None


def _what_instead(start: bytes, kind: str) -> str | None:
    """What a server sends in a file's place, by its first bytes, else by its type; None where neither tells."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if re.match(rb"<[!?/a-z]", text, re.I):
        return "an HTML page"
    if re.match(rb"[{\[]", text):
        return f"JSON{_message(text)}"
    if b"\0" in start:
        return None
    return {"text/html": "an HTML page", "application/json": "JSON"}.get(kind)


def _message(body: bytes) -> str:
    """What an error in JSON says, in brackets."""
    try:
        data = json.loads(body)
        text = next(data[key] for key in ("message", "error", "detail") if isinstance(data.get(key), str))
    except (ValueError, AttributeError, StopIteration, RecursionError):
        return ""
    return f" ({shown(text)})"


def check_size(source: str, file: RemoteFile, size: int | None) -> None:
    """Raise HashError (E-HASH) if a file is of another size than its source promises."""
    if size is not None and file.size is not None and abs(size - file.size) > file.size_tolerance:
        why = f"the server offers {size:,} bytes, the source speaks of {file.size:,}"
        raise HashError("source", source, why, "the file was changed or is an error page; check the source")
