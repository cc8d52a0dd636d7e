"""Projects that share a models folder, in real runs: what one has made the other uses, and neither takes it away."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.claims import claim
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.fixtures.remote import FileServer, Resource
from tests.fixtures.remote.weights import embedding_bytes
from tests.workflow.project import DEMO_SHEET, Project, wait_until
from tests.workflow.test_faults import kill

SLOW = "defaults: {steps: 900}\nprompts:\n  - {id: slow, prompt: a picture that takes its time}\n"
FP32 = {"checkpoints": {"tiny": {"source": "checkpoint.safetensors", "dtype": "fp32"}}}


class Pair:
    """Two projects, `a` and `b`, with the same checkpoint and the same models folder outside of both."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.models = folder / "models"
        self.a, self.b = Project(folder / "a"), Project(folder / "b")
        for project in (self.a, self.b):
            project.folder.mkdir()
            project.checkpoint.hardlink_to(checkpoint)
            self.configure(project)
            project.write("prompts/first.yaml", DEMO_SHEET)

    def configure(self, project: Project, **changes: Any) -> None:
        project.configure(**{"models_dir": str(self.models)} | changes)

    def state(self) -> dict[str, int]:
        """Everything in the models folder that jobs make, and when it was written."""
        paths = [path for path in self.models.rglob("*") if path.is_file() and ".runs" not in path.parts]
        return {str(path): path.stat().st_mtime_ns for path in paths if ".cache" not in path.parts}

    def records(self) -> list[dict[str, Any]]:
        """What the runs that are there say of themselves."""
        return [json.loads(path.read_bytes()) for path in (self.models / ".runs").glob("run.claim.*")]

    def is_making(self) -> bool:
        return any(record["makes"] for record in self.records())

    @contextmanager
    def b_renders(self) -> Iterator[None]:
        """A run of `b` works with the models meanwhile."""
        self.b.write("prompts/first.yaml", SLOW)
        process = self.b.start("results/")
        try:
            wait_until(lambda: "ready" in self.b.engine_log(), "the engine is ready")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            self.b.release()  # Snakemake waits for the job that runs
            process.communicate()

    def assert_nothing_is_left(self) -> None:
        assert [p for p in self.models.rglob("*") if ".claim." in p.name or "darkroom-tmp" in p.name] == []


@pytest.fixture
def pair(tmp_path: Path, finished: Project) -> Iterator[Pair]:
    pair = Pair(tmp_path, finished.checkpoint)
    yield pair
    pair.a.close()
    pair.b.close()


def jobs(project: Project) -> set[str]:
    """The stages of which this project has ever run a job."""
    return {path.name for path in (project.folder / "logs").iterdir()} - {"render", "gallery"}


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    watch = threading.Timer(120, process.kill)  # so that a broken test ends
    watch.start()
    try:
        for line in iter(process.stdout.readline, ""):
            seen.append(line)
            if text in line:
                return
            assert "waiting" not in line, "".join(seen)
    finally:
        watch.cancel()
    raise AssertionError(f"never said {text!r}: {''.join(seen)}")


def refused(project: Project, code: str, exit_code: int) -> str:
    done = project.run()
    assert done.returncode == exit_code, done.stdout
    return next(line for line in done.stdout.splitlines() if line.startswith(f"{code} "))


def test_at_once_one_converts_and_the_other_waits_and_only_renders(pair: Pair, finished: Project) -> None:
    with claim(pair.models / "diffusers/.tiny"):  # which keeps the conversion from going on
        first = pair.a.start("results/")
        wait_until(pair.is_making, "the first says what it makes")
        second = pair.b.start("results/")
        read_until(second, f"checkpoints.tiny: a run in {pair.a.folder} is making it, waiting")
        wait_until(lambda: list((pair.models / "checkpoints").glob("*.receipt.json")), "it is fetched meanwhile")
    finish(first)
    finish(second)
    assert jobs(pair.a) == {"fetch", "convert", "verify"}
    assert jobs(pair.b) == set()
    assert pair.a.pictures() == pair.b.pictures() == finished.pictures()
    pair.assert_nothing_is_left()


@pytest.mark.full
def test_started_together_again_and_again_there_is_one_conversion(pair: Pair) -> None:
    for _ in range(3):
        processes = [project.start("models/") for project in (pair.a, pair.b)]
        for process in processes:
            finish(process)
        assert len(list(pair.models.glob("verified/*.json"))) == 1
        assert sorted(
            map(len, map(lambda p: jobs(p) if (p.folder / "logs").exists() else set(), (pair.a, pair.b)))
        ) == [0, 3]
        shutil.rmtree(pair.models)
        for project in (pair.a, pair.b):
            shutil.rmtree(project.folder / "logs", ignore_errors=True)


