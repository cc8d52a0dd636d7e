"""What the models folder holds for a source, whoever made it, and whether that is what is configured."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from darkroom import revisions
from darkroom.checkpoint.audit import ConversionAudit, ConversionInputs, audit_path, read_audit
from darkroom.checkpoint.verified import VerifiedReceipt, recall
from darkroom.errors import DarkroomError, SourceError
from darkroom.run.sources import Key, Sources, copy_path, receipt_path
from darkroom.sources import FetchReceipt, source_identity
from darkroom.sources.receipt import FetchedFile

Recorded = Callable[[Path], Collection[str]]
"""The params, as text, that Snakemake recorded when it made a file."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the models folder holds for a source.

    `is_current`: everything exists and is what the configuration asks for. `difference` says how a finished model
    differs from that. `stale` are receipts and audits to delete, because they describe something else or something that
    no longer exists. `broken` are files and folders to make again as they were: they are missing or damaged, and what
    was made of them is right.
    """

    is_current: bool
    difference: str | None = None
    stale: tuple[Path, ...] = ()
    broken: tuple[Path, ...] = ()


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


def inspect_model(sources: Sources, key: Key, recorded: Recorded) -> ModelState:
    """What the models folder holds for a source now."""
    large, small = outputs(sources, key)
    _refresh_listings({path.parent for path in large + small})
    copy, receipt_file = large[0], small[0]
    receipt = _read_receipt(receipt_file)
    if receipt is not None and (difference := _find_other_source(sources, key, receipt)):
        return ModelState(False, difference, _existing(small))
    is_damaged = receipt is not None and copy.exists() and not _is_copy(sources, copy, receipt, receipt_file)
    if key[0] != "checkpoints":
        if receipt is None:
            is_same = copy.is_file() and _hash(sources, copy) == _wanted_sha256(sources, key)
            return ModelState(False, broken=(receipt_file,)) if is_same else ModelState(False, stale=_existing(small))
        broken = () if copy.exists() and not is_damaged else (copy,)
        return ModelState(not broken, broken=broken)
    asked, conversion = _asked(sources, key, receipt), repr(sources.conversion(key[1]))
    if asked is None:
        return ModelState(False, stale=_existing(small[1:]))
    is_recorded = conversion in recorded(small[2])
    state = _inspect_folder(sources, asked, receipt, large[1], *small[1:], is_recorded=is_recorded)
    if receipt is None and (state.is_current or state.broken):  # the audit says that the bytes are the same
        state = replace(state, is_current=False, broken=(receipt_file, *state.broken))
    if is_damaged and (state.broken or _is_there(sources, key)):  # without its source it is missed by nobody
        state = replace(state, is_current=False, broken=(copy, *state.broken))
    return state


def _inspect_folder(
    sources: Sources,
    asked: ConversionInputs,
    receipt: FetchReceipt | None,
    model: Path,
    audit_file: Path,
    verified: Path,
    *,
    is_recorded: bool,
) -> ModelState:
    """The state of a converted folder. `is_recorded`: Snakemake has once verified it, converted as it would be now."""
    audit = _read_audit(model)
    if audit is None:
        # Without it neither the folder nor the verified receipt can be trusted, unless Snakemake's record says that
        # they were made as they would be now.
        if receipt is not None and is_recorded and _read_verified(verified) is not None:
            return ModelState(False, broken=(audit_file, model, verified))
        return ModelState(False, stale=_existing([audit_file, verified]))
    if audit.asked is not None and audit.asked != asked:
        there, here = audit.asked.model_dump(), asked.model_dump()
        differences = [
            f"{each} is {there[each]} there, {here[each]} here" for each in here if there[each] != here[each]
        ]
        # A folder without a receipt isn't ours and may be replaced.
        return ModelState(False, "; ".join(differences) if receipt else None, _existing([audit_file, verified]))
    if audit.revision < revisions.CONVERT:
        return ModelState(False)
    known = _read_verified(verified)
    if known is None:
        missing = (verified,) if model.is_dir() else (model, verified)
        return ModelState(
            False, broken=missing if is_recorded else ()
        )  # not the first run, which comes to it by itself
    if known.revision < revisions.VERIFY:
        return ModelState(False, stale=(verified,))
    compared = _compare(sources, known, model)
    if compared == "other":
        return ModelState(False, stale=(verified,))
    return ModelState(compared == "same", broken=(model, verified) if compared == "damaged" else ())


def _asked(sources: Sources, key: Key, receipt: FetchReceipt | None) -> ConversionInputs | None:
    """What a conversion would be asked for; None while the bytes of its sources aren't known."""
    given = sources.config.checkpoints[key[1]]
    vae = None if given.vae is None else ("vaes", given.vae)
    vae_receipt = None if vae is None else _read_receipt(receipt_path(sources.config.models_dir, *vae))
    checkpoint_sha256 = receipt.sha256 if receipt else _wanted_sha256(sources, key)
    vae_sha256 = vae_receipt.sha256 if vae_receipt else None if vae is None else _wanted_sha256(sources, vae)
    if checkpoint_sha256 is None or (vae_sha256 is None) != (vae is None):
        return None
    return ConversionInputs(
        checkpoint=checkpoint_sha256,
        vae=vae_sha256,
        parameterization=receipt.parameterization if receipt else sources.states[key].parameterization,
        **given.model_dump(include={"dtype", "prediction", "architecture", "extract_ema"}),
    )


def _wanted_sha256(sources: Sources, key: Key) -> str | None:
    """The bytes that the configuration asks for, as far as it is known without the network."""
    pin = sources.pins.get(key)
    return pin.sha256 if pin else sources.states[key].sha256


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


def _compare(sources: Sources, verified: VerifiedReceipt, model: Path) -> Literal["same", "other", "damaged"]:
    """How a model folder is, compared with its verified receipt; files of another time than remembered are read.

    It is another one if it differs only in files that are as they were when it was converted: the receipt is older.
    """
    known = recall(model)
    found: Literal["same", "other", "damaged"] = "same"
    for relative, identity in verified.files.items():
        path, remembered = model / relative, known.get(relative)
        try:
            status = path.stat()
            if remembered is not None and (remembered.size, remembered.mtime_ns) == (
                status.st_size,
                status.st_mtime_ns,
            ):
                if remembered.sha256 != identity.sha256:
                    found = "other"
            elif status.st_size != identity.size or _hash(sources, path) != identity.sha256:
                return "damaged"
        except (OSError, SourceError):
            return "damaged"
    return found


def _is_copy(sources: Sources, copy: Path, receipt: FetchReceipt, receipt_file: Path) -> bool:
    """Whether a fetched copy has its receipt's bytes; only files changed since the receipt was written are read."""
    files = receipt.files or {"": FetchedFile(size=receipt.size, sha256=receipt.sha256)}
    since = receipt_file.stat().st_mtime_ns
    try:
        for relative, identity in files.items():
            path = copy / relative if relative else copy
            status = path.stat()
            if status.st_size != identity.size:
                return False
            if status.st_mtime_ns > since and _hash(sources, path) != identity.sha256:
                return False
    except OSError:
        return False
    return True


def _is_there(sources: Sources, key: Key) -> bool:
    """False for a source on this machine that is gone."""
    return key in sources.pins or Path(sources.source_of(key)).expanduser().exists()


def _hash(sources: Sources, path: Path) -> str:
    return source_identity(path, Path(sources.config.models_dir) / ".cache/sources.json")


def _read_verified(path: Path) -> VerifiedReceipt | None:
    try:
        return VerifiedReceipt.read(path)
    except DarkroomError:
        return None


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
