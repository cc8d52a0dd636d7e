"""The security checklist's items 9 and 13: API keys, and addresses that need one."""

from __future__ import annotations

import hmac
from pathlib import Path

import httpx
import pytest

from darkroom.base.sockets import is_loopback
from darkroom.cli.command import main
from darkroom.serve.guard import has_key
from tests.serve.stand import KEY, QUICK, Stand, basic, bearer, make_stand_in, stand


def serve(*options: str) -> int:
    return main(["serve", *options, "--port", "0"])


def code_of(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


def test_security_09_the_key_stands_in_no_log_answer_metric_or_argument(locked: Stand) -> None:
    answers = [
        locked.post("/render", {"request": {"prompt": "x", **QUICK}}, headers=bearer(KEY)),
        locked.post("/render", {"request": {"prompt": "bug"}}, headers=bearer(KEY)),
        locked.post("/render", b"{", headers=basic("me", KEY)),
        locked.get("/metrics", headers=bearer(KEY)),
        locked.get("/nowhere", headers=bearer(KEY)),
        locked.get("/metrics", headers=bearer(KEY + "x")),
        locked.get("/metrics", params={"api_key": KEY}),
    ]
    assert [answer.status_code for answer in answers] == [200, 500, 400, 200, 404, 401, 401]
    shown = [answer.text + str(answer.headers) for answer in answers]
    shown += [Path(f"/proc/{pid}/cmdline").read_text() for pid in (locked.process.pid, *locked.engine_pids)]
    assert not any(KEY in text for text in [*shown, locked.log])


def test_security_09_a_key_file_that_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_stand_in(tmp_path / "model")
    file = tmp_path / "key"
    file.write_text(KEY)
    monkeypatch.setenv("DARKROOM_API_KEY_FILE", str(file))
    for mode in (0o640, 0o604):
        file.chmod(mode)
        assert serve(str(tmp_path / "model")) == 2
        message = capsys.readouterr().err
        assert "chmod 600" in message
        assert KEY not in message


def test_security_09_a_private_key_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    with stand(tmp_path / "site", environment={"DARKROOM_API_KEY_FILE": str(file)}) as one:
        assert one.get("/metrics").status_code == 401
        assert one.get("/metrics", headers=bearer(KEY)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.example.org", "127.example.org", ""])
def test_security_13_non_loopback_without_key_refuses_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.delenv("DARKROOM_API_KEY", raising=False)
    make_stand_in(tmp_path / "model")
    assert serve(str(tmp_path / "model"), "--host", host) == 2
    message = capsys.readouterr().err
    assert message.startswith("E-CONFIG serve.host")
    assert "DARKROOM_API_KEY" in message


@pytest.mark.parametrize("key", ["", "short", "seven77", "with\nline", "käse und brot"])
def test_security_13_a_key_that_is_easy_to_guess_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("DARKROOM_API_KEY", key)
    make_stand_in(tmp_path / "model")
    assert serve(str(tmp_path / "model")) == 2
    message = capsys.readouterr().err
    assert "openssl rand" in message
    assert key == "" or key not in message


def test_security_13_cve_2025_63389_all_that_makes_or_changes_anything_asks_for_the_key(locked: Stand) -> None:
    document = locked.get("/openapi.json").json()
    closed = {"/render", "/metrics", "/v1/models", "/sdapi/v1/options", "/sdapi/v1/interrupt", "/options.json"}
    for path, methods in document["paths"].items():
        for method in methods:
            answer = httpx.request(method, locked.url + path, timeout=60)
            if path in ("/healthz", "/readyz", "/pictures/{name}.{suffix}"):
                assert answer.status_code in (200, 404)
            else:
                assert (answer.status_code, code_of(answer)) == (401, "E-AUTH"), path
                assert answer.headers["www-authenticate"] == "Bearer, Basic"
                closed.discard(path)
    assert not closed


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEY[:-1]),
        bearer(KEY + "x"),
        bearer(KEY.upper()),
        {"authorization": "Bearer"},
        {"authorization": KEY},
        {"authorization": f"Token {KEY}"},
        basic(KEY, ""),
        basic("me", KEY[:-1]),
        {"authorization": "Basic !!!"},
        {"x-api-key": KEY},
    ],
)
def test_security_13_a_wrong_key_is_refused(locked: Stand, headers: dict[str, str]) -> None:
    assert locked.get("/metrics", headers=headers).status_code == 401


@pytest.mark.parametrize("headers", [bearer(KEY), {"authorization": f"bearer {KEY}"}, basic("", KEY), basic("a", KEY)])
def test_security_13_the_right_key_is_taken(locked: Stand, headers: dict[str, str]) -> None:
    assert locked.get("/metrics", headers=headers).status_code == 200


def test_security_13_a_second_authorization_is_refused(locked: Stand) -> None:
    lines = [f"Host: {locked.host}", f"Authorization: Bearer {KEY}", "Authorization: Bearer wrong-key"]
    for chosen in (lines, [lines[0], *lines[:0:-1]]):
        assert b" 400 " in locked.send(("\r\n".join(["GET /metrics HTTP/1.1", *chosen]) + "\r\n\r\n").encode())[:20]


def test_security_13_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: bool(compared.append((a, b))))
    assert has_key(f"Bearer {KEY}", "another key") is False
    assert has_key(basic("me", KEY)["authorization"], "another key") is False
    assert compared == [(KEY.encode(), b"another key")] * 2


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "127.evil.example", "localhost.evil.example", "")),
    ],
)
def test_security_13_what_is_loopback(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local
