"""HTTP requests: who is sent a token, where redirects may lead, and which failures may pass.

No cookies, no .netrc, no automatic redirects: each hop is a request of its own, and a token is sent to its own origin
only. Proxies of the environment are used.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from darkroom.base.secrets import redact
from darkroom.errors import NetworkError, SourceError
from darkroom.sources.access import Access, refusal, shown
from darkroom.sources.addresses import is_in_the_clear
from darkroom.sources.retry import TransientError

MAX_REDIRECTS = 10
_CONNECT_TIMEOUT_S = 15.0
_REFUSED = (401, 403, 404, 407, 410, 451)
_TRANSIENT = (408, 423, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_ERROR_BODY_BYTES = 4096
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_JSON_BYTES = 32 * 2**20


class Expired(Exception):
    """A pre-signed URL has expired."""


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """A response whose body hasn't been read yet; `url` is where redirects led, which may carry a signature."""

    raw: urllib3.response.BaseHTTPResponse
    _reply: requests.Response
    url: str
    _kept: bytearray = field(default_factory=bytearray)

    @property
    def status(self) -> int:
        return self._reply.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._reply.headers

    @property
    def reason(self) -> str:
        return self._reply.reason or ""

    def peek(self, amount: int) -> bytes:
        """The first `amount` bytes, fewer where there are no more; `read` gives them again. Raises TransientError."""
        while len(self._kept) < amount and (piece := self._receive(amount - len(self._kept))):
            self._kept.extend(piece)
        return bytes(self._kept)

    def read(self, amount: int) -> bytes:
        """The next bytes, as many as have come and at most `amount`; empty at the end. Raises TransientError."""
        if not self._kept:
            return self._receive(amount)
        piece = bytes(self._kept[:amount])
        del self._kept[:amount]
        return piece

    def _receive(self, amount: int) -> bytes:
        try:
            return self.raw.read1(amount, decode_content=True) or b""
        except urllib3.exceptions.ReadTimeoutError:
            raise TransientError("nothing came any more", is_stall=True) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            raise TransientError("the connection was cut") from None

    def stop(self) -> None:
        """Make another thread stop reading."""
        with suppress(ValueError, RuntimeError, OSError):
            self.raw.shutdown()

    def close(self) -> None:
        """Close the connection, also in the middle of a body."""
        self._reply.close()


class HttpClient:
    """Makes requests; several threads may share it. `stall_timeout_s` is how long a server may send nothing."""

    def __init__(self, stall_timeout_s: float, connections: int = 4) -> None:
        self._session = _Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = f"darkroom/{version('darkroom')}"
        # Other encodings have other bytes: ranges and lengths would mean something else.
        self._session.headers["Accept-Encoding"] = "identity"
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections + 1, max_retries=0)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        self._timeout = (min(_CONNECT_TIMEOUT_S, stall_timeout_s), stall_timeout_s)

    def close(self) -> None:
        self._session.close()

    def open(
        self,
        source: str,
        url: str,
        *,
        access: Access | None,
        headers: Mapping[str, str],
        is_signed: bool = False,
        is_pinned: bool = False,
    ) -> Response:
        """Request `url`, following redirects, and return a response that isn't an error: 200, 206, 304 or 416.

        `is_signed`: `url` is where an earlier response came from. `is_pinned`: the file's hash is known, so a redirect may
        lead from https to http. Raises TransientError for a failure that may pass, Expired for a signed URL that is refused,
        AuthError (E-AUTH), SourceError (E-SOURCE), NetworkError (E-NETWORK).
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(source, url, _auth_headers(url, access) | dict(headers))
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return self._judge(source, response, access, is_signed)
            response.close()
            url = _redirect_target(source, url, response.headers["Location"], is_pinned)
        raise SourceError("source", source, f"the server redirects more than {MAX_REDIRECTS} times", "check the source")

    def get_json(self, source: str, url: str, access: Access | None) -> Any:
        """The JSON at `url`. Raises what `open` raises, NetworkError (E-NETWORK) for anything else than JSON."""
        response = self.open(source, url, access=access, headers={"Accept": "application/json"})
        try:
            body = bytearray()
            while len(body) <= _MAX_JSON_BYTES and (piece := response.read(2**16)):
                body += piece
            return json.loads(bytes(body))
        except (ValueError, RecursionError):
            why = f"{_host(url)} answered with something else than JSON"
            raise NetworkError("source", source, why, "try again later") from None
        finally:
            response.close()

    def _ask(self, source: str, url: str, headers: Mapping[str, str]) -> Response:
        host = _host(url)
        try:
            reply = self._session.get(
                url, headers=headers, auth=_no_login, stream=True, allow_redirects=False, timeout=self._timeout
            )
        except requests.exceptions.SSLError as error:
            raise NetworkError("source", source, f"{host}: {_tls_reason(error)}", "check the address") from None
        except requests.exceptions.ReadTimeout:
            raise TransientError(f"{host} did not answer", is_stall=True) from None
        except requests.exceptions.ConnectTimeout:
            raise TransientError(f"{host} can't be reached") from None
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise TransientError(_connection_reason(host, error)) from None
        except (requests.exceptions.RequestException, ValueError, urllib3.exceptions.HTTPError) as error:
            raise SourceError("source", source, f"{host}: {type(error).__name__}", "check the source") from None
        return Response(reply.raw, reply, url)

    def _judge(self, source: str, response: Response, access: Access | None, is_signed: bool) -> Response:
        status = response.status
        if status in (200, 206, 304, 416):
            return response
        body = _start_of(response)
        response.close()
        if is_signed and status in (400, *_REFUSED):  # S3 answers 400 as well
            raise Expired
        if status in _REFUSED:
            raise refusal(access, source, status, response.headers, body)
        what = f"{_host(response.url)} answers {status} {redact(response.reason)}".rstrip()
        if status in _TRANSIENT:
            raise TransientError(what, retry_after_s=_retry_after(response.headers), is_rate_limit=status == 429)
        raise NetworkError("source", source, what, "check the source; the server's own pages may say more")


class _Session(requests.Session):
    """A session that ignores redirects: requests would read their bodies, however long, even without following them."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


