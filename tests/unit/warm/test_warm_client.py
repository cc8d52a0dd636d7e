"""The render client when all goes well: what it writes, what it reports, and that it starts at once."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom.errors import DiskError, RequestError
from darkroom.pictures.png import read_png_text
from darkroom.warm import connection
from tests.unit.warm.bench import LIMIT_S, Bench, change, processes_naming, request, wait_until

SUMMARY = (
    "prompt 212 tokens in 3 chunks | model fake [0123456789] | cpu, fp32 | "
    "Euler 20 steps 64×64 cfg 4 seed 1 | encode 0.01 s, denoise 1.20 s, decode 0.05 s, total 1.26 s"
)


HEAVY = {
    *("torch", "numpy", "pydantic", "yaml", "PIL", "argparse", "asyncio", "dataclasses", "email", "http.client"),
    *("importlib.metadata", "inspect", "subprocess", "tempfile", "typing"),
}


def test_a_job_imports_nothing_that_is_slow_to_import(bench: Bench) -> None:
    receipt = bench.root / "model.json"
    receipt.write_text("{}")
    bench.render(verified=receipt)
    picture, kept = bench.root / "job.png", bench.root / "kept.png"
    command = [
        *("render", str(bench.model), "--engine", '{"device":"auto","dtype":"auto"}', "--kept", str(kept)),
        *("--verified", str(receipt), "--request", request("x")),
        *("--output", str(picture), "--log", str(bench.log)),
    ]
    script = "import sys; from darkroom.cli import command; print(command.main(sys.argv[1:]), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    code, *imported = done.stdout.split()
    assert code == "0"
    assert picture.read_bytes() == kept.read_bytes() == bench.output.read_bytes()
    assert len(bench.pids) == 1
    assert HEAVY.isdisjoint(imported)


def test_picture_carries_its_settings_and_its_log_tells_them_in_one_line(bench: Bench) -> None:
    facts = bench.render("a secret place")
    text = read_png_text(bench.output)
    assert text["parameters"].startswith("a secret place\nSteps: 20, Sampler: Euler")
    assert facts["model_hash"] == "0123456789"
    assert bench.log.read_text() == SUMMARY + "\n"


def test_engine_log_has_a_line_for_each_picture_and_no_prompt(bench: Bench) -> None:
    bench.render("a secret place")
    bench.render("oom-free but secret too")
    with pytest.raises(RequestError):
        bench.render("secret" * 10_000)
    log = bench.files.log.read_text()
    assert log.count(SUMMARY) == 2
    assert re.search(r"ready after \d+\.\d s", log)
    assert "secret" not in log


def test_same_request_gives_the_same_bytes(bench: Bench) -> None:
    bench.render()
    first = bench.output.read_bytes()
    bench.render()
    assert bench.output.read_bytes() == first


def test_what_is_compiled_is_an_engine_of_its_own(bench: Bench) -> None:
    for asked in ("off", "regional"):
        bench.spec = change(bench.spec, compile=asked)
        bench.render()
        assert bench.noted("compile") == [asked]
    assert len(set(bench.noted("engines"))) == 2


def test_wrong_request_comes_back_as_the_error_that_names_it(bench: Bench) -> None:
    with pytest.raises(RequestError, match="E-REQUEST") as caught:
        bench.render("x" * 40_000)
    assert caught.value.exit_code == 2
    assert "E-REQUEST" in bench.log.read_text()


def test_mistake_in_the_engine_is_told_without_a_traceback(bench: Bench) -> None:
    with pytest.raises(Exception, match="ZeroDivisionError: a mistake") as caught:
        bench.render("bug")
    assert "\n" not in str(caught.value)
    assert "Traceback" in bench.files.log.read_text()


def test_full_disk_is_told_and_leaves_the_old_picture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.render()
    before = bench.output.read_bytes()

    def refuse(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskError, match="No space left"):
        bench.render("another")
    assert bench.output.read_bytes() == before
    assert [path.name for path in bench.output.parent.iterdir()] == ["a.png"]


def test_eight_client_processes_at_once_start_one_engine(bench: Bench) -> None:
    script = (
        "import sys; from pathlib import Path; from darkroom.warm.client import *\n"
        "spec = EngineSpec(Path(sys.argv[1]), start_timeout_s=float(sys.argv[3]), command=tuple(sys.argv[4:]))\n"
        'render(spec, \'{"prompt": ""}\', Path(sys.argv[2]))'
    )

    def run(path: Path) -> int:
        command = [sys.executable, "-c", script, str(bench.model), str(path), str(LIMIT_S), *bench.spec.command]
        return subprocess.run(command, check=False).returncode

    outputs = [bench.root / f"{n}.png" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, outputs)) == [0] * 8
    assert all(path.exists() for path in outputs)
    assert len(bench.pids) == 1
    assert processes_naming(str(bench.runtime)) == bench.pids


def test_changed_receipt_gets_a_fresh_engine(bench: Bench) -> None:
    receipt = bench.root / "model.json"
    receipt.write_text("first")
    bench.render(verified=receipt)
    bench.render(verified=receipt)
    assert len(bench.pids) == 1
    receipt.write_text("second")
    bench.render(verified=receipt)
    assert len(bench.pids) == 2


def test_clients_in_threads_stop_at_once_and_the_engine_gives_their_pictures_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_is_stopped", False)
    waiting = [bench.render_beside("slow", bench.root / f"{number}.png") for number in range(2)]
    wait_until(lambda: (bench.model / "renders").exists(), "the first is being rendered")
    wait_until(lambda: len(connection._open) == len(waiting), "the second has been sent")
    connection.stop_clients()
    for future in waiting:
        with pytest.raises(KeyboardInterrupt):
            future.result()
    with pytest.raises(KeyboardInterrupt):
        bench.render("after that")
    assert list(bench.root.glob("*.png")) == []
    monkeypatch.setattr(connection, "_is_stopped", False)
    bench.render("another")
    assert bench.output.exists()
