"""Verification of a Diffusers folder: it is complete, holds nothing else, and loading it runs no code.

Nothing is loaded and nothing executed: configs are read as JSON, weights only by their headers, their hashes and for
NaN and Inf.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from darkroom import revisions
from darkroom.checkpoint.architectures import component_tensors, name_of
from darkroom.checkpoint.audit import read_audit
from darkroom.checkpoint.folder import ONE_FILE_VOCABULARY, VOCABULARY_FILES, walk
from darkroom.checkpoint.hashes import take_fingerprints
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.index import (
    CODE_ENDINGS,
    INDEX,
    PICKLE_ENDINGS,
    REBUILD,
    ModelConfigs,
    read_json,
    read_model_configs,
    tokenizers_of,
)
from darkroom.checkpoint.keymap import Entry, is_ignored
from darkroom.checkpoint.layouts import classic_names
from darkroom.checkpoint.verified import (
    FileIdentity,
    VerifiedReceipt,
    content_digest,
    recall,
    remember,
    sample_file,
)
from darkroom.checkpoint.weights import DTYPES, Weights, find_variant, read_weights, require_weights
from darkroom.errors import FormatError, IndexFileError, KeysError, ModelError

TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", None)
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Hashes = Literal["remembered", "all", "none"]
"""Which files are read whole: those that changed since they last were, all, or none (only the structure is checked)."""


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model folder whose configs and tensors (names, shapes, dtypes) have been checked.

    By component, `entries` are the tensors that the configs demand, `weights` the headers of the weight files, `names`
    the classic name of every tensor in them. `receipt` is None while the files' identities are unknown.
    """

    folder: Path
    configs: ModelConfigs
    entries: dict[str, list[Entry]]
    weights: dict[str, Weights]
    names: dict[str, dict[str, str]]
    receipt: VerifiedReceipt | None = None

    @property
    def headers(self) -> dict[str, Header]:
        """The headers of all weight files by relative path."""
        return {path: header for weights in self.weights.values() for path, header in weights.headers.items()}

    @property
    def dtypes(self) -> Counter[str]:
        """The number of the components' tensors in each number format, as headers name it."""
        tensors = ((name, info) for header in self.headers.values() for name, info in header.tensors.items())
        return Counter(info.dtype for name, info in tensors if not is_ignored(name))

    @property
    def dtype(self) -> str:
        """fp16, bf16, fp32 or mixed."""
        return _DTYPE_NAMES[next(iter(self.dtypes))] if len(self.dtypes) == 1 else "mixed"


def verify_model(model_dir: Path | str, *, hashes: Hashes = "remembered") -> VerifiedReceipt:
    """Verify a Diffusers folder and return its receipt, which has no SHA256 if `hashes` is "none".

    Raises ModelError (E-MODEL, "Diffusers format missing") where something is missing, IndexFileError (E-INDEX) for
    what isn't allowed in such a folder, KeysError (E-KEYS) for wrong tensors, FormatError, NotWeightsError and
    PickleError for damaged weight files, NanWeightError (E-NANWEIGHT) for NaN and Inf in them, HashError (E-HASH) for
    a file that changed while its size and time stayed the same.
    """
    model, files = _check_folder(model_dir)
    return _receipt(model, _identify(model, files, hashes), hashes)


def open_model(model_dir: Path | str, receipt: VerifiedReceipt | Path | str | None = None) -> VerifiedModel:
    """Verify a Diffusers folder without reading its weights, in milliseconds, against a receipt if one is given.

    Raises what `check_receipt` raises, and what `verify_model` raises but for hashes, NaN and Inf.
    """
    if receipt is not None:
        receipt = check_receipt(model_dir, receipt)
    model, files = _check_folder(model_dir)
    return replace(model, receipt=receipt or _receipt(model, _identify(model, files, "none"), "none"))


def check_structure(folder: Path, variant_of: Callable[[str], str | None]) -> VerifiedModel:
    """Check a folder's configs, tokenizers and weights, by their headers; `variant_of` gives a component's variant.

    Raises what `verify_model` raises, but for hashes, NaN and Inf.
    """
    configs = read_model_configs(folder)
    entries = component_tensors(configs)
    _check_channels(configs)
    weights, names = {}, {}
    for component, expected in entries.items():
        weights[component] = read_weights(folder, component, variant_of(component))
        names[component] = _check_tensors(folder, weights[component], expected)
    for tokenizer in tokenizers_of(configs):
        _check_tokenizer(folder, tokenizer)
    return VerifiedModel(folder, configs, entries, weights, names)


def check_receipt(model_dir: Path | str, receipt: VerifiedReceipt | Path | str) -> VerifiedReceipt:
    """Check in milliseconds that a folder is still as a receipt describes it; the receipt, read if a path is given.

    Raises ModelError (E-MODEL, "Diffusers format missing") that names the first file that is missing or has changed.
    """
    folder = Path(model_dir)
    if not isinstance(receipt, VerifiedReceipt):
        receipt = VerifiedReceipt.read(receipt)
    if not folder.is_dir():
        raise ModelError("Diffusers format missing", folder, "the folder does not exist", REBUILD)
    for relative, identity in receipt.files.items():
        path = folder / relative
        try:
            same = path.stat().st_size == identity.size and sample_file(path) == identity.sample
        except OSError as error:
            raise ModelError("Diffusers format missing", path, error.strerror or "can't be read", REBUILD) from None
        if not same:
            raise ModelError("Diffusers format missing", path, "changed since it was verified", REBUILD)
    return receipt