def test_after_another_everything_is_there_and_pictures_are_all_there_is_to_do(pair: Pair, finished: Project) -> None:
    pair.a.make("results/")
    before = pair.state()
    pair.b.make("results/")
    assert jobs(pair.b) == set()
    assert pair.state() == before
    assert pair.b.pictures() == finished.pictures()
    for project in (pair.a, pair.b):
        assert "Nothing to be done" in project.make("results/")


@pytest.mark.parametrize("other", ["dtype", pytest.param("bytes", marks=pytest.mark.full)])
def test_another_thing_of_the_same_name_is_refused_and_never_built_back_and_forth(pair: Pair, other: str) -> None:
    pair.a.make("models/")
    before = pair.state()
    if other == "dtype":
        pair.configure(pair.b, **FP32)
        why = "dtype is fp16 there, fp32 here"
        stale = pair.models / "diffusers/tiny.audit.json"
    else:
        pair.b.checkpoint.unlink()
        write_random_checkpoint(pair.b.checkpoint, seed=1)
        why = "its SHA256 is"
        stale = pair.models / "checkpoints/tiny.receipt.json"
    line = refused(pair.b, "E-SHARED", 2)
    assert f"{pair.a.folder} has made another one of that name: {why}" in line
    assert line.endswith(f"delete {stale}.")
    assert pair.state() == before
    assert pair.b.pictures() == {}
    assert "Nothing to be done" in pair.a.make("models/")
    # What the hint says hands it over; then it is the other one's turn to be refused.
    stale.unlink()
    pair.b.make("models/")
    refused(pair.a, "E-SHARED", 2)
    pair.assert_nothing_is_left()


@pytest.mark.full
def test_own_settings_may_change_but_not_while_another_run_works_with_them(pair: Pair) -> None:
    pair.a.make("models/")
    with pair.b_renders():
        before = pair.state()
        pair.configure(pair.a, **FP32)
        line = refused(pair.a, "E-IN-USE", 1)
        assert str(pair.b.folder) in line
        assert pair.state() == before
    pair.configure(pair.a, **FP32)
    pair.a.make("models/")
    refused(pair.b, "E-SHARED", 2)


@pytest.mark.full
def test_forcing_what_another_run_works_with_is_refused(pair: Pair) -> None:
    pair.a.make("models/")
    with pair.b_renders():
        before = pair.state()
        forced = pair.a.run("--force", str(pair.models / "diffusers/tiny"))
        assert forced.returncode == 1
        assert "E-IN-USE" in forced.stdout
        assert pair.state() == before
    assert pair.a.run("--force", str(pair.models / "diffusers/tiny")).returncode == 0  # and the folder isn't locked


@pytest.mark.full
def test_one_killed_while_it_converts_is_taken_over_from_and_then_goes_on(pair: Pair, finished: Project) -> None:
    with claim(pair.models / "diffusers/.tiny"):
        first = pair.a.start("results/")
        wait_until(lambda: list((pair.a.folder / "logs").glob("convert*")), "it is about to convert")
        read_until(first, "somebody else is making it, waiting")
        kill(first)  # its conversion goes on
        second = pair.b.start("results/")
        read_until(second, "somebody else is making it, waiting")
    finish(second)
    before = pair.state()
    output = pair.a.make("results/")
    assert "Job stats" in output
    assert "convert" not in output
    assert pair.state() == before
    assert pair.a.pictures() == pair.b.pictures() == finished.pictures()
    pair.assert_nothing_is_left()


@pytest.mark.full
def test_settings_that_changed_after_snakemake_lost_its_memory_are_seen(project: Project) -> None:
    shutil.rmtree(project.folder / ".snakemake")
    project.configure(**FP32)
    project.make("models/")
    assert json.loads((project.folder / "models/verified/tiny.json").read_bytes())["dtype"] == "fp32"


@pytest.mark.full
def test_a_receipt_of_the_folder_before_is_made_anew(pair: Pair) -> None:
    pair.a.make("models/")
    verified = pair.models / "verified/tiny.json"
    right = verified.read_bytes()
    receipt = json.loads(right)
    receipt["files"]["unet/config.json"]["sha256"] = "0" * 64
    verified.write_text(json.dumps(receipt))
    pair.b.make("models/")
    assert verified.read_bytes() == right
    assert jobs(pair.b) == {"verify"}


@pytest.mark.full
def test_what_another_fetched_stands_in_the_own_lock_file_too(pair: Pair) -> None:
    with FileServer() as server:
        server.add("/easy.safetensors", Resource(embedding_bytes(3)))
        for project in (pair.a, pair.b):
            pair.configure(project, embeddings={"easy": {"source": server.url("/easy.safetensors")}})
        pair.a.make("models/")
        asked = len(server.requests())
        pair.b.make("models/")
        assert len(server.requests()) == asked
    locks = [(project.folder / "config/checkpoints.lock.yaml").read_bytes() for project in (pair.a, pair.b)]
    assert locks[0] == locks[1]
    assert "Nothing to be done" in pair.b.make("models/")
