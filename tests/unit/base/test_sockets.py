"""How much of a picture a socket takes before the other side reads it."""

from __future__ import annotations

import socket

from darkroom.base.sockets import send_pictures_whole


def taken(*, is_whole: bool) -> int:
    """The bytes that a socket takes of 4 MiB while nobody reads."""
    here, there = socket.socketpair()
    with here, there:
        if is_whole:
            send_pictures_whole(here, there)
        here.setblocking(False)
        return here.send(bytes(2**22))


def test_more_of_a_picture_is_sent_before_it_is_read() -> None:
    assert taken(is_whole=True) > 1.5 * taken(is_whole=False)
