"""Files and Diffusers folders on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from darkroom.errors import SourceError
from darkroom.sources.addresses import scheme_of
from darkroom.sources.inspect import folder_digest, last_identity, sidecar_parameterization, source_identity
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.source import FetchRequest, SourceState

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or a folder on this machine."""

    path: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Anything without a scheme is a path."""
        return cls(text) if scheme_of(text.strip()) is None else None

    @property
    def text(self) -> str:
        return self.path

    @property
    def is_local(self) -> bool:
        return True

    @property
    def is_folder(self) -> bool:
        return Path(self.path).expanduser().is_dir()

    def refuse_unencrypted(self, sha256: str | None) -> None:
        """Nothing comes over the network."""

    def inspect(self, receipt: Path, cache: Path, sha256: str | None) -> SourceState:
        path = Path(self.path).expanduser()
        if path.is_dir():
            return SourceState(folder_digest(path, cache), None, True)
        if path.is_file():
            return SourceState(source_identity(path, cache), sidecar_parameterization(path), False)
        why = "is no file and no folder"
        if receipt.is_file() and not path.exists():
            before = FetchReceipt.read(receipt)
            is_named = Path(before.source).expanduser().absolute() == path.absolute()
            if is_named or before.sha256 in (sha256, last_identity(path, cache)):
                return SourceState(before.sha256, before.parameterization, before.files is not None)
            why = f"{why}, and what {receipt.parent} holds under that name is from {before.source}"
        hint = "fix its path in the configuration"
        if _REPOSITORY.fullmatch(self.path.strip()):
            hint += f"; a repository of the Hub is written hf:{self.path.strip()}"
        raise SourceError("source", self.path, why, hint)

    def fetch(self, request: FetchRequest) -> FetchReceipt:
        from darkroom.sources.local_files import fetch_file, fetch_folder  # here, since planning fetches nothing

        return (fetch_folder if self.is_folder else fetch_file)(self.path, request)
