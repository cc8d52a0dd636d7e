"""Darkroom's own routes, on a real server with a stand-in engine: pictures, errors, order, readiness, events."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from darkroom.pictures.formats import read_texts, recognize
from darkroom.pictures.marking import XMP
from darkroom.pictures.png import text_of_png
from tests.serve.stand import QUICK, Stand, stand
from tests.unit.warm.bench import wait_until


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of an answer, by name."""
    found = []
    for block in answer.text.strip().split("\n\n"):
        first, second = block.split("\n")
        found.append((first.removeprefix("event: "), json.loads(second.removeprefix("data: "))))
    return found


def test_a_picture_is_a_png_with_its_facts_in_a_header(fake: Stand) -> None:
    answer = fake.render("日本 \n x", width=64, height=128, seed=7)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["darkroom-cached"] == "false"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.size, image.getpixel((0, 0))) == ((64, 128), (7, 7, 7))
    assert json.loads(text_of_png(answer.content, "answer")["darkroom"])["request"]["prompt"] == "日本 \n x"
    facts = json.loads(answer.headers["darkroom-facts"])
    assert (facts["seed"], facts["prompt_tokens"], facts["model_name"]) == (7, 212, "fake")
    assert "日本" not in str(facts)


@pytest.mark.parametrize("name", ["webp", "jpeg", "avif"])
def test_a_picture_in_another_format_has_the_same_metadata(fake: Stand, name: str) -> None:
    body = {"request": {"prompt": "snow 雪", "width": 64, "height": 64, "seed": 7}}
    png = fake.post("/render", body).content
    answer = fake.post("/render", {**body, "output": {"format": name, "quality": 70}})
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{name}")
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    assert read_texts(answer.content) == read_texts(png)
    streamed = fake.post("/render", {**body, "output": {"format": name}}, headers={"Accept": "text/event-stream"})
    told = dict(events_of(streamed))["picture"]
    assert read_texts(base64.b64decode(told[name])) == read_texts(png) and "png" not in told
    sent = {"prompt": "snow 雪", "width": 64, "height": 64, "seed": 7, "override_settings": {"samples_format": name}}
    (image,) = fake.post("/sdapi/v1/txt2img", sent).json()["images"]
    file = base64.b64decode(image)
    assert recognize(file, "x").name == name
    shown = fake.post("/sdapi/v1/png-info", {"image": image}).json()
    assert shown["info"].startswith("snow 雪") and shown["parameters"]["Seed"] == "7"


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ({"format": "gif"}, "format"),
        ({"format": "webp", "quality": 101}, "quality"),
        ({"quality": 90}, "quality"),
        ({"format": "webp", "speed": 1}, "speed"),
    ],
)
def test_a_wrong_output_is_refused(fake: Stand, output: dict[str, Any], named: str) -> None:
    answer = fake.post("/render", {"request": {"prompt": "x"}, "output": output})
    assert answer.status_code == 422 and named in answer.json()["error"]["message"]


def test_a_server_leaves_prompts_out_of_pictures(tmp_path: Path) -> None:
    with stand(tmp_path, top={"metadata": {"prompt": False, "marking": False}}) as one:
        answer = one.render("a hidden fox", width=64, height=64)
        texts = read_texts(answer.content)
        assert b"hidden fox" not in answer.content and XMP not in texts
        assert len(json.loads(texts["darkroom"])["request_sha256"]) == 64


