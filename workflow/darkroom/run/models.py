"""What is in the models folder already, and whether it is what the configuration asks for; whoever made it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from darkroom import revisions
from darkroom.checkpoint.audit import ConversionAudit, ConversionInputs, audit_path, read_audit
from darkroom.checkpoint.verified import VerifiedReceipt, recall
from darkroom.errors import DarkroomError
from darkroom.run.sources import Stored, copy_path, receipt_path
from darkroom.sources import FetchReceipt

Key = tuple[str, str]
"""A section of the configuration that names sources, and a name in it."""


@dataclass(frozen=True, slots=True)
class Made:
    """`is_made`: all of it is there and right. `why` says how what is there is another thing, `stale` are the small files
    that speak of what isn't wanted or isn't there any more."""

    is_made: bool
    why: str | None = None
    stale: tuple[Path, ...] = ()


def outputs(stored: Stored, key: Key) -> tuple[list[Path], list[Path]]:
    """What is made of a source, the large files and folders and the small files that speak of them."""
    kind, name = key
    models, is_folder = Path(stored.config.models_dir), stored.states[key].is_folder
    large, small = [copy_path(models, kind, name, is_folder=is_folder)], [receipt_path(models, kind, name)]
    if kind == "checkpoints":
        large.append(models / "diffusers" / name)
        small += [audit_path(large[-1]), models / "verified" / f"{name}.json"]
    return large, small


def look_at_made(stored: Stored, key: Key) -> Made:
    """What there is of a source now."""
    large, small = outputs(stored, key)
    _ask_afresh({path.parent for path in large + small})
    receipt = _read_receipt(small[0])
    if receipt is not None and (why := _other_source(stored, key, receipt)):
        return Made(False, why, _existing(small))
    if key[0] != "checkpoints":
        return Made(receipt is not None and large[0].exists(), stale=() if receipt else _existing(small))
    asked = _asked(stored, key, receipt)
    return (
        Made(False, stale=_existing(small[1:]))
        if asked is None
        else _look_at_model(asked, receipt, large[1], *small[1:])
    )


def _look_at_model(
    asked: ConversionInputs, receipt: FetchReceipt | None, model: Path, audit_file: Path, verified: Path
) -> Made:
    audit = _read_audit(model)
    if audit is None:  # nobody can say what the folder is, nor then what was verified
        return Made(False, stale=_existing([audit_file, verified]))
    if audit.asked is not None and audit.asked != asked:
        there, here = audit.asked.model_dump(), asked.model_dump()
        differences = [
            f"{each} is {there[each]} there, {here[each]} here" for each in here if there[each] != here[each]
        ]
        # Without a receipt of its own, what is there is nobody's.
        return Made(False, "; ".join(differences) if receipt else None, _existing([audit_file, verified]))
    if not (model.is_dir() and verified.exists()):
        return Made(False)
    if not _speaks_of(verified, model):
        return Made(False, stale=(verified,))
    return Made(audit.revision >= revisions.CONVERT)


def _asked(stored: Stored, key: Key, receipt: FetchReceipt | None) -> ConversionInputs | None:
    """What a conversion would be asked for; None while it isn't known which bytes its sources are."""
    given, state, pin = stored.config.checkpoints[key[1]], stored.states[key], stored.pins.get(key)
    checkpoint = receipt.sha256 if receipt else pin.sha256 if pin else state.sha256
    vae = None if given.vae is None else _read_receipt(receipt_path(stored.config.models_dir, "vaes", given.vae))
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


def _other_source(stored: Stored, key: Key, receipt: FetchReceipt) -> str | None:
    pin, state = stored.pins.get(key), stored.states[key]
    if pin is not None:
        if pin.fits(receipt):
            return None
        if (pin.source, pin.variant) != (receipt.source, receipt.variant):
            return f"it was fetched from {receipt.source} there, and is {pin.source} here"
        return f"its SHA256 is {receipt.sha256} there, and is to be {pin.sha256} here"
    if receipt.sha256 != state.sha256:
        return f"its SHA256 is {receipt.sha256} there, and {state.sha256} here"
    if receipt.parameterization != state.parameterization:
        return f"its sidecar says {receipt.parameterization or 'nothing'} there, and {state.parameterization or 'nothing'} here"
    return None


def _speaks_of(verified: Path, model: Path) -> bool:
    """Whether a verified receipt is that of the folder that is there, not of one before."""
    try:
        receipt = VerifiedReceipt.read(verified)
        if known := recall(model):
            files = {path: identity.sha256 for path, identity in receipt.files.items()}
            return receipt.revision >= revisions.VERIFY and files == {path: each.sha256 for path, each in known.items()}
        from darkroom.checkpoint.verify import check_receipt  # seldom needed

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


def _ask_afresh(folders: Iterable[Path]) -> None:
    """Opening a folder makes an NFS client ask its server again; else what isn't there stays so for up to a minute."""
    for folder in folders:
        if folder.is_dir():
            os.scandir(folder).close()
