"""`darkroom runpod` under the real SDK: its local test and its local API."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.base import worker_words
from darkroom.checkpoint import convert
from darkroom.pictures.png import text_of_png
from darkroom.serve.runpod_schema import data_uri
from tests.fixtures.serving import wait_for
from tests.serve.runpod_platform import Loopback
from tests.serve.runpod_running import JOB, ROOT, decode, is_alive, post, run, serve_api

DEMO = ROOT / "workflow/resources/demo/darkroom-demo.safetensors"


@pytest.fixture(scope="module")
def api(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_api(tmp_path_factory.mktemp("api"), model_dir) as (address, _):
        yield address


def test_the_repositorys_test_input_runs_without_an_option(tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "models/diffusers/demo")
    shutil.copy(ROOT / "test_input.json", tmp_path)
    done = run(tmp_path, "models/diffusers/demo")
    assert done.returncode == 0, done.stdout
    assert "Job local_test completed successfully" in done.stdout
    assert "prompt 257 tokens in 4 chunks" in done.stdout
    said = {line[24:] for line in done.stdout.splitlines()}  # without the time
    here = worker_words
    expected = {here.SETTING_UP, here.WAS_CONVERTED, here.LOADED, here.UNLIMITED, here.TOKEN_COUNT % 257}
    assert said >= {*expected, here.LONG_PROMPT, here.FOUND_AT % (tmp_path / "models/diffusers/demo")}
    assert not any(word in done.stdout for word in ("✓ VAE tiling", "GPU memory:", here.RESIDENT, here.OFFLOAD, "✗"))
    prompt = json.loads((ROOT / "test_input.json").read_text())["input"]["prompt"]
    assert prompt[:40] not in done.stdout


@pytest.mark.full
def test_fault_47_a_bad_test_input_ends_in_one_line(model_dir: Path, tmp_path: Path) -> None:
    job = json.dumps({"input": {"prompt": "a star", "num_inference_steps": 0}})
    done = run(tmp_path, model_dir, "--device", "cpu", "--test_input", job)
    assert done.returncode == 1
    assert "failed with error: E-REQUEST input: num_inference_steps '0'" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_missing_model_is_said_and_nothing_takes_its_place(tmp_path: Path) -> None:
    line = "Diffusers format missing - build process failed"
    for options, env in (
        (("models/diffusers/demo",), {}),
        ((), {"DIFFUSERS_DIR": "models/diffusers/demo"}),
        ((), {}),
    ):
        done = run(tmp_path, *options, env=env)
        assert done.returncode == 1, done.stdout
        assert {worker_words.NOT_FOUND, line} <= {each[24:] for each in done.stdout.splitlines()}
        assert "✓" not in done.stdout
        assert "E-MODEL" in done.stdout
        assert "Traceback" not in done.stdout


@pytest.mark.full
def test_the_environment_or_a_configuration_names_the_model(model_dir: Path, tmp_path: Path) -> None:
    job = json.dumps({"input": JOB})
    done = run(tmp_path, "--device", "cpu", "--test_input", job, env={"DIFFUSERS_DIR": str(model_dir)})
    assert done.returncode == 0, done.stdout
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("checkpoints: {tiny: {source: tiny.safetensors}}\nsheets: [a.txt]\n")
    (tmp_path / "models/diffusers").mkdir(parents=True)
    (tmp_path / "models/diffusers/tiny").symlink_to(model_dir, target_is_directory=True)
    done = run(tmp_path, "--device", "cpu", "--test_input", job)
    assert done.returncode == 0, done.stdout


def test_what_would_go_wrong_later_is_refused_before_anything_is_loaded(model_dir: Path, tmp_path: Path) -> None:
    done = run(tmp_path, model_dir, "--rp_serve_api", "--rp_api_host", "0.0.0.0")
    assert (done.returncode, "E-CONFIG --rp_api_host '0.0.0.0'" in done.stdout) == (2, True), done.stdout
    done = run(tmp_path, model_dir, env={"BUCKET_ENDPOINT_URL": "https://bucket.example"})
    assert (done.returncode, "E-CONFIG BUCKET_ENDPOINT_URL: is set without" in done.stdout) == (2, True), done.stdout


def test_runsync_gives_pictures_as_worker_sdxl_does(api: str) -> None:
    answer = post(api, "/runsync", {"input": {**JOB, "num_images": 2}})
    assert answer["status"] == "COMPLETED", answer
    output = answer["output"]
    assert output["image_url"] == output["images"][0]
    assert (output["seed"], output["seeds"], output["model"]) == (5, [5, 6], "tiny")
    pngs = [decode(image) for image in output["images"]]
    assert pngs[0] != pngs[1]
    for png, seed in zip(pngs, (5, 6), strict=True):
        assert Image.open(io.BytesIO(png)).size == (64, 64)
        assert f"Seed: {seed}," in text_of_png(png, "answer")["parameters"]
    assert [facts["steps"] for facts in output["facts"]] == [2, 2]
    assert "a red star" not in json.dumps(output["facts"])
    again = post(api, "/runsync", {"input": JOB})["output"]
    assert decode(again["image_url"]) == pngs[0]


def test_a_picture_in_image_url_gets_the_refiners_pass(api: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 30, 30)).save(buffer, "JPEG")
    url = data_uri(buffer.getvalue()).replace("image/png", "image/jpeg")
    job = {"prompt": "a red star", "seed": 5, "image_url": url, "refiner_inference_steps": 8, "strength": 0.5}
    answer = post(api, "/runsync", {"input": {**job, "width": 512, "num_images": 2}})
    assert answer["status"] == "COMPLETED", answer
    output = answer["output"]
    assert output["ignored"].keys() == {"width"}
    pngs = [decode(image) for image in output["images"]]
    assert [Image.open(io.BytesIO(png)).size for png in pngs] == [(96, 64)] * 2
    assert pngs[0] != pngs[1]
    assert "Denoising strength: 0.5" in text_of_png(pngs[0], "answer")["parameters"]


def test_a_controls_picture_is_taken_out_of_the_job_and_checked(api: str) -> None:
    """The server has no ControlNet, so a picture that is right leads to the name that isn't."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    for image, error in (
        (data_uri(buffer.getvalue()), "E-CONTROL"),
        ("https://example.com/x.png", "E-SSRF"),
        ("bm90aGluZw==", "E-REQUEST input: control.0.image"),
    ):
        job = {"input": {**JOB, "control": [{"model": "lines", "image": image}]}}
        assert error in str(post(api, "/runsync", job))


