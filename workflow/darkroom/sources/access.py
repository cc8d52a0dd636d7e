"""Access: the tokens of Civitai and the Hub, the one origin that may see each, and what a refusal means."""

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
from darkroom.sources.references import civitai_endpoint, hub_endpoint, is_in_the_clear, origin_of

LONGEST_SAID = 200
_MOST_JSON = 2**16


@dataclass(frozen=True, slots=True)
class Access:
    """`origin` (`https://civitai.com`) alone is shown `token`. The rest is for messages: the `service`, the `variable`
    that holds a token, the `token_page` where one is made, the `page` of what is fetched, where a licence can be
    accepted."""

    service: str
    origin: str
    variable: str
    token_page: str
    page: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """A page to look at."""
        return self.page or self.origin


def refusal(access: Access | None, source: str, status: int, headers: Mapping[str, str], body: bytes) -> DarkroomError:
    """The error to raise for an answer that won't get better by asking again: 401, 403, 404, 407, 410, 451.

    AuthError (E-AUTH) where another token, a licence or a login may help, SourceError (E-SOURCE) where nothing does.
    Of the `body` at most a short message out of JSON is shown, without secrets.
    """
    if access is not None and access.token:
        hide(access.token)
    named = {name.lower(): value for name, value in headers.items()}
    data = _json(body)
    said = f"the server answers {status}{_said(named, data)}"
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
        return SourceError(
            "source", source, f"has no such {what} ({said})", f"look at {access.where} for what there is"
        )
    if code == "GatedRepo":
        return _is_gated(access, source, said)
    if _field(data, "error").lower() == "early access":
        until = re.match(r"\d{4}-\d\d-\d\d", _field(data, "deadline"))
        why = f"is in early access{f' until {until[0]}' if until else ''} ({said})"
        return AuthError("source", source, why, f"buy access at {access.where}, or wait{_holder(access)}")
    # Strangers aren't told by the Hub which of its repositories there are.
    is_hidden = status == 401 and access.token is None and "x-error-message" in named
    if status == 404 or code == "RepoNotFound" or is_hidden:
        why = f"is not there, or not for everybody ({said})"
        return AuthError("source", source, why, f"check it at {access.where}{_needs(access)}")
    if access.token is None:
        return AuthError("source", source, f"{access.service} wants a token ({said})", _make(access))
    if status == 401:
        why = f"{access.service} refused the token in {access.variable} ({said})"
        return AuthError("source", source, why, f"make another at {access.token_page}")
    why = f"the token in {access.variable} does not open it ({said})"
    return AuthError("source", source, why, f"see at {access.where} what its account lacks")


def shown(text: object, longest: int = LONGEST_SAID) -> str:
    """What somebody else wrote, fit to be shown: without secrets, one line, not too long; nothing if it is no text."""
    if not isinstance(text, str):
        return ""
    one_line = " ".join(redact(text[: 100 * longest]).split())
    printable = "".join(sign if sign.isprintable() else "\ufffd" for sign in one_line)
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"


def _refused_without_service(source: str, status: int, said: str) -> AuthError:
    if status == 404:
        return AuthError("source", source, f"is not there, or not for everybody ({said})", "check the address")
    why = f"is not for everybody ({said}), and tokens are sent to Civitai and the Hub only"
    return AuthError("source", source, why, "download it by hand, then give its path")


def _is_gated(access: Access, source: str, said: str) -> AuthError:
    if access.token is None:
        why = f"its licence has to be accepted, and no token says who did ({said})"
        return AuthError("source", source, why, f"accept it at {access.where}, then {_make(access)}")
    why = f"its licence has to be accepted by the account of the token in {access.variable} ({said})"
    return AuthError("source", source, why, f"accept it at {access.where}")


def _make(access: Access) -> str:
    return f"make a token at {access.token_page} and set {access.variable}"


def _needs(access: Access) -> str:
    if access.token is None:
        return f"; if it needs a login, {_make(access)}"
    return f", logged in with the account of the token in {access.variable}"


def _holder(access: Access) -> str:
    return f"; then set {access.variable}" if access.token is None else ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body[:_MOST_JSON])
    except (ValueError, RecursionError):
        return None


def _said(headers: Mapping[str, str], data: Any) -> str:
    """Quoted, what the server says of it."""
    text = shown(_field(data, "message") or _field(data, "error") or headers.get("x-error-message", ""))
    return f": '{text}'" if text else ""


def _field(data: Any, name: str) -> str:
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


_CIVITAI = ("CIVITAI_API_KEY", "CIVITAI_TOKEN")
_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_LOGIN = "huggingface_hub's login"
_TRUE = ("1", "on", "yes", "true")


def civitai_access(page: str | None) -> Access:
    """Access to Civitai, with the token of CIVITAI_API_KEY or CIVITAI_TOKEN, or of the file that `…_FILE` names.

    Raises ConfigError (E-CONFIG) for a token that can't be sent, and for a file of one that others can read.
    """
    found = _from_environment(_CIVITAI)
    return _access("Civitai", civitai_endpoint(), found, _CIVITAI[0], "https://civitai.com/user/account", page)


def hub_access(page: str | None) -> Access:
    """Access to the Hub, with the token of HF_TOKEN or of the file that HF_TOKEN_FILE names, else of `hf auth login`.

    Raises ConfigError (E-CONFIG) as `civitai_access` does.
    """
    found = _from_environment(_HUB) or _from_login()
    return _access(
        "the Hugging Face Hub", hub_endpoint(), found, _HUB[0], "https://huggingface.co/settings/tokens", page
    )


def _access(
    service: str, endpoint: str, found: tuple[str, str] | None, variable: str, token_page: str, page: str | None
) -> Access:
    variable, token = found or (variable, None)
    if token is not None:
        hide(token)
        if not token.isascii() or not token.isprintable() or " " in token:
            why = "can't be a token: it holds other signs than letters, digits and punctuation"
            raise ConfigError(variable, None, why, f"copy it again from {token_page}")
        if is_in_the_clear(endpoint):
            why = f"its token would be sent unencrypted to {endpoint}"
            raise ConfigError(variable, None, why, "use an address with https, or unset the token")
    return Access(service, origin_of(endpoint), variable, token_page, page, token)


def _from_environment(variables: tuple[str, ...]) -> tuple[str, str] | None:
    """The first token there is, and the variable that it is from."""
    for variable in variables:
        if token := os.environ.get(variable, "").strip():
            return variable, token
        named = f"{variable}_FILE"
        if file := os.environ.get(named, "").strip():
            if token := read_private_file(named, Path(file)).strip():
                return named, token
            raise ConfigError(named, file, "is empty", "write the token into it, and nothing else")
    return None


def _from_login() -> tuple[str, str] | None:
    """The token that `hf auth login` stored, which huggingface_hub renews if it is about to expire."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    # Here, since only sources at the Hub need it.
    from huggingface_hub import get_token

    try:
        token = get_token()
    except Exception as error:  # whatever its stores, and the services that hand out tokens, do
        raise ConfigError(_LOGIN, None, f"can't be used ({type(error).__name__})", "set HF_TOKEN") from None
    return (_LOGIN, token) if token else None
