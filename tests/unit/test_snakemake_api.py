"""What `darkroom.run.snakemake_api` takes from Snakemake is still there, and does what it says.

These are private attributes, tried with Snakemake 9.27. With another version that lacks one, the failure names it.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake.api  # else its modules import each other in the wrong order
from snakemake.common import get_function_params
from snakemake.executors.local import Executor, run_wrapper
from snakemake.io import IOFile
from snakemake.iocontainers import OutputFiles
from snakemake.jobs import AbstractJob, Job
from snakemake.modules import WorkflowModifier
from snakemake.parser import Shell
from snakemake.path_modifier import PathModifier
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import (
    DAGSettings,
    DeploymentSettings,
    ExecutionSettings,
    MaxJobsPerTimespan,
    SchedulingSettings,
)
from snakemake.shell import shell
from snakemake.workflow import DAG, Workflow

from darkroom.run.snakemake_api import DEFAULT_RATE, SPARE_WORKERS, SnakemakeRun, in_place_of, keep_signatures
from darkroom.warm.slots import THREAD_VARIABLES

TRIED = "9.27"


def installed(condition: object, what: str) -> None:
    version = snakemake.__version__
    hint = "read what has changed there, and adapt darkroom/run/snakemake_api.py"
    if not version.startswith(f"{TRIED}."):
        hint += f" (which was tried with {TRIED})"
    assert condition, f"Snakemake {version}: {what}; {hint}"


@pytest.mark.parametrize(
    "name",
    [
        "is_main_process",
        "dryrun",
        "touch",
        "remote_exec",
        "local_exec",
        "persistence",
        "dag",
        "modifier",
        "overwrite_configfiles",
    ],
)
def test_the_workflow_has_the_property(name: str) -> None:
    installed(isinstance(getattr(Workflow, name, None), property), f"Workflow.{name} is no property any more")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dag_settings", DAGSettings),
        ("execution_settings", ExecutionSettings),
        ("scheduling_settings", SchedulingSettings),
        ("deployment_settings", DeploymentSettings),
    ],
)
def test_the_workflow_has_the_settings(name: str, kind: type) -> None:
    field = Workflow.__dataclass_fields__.get(name)
    installed(field is not None and kind.__name__ in str(field.type), f"Workflow.{name} is no {kind.__name__} any more")


def test_the_configuration_files_are_listed() -> None:
    installed("self.configfiles" in inspect.getsource(Workflow), "Workflow.configfiles is gone")
    installed("self.config_settings.overwrite_config" in inspect.getsource(Workflow), "overwrite_config is gone")


def test_files_can_be_forced_while_the_graph_is_built() -> None:
    source = inspect.getsource(DAG)
    installed("self.forcefiles = set()" in source, "DAG.forcefiles is gone")
    installed("not self.forcefiles.isdisjoint(job.output)" in source, "DAG.forcefiles forces no job any more")


def test_an_input_can_stand_in_the_record_for_another_file() -> None:
    """A stage whose picture before is missing: its set of inputs is as recorded, and it depends on no job."""
    stand_in = IOFile(in_place_of("results/a.png", "models/verified/b.json"))
    installed(str(stand_in) == "models/verified/b.json", "a flag changes a file's name")
    installed(stand_in.flags.get("sourcecache_entry") == "results/a.png", "flags of inputs are gone")
    source = inspect.getsource(PersistenceBase._input)
    installed('get_flag_value(f, "sourcecache_entry")' in source, "records don't name cached sources by their origin")


def test_an_ancient_input_that_is_there_is_no_reason_to_run() -> None:
    source = inspect.getsource(DAG.update_needrun)
    installed("f.is_ancient and await f.exists() for f in files" in source, "ancient inputs count otherwise")


def test_a_modules_settings_are_attributes_of_its_modifier() -> None:
    source = inspect.getsource(WorkflowModifier)
    installed("self.skip_configfile = config is not None" in source, "WorkflowModifier.skip_configfile is gone")
    installed("self.path_modifier = " in source, "WorkflowModifier.path_modifier is gone")


def test_hooks_are_functions_of_the_log() -> None:
    installed("self._onstart(" in inspect.getsource(Workflow), "Workflow._onstart is gone")
    installed("self._onerror(" in inspect.getsource(Workflow), "Workflow._onerror is gone")


def test_the_scheduler_knows_the_failed_jobs_and_those_under_way() -> None:
    installed(isinstance(Workflow.scheduler, property), "Workflow.scheduler is no property any more")
    for name, line in (("failed", "self.failed.add(job)"), ("running", "self.running.remove(job)")):
        installed(line in inspect.getsource(JobScheduler), f"JobScheduler.{name} is gone")


def test_the_scheduler_looks_at_a_set_of_ready_jobs_that_can_be_replaced() -> None:
    installed(
        "list(self.workflow.dag.ready_jobs)" in inspect.getsource(JobScheduler), "DAG.ready_jobs is not all it sees"
    )
    installed("self._ready_jobs -= jobs" in inspect.getsource(DAG.register_running), "DAG._ready_jobs is no set")
    installed("self.running.update(run)" in inspect.getsource(JobScheduler), "JobScheduler.running is gone")


def test_sigterm_has_the_scheduler_wait_for_what_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(JobScheduler.__init__)
    installed("signal.signal(signal.SIGTERM, self.exit_gracefully)" in source, "JobScheduler.exit_gracefully is gone")
    called: list[object] = []
    monkeypatch.setattr(JobScheduler, "exit_gracefully", lambda scheduler, *about: called.append(about))
    SnakemakeRun(workflow()).call_at_termination(lambda: called.append("stop"))
    JobScheduler.exit_gracefully(SimpleNamespace(), 15, None)
    assert called == ["stop", (15, None)]


def test_a_job_looks_for_pipes_once_for_all_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(Job.prepare)
    installed("f for f in self.input if self.is_pipe_or_service_input(f)" in source, "jobs look for pipes otherwise")
    inputs = [IOFile(name) for name in ("pipe", "plain", "from nobody")]
    asked = []

    class OneJob:
        def __init__(self, *pipes: Any) -> None:
            self.pipe_or_service_output = set(pipes)

    class Dependencies(dict[Any, Any]):
        def __getitem__(self, job: Any) -> Any:
            asked.append(job)
            return super().__getitem__(job)

    job = OneJob()
    made = {OneJob(inputs[0]): {inputs[0]}, OneJob(): {inputs[1]}}
    job.dag = SimpleNamespace(dependencies=Dependencies({job: made}))
    before = [Job.is_pipe_or_service_input(job, path) for path in inputs]
    monkeypatch.setattr(Job, "is_pipe_or_service_input", Job.is_pipe_or_service_input)  # put back afterwards
    SnakemakeRun(workflow()).find_pipes_once()
    asked.clear()
    assert [Job.is_pipe_or_service_input(job, path) for path in inputs] == before == [True, False, False]
    assert asked == [job]


def test_a_functions_signature_is_kept_and_snakemake_takes_it() -> None:
    def get_engine(wildcards: Any, output: Any) -> None: ...

    asked = [get_function_params(get_engine) for _ in range(2)]
    assert asked[0] is not asked[1]
    keep_signatures([get_engine])
    kept = [get_function_params(get_engine) for _ in range(2)]
    assert list(kept[0]) == list(asked[0]) == ["wildcards", "output"]
    installed(kept[0] is kept[1], "signatures are found out in another way")


def test_what_a_job_takes_is_kept_with_it() -> None:
    source = inspect.getsource(AbstractJob._get_scheduler_resources)
    installed("if self._scheduler_resources is None" in source, "a job's scheduler_resources aren't kept")
    installed("run = job_rule.run_func" in inspect.getsource(run_wrapper), "a job's function isn't its rule's run_func")
    installed(
        Shell.end_func == "shell" and "threads" in inspect.signature(run_wrapper).parameters, "rules call no `shell`"
    )
    names = re.findall(r'envvars\["(\w+_THREADS)"\]', inspect.getsource(shell))
    installed(set(names) == set(THREAD_VARIABLES), "a shell's commands have other numbers of threads")
    installed(f"cores + {SPARE_WORKERS}" in inspect.getsource(Executor), "the local executor has other spare workers")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (PersistenceBase.cleanup_locks, 1),
        (PersistenceBase.cleanup_metadata, 2),
        (PersistenceBase.params, 2),
        (DAG.needrun_jobs, 1),
        (PathModifier.replace_prefix, 2),
        (WorkflowModifier.is_main_snakefile, 1),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_the_method_takes_what_it_is_given(method: Any, parameters: int) -> None:
    needed = [each for each in inspect.signature(method).parameters.values() if each.default is each.empty]
    installed(len(needed) == parameters, f"{method.__qualname__} takes other arguments")


def test_the_limit_on_job_starts_is_a_pair() -> None:
    rate = MaxJobsPerTimespan(*DEFAULT_RATE[:1])
    installed((rate.max_jobs, rate.timespan) == DEFAULT_RATE, "MaxJobsPerTimespan has other fields")
    installed("max_jobs_per_timespan" in SchedulingSettings.__dataclass_fields__, "max_jobs_per_timespan is gone")


def workflow(**changes: Any) -> SimpleNamespace:
    """A run's main process, which executes jobs here."""
    given = {"is_main_process": True, "execution_settings": ExecutionSettings(), "dryrun": False, "touch": False}
    return SimpleNamespace(**given | {"local_exec": True, "scheduling_settings": SchedulingSettings()} | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"is_main_process": False}, False),
        ({"execution_settings": None}, False),
        ({"dryrun": True}, False),
        ({"touch": True}, False),
    ],
)
def test_a_run_makes_files(changes: dict[str, Any], expected: bool) -> None:
    assert SnakemakeRun(workflow(**changes)).makes_files is expected


