"""Where tokens come from, which of them wins, and which are refused without being shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from darkroom.base.secrets import redact
from darkroom.errors import ConfigError
from darkroom.sources.access import Access
from darkroom.sources.civitai import civitai_access
from darkroom.sources.hub import hub_access

TOKEN, OTHER = "Qx7vR2kLm9", "Zt4wP8nBs1"
NAMES = ("CIVITAI_API_KEY", "CIVITAI_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
ASK: dict[str, Callable[[str | None], Access]] = {"CIVITAI_API_KEY": civitai_access, "HF_TOKEN": hub_access}
each_service = pytest.mark.parametrize("name", ASK)


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*NAMES, *(f"{name}_FILE" for name in NAMES), "CIVITAI_ENDPOINT", "HF_ENDPOINT", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    return tmp_path / "login"


def private(path: Path, content: str) -> str:
    path.write_text(content)
    path.chmod(0o600)
    return str(path)


def test_civitai_and_where_its_tokens_are_made() -> None:
    access = civitai_access("https://civitai.com/models/1")
    assert (access.service, access.origin, access.variable) == ("Civitai", "https://civitai.com", "CIVITAI_API_KEY")
    assert (access.token_page, access.page) == ("https://civitai.com/user/account", "https://civitai.com/models/1")
    assert access.token is None


def test_the_hub_and_where_its_tokens_are_made() -> None:
    access = hub_access(None)
    assert (access.origin, access.variable, access.token) == ("https://huggingface.co", "HF_TOKEN", None)
    assert access.token_page == "https://huggingface.co/settings/tokens"


def test_only_the_origin_of_an_endpoint_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org:8443/hub/")
    assert hub_access(None).origin == "https://mirror.example.org:8443"


@pytest.mark.parametrize("name", NAMES)
def test_a_token_in_the_environment_is_used_and_never_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f" {TOKEN}\n")
    access = civitai_access(None) if name.startswith("CIVITAI") else hub_access(None)
    assert (access.token, access.variable) == (TOKEN, name)
    assert TOKEN not in repr(access)


@each_service
def test_a_token_in_a_private_file_is_used_and_masked_from_then_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = f"{name}-in-a-file"
    monkeypatch.setenv(f"{name}_FILE", private(tmp_path / "token", f"{token}\n"))
    access = ASK[name](None)
    assert (access.token, access.variable) == (token, f"{name}_FILE")
    assert redact(f"it is {token}") == "it is ***"


@each_service
def test_the_variable_wins_over_its_file_and_over_other_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{name}_FILE", private(tmp_path / "token", OTHER))
    monkeypatch.setenv("CIVITAI_TOKEN", OTHER)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", OTHER)
    monkeypatch.setenv(name, TOKEN)
    assert ASK[name](None).token == TOKEN
    monkeypatch.setenv(name, "")
    assert ASK[name](None).variable == f"{name}_FILE"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
@each_service
def test_security_09_a_token_file_that_others_can_read_is_refused(
    name: str, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = private(tmp_path / "token", TOKEN)
    Path(path).chmod(mode)
    monkeypatch.setenv(f"{name}_FILE", path)
    with pytest.raises(ConfigError, match=f"{name}_FILE.*chmod 600") as raised:
        ASK[name](None)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("content", [None, "", " \n", "\xff\xfe"])
@each_service
def test_a_token_file_without_a_token_is_refused(
    name: str, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    if content is not None:
        private(path, "")
        path.write_bytes(content.encode("latin-1"))
    monkeypatch.setenv(f"{name}_FILE", str(path))
    with pytest.raises(ConfigError, match=f"{name}_FILE"):
        ASK[name](None)


@pytest.mark.parametrize("token", [f"{TOKEN}\nX: y", f"{TOKEN} {OTHER}", f"{TOKEN}é", f"{TOKEN}\x00", f"{TOKEN}\x7f"])
@each_service
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(
    name: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{name}_FILE", private(tmp_path / "token", token))
    with pytest.raises(ConfigError, match=f"{name}_FILE") as raised:
        ASK[name](None)
    assert TOKEN not in str(raised.value)


@each_service
def test_security_10_a_token_is_not_sent_unencrypted_to_another_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = {"CIVITAI_API_KEY": "CIVITAI_ENDPOINT", "HF_TOKEN": "HF_ENDPOINT"}[name]
    monkeypatch.setenv(endpoint, "http://mirror.example.org")
    assert ASK[name](None).token is None
    monkeypatch.setenv(name, TOKEN)
    with pytest.raises(ConfigError, match=f"{name}.*unencrypted"):
        ASK[name](None)
    monkeypatch.setenv(endpoint, "http://127.0.0.1:8000")
    assert ASK[name](None).token == TOKEN


def test_the_login_of_huggingface_hub_is_used(nobody_is_logged_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(nobody_is_logged_in, "hf_stored\n")
    assert hub_access(None).token == "hf_stored"
    assert redact("it is hf_stored") == "it is ***"
    assert civitai_access(None).token is None
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert hub_access(None).token is None
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub_access(None).token == TOKEN


def test_a_broken_login_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_OIDC_RESOURCE", "org/repo")
    monkeypatch.delenv("HF_OIDC_ID_TOKEN", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with pytest.raises(ConfigError, match="set HF_TOKEN"):
        hub_access(None)
