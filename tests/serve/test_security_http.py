"""The security checklist's items about a server: sockets, hosts and origins, names, limits, and what errors tell."""

from __future__ import annotations

import os
import pickle
import re
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from darkroom.cli.command import main
from darkroom.config import ServeConfig
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.png import decode_png
from darkroom.serve.guard import Guard
from darkroom.serve.http import error_body
from tests.serve.stand import KEY, QUICK, SITE, Stand, bearer, make_stand_in, read_all, stand
from tests.unit.checkpoint.test_refused_files import Canary
from tests.unit.warm.bench import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def code_of(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


def serve(*options: str) -> int:
    return main(["serve", *options, "--port", "0"])


@pytest.fixture
def socket_folder(tmp_path: Path) -> Iterator[tuple[Stand, Path]]:
    """A server on a Unix socket, and the socket."""
    path = tmp_path / "s/darkroom.sock"
    with stand(tmp_path / "site", "--socket", str(path), is_address=False) as one:
        wait_until(path.is_socket, "the socket")
        yield one, path


def ask_by_socket(path: Path) -> bytes:
    """The answer; nothing while the socket is there and nobody listens yet."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            return b""
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read_all(connection)


def test_security_14_a_socket_is_private_and_goes_with_its_server(socket_folder: tuple[Stand, Path]) -> None:
    one, path = socket_folder
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    wait_until(lambda: ask_by_socket(path).endswith(b'{"status":"ok"}'), "an answer")
    one.process.terminate()
    assert one.wait_for_end() == 0
    assert not path.exists()


def test_security_14_a_folder_that_is_open_to_others_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_stand_in(tmp_path / "model")
    tmp_path.chmod(0o755)
    assert serve(str(tmp_path / "model"), "--socket", str(tmp_path / "x.sock")) == 2
    assert "chmod 700" in capsys.readouterr().err


@needs_root
def test_security_14_another_users_process_gets_no_answer(socket_folder: tuple[Stand, Path]) -> None:
    one, path = socket_folder
    wait_until(lambda: ask_by_socket(path), "an answer")
    for each in (path, *path.parents):
        if each != Path("/tmp") and each.is_relative_to("/tmp"):
            each.chmod(0o777)  # as if the file system did not keep others out
    script = (
        "import os, socket, sys; os.seteuid(12345)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "try: s.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(len(s.recv(100)))\n"
        "except ConnectionError: print(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert ask_by_socket(path)
    assert one.process.poll() is None


REBOUND = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "169.254.169.254",
    "0.0.0.0",
    "evil:80",
    "",
]


@pytest.mark.parametrize("host", REBOUND)
def test_security_15_dns_rebinding_a_host_of_another_name_is_refused(fake: Stand, host: str) -> None:
    port = fake.address[1]
    for name in (host, f"{host}:{port}"):
        answer = fake.get("/healthz", headers={"host": name})
        assert answer.status_code == 403
        assert code_of(answer) == "E-ORIGIN"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "localhost:1", "[::1]:8000"])
def test_security_15_this_machines_own_names_are_taken(fake: Stand, host: str) -> None:
    assert fake.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:3000", 403),
        ("http://127.0.0.1", 403),
        ("file://", 403),
        ("http://[", 403),
        ("http://HOST@evil.example", 403),
        ("chrome-extension://abcdef", 403),
        ("http://HOST", 200),
        ("HTTP://HOST", 200),
    ],
)
def test_security_15_pages_of_other_sites_can_use_nothing(fake: Stand, origin: str, status: int) -> None:
    body = {"request": {"prompt": "from a page", **QUICK}}
    answer = fake.post("/render", body, headers={"origin": origin.replace("HOST", fake.host)})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_security_15_an_allowed_page_can_use_it_and_read_errors(locked: Stand) -> None:
    wish = {"origin": SITE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = locked.ask("OPTIONS", "/render", headers=wish)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == SITE
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    body = {"request": {"prompt": "x", **QUICK}}
    for headers, status in ((bearer(KEY), 200), ({}, 401)):
        answer = locked.post("/render", body, headers={"origin": SITE, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SITE
    assert locked.ask("OPTIONS", "/render", headers={**wish, "origin": "https://evil.example"}).status_code == 400
    answer = locked.post("/render", body, headers={"origin": "https://evil.example", **bearer(KEY)})
    assert answer.status_code == 403


def test_security_15_hosts_by_configuration() -> None:
    public = ServeConfig(host="::1", allowed_hosts=["Studio.example"], public_url="https://pictures.example:8443/x")
    hosts = Guard.of_config(public, None).hosts
    assert hosts == {"127.0.0.1", "localhost", "[::1]", "studio.example", "pictures.example"}
    assert Guard.of_config(ServeConfig(host="0.0.0.0"), KEY).hosts is None
    assert Guard.of_config(ServeConfig(host="0.0.0.0", allowed_hosts=["a"]), KEY).hosts is not None


def test_security_16_cve_2025_6242_no_address_that_comes_with_a_request_is_opened(
    fake: Stand, canary: tuple[str, list[str]]
) -> None:
    url, songs = canary
    expected = {"/render": 422, "/v1/images/generations": 400, "/sdapi/v1/txt2img": 200, "/sdapi/v1/png-info": 422}
    for path, status in expected.items():
        answer = fake.post(path, {"prompt": "x", "request": {"image_url": url}, "image": url})
        assert answer.status_code == status
    assert songs == []


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "fake/../fake", "models/diffusers/fake", "\0"])
def test_security_17_requests_name_models_and_assets_and_never_paths(fake: Stand, name: str) -> None:
    before = len(fake.noted("renders"))
    answers = [
        fake.post("/render", {"request": {"prompt": "x"}, "model": name}),
        fake.post("/render", {"request": {"prompt": "x", "vae": name}}),
        fake.post("/render", {"request": {"prompt": "x", "loras": [name]}}),
        fake.post("/v1/images/generations", {"prompt": "x", "model": name}),
        fake.post("/sdapi/v1/options", {"sd_model_checkpoint": name}),
        fake.get(f"/v1/models/{name.replace('/', '%2F').replace(chr(0), '%00')}"),
        fake.get(f"/pictures/{name.replace('/', '%2F').replace(chr(0), '%00')}.png"),
        fake.get(f"/page/{name.replace('/', '%2F').replace(chr(0), '%00')}"),
    ]
    for answer in answers:
        assert answer.status_code in (404, 422)
        assert "root:" not in answer.text
    assert len(fake.noted("renders")) == before


def test_security_18_cve_2025_48956_a_head_of_megabytes_is_refused(fake: Stand) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost: {fake.host}\r\nX: {'y' * 4_000_000}\r\n\r\n"
    assert re.match(rb"HTTP/1.1 4(00|31) ", fake.send(request.encode()))
    assert fake.get("/healthz").status_code == 200


def test_security_18_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", 60_000, 60_000)
    with pytest.raises(ImageError, match="60000x60000"):
        decode_png(png, "x")


@pytest.mark.parametrize(
    "kind", ["application/vnd.bentoml+pickle", "application/octet-stream", "application/x-python-serialize"]
)
def test_security_19_cve_2025_27520_cve_2025_32375_a_pickle_that_is_sent_is_not_opened(
    fake: Stand, tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    body = pickle.dumps({"request": Canary(canary)})
    for path in ("/render", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/png-info"):
        headers = {
            "content-type": kind,
            "payload-container": "NdarrayContainer",
            "payload-meta": '{"format":"default"}',
        }
        assert fake.post(path, body, headers=headers).status_code in (400, 422)
    assert not canary.exists()


def test_security_20_errors_tell_no_paths_and_no_stack(fake: Stand) -> None:
    answers = [fake.render("bug"), fake.render("oom"), fake.get("/no/such"), fake.post("/render", b"{")]
    answers.append(fake.post("/render", {"request": {"prompt": "x"}, "model": str(fake.model)}))
    for answer in answers:
        assert not re.search(r"Traceback|File \"|\.py\b|site-packages", answer.text)
        assert str(fake.folder) not in answer.text.replace(str(answer.request.content), "")
    assert "ZeroDivisionError: a mistake" in fake.log  # where it belongs


def test_security_20_a_path_in_the_middle_of_an_error_is_cut() -> None:
    error = DarkroomError("file", None, "/srv/a/x.bin isn't b'/opt/y/z', see /sdapi/v1/samplers", "read /var/log/a.log")
    public = error_body(error)["error"]
    assert public["message"] == ("E-DARKROOM file: x.bin isn't b'z', see /sdapi/v1/samplers. Hint: read a.log.")
    assert error_body(error, hides_paths=False)["error"]["hint"] == "read /var/log/a.log"


def test_security_20_a_model_folder_is_named_without_its_path(tmp_path: Path) -> None:
    with stand(tmp_path / "My Models" / "of mine", behaviour="fail") as one:
        answer = one.get("/readyz")
        assert answer.status_code == 503
        assert code_of(answer) == "E-MODEL"
        assert "of mine" not in answer.text
        wait_until(lambda: "My Models" in one.log, "the folder in the log")
