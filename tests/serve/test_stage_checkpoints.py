"""Stages on another checkpoint: the same bytes over HTTP, by hand and as jobs of the workflow."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from darkroom.checkpoint.audit import read_identity
from darkroom.pictures.png import text_of_png
from darkroom.request.render_request import RenderRequest
from tests.fixtures.serving import make_site, serve
from tests.serve.test_native import events_of

SETTINGS = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 3, "seed": 4}
HIRES = {"scale": 2, "denoising_strength": 0.5, "checkpoint": "other"}
CHAIN = [{"hires": HIRES}, {"upscale": {"scale": 1.5}}, {"img2img": {"denoising_strength": 0.4}}]


@pytest.fixture(scope="module")
def site(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("chains"), model_dir)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serve(site) as address:
        yield address


def ask(address: str, route: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{address}{route}", json=body, headers=headers, timeout=240)


def command(site: Path, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "DARKROOM_LEASE"}
    done = subprocess.run(
        [sys.executable, "-m", "darkroom.cli", "render", *arguments],
        cwd=site,
        env=environment | {"XDG_RUNTIME_DIR": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def made_of(png: bytes) -> tuple[dict[str, Any], str]:
    texts = text_of_png(png, "answer")
    return json.loads(texts["darkroom"]), texts["parameters"]


def test_a_chain_over_two_checkpoints_is_the_same_over_http_and_by_hand(site: Path, address: str) -> None:
    sent = ask(address, "/render", {"request": {**SETTINGS, "stages": CHAIN}, "model": "tiny"})
    assert sent.status_code == 200, sent.text
    plain = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    stages = [f"--then={json.dumps(stage)}" for stage in CHAIN]
    command(site, "models/diffusers/tiny", *plain, *stages, "--output", "by-hand.png")
    assert (site / "by-hand.png").read_bytes() == sent.content
    made, infotext = made_of(sent.content)
    names = {name: read_identity(site / "models/diffusers" / name) for name in ("tiny", "other")}
    assert (made["model"], made["model_hash"]) == names["tiny"]
    assert [(each["kind"], each["name"], each["short"]) for each in made["assets"]] == [
        ("checkpoints", "other", names["other"][1])
    ]
    assert f"Model hash: {names['tiny'][1]}" in infotext
    own = ask(address, "/render", {"request": {**SETTINGS, "stages": [{"hires": {**HIRES, "checkpoint": "tiny"}}]}})
    assert "checkpoint" not in made_of(own.content)[0]["request"]["stages"][0]["hires"]


def test_a1111s_second_pass_on_another_checkpoint(address: str) -> None:
    native = ask(address, "/render", {"request": {**SETTINGS, "stages": CHAIN[:1]}, "model": "tiny"})
    other = {"hr_checkpoint_name": "other.safetensors", "override_settings": {"sd_model_checkpoint": "tiny"}}
    body = {**SETTINGS, "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, **other}
    answer = ask(address, "/sdapi/v1/txt2img", body)
    assert answer.status_code == 200, answer.text
    png = base64.b64decode(answer.json()["images"][0])
    assert png == native.content
    infotext = made_of(png)[1]
    assert "Denoising strength: 0.5, RNG: CPU, Hires checkpoint: other [" in infotext
    # The text alone gives the picture again, as A1111's clients send it.
    again = ask(address, "/sdapi/v1/txt2img", {"infotext": infotext})
    assert base64.b64decode(again.json()["images"][0]) == png
    answer = ask(address, "/sdapi/v1/txt2img", {**body, "hr_checkpoint_name": "othr"})
    assert (answer.status_code, answer.json()["error"]["what"]) == (404, "request: hr_checkpoint_name")
    answer = ask(address, "/render", {"request": {**SETTINGS, "stages": [{"img2img": {"checkpoint": "../tiny"}}]}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "E-UNKNOWN")


def test_progress_goes_on_over_a_change_of_the_checkpoint(address: str) -> None:
    body = {"request": {**SETTINGS, "seed": 5, "stages": CHAIN}, "model": "tiny", "previews": 2}
    *told, (name, _) = events_of(ask(address, "/render", body, accept="text/event-stream"))
    assert name == "picture"
    progress = [each for each in told if each[0] == "progress"]
    previews = [base64.b64decode(data["png"]) for kind, data in told if kind == "preview"]
    assert [Image.open(io.BytesIO(png)).size for png in previews] == [(64, 64), (128, 128)]
    assert ask(address, "/render", body).json()["error"]["what"] == "request: previews"
    steps = [data["step"] for _, data in progress]
    assert steps == sorted(steps) and {data["pictures"] for _, data in progress} == {1}
    assert progress[-1][1]["step"] == progress[-1][1]["steps"]


@pytest.mark.full
def test_a_chain_over_two_checkpoints_is_the_same_as_jobs_of_the_workflow(site: Path, address: str) -> None:
    chain = RenderRequest.from_settings({**SETTINGS, "stages": CHAIN[:1]})
    first = RenderRequest.from_settings(SETTINGS)
    command(
        site, "models/diffusers/tiny", "--request", first.to_json(), "--output", "a.png", "--latent", "a.safetensors"
    )
    before = ("--before", "a.png", "--before-latent", "a.safetensors", "--checkpoint", "tiny")
    command(site, "models/diffusers/other", "--request", chain.to_json(), *before, "--output", "b.png")
    sent = ask(address, "/render", {"request": {**SETTINGS, "stages": CHAIN[:1]}, "model": "tiny"})
    assert (site / "b.png").read_bytes() == sent.content
