"""Which files of a repository at the Hugging Face Hub make up a checkpoint: one file, or one variant of a folder's weights."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Protocol

from darkroom.base.text import near_names
from darkroom.checkpoint.folder import small_paths
from darkroom.checkpoint.index import BASE_ALONE, INDEX, PICKLE_ENDINGS, TOKENIZERS
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.checkpoint.weights import VARIANTS, index_path, weight_path
from darkroom.errors import PickleError, SourceError
from darkroom.sources.access import shown

_SMALL = tuple(small_paths(COMPONENTS, TOKENIZERS))


class Repository(Protocol):
    """The part of a `HubSource` that matters here."""

    @property
    def path(self) -> str | None:
        """The path of the file or folder in the repository; None for all of it."""

    @property
    def text(self) -> str: ...

    def text_of(self, path: str) -> str:
        """The reference to another file of the repository."""


def single_file(source: Repository, names: Collection[str]) -> str:
    """The path of the one file that `source` means. Raises SourceError (E-SOURCE) if it isn't among `names`."""
    if source.path is not None and source.path in names:
        return source.path
    raise SourceError("source", source.text, "its repository has no such file", _near(source, names))


def folder_files(source: Repository, names: Collection[str], *, kind: str, dtype: str) -> dict[str, str]:
    """The files of the folder that `source` means: their paths in the repository by those in the folder.

    Of the weights one variant: for the dtype fp16 the fp16 one where every component has it, else the plain one; for
    others the other way about. Raises SourceError (E-SOURCE) for what isn't such a folder, or for a `kind` that is always
    one file, PickleError (E-PICKLE) for weights that are only there as pickles.
    """
    if source.path in names:
        why = "is no .safetensors file"
        error = PickleError if PurePosixPath(str(source.path)).suffix.lower() in PICKLE_ENDINGS else SourceError
        raise error("source", source.text, why, _near(source, names))
    if kind != "checkpoint":
        raise SourceError("source", source.text, f"is a folder, and a {kind} is one file", _near(source, names))
    start = f"{source.path}/" if source.path else ""
    here = {name.removeprefix(start) for name in names if name.startswith(start)}
    if INDEX not in here:
        why = f"is no Diffusers folder: it has no {INDEX}"
        raise SourceError("source", source.text, why, _near(source, names))
    chosen = [name for name in _SMALL if name in here]
    for component, variant in _variants(source, here, dtype).items():
        chosen += _weights(here, component, variant)
    return {name: start + name for name in sorted(chosen)}


def _variants(source: Repository, here: Collection[str], dtype: str) -> dict[str, str | None]:
    """Which variant of each component's weights to take; a mixture only where no variant is complete."""
    order = VARIANTS if dtype == "fp16" else VARIANTS[::-1]
    folders = {PurePosixPath(name).parts[0] for name in here}
    # SDXL's refiner has neither; whether a folder without them is one is checked once its model_index.json is there.
    is_refiner = folders.isdisjoint(BASE_ALONE)
    wanted = [component for component in COMPONENTS if not (is_refiner and component in BASE_ALONE)]
    has = {component: [variant for variant in order if _weights(here, component, variant)] for component in wanted}
    for component, variants in has.items():
        if not variants:
            raise _without_weights(source, here, component)
    whole = [variant for variant in order if all(variant in variants for variants in has.values())]
    return {component: whole[0] if whole else variants[0] for component, variants in has.items()}


def _weights(here: Collection[str], component: str, variant: str | None) -> list[str]:
    """A component's weights of that variant: the whole file, which wins, or the index and its shards; else nothing."""
    whole, index = weight_path(component, variant), index_path(component, variant)
    if whole in here:
        return [whole]
    if index not in here:
        return []
    shard = re.compile(re.escape(whole.removesuffix(".safetensors")) + r"-\d{5}-of-\d{5}\.safetensors")
    return [index, *filter(shard.fullmatch, here)]


def _without_weights(source: Repository, here: Collection[str], component: str) -> PickleError | SourceError:
    weights = [name for name in here if PurePosixPath(name).parent.as_posix() == component]
    if any(PurePosixPath(name).suffix.lower() in PICKLE_ENDINGS for name in weights):
        why = f"has {component} only as a pickle, which can run code"
        return PickleError("source", source.text, why, "choose a repository or a revision with .safetensors files")
    why = f"is no whole SDXL model: it has no {weight_path(component, None)}"
    return SourceError("source", source.text, why, "choose another repository")


def _near(source: Repository, names: Collection[str]) -> str:
    """A hint with the .safetensors files that may be meant."""
    files = sorted(name for name in names if name.lower().endswith(".safetensors"))
    near = near_names(source.path or "", files, cutoff=0.4) or files[:3]
    if not near:
        return "choose another repository: this one has no .safetensors file"
    texts = [source.text_of(shown(name)) for name in near]
    return f"give {' or '.join(texts)}"
