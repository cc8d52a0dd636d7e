"""What a warm engine's server makes of clients that aren't the render client, or that go wrong in the middle."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

import pytest

from darkroom.errors import DarkroomError
from darkroom.serve.channel import Channel
from darkroom.serve.frames import MAX_FILES_BYTES, Message, pack
from darkroom.warm.frame_server import MAX_MESSAGE_BYTES
from tests.unit.warm.bench import LIMIT_S, Bench

HELLO = {"op": "hello", "lease": None}
RENDER = {"op": "render", "stages_done": 0, "keep_latents": False, "latents_at": []}
NONSENSE = {
    "an HTTP request": b"GET /readyz HTTP/1.1\r\nhost: darkroom\r\n\r\n",
    "no JSON": struct.pack(">II", 3, 0) + b"{[}",
    "no object": struct.pack(">II", 2, 0) + b"[]",
    "an unknown operation": pack({"op": "shut down"}),
    "no operation": pack({}),
    "a request that is a list": pack({**RENDER, "request": []}),
    "a lease that is a number": pack({"op": "hello", "lease": 1}),
    "a number of stages that is none": pack({**RENDER, "request": {}, "stages_done": "1"}),
    "files that don't fit their names": pack({**RENDER, "request": {}, "files": [["before", 2]]}, b"x"),
    "files without names": pack({**RENDER, "request": {}}, b"x"),
    "more bytes of pictures than there may be": struct.pack(">II", 2, MAX_FILES_BYTES + 1),
    "a long message": struct.pack(">II", MAX_MESSAGE_BYTES + 1, 0),
    "a payload that nothing asked for": pack(HELLO, b"x"),
    "files that nothing asked for": pack({**HELLO, "files": [["before", 1]]}, b"x"),
    "two frames at once": pack({**RENDER, "request": {"prompt": "slow", "width": 64, "height": 64}}) + pack(HELLO),
}


def connect(bench: Bench) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT_S)
    connection.connect(str(bench.files.socket))
    return connection


def ask(connection: Channel, message: Message) -> Message:
    connection.send(message)
    frame = connection.receive()
    assert frame is not None
    return frame[0]


def test_nonsense_closes_its_connection_and_costs_nothing_else(bench: Bench) -> None:
    bench.render()
    with Channel(connect(bench)) as other:
        assert ask(other, HELLO) == {"event": "ready", "loads": []}
        for what, data in NONSENSE.items():
            with connect(bench) as connection:
                connection.sendall(data)
                assert connection.recv(1) == b"", what
        assert ask(other, HELLO) == {"event": "ready", "loads": []}
    bench.render("next")
    assert bench.noted("finished") == ["x", "next"]
    assert len(bench.pids) == 1
    assert "a client was disconnected: it sent" in bench.files.log.read_text()


def test_a_connection_can_be_used_again_after_an_error(bench: Bench) -> None:
    bench.render()
    with Channel(connect(bench)) as connection:
        for settings, code in (({"prompt": "x", "steps": 0}, "E-REQUEST"), ({"promt": "x"}, "E-REQUEST")):
            answer = ask(connection, {**RENDER, "request": settings})
            assert DarkroomError.from_dict(answer["error"]).code == code
        connection.send({**RENDER, "request": {"prompt": "y", "width": 64, "height": 64}})
        frame = connection.receive()
        assert frame is not None
        assert frame[0]["event"] == "picture"
        assert frame[1].startswith(b"\x89PNG")


def test_a_release_says_whether_the_engine_ends(bench: Bench) -> None:
    bench.render()
    with Channel(connect(bench)) as connection:
        assert ask(connection, {"op": "release", "lease": "1:1"}) == {"event": "released", "ends": False}
        lease = os.environ["DARKROOM_LEASE"]
        assert ask(connection, {"op": "release", "lease": lease}) == {"event": "released", "ends": True}
        frame = connection.receive()  # the client might have sent its next request at the same moment
        assert frame is not None
        assert DarkroomError.from_dict(frame[0]["error"]).code == "E-BUSY"
        assert connection.receive() is None
    bench.wait_for_end(bench.pids[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_is_disconnected(bench: Bench) -> None:
    bench.render()
    path = bench.files.socket
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(float(sys.argv[2]))\n"
        "os.seteuid(12345); s.connect(sys.argv[1])\n"
        "print(s.recv(100))"
    )
    for each in (bench.runtime, path.parent, path):
        each.chmod(0o777)
    done = subprocess.run([sys.executable, "-c", script, str(path), str(LIMIT_S)], capture_output=True, text=True)
    assert done.stdout == "b''\n", done.stderr
    bench.render("next")
    assert len(bench.pids) == 1
