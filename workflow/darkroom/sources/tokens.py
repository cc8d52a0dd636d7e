"""Tokens for Civitai and the Hugging Face Hub: from the environment, or from files that nobody else can read."""

from __future__ import annotations

import os
from pathlib import Path

from darkroom.errors import ConfigError
from darkroom.private_files import read_private_file
from darkroom.redaction import hide
from darkroom.sources.access import Access
from darkroom.sources.endpoints import civitai_endpoint, hub_endpoint, is_in_the_clear, origin_of

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
