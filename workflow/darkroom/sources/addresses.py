"""Web addresses: the endpoints of services, what is sent unencrypted, and AIRs.

AIR (AI Resource) is https://developer.civitai.com/site/guide/air.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from darkroom.base.secrets import redact_url
from darkroom.base.sockets import is_loopback
from darkroom.errors import ConfigError

FORMS_HINT = "give a path, https://…, civitai:MODEL@VERSION or hf:ORG/REPO/FILE.safetensors"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def scheme_of(text: str) -> str | None:
    """The scheme that a text begins with, in lower case; None if it is a path."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


def read_endpoint(variable: str, default: str) -> str:
    """The address of a service, without a slash at its end: the environment's `variable`, else `default`.

    Raises ConfigError (E-CONFIG) for a variable that holds no address.
    """
    endpoint = os.environ.get(variable, "").strip().rstrip("/") or default
    try:
        parts = urlsplit(endpoint)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or parts.query or parts.fragment or "@" in parts.netloc or not endpoint.isprintable():
        why = "is no address of a server"
        raise ConfigError(variable, redact_url(endpoint), why, f"set it as {default} is written")
    return endpoint


def origin_of(endpoint: str) -> str:
    """Scheme, host and port of an address: `https://civitai.com`."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}"


def is_in_the_clear(url: str) -> bool:
    """True for plain HTTP to another machine, where anybody on the way can read and change everything."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def split_web_address(text: str) -> SplitResult | None:
    """The parts of an http or https address; None if it isn't one."""
    try:
        parts = urlsplit(text)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_sound and not set(text) & set(" \\") else None


def path_at(parts: SplitResult, endpoint: str, hosts: frozenset[str]) -> str | None:
    """The path at a service with these hosts and this endpoint, which may have a path itself; None elsewhere."""
    if parts.hostname in hosts and parts.port in (None, 80, 443):
        return parts.path
    service = urlsplit(endpoint)
    is_there = (parts.scheme, parts.hostname, parts.port) == (service.scheme, service.hostname, service.port)
    is_below = f"{parts.path}/".startswith(f"{service.path}/")
    return parts.path.removeprefix(service.path) if is_there and is_below else None


@dataclass(frozen=True, slots=True)
class Air:
    """The parts of an AIR that matter here: the service, in lower case, and what it calls the model.

    `is_named` is False for a text that only has an AIR's colons.
    """

    service: str
    model: str
    is_named: bool


def split_air(text: str) -> Air:
    """`urn:air:ECOSYSTEM:TYPE:SOURCE:ID[@VERSION][+FILE][.FORMAT]`, whose first four parts may be missing."""
    named = re.sub(r"(?i)^(?:urn:)?(?:air:)?", "", text)
    *_, service, model = ["", *named.split(":")]
    if (named == text and named.count(":") != 3) or named.count(":") > 3:
        service = ""
    return Air(service.lower(), model, named != text)
