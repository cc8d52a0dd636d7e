"""Asking a remote source which files it has: one way in for Civitai, the Hub and plain URLs."""

from __future__ import annotations

from urllib.parse import urlsplit

from darkroom.errors import SourceError
from darkroom.sources.references import CivitaiReference, HubReference, Reference, UrlReference
from darkroom.sources.remote_files import GetJson, RemoteFile, Resolved


def resolve(reference: Reference, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
    """What `reference` stands for; `version` is what the lock file says of one that may move.

    Raises what `resolve_civitai` and `resolve_hub` raise, SourceError (E-SOURCE) for a local path.
    """
    if isinstance(reference, CivitaiReference):
        from darkroom.sources.civitai import resolve_civitai

        return resolve_civitai(reference, kind=kind, version=version, get_json=get_json)
    if isinstance(reference, HubReference):
        from darkroom.sources.hub import resolve_hub

        return resolve_hub(reference, kind=kind, version=version, dtype=dtype)
    if isinstance(reference, UrlReference):
        name = urlsplit(reference.url).path.rpartition("/")[2] or "the file"
        return Resolved((RemoteFile(identity=reference.url, path=name, url=reference.url),))
    raise SourceError("source", reference.text, "is a local path", "nothing has to be asked about it")
