"""What Snakemake hears about a job and what the user reads, from what `scontrol` and `sacct` say. Both are stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.cluster import slurm_status, submit
from tests.unit.cluster.commands import Commands

RUNNING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STAGE_OUT", "SPECIAL_EXIT")
SHOWN = (
    "JobId=7 JobName=render JobState={state} Reason={reason} ExitCode=0:9 RunTime=00:10:03 TimeLimit=00:10:00 "
    "NodeList=node1 StdOut={log}"
)
PURGED = "slurm_load_jobs error: Invalid job id specified"


def ask(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert slurm_status.main(["7"]) == 0
    heard = capsys.readouterr()
    return heard.out.strip(), heard.err.strip()


def shown(state: str, reason: str = "None", log: str = "/nowhere") -> str:
    return SHOWN.format(state=state, reason=reason, log=log)


@pytest.mark.parametrize("state", RUNNING)
def test_fault_46_a_job_on_its_way_is_running(
    state: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown(state))
    assert ask(capsys) == ("running", "")


@pytest.mark.parametrize("state", sorted(slurm_status._ENDS))
def test_fault_46_every_bad_end_is_told_with_state_reason_time_and_node(
    state: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown(state, "SomeReason"))
    answer, said = ask(capsys)
    assert answer == "failed"
    assert said.startswith(f"E-CLUSTER cluster job '7': {state} (SomeReason) after 00:10:03 of 00:10:00 on node1")
    assert "Hint: " in said


def test_fault_46_a_job_that_its_node_could_not_start_is_not_waited_for(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown("PENDING", "launch_failed_requeued_held"))
    commands.answer("scancel")
    answer, said = ask(capsys)
    assert answer == "failed"
    assert said.startswith("E-CLUSTER cluster job '7': PENDING (launch_failed_requeued_held)")
    assert "sinfo --list-reasons" in said
    assert commands.calls("scancel") == ["7"]


NEVER = {
    "BadConstraints": "SBATCH_PARTITION",
    "PartitionConfig": "set-threads, mem_mb, gpu",
    "PartitionTimeLimit": "lower runtime and load_minutes",
    "MaxMemPerLimit": "lower mem_mb",
    "AssocMaxCpuPerJobLimit": "less in the profile (set-threads and cores), or set SBATCH_ACCOUNT",
    "AssocMaxMemPerJob": "less in the profile (mem_mb)",
    "AssocMaxWallDurationPerJobLimit": "less in the profile (runtime, load_minutes and group-components)",
    "QOSMaxCpuMinutesPerJobLimit": "less in the profile (set-threads, runtime and group-components)",
    "QOSMaxGRESPerNode": "less in the profile (gpu), or set SBATCH_QOS",
    "QOSMaxMemoryPerNode": "less in the profile (mem_mb)",
    "AssocMaxNodePerJobLimit": "less in the profile (AssocMaxNodePerJobLimit)",
    "QOSMinCpuNotSatisfied": "more in the profile (set-threads and cores)",
    "QOSMinGRES": "more in the profile (gpu)",
    "InvalidAccount": "SBATCH_ACCOUNT",
    "AccountNotAllowed": "SBATCH_ACCOUNT",
    "QOSNotAllowed": "SBATCH_QOS",
    "Job's_account_not_known,_so_it_can't_use_this_partition_(main_allows_nobody)": "SBATCH_ACCOUNT",
    "Job's_QOS_not_permitted_to_use_this_partition_(main_denies_low_including_low)": "SBATCH_QOS",
    "InvalidQOS": "SBATCH_QOS",
    "ReservationDeleted": "SBATCH_RESERVATION",
    "DependencyNeverSatisfied": "same command again",
    "JobHoldMaxRequeue": "requeued so often",
}
WAITS = (
    "ReqNodeNotAvail,_UnavailableNodes:node1",
    "PartitionNodeLimit",
    "PartitionDown",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
    "PartitionInactive",
    "NodeDown",
    "JobHeldUser",
    "JobHeldAdmin",
    "Licenses",
    "Reservation",
    "Constraints",
    "AssocGrpCpuLimit",
    "AssocMaxJobsLimit",
    "QOSGrpGRES",
    "QOSMaxCpuPerUserLimit",
    "QOSMaxJobsPerUserLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "MaxGRESPerAccount",
    "AssocGrpMemRunMinutes",
)


@pytest.mark.parametrize(("reason", "meaning"), NEVER.items())
def test_a_job_that_can_never_start_is_cancelled_and_its_reason_told(
    reason: str, meaning: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown("PENDING", reason))
    commands.answer("scancel")
    answer, said = ask(capsys)
    assert answer == "failed"
    assert said.startswith(f"E-CLUSTER cluster job '7': PENDING ({reason})")
    assert "it can never start" in said
    assert meaning in said.partition("Hint: ")[2]
    assert commands.calls("scancel") == ["7"]


@pytest.mark.parametrize("reason", WAITS)
def test_a_reason_that_may_pass_is_waited_for_and_told_once(
    reason: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown("PENDING", reason))
    commands.answer("scancel")
    assert ask(capsys) == ("running", f"cluster job 7 waits: SLURM says {reason}")
    assert ask(capsys) == ("running", "")
    assert not commands.calls("scancel")
    commands.answer("scontrol", shown("PENDING", "SomethingElse"))
    assert ask(capsys)[1].endswith("SomethingElse")


@pytest.mark.parametrize("reason", ["None", "Priority", "Resources", "Dependency", "BeginTime"])
def test_a_job_behind_others_waits_without_a_word(
    reason: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown("PENDING", reason))
    assert ask(capsys) == ("running", "")


@pytest.mark.parametrize("reason", ["BadConstraints", "AssocMaxCpuPerJobLimit"])
def test_a_job_that_runs_is_not_cancelled_for_the_reason_it_once_waited_for(
    reason: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", shown("RUNNING", reason))
    commands.answer("scancel")
    assert ask(capsys) == ("running", "")
    assert not commands.calls("scancel")


def test_fault_46_out_of_memory_is_found_in_the_log_where_there_is_no_state_for_it(
    commands: Commands, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = tmp_path / "7.log"
    log.write_text("slurmstepd: error: StepId=7.batch exceeded memory limit (2 > 1), being killed\n")
    commands.answer("scontrol", shown("FAILED", "JobLaunchFailure", str(log)))
    assert "ran out of memory. Hint: raise mem_mb" in ask(capsys)[1]


def test_a_log_in_a_folder_with_spaces_is_found_too(
    commands: Commands, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = tmp_path / "my pictures/7.log"
    log.parent.mkdir()
    log.write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch\n")
    commands.answer("scontrol", shown("FAILED", "JobLaunchFailure", str(log)) + " Power= TresPerNode=gres:gpu:1")
    assert "ran out of memory" in ask(capsys)[1]


def test_errors_of_the_pictures_inside_are_told_each_once_and_ten_at_most(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = [Path(f"p{number}.log") for number in range(13)]
    for number, log in enumerate(logs):
        log.write_text("prompt 2 tokens\n" if number == 0 else f"WARNING so\nE-REQUEST steps '{number}': why.\n")
    block = "Error in rule render_picture:\n    log: {} (check log file(s) for error details)\n"
    Path("7.log").write_text("".join(block.format(log) for log in (*logs, logs[1], "none.log")))
    commands.answer("scontrol", shown("FAILED", log="7.log"))
    first, *told = ask(capsys)[1].splitlines()
    assert first.endswith("Hint: read 7.log.")
    assert told[0] == "  p1.log: E-REQUEST steps '1': why."
    assert len(told) == 11
    assert told[-1] == "  … and 2 more, in the same folder"


def test_success(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    commands.answer("scontrol", shown("COMPLETED"))
    assert ask(capsys) == ("success", "")


def test_fault_46_a_controller_that_does_not_answer_says_nothing_about_the_job(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    answer, said = ask(capsys)
    assert answer == "running"
    assert "Unable to contact" in said
    commands.answer("scontrol", "")
    assert ask(capsys) == ("running", "")


def test_fault_46_an_accounting_that_does_not_answer_says_nothing_either(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", error=PURGED)
    commands.answer("sacct", error="sacct: error: slurm_persist_conn_open_without_init: Connection refused")
    answer, said = ask(capsys)
    assert answer == "running"
    assert "Connection refused" in said


def test_a_job_that_the_controller_forgot_is_asked_of_the_accounting(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", error=PURGED)
    commands.answer("sacct", "COMPLETED|0:0|00:01:00|00:10:00|node1\n")
    assert ask(capsys)[0] == "success"
    commands.answer("sacct", "CANCELLED by 1000|0:15|00:01:00|00:10:00|node1\n")
    answer, said = ask(capsys)
    assert answer == "failed"
    assert "CANCELLED after 00:01:00 of 00:10:00 on node1, exit code 0:15" in said


@pytest.mark.parametrize(("said", "answer"), [("RUNNING", "running"), ("TIMEOUT", "failed"), (None, "running")])
def test_accounting_is_asked_where_it_is_all_there_is(
    said: str | None,
    answer: str,
    commands: Commands,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(commands.folder))
    if said:
        commands.write("sacct", f"echo '{said}|0:0|00:10:03|00:10:00|node1'")
    assert ask(capsys)[0] == answer


def test_fault_46_a_job_that_nobody_knows_has_failed_where_there_is_no_accounting_at_all(
    commands: Commands, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.write("scontrol", f"echo {PURGED!r} >&2; exit 1")
    monkeypatch.setenv("PATH", str(commands.folder))
    assert ask(capsys)[0] == "failed"


@pytest.mark.parametrize("accounting", [None, ""])
def test_fault_46_a_job_that_nobody_knows_has_failed(
    accounting: str | None, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.answer("scontrol", error=PURGED)
    commands.answer(
        "sacct", accounting or "", error="Slurm accounting storage is disabled" if accounting is None else ""
    )
    answer, said = ask(capsys)
    assert answer == "failed"
    assert "doesn't know it any more" in said


def test_a_job_whose_end_is_known_is_no_longer_anybodys(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = submit.FOLDER / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "7").touch()
    commands.answer("scontrol", shown("RUNNING"))
    ask(capsys)
    assert (jobs / "7").exists()
    commands.answer("scontrol", shown("COMPLETED"))
    ask(capsys)
    assert not (jobs / "7").exists()
