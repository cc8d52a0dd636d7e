"""Giving what is in the store its second name: the file or folder that the workflow goes on with, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from darkroom.checkpoint.folder import model_files
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.linking import link_or_copy
from darkroom.checkpoint.publish import check_destination
from darkroom.checkpoint.staging import staging_folder
from darkroom.errors import SourceError
from darkroom.files import disk_errors, sync_folder, temporary_path


def place_file(blob: Path, dest: Path, check: Callable[[Path], object]) -> None:
    """Make `dest` the file `blob`, a safetensors file that passes `check`.

    Raises what `check` raises, the CheckpointErrors, DiskError (E-DISK).
    """
    read_header(blob)
    check(blob)
    with disk_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(dest)
        try:
            link_or_copy(blob, temporary)
            os.utime(temporary)  # a job's output is to be newer than its input
            os.replace(temporary, dest)
            sync_folder(dest.parent)
        finally:
            with suppress(FileNotFoundError):  # it stays where both were names of one file already (rename(2))
                temporary.unlink()


def place_folder(blobs: Mapping[str, Path], dest: Path, source: str) -> None:
    """Make the folder `dest` of these files by their relative paths, if they are a usable Diffusers model.

    Raises ModelError (E-MODEL), IndexFileError (E-INDEX), the CheckpointErrors, NameError (E-NAME) if `dest` is another
    kind of folder, SourceError (E-SOURCE) for a file that no model needs, DiskError (E-DISK).
    """
    check_destination(dest, source=None)
    with staging_folder(dest) as staging:
        for relative, blob in blobs.items():
            place = staging.new / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(blob, place)
            if relative.endswith(".safetensors"):
                read_header(place)
        if extra := set(blobs) - set(model_files(staging.new)):
            raise SourceError("source", source, f"{min(extra)} is no part of a model", "use another source")
        staging.publish()
