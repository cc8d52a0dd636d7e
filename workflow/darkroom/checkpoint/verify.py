"""Verification of a Diffusers folder: that it is complete, holds nothing else, and that loading it runs no code.

Nothing is loaded and nothing executed: configs are read as JSON, weights only by their headers and hashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from darkroom import revisions
from darkroom.checkpoint.architectures import component_tensors, name_of
from darkroom.checkpoint.audit import read_audit
from darkroom.checkpoint.entries import Entry
from darkroom.checkpoint.header import Header, Shape, read_header
from darkroom.checkpoint.index import INDEX, REBUILD, ModelConfigs, read_json, read_model_configs
from darkroom.checkpoint.keymap import COMPONENTS, is_ignored
from darkroom.checkpoint.plan import DTYPES, weight_path
from darkroom.checkpoint.verified import FileIdentity, VerifiedReceipt, content_digest, sample_file
from darkroom.errors import CheckpointError, FormatError, IndexFileError, KeysError, ModelError
from darkroom.hashing import hash_file

CODE_ENDINGS = frozenset(
    (".bin", ".ckpt", ".dll", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".pyd", ".so")
)
VOCABULARY_FILES = ("vocab.json", "merges.txt")
ONE_FILE_VOCABULARY = "tokenizer.json"  # what transformers 5 saves instead
TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", None)
_NUMBER_FORMATS = {dtype: name for name, dtype in DTYPES.items()}


def verify_model(model_dir: Path | str, *, deep: bool = True) -> VerifiedReceipt:
    """Verify a Diffusers folder and return its receipt; `deep` hashes every file, else only the structure is checked.

    Raises ModelError (E-MODEL, "Diffusers format missing") where something is missing, IndexFileError (E-INDEX) for
    what isn't allowed in such a folder, KeysError (E-KEYS) for wrong tensors, FormatError and PickleError for
    damaged weight files.
    """
    folder = Path(os.path.abspath(model_dir))  # noqa: PTH100 - a link stays a link
    if not folder.is_dir():
        raise ModelError("Diffusers format missing", model_dir, "the folder does not exist", REBUILD)
    paths = list(_safe_files(folder))
    configs = read_model_configs(folder)
    variant = _find_variant(folder)
    dtypes: set[str] = set()
    for component, entries in component_tensors(configs).items():
        path = folder / weight_path(component, variant)
        header = _read_weights(path)
        _check_tensors(component, path, header, entries)
        dtypes |= {header.tensors[name].dtype for name in header.tensors if not is_ignored(name)}
    for component in ("tokenizer", "tokenizer_2"):
        _check_tokenizer(folder, component)
    return _receipt(folder, paths, configs, variant, dtypes, deep)


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


def _safe_files(folder: Path) -> Iterator[Path]:
    """Every file of the folder; raises IndexFileError (E-INDEX) for code, pickles and links that lead outside."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*names, *folders]):
            path = Path(parent, name)
            relative = path.relative_to(folder)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise IndexFileError("link", relative, "leads outside the model folder", "copy the file it leads to")
            if path.suffix.lower() in CODE_ENDINGS:
                why = f"may hold code; a folder with {INDEX} needs none"
                raise IndexFileError("file", relative, why, "remove it, or take the folder from a source you trust")
            if name in names:
                if not path.is_file():
                    raise IndexFileError("file", relative, "is not a regular file", "remove it")
                yield path


def _find_variant(folder: Path) -> str | None:
    """`fp16` if every component has weights of that variant, None if every one has plain ones."""
    for variant in ("fp16", None):
        if all((folder / weight_path(component, variant)).is_file() for component in COMPONENTS):
            return variant
    for component in COMPONENTS:
        plain = weight_path(component, None)
        if not (folder / plain).is_file() and not (folder / weight_path(component, "fp16")).is_file():
            why = f"it has no {weight_path(component, 'fp16')} or {Path(plain).name}"
            raise ModelError("Diffusers format missing", folder, why, REBUILD)
    why = "some components have only .fp16 weights and others only plain ones"
    raise ModelError("Diffusers format missing", folder, why, REBUILD)


def _read_weights(path: Path) -> Header:
    try:
        return read_header(path)
    except CheckpointError as error:
        raise type(error)(error.what.replace("checkpoint", "weights"), error.value, error.why, REBUILD) from None


def _check_tensors(component: str, path: Path, header: Header, entries: list[Entry]) -> None:
    expected = {entry.name: entry.shape for entry in entries}
    found = _classic_names(header, expected)
    missing = [name for name in expected if name not in found]
    if missing:
        first = ", ".join(missing[:5])
        raise KeysError("weights", path, f"{len(missing)} tensors of {component} are missing: {first}", REBUILD)
    left = sorted(name for name in found if name not in expected and not is_ignored(name))
    if left:
        first = ", ".join(name[:120] for name in left[:5])
        raise KeysError("weights", path, f"{len(left)} tensors of {component} are left over: {first}", REBUILD)
    for name, shape in expected.items():
        if found[name] != shape:
            why = f"tensor '{name}' of {component} is {list(found[name])}, its config needs {list(shape)}"
            raise KeysError("weights", path, why, REBUILD)
        if header.tensors[name if name in header.tensors else _flat(name)].dtype not in _NUMBER_FORMATS:
            raise FormatError("weights", path, f"tensor '{name}' is not fp16, bf16 or fp32", REBUILD)


def _classic_names(header: Header, expected: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes by name, with the flattened names that newer transformers write for text encoders put back."""
    flat = {_flat(name): name for name in expected}
    return {name if name in expected else flat.get(name, name): info.shape for name, info in header.tensors.items()}


def _flat(name: str) -> str:
    return name.removeprefix("text_model.")


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


def _receipt(
    folder: Path, paths: list[Path], configs: ModelConfigs, variant: str | None, dtypes: set[str], deep: bool
) -> VerifiedReceipt:
    files = _identify(folder, paths, deep)
    audit = read_audit(folder)
    return VerifiedReceipt(
        name=folder.name,
        architecture=name_of(configs),
        dtype=_NUMBER_FORMATS[dtypes.pop()] if len(dtypes) == 1 else "mixed",
        variant=variant,
        prediction_type=str(configs.scheduler.get("prediction_type", "epsilon")),
        digest=content_digest(files) if deep else None,
        source_sha256=audit.source_sha256 if audit else None,
        autov2=audit.autov2 if audit else None,
        revision=revisions.VERIFY,
        files=files,
    )


def _identify(folder: Path, paths: list[Path], deep: bool) -> dict[str, FileIdentity]:
    """Every file's identity; two are hashed at a time, the largest first."""
    largest_first = sorted(paths, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashes = dict(zip(largest_first, pool.map(hash_file, largest_first), strict=True)) if deep else {}
    return {
        path.relative_to(folder).as_posix(): FileIdentity(
            size=path.stat().st_size, sha256=hashes.get(path), sample=sample_file(path)
        )
        for path in sorted(paths)
    }
