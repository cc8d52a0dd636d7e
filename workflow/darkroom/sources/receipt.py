"""FetchReceipt: which bytes were fetched, and what their source says about them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from darkroom.base.hashing import autov2, autov3
from darkroom.base.receipts import Receipt
from darkroom.errors import DarkroomError, SourceError

if TYPE_CHECKING:
    from darkroom.checkpoint.header import Header


class FetchedFile(BaseModel):
    """One file of a fetched folder: `size` in bytes and `sha256` (hex)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class SourceFacts(BaseModel):
    """What a source says about a model; None where it says nothing.

    `version` is Civitai's version id or the Hub's commit, `base_model` and `license` are named as the source names them,
    `usage` holds Civitai's permissions (allowCommercialUse, allowNoCredit, …), `page` is where a person can read it all.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str | None = None
    name: str | None = None
    base_model: str | None = None
    license: str | None = None
    license_url: str | None = None
    usage: dict[str, Any] | None = None
    trained_words: tuple[str, ...] = ()
    page: str | None = None


class FetchReceipt(Receipt):
    """`source` as configured, a remote one in its canonical text; `size` in bytes; `autov2` and `autov3` as Civitai names
    a file's hashes; `fetched` is the day these bytes were first brought here.

    `title` and `architecture` come from the file's ModelSpec metadata, `parameterization` from its sidecar, `facts` from a
    remote source; each is None without. For a Diffusers folder `files` are its files by their relative paths, `sha256` is
    the digest over them, `variant` the preferred weights of a remote one, and the fields of single files are None.
    """

    what: ClassVar[str] = "fetch receipt"
    verb: ClassVar[str] = "fetch"
    error: ClassVar[type[DarkroomError]] = SourceError

    source: str
    size: int
    sha256: str
    autov2: str | None
    autov3: str | None
    title: str | None
    architecture: str | None
    parameterization: str | None = None
    files: dict[str, FetchedFile] | None = None
    variant: Literal["fp16", "plain"] | None = None
    facts: SourceFacts | None = None
    fetched: date | None = None

    @classmethod
    def of_file(cls, source: str, header: Header, sha256: str, data_sha256: str, **others: Any) -> Self:
        """The receipt of a safetensors file; `data_sha256` leaves its header out, `others` are further fields."""
        return cls(
            source=source,
            size=header.file_size,
            sha256=sha256,
            autov2=autov2(sha256),
            autov3=autov3(data_sha256),
            title=header.metadata.get("modelspec.title"),
            architecture=header.metadata.get("modelspec.architecture"),
            **others,
        )

    @classmethod
    def of_folder(cls, source: str, files: dict[str, FetchedFile], digest: str, **others: Any) -> Self:
        """The receipt of a Diffusers folder of these files; `digest` is that over them, `others` are further fields."""
        size = sum(file.size for file in files.values())
        return cls(
            source=source,
            size=size,
            sha256=digest,
            autov2=None,
            autov3=None,
            title=None,
            architecture=None,
            files=files,
            **others,
        )