def _check_folder(model_dir: Path | str) -> tuple[VerifiedModel, list[str]]:
    """The checked model, and the relative paths of the folder's files."""
    folder = Path(os.path.abspath(model_dir))  # noqa: PTH100 - a link stays a link
    if not folder.is_dir():
        raise ModelError("Diffusers format missing", model_dir, "the folder does not exist", REBUILD)
    # Another kind of folder, or one with pickled weights, is an error of its own, before files that don't belong here.
    if not (folder / INDEX).is_file():
        raise ModelError("Diffusers format missing", folder, f"it has no {INDEX}", REBUILD)
    require_weights(folder)
    files = [path.relative_to(folder).as_posix() for path in walk(folder, CODE_ENDINGS | PICKLE_ENDINGS)]
    variant = find_variant(folder)
    return check_structure(folder, lambda _: variant), files


def _check_channels(configs: ModelConfigs) -> None:
    """A text-to-image UNet takes latents alone; an inpainting UNet takes a mask and a picture too."""
    unet, latents = configs.components["unet"]["in_channels"], configs.components["vae"]["latent_channels"]
    if unet != latents:
        why = f"a text-to-image UNet takes the {latents} channels of its VAE's latents; inpainting UNets take more"
        raise IndexFileError("unet/config.json: in_channels", unet, why, "use the text-to-image model it was made from")


def _check_tensors(folder: Path, weights: Weights, entries: list[Entry]) -> dict[str, str]:
    """Check a component's tensors against what its config demands, and return their classic names."""
    component, path, tensors = weights.component, folder / weights.place, weights.tensors
    expected = {entry.name: entry.shape for entry in entries}
    names = classic_names(component, tensors, expected)
    found = {classic: tensors[name] for name, classic in names.items()}
    missing = [name for name in expected if name not in found]
    if missing:
        first = ", ".join(missing[:5])
        raise KeysError("weights", path, f"{len(missing)} tensors of {component} are missing: {first}", REBUILD)
    left = sorted(name for name in found if name not in expected and not is_ignored(name))
    if left:
        first = ", ".join(name[:120] for name in left[:5])
        raise KeysError("weights", path, f"{len(left)} tensors of {component} are left over: {first}", REBUILD)
    for name, shape in expected.items():
        info, file = found[name].info, folder / found[name].file
        if info.shape != shape:
            why = f"tensor '{name}' of {component} is {list(info.shape)}, its config needs {list(shape)}"
            raise KeysError("weights", file, why, REBUILD)
        if info.dtype not in _DTYPE_NAMES:
            raise FormatError("weights", file, f"tensor '{name}' is {info.dtype}, not fp16, bf16 or fp32", REBUILD)
    return names


def _check_tokenizer(folder: Path, component: str) -> None:
    if not (folder / component / ONE_FILE_VOCABULARY).is_file():
        for name in VOCABULARY_FILES:
            if not (folder / component / name).is_file():
                raise ModelError("Diffusers format missing", folder, f"it has no {component}/{name}", REBUILD)
    declared = read_json(folder, f"{component}/tokenizer_config.json").get("tokenizer_class")
    if declared not in TOKENIZER_CLASSES:
        where = f"{component}/tokenizer_config.json: tokenizer_class"
        raise IndexFileError(
            where, declared, "only CLIPTokenizer can stand here", "take the folder from a source you trust"
        )


def _identify(model: VerifiedModel, files: list[str], hashes: Hashes) -> dict[str, FileIdentity]:
    folder = model.folder
    if hashes == "none":
        return {
            file: FileIdentity(size=(folder / file).stat().st_size, sha256=None, sample=sample_file(folder / file))
            for file in sorted(files)
        }
    known = recall(folder)
    found = take_fingerprints(folder, files, model.headers, known=known, again=hashes == "all")
    if found != known:
        remember(folder, found)
    return {file: fingerprint.identity() for file, fingerprint in found.items()}


def _receipt(model: VerifiedModel, files: dict[str, FileIdentity], hashes: Hashes) -> VerifiedReceipt:
    audit = read_audit(model.folder)
    return VerifiedReceipt(
        name=model.folder.name,
        architecture=name_of(model.entries),
        dtype=model.dtype,
        variant=next(iter(model.weights.values())).variant,
        prediction_type=str(model.configs.scheduler.get("prediction_type", "epsilon")),
        digest=None if hashes == "none" else content_digest(files),
        source_sha256=audit.source_sha256 if audit else None,
        autov2=audit.autov2 if audit else None,
        revision=revisions.VERIFY,
        files=files,
    )
