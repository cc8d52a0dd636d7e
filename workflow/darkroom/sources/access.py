"""Access to a service: its token, the one origin that may see it, and what a refusal by the server means."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.secrets import hide, read_private_file, redact
from darkroom.errors import AuthError, ConfigError, DarkroomError, SourceError
from darkroom.sources.addresses import is_in_the_clear, origin_of

LONGEST_SHOWN = 200
_MOST_JSON = 2**16


@dataclass(frozen=True, slots=True)
class Access:
    """Only `origin` (`https://civitai.com`) is sent `token`.

    The rest is for messages: the `service`, the `variable` that holds a token, the `token_page` where tokens are made,
    the `page` of what is fetched, where a licence can be accepted.
    """

    service: str
    origin: str
    variable: str
    token_page: str
    page: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """The page to look at: of the source if it has one, else the service's."""
        return self.page or self.origin


def find_access(
    service: str, endpoint: str, found: tuple[str, str] | None, *, variable: str, token_page: str, page: str | None
) -> Access:
    """Access to `service` with the token that was `found`, if any, and the name of where; else `variable` is named.

    Raises ConfigError (E-CONFIG) for a token that can't be sent.
    """
    variable, token = found or (variable, None)
    if token is not None:
        hide(token)
        if not token.isascii() or not token.isprintable() or " " in token:
            why = "can't be a token: it holds other characters than letters, digits and punctuation"
            raise ConfigError(variable, None, why, f"copy it again from {token_page}")
        if is_in_the_clear(endpoint):
            why = f"its token would be sent unencrypted to {endpoint}"
            raise ConfigError(variable, None, why, "use an address with https, or unset the token")
    return Access(service, origin_of(endpoint), variable, token_page, page, token)


def token_from_environment(variables: tuple[str, ...]) -> tuple[str, str] | None:
    """The variable and the token of the first of `variables` that is set, or of the file that `VARIABLE_FILE` names.

    Raises ConfigError (E-CONFIG) for a file that is empty or that others can read.
    """
    for variable in variables:
        if token := os.environ.get(variable, "").strip():
            return variable, token
        named = f"{variable}_FILE"
        if file := os.environ.get(named, "").strip():
            if token := read_private_file(named, Path(file)).strip():
                return named, token
            raise ConfigError(named, file, "is empty", "write the token into it, and nothing else")
    return None


def refusal(access: Access | None, source: str, status: int, headers: Mapping[str, str], body: bytes) -> DarkroomError:
    """The error to raise for a response that a retry won't change: 401, 403, 404, 407, 410, 451.

    AuthError (E-AUTH) where another token, a licence or a login may help, SourceError (E-SOURCE) where nothing does.
    At most a short message from a JSON `body` is shown, without secrets.
    """
    if access is not None and access.token:
        hide(access.token)
    named = {name.lower(): value for name, value in headers.items()}
    data = _json(body)
    said = f"the server answers {status}{_server_message(named, data)}"
    if status == 407:
        return AuthError("source", source, f"a proxy on the way wants a login ({said})", "set it in HTTPS_PROXY")
    if status in (410, 451):
        why = "is archived or was taken away" if status == 410 else "must not be shown here"
        return SourceError("source", source, f"{why} ({said})", "choose another source, or give the path of a file")
    if access is None:
        return _refused_without_service(source, status, said)
    code = named.get("x-error-code", "")
    if code in ("RevisionNotFound", "EntryNotFound"):
        what = "revision" if code == "RevisionNotFound" else "file"
        hint = f"look at {access.where} for what there is"
        return SourceError("source", source, f"has no such {what} ({said})", hint)
    if code == "GatedRepo":
        return _gated(access, source, said)
    if _field(data, "error").lower() == "early access":
        return _early_access(access, source, said, _field(data, "deadline"))
    # To strangers the Hub answers 401 for repositories that don't exist as well.
    is_hidden = status == 401 and access.token is None and "x-error-message" in named
    if status == 404 or code == "RepoNotFound" or is_hidden:
        why = f"is not there, or not for everybody ({said})"
        return AuthError("source", source, why, f"check it at {access.where}{_login_hint(access)}")
    if access.token is None:
        return AuthError("source", source, f"{access.service} wants a token ({said})", _token_hint(access))
    if status == 401:
        why = f"{access.service} refused the token in {access.variable} ({said})"
        return AuthError("source", source, why, f"make another at {access.token_page}")
    why = f"the token in {access.variable} does not open it ({said})"
    return AuthError("source", source, why, f"see at {access.where} what its account lacks")


def shown(text: object, longest: int = LONGEST_SHOWN) -> str:
    """A text from elsewhere as messages may show it: one printable line without secrets, at most `longest` characters.

    Empty if it is no text.
    """
    if not isinstance(text, str):
        return ""
    one_line = " ".join(redact(text[: 100 * longest]).split())
    printable = "".join(character if character.isprintable() else "\ufffd" for character in one_line)
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"


def _refused_without_service(source: str, status: int, said: str) -> AuthError:
    if status == 404:
        return AuthError("source", source, f"is not there, or not for everybody ({said})", "check the address")
    why = f"is not for everybody ({said}), and tokens are sent to Civitai and the Hub only"
    return AuthError("source", source, why, "download it by hand, then give its path")


def _early_access(access: Access, source: str, said: str, deadline: str) -> AuthError:
    until = re.match(r"\d{4}-\d\d-\d\d", deadline)
    why = f"is in early access{f' until {until[0]}' if until else ''} ({said})"
    then = f"; then set {access.variable}" if access.token is None else ""
    return AuthError("source", source, why, f"buy access at {access.where}, or wait{then}")


def _gated(access: Access, source: str, said: str) -> AuthError:
    if access.token is None:
        why = f"its licence has to be accepted, and no token says who did ({said})"
        return AuthError("source", source, why, f"accept it at {access.where}, then {_token_hint(access)}")
    why = f"its licence has to be accepted by the account of the token in {access.variable} ({said})"
    return AuthError("source", source, why, f"accept it at {access.where}")


def _token_hint(access: Access) -> str:
    return f"make a token at {access.token_page} and set {access.variable}"


def _login_hint(access: Access) -> str:
    if access.token is None:
        return f"; if it needs a login, {_token_hint(access)}"
    return f", logged in with the account of the token in {access.variable}"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body[:_MOST_JSON])
    except (ValueError, RecursionError):
        return None


def _server_message(headers: Mapping[str, str], data: Any) -> str:
    """The server's own message, quoted; empty if it sends none."""
    text = shown(_field(data, "message") or _field(data, "error") or headers.get("x-error-message", ""))
    return f": '{text}'" if text else ""


def _field(data: Any, name: str) -> str:
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""
