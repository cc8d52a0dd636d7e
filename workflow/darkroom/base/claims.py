"""Mutual exclusion without file locks, and folders that appear whole: filled in a staging folder, then renamed.

A claim on `PATH` is a file `PATH.claim.OWNER`. A process creates its claim first and reads the folder afterwards; if it
finds a living claim of another process, it removes its own and waits. So two processes never hold the same claim: the later
one to read sees both. A presence is such a file that excludes nobody: it says that a process is there, and what for.

A staging folder `.NAME.darkroom-tmp-OWNER` holds `new` and, for the moment of the exchange, `old`. The process that fills
one holds the claim on its destination, so any other staging folder for the same destination is left over from a dead
process.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from darkroom.base.files import TEMPORARY_PREFIX, disk_errors, sync_folder, write_bytes
from darkroom.base.processes import is_from_here, is_living, new_owner

BEAT_S = 10.0
_POLL_S = 0.2
_MARK = ".claim."
_PUBLISH_ATTEMPTS = 100


@contextmanager
def claim(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the claim on `path` during the block; waits for other processes, calling `on_wait` once before.

    Gives True if the claim was taken over from an owner elsewhere whose heartbeat stopped, and who might wake up again.
    Raises DiskError (E-DISK) where the file system refuses.
    """
    with disk_errors(path):
        mine, took_over = _take(path, on_wait)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(mine, stop), daemon=True)
    beat.start()
    try:
        yield took_over
    finally:
        stop.set()
        beat.join()
        mine.unlink(missing_ok=True)


def is_claimed(path: Path) -> bool:
    """True if a living process holds a claim on `path`."""
    return any(is_living(_owner(mark), mark, time.time()) for mark in _marks(path))


def is_anyone_at_work(folder: Path) -> bool:
    """True if there is a living claim in `folder`."""
    return folder.is_dir() and any(
        _MARK in other.name and is_living(_owner(other), other, time.time()) for other in list(folder.iterdir())
    )


class Presence:
    """Announces this process at `path`, with a few bytes for others to read, until `leave` or the process's end.

    `every` is called each second in a thread. Raises DiskError (E-DISK) where the file system refuses.
    """

    def __init__(self, path: Path, content: bytes = b"", every: Callable[[], None] | None = None) -> None:
        self._path, self._every = path.absolute(), every  # the working folder may change before `leave`
        self._mine = _new_mark(self._path)
        write_bytes(self._mine, content)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def others(self) -> tuple[list[Path], bool]:
        """The files of other living processes, and True if files of dead ones were found and removed."""
        now = self._mine.stat().st_mtime
        marks = [mark for mark in _marks(self._path) if mark != self._mine]
        living = [mark for mark in marks if is_living(_owner(mark), mark, now)]
        dead = [mark for mark in marks if mark not in living]
        for mark in dead:
            mark.unlink(missing_ok=True)
        return living, bool(dead)

    def write(self, content: bytes) -> None:
        """Replace the bytes for others to read. Raises DiskError (E-DISK)."""
        write_bytes(self._mine, content)

    def leave(self) -> None:
        """Remove the announcement."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            self._mine.unlink()

    def _live(self) -> None:
        beat = time.monotonic()
        while not self._stop.wait(1):
            if self._every is not None:
                self._every()
            if time.monotonic() - beat >= BEAT_S:
                beat = time.monotonic()
                with suppress(OSError):
                    os.utime(self._mine)


class Staging:
    """The folder to fill, `new`, and `publish` to replace the destination by it.

    `waited` is True if another process was at work on the same destination before.
    """

    def __init__(self, destination: Path, root: Path, waited: bool) -> None:
        self.destination = destination
        self.root = root
        self.new = root / "new"
        self.waited = waited

    def publish(self) -> None:
        """Replace the destination; the old folder stays until the new one is complete and synced."""
        for folder, _, _ in os.walk(self.new):
            sync_folder(Path(folder))
        for attempt in range(_PUBLISH_ATTEMPTS):
            with suppress(FileNotFoundError):
                self.destination.rename(self.root / ("old" if attempt == 0 else f"old-{attempt}"))
            try:
                self.new.rename(self.destination)
            except OSError as error:
                # A process that holds no claim may have put a folder there between the two renames.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == _PUBLISH_ATTEMPTS - 1:
                    raise
            else:
                break
        sync_folder(self.destination.parent)


@contextmanager
def staging_folder(destination: Path, on_wait: Callable[[], None] | None = None) -> Iterator[Staging]:
    """A staging folder for the block; leftovers of dead processes for the same destination are removed first.

    Waits for other processes at work on the destination, calling `on_wait` once before. Raises DiskError (E-DISK) where the
    file system refuses.
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


def remove_unfinished_folders(folder: Path) -> None:
    """Remove staging folders of dead processes in `folder`, except for destinations that a living process works on."""
    for root in _staged(folder, "."):
        name = root.name[1:].partition(TEMPORARY_PREFIX)[0]
        if name and not is_claimed(folder / f".{name}"):
            with claim(folder / f".{name}"):
                _remove_stale(folder / name)


def _take(path: Path, on_wait: Callable[[], None] | None) -> tuple[Path, bool]:
    took_over = waited = False
    while True:
        mine = _new_mark(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            living, removed = _look(path, mine)
        except FileNotFoundError:
            continue  # the holder before has deleted the folder with everything in it
        except BaseException:
            mine.unlink(missing_ok=True)
            raise
        took_over |= removed
        if not living:
            return mine, took_over
        mine.unlink(missing_ok=True)
        if not waited and on_wait is not None:
            on_wait()
        waited = True
        with suppress(FileNotFoundError):  # as above
            while _look(path, None)[0]:
                time.sleep(_POLL_S)
        time.sleep(random.uniform(0, _POLL_S))


def _look(path: Path, mine: Path | None) -> tuple[bool, bool]:
    """True if others hold living claims; and True if a stale one from elsewhere was removed, which only a claimant does."""
    living = removed = False
    # Compared with the own claim, both times are the volume's, whose clock may differ from this machine's.
    now = time.time() if mine is None else mine.stat().st_mtime
    for other in _marks(path):
        if other == mine:
            continue
        if is_living(_owner(other), other, now):
            living = True
        elif mine is not None:
            removed |= not is_from_here(_owner(other))
            other.unlink(missing_ok=True)
    return living, removed


def _beat(mine: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):
            os.utime(mine)


def _new_mark(path: Path) -> Path:
    return path.with_name(f"{path.name}{_MARK}{new_owner()}")


def _marks(path: Path) -> list[Path]:
    return [other for other in path.parent.iterdir() if other.name.startswith(path.name + _MARK)]


def _owner(mark: Path) -> str:
    return mark.name.rpartition(_MARK)[2]


def _remove_stale(destination: Path) -> None:
    for root in _staged(destination.parent, f".{destination.name}{TEMPORARY_PREFIX}"):
        if (root / "old").is_dir() and not destination.exists():
            (root / "old").rename(destination)  # its process died between the two renames
        shutil.rmtree(root, ignore_errors=True)


def _staged(folder: Path, prefix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.name.startswith(prefix) and TEMPORARY_PREFIX in path.name[1:]]
