"""What the models folder holds for a source, whoever made it, and whether that is what is configured."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from darkroom import revisions
from darkroom.checkpoint.audit import ConversionAudit, ConversionInputs, audit_path, read_audit
from darkroom.checkpoint.verified import VerifiedReceipt, recall
from darkroom.errors import DarkroomError
from darkroom.run.sources import Key, Sources, copy_path, receipt_path
from darkroom.sources import FetchReceipt


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the models folder holds for a source.

    `is_current`: everything exists and is what the configuration asks for. `difference` says how a finished model
    differs from that. `stale` are receipts and audits to delete, because they describe something else or something that
    no longer exists.
    """

    is_current: bool
    difference: str | None = None
    stale: tuple[Path, ...] = ()


def outputs(sources: Sources, key: Key) -> tuple[list[Path], list[Path]]:
    """What is made of a source: the large files and folders, and the receipts and audits that describe them."""
    section, name = key
    models = Path(sources.config.models_dir)
    is_folder = section == "checkpoints" and sources.states[key].is_folder
    large, small = [copy_path(models, section, name, is_folder=is_folder)], [receipt_path(models, section, name)]
    if section == "checkpoints":
        large.append(models / "diffusers" / name)
        small += [audit_path(large[-1]), models / "verified" / f"{name}.json"]
    return large, small


def inspect_model(sources: Sources, key: Key) -> ModelState:
    """What the models folder holds for a source now."""
    large, small = outputs(sources, key)
    _refresh_listings({path.parent for path in large + small})
    receipt = _read_receipt(small[0])
    if receipt is not None and (difference := _find_other_source(sources, key, receipt)):
        return ModelState(False, difference, _existing(small))
    if key[0] != "checkpoints":
        return ModelState(receipt is not None and large[0].exists(), stale=() if receipt else _existing(small))
    asked = _asked(sources, key, receipt)
    if asked is None:
        return ModelState(False, stale=_existing(small[1:]))
    return _inspect_folder(asked, receipt, large[1], *small[1:])


def _inspect_folder(
    asked: ConversionInputs, receipt: FetchReceipt | None, model: Path, audit_file: Path, verified: Path
) -> ModelState:
    audit = _read_audit(model)
    if audit is None:  # without it neither the folder nor the verified receipt can be trusted
        return ModelState(False, stale=_existing([audit_file, verified]))
    if audit.asked is not None and audit.asked != asked:
        there, here = audit.asked.model_dump(), asked.model_dump()
        differences = [
            f"{each} is {there[each]} there, {here[each]} here" for each in here if there[each] != here[each]
        ]
        # A folder without a receipt isn't ours and may be replaced.
        return ModelState(False, "; ".join(differences) if receipt else None, _existing([audit_file, verified]))
    if not (model.is_dir() and verified.exists()):
        return ModelState(False)
    if not _is_receipt_of(verified, model):
        return ModelState(False, stale=(verified,))
    return ModelState(audit.revision >= revisions.CONVERT)


def _asked(sources: Sources, key: Key, receipt: FetchReceipt | None) -> ConversionInputs | None:
    """What a conversion would be asked for; None while the bytes of its sources aren't known."""
    given, state, pin = sources.config.checkpoints[key[1]], sources.states[key], sources.pins.get(key)
    checkpoint = receipt.sha256 if receipt else pin.sha256 if pin else state.sha256
    vae = None if given.vae is None else _read_receipt(receipt_path(sources.config.models_dir, "vaes", given.vae))
    if checkpoint is None or (vae is None) != (given.vae is None):
        return None
    return ConversionInputs(
        checkpoint=checkpoint,
        vae=vae and vae.sha256,
        parameterization=receipt.parameterization if receipt else state.parameterization,
        **given.model_dump(include={"dtype", "prediction", "architecture", "extract_ema"}),
    )


def _existing(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.exists())


def _find_other_source(sources: Sources, key: Key, receipt: FetchReceipt) -> str | None:
    """How a receipt's source differs from the configured one; None if it is the same."""
    pin, state = sources.pins.get(key), sources.states[key]
    if pin is not None:
        if pin.fits(receipt):
            return None
        if (pin.source, pin.variant) != (receipt.source, receipt.variant):
            return f"it was fetched from {receipt.source} there, and is {pin.source} here"
        return f"its SHA256 is {receipt.sha256} there, and is to be {pin.sha256} here"
    if receipt.sha256 != state.sha256:
        return f"its SHA256 is {receipt.sha256} there, and {state.sha256} here"
    if receipt.parameterization != state.parameterization:
        there, here = receipt.parameterization or "nothing", state.parameterization or "nothing"
        return f"its sidecar says {there} there, and {here} here"
    return None


def _is_receipt_of(verified: Path, model: Path) -> bool:
    """Whether a verified receipt describes the model folder as it is now, not an earlier one."""
    try:
        receipt = VerifiedReceipt.read(verified)
        if known := recall(model):
            files = {path: identity.sha256 for path, identity in receipt.files.items()}
            return receipt.revision >= revisions.VERIFY and files == {path: each.sha256 for path, each in known.items()}
        from darkroom.checkpoint.verify import check_receipt  # only without remembered hashes

        check_receipt(model, receipt)
    except DarkroomError:
        return False
    return True


def _read_receipt(path: Path) -> FetchReceipt | None:
    try:
        return FetchReceipt.read(path)
    except DarkroomError:
        return None


def _read_audit(model: Path) -> ConversionAudit | None:
    try:
        return read_audit(model)
    except DarkroomError:
        return None


def _refresh_listings(folders: Iterable[Path]) -> None:
    """Open the folders: an NFS client then drops its cached listing, which may hide a new file for a minute."""
    for folder in folders:
        if folder.is_dir():
            os.scandir(folder).close()
