"""`serve.batch` with a real server and the real engine: pictures that wait are denoised together."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.pictures.png import text_of_png
from tests.serve.counting_engine import CALLS
from tests.serve.stand import Stand, stand
from tests.serve.test_faults_serving import make_models
from tests.unit.warm.bench import wait_until

PROMPTS = ("a fox", "a heron in the reeds, " * 30, "(an owl:1.4)")
SETTINGS: dict[str, Any] = {"width": 64, "height": 64, "steps": 4, "sampler": "Euler a"}
COUNTING_ENGINE = Path(__file__).with_name("counting_engine.py")


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = make_models(tmp_path_factory.mktemp("batches"), model_dir)
    with stand(folder, engine=COUNTING_ENGINE, batch=4, top={"engine": {"device": "cpu"}}) as one:
        assert one.get("/readyz").status_code == 200
        yield one


def calls(server: Stand) -> list[int]:
    return [int(line) for line in (server.folder / CALLS).read_text().split()]


def made_of(png: bytes) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(text_of_png(png, "answer")["darkroom"])
    return made


def difference(one: bytes, other: bytes) -> int:
    """The greatest difference of two PNGs' pixels, in levels of 255."""
    pixels = [np.asarray(Image.open(io.BytesIO(png)), np.int16) for png in (one, other)]
    return int(np.abs(pixels[0] - pixels[1]).max())


def test_pictures_that_wait_together_are_those_that_are_made_alone(server: Stand) -> None:
    def ask(number: int) -> dict[str, Any]:
        return {"prompt": PROMPTS[number], "seed": number, "cfg_scale": 3.5 + 2 * number, **SETTINGS}

    alone = [server.render(**ask(number)).content for number in range(3)]
    assert all("batch" not in made_of(png)["made_on"] for png in alone)
    busy = server.render_beside("another size", width=128, height=128, steps=100)
    wait_until(lambda: server.metric("darkroom_pictures_under_way") == 1, "a picture under way")
    beside = [server.render_beside(**ask(number)) for number in range(3)]
    wait_until(lambda: server.metric("darkroom_queue_waiting") == 3, "pictures that wait")
    before = server.metric("darkroom_batch_pictures_sum")
    together = [each.result().content for each in beside]
    assert busy.result().status_code == 200
    assert calls(server)[-4:] == [6] * 4  # three pictures with guidance, four steps, nothing after them
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        made = made_of(other)
        assert (made["request"]["prompt"], made["made_on"]["batch"]) == (PROMPTS[number], 3)
        assert difference(one, other) <= 1 < difference(other, alone[number - 1])
    wait_until(
        lambda: server.metric("darkroom_batch_pictures_sum") - before >= 9 + 1, "three of three, and the one before"
    )


def test_a_request_for_several_pictures_is_a_batch(server: Stand) -> None:
    before = len(calls(server))
    settings = {"prompt": "x", "width": 64, "height": 64, "steps": 3, "seed": 5, "batch_size": 2, "n_iter": 2}
    images = server.post("/sdapi/v1/txt2img", settings).json()["images"]
    assert calls(server)[before:] == [8] * 3
    made = [made_of(base64.b64decode(image)) for image in images]
    assert [each["request"]["seed"] for each in made] == [5, 6, 7, 8]
    assert {each["made_on"]["batch"] for each in made} == {4}


@pytest.mark.full
def test_one_that_nobody_waits_for_any_more_does_not_cost_the_others(server: Stand) -> None:
    busy = server.render_beside("another size", width=128, height=128, steps=100)
    wait_until(lambda: server.metric("darkroom_pictures_under_way") == 1, "a picture under way")
    before = server.metric('darkroom_pictures_total{model="tiny"}')
    stays = server.render_beside("stays", width=64, height=64, steps=150)
    with server.connect() as connection:
        body = json.dumps({"request": {"prompt": "goes", "width": 64, "height": 64, "steps": 150}}).encode()
        head = f"POST /render HTTP/1.1\r\nhost: {server.host}\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.metric("darkroom_queue_waiting") == 2, "both wait")
        assert busy.result().status_code == 200
        wait_until(lambda: server.metric("darkroom_queue_waiting") == 0, "both under way")
    assert stays.result().status_code == 200
    assert made_of(stays.result().content)["made_on"]["batch"] == 2
    assert server.metric('darkroom_pictures_total{model="tiny"}') - before == 2  # the busy one, and the one that stays
    assert server.metric("darkroom_pictures_under_way") == 0
    assert server.metric("darkroom_engine_restarts_total") == 0
