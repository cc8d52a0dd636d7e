"""Validates the configuration, plans the pictures, and holds the functions that rules take their inputs from."""

import re

from snakemake.io import IOFile

from darkroom import revisions
from darkroom.run.plan import PLAN_FILE, drop_damaged, load_plan, prepare_environment, spare_collector
from darkroom.run.lifecycle import session_for

plan = load_plan(config, workflow.configfiles)
session = session_for(plan)

prepare_environment()
spare_collector()


def begin():
    """What a real run does first. All that the graph is built from calls it, before Snakemake looks at what is there."""
    if workflow.is_main_process and workflow.execution_settings and not (workflow.dryrun or workflow.touch):
        known = workflow.persistence
        session.begin(unlock=known.cleanup_locks, forget=lambda path: known.cleanup_metadata(IOFile(path)))
        lift_job_rate()


def lift_job_rate():
    """Let jobs start as soon as there is room for them here, where nobody asked for less.

    To keep its limit of 100 jobs a second Snakemake looks at all that could run once more a second after each time it
    has looked: by the 3,000th job thousands of times a second.
    """
    rate = workflow.scheduling_settings.max_jobs_per_timespan
    if workflow.local_exec and rate and (rate.max_jobs, rate.timespan) == (100, 1):
        workflow.scheduling_settings.max_jobs_per_timespan = None


def start():
    """What a real run does once it knows its jobs, before the first of them."""
    if workflow.is_main_process:
        made = [str(path) for job in workflow.dag.needrun_jobs() for path in job.output]
        session.start(made, unlock=workflow.persistence.cleanup_locks)


onstart:
    start()


if not workflow.modifier.is_main_snakefile():
    # Snakemake passes over the onstart of a module.
    own_onstart = workflow._onstart

    def start_module(log):
        start()
        own_onstart(log)

    workflow._onstart = start_module


def one_of(names):
    """The wildcard constraint for some names; one that nothing fulfils if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    checkpoint=one_of(plan.config.checkpoints),
    vae=one_of(plan.config.vaes),
    lora=one_of(plan.config.loras),
    embedding=one_of(plan.config.embeddings),
    sheet=one_of(plan.sheets),
    picture=r"[a-z0-9][a-z0-9_.-]*",
    seed=r"[0-9]+",


def get_kind(wildcards):
    """What a source is to be: checkpoint, vae, lora or embedding."""
    return plan.stored.kind(wildcards)


def get_pin(wildcards):
    """What a remote source is pinned to, which is its job's one input; nothing for a local source."""
    begin()
    return plan.stored.pin(wildcards)


def get_source(wildcards, output):
    """A source's path or address. It takes `output` so that a file that only moved is not fetched again."""
    return plan.stored.source(wildcards)[0]


def get_source_sha256(wildcards):
    """What a local source is right now; None for a remote one, whose pin says what is wanted."""
    return plan.stored.source(wildcards)[1].sha256


def get_parameterization(wildcards):
    """What the sidecar of a source says; it goes into the receipt."""
    return plan.stored.source(wildcards)[1].parameterization


def get_fetch_flags(wildcards, output):
    return plan.stored.fetch_flags(wildcards)


def get_fetched(wildcards):
    begin()
    return plan.stored.fetched(wildcards.checkpoint)


def get_receipts(wildcards):
    begin()
    return plan.stored.receipts(wildcards.checkpoint)


def get_conversion(wildcards):
    """All that decides what a checkpoint is converted to, besides what its receipts say."""
    options = get_conversion_options(wildcards, None)
    return [options.dtype, options.prediction, options.architecture, options.extract_ema, revisions.CONVERT]


def get_conversion_options(wildcards, output):
    return plan.checkpoint(wildcards.checkpoint)


def get_conversion_flags(wildcards, output):
    return plan.stored.conversion_flags(wildcards.checkpoint)


def get_asset_receipts(wildcards):
    """The receipts of the LoRAs, embeddings and the VAE that one picture uses, and of no others."""
    begin()
    return plan.asset_receipts(wildcards)


def get_request(wildcards):
    """Everything that decides one picture, as JSON."""
    return plan.picture(wildcards).request.to_json()


def get_engine(wildcards, output):
    """The model, and where and how to render. It takes `output` so that another device or timeout renders nothing again."""
    kept = plan.kept(wildcards) if workflow.remote_exec else None
    return [plan.model_dir(wildcards.checkpoint), *plan.engine_flags, *(["--kept", kept] if kept else [])]


def get_render_priority(wildcards):
    return plan.priority(wildcards)


def get_pictures(wildcards):
    """The pictures of one sheet, or of all where the rule has no sheet. A damaged one counts as missing."""
    begin()
    paths = plan.paths(wildcards.get("sheet"))
    if not workflow.dryrun:
        for path in paths:
            drop_damaged(path)
    return paths


def get_usable(wildcards):
    """Everything that pictures can be made with."""
    begin()
    return plan.stored.usable()


def get_digest(wildcards):
    return plan.digest(wildcards.get("sheet"))
