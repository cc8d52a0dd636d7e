"""What a kind of source has to do, and what goes in and out of it.

A new kind is one module with a class that implements these, and one line in `references`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from darkroom.sources.access import Access
from darkroom.sources.receipt import FetchReceipt, SourceFacts

if TYPE_CHECKING:
    from darkroom.config import FetchConfig

GetJson = Callable[[str, Access | None], object]
"""Asks a URL for JSON: retries, follows redirects, and raises what `access.refusal` makes of 401, 403 and 404."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """`sha256` of the file, or the content digest of the folder; `parameterization` of the file's sidecar, if any.

    Both are None for a remote source, which isn't asked while a workflow is planned.
    """

    sha256: str | None
    parameterization: str | None
    is_folder: bool


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What to fetch a source for: the parameters of `darkroom.sources.fetch`.

    `check` raises for a file that isn't of the wanted `kind`; `report` gets lines for people.
    """

    dest: Path
    kind: str
    dtype: str
    sha256: str | None
    downloads: Path | None
    lock: Path | None
    dates: Path | None
    update: bool
    options: FetchConfig | None
    report: Callable[[str], None]
    has_bar: bool
    check: Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file to download.

    `identity` names its bytes as exactly as the source can (`civitai:827184@2514310/7`, `hf:org/name@COMMIT/unet/…`, the
    URL) and holds no secret. `path` is its place in a Diffusers folder, or a name for messages; never where it is
    written. `size` in bytes may be off by `size_tolerance`; `sha256` (lower-case hex) is what the source promises. `url`
    carries no token; `access` holds the one that its origin may see, None for an origin that may see none.
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


class Source(Protocol):
    """Where a checkpoint, VAE, LoRA, embedding, upscaler or ControlNet comes from."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The source that `text` names; None if `text` isn't of this kind. Raises SourceError (E-SOURCE) if it is broken."""

    @property
    def text(self) -> str:
        """The canonical text, which lock files and receipts hold; `parse` gives an equal source for it."""

    @property
    def is_local(self) -> bool:
        """True if the source is on this machine and can be inspected while a workflow is planned."""

    @property
    def is_folder(self) -> bool:
        """True for a Diffusers folder, False for a single file."""

    def refuse_unencrypted(self, sha256: str | None) -> None:
        """Raise SourceError (E-SOURCE) if anybody on the way could change the bytes and no SHA256 would show that."""

    def inspect(self, receipt: Path, cache: Path, sha256: str | None) -> SourceState:
        """The source's state now, without the network; see `darkroom.sources.inspect_source`."""

    def fetch(self, request: FetchRequest) -> FetchReceipt:
        """Bring the source to `request.dest`; see `darkroom.sources.fetch`."""


class ResolvableSource(Source, Protocol):
    """A source whose files are found out by asking a server."""

    def resolve(self, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
        """The files that the source stands for now; `version`, from the lock file, pins one that may move.

        Raises SourceError (E-SOURCE) for what isn't there or isn't a `kind`, TransientError for a failure that may pass.
        """
