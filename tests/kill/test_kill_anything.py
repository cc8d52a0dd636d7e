"""A run of 60 pictures whose processes are killed at twenty random moments; the same command goes on after each.

The moments are told by progress, not by the clock: the n-th picture since the command was given, and a fraction of a
picture's time. They are the same in every run; `DARKROOM_KILL_SEED` chooses others, by a number or `random`.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkroom.base.files import TEMPORARY_PREFIX
from tests.kill.processes import KINDS, processes
from tests.workflow.project import Project, wait_until

PICTURES, MOMENTS = 60, 20
SHEET = "prompts:\n" + "".join(f"  - {{id: p{i:02}, prompt: picture number {i}}}\n" for i in range(PICTURES))
END_S = 60  # in which whatever a run left has to end


@dataclass(frozen=True)
class Moment:
    """Kill `what` once `count` pictures were finished since the command was given, and `wait_s` later."""

    what: str
    count: int
    wait_s: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project after a run that nobody disturbed. Not to be changed."""
    project = Project(tmp_path_factory.mktemp("undisturbed"), is_real=True)
    project.set_up(SHEET)
    assert len(project.pictures()) == PICTURES
    yield project
    project.close()


@pytest.fixture
def disturbed(undisturbed: Project, tmp_path: Path) -> Iterator[Project]:
    """The same project with its model, but no pictures."""
    project = undisturbed.copy(tmp_path / "disturbed")
    for picture in project.pictures():
        (project.results / picture).unlink()
    yield project
    for process in processes(project):
        process.kill()
    project.close()


def choose_seed(text: str) -> int:
    return random.SystemRandom().randrange(10**6) if text == "random" else int(text)


def choose_moments(seed: int) -> list[Moment]:
    generator = random.Random(seed)
    whats = [*KINDS, "all"] * (MOMENTS // (len(KINDS) + 1))
    generator.shuffle(whats)
    return [Moment(what, generator.randint(0, 3), generator.uniform(0, 0.3)) for what in whats]


class Command:
    """One command, given again whenever it has ended before the pictures are there."""

    def __init__(self, project: Project, right: dict[str, bytes]) -> None:
        self.project, self.right = project, right
        self.given = 0
        self._run: subprocess.Popen[str] | None = None

    def strike(self, moment: Moment) -> None:
        """Wait for the moment, then kill."""
        before = len(self.project.pictures())
        while len(self.project.pictures()) < before + moment.count:
            self._go_on()
            time.sleep(0.005)
        time.sleep(moment.wait_s)
        end = time.monotonic() + END_S
        while not (wanted := [each for each in processes(self.project) if moment.what in (each.kind, "all")]):
            self._go_on()
            assert time.monotonic() < end, f"no {moment.what} appeared"
        for each in wanted:
            each.kill()

    def finish(self) -> None:
        """What is left of the pictures, undisturbed."""
        while self._run is None or self._end() != 0:
            self._go_on()

    def _go_on(self) -> None:
        if self._run is not None and self._run.poll() is not None:
            assert self._end() != 0, "the run ended before the last moment came"
        if self._run is None:
            self._run, self.given = self.project.start("results/"), self.given + 1

    def _end(self) -> int:
        assert self._run is not None
        output, _ = self._run.communicate()
        code, self._run = self._run.returncode, None
        for mistake in ("LockException", "IncompleteFiles", "Traceback", "E-LOCK"):
            assert mistake not in output, output
        there = self.project.pictures()
        assert all(there[name] == self.right[name] for name in there)
        print(f"  exit code {code}, {len(there)} pictures")
        return code


def leftovers(project: Project) -> list[str]:
    """What no ended run may leave, anywhere: temporary files, claims, sockets, locks that somebody holds."""
    marks = (TEMPORARY_PREFIX, ".claim.", ".sock")
    files = [*project.folder.rglob("*"), *project.runtime.rglob("*")]
    found = [path for path in files if any(mark in path.name for mark in marks)]
    found += [path for path in (project.folder / ".snakemake/locks").glob("*")]
    found += [path for path in (project.folder / ".snakemake/incomplete").rglob("*") if path.is_file()]
    for lock in (*project.runtime.rglob("*.lock"), *project.runtime.rglob("*.start")):
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(lock)
    return sorted(map(str, found))


def test_whatever_is_killed_the_same_command_goes_on(undisturbed: Project, disturbed: Project) -> None:
    seed = choose_seed(os.environ.get("DARKROOM_KILL_SEED", "1"))
    print(f"DARKROOM_KILL_SEED={seed}")
    right = undisturbed.pictures()
    command = Command(disturbed, right)
    for moment in choose_moments(seed):
        print(moment)
        command.strike(moment)
    command.finish()
    print(f"given {command.given} times")
    assert disturbed.pictures() == right
    wait_until(lambda: not processes(disturbed), "all processes end", END_S)
    assert leftovers(disturbed) == []
    lines = (disturbed.results / "manifest.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == PICTURES
    assert "Nothing to be done" in disturbed.run().stdout
    assert leftovers(disturbed) == []