@pytest.mark.parametrize(
    ("rate", "is_local", "is_lifted"),
    [((100,), True, True), ((100,), False, False), ((50,), True, False), ((100, "1m"), True, False)],
)
def test_only_the_default_limit_is_lifted(rate: tuple[Any, ...], is_local: bool, is_lifted: bool) -> None:
    settings = SchedulingSettings(max_jobs_per_timespan=MaxJobsPerTimespan(*rate))
    SnakemakeRun(workflow(scheduling_settings=settings, local_exec=is_local)).lift_job_rate()
    assert (settings.max_jobs_per_timespan is None) is is_lifted


def test_records_and_locks_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    called: list[Any] = []
    persistence = SimpleNamespace(cleanup_locks=lambda: called.append("unlock"), cleanup_metadata=called.append)
    run = SnakemakeRun(workflow(persistence=persistence))
    run.forget(Path("a/b.json"))
    run.unlock()
    assert called == [IOFile("a/b.json"), "unlock"]
    assert (tmp_path / ".snakemake/locks").is_dir()


@pytest.mark.parametrize(("scheduler", "has_open"), [(None, False), ((), False), (("job",), True)])
def test_jobs_are_open_while_the_scheduler_has_them_running(scheduler: tuple[str, ...] | None, has_open: bool) -> None:
    given = None if scheduler is None else SimpleNamespace(running=set(scheduler))
    assert SnakemakeRun(workflow(scheduler=given)).has_open_jobs is has_open


