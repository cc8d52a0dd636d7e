"""The forms a source can be written in, read without asking anybody; each has one form that it is shown in."""

from __future__ import annotations

import re

from darkroom.errors import SourceError
from darkroom.redaction import has_secret, redact
from darkroom.sources import reference_forms
from darkroom.sources.reference_kinds import (
    CivitaiReference,
    HubReference,
    LocalReference,
    Reference,
    UrlReference,
)

__all__ = ["CivitaiReference", "HubReference", "LocalReference", "Reference", "UrlReference", "parse_reference"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SECRET_HINT = (
    "leave it out of the address: Civitai's token belongs into CIVITAI_API_KEY and the Hub's into HF_TOKEN; "
    "from other sites download by hand, then give the path"
)


def parse_reference(source: str) -> Reference:
    """What a configured source means. `parse_reference(reference.text) == reference` for every reference it returns.

    Raises SourceError (E-SOURCE) for what isn't one of the forms and for an address that carries a secret, which is not
    shown; ConfigError (E-CONFIG) for a broken CIVITAI_ENDPOINT or HF_ENDPOINT.
    """
    text = source.strip()
    if not text:
        raise SourceError("source", source, "is empty", reference_forms.HINT)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return LocalReference(source)
    if has_secret(text):
        raise SourceError("source", redact(text), "carries a secret, which would be stored and shown", _SECRET_HINT)
    if not text.isprintable():
        raise SourceError("source", text, "holds characters that can't stand in an address", reference_forms.HINT)
    match scheme[1].lower():
        case "http" | "https":
            return reference_forms.from_url(text)
        case "civitai":
            return reference_forms.from_civitai(text)
        case "hf":
            return reference_forms.from_hub(text)
        case _:
            return reference_forms.from_air(text)


def refuse_plain_http(reference: Reference, sha256: str | None) -> None:
    """Raise SourceError (E-SOURCE) for an unencrypted address without a known SHA256: anybody on the way could change the file."""
    if isinstance(reference, UrlReference) and reference.is_plain_http and sha256 is None:
        why = "comes unencrypted, so that anybody on the way can change it"
        raise SourceError("source", reference.text, why, "use https, or give its sha256 in the configuration")
