"""Faults 7 and 8: what comes is not what is wanted."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from io import BytesIO

import pytest

from darkroom.checkpoint.header import encode_header
from darkroom.config import FetchConfig
from darkroom.errors import DarkroomError, FormatError, HashError, LoraError, NetworkError, NotWeightsError, PickleError
from darkroom.sources import fetch
from darkroom.sources.lock import read_lock
from darkroom.sources.receipt import FetchReceipt
from tests.fetch.place import DATA, OLD, OTHER, PATH, QUICK, Place
from tests.fixtures.remote import (
    Answer,
    FileServer,
    Resource,
    cut,
    lfs_pointer,
    login_page,
)
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.weights import lora_bytes, make_weights

SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()


def test_fault_07_other_bytes_than_the_configuration_says(place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA))
    error = place.fails(HashError, server.url(PATH), sha256=OTHER_SHA256)
    assert str(error).startswith(f"E-HASH source '{server.url(PATH)}': ")
    assert SHA256 in error.why and OTHER_SHA256 in error.why
    assert place.names(place.downloads) == []  # no partial download either
    assert len(server.requests(PATH)) == 1


def test_fault_07_other_bytes_than_the_lock_file_says(place: Place, server: FileServer) -> None:
    lock = place.folder / "lock.yaml"
    file = server.add(PATH, Resource(OTHER))
    place.fetch(server.url(PATH), lock=lock)
    before = lock.read_bytes()
    file.change(content=DATA, etag='"v2"')
    again = place.folder / "again.safetensors"
    with pytest.raises(HashError) as caught:
        fetch(server.url(PATH), again, lock=lock, downloads=place.folder / "elsewhere", options=QUICK)
    assert SHA256 in str(caught.value) and OTHER_SHA256 in str(caught.value)
    assert "--update" in caught.value.hint
    assert lock.read_bytes() == before
    assert not again.exists()
    assert list(read_lock(lock)) == [server.url(PATH)]


def test_fault_07_other_hash_at_civitai_than_wanted_ends_before_a_byte(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        error = place.fails(HashError, "civitai:101@201", sha256=OTHER_SHA256)
        assert SHA256 in error.why and OTHER_SHA256 in error.why
        assert civitai.store.requests() == []


def test_fault_07_civitai_sends_other_bytes_than_it_promises(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        civitai.resource(301).change(content=OTHER)
        error = place.fails(HashError, "civitai:101@201")
        assert SHA256 in error.why and OTHER_SHA256 in error.why
        assert place.names(place.downloads) == []
        civitai.resource(301).change(content=make_weights(2_000_000))
        error = place.fails(HashError, "civitai:101@201")
        assert "2,000,000" in error.why and "3,000,000" in error.why


SECRET = "signature-of-nobody"
PAGE = f"<p>{'x' * 3000} <a href='https://store/f?X-Amz-Signature={SECRET}'>here</a></p>"


def zipped() -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"x": 1}))
    return out.getvalue()


INSTEAD = {
    "HTML": (login_page(extra=PAGE).body, NotWeightsError, "the server sent an HTML page instead of weights"),
    "HTML behind a mark": ("\ufeff \n" + str(login_page().body), NotWeightsError, "an HTML page"),
    "XML": ('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', NotWeightsError, "an HTML page"),
    "JSON": ('{"error": "Unauthorized", "message": "log in"}', NotWeightsError, "the server sent JSON (log in)"),
    "JSON with a secret": (f'{{"message": "see ?token={SECRET} {"x" * 5000}"}}', NotWeightsError, "sent JSON"),
    "JSON list": ("[1, 2]", NotWeightsError, "the server sent JSON instead of weights"),
    "LFS pointer": (lfs_pointer(DATA).body, NotWeightsError, "the server sent a Git LFS pointer instead of weights"),
    "pickle": (pickle.dumps({"state_dict": list(range(100))}, protocol=2), PickleError, "is a pickle"),
    "zip": (zipped(), PickleError, "is a zip archive"),
    "GGUF": (b"GGUF\x03" + bytes(3000), FormatError, "is a GGUF file"),
    "noise": (make_weights(3000)[1000:], FormatError, "does not begin like a safetensors file"),
    "half": (DATA[:100_000], FormatError, "truncated"),
}


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "text/html; charset=utf-8", "application/json"])
@pytest.mark.parametrize("name", INSTEAD)
def test_fault_08_something_else_with_status_200(name: str, kind: str | None, place: Place, server: FileServer) -> None:
    body, error_type, why = INSTEAD[name]
    server.add(PATH, Answer(200, body, content_type=kind))
    error = place.fails(error_type, server.url(PATH))
    assert why in str(error)
    assert server.url(PATH) in str(error)
    assert len(str(error)) < 1000
    assert SECRET not in str(error) + place.told
    assert place.names(place.downloads) == []
    assert len(server.requests(PATH)) == 1


@pytest.mark.parametrize(
    ("body", "kind", "error", "why"),
    [
        (b"", None, FormatError, "holds 0 bytes"),
        (b"Please log in", "text/plain", FormatError, "does not begin like a safetensors file"),
        (b"Please log in", "text/html", NotWeightsError, "the server sent an HTML page"),
        (b'"no"', "application/json", NotWeightsError, "the server sent JSON"),
    ],
)
def test_fault_08_short_text_with_status_200(
    body: bytes, kind: str | None, error: type[DarkroomError], why: str, place: Place, server: FileServer
) -> None:
    server.add(PATH, Answer(200, body, content_type=kind))
    assert why in str(place.fails(error, server.url(PATH)))


@pytest.mark.parametrize("kind", ["text/html", "application/json", "text/plain"])
def test_fault_08_weights_are_weights_whatever_the_server_calls_them(
    kind: str, place: Place, server: FileServer
) -> None:
    server.add(PATH, Resource(DATA, content_type=kind))
    place.gets(server.url(PATH), DATA)


@pytest.mark.parametrize("length", [ord("{"), ord("["), 0x7B20, 0x5B20, 0x683C])
def test_fault_08_header_whose_length_looks_like_text(length: int, place: Place, server: FileServer) -> None:
    """The first bytes of a safetensors file are a number, and may be those of `{`, of ` [` or of `<h` too."""
    empty = len(encode_header([("weight", "U8", (5,), 0, 5)], {"filler": ""})) - 8
    for filler in range(length - empty - 8, length - empty + 8):
        header = encode_header([("weight", "U8", (5,), 0, 5)], {"filler": "x" * filler})
        data = length.to_bytes(8, "little") + header[8:].rstrip(b" ").ljust(length) + b"12345"
        if len(data) == 8 + length + 5:
            break
    server.add(PATH, Resource(data))
    place.gets(server.url(PATH), data)


def test_fault_08_login_page_in_place_of_the_rest_costs_nothing(place: Place, server: FileServer) -> None:
    file = server.add(PATH, Resource(DATA))
    file.add_fault(cut(2_000_000))
    place.fails(NetworkError, server.url(PATH), options=FetchConfig(retries=0))
    server.add(PATH, login_page())
    place.fails(NotWeightsError, server.url(PATH))
    assert place.kept == 2_000_000
    server.add(PATH, file)
    place.lines.clear()
    place.gets(server.url(PATH), DATA)
    assert place.lines == ["resuming 2.0 of 3.0 MB"]


def test_fault_08_civitai_and_its_variable_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        civitai.api.add("/api/download/models/201", login_page())
        error = place.fails(NotWeightsError, "civitai:101@201")
        assert "an HTML page instead of weights; a token may be missing" in error.why
        assert "CIVITAI_API_KEY" in error.hint


def test_fault_08_weights_of_another_kind_stay_away_from_the_file(
    place: Place, server: FileServer, file: Resource
) -> None:
    """They are whole, so that nothing is wrong with the download; the next run still asks what is there then."""
    for _ in range(2):
        with pytest.raises(LoraError, match="E-LORA"):
            place.fetch(server.url(PATH), kind="lora")
        assert place.dest.read_bytes() == OLD
        assert not place.receipt.exists()
    right = lora_bytes()
    file.change(content=right, etag='"v2"')
    place.fetch(server.url(PATH), kind="lora")
    assert place.dest.read_bytes() == right


def test_receipt_of_an_older_file_stays_with_it(place: Place, server: FileServer) -> None:
    file = server.add(PATH, Resource(DATA))
    place.gets(server.url(PATH), DATA)
    before = FetchReceipt.read(place.receipt)
    file.change(content=b"<html>", etag='"v2"')
    with pytest.raises(DarkroomError):
        place.fetch(server.url(PATH), update=True)
    assert FetchReceipt.read(place.receipt) == before
    assert place.dest.read_bytes() == DATA
