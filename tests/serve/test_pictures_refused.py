"""Pictures that are sent to do harm: bombs, addresses, bodies that fill the memory. The server refuses them and lives on."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.serve.stand import Stand, stand
from tests.unit.serve.test_images import animation, bomb
from tests.unit.warm.bench import LIMIT_S, wait_until

MIB = 2**20
PICTURE = io.BytesIO()
Image.new("RGB", (64, 64), (9, 9, 9)).save(PICTURE, "PNG")
PNG = PICTURE.getvalue()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A server with little room for pictures, whose temporary folder is known."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "temporary").mkdir()
    limits = {"max_picture_body_bytes": 6 * MIB, "max_image_bytes": 4 * MIB, "max_upload_bytes": 8 * MIB}
    with stand(folder, environment={"TMPDIR": str(folder / "temporary")}, **limits) as one:
        assert one.get("/readyz").status_code == 200
        yield one


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def send(one: Stand, route: str, data: bytes | str, **fields: Any) -> httpx.Response:
    """A picture (bytes, or the text that stands for it) by one of the routes that take pictures."""
    text = data if isinstance(data, str) else in_base64(data)
    if route in ("edits", "variations"):
        files = {"image": ("../../a.png", data if isinstance(data, bytes) else data.encode(), "image/png")}
        fields = {"prompt": "x", **fields}
        return httpx.post(f"{one.url}/v1/images/{route}", files=files, data=fields, timeout=LIMIT_S)
    bodies: dict[str, dict[str, Any]] = {
        "img2img": {"init_images": [text]},
        "mask": {"init_images": [in_base64(PNG)], "mask": text},
        "extra-single-image": {"image": text, "upscaler_1": "Lanczos"},
        "extra-batch-images": {"imageList": [{"data": text, "name": "../../a.png"}], "upscaler_1": "Lanczos"},
        "png-info": {"image": text},
        "render": {"request": {"prompt": "x", "image": "a", "stages": [{"img2img": {}}]}, "pictures": {"a": text}},
    }
    path = {"render": "/render", "mask": "/sdapi/v1/img2img"}.get(route, f"/sdapi/v1/{route}")
    return one.post(path, {**bodies[route], **fields})


JSON_ROUTES = ("img2img", "mask", "extra-single-image", "extra-batch-images", "render")
DECODED = (*JSON_ROUTES, "edits", "variations")


@pytest.mark.parametrize("route", DECODED)
def test_a_bomb_costs_nothing(fake: Stand, route: str) -> None:
    before = fake.peak_bytes
    answer = send(fake, route, bomb())
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] == "E-LIMIT"
    assert fake.peak_bytes < before + 48 * MIB


@pytest.mark.parametrize("route", DECODED)
def test_an_animation_and_half_a_picture_are_refused(fake: Stand, route: str) -> None:
    for data, code in ((animation("WEBP"), "E-UNSUPPORTED"), (PNG[:60], "E-REQUEST"), (b"GIF89a", "E-REQUEST")):
        answer = send(fake, route, data)
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["code"] == code
        assert answer.json()["error"]["param"]


@pytest.mark.parametrize("route", [*JSON_ROUTES, "png-info"])
def test_no_address_is_ever_asked_for_a_picture(fake: Stand, canary: tuple[str, list[str]], route: str) -> None:
    address, songs = canary
    for text in (address, f" {address}", "file:///etc/passwd", "/etc/passwd", "..\\secret.png", "//host/x.png"):
        answer = send(fake, route, text)
        assert answer.json()["error"]["code"] == "E-SSRF", text
        assert "secret" not in answer.text
    assert songs == []


def test_a_body_with_pictures_may_be_longer_than_one_without(small: Stand) -> None:
    noise = io.BytesIO()
    Image.frombytes("RGB", (900, 900), os.urandom(900 * 900 * 3)).save(noise, "PNG")
    assert len(noise.getvalue()) > 2 * MIB
    for route in ("edits", "img2img", "render"):
        assert send(small, route, noise.getvalue()).status_code == 200
    assert send(small, "img2img", PNG + bytes(5 * MIB)).status_code == 413
    assert send(small, "edits", PNG + bytes(7 * MIB)).status_code == 413
    assert send(small, "edits", PNG + bytes(5 * MIB)).json()["error"]["code"] == "E-LIMIT"
    assert small.post("/v1/images/generations", {"prompt": "x" * 3 * MIB}).status_code == 413


def test_files_of_forms_stay_in_memory_and_their_names_unused(small: Stand) -> None:
    assert send(small, "edits", PNG + bytes(3 * MIB)).status_code == 200
    assert list((small.folder / "temporary").iterdir()) == []
    assert not list(small.folder.parent.rglob("a.png"))
    assert "a.png" not in small.log


def test_bodies_of_requests_that_wait_count_until_their_answer(small: Stand) -> None:
    padded = PNG + bytes(3 * MIB)
    slow = [small.beside(send, small, "img2img", padded, prompt="slow") for _ in range(1)]
    small.wait_for_render("slow")
    answer = send(small, "img2img", padded)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "E-BUSY"
    small.release()
    assert [each.result().status_code for each in slow] == [200]
    wait_until(lambda: send(small, "img2img", padded).status_code == 200, "room for another body")
    small.forget()


def test_a_picture_that_no_request_names_is_no_ones(fake: Stand) -> None:
    request = {"prompt": "x", "image": "0" * 64, "stages": [{"img2img": {}}]}
    answer = fake.post("/v1/images/generations", request)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


def test_nothing_of_a_picture_that_was_sent_is_in_the_log(fake: Stand, tmp_path: Path) -> None:
    text = in_base64(PNG)
    send(fake, "img2img", PNG, prompt="a secret")
    assert text[:40] not in fake.log
    assert "a secret" not in fake.log
