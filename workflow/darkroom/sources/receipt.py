"""FetchReceipt: which bytes were fetched. It holds no dates, so fetching the same bytes again changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.errors import SourceError
from darkroom.files import write_bytes


class FetchReceipt(BaseModel):
    """`source` as configured, `size` in bytes, `autov2` and `autov3` as Civitai names a file's hashes.

    `title` and `architecture` are what the file's ModelSpec metadata says, if it says anything.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    size: int
    sha256: str
    autov2: str
    autov3: str
    title: str | None
    architecture: str | None

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def write(self, path: Path | str) -> None:
        """Write the receipt atomically; raises DiskError (E-DISK)."""
        write_bytes(path, self.to_json().encode())

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a receipt; raises SourceError (E-SOURCE) if it is missing or damaged."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError:
            raise SourceError("fetch receipt", path, "is missing", "run snakemake again, or darkroom fetch") from None
        except (OSError, ValidationError):
            raise SourceError("fetch receipt", path, "is damaged", "delete it and fetch again") from None
