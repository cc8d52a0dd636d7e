"""ConversionAudit: what a conversion read, decided and wrote, kept beside the Diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from darkroom.errors import ModelError
from darkroom.files import write_bytes


class ConversionAudit(BaseModel):
    """`source_bytes` and `written_bytes` in bytes, `seconds` of wall time; `autov2` as Civitai names it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    source: str
    source_sha256: str
    source_bytes: int
    autov2: str
    title: str | None
    architecture: str
    architecture_reason: str
    prediction_type: str
    prediction_evidence: str
    zero_terminal_snr: bool
    dtypes_in: dict[str, int]
    dtype_out: str
    keys_mapped: int
    keys_ignored: int
    keys_missing: int
    tensors_written: int
    written_bytes: int
    revision: int
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        return (
            f"converted {self.source} [{self.autov2}] to {self.name}: {self.architecture}, {self.dtype_out}, "
            f"{self.prediction_type} ({self.prediction_evidence}), {self.keys_mapped} tensors mapped, "
            f"{self.keys_ignored} ignored, {self.written_bytes / 1e9:.2f} GB in {self.seconds:.1f} s"
        )

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises pydantic's ValidationError for anything but an audit."""
        return cls.model_validate_json(text)


def audit_path(model_dir: Path) -> Path:
    """Where a folder's audit stands: `NAME.audit.json` beside `NAME/`."""
    return model_dir.with_name(f"{model_dir.name}.audit.json")


def write_audit(model_dir: Path, audit: ConversionAudit) -> None:
    """Write the audit atomically; raises DiskError (E-DISK)."""
    write_bytes(audit_path(model_dir), audit.to_json().encode())


def read_audit(model_dir: Path) -> ConversionAudit | None:
    """The folder's audit, or None if it has none; raises ModelError (E-MODEL) for one that can't be read."""
    path = audit_path(model_dir)
    try:
        return ConversionAudit.from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise ModelError("conversion audit", path, "is damaged", "delete it and convert the checkpoint again") from None
