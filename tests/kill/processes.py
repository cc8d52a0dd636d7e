"""The processes of one project, found in /proc by the runtime folder that they all have in their environment."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from tests.fixtures.processes import processes_with
from tests.workflow.project import Project

KINDS = ("snakemake", "server", "engine")  # clients are threads of the first
_MARKS = {  # what stands in the command of each
    "server": b"darkroom.warm.server",
    "engine": b"darkroom.serve.engine_process",
    "snakemake": b"snakemake",
}


@dataclass(frozen=True)
class Process:
    pid: int
    words: list[bytes]

    @property
    def kind(self) -> str:
        """One of KINDS, or 'other': shells, and commands that render nothing."""
        for kind, mark in _MARKS.items():
            if mark in self.words:
                return kind
        return "other"

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def processes(project: Project) -> list[Process]:
    """All that run for this project, whoever started them."""
    return [Process(*each) for each in processes_with("XDG_RUNTIME_DIR", project.runtime).items()]
