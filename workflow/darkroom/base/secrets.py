"""Secrets: masked in everything that is shown, and read from private files only."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path
from urllib.parse import quote, unquote

from darkroom.base.text import decode_text
from darkroom.errors import ConfigError

MASK = "***"
VARIABLES = (
    "CIVITAI_API_KEY",
    "CIVITAI_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "DARKROOM_API_KEY",
)
_CREDENTIALS_MODE = 0o440
_ACL = "system.posix_acl_access"
_ACL_ENTRY = struct.Struct("<HHI")  # linux/posix_acl_xattr.h; the list begins with its version, 4 bytes
_ACL_USER, _ACL_OWNERS_GROUP, _ACL_GROUP = 0x02, 0x04, 0x08
_SHORTEST = 4  # anything shorter is part of too many words
_hidden: set[str] = set()

_STRONG = re.compile(
    r"x(?:amz|goog).*|"
    r".*(?:token|secret|password|passwd|passphrase|apikey|accesskey|secretkey|privatekey|signature|credentials?|"
    r"authorization|cookie|accesskeyid)"
)
"""Names, in lower-case letters and digits only, whose values are secret everywhere."""
_IN_QUERY = frozenset(("auth", "jwt", "key", "keypairid", "pass", "policy", "pwd", "sas", "sessionid", "sig"))
"""Names whose values are secret in a URL's query only."""

_LOGIN = re.compile(r'(?<=//)[^\s/?#"<>]*@')
_LOGIN_WITH_SLASH = re.compile(r'(?<=://)[^\s/?#@:"<>\[]*:(?!\d+(?:[/?#\s]|$))[^\s@"<>]{0,500}@')
_JSON = re.compile(
    r"""(?P<q>\\*["'])(?P<name>[\w.-]{1,100})(?P=q)(?P<colon>\s*:\s*)"""
    r"""(?:(?P<v>\\*["'])(?:(?!(?P=v))(?:\\.|.))*(?P=v)|-?\d[\w.+-]*)"""
)
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:key|token|secret|signature))(\s*:\s*)[^\r\n]+"
)
_BEARER = re.compile(r"""(?i)\b(bearer)(\s+)[^\s"'<>,;)\]}]+""")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_PAIR = re.compile(r'(?P<name>[\w.%~\[\]+-]{1,100}?)(?P<equals>=|%3[Dd])(?P<value>[^&\s"<>#]*)')
_CLOSING = "')]},.:\\"
_DEEPEST = 4  # URLs within queries of URLs within …


def hide(secret: str) -> None:
    """Make `redact` mask this value from now on."""
    if len(secret.strip()) >= _SHORTEST:
        _hidden.add(secret.strip())


def redact(text: str) -> str:
    """The text with `***` for every secret in it.

    Secrets are logins in URLs; values in queries, JSON and headers whose names are those of secrets; bearer tokens; the
    values given to `hide`; the values of the tokens' environment variables.
    """
    for secret in _known():
        text = text.replace(secret, MASK)
    text = _LOGIN_WITH_SLASH.sub(f"{MASK}@", _LOGIN.sub(f"{MASK}@", text))
    text = _JSON.sub(_mask_json, text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    return _HUB_TOKEN.sub(MASK, _mask_pairs(text, _DEEPEST))


def redact_url(url: str) -> str:
    """The URL with `***` for its login and for secrets in its path, query and fragment."""
    return redact(url)


def has_secret(url: str) -> bool:
    """True for a URL that carries a login, a token or a signature."""
    return redact(url) != url


def read_private_file(variable: str, path: Path) -> str:
    """The text of the file that the environment's `variable` names.

    Root may read it too, and a group that is root's alone: systemd's credentials are root's with mode 0440 and an access
    control list that names this user. Raises ConfigError (E-CONFIG) for a file that others can read, that is missing or
    that isn't text.
    """
    try:
        with path.open("rb") as file:
            if not _is_private(file.fileno()):
                raise ConfigError(variable, path, "others can read that file", f"chmod 600 {path}")
            data = file.read()
    except OSError as error:
        raise ConfigError(variable, path, error.strerror or "can't be read", "check the path") from None
    return decode_text(data, path, what=variable)


def _is_private(descriptor: int) -> bool:
    """True for a file that nobody but this user and root can read or write."""
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return True
    ours = (0, os.geteuid())
    if mode != _CREDENTIALS_MODE or status.st_uid not in ours:
        return False
    entries = _read_acl(descriptor)
    if entries is None:
        return status.st_gid == 0
    readers = [(tag, status.st_gid if tag == _ACL_OWNERS_GROUP else id) for tag, rights, id in entries if rights]
    users = [id for tag, id in readers if tag == _ACL_USER]
    groups = [id for tag, id in readers if tag in (_ACL_GROUP, _ACL_OWNERS_GROUP)]
    return set(users) <= set(ours) and set(groups) <= {0}


def _read_acl(descriptor: int) -> list[tuple[int, int, int]] | None:
    """A file's access control list as (tag, rights, id); None if it has none, and its mode is all there is."""
    try:
        data = os.getxattr(descriptor, _ACL)
    except (OSError, AttributeError):  # macOS has neither
        return None
    return list(_ACL_ENTRY.iter_unpack(data[4:]))


def _known() -> list[str]:
    """The known secrets, plain and percent-encoded, the longest first, since one may contain another."""
    values = {os.environ.get(variable, "").strip() for variable in VARIABLES} | _hidden
    values = {value for value in values if len(value) >= _SHORTEST and value.strip("*")}
    return sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)


def _mask_json(found: re.Match[str]) -> str:
    if not _STRONG.fullmatch(_plain(found["name"])):
        return found[0]
    mark = found["v"] or ""
    return f"{found['q']}{found['name']}{found['q']}{found['colon']}{mark}{MASK}{mark}"


def _mask_pairs(text: str, depth: int) -> str:
    """Mask `name=value`, in queries and elsewhere; also in values that are themselves URLs, or percent-encoded."""

    def mask(found: re.Match[str]) -> str:
        value = found["value"].rstrip(_CLOSING)
        closing = found["value"][len(value) :]
        if not value:
            return found[0]
        if _is_secret(found["name"], text[: found.start()]):
            return f"{found['name']}{found['equals']}{MASK}{closing}"
        inner = _mask_pairs(value, depth - 1) if depth else value
        decoded = unquote(inner)
        if depth and decoded != inner and redact(decoded) != decoded:
            inner = MASK
        return f"{found['name']}{found['equals']}{inner}{closing}"

    return _PAIR.sub(mask, text)


def _is_secret(name: str, before: str) -> bool:
    *path, last = re.split(r"[?&#]", unquote(name))
    is_in_query = bool(path) or before.endswith(("?", "&", "#", "%3F", "%3f", "%26"))
    return bool(_STRONG.fullmatch(_plain(last))) or (is_in_query and _plain(last) in _IN_QUERY)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
