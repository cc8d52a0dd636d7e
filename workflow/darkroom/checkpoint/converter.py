"""The stages of a conversion: planned, transferred, described, published. A single file is converted by byte ranges.

A single file holds the same numbers as a Diffusers folder under other names, so nothing is loaded: new headers are
written and byte ranges copied. Only a change of number format and the transposed `text_projection` touch numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from darkroom import errors, revisions
from darkroom.base.claims import staging_folder
from darkroom.base.files import check_free_space
from darkroom.base.hashing import check_sha256
from darkroom.checkpoint.adopt import adopt_folder
from darkroom.checkpoint.audit import ConversionAudit, ConversionInputs, read_audit
from darkroom.checkpoint.conversion import Conversion, Expected
from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.plan import plan_conversion
from darkroom.checkpoint.publish import check_destination, publish_model
from darkroom.checkpoint.small_files import SMALL_FILES_BYTES, write_small_files
from darkroom.checkpoint.transfer import transfer
from darkroom.checkpoint.verify import verify_model

Dtype = Literal["fp16", "fp32", "bf16", "keep"]
PredictionChoice = Literal["auto", "epsilon", "v_prediction"]
_FREE_SPACE_HINT = "free some disk space or set models_dir to another volume"


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
    on_begin: Callable[[], None] | None = None,
) -> ConversionAudit:
    """Convert a checkpoint to the Diffusers folder `dest` and write `DEST.audit.json` beside it.

    `dtype` is the weights' number format (`keep` leaves each tensor's), `architecture` a name, a folder of configs or
    `auto`, `vae` a safetensors file whose VAE takes the place of the checkpoint's own, `parameterization` the sidecar's
    (if None, `NAME.yaml` beside the source is read), `name` the model's in the audit (by default the folder's). A
    source that is a Diffusers folder is verified and linked. An existing `dest` is replaced once the new folder is
    complete. If another process is making `dest`, `on_wait` is called once and that process is waited for; if its
    conversion has the same inputs, its result is this conversion's. `on_begin` is called before a file is converted.

    Raises SourceError (E-SOURCE), the CheckpointErrors, IndexFileError (E-INDEX), ConfigError (E-CONFIG), DiskError
    (E-DISK).
    """
    expected = expected or Expected()
    dest = Path(os.path.abspath(dest))  # noqa: PTH100 - a link stays a link
    conversion = Conversion(
        source=Path(source),
        dest=dest,
        inputs=ConversionInputs(
            checkpoint=expected.checkpoint,
            vae=expected.vae,
            parameterization=parameterization,
            dtype=dtype,
            prediction=prediction,
            architecture=architecture,
            extract_ema=extract_ema,
        ),
        name=name or dest.name,
        vae_path=None if vae is None else Path(vae),
        expected_files=expected.files,
        on_wait=on_wait,
        on_begin=on_begin,
    )
    if conversion.source.is_dir():
        _check_options(conversion)
        return adopt_folder(conversion)
    return _convert_file(conversion)


def _convert_file(conversion: Conversion) -> ConversionAudit:
    dest = conversion.dest
    plan_conversion(conversion)
    check_destination(dest)
    check_free_space(dest, conversion.written_bytes + SMALL_FILES_BYTES, "the model", _FREE_SPACE_HINT)
    with staging_folder(dest, conversion.on_wait) as staging:
        if staging.waited and (made := _made_meanwhile(conversion)) is not None:
            return made
        if conversion.on_begin is not None:
            conversion.on_begin()
        transfer(conversion, staging.new)
        _check_hashes(conversion)
        write_small_files(conversion, staging.new)
        audit = conversion.audit()
        publish_model(staging, audit)
    return audit


def _check_options(conversion: Conversion) -> None:
    """Refuse options that have no effect on a source that is a Diffusers folder."""
    source, inputs = conversion.source, conversion.inputs
    if not (source / INDEX).is_file():
        why = f"is a folder without {INDEX}"
        raise errors.SourceError("checkpoint", source, why, "give a .safetensors file, or a Diffusers folder")
    given = {
        "extract_ema": inputs.extract_ema,
        "vae": conversion.vae_path is not None,
        "prediction": inputs.prediction != "auto",
        "architecture": inputs.architecture != "auto",
    }
    for option, is_given in given.items():
        if is_given:
            why = "is a Diffusers folder, whose own configs decide that"
            raise errors.SourceError(
                f"{option} for", source, why, f"leave {option} out, or give a single-file checkpoint"
            )


def _check_hashes(conversion: Conversion) -> None:
    promised = (conversion.inputs.checkpoint, conversion.inputs.vae)
    for source, found, expected in zip(conversion.sources, conversion.hashes, promised, strict=False):
        hint = "fetch it again, or correct sha256 in the configuration"
        check_sha256("checkpoint", source.path, found, expected, hint)


def _made_meanwhile(conversion: Conversion) -> ConversionAudit | None:
    """The audit of the model that another process has just made, if it is whole and of the same inputs."""
    if conversion.asked is None:
        return None
    try:
        audit = read_audit(conversion.dest)
        verify_model(conversion.dest, hashes="none")
    except errors.DarkroomError:
        return None
    is_same = audit is not None and (audit.asked, audit.revision) == (conversion.asked, revisions.CONVERT)
    return audit if is_same else None
