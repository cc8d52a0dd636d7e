"""Conversion of a single-file SDXL checkpoint to a Diffusers folder, by byte ranges.

The single file holds the same numbers under other names, so nothing is loaded: new headers are written and byte
ranges copied. Only a change of number format and the transposed `text_projection` touch numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from darkroom import errors, revisions
from darkroom.checkpoint.architectures import Architecture, choose_architecture
from darkroom.checkpoint.audit import ConversionAudit, audit_path, write_audit
from darkroom.checkpoint.header import Header, read_header
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.plan import Plan, make_plan
from darkroom.checkpoint.prediction import Prediction, find_prediction
from darkroom.checkpoint.staging import staging_folder
from darkroom.checkpoint.transfer import transfer
from darkroom.checkpoint.vocabulary import EOS, tokenizer_files
from darkroom.files import disk_errors, sync_folder
from darkroom.hashing import autov2

Dtype = Literal["fp16", "fp32", "bf16", "keep"]
PredictionChoice = Literal["auto", "epsilon", "v_prediction"]
_TORCH_DTYPES = {"fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}
_TOKENIZER_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class _Job:
    """A conversion whose every question is answered and that only needs writing."""

    source: Path
    header: Header
    architecture: Architecture
    prediction: Prediction
    dtype: str
    plan: Plan


def convert(
    source: Path | str,
    dest: Path | str,
    *,
    dtype: Dtype = "fp16",
    prediction: PredictionChoice = "auto",
    architecture: str = "auto",
    expected_sha256: str | None = None,
    name: str | None = None,
) -> ConversionAudit:
    """Convert a checkpoint to the Diffusers folder `dest` and write `DEST.audit.json` beside it.

    `dtype` is the weights' number format (`keep` leaves each tensor's), `architecture` a name, a folder of configs
    or `auto`, `name` the checkpoint's in the audit (else the folder's). An existing folder is replaced, and only
    after the new one is complete. Raises SourceError, the CheckpointErrors, IndexFileError and DiskError.
    """
    begun = time.monotonic()
    source, dest = Path(source), Path(os.path.abspath(dest))  # noqa: PTH100 - a link stays a link
    job = _prepare(source, dtype, prediction, architecture)
    _check_destination(dest, job.plan)
    with staging_folder(dest) as staging:
        sha256 = _write_weights(job, staging.new)
        if expected_sha256 is not None and sha256 != expected_sha256.lower():
            why = f"its SHA256 is {sha256}, expected {expected_sha256.lower()}"
            raise errors.HashError(
                "checkpoint", source, why, "fetch the checkpoint again, or mend sha256 in the configuration"
            )
        _write_small_files(job, staging.new)
        # Without an audit a folder is merely anonymous; with another folder's audit it would be mislabelled.
        _remove_audit(dest)
        staging.publish()
        audit = _describe(job, name or dest.name, sha256, time.monotonic() - begun)
        write_audit(dest, audit)
    return audit


def _prepare(source: Path, dtype: str, prediction: str, architecture: str) -> _Job:
    if not source.exists():
        raise errors.SourceError(
            "checkpoint", source, "does not exist", "check the path, or fetch the checkpoint first"
        )
    if not source.is_file():
        raise errors.SourceError("checkpoint", source, "is not a file", "give the path of a .safetensors file")
    header = read_header(source)
    chosen = choose_architecture(header, architecture, source)
    plan = make_plan(header, chosen, dtype, source)
    return _Job(source, header, chosen, find_prediction(header, prediction, source), dtype, plan)


def _check_destination(dest: Path, plan: Plan) -> None:
    """Refuse to replace what isn't a model, and to begin what can't fit."""
    if dest.exists() and not (dest / INDEX).is_file() and (not dest.is_dir() or any(dest.iterdir())):
        raise errors.NameError("destination", dest, "exists and is not a Diffusers folder", "name another folder")
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
    need, free = plan.written_bytes + _TOKENIZER_BYTES, shutil.disk_usage(dest.parent).free
    if need > free:
        why = f"needs {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        raise errors.DiskError(
            "no room to convert to", dest, why, "free some disk space or set models_dir to another volume"
        )


def _write_weights(job: _Job, folder: Path) -> str:
    with ExitStack() as stack:
        source = stack.enter_context(job.source.open("rb", buffering=0))
        if os.fstat(source.fileno()).st_size != job.header.file_size:
            raise errors.FormatError(
                "checkpoint", job.source, "changed while it was read", "leave the file alone meanwhile"
            )
        files = []
        for output in job.plan.outputs:
            path = folder / output.path
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(stack.enter_context(path.open("xb", buffering=0)))
        return transfer(job.plan, source.fileno(), job.header.file_size, [file.fileno() for file in files])


def _write_small_files(job: _Job, folder: Path) -> None:
    configs = job.architecture.configs
    files: dict[str, bytes] = {INDEX: _json(configs.index)}
    files["scheduler/scheduler_config.json"] = _json(configs.scheduler | job.prediction.scheduler_settings())
    for component, config in configs.components.items():
        is_text, torch_dtype = component.startswith("text_encoder"), _TORCH_DTYPES.get(job.dtype)
        # transformers loads in the config's number format unless told otherwise; diffusers' configs have no such field.
        files[f"{component}/config.json"] = _json(
            config | ({"torch_dtype": torch_dtype} if is_text and torch_dtype else {})
        )
    for component, pad_token in (("tokenizer", EOS), ("tokenizer_2", "!")):
        files |= {f"{component}/{name}": data for name, data in tokenizer_files(pad_token).items()}
    for relative, data in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())


def _remove_audit(dest: Path) -> None:
    audit_path(dest).unlink(missing_ok=True)
    sync_folder(dest.parent)


def _describe(job: _Job, name: str, sha256: str, seconds: float) -> ConversionAudit:
    return ConversionAudit(
        name=name,
        source=job.source.name,
        source_sha256=sha256,
        source_bytes=job.header.file_size,
        autov2=autov2(sha256),
        title=job.header.metadata.get("modelspec.title"),
        architecture=job.architecture.name,
        architecture_reason=job.architecture.reason,
        prediction_type=job.prediction.type,
        prediction_evidence=job.prediction.evidence,
        zero_terminal_snr=job.prediction.zero_terminal_snr,
        dtypes_in=job.plan.dtypes_in,
        dtype_out=job.dtype,
        keys_mapped=job.plan.keys_mapped,
        keys_ignored=job.plan.keys_ignored,
        keys_missing=0,
        tensors_written=len(job.plan.copies),
        written_bytes=job.plan.written_bytes,
        revision=revisions.CONVERT,
        seconds=round(seconds, 3),
    )


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
