"""Folders that appear whole or not at all: filled beside their destination, synced, then renamed into place.

A staging folder `.NAME.darkroom-tmp-OWNER` holds `new` and, for the moment of the exchange, `old`. Who fills one has a
claim on its destination, so that whatever else is staged for the same destination is what a dead process left.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom.claims import claim, is_claimed
from darkroom.files import TEMPORARY_PREFIX, disk_errors, sync_folder
from darkroom.owners import new_owner

_ATTEMPTS = 100


class Staging:
    """The folder to fill, `new`, and `publish` to put it in the destination's place.

    `waited` says that somebody else was at work on the same destination before.
    """

    def __init__(self, destination: Path, root: Path, waited: bool) -> None:
        self.destination = destination
        self.root = root
        self.new = root / "new"
        self.waited = waited

    def publish(self) -> None:
        """Replace the destination: the old folder is there until the new one is complete and synced."""
        for folder, _, _ in os.walk(self.new):
            sync_folder(Path(folder))
        for attempt in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                self.destination.rename(self.root / ("old" if attempt == 0 else f"old-{attempt}"))
            try:
                self.new.rename(self.destination)
            except OSError as error:
                # Somebody who doesn't ask may have put a folder there between the two renames.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        sync_folder(self.destination.parent)


@contextmanager
def staging_folder(destination: Path, on_wait: Callable[[], None] | None = None) -> Iterator[Staging]:
    """A staging folder for the time of the block; what dead processes left for the same destination is removed first.

    Others who are at work on it are waited for, calling `on_wait` once. Raises DiskError (E-DISK) where the file system
    refuses.
    """
    waited = False

    def wait() -> None:
        nonlocal waited
        waited = True
        if on_wait is not None:
            on_wait()

    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with claim(destination.with_name(f".{destination.name}"), wait):
            _remove_stale(destination)
            root = destination.with_name(f".{destination.name}{TEMPORARY_PREFIX}{new_owner()}")
            root.mkdir()
            try:
                staging = Staging(destination, root, waited)
                staging.new.mkdir()
                yield staging
            finally:
                shutil.rmtree(root, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what dead processes left in `folder` for destinations that nobody is at work on."""
    for root in _staged(folder, "."):
        name = root.name[1:].partition(TEMPORARY_PREFIX)[0]
        if name and not is_claimed(folder / f".{name}"):
            with claim(folder / f".{name}"):
                _remove_stale(folder / name)


def _remove_stale(destination: Path) -> None:
    for root in _staged(destination.parent, f".{destination.name}{TEMPORARY_PREFIX}"):
        if (root / "old").is_dir() and not destination.exists():
            (root / "old").rename(destination)  # its process died between the two renames
        shutil.rmtree(root, ignore_errors=True)


def _staged(folder: Path, prefix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.name.startswith(prefix) and TEMPORARY_PREFIX in path.name[1:]]
