"""Fault 41: requests that are too large, too slow, malformed or ask for too much. The server refuses them and lives on."""

from __future__ import annotations

import base64
import json
import resource
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serve.stand import Stand, read_all, stand
from tests.unit.warm.bench import LIMIT_S

MIB = 2**20
ROOM = 48 * MIB
"""How much memory an attack may cost the server; without limits each of them takes hundreds of megabytes."""
BODY = b'{"request": {"prompt": "x", "width": 64, "height": 64, "steps": 2}}'


@pytest.fixture(autouse=True)
def lives_on(fake: Stand) -> Iterator[None]:
    """After each attack the server answers, and it hasn't taken much memory."""
    fake.render()
    before, renders = fake.peak_bytes, len(fake.noted("renders"))
    yield
    assert fake.get("/healthz").status_code == 200
    assert fake.peak_bytes < before + ROOM
    assert len(fake.noted("renders")) == renders
    assert fake.render().status_code == 200


def head(fake: Stand, *lines: str, route: str = "POST /render") -> bytes:
    fixed = (f"{route} HTTP/1.1", f"Host: {fake.host}", "Content-Type: application/json")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return found


def pour(connection: socket.socket, block: bytes, most: int) -> int:
    """Send a block again and again until the other side has had enough; how many bytes it took."""
    sent = 0
    with suppress(ConnectionError):
        while sent < most:
            connection.sendall(block)
            sent += len(block)
    return sent


def test_a_body_of_a_gigabyte_is_refused_by_its_length(fake: Stand) -> None:
    with fake.connect() as connection:
        connection.sendall(head(fake, f"Content-Length: {10**9}"))
        sent = pour(connection, b"x" * MIB, 10**9)
        answer = read_all(connection)
    assert status_of(answer) == 413
    error = error_of(answer)
    assert (error["code"], error["value"]) == ("E-LIMIT", str(10**9))
    assert sent < 64 * MIB  # what the kernel's buffers hold


def test_a_body_of_a_gigabyte_in_chunks_is_refused_when_it_gets_too_long(fake: Stand) -> None:
    with fake.connect() as connection:
        connection.sendall(head(fake, "Transfer-Encoding: chunked"))
        sent = pour(connection, b"100000\r\n" + b"x" * MIB + b"\r\n", 10**9)
        answer = read_all(connection)
    assert status_of(answer) == 413
    assert sent < 64 * MIB


def test_a_body_that_is_a_little_too_long_is_told_so(fake: Stand) -> None:
    answer = fake.post("/v1/images/generations", b'{"prompt": "' + b"x" * 3 * MIB + b'"}')
    assert answer.status_code == 413
    assert "2,097,152 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs"])
def test_what_anybody_may_ask_for_takes_no_body(fake: Stand, path: str) -> None:
    assert status_of(fake.send(head(fake, "Content-Length: 5", route=f"GET {path}") + b"hello")) == 413


def test_heads_that_never_end_are_given_up_all_at_once(fake: Stand) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(fake.connect()) for _ in range(50)]
        waiting = set(slow)
        for connection in slow:
            connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {fake.host}\r\n".encode())
        deadline = time.monotonic() + LIMIT_S
        while waiting and time.monotonic() < deadline:  # a byte now and then, as "slow loris" sends them
            answered, _, _ = select.select(list(waiting), [], [], 0.1)
            waiting -= set(answered)
            for connection in waiting:
                with suppress(ConnectionError):
                    connection.send(b"X: y\r\n")
            assert fake.get("/healthz").status_code == 200
        assert {status_of(read_all(connection)) for connection in slow} == {408}


def test_a_further_head_on_a_kept_connection_has_to_come_in_time_too(fake: Stand) -> None:
    with fake.connect() as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {fake.host}\r\n\r\nGET /healthz HTTP/1.1\r\n".encode())
        deadline = time.monotonic() + LIMIT_S
        answer = b""
        while (b" 408 " not in answer) and time.monotonic() < deadline:
            if select.select([connection], [], [], 0.1)[0]:
                answer += connection.recv(MIB)
            with suppress(ConnectionError):
                connection.send(b"X: y\r\n")
    assert answer.count(b"HTTP/1.1 ") == 2


def test_a_body_that_never_ends_is_given_up(fake: Stand) -> None:
    answer = fake.send(head(fake, "Content-Length: 100") + b"{")
    assert status_of(answer) == 408
    assert error_of(answer)["hint"] == "send it at once"


def test_many_idle_connections_are_closed_after_a_while(tmp_path: Path) -> None:
    with stand(tmp_path, read_timeout_s=1) as one, ExitStack() as stack:
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (100, 100))
        idle = [stack.enter_context(one.connect()) for _ in range(200)]
        assert one.get("/healthz").status_code == 200
        for connection in idle:
            assert read_all(connection)[9:12] in (b"408", b"")