def _redirect_target(source: str, url: str, location: str, is_pinned: bool) -> str:
    """The URL that a redirect leads to. Raises SourceError (E-SOURCE) for no web address, and for http after https."""
    try:
        # What isn't ASCII in a header field comes as Latin-1, and is UTF-8.
        target = urljoin(url, location.encode("latin-1").decode())
        parts = urlsplit(target)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        target, is_address = location, False
    if not is_address:
        why = f"the server leads to {shown(target)}, which is no web address"
        raise SourceError("source", source, why, "check the source")
    if url.startswith("https:") and is_in_the_clear(target) and not is_pinned:
        why = f"the server leads from https to {shown(target)}, which comes unencrypted"
        raise SourceError("source", source, why, "give its sha256 in the configuration, or use another source")
    return target


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Replaces requests' own search in .netrc."""
    return request


def _auth_headers(url: str, access: Access | None) -> dict[str, str]:
    if access is None or _origin(url) != _origin(access.origin):
        return {}
    # With this type Civitai answers 401 where it would else send its login page with status 200.
    headers = {"Content-Type": "application/json"}
    return headers | {"Authorization": f"Bearer {access.token}"} if access.token else headers


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds from now, in both of its forms (RFC 9110, 10.2.3); a date by the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _tls_reason(error: BaseException) -> str:
    """Why no secure connection could be made, as far as the library's error tells."""
    found: BaseException | None = error
    for _ in range(10):
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its TLS certificate can't be trusted ({found.verify_message})"
        following = found.args[0] if found is not None and found.args else None
        reason = getattr(following, "reason", None)  # of urllib3 an error, of ssl a text
        following = reason if isinstance(reason, BaseException) else following
        if not isinstance(following, BaseException):
            break
        found = following
    return "no secure connection can be made (TLS)"


def _connection_reason(host: str, error: Exception) -> str:
    """The reason for people, without the library's text, which holds the whole URL."""
    text = str(error)
    if "NameResolution" in text or "getaddrinfo" in text:
        return f"{host} can't be found (DNS)"
    if "refused" in text:
        return f"{host} refuses connections"
    if "unreachable" in text:
        return f"{host} can't be reached"
    return f"the connection to {host} was cut"


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or "the server"


def _start_of(response: Response) -> bytes:
    body = b""
    try:
        while len(body) < _ERROR_BODY_BYTES and (piece := response.read(_ERROR_BODY_BYTES)):
            body += piece
    except TransientError:
        pass
    return body
