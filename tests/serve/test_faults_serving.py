"""Faults 36 to 40, 42 and 43 on running servers; 41 has a file of its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from darkroom.pictures.png import text_of_png
from tests.fixtures.assets import write_lora
from tests.serve.faulty_engine import POISON, TOO_LARGE
from tests.serve.stand import QUICK, Stand, stand
from tests.unit.warm.bench import LIMIT_S, wait_until

FAULTY_ENGINE = Path(__file__).with_name("faulty_engine.py")
INTERFACES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "render": ("/render", lambda prompt: {"request": {"prompt": prompt, **QUICK}}),
    "openai": ("/v1/images/generations", lambda prompt: {"prompt": prompt, "size": "64x64", "n": 2}),
    "a1111": ("/sdapi/v1/txt2img", lambda prompt: {"prompt": prompt, "width": 64, "height": 64, "n_iter": 2}),
}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


def prompt_of(answer: httpx.Response) -> str:
    prompt: str = json.loads(text_of_png(answer.content, "answer")["darkroom"])["request"]["prompt"]
    return prompt


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("shared")) as one:
        yield one


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """One that gives a picture three seconds, which the first ones may not get by with on a busy machine."""
    with stand(tmp_path_factory.mktemp("impatient"), timeout_s=3) as one:
        wait_until(lambda: one.render("early").status_code == 200, "a picture in time")
        yield one


def make_models(folder: Path, model_dir: Path) -> Path:
    """A folder to serve the real engine from, with a LoRA named "outline"."""
    (folder / "models/diffusers").mkdir(parents=True)
    (folder / "models/diffusers/tiny").symlink_to(model_dir, target_is_directory=True)
    write_lora(folder / "models/loras/outline.safetensors")
    return folder


@pytest.mark.full
def test_fault_36_a_picture_out_of_memory_costs_itself_only(model_dir: Path, tmp_path: Path) -> None:
    with stand(make_models(tmp_path, model_dir), engine=FAULTY_ENGINE) as one:
        before, other_before = one.render("a fox", seed=5), one.render("a bird", seed=6)
        failed = one.render(f"{TOO_LARGE} <lora:outline:1>", sampler="DPM++ 2M Karras", freeu=True)
        after = one.render("a fox", seed=5)
        other = one.render("a bird", seed=6)
        assert one.metric("darkroom_engine_restarts_total") == 0
    assert failed.status_code == 507
    error = error_of(failed)
    assert (error["code"], error["value"]) == ("E-OOM", "64x64")
    assert "GB are free" in error["why"]
    assert error["hint"].startswith("make a smaller picture")
    assert before.content == after.content
    assert other_before.content == other.content


@pytest.mark.full
def test_fault_37_a_device_that_is_lost_costs_no_picture(model_dir: Path, tmp_path: Path) -> None:
    with stand(make_models(tmp_path, model_dir), engine=FAULTY_ENGINE) as one:
        expected = one.render("p0").content
        jobs = [one.render_beside(POISON), *(one.render_beside(f"p{number}") for number in range(5))]
        answers = [job.result() for job in jobs]
        assert [answer.status_code for answer in answers] == [200] * 6, one.log
        assert answers[1].content == expected
        assert one.metric("darkroom_engine_restarts_total") == 1
        assert one.metric('darkroom_model_loads_total{model="tiny"}') == 2
        assert "E-CUDA" in one.log


def test_fault_37_a_picture_that_kills_its_engine_is_given_up_and_the_others_are_made(tmp_path: Path) -> None:
    with stand(tmp_path) as one:
        jobs = [one.render_beside("slow")]
        one.wait_for_render("slow")
        jobs.append(one.render_beside("kill"))
        wait_until(lambda: one.metric("darkroom_queue_waiting") == 1, "it waits before the others")
        jobs += [one.render_beside(f"p{number}") for number in range(5)]
        wait_until(lambda: one.metric("darkroom_queue_waiting") == 6, "all wait")
        one.release()
        answers = [job.result() for job in jobs]
        assert [answer.status_code for answer in answers] == [200, 503, *[200] * 5]
        assert error_of(answers[1])["code"] == "E-SERVER-DIED"
        assert one.metric("darkroom_engine_restarts_total") == 2
        assert len(one.engine_pids) == 3
        assert one.get("/readyz").status_code == 200


def test_fault_37_an_engine_that_is_killed_from_outside_is_started_again(tmp_path: Path) -> None:
    with stand(tmp_path) as one:
        job = one.render_beside("slow")
        one.wait_for_render("slow")
        os.kill(one.engine_pids[0], signal.SIGKILL)
        wait_until(lambda: one.noted("renders") == ["slow", "slow"], "it is begun again")
        one.release()
        assert job.result().status_code == 200
        assert len(one.engine_pids) == 2


def test_fault_38_a_hundred_clients_at_once_all_get_an_answer(tmp_path: Path) -> None:
    with stand(tmp_path, queue=8) as one, ThreadPoolExecutor(100) as clients:
        held = one.render_beside("slow")
        one.wait_for_render("slow")
        jobs = {f"p{number}": clients.submit(one.render, f"p{number}") for number in range(100)}
        wait_until(lambda: sum(job.done() for job in jobs.values()) == 92, "all but the queue are answered")
        for _ in range(20):
            assert one.get("/healthz").status_code == 200
        one.release()
        assert held.result().status_code == 200
        answers = {prompt: job.result() for prompt, job in jobs.items()}
        accepted = {prompt for prompt, answer in answers.items() if answer.status_code == 200}
        assert len(accepted) == 8
        for prompt, answer in answers.items():
            if prompt in accepted:
                assert prompt_of(answer) == prompt
            else:
                assert answer.status_code == 429
                assert error_of(answer)["code"] == "E-BUSY"
                assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert set(one.noted("finished")) == {"slow", *accepted}


def ask_and_leave(one: Stand, path: str, body: dict[str, Any], accept: str) -> None:
    """Send a request, wait until its picture is begun, and close the connection."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {one.host}", f"Accept: {accept}", "Content-Type: application/json"]
    with one.connect() as connection:
        connection.sendall("\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content)
        one.wait_for_render(body.get("prompt") or body["request"]["prompt"])


@pytest.mark.parametrize(
    ("interface", "accept"), [*((name, "*/*") for name in INTERFACES), ("render", "text/event-stream")]
)
def test_fault_39_a_client_that_leaves_frees_the_engine(shared: Stand, interface: str, accept: str) -> None:
    path, body = INTERFACES[interface]
    shared.forget()
    ask_and_leave(shared, path, body("slow"), accept)
    assert shared.render("next").status_code == 200
    assert shared.noted("renders") == ["slow", "next"]
    assert shared.noted("finished") == ["next"]
    assert "Traceback" not in shared.log
    assert "Task was destroyed" not in shared.log


@pytest.mark.parametrize("interface", INTERFACES)
def test_fault_39_a_request_that_takes_too_long_is_given_up(impatient: Stand, interface: str) -> None:
    path, body = INTERFACES[interface]
    impatient.forget()
    assert impatient.render("first").status_code == 200
    answer = impatient.post(path, body("slow"))
    assert answer.status_code == 504
    error = error_of(answer)
    assert (error["code"], error["type"]) == ("E-TIMEOUT", "server_error")
    assert impatient.render("next").status_code == 200
    assert impatient.noted("finished") == ["first", "next"]


def test_fault_40_sigterm_lets_accepted_pictures_finish(tmp_path: Path) -> None:
    with stand(tmp_path) as one:
        jobs = [one.render_beside("slow")]
        one.wait_for_render("slow")
        jobs += [one.render_beside(f"p{number}") for number in range(3)]
        wait_until(lambda: one.metric("darkroom_queue_waiting") == 3, "all wait")
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining 4 jobs" in one.log, "draining")
        for _ in range(2):
            late = one.render("late")
            assert (late.status_code, error_of(late)["code"]) == (503, "E-BUSY")
            assert int(late.headers["retry-after"]) >= 1
        assert one.get("/readyz").status_code == 503
        assert one.get("/healthz").status_code == 200
        one.release()
        assert [job.result().status_code for job in jobs] == [200] * 4
        assert one.wait_for_end() == 0
        assert "late" not in one.noted("renders")


def test_fault_40_an_idle_server_ends_at_once(tmp_path: Path) -> None:
    with stand(tmp_path) as one, httpx.Client(base_url=one.url, timeout=LIMIT_S) as kept:
        assert kept.get("/readyz").status_code == 200
        one.process.send_signal(signal.SIGINT)
        assert one.wait_for_end() == 0
        assert "draining 0 jobs" in one.log


def test_fault_40_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    with stand(tmp_path) as one:
        job = one.render_beside("stuck")
        one.wait_for_render("stuck")
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining 1 job" in one.log, "draining")
        one.process.send_signal(signal.SIGTERM)
        assert one.wait_for_end() == 128 + signal.SIGTERM
        with pytest.raises(httpx.TransportError):
            job.result()


@pytest.mark.parametrize("prompt", [None, "slow", "stuck"])
def test_fault_40_no_engine_is_left_behind_a_server_that_was_killed(tmp_path: Path, prompt: str | None) -> None:
    with stand(tmp_path) as one:
        assert one.get("/readyz").status_code == 200
        if prompt is not None:
            one.render_beside(prompt)
            one.wait_for_render(prompt)
        one.process.kill()
        assert one.wait_for_end() == -signal.SIGKILL
        assert len(one.engine_pids) == 1


@pytest.mark.full
def test_fault_40_a_client_that_takes_no_answer_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    body = {"prompt": "noise", "size": "1024x1024", "n": 8, "steps": 1}  # more than the kernel's buffers take
    content = json.dumps(body).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    with stand(tmp_path, read_timeout_s=1, max_body_bytes=10**6) as one, one.connect() as connection:
        connection.sendall(head.format(one.host, len(content)).encode() + content)
        wait_until(lambda: len(one.noted("finished")) == 8, "the pictures are made")
        one.process.send_signal(signal.SIGTERM)
        assert one.wait_for_end() == 0


@pytest.mark.parametrize("interface", INTERFACES)
def test_fault_43_a_picture_of_nan_is_an_error_and_no_black_picture(fake: Stand, interface: str) -> None:
    path, body = INTERFACES[interface]
    answer = fake.post(path, body("nan"))
    assert answer.status_code == 500
    error = error_of(answer)
    assert error["code"] == "E-NANIMAGE"
    assert "VAE" in error["hint"]
    assert b"\x89PNG" not in answer.content
