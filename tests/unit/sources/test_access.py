"""What a refusal says: which variable, which page, until when; and nothing secret of what the server sent."""

from __future__ import annotations

import dataclasses
import json

import pytest

from darkroom.errors import AuthError, DarkroomError, SourceError
from darkroom.sources.access import LONGEST_SHOWN, Access, refusal, shown

TOKEN = "Qx7vR2kLm9"
CIVITAI = Access(
    "Civitai",
    "https://civitai.com",
    "CIVITAI_API_KEY",
    "https://civitai.com/user/account",
    "https://civitai.com/models/1?modelVersionId=2",
)
HUB = Access(
    "the Hugging Face Hub",
    "https://huggingface.co",
    "HF_TOKEN",
    "https://huggingface.co/settings/tokens",
    "https://huggingface.co/org/repo",
)


def with_token(access: Access) -> Access:
    return dataclasses.replace(access, token=TOKEN)


def refuse(access: Access | None, status: int, body: object = b"", **headers: str) -> DarkroomError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal(
        access, "civitai:1@2", status, {name.replace("_", "-"): text for name, text in headers.items()}, data
    )


@pytest.mark.parametrize("access", [CIVITAI, HUB])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_fault_09_a_refusal_names_the_variable_and_where_a_token_is_made(access: Access, status: int) -> None:
    error = refuse(access, status)
    assert isinstance(error, AuthError)
    assert error.code == "E-AUTH"
    assert "'civitai:1@2'" in str(error)
    assert access.variable in str(error)
    assert access.token_page in str(error)
    assert str(status) in str(error)


@pytest.mark.parametrize("access", [CIVITAI, HUB])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_with_a_token_the_variable_is_named_that_it_was_in(access: Access, status: int) -> None:
    error = refuse(with_token(access), status)
    assert isinstance(error, AuthError)
    assert access.variable in str(error)
    assert TOKEN not in str(error) + repr(error)


def test_a_refused_token_is_called_that() -> None:
    error = refuse(with_token(CIVITAI), 401, {"error": "Unauthorized"})
    assert "Civitai refused the token in CIVITAI_API_KEY" in str(error)
    assert "Hint: make another at https://civitai.com/user/account." in str(error)


@pytest.mark.parametrize("access", [CIVITAI, HUB, with_token(HUB)])
def test_what_is_not_found_may_be_hidden(access: Access) -> None:
    assert "is not there, or not for everybody" in str(refuse(access, 404))


def test_the_hub_hides_its_repositories_from_strangers() -> None:
    error = refuse(
        HUB, 401, {"error": "Invalid username or password."}, X_Error_Message="Invalid username or password."
    )
    assert "is not there, or not for everybody" in str(error)
    error = refuse(with_token(HUB), 401, X_Error_Message="Invalid credentials in Authorization header")
    assert "refused the token in HF_TOKEN" in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_licence_to_accept_is_told_with_its_page(status: int) -> None:
    error = refuse(HUB, status, X_Error_Code="GatedRepo", X_Error_Message="Access to model org/repo is restricted.")
    assert isinstance(error, AuthError)
    assert "licence" in str(error)
    assert "accept it at https://huggingface.co/org/repo" in str(error)
    assert "set HF_TOKEN" in str(error)
    error = refuse(with_token(HUB), status, x_error_code="GatedRepo")
    assert "the account of the token in HF_TOKEN" in str(error)


def test_early_access_is_told_with_its_end() -> None:
    body = {"error": "Early Access", "deadline": "2026-12-24T08:00:00.000Z", "message": "You can use Buzz"}
    error = refuse(with_token(CIVITAI), 403, body)
    assert isinstance(error, AuthError)
    assert "is in early access until 2026-12-24" in str(error)
    assert "https://civitai.com/models/1?modelVersionId=2" in str(error)
    assert "is in early access (" in str(refuse(CIVITAI, 403, {"error": "Early Access", "deadline": None}))
    assert "CIVITAI_API_KEY" in str(refuse(CIVITAI, 403, body))


@pytest.mark.parametrize(("code", "what"), [("RevisionNotFound", "revision"), ("EntryNotFound", "file")])
def test_what_a_repository_lacks_is_the_sources_fault(code: str, what: str) -> None:
    error = refuse(HUB, 404, X_Error_Code=code, X_Error_Message="Invalid rev id: v9")
    assert isinstance(error, SourceError)
    assert f"has no such {what}" in str(error)
    assert "Invalid rev id: v9" in str(error)


@pytest.mark.parametrize("access", [None, CIVITAI])
@pytest.mark.parametrize("status", [410, 451])
def test_what_is_gone_for_good_is_the_sources_fault(access: Access | None, status: int) -> None:
    error = refuse(access, status, {"error": "Model archived, not available for download"})
    assert isinstance(error, SourceError)
    assert "Model archived" in str(error)


@pytest.mark.parametrize("status", [401, 403])
def test_other_sites_get_no_token(status: int) -> None:
    error = refuse(None, status)
    assert isinstance(error, AuthError)
    assert "tokens are sent to Civitai and the Hub only" in str(error)
    assert "by hand" in str(error)


def test_other_sites_may_lack_it_too() -> None:
    assert isinstance(refuse(None, 404), AuthError)
    assert "check the address" in str(refuse(None, 404))


def test_a_proxy_that_wants_a_login_is_told_apart() -> None:
    assert "a proxy on the way wants a login" in str(refuse(CIVITAI, 407))


def test_fault_08_a_page_is_not_shown() -> None:
    assert "html" not in str(refuse(CIVITAI, 401, b"<!DOCTYPE html><html><body>Sign in</body></html>")).lower()


def test_a_short_message_is_shown_without_secrets_and_without_control_signs() -> None:
    message = f"Bearer {TOKEN} was\x1b[2J\nrefused at /x?token=abcdef " + "x" * 1000
    text = str(refuse(with_token(CIVITAI), 401, {"error": "Unauthorized", "message": message}))
    assert "was\ufffd[2J refused at /x?token=***" in text
    assert TOKEN not in text
    assert "abcdef" not in text
    assert "x" * LONGEST_SHOWN not in text
    assert text.isprintable()


def test_a_server_that_repeats_the_token_does_not_get_it_shown() -> None:
    access = dataclasses.replace(CIVITAI, token="Kd5hT3yWq8")
    text = str(refuse(access, 401, {"message": "no account has Kd5hT3yWq8"}))
    assert "no account has ***" in text


def test_a_secret_that_the_end_of_the_message_would_cut_is_masked() -> None:
    text = shown("y" * (LONGEST_SHOWN - 8) + f" token={TOKEN}")
    assert TOKEN[:3] not in text
    assert len(text) <= LONGEST_SHOWN


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"message": 3, "error": null}'])
def test_any_body_can_be_refused(body: bytes) -> None:
    assert "the server answers 403)" in str(refuse(CIVITAI, 403, body))


@pytest.mark.parametrize("value", [None, 3, ["x"], {"a": "b"}, b"x"])
def test_only_texts_are_shown(value: object) -> None:
    assert shown(value) == ""
