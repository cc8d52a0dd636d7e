"""Receipts: small JSON files that identify the output of a stage; the next stage depends on them instead of large files.

The same output gives the same receipt, byte for byte; the only date in one is the day on which its bytes were first seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.base.files import write_bytes
from darkroom.errors import DarkroomError


class Receipt(BaseModel):
    """Base of all receipts. `what` names the kind in errors, `verb` is the command that makes one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: ClassVar[str]
    verb: ClassVar[str]
    error: ClassVar[type[DarkroomError]]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    def write(self, path: Path | str) -> None:
        """Write the receipt atomically; raises DiskError (E-DISK)."""
        write_bytes(path, self.to_json().encode())

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a receipt; raises the kind's `error` if it is missing or damaged."""
        again = f"run snakemake again, or darkroom {cls.verb}"
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError:
            raise cls.error(cls.what, path, "is missing", again) from None
        except (OSError, ValidationError):
            raise cls.error(cls.what, path, "is damaged", f"delete it, then {again}") from None
