"""The API key: where it is read from, how a request shows it, and when a server may do without one."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
import stat
from pathlib import Path

from darkroom.errors import ConfigError

KEY_VARIABLE = "DARKROOM_API_KEY"
KEY_FILE_VARIABLE = "DARKROOM_API_KEY_FILE"
_SHORTEST_KEY = 8


def read_key() -> str | None:
    """The API key from DARKROOM_API_KEY, or from a private file that DARKROOM_API_KEY_FILE names; None without either.

    Raises ConfigError (E-CONFIG) for a file that others can read, and for a key that is easy to guess.
    """
    key, file = os.environ.get(KEY_VARIABLE), os.environ.get(KEY_FILE_VARIABLE)
    if key is None and file:
        key = _read_file(Path(file))
    key = key and key.strip()  # as a header's value comes
    if key is not None and (len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable()):
        why = f"has to have {_SHORTEST_KEY} or more printable ASCII characters"
        raise ConfigError("API key", None, why, "make one: openssl rand -hex 32")
    return key


def _read_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(KEY_FILE_VARIABLE, path, "others can read that file", f"chmod 600 {path}")
            return file.read()
    except UnicodeDecodeError:
        raise ConfigError(KEY_FILE_VARIABLE, path, "is not a text", "write the key into it") from None
    except OSError as error:
        raise ConfigError(KEY_FILE_VARIABLE, path, error.strerror or "can't be read", "check the path") from None


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
