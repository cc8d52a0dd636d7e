"""A working folder whose `run` is `snakemake --workflow-profile slurm`: groups of four pictures, polled every second."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.slurm import Slurm
from tests.fixtures.processes import processes_with
from tests.workflow.project import ROOT, Project, wait_until

GROUP = 4


def make_sheet(count: int, steps: int = 2, extra: str = "") -> str:
    """A sheet of pictures whose seeds tell them apart in the engines' logs: 100, 101, …"""
    prompts = "".join(f"  - {{id: p{i}, prompt: picture {i}, seed: {100 + i}}}\n" for i in range(count))
    return f"defaults: {{steps: {steps}}}\nprompts:\n{prompts}{extra}"


@dataclass
class ClusterProject(Project):
    slurm: Slurm = field(kw_only=True)
    is_real: bool = True
    group: int = GROUP

    def start(self, *arguments: str, cores: int = 1, poll_s: int = 1, **options: Any) -> subprocess.Popen[str]:
        cluster = (
            "--workflow-profile",
            "slurm",
            "--seconds-between-status-checks",
            str(poll_s),
            "--set-threads",
            "render_picture=1",
        )
        groups = ("--group-components", f"render_{{checkpoint}}={self.group}")
        return super().start(*(arguments or ("results/",)), *cluster, *groups, cores=cores, **options)

    def start_as_documented(self, *arguments: str) -> subprocess.Popen[str]:
        """`snakemake --workflow-profile slurm results/`, without anything that takes the place of what the profile says."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        profile = ["--workflow-profile", "slurm", "--seconds-between-status-checks", "1"]
        return subprocess.Popen(
            [*command, "results/", *profile, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, cores: int = 1) -> subprocess.CompletedProcess[str]:
        """To its end, by a process that is found by its environment."""
        process = self.start(*arguments, cores=cores)
        output, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def run_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same run on this machine, without the cluster."""
        return super().run(*arguments)

    def environment(self) -> dict[str, str]:
        return super().environment() | self.slurm.environment

    def write_pictures(self, count: int, steps: int = 2, extra: str = "") -> None:
        self.write("prompts/first.yaml", make_sheet(count, steps, extra))

    def copy(self, folder: Path) -> ClusterProject:
        return ClusterProject(super().copy(folder).folder, slurm=self.slurm)

    def renders(self) -> list[str]:
        """The pictures that engines finished, by name, one entry each time."""
        return [
            f"first/tiny/p{int(seed) - 100}-{seed}.png" for seed in re.findall(r" seed (\d+) \|", self.engine_log())
        ]

    def engine_starts(self) -> int:
        return len(re.findall(r"engine \d+ starts for", self.engine_log()))

    def loads(self) -> int:
        return self.engine_log().count("loaded tiny in")

    def cluster_logs(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "logs/slurm").glob("*.log"))

    def wait_for_pictures(self, count: int) -> dict[str, bytes]:
        wait_until(lambda: len(self.pictures()) >= count, f"{count} pictures are there")
        return self.pictures()

    def job_of(self, picture: str) -> str:
        """The newest cluster job that makes a picture."""
        name = Path(picture).stem.rpartition("-")[0]
        logs = (self.folder / "logs/slurm").glob("*.log")
        found = [int(log.name.partition("-")[0]) for log in logs if f"picture={name}," in log.read_text()]
        return str(max(found))

    @contextmanager
    def halted(self) -> Iterator[None]:
        """No picture gets finished meanwhile: the engines stand still."""
        engines = self.engines()
        assert engines
        _signal(engines, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(engines, signal.SIGCONT)

    def processes(self) -> dict[int, str]:
        """Everything alive that a run of this project started, here or in a job, by what its environment says."""
        found = processes_with("XDG_RUNTIME_DIR", self.runtime)
        return {pid: b" ".join(words).decode() for pid, words in found.items()}

    def marks(self) -> list[Path]:
        """What a run has in its folder while it lasts: locks, claims, its job scripts, the jobs that it waits for."""
        state = self.folder / ".snakemake"
        folders = ("locks", "darkroom/cluster/jobs", "darkroom/cluster/tickets")
        marks = [path for folder in folders for path in (state / folder).glob("*")]
        return [*marks, *state.glob("tmp.*"), *(path for path in self.folder.rglob("*.claim.*"))]

    def close(self) -> None:
        for pid in self.processes():
            _signal([pid], signal.SIGKILL)
        super().close()

    def assert_gone(self) -> None:
        """No job, no process, no socket, no half file is left of any run."""
        wait_until(lambda: not self.slurm.jobs(), "no job is left on the cluster", 60)
        _wait_until_empty(self.processes, "processes")
        _wait_until_empty(self.leftovers, "files")

    def assert_clean(self) -> None:
        """That, and no mark of a run that isn't over: after a run that ended by itself, and before it none or any."""
        self.assert_gone()
        _wait_until_empty(self.marks, "marks")


def _wait_until_empty(look: Callable[[], Collection[object]], what: str) -> None:
    try:
        wait_until(lambda: not look(), "", 60)
    except AssertionError:
        raise AssertionError(f"{what} are left: {look()}") from None


def _signal(processes: Iterable[int], which: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, which)
