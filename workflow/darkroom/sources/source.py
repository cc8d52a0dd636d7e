"""What a remote source resolves to: which files, from which URLs, for whom, and what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from darkroom.sources.access import Access
from darkroom.sources.receipt import SourceFacts


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file to download.

    `identity` names its bytes as well as the source can (`civitai:827184@2514310/7`, `hf:org/name@COMMIT/unet/…`, the URL)
    and holds no secret. `path` is its place in a Diffusers folder, or a name for messages; never where it is written.
    `size` in bytes may be off by `size_tolerance`; `sha256` (lower-case hex) is what the source promises. `url` carries no token;
    `access` says who may be shown which, None where nobody is.
    """

    identity: str
    path: str
    url: str
    access: Access | None = None
    size: int | None = None
    size_tolerance: int = 0
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """`files` in a stable order: exactly one for a single file, more for a folder. `version` pins what may move."""

    files: tuple[RemoteFile, ...]
    version: str | None = None
    facts: SourceFacts = field(default_factory=SourceFacts)


GetJson = Callable[[str, Access | None], object]
"""Asks a URL for JSON: retries, follows redirects, and raises what `access.refusal` makes of 401, 403 and 404."""
