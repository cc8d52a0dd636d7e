"""Fault 42: addresses and paths that come with a request. None is opened: a server on this machine that counts hears nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.serve.stand import Stand
from tests.unit.warm.bench import LIMIT_S

ASKS_FOR_A_URL: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "image_url": ("/render", lambda url: {"request": {"prompt": "x", "image_url": url}}),
    "model": ("/render", lambda url: {"request": {"prompt": "x"}, "model": url}),
    "lora": ("/render", lambda url: {"request": {"prompt": "x", "loras": {url: 1}}}),
    "lora tag": ("/render", lambda url: {"request": {"prompt": f"<lora:{url}:1>"}}),
    "vae": ("/render", lambda url: {"request": {"prompt": "x", "vae": url}}),
    "embedding": ("/render", lambda url: {"request": {"prompt": f"embedding:{url}"}}),
    "openai image_url": ("/v1/images/generations", lambda url: {"prompt": "x", "image_url": url}),
    "openai image": ("/v1/images/generations", lambda url: {"prompt": "x", "image": [url]}),
    "openai model": ("/v1/images/generations", lambda url: {"prompt": "x", "model": url}),
    "openai edits": ("/v1/images/edits", lambda url: {"prompt": "x", "image": url}),
    "a1111 img2img": ("/sdapi/v1/img2img", lambda url: {"prompt": "x", "init_images": [url]}),
    "a1111 firstpass_image": ("/sdapi/v1/txt2img", lambda url: {"prompt": "x", "firstpass_image": url}),
    "a1111 checkpoint": (
        "/sdapi/v1/txt2img",
        lambda url: {"prompt": "x", "override_settings": {"sd_model_checkpoint": url}},
    ),
    "a1111 options": ("/sdapi/v1/options", lambda url: {"sd_model_checkpoint": url}),
    "a1111 png-info": ("/sdapi/v1/png-info", lambda url: {"image": url}),
    "a1111 upscale": ("/sdapi/v1/extra-single-image", lambda url: {"image": url}),
}

CODES = ("E-REQUEST", "E-UNKNOWN", "E-UNSUPPORTED", "E-LORA", "E-EMBEDDING", "E-SSRF")


@pytest.mark.parametrize("field", ASKS_FOR_A_URL)
def test_fault_42_no_address_that_comes_with_a_request_is_opened(
    fake: Stand, canary: tuple[str, list[str]], field: str
) -> None:
    url, songs = canary
    path, body = ASKS_FOR_A_URL[field]
    before = len(fake.noted("renders"))
    for address in (url, "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/", "file:///etc/passwd"):
        answer = fake.post(path, body(address))
        assert answer.status_code in (400, 404, 422)
        assert answer.json()["error"]["code"] in CODES
        assert "root:" not in answer.text
    assert songs == []
    assert len(fake.noted("renders")) == before


def test_fault_42_an_address_in_a_field_that_a1111_ignores_is_not_opened(
    fake: Stand, canary: tuple[str, list[str]]
) -> None:
    url, songs = canary
    answer = fake.post("/sdapi/v1/txt2img", {"prompt": "x", "init_images": [url], "image_url": url, "mask": url})
    assert json.loads(answer.json()["info"])["ignored"].keys() == {"init_images", "image_url", "mask"}
    assert url not in answer.text
    assert songs == []


def test_fault_42_the_canary_would_sing(canary: tuple[str, list[str]]) -> None:
    url, songs = canary
    httpx.get(url, timeout=LIMIT_S)
    assert songs == ["/secret"]
