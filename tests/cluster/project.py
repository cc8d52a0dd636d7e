"""A working folder whose `run` is `snakemake --workflow-profile slurm`: groups of four pictures, polled every second."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.slurm import Slurm
from tests.workflow.project import Project, wait_until

GROUP = 4


@dataclass
class ClusterProject(Project):
    slurm: Slurm = field(kw_only=True)

    def start(self, *arguments: str, cores: int = 1, **options: Any) -> subprocess.Popen[str]:
        cluster = (
            "--workflow-profile",
            "slurm",
            "--seconds-between-status-checks",
            "1",
            "--set-threads",
            "render_picture=1",
        )
        groups = ("--group-components", f"render_{{checkpoint}}={GROUP}")
        return super().start(*(arguments or ("results/",)), *cluster, *groups, cores=cores, **options)

    def run_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same run on this machine, without the cluster."""
        process = super().start(*arguments)
        output, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def environment(self) -> dict[str, str]:
        return super().environment() | self.slurm.environment

    def write_pictures(self, count: int, steps: int = 2, extra: str = "") -> None:
        """A sheet of pictures whose seeds tell them apart in the engines' logs: 100, 101, …"""
        prompts = "".join(f"  - {{id: p{i}, prompt: picture {i}, seed: {100 + i}}}\n" for i in range(count))
        self.write("prompts/first.yaml", f"defaults: {{steps: {steps}}}\nprompts:\n{prompts}{extra}")

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

    def assert_clean(self) -> None:
        """No job, no engine, no socket, no half file is left of any run."""
        wait_until(lambda: not self.slurm.jobs(), "no job is left on the cluster", 60)
        wait_until(lambda: not self.engines(), "the engines have ended", 60)
        wait_until(lambda: not self.leftovers(), f"nothing is left lying about: {self.leftovers()}", 60)
