"""The weight files of a Diffusers folder's components: one file each, or shards listed in an index.

The file names are those of diffusers (utils/constants.py, utils/hub_utils.py `_add_variant`) and transformers
(modeling_utils.py): `model.fp16.safetensors`, or `model.safetensors.index.fp16.json` with
`model.fp16-00001-of-00002.safetensors` and so on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.text import shorten
from darkroom.checkpoint.header import Header, TensorInfo, read_header
from darkroom.checkpoint.index import PICKLE_ENDINGS, REBUILD, components_in, read_json
from darkroom.errors import CheckpointError, FormatError, IndexFileError, ModelError, PickleError

VARIANTS = ("fp16", None)
DTYPES = {"fp16": "F16", "fp32": "F32", "bf16": "BF16"}
"""The number formats that a model's weights can have, and their names in safetensors headers."""
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_PICKLE_STEMS = ("diffusion_pytorch_model", "pytorch_model")


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor and the weight file, relative to the folder, that holds it."""

    file: str
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class Weights:
    """A component's weight files: their headers by path relative to the folder; `index` is the shards' index.

    `found` is the status of each file from before its header was read; a file with another status was replaced.
    """

    component: str
    variant: str | None
    index: str | None
    headers: dict[str, Header]
    found: dict[str, os.stat_result]

    @property
    def tensors(self) -> dict[str, Placed]:
        """Every tensor by name, with its file."""
        return {
            name: Placed(file, info) for file, header in self.headers.items() for name, info in header.tensors.items()
        }

    @property
    def place(self) -> str:
        """The file that an error about the component's weights as a whole names."""
        return self.index or next(iter(self.headers))


def weight_path(component: str, variant: str | None) -> str:
    """The path of a component's weights in a Diffusers folder; `variant` is None or `fp16`."""
    return f"{component}/{_STEMS[component]}{f'.{variant}' if variant else ''}.safetensors"


def index_path(component: str, variant: str | None) -> str:
    """The path of a component's index of shards in a Diffusers folder."""
    return f"{weight_path(component, None)}.index{f'.{variant}' if variant else ''}.json"


def shard_path(component: str, variant: str | None, number: int, count: int) -> str:
    """The path of shard `number` (from 1) of `count`."""
    whole = weight_path(component, variant)
    return f"{whole.removesuffix('.safetensors')}-{number:05}-of-{count:05}.safetensors"


def has_weights(folder: Path, component: str, variant: str | None) -> bool:
    """True if a component has weights of a variant, whole or in shards."""
    paths = (weight_path(component, variant), index_path(component, variant))
    return any((folder / path).is_file() for path in paths)


def require_weights(folder: Path) -> None:
    """Raise PickleError (E-PICKLE) if a component has only pickled weights, ModelError (E-MODEL) if it has none."""
    for component in components_in(folder):
        if any(has_weights(folder, component, variant) for variant in VARIANTS):
            continue
        # By name alone: pickles are never opened.
        for path in sorted((folder / component).glob("*")):
            if path.suffix.lower() in PICKLE_ENDINGS and path.name.startswith(_PICKLE_STEMS):
                why = f"{component} has its weights only as a pickle, which can run code"
                raise PickleError("weights", path.relative_to(folder), why, "use a version with .safetensors files")
        plain = weight_path(component, None)
        why = f"it has no {weight_path(component, 'fp16')} or {Path(plain).name}"
        raise ModelError("Diffusers format missing", folder, why, REBUILD)


def find_variant(folder: Path) -> str | None:
    """`fp16` if every component has weights of that variant, None if every one has plain ones.

    Raises as `require_weights` does, and ModelError (E-MODEL) for a mixture.
    """
    require_weights(folder)
    components = components_in(folder)
    for variant in VARIANTS:
        if all(has_weights(folder, component, variant) for component in components):
            return variant
    why = "some components have only .fp16 weights and others only plain ones"
    raise ModelError("Diffusers format missing", folder, why, REBUILD)


def weight_files(folder: Path, component: str, variant: str | None) -> list[str]:
    """The paths of a component's weights of that variant: the whole file, or the index and its shards.

    Raises IndexFileError (E-INDEX) for an index that names other than shards, and for an index beside a whole file.
    """
    whole, index = weight_path(component, variant), index_path(component, variant)
    if not (folder / index).is_file():
        return [whole]
    if (folder / whole).is_file():
        raise _refused(index, whole, "is beside it: loaders disagree on which of them to read")
    return [index, *(f"{component}/{name}" for name in sorted(set(_read_index(folder, index).values())))]


def read_weights(folder: Path, component: str, variant: str | None) -> Weights:
    """Read the headers of the weight files of a component that has weights of that variant.

    Raises IndexFileError (E-INDEX) for an index that doesn't agree with its shards, PickleError, NotWeightsError and
    FormatError (E-FORMAT) for files that are damaged or not weights.
    """
    files = weight_files(folder, component, variant)
    index = files.pop(0) if len(files) > 1 else None
    found, headers = {}, {}
    for file in files:
        found[file] = _status(folder / file)
        headers[file] = _read_header(folder / file)
    weights = Weights(component, variant, index, headers, found)
    if index is not None:
        _check_index(folder, weights, index)
    return weights


def _check_index(folder: Path, weights: Weights, index: str) -> None:
    """Raise IndexFileError (E-INDEX) unless the index and its shards name the same tensors in the same files."""
    weight_map = {tensor: f"{weights.component}/{name}" for tensor, name in _read_index(folder, index).items()}
    for tensor, path in weight_map.items():
        if tensor not in weights.headers[path].tensors:
            raise _refused(f"{index}: weight_map: {tensor[:120]}", path, "does not hold that tensor")
    for path, header in weights.headers.items():
        for tensor in header.tensors:
            if weight_map.get(tensor) != path:
                where = f"{index}: weight_map: {tensor[:120]}"
                raise _refused(where, weight_map.get(tensor, "nothing"), f"but {path} holds that tensor")


def _read_index(folder: Path, index: str) -> dict[str, str]:
    """The index's weight_map: tensor name to the name of an existing shard."""
    data = read_json(folder, index)
    if not isinstance(data.get("metadata"), dict):
        raise _refused(f"{index}: metadata", data.get("metadata"), "is not a mapping")
    found: Any = data.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise _refused(f"{index}: weight_map", found, "is not a mapping of tensors to files")
    weight_map: Mapping[str, Any] = found
    known: set[str] = set()
    for tensor, name in weight_map.items():
        if isinstance(name, str) and name in known:
            continue
        where = f"{index}: weight_map: {tensor[:120]}"
        if not _is_plain(name) or not name.endswith(".safetensors"):
            raise _refused(where, name, "is not the plain name of a .safetensors file")
        if not (folder / index).with_name(name).is_file():
            raise _refused(where, name, "is missing")
        known.add(name)
    return dict(weight_map)


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and not name.startswith(".") and not set(name) & set("/\\:\0")


def _read_header(path: Path) -> Header:
    try:
        return read_header(path)
    except CheckpointError as error:
        raise error.of_kind("weights", hint=REBUILD) from None


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise FormatError("weights", path, error.strerror or "can't be read", REBUILD) from None


def _refused(what: str, value: object, why: str) -> IndexFileError:
    text = None if value is None else shorten(value, 200)
    return IndexFileError(what, text, why, f"take the folder from a source you trust; or {REBUILD}")
