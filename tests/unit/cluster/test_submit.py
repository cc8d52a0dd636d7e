"""Handing a job to a scheduler: what is deleted before, who else is in the queue, and a scheduler that is busy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from darkroom.cluster import earlier_attempts, submit
from darkroom.errors import ClusterError
from darkroom.sources import civitai, hub
from tests.unit.cluster.commands import Commands

BUSY = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    monkeypatch.setenv("DARKROOM_LEASE", "1:1")
    monkeypatch.setattr(submit, "_PAUSES_S", (0, 0, 0))
    commands.answer("sbatch", "12;cluster\n")
    commands.answer("scancel")


def write_script(attempt: int = 1, script: Path = Path("job.sh")) -> Path:
    script.write_text(
        f"#!/bin/sh\ncd . && python -m snakemake --snakefile Snakefile --attempt {attempt} --mode remote\n"
    )
    return script


def hand_in(*outputs: Path, attempt: int = 1, script: Path = Path("job.sh")) -> int:
    options = ["--cancel", "scancel", "--logs", "logs/slurm", *map(str, outputs)]
    return submit.main([*options, "--", "sbatch", "--parsable", str(write_script(attempt, script))])


def runs(script: str, job: str) -> bool:
    """Whether a job script, started by the scheduler, comes as far as Snakemake."""
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": job}
    probe = script.replace("python -m snakemake", "echo snakemake", 1)
    done = subprocess.run(["/bin/sh", "-c", probe], env=environment, capture_output=True, text=True, check=True)
    return "snakemake" in done.stdout


@pytest.mark.parametrize("said", ["12", "12;cluster", "Submitted batch job 12"])
def test_it_prints_the_id_alone_and_makes_the_folder_for_logs(
    said: str, capsys: pytest.CaptureFixture[str], commands: Commands
) -> None:
    commands.answer("sbatch", f"{said}\n")
    assert hand_in() == 0
    assert capsys.readouterr().out == "12\n"
    assert Path("logs/slurm").is_dir()
    assert commands.calls("sbatch") == ["--parsable job.sh"]


def test_tokens_do_not_go_along(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {*civitai.TOKEN_VARIABLES, *hub.TOKEN_VARIABLES} <= set(submit.SECRET_VARIABLES)
    for name in (*submit.SECRET_VARIABLES, "HF_HOME"):
        monkeypatch.setenv(name, "secret")
    commands.write("sbatch", "env > environment; echo 12")
    assert hand_in() == 0
    words = Path("environment").read_text().split()
    assert [word for word in words if word.endswith("=secret")] == ["HF_HOME=secret"]


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
    earlier_attempts.FOLDER.mkdir(parents=True)
    hand_in()
    assert commands.calls("scancel") == []
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    hand_in()
    assert commands.calls("scancel") == ["12"]
    assert "left in the queue: 12" in capsys.readouterr().err
    assert earlier_attempts.FOLDER.exists()


def test_fault_35_a_job_of_a_run_that_was_killed_does_not_begin_if_it_could_not_be_cancelled(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Path(".snakemake/tmp.killed/job.sh")
    left.parent.mkdir(parents=True)
    assert hand_in(script=left) == 0
    script = left.read_text()
    commands.answer("scancel", error="scancel: error: Unable to contact slurm controller")
    commands.answer("sbatch", "13\n")
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    assert hand_in() == 0
    assert not left.parent.exists()
    assert not runs(script, "12")
    assert runs(Path("job.sh").read_text(), "13")


@pytest.mark.parametrize("has_open_jobs", [True, False])
def test_what_a_run_kept_stays_for_the_next_unless_snakemake_took_note_how_all_jobs_ended(
    has_open_jobs: bool, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    hand_in()
    submit.forget("12")  # the status command has told its end
    earlier_attempts.FOLDER.mkdir(parents=True)
    submit.leave(has_open_jobs=has_open_jobs)
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    hand_in()
    assert earlier_attempts.FOLDER.exists() == has_open_jobs
    assert commands.calls("scancel") == []


def test_fault_46_a_scheduler_that_is_busy_is_asked_again(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("sbatch", "12\n", error=BUSY, failures=2)
    assert hand_in() == 0
    heard = capsys.readouterr()
    assert heard.out == "12\n"
    assert heard.err.count("Socket timed out") == heard.err.count("trying again") == 2
    assert runs(Path("job.sh").read_text(), "12")


@pytest.mark.parametrize("begins", [True, False], ids=["it begins before the next try", "it is still in the queue"])
def test_fault_46_a_job_that_was_taken_without_saying_so_is_not_made_twice(
    begins: bool, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    start = "SLURM_JOB_ID=11 sh unheard.sh" if begins else ":"
    busy = f"echo {BUSY!r} >&2; exit 1"
    commands.write("sbatch", f"test -e unheard.sh && echo 12 && exit; cp job.sh unheard.sh; {start}; {busy}")
    assert hand_in() == 0
    assert capsys.readouterr().out == ("11\n" if begins else "12\n")
    assert runs(Path("unheard.sh").read_text(), "11") == begins  # again, if it was put back into the queue
    assert begins or runs(Path("job.sh").read_text(), "12")


def test_fault_46_a_job_that_was_given_up_is_not_begun_again_by_the_scheduler() -> None:
    hand_in()
    script = Path("job.sh").read_text()
    assert runs(script, "12")
    assert runs(script, "12")
    assert not runs(script, "13")
    submit.forget("12")
    assert not runs(script, "12")
    assert list(submit._TICKETS.iterdir()) == []


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
    write_script()
    commands.answer("sbatch", error=BUSY)
    with pytest.raises(ClusterError, match="Socket timed out"):
        submit.submit(["sbatch", "job.sh"])
    assert len(commands.calls("sbatch")) == 4
    assert list(submit._TICKETS.iterdir()) == []


def test_a_command_that_prints_no_id() -> None:
    write_script()
    with pytest.raises(ClusterError, match="no job's id"):
        submit.submit(["true", "job.sh"])


def test_a_command_that_is_not_there() -> None:
    write_script()
    with pytest.raises(ClusterError, match=r"command 'bsub': No such file or directory\. Hint: run this where"):
        submit.submit(["bsub", "job.sh"])


def test_nothing_to_submit_with_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["--cancel", "scancel", "--logs", "logs", "a.png"]) == 1
    assert "E-CLUSTER" in capsys.readouterr().err


def test_a_run_that_ends_cancels_what_it_left_in_the_queue_and_no_other_runs_jobs(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_in()
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    submit.leave(has_open_jobs=True)
    assert commands.calls("scancel") == []
    monkeypatch.setenv("DARKROOM_LEASE", "1:1")
    (submit._TICKETS / "of-a-submission-that-was-killed.13").touch()
    (submit._TICKETS / "of-another").touch()
    submit.leave(has_open_jobs=True)
    assert commands.calls("scancel") == ["12 13"]
    assert not submit._TICKETS.exists()  # nothing more begins
    monkeypatch.setenv("DARKROOM_LEASE", "2:2")
    hand_in()
    assert "left in the queue: 12 13" in capsys.readouterr().err  # should the first scancel have come to nothing


def test_a_run_that_heard_how_all_its_jobs_ended_cancels_nothing(commands: Commands) -> None:
    hand_in()
    submit.forget("12")
    submit.leave(has_open_jobs=False)
    assert commands.calls("scancel") == []
