"""All that Darkroom uses of Snakemake beyond the workflow language: attributes that no documentation promises.

Tried with Snakemake 9.27; `tests/unit/test_snakemake_api.py` says what has changed in another version.
"""

from __future__ import annotations

import inspect
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

from darkroom.run.picture_queue import IN_FLIGHT, PictureQueue
from darkroom.warm.connection import Turns
from darkroom.warm.slots import THREAD_VARIABLES

OUR_PATHS = ["results/", "models/", "logs/"]
DEFAULT_RATE = (100, 1)
"""Snakemake's own limit on job starts, in jobs and seconds, which nobody asked for."""
_IS_HERE = "darkroom_runs_here"
SPARE_WORKERS = 5
"""How many jobs Snakemake's local executor runs at once beyond the number of cores; further ones wait in its pool."""


class SnakemakeRun:
    """The run that rule files belong to; `workflow` is the object of that name in them.

    Most settings are there only once Snakemake begins to build its graph, so nothing is read before it is asked for.
    """

    def __init__(self, workflow: Any) -> None:
        self._workflow = workflow

    @property
    def config_files(self) -> list[Path]:
        """The configuration files so far, in the order in which they are merged."""
        return [Path(path) for path in self._workflow.configfiles]

    @property
    def has_config_of_its_own(self) -> bool:
        """True if another workflow that takes this one as a module gives it `config:`."""
        return bool(self._workflow.modifier.skip_configfile)

    @property
    def needs_default_config(self) -> bool:
        """False if files are given with --configfile, by the Snakefile that includes this one, or as a module's `config:`.

        Such a file is the whole configuration. Snakemake alone would merge it into the file that a Snakefile names.
        """
        workflow = self._workflow
        if workflow.overwrite_configfiles or self.has_config_of_its_own:
            return False
        return not (workflow.modifier.is_main_snakefile() and workflow.configfiles)

    @property
    def given_config(self) -> dict[str, Any]:
        """What --configfile and --config give, merged."""
        return deepcopy(dict(self._workflow.config_settings.overwrite_config))

    @property
    def moved_path(self) -> str | None:
        """What a module's `prefix:` or `replace_prefix:` makes of one of our paths; None if they leave them alone."""
        modifier = self._workflow.modifier.path_modifier
        moved = [str(modifier.replace_prefix(path)) for path in OUR_PATHS] if modifier is not None else OUR_PATHS
        return next((there for here, there in zip(OUR_PATHS, moved, strict=True) if there != here), None)

    @property
    def is_main(self) -> bool:
        """True in the process that a user started, false in the processes of its jobs."""
        return bool(self._workflow.is_main_process)

    @property
    def is_dry(self) -> bool:
        """True for a dry run."""
        return bool(self._workflow.dryrun)

    @property
    def is_remote(self) -> bool:
        """True if jobs run on other machines, those of a cluster."""
        return bool(self._workflow.remote_exec)

    @property
    def has_environments(self) -> bool:
        """True if jobs run in environments that Snakemake makes, which may have other versions than the one that plans."""
        settings = self._workflow.deployment_settings
        return settings is not None and any(method.name == "CONDA" for method in settings.deployment_method)

    @property
    def makes_files(self) -> bool:
        """True in the main process of a run that executes jobs: no dry run, no --touch, no --lint."""
        return self.is_main and self._runs_jobs

    @property
    def _runs_jobs(self) -> bool:
        workflow = self._workflow
        return bool(workflow.execution_settings and not (workflow.dryrun or workflow.touch))

    @property
    def forces_all(self) -> bool:
        """True if everything is made again on purpose (--forceall)."""
        return bool(self._workflow.dag_settings.forceall)

    @property
    def forced(self) -> frozenset[str]:
        """The rules and files that are made again on purpose (--forcerun)."""
        return frozenset(map(str, self._workflow.dag_settings.forcerun))

    def force(self, path: Path | str) -> None:
        """Run the job that makes a file, if it is among the jobs that the run looks at. To be called while the graph is built."""
        self._workflow.dag.forcefiles.add(str(path))

    def unlock(self) -> None:
        """Remove Snakemake's lock from the working folder."""
        self._workflow.persistence.cleanup_locks()
        Path(".snakemake/locks").mkdir(exist_ok=True)  # which locking takes for granted

    def forget(self, path: Path) -> None:
        """Remove what Snakemake has recorded about how a file was made."""
        from snakemake.io import IOFile

        self._workflow.persistence.cleanup_metadata(IOFile(str(path)))

    def recorded_params(self, path: Path) -> list[str]:
        """The params, as text, of the job that made a file; none if there is no record."""
        from snakemake.io import IOFile

        return [str(each) for each in self._workflow.persistence.params(IOFile(str(path))) or []]

    def planned_outputs(self) -> list[str]:
        """The files that the jobs of this run make, once the graph is built."""
        return [str(path) for job in self._workflow.dag.needrun_jobs() for path in job.output]

    def asked_outputs(self) -> list[str]:
        """The files that the jobs of this run make or would make, those with nothing to do among them."""
        return [str(path) for job in self._workflow.dag.jobs for path in job.output]

    def finished_outputs(self) -> list[str]:
        """The files of the jobs that have run to their end."""
        dag = self._workflow.dag
        return [
            str(path) for job in dag.needrun_jobs(exclude_finished=False) if dag.finished(job) for path in job.output
        ]

    def failed_outputs(self) -> list[str]:
        """The files of the jobs that have failed; of a group of jobs those of all its jobs."""
        return [str(path) for job in self._workflow.scheduler.failed for path in job.output]

    @property
    def cores(self) -> int | None:
        """How many processors this machine's jobs may use; None if the jobs run on other machines."""
        return self._workflow.cores if self._workflow.local_exec else None

    def measure(self, name: str, path: str) -> None:
        """Give a rule Snakemake's `benchmark:`; to be called while the rule files are read."""
        rule = self._workflow.get_rule(name)
        rule.benchmark_modifier = rule.output_modifier
        rule.benchmark = path

    @property
    def has_failed_jobs(self) -> bool:
        """True once a job has failed; false if the run was only interrupted."""
        return bool(self._workflow.scheduler.failed)

    @property
    def has_open_jobs(self) -> bool:
        """True if jobs were begun of whose end Snakemake has taken no note, as after Ctrl-C."""
        return bool(self._running())

    def _running(self) -> Collection[Any]:
        """The jobs under way; none before the first one starts."""
        scheduler = self._workflow.scheduler
        return scheduler.running if scheduler is not None else ()

    def start_module(self, start: Callable[[], None], fail: Callable[[], None]) -> None:
        """Call `start` before the first job, and `fail` after a run that failed, if the rule files are a module of another workflow.

        Snakemake ignores a module's `onstart` and `onerror`. To be called while the rule files are read.
        """
        workflow = self._workflow
        if not workflow.modifier.is_main_snakefile():
            workflow._onstart = _both(start, workflow._onstart)
            workflow._onerror = _both(fail, workflow._onerror)

    @property
    def queues_pictures(self) -> bool:
        """True if this process starts the jobs of pictures on its own machine."""
        return self._runs_jobs and bool(self._workflow.local_exec)

    @property
    def needs_shells(self) -> bool:
        """True if the jobs' commands run in an environment or a container, or behind a prefix that a user's workflow sets."""
        from snakemake.shell import shell

        settings = self._workflow.deployment_settings
        return shell._process_prefix is not None or bool(settings is not None and settings.deployment_method)

    def queue_pictures(
        self, engine_of: Callable[[str], str | None], run: Callable[[list[str]], int] | None, *, engines: int
    ) -> None:
        """Have the scheduler see only the jobs that a PictureQueue shows it. To be called while the graph is built.

        `engine_of` gives the model that renders an output file, None for a file that is no picture. Pictures then take no
        core; their `threads` stay what they are, because the engine that one of them starts has as many. `gpu` still counts,
        since it may be limited to have fewer pictures in flight; in a cluster's job it is the one picture that a job asks for.

        `run`, if given, takes the words of a picture's command in place of a shell, in a thread of this process.
        """
        workflow = self._workflow

        def engine_of_job(job: Any) -> str | None:
            return engine_of(str(job.output[0])) if job.output else None

        def before(picture: str) -> Collection[str]:
            """Pictures in flight that come before one, if a single engine makes them all."""
            if engines > 1:
                return ()
            in_flight = [job for job in list(self._running()) if engine_of_job(job)]
            places = {str(job.output[0]): (-job.priority, job.jobid) for job in in_flight}
            return [other for other, place in places.items() if place < places[picture]]

        turns = Turns(before)

        def prepare(job: Any) -> None:
            """Have a job take no core and, if it can be, run in this process."""
            free = {"_cores": 0} | ({"gpu": 0} if self.is_remote else {})
            job._scheduler_resources = job.scheduler_resources | free
            function = job.rule.run_func
            if run is not None and job.benchmark is None and _IS_HERE not in function.__globals__:
                job.rule.run_func = _run_here(function, run, turns)

        queue = PictureQueue(
            engine_of_job,
            self._running,
            prepare,
            limit=min(IN_FLIGHT * engines, workflow.cores + SPARE_WORKERS),
            has_one_engine=engines == 1,
            has_one_core=workflow.cores == 1,
        )
        queue.update(workflow.dag._ready_jobs)
        workflow.dag._ready_jobs = queue

    def find_pipes_once(self) -> None:
        """Have a job that starts look for pipes among its inputs in one go.

        Snakemake looks through the jobs that make them for each input: 50 million times for a page of 10,000 pictures.
        """
        from snakemake.jobs import Job

        Job.is_pipe_or_service_input = _is_pipe

    def call_at_termination(self, stop: Callable[[], None]) -> None:
        """Have SIGTERM, by which a cluster ends a job, call `stop` before Snakemake waits for what is running."""
        from snakemake.scheduling.job_scheduler import JobScheduler

        end = JobScheduler.exit_gracefully

        def stop_and_end(scheduler: Any, *about: Any) -> None:
            stop()
            end(scheduler, *about)

        JobScheduler.exit_gracefully = stop_and_end

    def lift_job_rate(self) -> None:
        """Remove the default limit on job starts where jobs run on this machine.

        To keep its limit Snakemake calls the scheduler again one second after each call: by the 3,000th job, thousands
        of calls a second.
        """
        settings = self._workflow.scheduling_settings
        rate = settings.max_jobs_per_timespan
        if self._workflow.local_exec and rate and (rate.max_jobs, rate.timespan) == DEFAULT_RATE:
            settings.max_jobs_per_timespan = None


