"""FetchReceipt: which bytes were fetched, and what was said about them beside the bytes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from darkroom.errors import DarkroomError, SourceError
from darkroom.receipts import Receipt


class FetchedFile(BaseModel):
    """One file of a fetched folder: `size` in bytes and `sha256` (hex)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class FetchReceipt(Receipt):
    """`source` as configured, `size` in bytes, `autov2` and `autov3` as Civitai names a file's hashes.

    `title` and `architecture` are what the file's ModelSpec metadata says, `parameterization` what its sidecar says,
    if they say anything. Of a Diffusers folder `files` are its files by their relative paths, `sha256` is the digest
    over them, and what only single files have is None.
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
