"""A run from its first job to its end, watched for its numbers: what its jobs note, the machine's counters, and its page.

A thread reads the counters and starts the process that writes the page (`progress_page`); Snakemake's own thread isn't held up. What
goes wrong here never changes how the run ends: it is one line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkroom.base.files import write_json
from darkroom.base.job_notes import FOLDER, VARIABLE, read_notes
from darkroom.base.processes import age_s, new_owner
from darkroom.base.secrets import redact
from darkroom.pictures.records import INDEX
from darkroom.run.energy import SAMPLE_S, EnergyMeter
from darkroom.run.page_lock import EXPECTED, LEAST_S, has_pictures_to_come, pause_after, write_expected
from darkroom.run.plan import PLAN_FILE, Plan
from darkroom.run.run_record import Outputs, Work, make_run_file
from darkroom.run.snakemake_api import SnakemakeRun

RUN_FILE = Path("results/run.json")
_FIRST_S = 2.0
"""How long after a run's start its first page begins: shorter runs are over sooner than somebody looks."""
_PAGE_ENDS_S = 60.0


class RunWatch:
    """`start` before the first job, `stop` before this process makes pages itself, `end` at the run's end."""

    def __init__(self, plan: Plan, snakemake: SnakemakeRun) -> None:
        self._plan, self._snakemake = plan, snakemake
        self._begun = time.time() - age_s()
        self._folder: Path | None = None
        self._asked = self._planned = frozenset[str]()
        self._energy = EnergyMeter()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the folder for the jobs' notes, which they learn of by the environment."""
        with _one_line("the run's numbers"):
            folder = FOLDER / new_owner()
            folder.mkdir(parents=True)
            pictures = set(self._plan.paths())
            planned = self._snakemake.planned_outputs()
            self._asked = frozenset(pictures.intersection(self._snakemake.asked_outputs()))
            self._planned = frozenset(pictures.intersection(planned))
            if f"results/{INDEX}" in planned and self._planned:
                write_expected(folder, self._planned)
            self._folder = folder
            os.environ[VARIABLE] = folder.name
            self._thread = threading.Thread(target=self._watch, name="run's numbers", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for a page that is being written."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_PAGE_ENDS_S)

    def end(self) -> None:
        """Write the numbers, say them in a line, and leave a page that says how far the run came if it didn't come to its gallery."""
        folder, self._folder = self._folder, None
        if folder is None:
            return
        self.stop()
        with _one_line("the run's numbers"):
            self._write(folder)
        shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        self._energy.sample()
        work = Work.of(read_notes(folder))
        finished = frozenset(self._snakemake.finished_outputs())
        failed, lacks_pages = frozenset(self._snakemake.failed_outputs()), (folder / EXPECTED).exists()
        outputs = Outputs(self._asked, self._planned, finished, failed, lacks_pages)
        cores = self._snakemake.cores
        found = make_run_file(
            work,
            outputs,
            self._begun,
            ended=time.time(),
            energy=self._energy if cores is not None else None,
            costs=self._plan.config.costs,
            cores=cores,
        )
        if not work.is_nothing or found.pictures.made or found.pictures.failed:
            write_json(RUN_FILE, found.model_dump(mode="json"))
            print(found.summary(), file=sys.stderr, flush=True)
        if lacks_pages:
            _make_page(folder, "--ended", "--failed", str(found.pictures.failed))

    def _watch(self) -> None:
        """The thread: read the counters, and start pages one after another."""
        self._energy.start()
        has_page = self._folder_of_pages() is not None
        next_page, next_sample = time.monotonic() + _FIRST_S, time.monotonic() + SAMPLE_S
        while not self._stopped.wait(
            max(0.0, min(next_sample, next_page if has_page else next_sample) - time.monotonic())
        ):
            if time.monotonic() >= next_sample:
                self._energy.sample()
                next_sample = time.monotonic() + SAMPLE_S
            if has_page and time.monotonic() >= next_page:
                begun, folder = time.monotonic(), self._folder_of_pages()
                has_page = folder is not None
                if folder is not None:
                    next_page = begun + pause_after(_make_page(folder))

    def _folder_of_pages(self) -> Path | None:
        """The run's folder as long as a page on the way has something to say: behind the last picture comes the gallery itself."""
        folder = self._folder
        return folder if folder is not None and has_pictures_to_come(folder) else None


def _make_page(folder: Path, *options: str) -> float:
    """Write the page in a process of its own; returns the processor time that it takes from the run, in seconds."""
    command = [sys.executable, "-m", "darkroom.run.progress_page", str(folder), str(PLAN_FILE), *options]
    # A session of its own: Ctrl-C is for the run, which then writes the last page.
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False
    )
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return LEAST_S


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Print what goes wrong in the block as one line; Ctrl-C ends the block too."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {what} are not written", file=sys.stderr, flush=True)
    except Exception as error:
        print(f"{what} are not written: {redact(str(error))}", file=sys.stderr, flush=True)


def forget_ended_runs() -> None:
    """Remove what runs have left that were killed; to be called while no other run is under way in this folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
