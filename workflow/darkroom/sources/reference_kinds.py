"""What sources are: a local path, a version at Civitai, a file or folder at the Hugging Face Hub, another address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from darkroom.sources.endpoints import is_in_the_clear


@dataclass(frozen=True, slots=True)
class LocalReference:
    """A file or a folder on this machine."""

    path: str

    @property
    def text(self) -> str:
        return self.path

    @property
    def is_local(self) -> bool:
        return True

    @property
    def is_folder(self) -> bool:
        return Path(self.path).expanduser().is_dir()


@dataclass(frozen=True, slots=True)
class CivitaiReference:
    """A version of a model at Civitai; without `version_id` the one that the model's page shows first, its newest.

    `file_id` names one of its files; `wanted` are the properties, among `type`, `size` and `fp`, that it has to have.
    """

    model_id: int | None
    version_id: int | None
    file_id: int | None = None
    wanted: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        version = str(self.version_id or "latest")
        ids = f"{self.model_id}@{version}" if self.model_id else version
        file = f"+{self.file_id}" if self.file_id else ""
        return f"civitai:{ids}{file}" + (f"?{urlencode(self.wanted, quote_via=quote)}" if self.wanted else "")

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_folder(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class HubReference:
    """A .safetensors file in a repository at the Hugging Face Hub, or a Diffusers folder; without `path` all of it.

    `revision` is a branch, a tag or a commit; None is the branch main.
    """

    repo: str
    path: str | None = None
    revision: str | None = None

    @property
    def text(self) -> str:
        path = f"/{_quoted(self.path)}" if self.path else ""
        return f"hf:{self.repo}{path}" + (f"@{_quoted(self.revision)}" if self.revision else "")

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_folder(self) -> bool:
        return self.path is None or not self.path.lower().endswith(".safetensors")


@dataclass(frozen=True, slots=True)
class UrlReference:
    """A file at any web address."""

    url: str

    @property
    def text(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    @property
    def is_folder(self) -> bool:
        return False

    @property
    def is_plain_http(self) -> bool:
        """True where anybody on the way could change the file: only a known SHA256 makes that bearable."""
        return is_in_the_clear(self.url)


Reference = LocalReference | CivitaiReference | HubReference | UrlReference


def _quoted(text: str) -> str:
    """Only what would be read as something else is percent-encoded."""
    return re.sub(r"[%@?#\\\s]", lambda found: quote(found[0], safe=""), text)