@pytest.mark.parametrize("hook", ["start", "error"])
@pytest.mark.parametrize("is_main", [True, False])
def test_a_modules_hooks_are_called_before_those_of_its_workflow(hook: str, is_main: bool) -> None:
    called: list[str] = []
    hooks = {name: lambda log: called.append(f"own {log}") for name in ("_onstart", "_onerror")}
    given = workflow(modifier=SimpleNamespace(is_main_snakefile=lambda: is_main), **hooks)
    SnakemakeRun(given).start_module(lambda: called.append("start"), lambda: called.append("error"))
    getattr(given, f"_on{hook}")("log")
    assert called == (["own log"] if is_main else [hook, "own log"])


def test_failed_jobs_are_counted() -> None:
    run = SnakemakeRun(workflow(scheduler=SimpleNamespace(failed=set())))
    assert not run.has_failed_jobs
    assert SnakemakeRun(workflow(scheduler=SimpleNamespace(failed={"job"}))).has_failed_jobs


@pytest.mark.parametrize(
    ("given", "own", "is_main", "files", "needed"),
    [
        ([], False, True, [], True),
        (["mine.yaml"], False, True, ["mine.yaml"], False),
        ([], False, True, ["theirs.yaml"], False),
        ([], True, False, [], False),
        ([], False, False, ["config/config.yaml"], True),
        (["mine.yaml"], False, False, ["mine.yaml"], False),
    ],
)
def test_the_default_configuration_is_read_only_if_no_other_is_given(
    given: list[str], own: bool, is_main: bool, files: list[str], needed: bool
) -> None:
    modifier = SimpleNamespace(skip_configfile=own, is_main_snakefile=lambda: is_main)
    run = SnakemakeRun(workflow(overwrite_configfiles=given, modifier=modifier, configfiles=files))
    assert run.needs_default_config is needed


