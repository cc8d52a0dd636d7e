"""Access control: the API key, the Host and the Origin of a request, and limits on its body's size and time.

An ASGI middleware in front of all routes (ASGI specification 3.0). Host and Origin are checked because a browser
lets any web page send requests to a server on localhost (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware

from darkroom.base.secrets import read_private_file
from darkroom.base.sockets import is_loopback
from darkroom.base.text import shorten
from darkroom.config import ServeConfig
from darkroom.errors import AuthError, ConfigError, DarkroomError, OriginError, RequestError
from darkroom.serve.bodies import Message, Receive, Uploads, check_json, read_body, replay, too_long
from darkroom.serve.http import ClientGone, Refusal, answer_error, status_of

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY_VARIABLE = "DARKROOM_API_KEY"
KEY_FILE_VARIABLE = "DARKROOM_API_KEY_FILE"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_OPEN_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico")
_OPEN_PREFIXES = ("/pictures/", "/page/")
PICTURE_PATHS = (
    "/render",
    "/v1/images/edits",
    "/v1/images/variations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/sdapi/v1/extra-single-image",
    "/sdapi/v1/extra-batch-images",
    "/sdapi/v1/png-info",
    "/controlnet/detect",
)
"""The routes that take pictures, whose bodies may be longer."""
_SINGLE = ("authorization", "content-length", "content-type", "host", "origin", "transfer-encoding")
_SHORTEST_KEY = 8


def read_key() -> str | None:
    """The API key from DARKROOM_API_KEY, or from a private file that DARKROOM_API_KEY_FILE names; None if neither is set.

    Raises ConfigError (E-CONFIG) for a file that other users can read, and for a key that is too short.
    """
    key, file = os.environ.get(KEY_VARIABLE), os.environ.get(KEY_FILE_VARIABLE)
    if key is None and file:
        key = read_private_file(KEY_FILE_VARIABLE, Path(file))
    key = key and key.strip()  # a header's value comes without outer spaces too
    if key is not None and (len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable()):
        why = f"has to have {_SHORTEST_KEY} or more printable ASCII characters"
        raise ConfigError("API key", None, why, "make one: openssl rand -hex 32")
    return key


def has_key(authorization: str, key: str) -> bool:
    """Whether an Authorization header has the key: as a bearer token (RFC 6750), or as any user's password (RFC 7617)."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode("latin-1", "replace"), key.encode())


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules for requests. `key` is the API key (None: none is needed), `hosts` the allowed names (None: any)."""

    key: str | None
    hosts: frozenset[str] | None
    origins: frozenset[str]
    max_body_bytes: int
    max_picture_body_bytes: int
    read_timeout_s: float
    uploads: Uploads

    @classmethod
    def of_config(cls, config: ServeConfig, key: str | None) -> Guard:
        """The rules on an address. With a key, and listening on the network, only a configured list restricts Host."""
        own = {*LOOPBACK_HOSTS, config.host, *config.allowed_hosts}
        if config.public_url:
            own.add(_name_of(urlsplit(config.public_url).netloc))
        is_restricted = key is None or is_loopback(config.host) or bool(config.allowed_hosts)
        hosts = frozenset(map(_as_in_header, own)) if is_restricted else None
        origins = frozenset(origin.rstrip("/").lower() for origin in config.allowed_origins)
        return cls(key, hosts, origins, *_body_limits(config))

    @classmethod
    def of_socket(cls, config: ServeConfig, key: str | None) -> Guard:
        """The rules on a Unix socket, which no browser can reach and whose file mode keeps other users out."""
        return cls(key, None, frozenset(), *_body_limits(config))

    def check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raise OriginError (E-ORIGIN), AuthError (E-AUTH) or Refusal (400, 413) for a request that breaks a rule."""
        host = headers.get("host", "")
        if self.hosts is not None and _name_of(host) not in self.hosts:
            raise OriginError("host", shorten(host, 200), "isn't a name of this server", "see serve.allowed_hosts")
        origin = headers.get("origin", "").lower()
        own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")} if host else set()
        if origin and origin not in self.origins | own:
            raise OriginError(
                "origin",
                shorten(origin, 200),
                "pages of that site may not use this server",
                "see serve.allowed_origins",
            )
        is_open = self.key is None or _is_open(scope["path"])
        if not is_open and not has_key(headers.get("authorization", ""), self.key or ""):
            hint = f"send the header Authorization: Bearer KEY, with the key of {KEY_VARIABLE}"
            raise AuthError("API key", None, "is missing or wrong", hint)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers and "content-length" in headers:  # RFC 9112, section 6.1
            raise _malformed("Content-Length", length, "stands beside Transfer-Encoding")
        if int(length) > self.max_bytes(scope):
            raise too_long(length, self.max_bytes(scope))

    def max_bytes(self, scope: Scope) -> int:
        """The limit on the body's size; paths that need no key take no body, and those of `PICTURE_PATHS` longer ones."""
        if _is_open(scope["path"]):
            return 0
        return self.max_picture_body_bytes if scope["path"] in PICTURE_PATHS else self.max_body_bytes


def guarded(app: Application, guard: Guard) -> Application:
    """The application behind a guard.

    The application is called once the whole body has been received.
    """

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        body = b""
        try:
            headers = _read_headers(scope)
            guard.check(scope, headers)
            body = await read_body(receive, guard.max_bytes(scope), guard.read_timeout_s, guard.uploads)
            if body and "json" in headers.get("content-type", "").lower():
                await check_json(body)
            await app(scope, replay(body, receive), send)
        except (Refusal, DarkroomError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal(error, status_of(error))
            await _refuse(refusal, scope, receive, send)
        except ClientGone:
            pass
        finally:
            guard.uploads.bytes -= len(body)

    if not guard.origins:
        return outer
    return CORSMiddleware(
        outer,
        allow_origins=sorted(guard.origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Darkroom-Cached", "Darkroom-Facts", "Retry-After", "X-Request-Id"],
    )


def _body_limits(config: ServeConfig) -> tuple[int, int, float, Uploads]:
    """The longest body, the longest with pictures, the seconds it may take, and the room for all together."""
    longest = max(config.max_body_bytes, config.max_picture_body_bytes)
    uploads = Uploads(max(config.max_upload_bytes, config.max_body_bytes))
    return config.max_body_bytes, min(longest, uploads.most), config.read_timeout_s, uploads


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    response = answer_error(refusal.error, status=refusal.status)
    response.headers["Connection"] = "close"  # the rest of the body isn't read
    await response(scope, receive, send)


def _read_headers(scope: Scope) -> dict[str, str]:
    """The headers by name. Raises Refusal for a repeated one that a proxy in front of the server might read differently."""
    headers: dict[str, str] = {}
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]):
        if name in _SINGLE and name in headers:
            raise _malformed(name, value, "is given twice")
        headers[name] = value
    return headers


def _malformed(name: str, value: str, why: str) -> Refusal:
    error = RequestError(f"header {name}", shorten(value, 200), why, "leave it to the HTTP library")
    return Refusal(error, HTTPStatus.BAD_REQUEST)


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIXES)


def _name_of(host: str) -> str:
    """The name in a Host header without its port, in lower case."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() and (not name or name[-1] == "]" or ":" not in name) else host.lower()


def _as_in_header(name: str) -> str:
    """A host's name or address as in a Host header: in lower case, an IPv6 address in brackets."""
    return f"[{name}]".lower() if ":" in name and name[0] != "[" else name.lower()
