"""Where Civitai and the Hugging Face Hub are asked: their own addresses, or those that the environment names."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from darkroom.errors import ConfigError
from darkroom.redaction import redact_url
from darkroom.serve.keys import is_loopback

CIVITAI_VARIABLE = "CIVITAI_ENDPOINT"
HUB_VARIABLE = "HF_ENDPOINT"


def civitai_endpoint() -> str:
    """Civitai's address without a slash at its end. Raises ConfigError (E-CONFIG)."""
    return _endpoint(CIVITAI_VARIABLE, "https://civitai.com")


def hub_endpoint() -> str:
    """The Hub's address without a slash at its end. Raises ConfigError (E-CONFIG)."""
    return _endpoint(HUB_VARIABLE, "https://huggingface.co")


def origin_of(endpoint: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}"


def is_in_the_clear(url: str) -> bool:
    """True for plain HTTP to another machine, where anybody on the way can read and change everything."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _endpoint(variable: str, default: str) -> str:
    endpoint = os.environ.get(variable, "").strip().rstrip("/") or default
    try:
        parts = urlsplit(endpoint)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or parts.query or parts.fragment or "@" in parts.netloc or not endpoint.isprintable():
        raise ConfigError(
            variable, redact_url(endpoint), "is no address of a server", f"set it as {default} is written"
        )
    return endpoint
