"""Folders of LoRAs, embeddings and upscalers in the configuration: each safetensors file in one is a source by the file's name.

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
