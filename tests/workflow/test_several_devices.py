"""A run on several devices, shown by slots of a CPU: each with an engine of its own, and never more than one."""

from __future__ import annotations

import os
import re
import shutil
import signal
from datetime import datetime

import pytest

from tests.fixtures.checkpoints import write_random_checkpoint
from tests.workflow.project import Project, wait_until

SHEET = "prompts:\n" + "".join(f"  - {{id: p{number}, prompt: picture {number}}}\n" for number in range(6))
MANY = "defaults: {steps: 12}\n" + SHEET.replace("}", ", seeds: [1, 2, 3, 4, 5]}")
TWO = {"devices": ["cpu", "cpu"]}
ON_TWO = ("results/", "--resources", "gpu=2")
LINE = re.compile(r"^(\S+ \S+) (engine \d+ starts|ended)", re.MULTILINE)


@pytest.fixture
def several(empty: Project) -> Project:
    """A project with nothing made yet and two slots."""
    empty.configure(engine=TWO)
    return empty


def engines_at_once(project: Project) -> list[int]:
    """How many engines there were after each start and end of one."""
    events = []
    for log in project.runtime.rglob("*.log"):
        for when, what in LINE.findall(log.read_text()):
            events.append((datetime.fromisoformat(when.replace(",", ".")), -1 if what == "ended" else 1))
    counts, now = [], 0
    for _, change in sorted(events):
        now += change
        counts.append(now)
    return counts


@pytest.mark.full
@pytest.mark.parametrize("is_real", [False, True])
def test_two_checkpoints_on_two_devices(several: Project, is_real: bool) -> None:
    several.is_real = is_real
    write_random_checkpoint(several.folder / "other.safetensors", seed=1)
    checkpoints = {"tiny": {"source": "checkpoint.safetensors"}, "other": {"source": "other.safetensors"}}
    several.configure(checkpoints=checkpoints, engine=TWO)
    several.write("prompts/first.yaml", SHEET)
    assert several.run("models/", cores=2).returncode == 0
    done = several.run(*ON_TWO, cores=4)
    assert done.returncode == 0, done.stdout
    assert max(engines_at_once(several)) == 2
    assert len(re.findall(r"loaded \w+ in", several.engine_log())) <= 4
    wait_until(lambda: not several.engines(), "the engines end")
    wait_until(lambda: not several.leftovers(), "their sockets go")

    pictures = several.pictures()
    assert len(pictures) == 12
    several.configure(checkpoints=checkpoints, engine={"device": "cpu"})
    again = several.run(*ON_TWO)
    assert "Nothing to be done" in again.stdout
    shutil.rmtree(several.results)
    assert several.run().returncode == 0
    assert several.pictures() == pictures


@pytest.mark.full
def test_more_jobs_than_devices_without_a_limit(several: Project) -> None:
    several.write("prompts/first.yaml", SHEET)
    done = several.run(cores=8)
    assert done.returncode == 0, done.stdout
    assert max(engines_at_once(several)) == 2
    assert len(several.pictures()) == 6


@pytest.mark.full
def test_fault_31_engine_killed_on_one_of_two_devices_costs_one_picture(several: Project) -> None:
    several.write("prompts/first.yaml", MANY)
    process = several.start(*ON_TWO, "--keep-going", cores=4)
    wait_until(lambda: len(several.pictures()) > 8 and len(several.engines()) == 2, "both engines have work")
    os.kill(several.engines()[1], signal.SIGKILL)
    output, _ = process.communicate()
    made = several.times()
    assert len(made) in (29, 30), output  # it may have been between two pictures
    assert process.returncode == (0 if len(made) == 30 else 1)
    done = several.run(*ON_TWO, cores=4)
    assert done.returncode == 0, done.stdout
    assert len(several.pictures()) == 30
    assert {name: several.times()[name] for name in made} == made
    wait_until(lambda: not several.engines(), "the engines end")
