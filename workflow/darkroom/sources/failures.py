"""What a failed request means: whether it may pass, when the server wants to be asked again, and the reason in words."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Passing(Exception):
    """A failure that may pass: `why` for people, when the server wants to be asked again, whether it just stopped sending."""

    def __init__(
        self, why: str, *, retry_after_s: float | None = None, is_stall: bool = False, is_rate_limit: bool = False
    ) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after_s = retry_after_s
        self.is_stall = is_stall
        self.is_rate_limit = is_rate_limit


class Expired(Exception):
    """A pre-signed URL is not taken any more."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds from now, in both of its forms (RFC 9110, 10.2.3); a date by the server's own clock."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def tls_reason(error: BaseException) -> str:
    """Why there is no secure connection, as far as the library's error tells."""
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


def connection_reason(host: str, error: Exception) -> str:
    """What went wrong, without the library's text, which holds the whole URL."""
    text = str(error)
    if "NameResolution" in text or "getaddrinfo" in text:
        return f"{host} can't be found (DNS)"
    if "refused" in text:
        return f"{host} refuses connections"
    if "unreachable" in text:
        return f"{host} can't be reached"
    return f"the connection to {host} was cut"