@pytest.mark.parametrize(
    ("prefix", "replaced", "moved"),
    [(None, None, None), ("study", None, "study/results/"), (None, {"models/": "other/"}, "other/")],
)
def test_a_modules_prefix_is_seen(prefix: str | None, replaced: dict[str, str] | None, moved: str | None) -> None:
    settings = SimpleNamespace(default_storage_provider=None)
    modifier = PathModifier(replaced, prefix, SimpleNamespace(storage_settings=settings))
    assert SnakemakeRun(workflow(modifier=SimpleNamespace(path_modifier=modifier))).moved_path == moved


def test_forced_files_and_recorded_params() -> None:
    dag = SimpleNamespace(forcefiles=set())
    run = SnakemakeRun(workflow(dag=dag, persistence=SimpleNamespace(params={"a": ["1", "'x'"]}.get)))
    run.force(Path("results/index.html"))
    assert dag.forcefiles == {"results/index.html"}
    assert run.recorded_params(Path("a")) == ["1", "'x'"]
    assert run.recorded_params(Path("b")) == []


def test_planned_outputs_are_those_of_all_jobs() -> None:
    jobs = [SimpleNamespace(output=["a", "b"]), SimpleNamespace(output=["c"])]
    dag = SimpleNamespace(needrun_jobs=lambda: iter(jobs))
    assert SnakemakeRun(workflow(dag=dag)).planned_outputs() == ["a", "b", "c"]


def a_rule(output: Any, params: Any, threads: int, mark: bool = True) -> None:
    """As Snakemake compiles a rule with `shell:`."""
    shell("darkroom render --request {params.request:q} --output {output.picture:q}", bench_record=None)


@pytest.mark.parametrize("code", [0, 2])
def test_a_pictures_command_is_run_in_this_process_as_a_shell_would_read_it(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    called: list[list[str]] = []

    def run(words: list[str]) -> int:
        called.append(words)
        return code

    text = '{"prompt": "it\'s $HOME"}'

    class Job:
        output = ("results/a b.png",)
        scheduler_resources = {"_cores": 1, "gpu": 1}  # noqa: RUF012
        benchmark, priority, _scheduler_resources = None, 1, None
        rule = SimpleNamespace(run_func=a_rule)

    job = Job()
    dag = SimpleNamespace(_ready_jobs=set())
    here = workflow(dag=dag, scheduler=None, cores=1, remote_exec=False)
    SnakemakeRun(here).queue_pictures({"results/a b.png": "tiny"}.get, run, engines=1)
    dag._ready_jobs.add(job)
    assert list(dag._ready_jobs) == [job]
    assert job._scheduler_resources == {"_cores": 0, "gpu": 1}
    output = OutputFiles(["results/a b.png"])
    output._add_name("picture")
    given = {
        "output": output,
        "params": SimpleNamespace(request=text),
        "threads": 1,
    }
    if code:
        with pytest.raises(subprocess.CalledProcessError):
            job.rule.run_func(**given)
    else:
        job.rule.run_func(**given)
    made = job.rule.run_func
    assert list(dag._ready_jobs) == [job]
    assert job.rule.run_func is made
    assert called == [["render", "--request", text, "--output", "results/a b.png"]]
    assert {os.environ[name] for name in THREAD_VARIABLES} == {"1"}
