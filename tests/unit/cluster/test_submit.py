"""Handing a job to a scheduler: what is deleted before, who else is in the queue, and a scheduler that is busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.cluster import kept, submit
from darkroom.errors import ClusterError
from tests.unit.cluster.commands import Commands

BUSY = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    monkeypatch.setenv("DARKROOM_LEASE", "1:1")
    monkeypatch.setattr(submit, "_PAUSES_S", (0, 0, 0))
    commands.answer("sbatch", "12;cluster\n")
    commands.answer("scancel")


def write_script(attempt: int = 1) -> Path:
    script = Path("job.sh")
    script.write_text(
        f"#!/bin/sh\ncd . && python -m snakemake --snakefile Snakefile --attempt {attempt} --mode remote\n"
    )
    return script


def hand_in(*outputs: Path, attempt: int = 1) -> int:
    options = ["--cancel", "scancel", "--logs", "logs/slurm", *map(str, outputs)]
    return submit.main([*options, "--", "sbatch", "--parsable", str(write_script(attempt))])


def test_it_prints_the_id_alone_and_makes_the_folder_for_logs(
    capsys: pytest.CaptureFixture[str], commands: Commands
) -> None:
    assert hand_in() == 0
    assert capsys.readouterr().out == "12\n"
    assert Path("logs/slurm").is_dir()
    assert commands.calls("sbatch") == ["--parsable job.sh"]


def test_what_is_to_be_made_is_deleted_but_not_what_the_first_attempt_finished() -> None:
    picture, folder = Path("results/a.png"), Path("models/diffusers/tiny")
    for attempt, stays in ((1, False), (2, True)):
        folder.mkdir(parents=True, exist_ok=True)
        picture.parent.mkdir(exist_ok=True)
        picture.touch()
        assert hand_in(picture, folder, Path("results/none.png"), attempt=attempt) == 0
        assert picture.exists() == folder.exists() == stays


def test_snakemake_on_the_node_keeps_going() -> None:
    hand_in()
    assert "python -m snakemake --keep-going --snakefile" in Path("job.sh").read_text()


def test_fault_35_jobs_of_a_run_that_was_killed_are_cancelled_and_what_they_finished_is_kept(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_in()
    kept.FOLDER.mkdir(parents=True)
    hand_in()
    assert commands.calls("scancel") == []
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    hand_in()
    assert commands.calls("scancel") == ["12"]
    assert "left in the queue: 12" in capsys.readouterr().err
    assert kept.FOLDER.exists()


def test_what_a_run_kept_is_dropped_by_the_next_if_it_ended_by_itself(
    monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    hand_in()
    submit.forget("12")
    kept.FOLDER.mkdir(parents=True)
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    hand_in()
    assert not kept.FOLDER.exists()
    assert commands.calls("scancel") == []


def test_fault_46_a_scheduler_that_is_busy_is_asked_again(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("sbatch", "12\n", error=BUSY, failures=2)
    assert hand_in() == 0
    heard = capsys.readouterr()
    assert heard.out == "12\n"
    assert heard.err.count("Socket timed out") == heard.err.count("trying again") == 2


def test_a_job_that_the_scheduler_does_not_want_is_an_error_at_once(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("sbatch", error="sbatch: error: invalid partition specified: gpus")
    assert hand_in() == 1
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith("E-CLUSTER job not taken by 'sbatch': sbatch: error: invalid partition")
    assert len(commands.calls("sbatch")) == 1


def test_a_scheduler_that_stays_busy_is_given_up(commands: Commands) -> None:
    commands.answer("sbatch", error=BUSY)
    with pytest.raises(ClusterError, match="Socket timed out"):
        submit.submit(["sbatch", "job.sh"])
    assert len(commands.calls("sbatch")) == 4


def test_a_command_that_prints_no_id() -> None:
    with pytest.raises(ClusterError, match="no job's id"):
        submit.submit(["true", "job.sh"])


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(ClusterError, match="bsub"):
        submit.submit(["bsub", "job.sh"])


def test_nothing_to_submit_with_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["--cancel", "scancel", "--logs", "logs", "a.png"]) == 1
    assert "E-CLUSTER" in capsys.readouterr().err
