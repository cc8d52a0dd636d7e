"""One run of Snakemake from the building of its graph to its end: what it has to do for itself and for other runs.

Earlier runs may have been killed, on this machine or another. Their leftovers are removed; locks of living runs stay.
"""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import FrameType

from darkroom.base import claims
from darkroom.base.claims import Presence, claim
from darkroom.base.files import remove_unfinished_files
from darkroom.base.secrets import redact
from darkroom.cluster import submit
from darkroom.config import SECTIONS
from darkroom.errors import DarkroomError, DiskError
from darkroom.run.encoded import count_with_prompts
from darkroom.run.models import inspect_model, outputs
from darkroom.run.outdated import print_mixed_sheets
from darkroom.run.partial_pages import make_partial_pages
from darkroom.run.plan import Plan, exit_on_error
from darkroom.run.repair import repair
from darkroom.run.results import RESULTS, Results
from darkroom.run.run_watch import RunWatch, forget_ended_runs
from darkroom.run.shared_models import SharedModels
from darkroom.run.snakemake_api import SnakemakeRun
from darkroom.run.sources import Key, dtype_of, receipt_path
from darkroom.sources import FetchReceipt
from darkroom.sources.lock import lock_key, record_receipt
from darkroom.sources.references import parse_reference
from darkroom.warm.connection import stop_clients
from darkroom.warm.paths import remove_dead_sockets

_FOLDER = Path(".snakemake/darkroom")
_lifecycles: dict[str, Lifecycle] = {}


