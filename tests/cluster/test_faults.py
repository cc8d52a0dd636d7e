"""Things that go wrong on a cluster, on a real one. The numbers in the names are those of the list of faults.

After each of them the same command finishes the run: nothing that was finished is lost or rendered again, and neither
a job nor a process, a socket or a lock is left, nor was any left by the run that failed.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.cluster.project import GROUP, ClusterProject
from tests.workflow.project import wait_until

STEPS = 40  # about a second a picture, so that there is time to do harm


@pytest.fixture
def running(project: ClusterProject) -> ClusterProject:
    """A project with one group of pictures to render that take their time."""
    project.write_pictures(GROUP, STEPS)
    return project


def finish(project: ClusterProject, finished: dict[str, bytes], *arguments: str) -> str:
    """The same command again, and all that must hold after it."""
    done = project.run("results/", *arguments)
    assert done.returncode == 0, done.stdout
    check(project, finished)
    return done.stdout


def check(project: ClusterProject, finished: dict[str, bytes]) -> None:
    """All pictures are there, the finished ones as they were, and none of those was rendered again."""
    pictures = project.pictures()
    assert len(pictures) == project.results.joinpath("manifest.jsonl").read_text().count("\n") > 0
    assert {name: pictures[name] for name in finished} == finished
    renders = project.renders()
    assert [name for name in finished if renders.count(name) != 1] == []
    project.assert_clean()
    assert list((project.folder / ".snakemake/incomplete").iterdir()) == []


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    return output


def asked_for(project: ClusterProject, fact: str) -> list[str]:
    """What each job of pictures asked for, in the order of their submission."""
    jobs = sorted(int(log.partition("-")[0]) for log in project.cluster_logs() if "render" in log)
    return [dict(re.findall(r"(\S+)=(\S*)", project.slurm.facts(str(job))))[fact] for job in jobs]


def never_starts(project: ClusterProject, output: str, reason: str, hint: str) -> None:
    """SLURM's reason is told, and nothing is left."""
    said = next(line for line in output.splitlines() if line.startswith("E-CLUSTER"))
    assert f"PENDING ({reason})" in said and "it can never start" in said and hint in said
    project.assert_clean()


def test_a_job_with_more_processors_than_any_node_has_is_told_and_cancelled(project: ClusterProject) -> None:
    project.write_pictures(1)
    process = project.start_as_documented(
        "--retries",
        "0",
        "--cores",
        "64",
        "--set-threads",
        "render_picture=64",
        "--set-resources",
        "render_picture:gpu=0",
    )
    output = ended(process)
    assert process.returncode == 1, output
    never_starts(project, output, "PartitionConfig", "ask for less in the profile (set-threads, mem_mb, gpu)")


def test_a_job_that_asks_for_more_time_than_its_partition_gives_is_told_and_cancelled(project: ClusterProject) -> None:
    project.write_pictures(1)
    project.slurm.ask("scontrol", "update", "partitionname=main", "maxtime=1")
    try:
        done = project.run("results/", "--retries", "0")
    finally:
        project.slurm.ask("scontrol", "update", "partitionname=main", "maxtime=infinite")
    assert done.returncode == 1, done.stdout
    never_starts(project, done.stdout, "PartitionTimeLimit", "lower runtime and load_minutes in the profile")
    finish(project, {})


def test_fault_46_cancelled_in_the_middle(running: ClusterProject) -> None:
    running.write_pictures(2 * GROUP, STEPS)
    process = running.start("results/", "--retries", "0")
    finished = running.wait_for_pictures(1)
    job = running.job_of(next(iter(finished)))
    with running.halted():
        running.slurm.ask("scancel", job)
        wait_until(lambda: job not in running.slurm.jobs(), "the job has been cancelled")
    # An engine ends with the Snakemake of its own job, not with the one that submitted it.
    wait_until(lambda: process.poll() is not None or len(running.engines()) == 1, "one of two engines has ended")
    assert process.poll() is None
    output = ended(process)
    assert process.returncode == 1
    assert re.search(rf"E-CLUSTER cluster job '{job}': CANCELLED .*Hint: run the same command again", output)
    running.assert_clean()
    finished |= running.pictures()
    assert GROUP < len(finished) < 2 * GROUP  # the other group went on, this one's pictures stayed
    finish(running, finished)


def test_fault_46_a_time_limit_is_hit_and_the_next_attempt_has_more_time(running: ClusterProject) -> None:
    slurm = running.slurm
    process = running.start("results/")
    running.wait_for_pictures(1)
    [job] = slurm.jobs()
    with running.halted():
        slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=0")
        finished = running.pictures()
        wait_until(lambda: job not in slurm.jobs(), "the job has ended")
    output = ended(process)
    assert process.returncode == 0, output
    assert re.search(rf"E-CLUSTER cluster job '{job}': TIMEOUT .*raise runtime", output)
    assert asked_for(running, "TimeLimit")[1] == f"00:{10 + 2 * GROUP}:00"
    check(running, finished)


