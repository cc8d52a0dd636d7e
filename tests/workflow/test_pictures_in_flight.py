"""With one core, too, an engine has its next pictures in its queue while it renders; whatever ends a run then loses none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.run.picture_queue import IN_FLIGHT
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.kill.processes import processes
from tests.workflow.project import Project, wait_until

IDS = [f"p{number}" for number in range(IN_FLIGHT + 3)]
QUICK = "prompts:\n" + "".join(f"  - {{id: {each}, prompt: picture {each}}}\n" for each in IDS)
# The stand-in engine holds pictures with so many steps until `Project.release`.
LONG = f"defaults: {{steps: 101}}\n{QUICK}"


_CONNECTED = "03"


def clients(project: Project) -> int:
    """How many connections the project's engines have accepted."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(line[5] == _CONNECTED and line[-1].startswith(str(project.runtime)) for line in lines)


@pytest.fixture
def waiting(project: Project) -> Iterator[tuple[Project, subprocess.Popen[str]]]:
    """A run whose first picture isn't finished before `release`, with as many pictures in flight as there may be."""
    project.write("prompts/first.yaml", LONG)
    run = project.start("results/", start_new_session=True)
    try:
        wait_until(lambda: clients(project) == IN_FLIGHT, "the engine's queue holds the next pictures")
        yield project, run
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()


def test_the_next_pictures_wait_in_the_engines_queue(waiting: tuple[Project, subprocess.Popen[str]]) -> None:
    project, run = waiting
    assert [name for name in project.pictures() if "/p" in name] == []
    project.release()
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert {f"first/tiny/{each}-0.png" for each in IDS} <= {
        re.sub(r"-\d+\.", "-0.", name) for name in project.pictures()
    }
    assert "Nothing to be done" in project.run().stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_with_pictures_in_flight_leaves_nothing_and_loses_nothing(
    waiting: tuple[Project, subprocess.Popen[str]], how: signal.Signals
) -> None:
    project, run = waiting
    before = project.times()
    if how == signal.SIGINT:
        os.killpg(run.pid, how)  # as a terminal does
    else:
        run.kill()
    output, _ = run.communicate()
    assert run.returncode != 0, output
    wait_until(lambda: not processes(project), "clients and engines end")
    assert project.times() == before
    if how == signal.SIGINT:
        assert project.leftovers() == []
    project.release()
    made = project.rendered_by(project.run)
    assert len(made) == len(IDS)
    assert project.times().items() >= before.items()
    assert "Nothing to be done" in project.run().stdout


def test_each_of_two_checkpoints_is_loaded_once(empty: Project) -> None:
    write_random_checkpoint(empty.folder / "other.safetensors", seed=1)
    empty.configure(
        checkpoints={
            name: {"source": f"{file}.safetensors"} for name, file in (("tiny", "checkpoint"), ("other", "other"))
        }
    )
    empty.write("prompts/first.yaml", QUICK)
    done = empty.run()
    assert done.returncode == 0, done.stdout
    assert len(empty.pictures()) == 2 * len(IDS)
    assert sorted(re.findall(r"loaded (\w+) in", empty.engine_log())) == ["other", "tiny"]
