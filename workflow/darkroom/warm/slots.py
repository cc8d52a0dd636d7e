"""A run's devices, and the choice of one for a picture: one engine of the run at a time on each. Standard library only.

Each device of a run has files in the runtime folder: `.slot` holds the key of the run's engine there, `.lost` the error by which
the run has lost the device, `.told` stands once a client has said what machine it is, and each client of that engine has a seat, a
locked file (flock: the folder is on a local disk, and a lock ends with its holder's process).
A client that replaces the engine takes all seats first, so that no other client uses it. Choices are made one at a time,
under another lock that is held for microseconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from darkroom.base.processes import is_alive
from darkroom.errors import ConfigError, DarkroomError, ServerError
from darkroom.warm.connection import Connection, ConnectionLost
from darkroom.warm.paths import THREADS, ServerFiles, runtime_folder, server_files, slot_file

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREAD_VARIABLES = (
    *(f"{library}_NUM_THREADS" for library in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")),
    "VECLIB_MAXIMUM_THREADS",
)
"""What Snakemake sets to a job's threads for its command, and the engine that the command starts."""
AT_ONCE = 2
"""How many clients an engine has at once if there are several: one picture is encoded while the next is rendered."""
_CUDA = "cuda:"
_PAUSE_S = 0.02


class NoFreeSlot(Exception):
    """All devices were busy until the deadline."""


class Device:
    """A device by its name in the configuration; `copy` counts earlier devices of the same name.

    An engine for `cuda:N` only sees that GPU, as its first: `seen_as` is the engine's name for the device, `visible` the
    value of CUDA_VISIBLE_DEVICES for the engine, or None where it stays as it is.
    """

    def __init__(self, name: str, copy: int, seen_as: str, visible: str | None = None) -> None:
        self.name = name
        self.copy = copy
        self.seen_as = seen_as
        self.visible = visible

    @property
    def environment(self) -> dict[str, str] | None:
        """The environment for the device's engine, or None for this process's own.

        A run's number of threads takes the place of the job's: which job starts the engine must not change a picture.
        """
        changes = {} if self.visible is None else {VISIBLE: self.visible}
        if threads := os.environ.get(THREADS):
            changes |= dict.fromkeys(THREAD_VARIABLES, threads)
        return {**os.environ, **changes} if changes else None


def make_devices(names: Sequence[str]) -> list[Device]:
    """The devices of these names. Raises ConfigError (E-CONFIG) for a GPU that this process may not use."""
    return [_make_device(name, names[:place].count(name)) for place, name in enumerate(names)]


def _make_device(name: str, copy: int) -> Device:
    if not name.startswith(_CUDA):
        return Device(name, copy, name)
    number = int(name.removeprefix(_CUDA))
    given = os.environ.get(VISIBLE)
    if given is None:
        return Device(name, copy, f"{_CUDA}0", str(number))
    # Numbers count within what this process may use, as everywhere in CUDA; the variable may also hold UUIDs.
    # What isn't a GPU ends the list, and of a list that names one twice CUDA uses none.
    names = [each.strip() for each in given.split(",")]
    usable = list(takewhile(lambda each: each not in ("", "-1"), names))
    if len(set(usable)) < len(usable):
        raise ConfigError("engine device", name, f"{VISIBLE} is '{given}', which names a GPU twice", "name each once")
    if number >= len(usable):
        raise ConfigError("engine device", name, f"{VISIBLE} is '{given}'", "name fewer devices, or set it otherwise")
    return Device(name, copy, f"{_CUDA}0", usable[number])


