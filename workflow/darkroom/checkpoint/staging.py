"""Folders that appear whole or not at all: filled beside their destination, synced, then renamed into place.

A staging folder `.NAME.darkroom-tmp-RANDOM` holds `lock`, which its process keeps locked, `new` and, for the
moment of the exchange, `old`. Whoever can lock it knows that its process is dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom.files import TEMPORARY_PREFIX, disk_errors, sync_folder

_ATTEMPTS = 100


class Staging:
    """The folder to fill, `new`, and `publish` to put it in the destination's place."""

    def __init__(self, destination: Path, root: Path) -> None:
        self.destination = destination
        self.root = root
        self.new = root / "new"

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
                # Another process may have published the same folder between the two renames.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        sync_folder(self.destination.parent)


@contextmanager
def staging_folder(destination: Path) -> Iterator[Staging]:
    """A staging folder for the time of the block; what dead processes left for the same destination is removed first.

    Raises DiskError (E-DISK) where the file system refuses.
    """
    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(destination)
        root, lock = _create(destination)
        try:
            staging = Staging(destination, root)
            staging.new.mkdir()
            yield staging
        finally:
            _remove(root)
            os.close(lock)


def _prefix(destination: Path) -> str:
    return f".{destination.name}{TEMPORARY_PREFIX}"


def _create(destination: Path) -> tuple[Path, int]:
    """A new staging folder and its locked descriptor; starts over if a cleaner took it before it was locked."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=_prefix(destination), dir=destination.parent))
        try:
            lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue
        if _try_lock(lock) and (root / "lock").exists():
            root.chmod(0o755)
            return root, lock
        os.close(lock)


def _remove_stale(destination: Path) -> None:
    for root in destination.parent.glob(f"{_prefix(destination)}*"):
        try:
            lock = os.open(root / "lock", os.O_RDWR)
        except FileNotFoundError:
            with suppress(OSError):
                root.rmdir()
            continue
        except OSError:
            continue
        try:
            if _try_lock(lock):
                if (root / "old").is_dir() and not destination.exists():
                    # Its process died between the two renames.
                    (root / "old").rename(destination)
                _remove(root)
        finally:
            os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(root: Path) -> None:
    """Remove a staging folder, its lock last, so that a removal cut short can be taken up again."""
    with suppress(FileNotFoundError):
        for child in root.iterdir():
            if child.name != "lock":
                shutil.rmtree(child, ignore_errors=True)
        with suppress(FileNotFoundError):
            (root / "lock").unlink()
        with suppress(OSError):
            root.rmdir()
