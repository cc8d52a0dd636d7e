"""What a fetch of a remote source is to bring, and where things are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkroom.sources.lock import lock_key
from darkroom.sources.references import Reference


@dataclass(frozen=True, slots=True)
class Wanted:
    """One remote source to fetch. `sha256` is the configuration's, `kind` checkpoint, vae, lora or embedding."""

    reference: Reference
    kind: str
    sha256: str | None
    dtype: str

    @property
    def name(self) -> str:
        """What the lock file and the store call it."""
        return lock_key(self.reference, self.dtype)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: the store of downloads, the lock file and the memory of days, if they are kept."""

    downloads: Path
    lock: Path | None
    dates: Path | None
