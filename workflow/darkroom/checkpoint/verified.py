"""The identity of a Diffusers folder: its files' sizes, SHA256 and samples, in a receipt and in a memory beside it.

The receipt of a verification holds no times: the same bytes always give the same receipt, so that a rebuilt but equal
model doesn't make later steps run again. A sample is 64 blocks spread over a file: other weights of the same
architecture have the same sizes and headers, but not the same samples.

The memory, `NAME.hashes.json` beside the folder, holds fingerprints with modification times, so that a folder is read
whole only once. Losing it costs time only: a memory that can't be read counts as empty, and failing to write it is not
an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom import revisions
from darkroom.base.files import write_bytes
from darkroom.base.receipts import Receipt
from darkroom.errors import DarkroomError, DiskError, ModelError

SAMPLES = 64
SAMPLE_BYTES = 4096


class FileIdentity(BaseModel):
    """One file: `size` in bytes, `sha256` of all of it (None after a shallow verification), `sample` of parts of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str | None
    sample: str


class Fingerprint(FileIdentity):
    """A file that was read whole; `scanned` is true if its tensors were checked for NaN and Inf."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    mtime_ns: int
    scanned: bool

    def identity(self) -> FileIdentity:
        """The fingerprint without what differs between copies of a file."""
        return FileIdentity(size=self.size, sha256=self.sha256, sample=self.sample)


class VerifiedReceipt(Receipt):
    """A verified folder: `digest` identifies its content, `source_sha256` and `autov2` its checkpoint (None without audit).

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


class _Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    revision: int
    files: dict[str, Fingerprint]


class Hashed(Protocol):
    """A file with a known SHA256."""

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


def hashes_path(model_dir: Path) -> Path:
    """Where a folder's fingerprints are remembered: `NAME.hashes.json` beside `NAME/`."""
    return model_dir.with_name(f"{model_dir.name}.hashes.json")


def recall(model_dir: Path) -> dict[str, Fingerprint]:
    """The remembered fingerprints of a folder's files, by relative path."""
    try:
        memory = _Memory.model_validate_json(hashes_path(model_dir).read_bytes())
    except (OSError, ValidationError):
        return {}
    return memory.files if memory.revision == revisions.VERIFY else {}


def remember(model_dir: Path, found: Mapping[str, Fingerprint]) -> None:
    """Remember the fingerprints of a folder's files in place of earlier ones."""
    memory = _Memory(revision=revisions.VERIFY, files=dict(found))
    with suppress(OSError, DiskError):
        write_bytes(hashes_path(model_dir), (memory.model_dump_json(indent=2) + "\n").encode())


def forget(model_dir: Path) -> None:
    """Remove a folder's fingerprints, before another folder takes its place. Raises OSError."""
    hashes_path(model_dir).unlink(missing_ok=True)
