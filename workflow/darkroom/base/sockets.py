"""Unix sockets for a single user, and loopback addresses. Standard library only."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)
_SEND_BYTES = 2**22


def listen_privately(path: Path, backlog: int) -> socket.socket:
    """Listen on a new socket with mode 0600. Raises OSError if `path` exists, or the socket can't be made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(backlog)
    return listener


def send_pictures_whole(*connections: socket.socket) -> None:
    """Let the system hold a picture that is sent until the other side has read it (socket(7): SO_SNDBUF, up to `wmem_max`).

    With the usual 208 KiB the two sides take turns, and each turn waits for a processor.
    """
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)


def read_peer(connection: socket.socket) -> tuple[int, int] | None:
    """Process id and user id of the peer; None where the system can't tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _gid = _PEER_CREDENTIALS.unpack(data)
    return pid, uid


def is_own_peer(connection: socket.socket | None) -> bool:
    """True if the peer of a Unix socket is a process of our user or of root; True for any other socket."""
    if connection is None or connection.family != socket.AF_UNIX:
        return True
    peer = read_peer(connection)
    return peer is None or peer[1] in (os.geteuid(), 0)


def is_loopback(host: str) -> bool:
    """True if an address can be reached from this machine only."""
    import ipaddress  # here, since every picture would pay for it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
