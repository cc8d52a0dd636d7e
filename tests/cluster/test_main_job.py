"""The whole main job through a real SLURM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.project import GROUP, ClusterProject
from tests.workflow.project import wait_until

# What is given on the command line takes the place of all that the profile sets.
NEEDS = ("render_picture:mem_mb=24000", "render_picture:runtime=1", "render_picture:load_minutes=10")


def test_pictures_are_those_of_a_local_run_and_each_group_loads_once(project: ClusterProject, tmp_path: Path) -> None:
    there = ClusterProject(tmp_path / "there", slurm=project.slurm)
    there.folder.mkdir()
    there.checkpoint.hardlink_to(project.checkpoint)
    there.configure()
    for each in (there, project):
        each.write_pictures(3 * GROUP)
    try:
        done = there.run()
        assert done.returncode == 0, done.stdout
        assert len(there.pictures()) == 3 * GROUP
        assert there.engine_starts() == there.loads() == 3
        assert sorted(there.renders()) == sorted(there.pictures())
        rules = sorted(name.partition("-")[2].removesuffix(".log") for name in there.cluster_logs())
        assert rules == ["convert_checkpoint", *["render_tiny_render_picture"] * 3, "verify_model"]
        there.assert_clean()
        assert "Nothing to be done" in there.run().stdout
        here = project.run_here("results/")
        assert here.returncode == 0, here.stdout
        assert there.pictures() == project.pictures()
    finally:
        there.close()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # As it is, one GPU and four processors are what one picture takes; then each of the two bounds by itself.
        ((), {"NumCPUs=4", "TresPerNode=gres:gpu:1"}),
        (("--set-threads", "render_picture=1"), {"NumCPUs=1", "TresPerNode=gres:gpu:1"}),
        (("--set-resources", *NEEDS, "render_picture:gpu=0"), {"NumCPUs=4"}),
    ],
    ids=["profile", "gpu", "cores"],
)
def test_a_group_asks_for_what_one_picture_needs_and_for_the_time_of_all(
    changes: tuple[str, ...], expected: set[str], project: ClusterProject
) -> None:
    project.write_pictures(GROUP)
    slurm = project.slurm
    with slurm.drained():
        process = project.start_as_documented("--retries", "0", *changes)
        wait_until(lambda: slurm.jobs("PENDING"), "the pictures' job waits")
        [job] = slurm.jobs("PENDING")
        facts = set(slurm.facts(job).split())
        slurm.ask("scancel", job)
        process.communicate()
    assert {*expected, "MinMemoryNode=24000M", f"TimeLimit=00:{10 + GROUP}:00"} <= facts
    project.assert_clean()


def test_a_picture_that_fails_costs_no_other_of_its_group(project: ClusterProject) -> None:
    project.write_pictures(3, extra="  - {id: bad, prompt: deeper than the encoders are, clip_skip: 9}\n")
    done = project.run("results/", "--retries", "0")
    assert done.returncode == 1
    assert re.search(r"E-CLUSTER .* FAILED .*\n  logs/render/first/tiny/bad-\d+\.log: E-REQUEST", done.stdout)
    assert done.stdout.count("E-REQUEST") == 1
    project.assert_clean()
    assert set(project.pictures()) == {f"first/tiny/p{i}-{100 + i}.png" for i in range(3)}
    made = project.times()
    project.write_pictures(3)
    assert project.run().returncode == 0
    assert project.times() == made
    assert len(project.renders()) == 3
    project.assert_clean()


def test_fault_45_a_job_that_never_ran_does_not_make_an_old_picture_pass_for_the_new_one(
    project: ClusterProject,
) -> None:
    project.write_pictures(2)
    assert project.run_here("results/").returncode == 0
    old = project.pictures()
    project.write_pictures(2, steps=3)
    slurm = project.slurm
    with slurm.drained():
        process = project.start("results/", "--retries", "0")
        wait_until(lambda: slurm.jobs("PENDING"), "the pictures' job waits")
        slurm.ask("scancel", *slurm.jobs("PENDING"))
        output, _ = process.communicate()
    assert process.returncode == 1
    assert "CANCELLED" in output
    project.assert_clean()
    assert project.rendered_by(project.run) == set(old)
    assert all(project.pictures()[name] != old[name] for name in old)
    project.assert_clean()
