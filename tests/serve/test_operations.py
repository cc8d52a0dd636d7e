"""What operators see: engines that hang, floods of connections, uploads held open, the access log, ids of requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serve.stand import KEY, Stand, bearer, read_all, stand
from tests.unit.warm.bench import wait_until

IMPATIENT = {"timeout_s": 5, "cancel_timeout_s": 5}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A server with a log of JSON, few connections and descriptors, and little room for uploads."""
    settings = {"max_connections": 24, "max_upload_bytes": 10_000, "max_body_bytes": 8_000}
    with stand(tmp_path_factory.mktemp("busy"), "--log-format", "json", descriptors=128, **settings) as one:
        assert one.get("/readyz").status_code == 200
        yield one


def lines(one: Stand) -> list[dict[str, Any]]:
    return [json.loads(line) for line in one.log.splitlines()]


def line_of(one: Stand, id: str) -> dict[str, Any]:
    """The line of an answer, which is written once all of it has been sent."""
    for _ in range(500):
        for line in lines(one):
            if line.get("request_id") == id and "status" in line:
                return line
        time.sleep(0.01)
    raise AssertionError(one.log)


def test_an_engine_that_hangs_is_started_again_and_readiness_tells_it(tmp_path: Path) -> None:
    with stand(tmp_path, **IMPATIENT) as one:
        ready = one.get("/readyz").json()
        assert ready["engines"] == [{"device": "auto", "state": "idle", "models": ["fake"]}]
        os.kill(one.engine_pids[0], signal.SIGSTOP)
        assert one.render("x").status_code == 504
        wait_until(lambda: one.get("/readyz").status_code == 503, "readiness tells it")
        wait_until(lambda: one.get("/readyz").status_code == 200, "it is back")
        wait_until(lambda: one.render("y").status_code == 200, "a picture in time")
        assert one.metric("darkroom_engine_restarts_total") >= 1
        assert "did not stop a picture within 5 s, and was killed" in one.log


def test_a_flood_of_idle_connections_is_logged_once_and_harms_nobody(busy: Stand) -> None:
    before = len(busy.log)
    with ExitStack() as stack, suppress(OSError):
        for _ in range(200):
            stack.enter_context(socket.create_connection(busy.address, timeout=5))
        wait_until(lambda: "24 connections are open" in busy.log, "the flood is told")
        answer = busy.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer == b"" or b" 503 " in answer.partition(b"\r\n")[0]
    wait_until(lambda: is_alive(busy), "an answer after the flood")
    assert busy.render().status_code == 200
    assert busy.log.count("24 connections are open") == 1
    assert len(busy.log) - before < 20_000
    assert len(busy.engine_pids) == 1


def is_alive(one: Stand) -> bool:
    with suppress(Exception):
        return one.get("/healthz").status_code == 200
    return False


def test_a_connection_over_the_limit_is_told_so(busy: Stand) -> None:
    with ExitStack() as stack:
        for _ in range(24):
            stack.enter_context(busy.connect())
        answer = busy.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 503 " in head.partition(b"\r\n")[0]
    assert b"retry-after" in head.lower()
    assert json.loads(body)["error"]["code"] == "E-BUSY"


def test_uploads_that_are_held_open_have_a_limit_together(busy: Stand) -> None:
    wait_until(lambda: is_alive(busy), "an answer")
    start = f"POST /render HTTP/1.1\r\nHost: {busy.host}\r\nContent-Length: 8000\r\n\r\n".encode()
    with ExitStack() as stack:
        held = stack.enter_context(busy.connect())
        held.sendall(start + b"x" * 7000)
        answer = b""
        while b" 503 " not in answer.partition(b"\r\n")[0]:  # the first one's bytes may still be under way
            with busy.connect() as other:
                other.sendall(start + b"x" * 7000)
                other.settimeout(1)
                with suppress(TimeoutError):
                    answer = read_all(other)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "E-BUSY"
        held.sendall(b"x" * 1000)
        assert b" 422 " in held.recv(100)
    assert busy.render().status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/openapi.json", "/v1/models"])
def test_head_gets_the_head_of_get(busy: Stand, path: str) -> None:
    head, got = busy.ask("HEAD", path), busy.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["content-type"] == got.headers["content-type"]


def test_head_of_a_picture_behind_a_link(busy: Stand) -> None:
    body = {"prompt": "x", "size": "64x64", "response_format": "url"}
    link = busy.post("/v1/images/generations", body).json()["data"][0]["url"]
    path = link.removeprefix(busy.url)
    head = busy.ask("HEAD", path)
    assert (head.status_code, head.headers["content-type"]) == (200, "image/png")
    assert head.headers["content-length"] == str(len(busy.get(path).content))
    assert busy.ask("HEAD", "/pictures/none.png").status_code == 404


NO_HTTP = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a bad header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
    "a long head": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx: " + b"x" * 300_000 + b"\r\n\r\n",
    "no route": b"GET /no/such HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "no file": b"GET /page/none.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "no JSON": b"POST /render HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
    "another host": b"GET /healthz HTTP/1.1\r\nHost: x.example\r\n\r\n",
}


@pytest.mark.parametrize("kind", NO_HTTP)
def test_every_error_has_its_shape_and_an_id_that_the_log_has(busy: Stand, kind: str) -> None:
    head, _, body = busy.send(NO_HTTP[kind]).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().lower().splitlines()[1:])
    error = json.loads(body)["error"]
    assert set(error) == {"code", "what", "value", "why", "hint", "message", "type", "param"}
    line = line_of(busy, headers["x-request-id"])
    assert (line["status"], line["code"]) == (int(head.split()[1]), error["code"])


def test_the_log_has_a_line_for_each_answer_without_prompts_or_keys(tmp_path: Path) -> None:
    with stand(tmp_path, "--log-format", "json", environment={"DARKROOM_API_KEY": KEY}) as one:
        body = {"request": {"prompt": "a canary sings", "steps": 0, "width": 64, "height": 64}}
        refused = one.post("/render", body, headers={**bearer(KEY), "x-request-id": "mine-1"})
        assert (refused.status_code, refused.headers["x-request-id"]) == (422, "mine-1")
        line = line_of(one, "mine-1")
        assert {key: line[key] for key in ("method", "path", "status", "code", "client")} == {
            "method": "POST",
            "path": "/render",
            "status": 422,
            "code": "E-REQUEST",
            "client": "127.0.0.1",
        }
        assert line["ms"] > 0
        unknown = one.get(f"/v1/models?key={KEY}", headers=bearer("wrong key"))
        assert line_of(one, unknown.headers["x-request-id"])["code"] == "E-AUTH"
        body["request"]["steps"] = 2
        for prompt in ("a canary sings", "bug"):
            body["request"]["prompt"] = prompt
            answer = one.post("/render", body, headers=bearer(KEY))
        assert line_of(one, answer.headers["x-request-id"])["code"] == "E-DARKROOM"
        events = one.post("/render", body, headers={**bearer(KEY), "accept": "text/event-stream"})
        assert line_of(one, events.headers["x-request-id"])["code"] == "E-DARKROOM"
        assert "ZeroDivisionError: a mistake" in one.log
        assert "canary" not in one.log
        assert all(line["time"] and line["level"] for line in lines(one))
