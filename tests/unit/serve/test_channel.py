"""Frames between two processes: what is sent arrives, with its payload, and nothing else is taken for one."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

import pytest

from darkroom.serve.channel import Channel, receive
from darkroom.serve.frames import FrameError, Message, pack, pack_files, read_files

PICTURE = bytes(range(256)) * 1000


def receive_at_server(data: bytes, **limits: int) -> tuple[Message, bytes] | None:
    """What the event loop's end makes of these bytes."""

    async def within() -> tuple[Message, bytes] | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await receive(reader, **limits)

    return asyncio.run(within())


def receive_at_engine(data: bytes) -> tuple[Message, bytes] | None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel:
        with theirs:
            theirs.sendall(data)
        return channel.receive()


@pytest.mark.parametrize("payload", [b"", b"\x89PNG", PICTURE])
def test_a_message_and_its_payload_arrive_in_both_directions(payload: bytes) -> None:
    async def within() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with Channel(theirs) as engine:
            writer.write(pack({"op": "render", "id": 1}, payload))
            sent = await asyncio.to_thread(engine.receive)
            answering = asyncio.create_task(
                asyncio.to_thread(engine.send, {"event": "picture", "é": [1.5, None]}, payload)
            )
            answered = await receive(reader)
            await answering
        assert sent == ({"op": "render", "id": 1}, payload)
        assert answered == ({"event": "picture", "é": [1.5, None]}, payload)
        assert await receive(reader) is None
        writer.close()
        await writer.wait_closed()

    asyncio.run(within())


@pytest.mark.parametrize(
    "files",
    [{"before": PICTURE}, {"a" * 64: PICTURE, "before": b"", "é": b"\x89PNG"}, {}],
    ids=["one", "several", "none"],
)
def test_files_arrive_under_their_names_in_both_directions(files: dict[str, bytes]) -> None:
    async def within() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with Channel(theirs) as engine:
            for part in pack_files({"op": "render"}, files):
                writer.write(part)
            sent = await asyncio.to_thread(engine.receive)
            answering = asyncio.create_task(asyncio.to_thread(engine.send_files, {"event": "picture"}, files))
            answered = await receive(reader)
            await answering
        assert sent is not None and answered is not None
        assert (sent[0]["op"], answered[0]["event"]) == ("render", "picture")
        assert read_files(*sent) == read_files(*answered) == files
        writer.close()
        await writer.wait_closed()

    asyncio.run(within())


def test_a_single_file_is_not_copied() -> None:
    message, payload = {"files": [["picture", len(PICTURE)]]}, bytes(PICTURE)
    assert read_files(message, payload)["picture"] is payload
    assert pack_files({}, {"a": PICTURE, "b": PICTURE})[1:] == [PICTURE, PICTURE]
    assert pack_files({}, {"a": PICTURE})[1] is PICTURE


@pytest.mark.parametrize(
    "files",
    [
        None,
        {},
        "files",
        [["a", 2]],
        [["a", 4]],
        [["a", 3], ["b", 1]],
        [["a", 3], ["a", 0]],
        [["a", -1], ["b", 4]],
        [["a", 1.0], ["b", 2]],
        [["a", True], ["b", 2]],
        [[1, 3]],
        [["a"]],
        [["a", 3, 0]],
        [["a", 3]] + [[f"{n}", 0] for n in range(64)],
        [],
    ],
)
def test_a_payload_is_exactly_the_files_it_names(files: Any) -> None:
    with pytest.raises(FrameError, match="files"):
        read_files({"files": files}, b"abc")
    assert read_files({"files": [["a", 1], ["b", 2]]}, b"abc") == {"a": b"a", "b": b"bc"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"1", b"\xff", b"[" * 100_000])
def test_only_a_json_object_is_a_message(text: bytes) -> None:
    data = struct.pack(">II", len(text), 0) + text
    for take in (receive_at_server, receive_at_engine):
        with pytest.raises(FrameError):
            take(data[:200_000])


def test_a_frame_that_is_cut_short_is_none() -> None:
    data = pack({"op": "x"}, b"payload")
    for length in (0, 4, 8, 10, len(data) - 1):
        assert receive_at_server(data[:length]) is None


def test_a_frame_over_a_limit_is_refused_before_it_is_read() -> None:
    text = json.dumps({"op": "x"}, separators=(",", ":"))
    assert receive_at_server(pack({"op": "x"}, b"1234"), max_text=len(text), max_payload=4) is not None
    with pytest.raises(FrameError, match="10 bytes where 9 are allowed"):
        receive_at_server(struct.pack(">II", len(text), 0), max_text=9)
    with pytest.raises(FrameError, match="4 bytes where 3 are allowed"):
        receive_at_server(struct.pack(">II", len(text), 4), max_payload=3)
    for take in (receive_at_server, receive_at_engine):
        with pytest.raises(FrameError, match="4,294,967,295 bytes"):
            take(b"\xff" * 8)
