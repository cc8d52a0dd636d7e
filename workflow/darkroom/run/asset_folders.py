"""Folders of LoRAs, embeddings, upscalers and ControlNets in the configuration: each safetensors file in one is a source by the file's name.

The `source` of a ControlNet may be the folder that diffusers saves one to; it stands for the weights in it.

Folders below are searched too, links followed, as A1111 does; names that begin with a dot are left out. Nothing is read but
the names: a file counts once a picture uses it. Where the folder is not visible, as on a cluster's node, what was fetched
from it serves, as it does for a single file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from darkroom.config import FREE_NAMES, Config, check_prompt_names
from darkroom.errors import BadNameError, SourceError
from darkroom.sources import FetchReceipt

SUFFIX = ".safetensors"
_SAVED = ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors")
"""The weights in a folder of diffusers, of which the first one that is there counts."""


def expand_folders(config: Config) -> Config:
    """The configuration with each folder's files in its place, by their names.

    Raises SourceError (E-SOURCE) for a folder that is missing or holds no safetensors file, BadNameError (E-NAME) for two
    sources of one name and for a file whose name no prompt can hold.
    """
    return config.model_copy(update={section: _expand(section, config) for section in FREE_NAMES})


def is_from_folder(given: Any) -> bool:
    """Whether a source of an expanded configuration was found in a folder."""
    return bool(getattr(given, "folder", ""))


def _expand(section: str, config: Config) -> dict[str, Any]:
    sources: dict[str, Any] = getattr(config, section)
    if section == "controlnets":
        sources = {name: _from_saved_folder(given, f"{section}.{name}.source") for name, given in sources.items()}
    found = {name: given for name, given in sources.items() if not given.folder}
    places: dict[str, object] = {name: f"{section}.{name}" for name in found}
    for key, given in sources.items():
        if not given.folder:
            continue
        for path in _files_in(given.folder, Path(config.models_dir, section), f"{section}.{key}.folder"):
            name = path.name[: -len(SUFFIX)]
            if name in found:
                why = f"is the name of {places[name]} and of {path}"
                raise BadNameError(section[:-1], name, why, "rename one of the two")
            found[name], places[name] = given.model_copy(update={"source": str(path)}), path
    check_prompt_names(section, found, places.__getitem__)
    return found


def _from_saved_folder(given: Any, key: str) -> Any:
    folder = Path(given.source).expanduser()
    if not given.source or not folder.is_dir():
        return given
    path = next((folder / name for name in _SAVED if (folder / name).is_file()), None)
    if path is None:
        why = f"is a folder without {_SAVED[-1]}"
        raise SourceError("source", given.source, why, f"give the path of the ControlNet's file as {key}")
    return given.model_copy(update={"source": str(path)})


def _files_in(folder: str, fetched: Path, key: str) -> list[Path]:
    root = Path(folder).expanduser()
    exists = root.exists()
    found = sorted(_walk(root) if exists else _fetched_from(root, fetched))
    if not found:
        why = f"holds no {SUFFIX} file" if root.is_dir() else "is no folder" if exists else "does not exist"
        raise SourceError("folder", folder, why, f"correct {key} in the configuration")
    return found


def _fetched_from(root: Path, fetched: Path) -> Iterator[Path]:
    for receipt in fetched.glob("*.receipt.json"):
        with suppress(SourceError):  # a damaged receipt, which the next fetch replaces
            source = Path(FetchReceipt.read(receipt).source)
            if source.is_relative_to(root) and source.name.lower().endswith(SUFFIX):
                yield source


def _walk(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else [name for name in below if not name.startswith(".")]
        if real not in seen:
            yield from (Path(folder, name) for name in files if name.lower().endswith(SUFFIX) and name[0] != ".")
        seen.add(real)