class Slot:
    """A device, the engine that this client needs there, and the client's seats.

    If the run has only one device, its engine takes any number of clients and queues their pictures.
    """

    def __init__(self, device: Device, key: str, lease: str | None, *, is_only: bool) -> None:
        self.device = device
        self.files = server_files(key)
        self.title = "engine for" if is_only else f"engine on {device.name} for"
        self.taken_at = 0.0
        self._key = key
        self._file = slot_file(lease, device.name, device.copy)
        self._seats = [self._file.with_suffix(f".seat{number}") for number in range(1 if is_only else AT_ONCE)]
        self._how = fcntl.LOCK_SH if is_only else fcntl.LOCK_EX
        self._held: list[int] = []
        self._lost = self._file.with_suffix(".lost") if lease and not is_only else None
        self._told = self._file.with_suffix(".told")

    @property
    def lost_by(self) -> DarkroomError | None:
        """The error by which the run has lost this device, one of several; None if it hasn't."""
        try:
            return None if self._lost is None else DarkroomError.from_dict(json.loads(self._lost.read_bytes()))
        except (FileNotFoundError, ValueError):
            return None

    def lose(self, error: DarkroomError) -> None:
        """Have the run leave this device alone from now on: each picture that came to it would fail."""
        if self._lost is not None:
            self._lost.write_text(json.dumps(error.as_dict()), encoding="utf-8")

    @property
    def key(self) -> str | None:
        """The key of the run's last engine on this device; None if it had none yet."""
        try:
            return self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    @property
    def has_wanted(self) -> bool:
        """Whether the run's engine on this device is the one this client needs, running or not."""
        return self.key == self._key

    @property
    def is_empty(self) -> bool:
        """Whether no engine of the run is running on this device."""
        key = self.key
        return not (key and is_running(server_files(key)))

    def tells(self) -> bool:
        """Whether this client is the run's first to ask: it tells of the machine, whose engine it has started."""
        try:
            self._told.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            return False
        return True

    def use(self, number: int) -> bool:
        """Take one seat at the device's engine, if it is free."""
        return number < len(self._seats) and self._lock(self._seats[number], self._how)

    def clear(self) -> bool:
        """Take all seats, if all are free."""
        if all(self._lock(seat, fcntl.LOCK_EX) for seat in self._seats):
            return True
        self.leave()
        return False

    def settle(self) -> None:
        """After `clear`: note the new engine, and give up all seats but one."""
        with _choosing():
            self._file.write_text(self._key, encoding="ascii")
            fcntl.flock(self._held[0], self._how)
            for handle in self._held[1:]:
                os.close(handle)
            del self._held[1:]

    def leave(self) -> None:
        """Give up all seats."""
        for handle in self._held:
            os.close(handle)
        self._held = []

    def _lock(self, path: Path, how: int) -> bool:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._held.append(handle)
        return True


@contextmanager
def take_slot(
    slots: Sequence[Slot], lease: str | None, deadline: float, end_timeout_s: float, check: Callable[[], None]
) -> Iterator[Slot]:
    """A slot with no other engine of the run on its device, for the length of the block.

    Waits until `deadline` (time.monotonic) for a free one, calling `check` meanwhile; then up to `end_timeout_s` seconds
    for another engine on the device to end. Raises NoFreeSlot, ServerError (E-SERVER) if that engine doesn't end, and the
    errors of `check`.
    """
    while (slot := choose(slots)) is None:
        check()
        if time.monotonic() > deadline:
            raise NoFreeSlot
        time.sleep(_PAUSE_S)
    slot.taken_at = time.monotonic()
    try:
        if not slot.has_wanted:
            if key := slot.key:
                end_engine(slot.device, server_files(key), lease, end_timeout_s)
            slot.settle()
        yield slot
    finally:
        slot.leave()


def choose(slots: Sequence[Slot]) -> Slot | None:
    """The best of these slots, with a seat taken, or None while all are busy.

    In order of preference: the engine runs there and is idle; no engine runs there; another engine is idle there and has
    to end; the engine runs there with a single client.
    """
    with _choosing():
        if slots[0].key is None:
            _forget_ended_runs()
        mine = [slot for slot in slots if slot.has_wanted]
        others = [slot for slot in slots if slot not in mine]
        if len(slots) > 1:
            mine.sort(key=lambda slot: slot.is_empty)
            others.sort(key=lambda slot: not slot.is_empty)
        for slot in mine:
            if slot.use(0):
                return slot
        for slot in others:
            if slot.clear():
                return slot
        return next((slot for slot in mine if slot.use(1)), None)


def end_engine(device: Device, files: ServerFiles, lease: str | None, timeout_s: float) -> None:
    """Release an engine that this run no longer needs, and wait for its end, unless it works for another run too.

    It finishes pictures of other clients first. Raises ServerError (E-SERVER) if it hasn't ended in time.
    """
    deadline = time.monotonic() + timeout_s
    pid = None
    try:
        if connection := Connection.open(files.socket, timeout_s=timeout_s):
            pid = connection.server_pid
            with connection:
                answer, _ = connection.ask({"op": "release", "lease": lease}, timeout_s=timeout_s)
            if answer.get("ends") is False:
                return
    except ConnectionLost:
        pass  # it is ending
    except TimeoutError:
        deadline = 0
    while is_running(files):
        if time.monotonic() > deadline:
            why = f"did not end within {timeout_s:g} s, though another model needs its device"
            raise ServerError("engine on", device.name, why, f"end process {pid} if it hangs" if pid else "try again")
        time.sleep(_PAUSE_S)


def is_running(files: ServerFiles) -> bool:
    """Whether that server runs or is being started."""
    try:
        handle = os.open(files.start_lock, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def _choosing() -> Iterator[None]:
    handle = os.open(runtime_folder() / "slots.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _forget_ended_runs() -> None:
    """Delete the files of runs that have ended; their names begin with the leases."""
    for path in runtime_folder().iterdir():
        pid, start, *_ = [*path.stem.split("-"), ""]
        if (
            path.suffix.startswith((".slot", ".seat", ".lost", ".told"))
            and pid.isdecimal()
            and not is_alive(f"{pid}:{start}")
        ):
            path.unlink(missing_ok=True)
