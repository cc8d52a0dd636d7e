"""Secrets that must not be readable in what is shown, however they got into the text."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.base.secrets import VARIABLES, has_secret, hide, redact, redact_url

SECRET = "Qx7vR2kLm9"


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    "text",
    [
        f"https://example.org/x?token={SECRET}",
        f"https://example.org/x?a=1&API_KEY={SECRET}&b=2",
        f"https://example.org/x?%74oken={SECRET}",
        f"https://example.org/x?access-token={SECRET}#part",
        f"https://example.org/x#access_token={SECRET}",
        f"https://example.org/x?X-Amz-Credential={SECRET}%2F20260701&X-Amz-Signature={SECRET}",
        f"https://example.org/x?Expires=1&Signature={SECRET}&Key-Pair-Id={SECRET}",
        f"https://example.org/x?sv=1&sig={SECRET}",
        f"https://example.org/x?key={SECRET}",
        f"https://example.org/x?token={SECRET}'s)%2B",
        f"https://user:{SECRET}@example.org/x",
        f"https://{SECRET}@example.org/x",
        f"https://user:a@{SECRET}@example.org/x",
        f"https://user:a/{SECRET}@example.org/x",
        f"https://example.org/?next=https%3A%2F%2Fexample.com%2F%3Ftoken%3D{SECRET}&c=1",
        f"https://example.org/?next=https%253A%252F%252Fexample.com%252F%253Ftoken%253D{SECRET}",
        f"https://example.org/?next=/login?key={SECRET}",
        f"see https%3A%2F%2Fexample.org%2F%3Fa%3D1%26token%3D{SECRET}",
        f"HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /p?token={SECRET} (Caused by X())",
        f"InvalidURL(\"no scheme in '/p?a=b&token={SECRET}'\")",
        f"Authorization: Bearer {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"proxy-authorization: {SECRET}\r",
        f"curl -H 'X-Api-Key: {SECRET}'",
        f"Set-Cookie: session={SECRET}; Path=/",
        f"sent as bearer {SECRET}, and refused",
        f"{{'Authorization': 'Bearer {SECRET}', 'Accept': '*/*'}}",
        f'{{"token": "{SECRET}", "a": 1}}',
        f'{{"apiKey":"a\\"{SECRET}"}}',
        f'"{{\\"token\\": \\"{SECRET}\\"}}"',
        f"CIVITAI_API_KEY={SECRET} darkroom fetch",
    ],
)
def test_a_secret_is_masked_wherever_it_stands(text: str) -> None:
    masked = redact(text)
    assert SECRET not in masked
    assert "***" in masked
    assert redact(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/b.safetensors?download=true&name=x%20y#part",
        "http://127.0.0.1:8080/models/1?modelVersionId=2",
        "https://[::1]:8080/a@b",
        "https://example.org:8080/p@x",
        "E-CONFIG key 'api_key': unknown (config.yaml:3). Hint: did you mean 'source'?",
        "E-AUTH source 'civitai:1@2': Civitai wants a token. Hint: set CIVITAI_API_KEY.",
        "civitai:827184@2514310?fp=fp16&size=pruned",
        "hf:org/repo/x%40y.safetensors@refs/pr/1",
        "unet.key=3, steps=30",
        "https://example.org/x?token=",
        "",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert not has_secret(text)


def test_the_rest_of_a_url_can_still_be_read() -> None:
    url = f"https://me:{SECRET}@example.org/x.safetensors?a=1&token={SECRET}&b=2"
    assert redact_url(url) == "https://***@example.org/x.safetensors?a=1&token=***&b=2"
    assert has_secret(url)


def test_what_stands_around_a_url_can_still_be_read() -> None:
    assert redact(f"('/p?token={SECRET}'), again") == "('/p?token=***'), again"


def test_hidden_values_are_masked_without_any_mark_around_them() -> None:
    assert "hush/hush secret" in redact("hush/hush secret")
    hide(" hush/hush secret\n")
    assert redact("a hush/hush secret, hush%2Fhush%20secret") == "a ***, ***"
    hide("ab")
    assert redact("about") == "about"


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_values_of_token_variables_are_masked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, f" {SECRET} ")
    assert redact(f"in the path: /{SECRET}/x") == "in the path: /***/x"
    assert has_secret(f"https://example.org/{SECRET}/x")


def test_the_hubs_tokens_are_known_by_their_look() -> None:
    assert redact("got hf_abcdefghijABCDEFGHIJ0123456789 from there") == "got *** from there"


@given(st.text(max_size=300))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.sampled_from("?&#"), st.text(alphabet="abcXYZ019%=.,:;/-_~'()[]", max_size=30))
def test_no_value_of_a_query_breaks_out_of_the_mask(mark: str, around: str) -> None:
    assert SECRET not in redact(f"https://example.org/x{mark}token={around}{SECRET}")


@pytest.mark.parametrize("piece", ["a=b&", "%3D", '"', "https://", "https://a:b", "//", "token=", "a%", "'token': '"])
def test_long_texts_take_no_long_time(piece: str) -> None:
    """Quadratic time would take minutes here."""
    text = piece * (200_000 // len(piece))
    assert len(redact(text)) > 0


def test_importing_it_is_cheap() -> None:
    code = "import sys, darkroom.base.secrets; print(*{'requests', 'huggingface_hub', 'pydantic', 'json'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == ""