def _run_here(job_function: FunctionType, run: Callable[[list[str]], int], turns: Turns) -> FunctionType:
    """A rule's function whose `shell` runs the command's words in this process. A failure looks as that of a shell does."""
    from snakemake.utils import format as fill_in

    def shell(command: str, **_: Any) -> None:
        text = fill_in(command, stepout=2)
        of_job = sys._getframe(1).f_locals
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(of_job["threads"])))
        with turns.of(str(of_job["output"][0])):
            code = run(shlex.split(text)[1:])
        if code:
            raise subprocess.CalledProcessError(code, text)

    scope = job_function.__globals__ | {"shell": shell, _IS_HERE: True}
    return FunctionType(job_function.__code__, scope, job_function.__name__, job_function.__defaults__)


def _is_pipe(job: Any, path: str) -> bool:
    """Whether an input of a job is a pipe or a service of the job that makes it."""
    return path in _pipes_into(job)


@lru_cache(maxsize=1)  # all inputs of a job are asked for one after the other
def _pipes_into(job: Any) -> frozenset[str]:
    made = job.dag.dependencies[job].items()
    return frozenset(path for other, paths in made for path in other.pipe_or_service_output.intersection(paths))


def _both(own: Callable[[], None], other: Callable[[object], None]) -> Callable[[object], None]:
    """A hook of Snakemake's, which gets the log's name, that calls another one after ours."""

    def call(log: object) -> None:
        own()
        other(log)

    return call


def keep_signatures(functions: Iterable[Callable[..., object]]) -> None:
    """Have Python keep the signatures of functions that rules call for each job: Snakemake asks for them several times a call."""
    for function in functions:
        function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]


def in_place_of(path: str, there: str) -> str:
    """An input that counts as `path` where Snakemake compares a job's inputs with its record, but is the file `there`.

    So the job doesn't depend on the one that makes `path`. It is the flag that files of a remote workflow have in their cache.
    """
    from snakemake.io import flag

    marked: str = flag(there, "sourcecache_entry", path)
    return marked