def test_run_and_status_give_the_same(api: str) -> None:
    begun = post(api, "/run", {"input": JOB})
    answer = post(api, f"/status/{begun['id']}")
    assert answer["status"] == "COMPLETED", answer
    assert answer["output"]["images"] == post(api, "/runsync", {"input": JOB})["output"]["images"]


def test_without_a_seed_every_job_is_another_picture_and_says_its_seed(api: str) -> None:
    job = {key: value for key, value in JOB.items() if key != "seed"}
    first, second = (post(api, "/runsync", {"input": job})["output"] for _ in range(2))
    assert first["seed"] != second["seed"]
    assert post(api, "/runsync", {"input": {**job, "seed": first["seed"]}})["output"]["images"] == first["images"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": None}, "E-REQUEST"),
        ({"width": 10**6}, "E-REQUEST"),
        ({"width": 4096, "height": 4096}, "E-LIMIT"),
        ({"num_inference_steps": 10**9, "steps": None}, "E-REQUEST"),
        ({"num_images": 99}, "E-LIMIT"),
        ({"scheduler": "K_EULR"}, "E-REQUEST"),
        ({"model": "../other"}, "E-UNKNOWN"),
        ({"prompt": "<lora:nobody:1>"}, "E-LORA"),
        ({"vae": "/etc/passwd"}, "E-REQUEST"),
        ({"image_url": "data:image/png;base64,AAAA"}, "E-REQUEST input: image_url: is no"),
    ],
)
def test_fault_47_a_bad_job_fails_in_one_line_and_the_next_one_works(
    api: str, fields: dict[str, Any], code: str
) -> None:
    answer = post(api, "/runsync", {"input": {**JOB, **fields}})
    assert answer["status"] == "FAILED"
    assert answer["error"].startswith(f"{code} ")
    assert "Traceback" not in answer["error"] and "\n" not in answer["error"]
    assert post(api, "/runsync", {"input": JOB})["status"] == "COMPLETED"


def test_fault_42_no_address_of_a_job_is_ever_asked(api: str) -> None:
    canary = Loopback()
    with canary.running():
        port = canary.address.rpartition(":")[2]
        for url in (
            f"{canary.address}/a.png",
            f"http://localhost:{port}/a.png",
            f"http://[::ffff:127.0.0.1]:{port}/a.png",
            f"http://user:word@127.0.0.1:{port}/redirect",
            f"//127.0.0.1:{port}/a.png",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:10.0.0.1]/a.png",
            "file:///etc/hostname",
        ):
            answer = post(api, "/runsync", {"input": {**JOB, "image_url": url}})
            assert answer["error"].startswith("E-SSRF input: image_url"), answer
    assert canary.seen == []


@pytest.mark.full
def test_fault_47_sigterm_ends_the_local_api_and_its_engine(model_dir: Path, tmp_path: Path) -> None:
    with serve_api(tmp_path, model_dir) as (address, worker):
        post(address, "/runsync", {"input": JOB})
        others = worker.others
        assert others
        assert worker.end() in (0, 143)
        wait_for(lambda: not any(map(is_alive, others)) or None)
        assert "Traceback" not in worker.log


def test_importing_the_worker_loads_and_opens_nothing() -> None:
    check = "import sys, darkroom.serve.runpod_worker; print(sorted({'torch', 'runpod', 'boto3', 'requests'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sdk_knows_the_options_that_it_is_passed(model_dir: Path) -> None:
    import runpod.serverless

    from darkroom.serve.options import _SWITCHES, _VALUES

    known = {name for action in runpod.serverless.parser._actions for name in action.option_strings}
    assert {f"--{name}" for name in (*_VALUES, *_SWITCHES)} | {"-h", "--help"} == known
