"""Files at any web address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from darkroom.errors import SourceError
from darkroom.sources.addresses import FORMS_HINT, is_in_the_clear, scheme_of, split_web_address
from darkroom.sources.remote_source import RemoteSource
from darkroom.sources.source import GetJson, RemoteFile, Resolved


@dataclass(frozen=True, slots=True)
class UrlSource(RemoteSource):
    """A file at any web address."""

    url: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """`https://…` or `http://…`. Raises SourceError (E-SOURCE) for a broken address."""
        if scheme_of(text) not in ("http", "https"):
            return None
        if split_web_address(text) is None:
            raise SourceError("source", text, "is no web address", FORMS_HINT)
        return cls(text.partition("#")[0])

    @property
    def text(self) -> str:
        return self.url

    @property
    def is_folder(self) -> bool:
        return False

    def refuse_unencrypted(self, sha256: str | None) -> None:
        if is_in_the_clear(self.url) and sha256 is None:
            why = "comes unencrypted, so that anybody on the way can change it"
            raise SourceError("source", self.text, why, "use https, or give its sha256 in the configuration")

    def resolve(self, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
        parts = split_web_address(self.url)
        name = (parts.path if parts else "").rpartition("/")[2] or "the file"
        return Resolved((RemoteFile(identity=self.url, path=name, url=self.url),))