def test_fault_46_out_of_memory_and_the_next_attempt_asks_for_more(running: ClusterProject) -> None:
    memory = ("render_picture:mem_mb=50 * attempt ** 5", "render_picture:runtime=1")
    process = running.start("results/", "--set-resources", *memory)
    output = ended(process)
    assert process.returncode == 0, output
    assert re.search(r"E-CLUSTER cluster job '\d+': .*ran out of memory.*raise mem_mb", output)
    assert asked_for(running, "MinMemoryNode")[:2] == ["50M", "1600M"]
    check(running, {})


def test_fault_46_a_node_is_lost_and_comes_back(running: ClusterProject) -> None:
    slurm = running.slurm
    process = running.start("results/")
    running.wait_for_pictures(1)
    [job] = slurm.jobs()
    with running.halted():
        finished = running.pictures()
        slurm.set_node("down")
        wait_until(lambda: job in slurm.jobs("PENDING"), "the job is back in the queue")
    wait_until(lambda: not slurm.processes_of(job), "nothing of the job runs, as on a node that is really down", 60)
    slurm.set_node("resume")
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # SLURM lets it wait for two minutes
    output = ended(process)
    assert process.returncode == 0, output
    assert "E-CLUSTER" not in output  # it is the same job
    assert len(finished) < GROUP
    check(running, finished)


def test_fault_46_a_node_that_cannot_start_a_job(running: ClusterProject) -> None:
    slurm = running.slurm
    with slurm.unfit():
        process = running.start("results/")
        wait_until(slurm.jobs, "the job has been submitted", 60)
        [job] = slurm.jobs()
        wait_until(lambda: job not in slurm.jobs(), "the job, which SLURM holds, has been cancelled")
    output = ended(process)
    assert process.returncode == 0, output
    assert re.search(rf"E-CLUSTER cluster job '{job}': PENDING \(launch_failed_requeued_held\).*sinfo", output)
    check(running, {})


def test_fault_46_the_scheduler_starts_again(running: ClusterProject) -> None:
    slurm = running.slurm
    slurm.stop_controller()
    process = running.start("results/")
    assert process.stdout is not None
    heard = ""
    while "trying again" not in heard:  # sbatch is refused at first
        line = process.stdout.readline()
        assert line, heard
        heard += line
    slurm.start_controller()
    finished = running.wait_for_pictures(1)
    slurm.stop_controller()
    wait_until(lambda: len(running.pictures()) >= GROUP - 1, "the job goes on")
    slurm.start_controller()
    output = ended(process)
    assert process.returncode == 0, output
    check(running, finished)


def test_fault_35_snakemake_is_killed_and_its_jobs_still_write(running: ClusterProject) -> None:
    running.write_pictures(GROUP, 4 * STEPS)  # so that the job is still at it when Snakemake starts again
    process = running.start("results/", start_new_session=True)
    running.wait_for_pictures(1)
    process.kill()
    ended(process)
    orphans = running.slurm.jobs()
    assert orphans
    finished = running.pictures()
    output = finish(running, finished)
    assert f"cancelling what a run that was ended left in the queue: {' '.join(orphans)}" in output


def test_fault_35_snakemake_is_killed_when_it_has_just_been_told_how_a_job_ended(running: ClusterProject) -> None:
    running.write_pictures(GROUP)
    assert running.run_here("results/").returncode == 0
    old = running.pictures()
    running.write_pictures(GROUP, STEPS)
    process = running.start("results/", poll_s=600, start_new_session=True)
    wait_until(lambda: running.pictures().items() - old.items(), "one is as edited")
    [job] = running.slurm.jobs()
    with running.halted():
        running.slurm.ask("scancel", job)
        wait_until(lambda: job not in running.slurm.jobs(), "the job has been cancelled")
        finished = dict(running.pictures().items() - old.items())
    assert 0 < len(finished) < GROUP
    status = [sys.executable, "-m", "darkroom.cluster.slurm_status", job]
    told = subprocess.run(status, cwd=running.folder, env=running.environment(), capture_output=True, text=True)
    assert told.stdout == "failed\n"
    process.kill()
    ended(process)
    rendered = running.renders()
    done = running.run("results/")
    assert done.returncode == 0, done.stdout
    pictures, again = running.pictures(), running.renders()
    assert {name: pictures[name] for name in finished} == finished
    assert [name for name in finished if again.count(name) != rendered.count(name)] == []
    assert not (pictures.items() & old.items())
    running.assert_clean()


def test_fault_35_ctrl_c_ends_the_jobs_too(running: ClusterProject) -> None:
    # Asked without a pause how its jobs are, Snakemake forgets to cancel them.
    process = running.start("results/", poll_s=0, start_new_session=True)
    running.wait_for_pictures(1)
    # On a busy machine the rest might be finished before the job is cancelled, or a picture be cut off while it is written.
    with running.halted():
        process.send_signal(signal.SIGINT)
        ended(process)
    running.assert_gone()
    finished = running.pictures()
    assert len(finished) < GROUP
    finish(running, finished)