MALFORMED: dict[str, tuple[list[str], bytes]] = {
    "two ways to tell the length": (["Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    "two lengths": (["Content-Length: 67", "Content-Length: 5"], BODY),
    "a length with a sign": (["Content-Length: +67"], BODY),
    "a length of many digits": (["Content-Length: " + "9" * 5000], b""),
    "another encoding": (["Transfer-Encoding: gzip, chunked"], b""),
    "an encoding that looks like chunked": (["Transfer-Encoding: xchunked"], b""),
    "a chunk's size that is no number": (["Transfer-Encoding: chunked"], b"xyz\r\n"),
    "a chunk's size below zero": (["Transfer-Encoding: chunked"], b"-5\r\n"),
    "a chunk's size beyond all bounds": (["Transfer-Encoding: chunked"], b"f" * 30 + b"\r\n"),
    "a chunk that is longer than it says": (["Transfer-Encoding: chunked"], b"1\r\nxyz\r\n0\r\n\r\n"),
    "a space before the colon": (["Content-Length : 5"], b"hello"),
    "two types": (["Content-Type: text/plain", f"Content-Length: {len(BODY)}"], BODY),
    "two hosts": (["Host: example.org", f"Content-Length: {len(BODY)}"], BODY),
    "100,000 headers": ([f"X-{number}: y" for number in range(100_000)], b""),
    "one header without end": (["X: " + "y" * 10**6], b""),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_head_that_can_be_read_in_two_ways_is_refused(fake: Stand, kind: str) -> None:
    lines, body = MALFORMED[kind]
    assert status_of(fake.send(head(fake, *lines) + body)) in (400, 431)


WRONG_JSON: dict[str, bytes] = {
    "nothing": b"",
    "cut": b"{",
    "no Unicode": b'{"request": {"prompt": "\xff"}}',
    "another encoding": BODY.decode().encode("utf-16"),
    "half a surrogate pair": b'{"request": {"prompt": "\\ud800"}}',
    "half a surrogate pair as a key": b'{"request": {"prompt": "x"}, "\\ud800": 1}',
    "no number": b'{"request": {"prompt": "x", "cfg_scale": NaN}}',
    "more digits than anybody reads": b'{"request": {"prompt": "x", "seed": ' + b"1" * 5000 + b"}}",
    "deep": b"[" * 100_000,
    "deep and whole": b'{"request": ' + b"[" * 500 + b"]" * 500 + b"}",
    "a million values": b'{"request": {"prompt": "x", "embeddings": [' + b"0," * 900_000 + b"0]}}",
    "a hundred thousand keys": json.dumps({"request": {str(number): 0 for number in range(100_000)}}).encode(),
}


@pytest.mark.parametrize("kind", WRONG_JSON)
@pytest.mark.parametrize("path", ["/render", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_what_is_no_proper_json_is_refused(fake: Stand, path: str, kind: str) -> None:
    answer = fake.post(path, WRONG_JSON[kind])
    assert answer.status_code in (400, 413, 422)
    assert answer.json()["error"]["code"] in ("E-REQUEST", "E-LIMIT")
    assert len(answer.content) < 10_000


ABSURD: dict[str, tuple[str, dict[str, Any]]] = {
    "width": ("/render", {"request": {"prompt": "x", "width": 10**6}}),
    "pixels": ("/render", {"request": {"prompt": "x", "width": 8192, "height": 8192}}),
    "steps": ("/render", {"request": {"prompt": "x", "steps": 10**9}}),
    "steps beyond the limit": ("/render", {"request": {"prompt": "x", "steps": 151}}),
    "seed": ("/render", {"request": {"prompt": "x", "seed": 10**4000}}),
    "LoRAs": ("/render", {"request": {"prompt": "x", "loras": [f"l{number}" for number in range(9)]}}),
    "LoRAs in tags": ("/render", {"request": {"prompt": "".join(f"<lora:l{number}>" for number in range(9))}}),
    "prompt": ("/render", {"request": {"prompt": "x" * 10**6}}),
    "name": ("/render", {"request": {"prompt": "x", "sampler": "x" * 10**6}}),
    "key": ("/render", {"request": {"prompt": "x", "x" * 10**6: 1}}),
    "n": ("/v1/images/generations", {"prompt": "x", "n": 10**9}),
    "size": ("/v1/images/generations", {"prompt": "x", "size": "99999x99999"}),
    "model": ("/v1/images/generations", {"prompt": "x", "model": "x" * 10**6}),
    "batches": ("/sdapi/v1/txt2img", {"prompt": "x", "batch_size": 10**9, "n_iter": 10**9}),
    "steps for A1111": ("/sdapi/v1/txt2img", {"prompt": "x", "steps": 10**9}),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_numbers_are_refused_in_a_short_answer(fake: Stand, kind: str) -> None:
    path, body = ABSURD[kind]
    answer = fake.post(path, json.dumps(body).encode())
    assert answer.status_code in (400, 404, 422)
    assert answer.json()["error"]["code"] in ("E-REQUEST", "E-LIMIT", "E-UNKNOWN")
    assert len(answer.content) < 10_000


def test_an_absurd_name_that_a1111_would_ignore_is_named_in_few_words(fake: Stand) -> None:
    logged = len(fake.log)
    assert fake.post("/sdapi/v1/options", {"x" * 10**6: 1}).status_code == 200
    assert len(fake.log) < logged + 10_000


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("bomb", ["pixels", "text", "texts"])
def test_a_png_that_unfolds_without_end_is_not_unfolded(fake: Stand, bomb: str) -> None:
    size, texts, length = {"pixels": (60_000, 1, MIB), "text": (8, 1, 400 * MIB), "texts": (8, 200, 3 * MIB)}[bomb]
    text = zlib.compress(b"x" * length, 9)
    chunks = [
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)),
        *(png_chunk(b"zTXt", b"text %d\0\0" % number + text) for number in range(texts)),
        png_chunk(b"IEND", b""),
    ]
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
    answer = fake.post("/sdapi/v1/png-info", {"image": png})
    assert answer.status_code == (200 if bomb == "pixels" else 422)


def test_what_follows_the_last_request_of_a_connection_is_no_request(fake: Stand) -> None:
    body = b'{"request": {"prompt": "x", "steps": 0}}'
    smuggled = head(fake, "Content-Length: 67") + BODY
    answer = fake.send(head(fake, f"Content-Length: {len(body)}", "Connection: close") + body + smuggled)
    assert answer.count(b"HTTP/1.1 ") <= 1