def test_the_server_has_defaults_and_presets(fake: Stand) -> None:
    answer = fake.post("/render", {"request": {"prompt": "x", "width": 64, "height": 64, "preset": "turbo"}})
    facts = json.loads(answer.headers["darkroom-facts"])
    assert (facts["sampler"], facts["steps"], facts["cfg_scale"]) == ("Euler a", 1, 1)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "request body"),
        ({}, "request"),
        ({"request": 5}, "request"),
        ({"request": {}}, "prompt"),
        ({"request": {"prompt": "x", "width": 65}}, "width"),
        ({"request": {"prompt": "x", "sampler": "Eular"}}, "Euler"),
        ({"request": {"prompt": "x", "lora": "y"}}, "lora"),
        ({"request": {"prompt": "x"}, "extra": 1}, "extra"),
        ({"request": {"prompt": "x"}, "model": 7}, "model"),
    ],
)
def test_wrong_requests_are_refused_before_the_engine_sees_them(fake: Stand, body: Any, named: str) -> None:
    before = fake.noted("renders")
    answer = fake.post("/render", body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("E-REQUEST", "invalid_request_error")
    assert named in error["message"]
    assert fake.noted("renders") == before


@pytest.mark.parametrize(("prompt", "status", "code"), [("oom", 507, "E-OOM"), ("nan", 500, "E-NANIMAGE")])
def test_errors_of_the_engine_keep_their_code_and_hint(fake: Stand, prompt: str, status: int, code: str) -> None:
    answer = fake.render(prompt)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (code, "server_error")
    assert error["hint"]
    assert fake.render().status_code == 200


def test_what_is_not_there_says_so(fake: Stand) -> None:
    for answer in (fake.get("/no/such/route"), fake.get("/pictures/none.png")):
        assert answer.status_code == 404
        assert answer.json()["error"]["value"] == answer.request.url.path
    answer = fake.get("/render")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_model_that_can_not_be_loaded_is_not_ready_and_says_why(tmp_path: Path) -> None:
    with stand(tmp_path, behaviour="hang") as one:
        asked = [one.render_beside("x"), one.beside(one.get, "/readyz")]
        wait_until(lambda: one.engine_pids, "the engine loads")
        assert one.get("/healthz").status_code == 200
        (one.model / "behaviour.txt").write_text("fail")
        one.release()
        for answer in (each.result() for each in asked):
            assert answer.status_code == 503
            error = answer.json()["error"]
            assert error["code"] == "E-MODEL"
            assert error["value"] == "fake"
            assert "Diffusers format missing" in error["message"]
        assert one.wait_for_end() == 1


def test_health_is_answered_and_readiness_waits_while_the_model_loads(tmp_path: Path) -> None:
    with stand(tmp_path, behaviour="hang") as one:
        waiting = one.beside(one.get, "/readyz")
        wait_until(lambda: one.engine_pids, "the engine loads")
        assert one.get("/healthz").json() == {"status": "ok"}
        assert not waiting.done()
        one.release()
        engine = {"device": "auto", "state": "idle", "models": ["fake"]}
        ready = {"status": "ready", "model": "fake", "model_hash": None, "engines": [engine]}
        assert waiting.result().json() == ready


def test_pictures_are_made_one_at_a_time_in_order(tmp_path: Path) -> None:
    with stand(tmp_path) as one:
        jobs = [one.render_beside("slow")]
        one.wait_for_render("slow")
        for number in range(4):
            jobs.append(one.render_beside(f"p{number}"))
            wait_until(lambda n=number: one.metric("darkroom_queue_waiting") == n + 1, "it waits")
        assert one.noted("renders") == ["slow"]
        one.release()
        assert [job.result().status_code for job in jobs] == [200] * 5
        assert one.noted("renders") == ["slow", "p0", "p1", "p2", "p3"]


def test_events_tell_of_each_step_and_end_with_the_picture(fake: Stand) -> None:
    body = {"request": {"prompt": "x", **QUICK, "seed": 9}}
    answer = fake.post("/render", body, headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    assert [name for name, _ in events] == ["progress"] * (len(events) - 1) + ["picture"]
    told = [(data["stage"], data["step"], data["steps"]) for _, data in events[:-1]]
    assert {("denoising", 1, 2), ("denoising", 2, 2)} <= set(told)
    picture = events[-1][1]
    assert base64.b64decode(picture["png"]) == fake.post("/render", body).content
    assert (picture["request"]["seed"], picture["model"], picture["cached"]) == (9, "fake", False)


def test_events_end_with_the_error(fake: Stand) -> None:
    headers = {"accept": "text/event-stream"}
    refused = fake.post("/render", {"request": {"prompt": "x", "steps": 0}}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "E-REQUEST")
    name, failed = events_of(fake.post("/render", {"request": {"prompt": "oom", **QUICK}}, headers=headers))[-1]
    assert (name, failed["error"]["code"]) == ("error", "E-OOM")


def test_the_page_of_all_routes_needs_nothing_from_elsewhere(locked: Stand) -> None:
    page = locked.get("/docs").text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert locked.get(link).status_code == 200, link
