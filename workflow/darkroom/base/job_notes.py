"""What the jobs of a run note about their work for the run's numbers: a line of JSON each. Standard library only.

The run makes a folder for the notes and names it in DARKROOM_RUN, which jobs inherit, those on a cluster's nodes too. It can't be
in shell text or params: another one in each run would make every output look changed. Each machine appends to a file of
its own, because appending isn't atomic between machines on a network file system (open(2), O_APPEND).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from darkroom.base.processes import here

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "DARKROOM_RUN"
FOLDER = Path(".snakemake/darkroom/runs")
_SUFFIX = ".jsonl"


def current_run() -> Path | None:
    """The folder of the run that this process is a job of; None outside of runs, and after the run's end."""
    run = os.environ.get(VARIABLE)
    return FOLDER / run if run and (FOLDER / run).is_dir() else None


def note(**facts: Any) -> None:
    """Note facts about this job's work; does nothing outside of runs. A note that can't be written is left out."""
    if run := os.environ.get(VARIABLE):
        with suppress(OSError):
            handle = os.open(FOLDER / run / f"{here()}{_SUFFIX}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, (json.dumps(facts) + "\n").encode())
            finally:
                os.close(handle)


def read_notes(run: Path) -> Iterator[dict[str, Any]]:
    """All notes in a run's folder; a line that was cut off is left out."""
    for path in sorted(run.glob(f"*{_SUFFIX}")):
        with suppress(OSError):
            for line in path.read_bytes().splitlines():
                with suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found
