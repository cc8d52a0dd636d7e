"""Walking a model folder: every file in it, no code among them, and no link that leads elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from darkroom.checkpoint.index import INDEX
from darkroom.errors import IndexFileError

CODE_ENDINGS = frozenset((".dll", ".dylib", ".py", ".pyc", ".pyd", ".so"))
PICKLE_ENDINGS = frozenset((".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"))
_NO_PART = ".snakemake_timestamp"  # what Snakemake leaves in folders that a job makes
_HINT = "remove it, or take the folder from a source you trust"


def walk(folder: Path, refused: frozenset[str], *linked: Path) -> Iterator[Path]:
    """Every file of a folder in the order of names; links may lead to files within it and within `linked`.

    Snakemake's timestamp, which is no part of a model, is passed over.
    Raises IndexFileError (E-INDEX) for files with one of the endings `refused`, links that lead elsewhere, and what is
    neither file nor folder.
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
                raise IndexFileError("file", relative, f"may hold code; a folder with {INDEX} needs none", _HINT)
            if name in names and name != _NO_PART:
                if not path.is_file():
                    raise IndexFileError("file", relative, "is not a regular file", "remove it")
                yield path


def linked_blobs(folder: Path) -> tuple[Path, ...]:
    """Where the files of a snapshot in a Hugging Face cache lead: `blobs` beside `snapshots/REVISION`, else nowhere."""
    if folder.parent.name != "snapshots":
        return ()
    blobs = folder.parent.parent / "blobs"
    return (blobs,) if blobs.is_dir() and not blobs.is_symlink() else ()
