"""Fault 9: servers that refuse; which token is missing is told, and nothing is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.errors import AuthError, DarkroomError, SourceError
from tests.fetch.place import DATA, PATH, Place
from tests.fixtures.remote import (
    Answer,
    FileServer,
    Resource,
    cut,
    json_answer,
)
from tests.fixtures.remote.civitai import TOKEN as CIVITAI_TOKEN
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.hub import STRANGER_TOKEN, Hub


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        (401, AuthError, "is not for everybody"),
        (403, AuthError, "is not for everybody"),
        (404, AuthError, "is not there, or not for everybody"),
        (410, SourceError, "is archived or was taken away"),
        (451, SourceError, "must not be shown here"),
    ],
)
def test_fault_09_plain_address_is_refused_and_not_asked_again(
    status: int, error: type[DarkroomError], why: str, place: Place, server: FileServer
) -> None:
    server.add(PATH, json_answer({"message": "no, with token=abcdefgh"}, status))
    found = place.fails(error, server.url(PATH))
    assert why in found.why and str(status) in found.why and "abcdefgh" not in str(found)
    assert len(server.requests()) == 1
    assert place.lines == []


def test_fault_09_refused_rest_keeps_what_is_there(place: Place, server: FileServer) -> None:
    file = server.add(PATH, Resource(DATA, faults=[cut(2_000_000)]))
    server.first(PATH, Answer(503))
    file.change(after=1, token="needed from now on")
    place.fails(AuthError, server.url(PATH))
    assert place.kept == 2_000_000


@pytest.mark.parametrize(
    ("token", "policy", "why"),
    [
        (None, "login", "Civitai wants a token"),
        ("one-that-it-does-not-know", "login", "Civitai refused the token in CIVITAI_API_KEY"),
        (CIVITAI_TOKEN, "early", "is in early access until 2026-12-24"),
    ],
)
def test_fault_09_civitai_refuses(
    token: str | None, policy: str, why: str, place: Place, civitai: Civitai, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("CIVITAI_API_KEY", token)
    civitai.add_file(DATA).versions[0].policy = policy  # type: ignore[assignment]
    error = place.fails(AuthError, "civitai:101@201")
    assert why in error.why
    assert "CIVITAI_API_KEY" in str(error) or policy == "early"
    assert token is None or token not in str(error)
    assert len(civitai.api.requests("/api/download/models/201")) == 1
    assert civitai.store.requests() == []


def test_fault_09_version_that_civitai_does_not_have(place: Place, civitai: Civitai) -> None:
    error = place.fails(AuthError, "civitai:1@2")
    assert "is not there, or not for everybody" in error.why and "CIVITAI_API_KEY" in error.hint
    assert len(civitai.api.requests()) == 1


def test_fault_09_token_opens_what_is_closed(
    place: Place, civitai: Civitai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    civitai.add_file(DATA).versions[0].policy = "login"
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(f"{CIVITAI_TOKEN}\n")
    monkeypatch.setenv("CIVITAI_API_KEY_FILE", str(file))
    place.gets("civitai:101@201", DATA)


@pytest.mark.parametrize(
    ("token", "why"),
    [(None, "its licence has to be accepted, and no token"), (STRANGER_TOKEN, "of the token in HF_TOKEN")],
)
def test_fault_09_hub_wants_its_licence_accepted(
    token: str | None, why: str, place: Place, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.add("someone/tiny", {"x.safetensors": DATA}, gated="auto")
    error = place.fails(AuthError, "hf:someone/tiny/x.safetensors")
    assert why in error.why
    assert f"accept it at {hub.endpoint}/someone/tiny" in error.hint
    assert token is not None or "HF_TOKEN" in error.hint
    assert token is None or token not in str(error)
    assert len([request for request in hub.api.requests() if "/resolve/" in request.path]) == 1


def test_fault_09_hub_does_not_have_it(place: Place, hub: Hub) -> None:
    hub.add("someone/tiny", {"x.safetensors": DATA})
    error = place.fails(AuthError, "hf:someone/other/x.safetensors")
    assert "HF_TOKEN" in error.hint
    place.fails(SourceError, "hf:someone/tiny/y.safetensors")
    place.fails(SourceError, "hf:someone/tiny/x.safetensors@v9")
    assert hub.store.requests() == []
