"""Fault 13: who is shown a token, and where redirects may lead."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from darkroom.errors import NetworkError, SourceError
from tests.fetch.place import CANARY, DATA, PATH, Place
from tests.fixtures.remote import Answer, Certificate, FileServer, Resource, cut, make_certificate, redirect
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.hub import TOKEN as HUB_TOKEN
from tests.fixtures.remote.hub import Hub


@pytest.fixture
def other() -> Iterator[FileServer]:
    with FileServer(host="127.0.0.1") as other:
        yield other


@pytest.fixture(autouse=True)
def _token(civitai: Civitai, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", CANARY)
    civitai.tokens.add(CANARY)


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    """Trusted by whoever takes it from the environment."""
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.path))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    return certificate


def check_knew_nothing(server: FileServer) -> None:
    """No request there had a token, a cookie or anything else that says who asks."""
    assert server.requests()
    for request in server.requests():
        assert not request.headers.keys() & {"authorization", "cookie", "proxy-authorization"}
        assert CANARY not in str(request.headers) + request.target


def test_fault_13_civitais_token_is_for_civitai_alone(place: Place, civitai: Civitai) -> None:
    civitai.resource(301).add_fault(cut(1_000_000))
    place.gets("civitai:101@201", DATA)
    assert {request.bearer for request in civitai.api.requests()} == {CANARY}
    assert not any("cookie" in request.headers for request in civitai.api.requests())
    check_knew_nothing(civitai.store)
    assert len(civitai.store.requests()) == 2


def test_fault_13_the_hubs_token_is_for_the_hub_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("someone/tiny", {"x.safetensors": DATA}, gated="auto")
        place.gets("hf:someone/tiny/x.safetensors", DATA)
        assert {request.bearer for request in hub.api.requests()} == {HUB_TOKEN}
        check_knew_nothing(hub.store)


def test_fault_13_plain_address_gets_no_token_at_all(
    place: Place, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    server.add(PATH, Resource(DATA))
    place.gets(server.url(PATH), DATA)
    check_knew_nothing(server)


def test_fault_13_cookies_are_not_kept(place: Place, server: FileServer, other: FileServer) -> None:
    """Not for the next host, and not for the same one."""
    for name in ("127.0.0.1", "localhost"):
        server.clear()
        place.dest.unlink(missing_ok=True)
        other.add(PATH, Resource(DATA, faults=[cut(1_000_000)], headers=[("Set-Cookie", "b=2; Path=/")]))
        cookies = [("Set-Cookie", f"a={CANARY}; Path=/"), ("Set-Cookie", f"c={CANARY}; Domain={name}; Path=/")]
        server.add(PATH, redirect(other.url(PATH, name), headers=cookies))
        place.gets(server.url(PATH) + f"?{name}", DATA)
        check_knew_nothing(server)
        check_knew_nothing(other)


def test_fault_13_another_port_is_another_host(place: Place, civitai: Civitai, server: FileServer) -> None:
    server.add(PATH, Resource(DATA))
    civitai.api.add("/api/download/models/201", redirect(server.url(PATH), headers=[("Set-Cookie", "a=b; Path=/")]))
    place.gets("civitai:101@201", DATA)
    assert server.host == civitai.api.host and server.port != civitai.api.port
    check_knew_nothing(server)


def test_fault_13_same_name_without_tls_gets_nothing(
    place: Place, server: FileServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", CANARY)
    with Civitai(certificate=certificate) as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.tokens.add(CANARY)
        civitai.add_file(DATA)
        server.add(PATH, Resource(DATA))
        civitai.api.add("/api/download/models/201", redirect(server.url(PATH)))
        place.gets("civitai:101@201", DATA)
        assert {request.bearer for request in civitai.api.requests()} == {CANARY}
    check_knew_nothing(server)


def test_fault_13_back_at_the_origin_the_token_is_shown_again(
    place: Place, civitai: Civitai, other: FileServer
) -> None:
    """Hops are judged one by one: the one in the middle still sees nothing."""
    other.add("/hop", redirect(civitai.api.url("/back")))
    civitai.api.add("/api/download/models/201", redirect(other.url("/hop")))
    civitai.api.add("/back", Resource(DATA, token=CANARY))
    place.gets("civitai:101@201", DATA)
    check_knew_nothing(other)


def test_fault_13_from_https_to_plain_http_elsewhere_is_refused(place: Place, certificate: Certificate) -> None:
    with FileServer(certificate=certificate) as server:
        server.add(PATH, redirect("http://elsewhere.invalid/x.safetensors"))
        error = place.fails(SourceError, server.url(PATH))
        assert "unencrypted" in error.why
        assert len(server.requests()) == 1 and place.lines == []
        place.fails(NetworkError, server.url(PATH), sha256=sha256(DATA).hexdigest())  # which is followed, to nobody


def test_fault_13_netrc_is_not_used(
    place: Place, server: FileServer, other: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text(f"default login somebody password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    other.add(PATH, Resource(DATA))
    server.add(PATH, redirect(other.url(PATH)))
    place.gets(server.url(PATH), DATA)
    check_knew_nothing(server)
    check_knew_nothing(other)


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://localhost/x", "http://[::1", "http://localhost:99999/x", "http://", "https://\u2100/x",
     f"data:,{CANARY}", f"http://somebody:{CANARY}@127.0.0.1:1/x?token={CANARY}"],
)  # fmt: skip
def test_fault_13_redirects_that_lead_nowhere(location: str, place: Place, civitai: Civitai) -> None:
    civitai.api.add("/api/download/models/201", redirect(location.encode().decode("latin-1")))
    error = place.fails(NetworkError if "127.0.0.1" in location else SourceError, "civitai:101@201")
    assert CANARY not in str(error) + place.told
    assert "Error" not in str(error)


def test_fault_13_body_of_a_redirect_is_not_read(place: Place, server: FileServer) -> None:
    """It may have no end."""
    server.add("/to", Resource(DATA))
    server.add(PATH, Answer(302, bytes(50_000_000), [("Location", "/to")]))
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) < 10_000_000


def test_fault_13_redirects_in_a_circle(place: Place, server: FileServer) -> None:
    server.add(PATH, redirect(server.url(PATH)))
    assert "redirects more than 10 times" in place.fails(SourceError, server.url(PATH)).why
    assert len(server.requests()) == 11
