"""Range requests (RFC 9110, 14) for one file, and the check that a response is that range of that version of it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import parsedate_to_datetime

from darkroom.checkpoint.header import refuse_other_formats
from darkroom.errors import FormatError, HashError, NetworkError, NotWeightsError
from darkroom.sources.access import shown
from darkroom.sources.partial import Partial, Piece, Version
from darkroom.sources.progress import Progress
from darkroom.sources.retry import RetryPolicy, TransientError
from darkroom.sources.source import RemoteFile
from darkroom.sources.web import Expired, HttpClient, Response

START_BYTES = 512
NO_VERSION = "the server names no version, restarting"
_STRONG_AFTER = timedelta(seconds=60)
_NUMBER = "[0-9]{1,18}"


@dataclass(frozen=True, slots=True, eq=False)
class DownloadTask:
    """One file to download into `partial`, and what every part of the download works with.

    `source` names it in errors; `wanted` is the SHA256 that it must have, if it is known; `is_weights` is True for a
    safetensors file. At most `connections` are used, and a server may send nothing for `stall_timeout_s`.
    """

    source: str
    file: RemoteFile
    partial: Partial
    client: HttpClient
    retry: RetryPolicy
    progress: Progress
    wanted: str | None
    is_weights: bool
    connections: int
    stall_timeout_s: float


class StartOver(Exception):
    """The bytes so far are useless. `response`, if any, is the whole file from its beginning, of `version`."""

    def __init__(self, why: str, response: Response | None, version: Version, *, is_change: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.response = response
        self.version = version
        self.is_change = is_change


class WrongRange(Exception):
    """The server sent another range than the requested one."""


class RangeRequests:
    """The range requests for one file.

    `has_ranges` is True once the server has sent a range, and False again once it has ignored a `Range`.
    """

    def __init__(self, task: DownloadTask) -> None:
        self._task = task
        self._signed_url: str | None = None
        self.has_ranges = self._has_ignored_one = False

    @property
    def can_resume(self) -> bool:
        """True if another version would be noticed when resuming: by the server, or by the hash at the end."""
        return self._task.partial.version.if_range is not None or self._task.wanted is not None

    def open(self, piece: Piece) -> Response | None:
        """A response that begins where `piece` does; None if the server answers that the file ends there.

        Raises StartOver for another version than the one that was begun, WrongRange for another range, and what
        `HttpClient.open` and, for a response with the file's first bytes, `check_start` raise.
        """
        known, is_new = self._task.partial.version, self._task.partial.ranges.count == 0
        if not is_new and not self.can_resume:
            raise StartOver(NO_VERSION, None, Version())
        headers = {"Range": f"bytes={piece.start}-{'' if piece.end is None else piece.end - 1}"}
        if known.if_range and not is_new:
            headers["If-Range"] = known.if_range
        response = self._ask(headers)
        try:
            return self._judge(response, piece, known, is_new)
        except BaseException as error:
            if not (isinstance(error, StartOver) and error.response is response):
                response.close()
            raise

    def _ask(self, headers: dict[str, str]) -> Response:
        """Ask the URL that redirects led to before, which is signed for a limited time; once it has expired, the source's URL."""
        signed_url, pinned = self._signed_url, self._task.wanted is not None  # once: several threads ask
        if signed_url is not None:
            try:
                return self._task.client.open(
                    self._task.source, signed_url, access=None, headers=headers, is_signed=True, is_pinned=pinned
                )
            except Expired:
                if self._signed_url == signed_url:
                    self._signed_url = None
        file = self._task.file
        response = self._task.client.open(
            self._task.source, file.url, access=file.access, headers=headers, is_pinned=pinned
        )
        self._signed_url = response.url if response.url != file.url else None
        return response

    def _judge(self, response: Response, piece: Piece, known: Version, is_new: bool) -> Response | None:
        found, start = version_of(response)
        if response.status == 416:
            self._judge_end(piece, known, found)
            response.close()
            return None
        if response.status == 304:
            raise TransientError("the server answers 304 to a request without conditions")
        if start == 0:
            # Before the bytes so far are dropped for it: an HTML page, too, has another version and size.
            check_start(response, self._task.source, self._task.file, is_weights=self._task.is_weights)
        if not is_new and known.differs_from(found):
            if response.status == 206 and found.etag is not None and found.etag == known.etag:
                raise WrongRange(f"the server says {found.size:,} bytes now, {known.size:,} before")
            whole = response if response.status == 200 else None
            version = found if whole else Version()
            raise StartOver("file changed upstream, starting again", whole, version, is_change=True)
        if response.status == 206:
            if start is None:
                raise WrongRange("the server does not say which bytes it sent")
            if start != piece.start:
                raise WrongRange(f"the server sent bytes from {start} on when asked from {piece.start} on")
            self.has_ranges = not self._has_ignored_one
        elif not is_new:
            self.has_ranges, self._has_ignored_one = False, True
            raise StartOver("server cannot resume, restarting", response, found)
        if is_new:
            self._task.partial.adopt(found)
        elif known.size is None:
            self._task.partial.adopt(replace(known, size=found.size))
        return response

    def _judge_end(self, piece: Piece, known: Version, found: Version) -> None:
        """Interpret 416, nothing from `piece` on: the download is complete, or the server's file is shorter."""
        if piece.start and found.size == piece.start and not known.differs_from(found):
            self._task.partial.adopt(replace(known, size=piece.start))
        elif piece.start:
            raise StartOver("the server has less than is here, restarting", None, Version())
        else:
            raise NetworkError("source", self._task.source, "the server has no byte of it", "check the source")


