"""The API key: where it is read from, how a request shows it, and when a server may do without one."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
from pathlib import Path

from darkroom.errors import ConfigError
from darkroom.private_files import read_private_file

KEY_VARIABLE = "DARKROOM_API_KEY"
KEY_FILE_VARIABLE = "DARKROOM_API_KEY_FILE"
_SHORTEST_KEY = 8


def read_key() -> str | None:
    """The API key from DARKROOM_API_KEY, or from a private file that DARKROOM_API_KEY_FILE names; None without either.

    Raises ConfigError (E-CONFIG) for a file that others can read, and for a key that is easy to guess.
    """
    key, file = os.environ.get(KEY_VARIABLE), os.environ.get(KEY_FILE_VARIABLE)
    if key is None and file:
        key = read_private_file(KEY_FILE_VARIABLE, Path(file))
    key = key and key.strip()  # as a header's value comes
    if key is not None and (len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable()):
        why = f"has to have {_SHORTEST_KEY} or more printable ASCII characters"
        raise ConfigError("API key", None, why, "make one: openssl rand -hex 32")
    return key


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def has_key(authorization: str, key: str) -> bool:
    """Whether a header holds the key: as a bearer token (RFC 6750), or as the password of any user (RFC 7617)."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode("latin-1", "replace"), key.encode())
