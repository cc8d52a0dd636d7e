"""The files of a Diffusers folder: which ones a model needs, and a walk that refuses code and links that lead outside.

Real folders hold more than a model: other variants and formats of the weights, pages, pictures. A snapshot in Hugging
Face's cache is such a folder too, of links into `blobs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.checkpoint.index import CODE_ENDINGS, INDEX, REBUILD, components_in, tokenizers_in
from darkroom.checkpoint.weights import VARIANTS, has_weights, require_weights, weight_files
from darkroom.errors import CheckpointError, IndexFileError, ModelError

VOCABULARY_FILES = ("vocab.json", "merges.txt")
ONE_FILE_VOCABULARY = "tokenizer.json"
"""What transformers 5 saves in place of VOCABULARY_FILES."""
_TOKENIZER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    ONE_FILE_VOCABULARY,
    *VOCABULARY_FILES,
)
_TIMESTAMP = ".snakemake_timestamp"  # what Snakemake leaves in folders that a job makes
_REMOVE = "remove it, or take the folder from a source you trust"
_FETCH_AGAIN = "fetch the folder again, or take it from a source you trust"


def model_files(folder: Path) -> list[str]:
    """The relative paths of all files of a Diffusers folder that a model may need, with all variants of the weights.

    Raises ModelError (E-MODEL) for another folder, IndexFileError (E-INDEX) for code, links that lead outside and
    missing shards, PickleError (E-PICKLE) for weights that exist only as pickles.
    """
    with hints_for_sources():
        folder = open_source(folder)
        files = small_files(folder)
        for component in components_in(folder):
            for variant in VARIANTS:
                if has_weights(folder, component, variant):
                    files += weight_files(folder, component, variant)
    return sorted(files)


def small_files(folder: Path) -> list[str]:
    """The relative paths of the files, without the weights, that a model needs and the folder has."""
    wanted = small_paths(components_in(folder), tokenizers_in(folder))
    return [path for path in wanted if (folder / path).is_file()]


def small_paths(components: Iterable[str], tokenizers: Iterable[str]) -> list[str]:
    """The relative paths that files without weights can have in a Diffusers folder with these parts."""
    configs = [f"{component}/config.json" for component in components]
    vocabularies = [f"{component}/{name}" for component in tokenizers for name in _TOKENIZER_FILES]
    return [INDEX, "scheduler/scheduler_config.json", *configs, *vocabularies]


def open_source(source: Path) -> Path:
    """The resolved path of a Diffusers folder without code and outside links, where every component has weights."""
    folder = source.resolve()
    if not (folder / INDEX).is_file():
        why = f"it has no {INDEX}" if folder.is_dir() else "the folder does not exist"
        raise ModelError("Diffusers format missing", source, why, REBUILD)
    for _ in walk(folder, CODE_ENDINGS, *linked_blobs(folder)):
        pass
    require_weights(folder)
    return folder


def walk(folder: Path, refused: frozenset[str], *linked: Path) -> Iterator[Path]:
    """Every file of a folder, sorted by name, without Snakemake's timestamp; links may lead into it and into `linked`.

    Raises IndexFileError (E-INDEX) for files with one of the endings `refused`, links that lead elsewhere, and anything
    that is neither file nor folder.
    """
    roots = [root.resolve() for root in (folder, *linked)]
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*names, *folders]):
            path = Path(parent, name)
            relative = path.relative_to(folder)
            if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in roots):
                raise IndexFileError("link", relative, "leads outside the model folder", "copy the file it leads to")
            if path.suffix.lower() in refused:
                raise IndexFileError("file", relative, f"may hold code; a folder with {INDEX} needs none", _REMOVE)
            if name in names and name != _TIMESTAMP:
                if not path.is_file():
                    raise IndexFileError("file", relative, "is not a regular file", "remove it")
                yield path


def linked_blobs(folder: Path) -> tuple[Path, ...]:
    """Where a Hugging Face snapshot's files are links to: `blobs` beside `snapshots/REVISION`; else nowhere."""
    if folder.parent.name != "snapshots":
        return ()
    blobs = folder.parent.parent / "blobs"
    return (blobs,) if blobs.is_dir() and not blobs.is_symlink() else ()


@contextmanager
def hints_for_sources() -> Iterator[None]:
    """Replace the hint to rebuild a model folder, which is of no use for a source."""
    try:
        yield
    except (CheckpointError, ModelError) as error:
        if REBUILD not in error.hint:
            raise
        raise type(error)(error.what, error.value, error.why, _FETCH_AGAIN) from None
