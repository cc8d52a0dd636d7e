"""Verification of a Diffusers folder: that it is complete, holds nothing else, and that loading it runs no code.

Nothing is loaded and nothing executed: configs are read as JSON, weights only by their headers, their hashes and for
NaN and Inf.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darkroom import revisions
from darkroom.checkpoint.architectures import component_tensors, name_of
from darkroom.checkpoint.audit import read_audit
from darkroom.checkpoint.hashes import recall, remember, take_fingerprints
from darkroom.checkpoint.header import Header
from darkroom.checkpoint.index import (
    CODE_ENDINGS,
    INDEX,
    PICKLE_ENDINGS,
    REBUILD,
    ModelConfigs,
    read_json,
    read_model_configs,
    walk,
)
from darkroom.checkpoint.keymap import Entry, is_ignored
from darkroom.checkpoint.layouts import old_attention_name
from darkroom.checkpoint.plan import DTYPES
from darkroom.checkpoint.verified import FileIdentity, VerifiedReceipt, content_digest, sample_file
from darkroom.checkpoint.weights import Weights, find_variant, read_weights, require_weights
from darkroom.errors import FormatError, IndexFileError, KeysError, ModelError

VOCABULARY_FILES = ("vocab.json", "merges.txt")
ONE_FILE_VOCABULARY = "tokenizer.json"  # what transformers 5 saves instead
TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", None)
_NUMBER_FORMATS = {dtype: name for name, dtype in DTYPES.items()}
_TEXT_MODEL = "text_model."

Hashes = Literal["remembered", "all", "none"]
"""Which files are read whole: those that changed since they last were, all, or none (the structure is checked only)."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A folder of which the configs and every tensor's name, shape and number format are right."""

    configs: ModelConfigs
    weights: dict[str, Weights]

    @property
    def headers(self) -> dict[str, Header]:
        """The headers of all weight files by relative path."""
        return {path: header for weights in self.weights.values() for path, header in weights.headers.items()}

    @property
    def dtypes(self) -> Counter[str]:
        """How many of the components' tensors are in which number format, as the headers name it."""
        tensors = ((name, info) for header in self.headers.values() for name, info in header.tensors.items())
        return Counter(info.dtype for name, info in tensors if not is_ignored(name))

    @property
    def dtype(self) -> str:
        """fp16, bf16, fp32 or mixed."""
        return _NUMBER_FORMATS[next(iter(self.dtypes))] if len(self.dtypes) == 1 else "mixed"


def verify_model(model_dir: Path | str, *, hashes: Hashes = "remembered") -> VerifiedReceipt:
    """Verify a Diffusers folder and return its receipt, without hashes if those of no file are wanted.

    Raises ModelError (E-MODEL, "Diffusers format missing") where something is missing, IndexFileError (E-INDEX) for
    what isn't allowed in such a folder, KeysError (E-KEYS) for wrong tensors, FormatError, NotWeightsError and
    PickleError for damaged weight files, NanWeightError (E-NANWEIGHT) for NaN and Inf in them, HashError (E-HASH) for
    a file that changed without a trace in its size and time.
    """
    folder = Path(os.path.abspath(model_dir))  # noqa: PTH100 - a link stays a link
    if not folder.is_dir():
        raise ModelError("Diffusers format missing", model_dir, "the folder does not exist", REBUILD)
    _require_index_and_weights(folder)
    files = [path.relative_to(folder).as_posix() for path in walk(folder, CODE_ENDINGS | PICKLE_ENDINGS)]
    variant = find_variant(folder)
    structure = check_structure(folder, lambda _: variant)
    return _receipt(folder, structure, _identify(folder, files, structure, hashes), variant, hashes)


def check_structure(folder: Path, variant_of: Callable[[str], str | None]) -> Structure:
    """Check a folder's configs, tokenizers and the weights of that variant of each component, by their headers.

    Raises what `verify_model` raises, but for NaN, Inf and hashes.
    """
    configs = read_model_configs(folder)
    entries = component_tensors(configs)
    _check_channels(configs)
    weights = {}
    for component in entries:
        weights[component] = read_weights(folder, component, variant_of(component))
        _check_tensors(folder, weights[component], entries[component])
    for component in ("tokenizer", "tokenizer_2"):
        _check_tokenizer(folder, component)
    return Structure(configs, weights)


def check_receipt(model_dir: Path | str, receipt: VerifiedReceipt | Path | str) -> None:
    """Check in milliseconds that a folder is still the one that a receipt, or the receipt in that file, describes.

    Raises ModelError (E-MODEL), "Diffusers format missing", naming the first file that is gone or has changed.
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


def classic_names(component: str, names: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, str]:
    """For every tensor name of a component its classic one.

    Newer transformers flattens those of text encoders, older diffusers had others for the VAE's attention.
    """
    other: dict[str, str] = {}
    missing = [name for name in expected if name not in names]
    if component.startswith("text_encoder"):
        other = {name.removeprefix(_TEXT_MODEL): name for name in missing}
    elif component == "vae":
        other = {old_attention_name(name): name for name in missing}
    return {name: name if name in expected else other.get(name, name) for name in names}


def _require_index_and_weights(folder: Path) -> None:
    """Say first that it's no such folder at all, or that its weights are pickles, and only then what is too much."""
    if not (folder / INDEX).is_file():
        raise ModelError("Diffusers format missing", folder, f"it has no {INDEX}", REBUILD)
    require_weights(folder)


def _check_channels(configs: ModelConfigs) -> None:
    """Text-to-image UNets denoise latents and nothing else; those for inpainting take a mask and a picture too."""
    unet, latents = configs.components["unet"]["in_channels"], configs.components["vae"]["latent_channels"]
    if unet != latents:
        why = f"a text-to-image UNet takes the {latents} channels of its VAE's latents; inpainting UNets take more"
        raise IndexFileError("unet/config.json: in_channels", unet, why, "use the text-to-image model it was made from")


def _check_tensors(folder: Path, weights: Weights, entries: list[Entry]) -> None:
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
        if info.dtype not in _NUMBER_FORMATS:
            raise FormatError("weights", file, f"tensor '{name}' is {info.dtype}, not fp16, bf16 or fp32", REBUILD)


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


def _identify(folder: Path, files: list[str], structure: Structure, hashes: Hashes) -> dict[str, FileIdentity]:
    if hashes == "none":
        return {
            file: FileIdentity(size=(folder / file).stat().st_size, sha256=None, sample=sample_file(folder / file))
            for file in sorted(files)
        }
    known = recall(folder)
    found = take_fingerprints(folder, files, structure.headers, known=known, again=hashes == "all")
    if found != known:
        remember(folder, found)
    return {file: fingerprint.identity() for file, fingerprint in found.items()}


def _receipt(
    folder: Path, structure: Structure, files: dict[str, FileIdentity], variant: str | None, hashes: Hashes
) -> VerifiedReceipt:
    audit = read_audit(folder)
    return VerifiedReceipt(
        name=folder.name,
        architecture=name_of(structure.configs),
        dtype=structure.dtype,
        variant=variant,
        prediction_type=str(structure.configs.scheduler.get("prediction_type", "epsilon")),
        digest=None if hashes == "none" else content_digest(files),
        source_sha256=audit.source_sha256 if audit else None,
        autov2=audit.autov2 if audit else None,
        revision=revisions.VERIFY,
        files=files,
    )
