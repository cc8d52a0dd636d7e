"""Conversion of a single-file SDXL checkpoint to a Diffusers folder, by byte ranges.

The single file holds the same numbers under other names, so nothing is loaded: new headers are written and byte
ranges copied. Only a change of number format and the transposed `text_projection` touch numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darkroom import errors, revisions
from darkroom.base.claims import staging_folder
from darkroom.base.files import check_free_space
from darkroom.base.hashing import autov2, check_sha256
from darkroom.checkpoint.adopt import adopt_folder
from darkroom.checkpoint.audit import Asked, ConversionAudit, read_audit
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.plan import Job, prepare_job
from darkroom.checkpoint.publish import check_destination, publish_model
from darkroom.checkpoint.small_files import SMALL_FILES_BYTES, write_small_files
from darkroom.checkpoint.transfer import transfer
from darkroom.checkpoint.verify import verify_model

Dtype = Literal["fp16", "fp32", "bf16", "keep"]
PredictionChoice = Literal["auto", "epsilon", "v_prediction"]
_FREE_SPACE_HINT = "free some disk space or set models_dir to another volume"


@dataclass(frozen=True, slots=True)
class Expected:
    """The SHA256 that receipts promise: of the checkpoint, of the VAE, of a folder's files by their relative path."""

    checkpoint: str | None = None
    vae: str | None = None
    files: Mapping[str, str] | None = None


def convert(
    source: Path | str,
    dest: Path | str,
    *,
    dtype: Dtype = "fp16",
    prediction: PredictionChoice = "auto",
    architecture: str = "auto",
    extract_ema: bool = False,
    vae: Path | str | None = None,
    parameterization: str | None = None,
    expected: Expected | None = None,
    name: str | None = None,
    on_wait: Callable[[], None] | None = None,
) -> ConversionAudit:
    """Convert a checkpoint to the Diffusers folder `dest` and write `DEST.audit.json` beside it.

    `dtype` is the weights' number format (`keep` leaves each tensor's), `architecture` a name, a folder of configs
    or `auto`, `vae` a safetensors file of which the VAE takes the place of the checkpoint's own, `parameterization`
    what a sidecar says (if not given, `NAME.yaml` beside the source is looked at), `name` the checkpoint's in the
    audit (else the folder's). A source that is a Diffusers folder is verified and linked. An existing folder is
    replaced, and only after the new one is complete. Somebody else who is making `dest` is waited for, calling `on_wait`
    once; if what they made is what is asked for here, there is nothing left to do. Raises SourceError, the
    CheckpointErrors, IndexFileError, ConfigError and DiskError.
    """
    begun = time.monotonic()
    source, dest = Path(source), Path(os.path.abspath(dest))  # noqa: PTH100 - a link stays a link
    expected = expected or Expected()
    asked = (
        None
        if expected.checkpoint is None
        else Asked(
            checkpoint=expected.checkpoint,
            vae=expected.vae,
            parameterization=parameterization,
            dtype=dtype,
            prediction=prediction,
            architecture=architecture,
            extract_ema=extract_ema,
        )
    )
    if source.is_dir():
        _check_folder(source, extract_ema, vae, prediction, architecture)
        return adopt_folder(
            source, dest, dtype=dtype, name=name, expected_files=expected.files, asked=asked, on_wait=on_wait
        )
    job = prepare_job(
        source,
        dtype=dtype,
        prediction=prediction,
        architecture=architecture,
        extract_ema=extract_ema,
        vae=Path(vae) if vae is not None else None,
        parameterization=parameterization,
    )
    check_destination(dest)
    check_free_space(dest, job.plan.written_bytes + SMALL_FILES_BYTES, "the model", _FREE_SPACE_HINT)
    with staging_folder(dest, on_wait) as staging:
        if staging.waited and asked and (made := _made_meanwhile(dest, asked)) is not None:
            return made
        hashes = _write_weights(job, staging.new)
        _check_hashes(job, hashes, expected)
        write_small_files(job, staging.new)
        audit = _describe(job, name or dest.name, hashes, time.monotonic() - begun, asked)
        publish_model(staging, audit)
    return audit


def _check_folder(source: Path, extract_ema: bool, vae: object, prediction: str, architecture: str) -> None:
    """A folder says itself what it is; an option that would be passed over in silence is refused."""
    if not (source / INDEX).is_file():
        why = f"is a folder without {INDEX}"
        raise errors.SourceError("checkpoint", source, why, "give a .safetensors file, or a Diffusers folder")
    given = {
        "extract_ema": extract_ema,
        "vae": vae is not None,
        "prediction": prediction != "auto",
        "architecture": architecture != "auto",
    }
    for option, is_given in given.items():
        if is_given:
            why = "is a Diffusers folder, which says that itself and is taken as it is"
            raise errors.SourceError(
                f"{option} for", source, why, f"leave {option} out, or give a single-file checkpoint"
            )


def _write_weights(job: Job, folder: Path) -> list[str]:
    """The SHA256 of each source."""
    with ExitStack() as stack:
        files = []
        for source in job.sources:
            file = stack.enter_context(source.path.open("rb", buffering=0))
            if os.fstat(file.fileno()).st_size != source.header.file_size:
                why = "changed while it was read"
                raise errors.FormatError("checkpoint", source.path, why, "leave the file alone meanwhile")
            files.append(file.fileno())
        outputs = []
        for output in job.plan.outputs:
            path = folder / output.path
            path.parent.mkdir(parents=True, exist_ok=True)
            outputs.append(stack.enter_context(path.open("xb", buffering=0)).fileno())
        return transfer(job.plan, job.sources, files, outputs)


def _check_hashes(job: Job, hashes: list[str], expected: Expected) -> None:
    for source, found, promised in zip(job.sources, hashes, (expected.checkpoint, expected.vae), strict=False):
        hint = "fetch it again, or mend sha256 in the configuration"
        check_sha256("checkpoint", source.path, found, promised, hint)


def _made_meanwhile(dest: Path, asked: Asked) -> ConversionAudit | None:
    """The audit of what somebody else has just made, if it is the same and whole."""
    try:
        audit = read_audit(dest)
        verify_model(dest, hashes="none")
    except errors.DarkroomError:
        return None
    return audit if audit and audit.asked == asked and audit.revision == revisions.CONVERT else None


def _describe(job: Job, name: str, hashes: list[str], seconds: float, asked: Asked | None) -> ConversionAudit:
    header = job.sources[0].header
    return ConversionAudit(
        name=name,
        source=job.sources[0].path.name,
        source_sha256=hashes[0],
        source_bytes=header.file_size,
        autov2=autov2(hashes[0]),
        title=header.metadata.get("modelspec.title"),
        architecture=job.architecture.name,
        architecture_reason=job.architecture.reason,
        prediction_type=job.prediction.type,
        prediction_evidence=job.prediction.evidence,
        zero_terminal_snr=job.prediction.zero_terminal_snr,
        ema=job.ema,
        vae_source=job.vae.path.name if job.vae else None,
        vae_sha256=hashes[1] if job.vae else None,
        layouts={part.component: part.layout.name for part in job.parts},
        dtypes_in=job.plan.dtypes_in,
        dtype_out=job.dtype,
        keys_mapped=job.plan.keys_mapped,
        keys_ignored=sum(job.ignored.values()),
        keys_by_reason=job.ignored,
        keys_missing=0,
        tensors_written=job.plan.tensors,
        written_bytes=job.plan.written_bytes,
        revision=revisions.CONVERT,
        seconds=round(seconds, 3),
        asked=asked,
    )
