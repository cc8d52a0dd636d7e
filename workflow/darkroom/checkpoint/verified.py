"""VerifiedReceipt: the identity of a verified Diffusers folder, and the cheap check that a folder is still that one.

The receipt holds no times: the same bytes always give the same receipt, so that a rebuilt but equal model makes
nothing after it run again. The cheap check compares sizes and samples of 64 blocks spread over each large file:
other weights of the same architecture have the same sizes and headers, but not the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from darkroom.base.receipts import Receipt
from darkroom.errors import DarkroomError, ModelError

SAMPLES = 64
SAMPLE_BYTES = 4096


class FileIdentity(BaseModel):
    """One file: `size` in bytes, `sha256` of all of it (None after a shallow verification), `sample` of parts of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str | None
    sample: str


class VerifiedReceipt(Receipt):
    """`digest` identifies the folder's content; `source_sha256` and `autov2` are the checkpoint's, if an audit says so.

    `dtype` is fp16, fp32, bf16 or mixed; `variant` is `fp16` if the weights' file names have that infix.
    """

    what: ClassVar[str] = "verified receipt"
    verb: ClassVar[str] = "verify"
    error: ClassVar[type[DarkroomError]] = ModelError

    name: str
    architecture: str
    dtype: str
    variant: str | None
    prediction_type: str
    digest: str | None
    source_sha256: str | None
    autov2: str | None
    revision: int
    files: dict[str, FileIdentity]

    def summary(self) -> str:
        """One line for people."""
        size = sum(identity.size for identity in self.files.values()) / 1e9
        known_as = f" [{self.autov2}]" if self.autov2 else ""
        return (
            f"verified {self.name}{known_as}: {self.architecture}, {self.dtype}, {self.prediction_type}, {size:.2f} GB"
        )


class Hashed(Protocol):
    """A file of which the SHA256 is known."""

    @property
    def sha256(self) -> str | None: ...


def content_digest(files: Mapping[str, Hashed]) -> str:
    """SHA256 over the sorted lines `PATH NUL SHA256 NEWLINE` of all files."""
    digest = hashlib.sha256()
    for relative in sorted(files):
        digest.update(f"{relative}\0{files[relative].sha256}\n".encode())
    return digest.hexdigest()


def sample_file(path: Path) -> str:
    """SHA256 over blocks spread evenly over a file, its first and last among them; a small file is read whole."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        if size <= SAMPLES * SAMPLE_BYTES:
            file.seek(0)
            digest.update(file.readall())
        else:
            for number in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
