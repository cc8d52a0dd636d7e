"""ConversionAudit: what a conversion read, decided and wrote, kept as `NAME.audit.json` beside the Diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from darkroom.base.files import write_bytes
from darkroom.errors import ModelError

Ema = Literal["absent", "left out", "used"]
ORIGIN = ("source_sha256", "vae_sha256", "architecture", "prediction_type", "zero_terminal_snr", "ema", "dtype_out")
"""The fields of an audit that decide the weights and the configs of its model folder."""
_EMA_SENTENCES = {
    "absent": "none in the file",
    "left out": "in the file, left out (extract_ema picks them)",
    "used": "picked for the UNet (extract_ema)",
}


class ConversionInputs(BaseModel):
    """What decides a conversion's result: the sources' SHA256 or content digest, from their receipts, and the options.

    Conversions of equal inputs have equal results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str | None = None
    vae: str | None = None
    parameterization: str | None = None
    dtype: str = "fp16"
    prediction: str = "auto"
    architecture: str = "auto"
    extract_ema: bool = False


class ConversionAudit(BaseModel):
    """A conversion; sizes in bytes. The wall time `seconds` isn't written: the same inputs always give the same audit.

    For a single file `source_sha256` is the file's and `autov2` its short form as Civitai names it; for a Diffusers
    folder they are the folder's content digest and None. `layouts` holds the layout of each component, `keys_by_reason`
    the number of ignored tensors for each reason. The VAE fields are None if the VAE is the checkpoint's own. `asked`
    are the conversion's inputs, None where no receipt was given.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    source: str
    source_kind: Literal["checkpoint", "folder"] = "checkpoint"
    source_sha256: str
    source_bytes: int
    autov2: str | None
    title: str | None
    architecture: str
    architecture_reason: str
    prediction_type: str
    prediction_evidence: str
    zero_terminal_snr: bool
    ema: Ema = "absent"
    vae_source: str | None = None
    vae_sha256: str | None = None
    layouts: dict[str, str] = {}
    dtypes_in: dict[str, int]
    dtype_out: str
    keys_mapped: int
    keys_ignored: int
    keys_by_reason: dict[str, int] = {}
    keys_missing: int
    tensors_written: int
    written_bytes: int
    revision: int
    asked: ConversionInputs | None = None
    seconds: float = Field(0.0, exclude=True)

    def summary(self) -> str:
        """One line for people."""
        verb = "converted" if self.source_kind == "checkpoint" else "took over"
        known_as = f" [{self.autov2}]" if self.autov2 else ""
        upcast = f", {self.upcast} fp8 tensors upcast" if self.upcast else ""
        vae = f", VAE of {self.vae_source}" if self.vae_source else ""
        ema = ", EMA weights" if self.ema == "used" else ""
        return (
            f"{verb} {self.source}{known_as} to {self.name}: {self.architecture}, {self.dtype_out}{upcast}, "
            f"{self.prediction_type} ({self.prediction_evidence}){ema}{vae}, {self.keys_mapped} tensors mapped, "
            f"{self.keys_ignored} ignored, {self.written_bytes / 1e9:.2f} GB in {self.seconds:.1f} s"
        )

    @property
    def upcast(self) -> int:
        """The number of fp8 tensors, which were converted since no model is computed in fp8."""
        return sum(count for dtype, count in self.dtypes_in.items() if dtype.startswith("F8"))

    def facts(self) -> list[tuple[str, str]]:
        """The whole audit as pairs of a label and a text, in reading order."""
        zero = ", zero terminal SNR" if self.zero_terminal_snr else ""
        ignored = "; ".join(f"{count} {reason}" for reason, count in self.keys_by_reason.items())
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes_in.items())
        layouts = ", ".join(f"{component} {layout}" for component, layout in self.layouts.items())
        pairs = [
            ("Source", self.source),
            ("Title", self.title),
            ("Source SHA256", self.source_sha256),
            ("AutoV2", self.autov2),
            ("Source size", f"{self.source_bytes:,} bytes"),
            ("Architecture", f"{self.architecture} ({self.architecture_reason})"),
            ("Prediction type", f"{self.prediction_type}{zero} ({self.prediction_evidence})"),
            ("EMA weights", _EMA_SENTENCES[self.ema]),
            ("VAE", f"of {self.vae_source}" if self.vae_source else "the checkpoint's own"),
            ("VAE SHA256", self.vae_sha256),
            ("Layout", layouts),
            ("Tensors in", dtypes + (f" ({self.upcast} fp8 upcast)" if self.upcast else "")),
            ("Weights", self.dtype_out),
            ("Keys", f"{self.keys_mapped} mapped, {self.keys_ignored} ignored, {self.keys_missing} missing"),
            ("Ignored", ignored),
            ("Written", f"{self.tensors_written} tensors, {self.written_bytes:,} bytes"),
            ("Converter revision", str(self.revision)),
        ]
        return [(label, text) for label, text in pairs if text]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises pydantic's ValidationError for anything but an audit."""
        return cls.model_validate_json(text)


def audit_path(model_dir: Path) -> Path:
    """The path of a folder's audit: `NAME.audit.json` beside `NAME/`."""
    return model_dir.with_name(f"{model_dir.name}.audit.json")


def write_audit(model_dir: Path, audit: ConversionAudit) -> None:
    """Write the audit atomically; raises DiskError (E-DISK)."""
    write_bytes(audit_path(model_dir), audit.to_json().encode())


def read_audit(model_dir: Path) -> ConversionAudit | None:
    """The folder's audit, None if there is none; raises ModelError (E-MODEL) for a damaged one."""
    path = audit_path(model_dir)
    try:
        return ConversionAudit.from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise ModelError("conversion audit", path, "is damaged", "delete it and convert the checkpoint again") from None


def read_identity(model_dir: Path) -> tuple[str, str | None]:
    """A model's name and AutoV2 hash (None for an adopted folder) from its audit; else the folder's name and None."""
    folder = model_dir.resolve()
    try:
        audit = json.loads(audit_path(folder).read_bytes())
        autov2 = audit["autov2"]
        return str(audit["name"]), None if autov2 is None else str(autov2)
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name, None


def read_origin(model_dir: Path) -> dict[str, Any]:
    """What decided a model's weights, the fields `ORIGIN` of its audit; empty without an audit, or for one that is damaged."""
    try:
        audit = json.loads(audit_path(model_dir.resolve()).read_bytes())
        return {"ema": "absent", "vae_sha256": None} | {key: audit[key] for key in ORIGIN if key in audit}
    except (OSError, ValueError, TypeError):
        return {}