def check_size(source: str, file: RemoteFile, size: int | None) -> None:
    """Raise HashError (E-HASH) if the file has another size than its source promises."""
    if size is not None and file.size is not None and abs(size - file.size) > file.size_tolerance:
        why = f"the server offers {size:,} bytes, the source names {file.size:,}"
        raise HashError("source", source, why, "the file was changed or is an error page; check the source")


def check_start(response: Response, source: str, file: RemoteFile, *, is_weights: bool) -> None:
    """Read a file's first bytes, and refuse a login page, an error, a Git LFS pointer or a pickle.

    Raises NotWeightsError (E-NOTWEIGHTS), PickleError (E-PICKLE), FormatError (E-FORMAT), TransientError.
    """
    start = response.peek(START_BYTES)
    if not is_weights:
        return
    try:
        refuse_other_formats(io.BytesIO(start), source)
    except (NotWeightsError, FormatError):
        found = _what_instead(start, response.headers.get("Content-Type", "").partition(";")[0].strip().lower())
        if found is None:
            raise
        why, hint = f"the server sent {found} instead of weights", "check the address in a browser"
        if (access := file.access) is not None:
            why += "; a token may be refused" if access.token else "; a token may be missing"
            hint = f"set {access.variable}; tokens are made at {access.token_page}"
        raise NotWeightsError("source", source, why, hint) from None


def version_of(response: Response) -> tuple[Version, int | None]:
    """The version of the file in a response, and the offset of its first byte; None if a 206 doesn't say which."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        return Version(), 0  # length and validators belong to the encoded bytes
    etag, date = headers.get("ETag"), headers.get("Last-Modified")
    start: int | None = 0
    size = None
    if response.status == 200:
        length = headers.get("Content-Length", "")
        size = int(length) if re.fullmatch(_NUMBER, length) and "Transfer-Encoding" not in headers else None
    else:
        # RFC 9110, 14.4: `bytes 0-99/1234`, `bytes 0-99/*`, and `bytes */1234` of 416.
        text = headers.get("Content-Range", "").strip()
        found = re.fullmatch(rf"bytes\s+(?:({_NUMBER})-({_NUMBER})|\*)/({_NUMBER}|\*)", text)
        size = int(found[3]) if found and found[3] != "*" else None
        start = int(found[1]) if found and found[1] and (size is None or int(found[2]) < size) else None
    return Version(size, etag, date, _is_strong(date, headers.get("Date"))), start


def _what_instead(start: bytes, kind: str) -> str | None:
    """What a server sent in place of the file, by the first bytes, else by the content type; None if neither tells."""
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
    """The message in a JSON error, in brackets."""
    try:
        data = json.loads(body)
        text = next(data[key] for key in ("message", "error", "detail") if isinstance(data.get(key), str))
    except (ValueError, AttributeError, StopIteration, RecursionError):
        return ""
    return f" ({shown(text)})"


def _is_strong(date: str | None, now: str | None) -> bool:
    """True if the file can't have changed again within the second that `date` names (RFC 9110, 8.8.2.2)."""
    if date is None or now is None:
        return False
    try:
        return parsedate_to_datetime(now) - parsedate_to_datetime(date) >= _STRONG_AFTER
    except (ValueError, TypeError):
        return False
