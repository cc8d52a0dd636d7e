"""`darkroom runpod` under the real SDK with stand-ins for RunPod's queue and for a bucket."""

from __future__ import annotations

import io
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from PIL import Image

from darkroom.pictures.png import text_of_png
from tests.fixtures.serving import LIMIT_S, wait_for
from tests.serve.runpod_platform import Bucket, Platform, is_progress
from tests.serve.runpod_running import COMMAND, JOB, Running, decode, is_alive, post, serve_api, start

pytestmark = pytest.mark.full

STAND_IN = (sys.executable, "-m", "tests.serve.runpod_with_stand_in")


@pytest.fixture
def platform() -> Iterator[Platform]:
    platform = Platform()
    with platform.running():
        yield platform


def is_pinged(platform: Platform) -> bool:
    """Whether the SDK's heartbeat has come."""
    return any(path.startswith("/ping/worker") for _, path in platform.seen)


@pytest.fixture
def stand_in(tmp_path: Path, platform: Platform) -> Callable[[], AbstractContextManager[Running]]:
    """Starts a worker for the platform whose engine's behaviour the prompts decide."""
    (tmp_path / "behaviour.txt").write_text("")
    return lambda: start(tmp_path, [*STAND_IN, tmp_path], platform.environment)


def test_with_a_bucket_pictures_are_uploaded_and_linked(model_dir: Path, tmp_path: Path) -> None:
    bucket = Bucket()
    with bucket.running(), serve_api(tmp_path, model_dir, bucket.environment) as (address, worker):
        output = post(address, "/runsync", {"input": {**JOB, "num_images": 2}})["output"]
        assert output["image_url"] == output["images"][0]
        pngs = []
        for link in output["images"]:
            assert link.startswith(bucket.address)
            with urllib.request.urlopen(link, timeout=LIMIT_S) as answer:
                pngs.append(answer.read())
        for png, seed in zip(pngs, (5, 6), strict=True):
            assert f"Seed: {seed}," in text_of_png(png, "bucket")["parameters"]
        assert "secret-of-a-key" not in worker.log
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_fault_47_a_bucket_that_refuses_is_an_error_in_one_line(model_dir: Path, tmp_path: Path) -> None:
    bucket = Bucket(status=403)
    with bucket.running(), serve_api(tmp_path, model_dir, bucket.environment) as (address, _):
        answer = post(address, "/runsync", {"input": JOB})
        assert answer["status"] == "FAILED"
        assert answer["error"].startswith("E-DARKROOM upload of the pictures: failed with ClientError")


def test_a_job_of_the_platform_reports_how_far_it_is_and_then_its_result(
    model_dir: Path, tmp_path: Path, platform: Platform
) -> None:
    with start(tmp_path, [*COMMAND, model_dir, "--device", "cpu"], platform.environment) as worker:
        platform.submit("long", **{**JOB, "width": 128, "height": 128, "steps": 150})
        result = platform.result("long")
        assert Image.open(io.BytesIO(decode(result["output"]["image_url"]))).size == (128, 128)
        steps = [told["step"] for told in platform.progress("long")]
        assert steps == sorted(steps)
        assert 1 <= len(steps) < 150
        assert {told["steps"] for told in platform.progress("long")} == {150}
        assert JOB["prompt"] not in worker.log


def test_fault_47_a_cancelled_job_gives_its_engine_free(
    stand_in: Callable[[], AbstractContextManager[Running]], tmp_path: Path, platform: Platform
) -> None:
    with stand_in():
        platform.submit("first", prompt="slow")
        wait_for(lambda: (tmp_path / "renders").is_file() or None)
        platform.stop("first")
        platform.submit("second", prompt="quick", seed=9)
        assert platform.result("second")["output"]["seed"] == 9
        assert not [data for number, data in platform.posted if number == "first" and not is_progress(data)]


def test_fault_47_sigterm_lets_the_job_under_way_finish(
    stand_in: Callable[[], AbstractContextManager[Running]], tmp_path: Path, platform: Platform
) -> None:
    with stand_in() as worker:
        platform.submit("last", prompt="slow", seed=3)
        wait_for(lambda: (tmp_path / "renders").is_file() or None)
        wait_for(lambda: is_pinged(platform) or None)
        others = worker.others
        assert len(others) > 1  # its engine, and the SDK's heartbeat
        worker.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert platform.result("last")["output"]["seed"] == 3
        assert worker.process.wait(LIMIT_S) in (0, 143)
        wait_for(lambda: not any(map(is_alive, others)) or None)


def test_no_engine_outlives_a_worker_that_is_killed(
    stand_in: Callable[[], AbstractContextManager[Running]], tmp_path: Path, platform: Platform
) -> None:
    with stand_in() as worker:
        wait_for(lambda: is_pinged(platform) or None)
        heartbeats = worker.others
        (engine,) = {int(number) for number in (tmp_path / "engines").read_text().split()}
        assert is_alive(engine)
        worker.end(signal.SIGKILL)
        wait_for(lambda: not is_alive(engine) or None)
        for number in filter(is_alive, heartbeats):  # which the SDK starts, and leaves behind
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def test_fault_47_only_a_worker_without_an_engine_asks_to_be_replaced(
    stand_in: Callable[[], AbstractContextManager[Running]], platform: Platform
) -> None:
    with stand_in():
        for number, prompt, code in (("1", "oom", "E-OOM"), ("2", "bug", "E-DARKROOM"), ("3", "kill", "E-SERVER-DIED")):
            platform.submit(number, prompt=prompt)
            result = platform.result(number)
            assert result["error"].startswith(f"{code} ")
            assert "stopPod" not in result
            assert "Traceback" not in result["error"]
        for number in ("4", "5"):
            platform.submit(number, prompt="kill")
            result = platform.result(number)
        assert result["error"].startswith("E-SERVER-DIED ")
        assert result["stopPod"] is True
