"""What the kinds of remote source share: they aren't inspected while planning, and fetching downloads what they resolve to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.source import FetchRequest, GetJson, Resolved, SourceState


class RemoteSource(ABC):
    """A source whose files are downloaded once it has been resolved."""

    __slots__ = ()

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self | None: ...

    @property
    @abstractmethod
    def text(self) -> str: ...

    @property
    def is_local(self) -> bool:
        return False

    @property
    @abstractmethod
    def is_folder(self) -> bool: ...

    def refuse_unencrypted(self, sha256: str | None) -> None:
        """Services are asked over https, and say which hash a file has."""
        return

    @abstractmethod
    def resolve(self, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
        """As `ResolvableSource.resolve`."""

    def inspect(self, receipt: Path, cache: Path, sha256: str | None) -> SourceState:
        return SourceState(None, None, self.is_folder)

    def fetch(self, request: FetchRequest) -> FetchReceipt:
        from darkroom.sources.remote import fetch_remote  # here, since planning fetches nothing

        return fetch_remote(self, request)
