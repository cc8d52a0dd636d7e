"""References: what a configured source means, found without asking anybody.

The registry of remote kinds is REMOTE_KINDS; each kind knows its own forms. Anything without a scheme is a path.
"""

from __future__ import annotations

from darkroom.base.secrets import has_secret, redact
from darkroom.errors import SourceError
from darkroom.sources.addresses import FORMS_HINT, split_air
from darkroom.sources.civitai import CivitaiSource
from darkroom.sources.hub import HubSource
from darkroom.sources.local import LocalSource
from darkroom.sources.remote_source import RemoteSource
from darkroom.sources.source import Source
from darkroom.sources.url import UrlSource

REMOTE_KINDS: tuple[type[RemoteSource], ...] = (CivitaiSource, HubSource, UrlSource)
"""In this order: the first kind that a text belongs to has it, and any web address belongs to the last."""

_SECRET_HINT = (
    "leave it out of the address: Civitai's token belongs into CIVITAI_API_KEY and the Hub's into HF_TOKEN; "
    "from other sites download by hand, then give the path"
)


def parse_reference(source: str) -> Source:
    """What a configured source means. `parse_reference(found.text) == found` for every source that it returns.

    Raises SourceError (E-SOURCE) for what isn't one of the forms and for an address that carries a secret, which is not
    shown; ConfigError (E-CONFIG) for a broken CIVITAI_ENDPOINT or HF_ENDPOINT.
    """
    text = source.strip()
    if not text:
        raise SourceError("source", source, "is empty", FORMS_HINT)
    if (local := LocalSource.parse(source)) is not None:
        return local
    if has_secret(text):
        raise SourceError("source", redact(text), "carries a secret, which would be stored and shown", _SECRET_HINT)
    if not text.isprintable():
        raise SourceError("source", text, "holds characters that can't stand in an address", FORMS_HINT)
    for kind in REMOTE_KINDS:
        if (found := kind.parse(text)) is not None:
            return found
    if split_air(text).is_named:
        raise SourceError("source", text, "is not an AIR of Civitai or of the Hub", FORMS_HINT)
    raise SourceError("source", text, f"'{text.partition(':')[0]}:' is no kind of source", FORMS_HINT)
