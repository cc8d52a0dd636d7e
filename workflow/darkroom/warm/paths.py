"""The paths of a warm engine's socket, locks and log, whether they can be trusted, and dead sockets. Standard library only.

The runtime folder is `$XDG_RUNTIME_DIR/darkroom`, else `/tmp/darkroom-UID`: mode 0700, owned by this user, no link. It is
on a local disk on purpose: other nodes can see a socket on a network file system, but not use it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from darkroom import __version__
from darkroom.errors import ModelError, SocketError
from darkroom.revisions import RENDER

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path holds 108 bytes with its NUL (unix(7))
BACKLOG = 1024
"""How many clients may wait for a server to accept them."""
_KEY_DIGITS = 16
_LONGEST_NAME_BYTES = _KEY_DIGITS + len(".sock.new")
# These decide which device an engine sees and how long it may live: of two cluster jobs of one user on one node, each
# needs its own engine, on its own GPU, that ends with its own allocation.
_ALLOCATION_VARIABLES = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")

THREADS = "DARKROOM_THREADS"
"""The OMP_NUM_THREADS of the shell that a run was started in, which Snakemake replaces by each job's threads."""


class ServerFiles:
    """The files of one engine: its socket, log and two locks, which the server holds as long as it lives.

    The life lock is taken by the server. The start lock is taken by the client that starts it, and passes to it.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    @property
    def life_lock(self) -> Path:
        return self.socket.with_suffix(".lock")

    @property
    def start_lock(self) -> Path:
        return self.socket.with_suffix(".start")

    @property
    def log(self) -> Path:
        return self.socket.with_suffix(".log")


def server_files(key: str) -> ServerFiles:
    """The files of the engine with that key, in the runtime folder; raises SocketError (E-SOCKET)."""
    return ServerFiles(runtime_folder() / f"{key}.sock")


def runtime_folder() -> Path:
    """The private folder for sockets, made if it is missing. Raises SocketError (E-SOCKET) if it isn't only ours."""
    folder = _choose_folder()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise SocketError("runtime folder", folder, error.strerror or "can't be made", "set XDG_RUNTIME_DIR") from None
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise SocketError("runtime folder", folder, "is a link or a file, not a folder", "remove it")
    if status.st_uid != os.geteuid():
        raise foreign(folder, status.st_uid)
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def foreign(path: Path, uid: int) -> SocketError:
    """The error for something that belongs to another user."""
    why = f"belongs to {_user(uid)} and not to you, so nothing is sent to it"
    return SocketError("engine socket", path, why, "set XDG_RUNTIME_DIR to a folder of your own")


def server_key(
    model_dir: Path, verified: Path | None, device: str, dtype: str, memory: str, compile: str = "off", slot: int = 0
) -> str:
    """A short name for an engine's model and options: jobs with the same key share one engine.

    The content of the verified receipt is part of it, so that a rebuilt model gets a new engine. Raises ModelError
    (E-MODEL) if the receipt can't be read.
    """
    receipt = b""
    if verified is not None:
        try:
            receipt = verified.read_bytes()
        except OSError as error:
            why = f"Diffusers format missing: {error.strerror}"
            raise ModelError("verified receipt", verified, why, "run snakemake again") from None
    parts = [
        os.path.realpath(model_dir),
        hashlib.sha256(receipt).hexdigest(),
        *(device, dtype, memory, compile, slot, os.environ.get(THREADS) or None),
        *(__version__, RENDER),
        *_allocation(),
    ]
    return _digest(parts)


def slot_file(lease: str | None, device: str, copy: int) -> Path:
    """The file in which a run notes its engine on a device; `copy` counts devices of the same name."""
    scope = lease.replace(":", "-") if lease else "none"
    return runtime_folder() / f"{scope}-{_digest([device, copy, *_allocation()])}.slot"


def _allocation() -> list[str | None]:
    return [os.environ.get(name) for name in _ALLOCATION_VARIABLES]


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_DIGITS]


def _choose_folder() -> Path:
    """The folder in XDG_RUNTIME_DIR if usable; a cluster job may have inherited one that this node doesn't have."""
    fallback = Path(f"/tmp/darkroom-{os.geteuid()}")
    base = os.environ.get("XDG_RUNTIME_DIR")
    if not base or not Path(base).is_absolute() or not os.access(base, os.W_OK | os.X_OK):
        return fallback
    folder = Path(base) / "darkroom"
    fits = len(os.fsencode(folder)) + 1 + _LONGEST_NAME_BYTES <= MAX_SOCKET_PATH_BYTES
    return folder if fits else fallback


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def remove_dead_sockets() -> None:
    """Remove the sockets of all servers that have ended: those with a free life lock."""
    with suppress(SocketError, OSError):
        for lock in list(runtime_folder().glob("*.lock")):
            files = ServerFiles(lock.with_suffix(".sock"))
            with lock.open() as handle, suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # While this lock is held, no server can start to listen there.
                files.socket.unlink(missing_ok=True)
                files.socket.with_name(files.socket.name + ".new").unlink(missing_ok=True)