class Lifecycle:
    """`begin` when Snakemake starts to build its graph, `start` when the graph is built; `end` is called at exit.

    An error ends the process with one line and the error's exit code.
    """

    def __init__(self, plan: Plan, snakemake: SnakemakeRun, run: Callable[[list[str]], int]) -> None:
        self._plan = plan
        self._run = run
        self._snakemake = snakemake
        self._shared = SharedModels(plan.sources, snakemake.recorded_params)
        self.results = Results(plan, snakemake)
        self._watch = RunWatch(plan, snakemake)
        self._presence: Presence | None = None
        self._stays: dict[Key, bool] = {}
        self._has_begun = self._is_started = False

    def begin(self) -> None:
        """Before Snakemake looks at any file. Makes nothing in runs that make no files; does nothing when called again."""
        if self._has_begun:
            return
        self._has_begun = True
        self._snakemake.find_pipes_once()
        if self._snakemake.queues_pictures:
            run = None if self._snakemake.needs_shells else self._run
            self._snakemake.queue_pictures(self._plan.engine_of, run, engines=self._plan.engines)
            _stop_clients_at_interrupt()
            if self._snakemake.is_remote:
                self._snakemake.call_at_termination(stop_clients)
        if self._snakemake.is_main and not self._plan.config.metadata.prompt:
            _announce_prompts(self._plan)
        if not self._snakemake.makes_files:
            self._announce_repairs()
            return
        with exit_on_error():
            try:
                self._presence = self._take_over()
                _remove_leftovers(self._plan)
                for key in self._shared.join():
                    self._adopt(key)
                for key, broken in self._shared.broken.items():
                    repair(self._plan.sources, key, broken)
                self._plan.sources.write_pins()
            except DarkroomError:
                self.end()
                raise
        atexit.register(self.end)
        atexit.register(print_mixed_sheets, self._plan, RESULTS)  # the last to be registered is the first to be called
        self._snakemake.lift_job_rate()

    def stay(self, keys: Collection[Key]) -> bool:
        """Whether a run leaves these models and assets as they are, so that it renders nothing because of them."""
        if self._snakemake.forces_all or any(map(self._makes_models, self._snakemake.forced)):
            return False
        for key in keys:
            if key not in self._stays:
                state = inspect_model(self._plan.sources, key, self._snakemake.recorded_params)
                self._stays[key] = state.is_current or bool(state.broken)
        return all(self._stays[key] for key in keys)

    def _makes_models(self, name: str) -> bool:
        """Whether a rule or a file that is made again on purpose is one of models."""
        return name.startswith(("fetch_", "convert_", "verify_", f"{self._plan.models_dir}/"))

    def start(self) -> None:
        """Before the first job. Does nothing when called again."""
        if self._is_started or not self._snakemake.is_main:
            return
        self._is_started = True
        for name, sheet in self._plan.sheets.items():
            for line in [*(f"{name}: {count.describe()}" for count in sheet.counts), *sheet.notes()]:
                print(line, file=sys.stderr, flush=True)
        with exit_on_error():
            try:
                self._shared.start(self._snakemake.planned_outputs())
            except DarkroomError:
                self._snakemake.unlock()
                self.end()
                raise
        if self._snakemake.makes_files:
            self._watch.start()

    def fail(self) -> None:
        """After a run in which jobs failed: make the pages of studies from the pictures that are there.

        Nothing that goes wrong here changes how the run ends: it is one line.
        """
        if not (self._snakemake.makes_files and self._snakemake.has_failed_jobs):
            return
        self._watch.stop()
        try:
            for line in make_partial_pages(self._plan):
                print(line, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("interrupted: the other pages stay as they are", file=sys.stderr, flush=True)
        except Exception as error:
            print(f"no pages of what is there: {redact(str(error))}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """After the last job, or instead of the first."""
        submit.leave(has_open_jobs=self._snakemake.has_open_jobs)
        self._shared.leave()
        with suppress(DiskError, OSError):
            self.results.save()
        self._watch.end()
        if self._presence is not None:
            self._presence.leave()

    def _announce_repairs(self) -> None:
        """In a dry run, say what a run would repair before it does what Snakemake lists."""
        if self._snakemake.is_main and self._snakemake.is_dry:
            for key in self._plan.sources.states:
                for path in inspect_model(self._plan.sources, key, self._snakemake.recorded_params).broken:
                    print(f"{path} is missing or damaged. A run makes it again.", file=sys.stderr, flush=True)

    def _take_over(self) -> Presence:
        """Register this run, and unlock the folder if the earlier run was killed. Raises DiskError (E-DISK)."""
        with claim(_FOLDER / "turn"):
            presence = Presence(_FOLDER / "run")
            living, found_dead = presence.others()
            if found_dead and not living:
                self._snakemake.unlock()
            if not living:
                forget_ended_runs()
        return presence

    def _adopt(self, key: Key) -> None:
        """Use what another project has made: forget this project's records of it, and lock its bytes."""
        for paths in outputs(self._plan.sources, key):
            for path in paths:
                self._snakemake.forget(path)
        section, name = key
        receipt = receipt_path(self._plan.models_dir, section, name)
        if key in self._plan.sources.pins and receipt.exists():
            given = getattr(self._plan.config, section)[name]
            name_in_lock = lock_key(parse_reference(given.source), dtype_of(given))
            record_receipt(self._plan.config.fetch.lock, name_in_lock, FetchReceipt.read(receipt))


def lifecycle_of(plan: Plan, snakemake: SnakemakeRun, run: Callable[[list[str]], int]) -> Lifecycle:
    """This process's lifecycle for a configuration; `run` is `darkroom` with its arguments, which makes pictures in threads.

    There is one, however often Snakemake reads the rule files: it reads them again for each `use rule` of a module.
    """
    return _lifecycles.setdefault(plan.config.model_dump_json(), Lifecycle(plan, snakemake, run))


def _stop_clients_at_interrupt() -> None:
    """Have Ctrl-C end the pictures in flight, which wait in threads that Snakemake would wait for."""

    def stop(number: int, frame: FrameType | None) -> None:
        stop_clients()
        signal.default_int_handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)


def _announce_prompts(plan: Plan) -> None:
    """Say how many pictures of earlier runs hold prompts that the configuration leaves out: they aren't made again."""
    found, there = count_with_prompts(RESULTS, plan.sheets)
    if found:
        line = f"metadata.prompt is false, and {found:,} of {there:,} pictures that are there hold their prompts."
        print(f"{line} `darkroom metadata results` takes them out; nothing is rendered.", file=sys.stderr, flush=True)


def _remove_leftovers(plan: Plan) -> None:
    """Remove half-written files of killed processes, known by their names, whichever machine they ran on."""
    models, results = Path(plan.models_dir), Path("results")
    folders = {Path(path).parent for path in plan.paths()} | {results, results / "thumbnails"}
    folders |= {folder.parent for folder in folders}
    folders |= {_FOLDER, models / ".cache", models / "diffusers", models / "verified", models / ".runs"}
    folders |= {_FOLDER / "pins" / section for section in SECTIONS} | {models / section for section in SECTIONS}
    for folder in folders:
        remove_unfinished_files(folder)
    remove_dead_sockets()
    for folder in (models / "diffusers", models / "checkpoints"):
        try:
            claims.remove_unfinished_folders(folder)
        except (DiskError, OSError):
            continue
