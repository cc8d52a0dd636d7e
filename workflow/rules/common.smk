"""Validates the configuration, plans the pictures, and holds the functions that rules take their inputs from."""

import re

from darkroom import revisions
from darkroom.planning import PLAN_FILE, drop_damaged, load_plan, prepare_environment

plan = load_plan(config, workflow.configfiles)

prepare_environment()


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
    return plan.stored.fetched(wildcards.checkpoint)


def get_receipts(wildcards):
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
    return plan.asset_receipts(wildcards)


def get_request(wildcards):
    """Everything that decides one picture, as JSON."""
    return plan.picture(wildcards).request.to_json()


def get_engine(wildcards, output):
    """Where and how to render. It takes `output` so that another device or timeout renders nothing again."""
    return plan.engine_settings()


def get_model(wildcards, output):
    return f"{plan.models_dir}/diffusers/{wildcards.checkpoint}"


def get_render_priority(wildcards):
    return plan.priority(wildcards)


def get_pictures(wildcards):
    """The pictures of one sheet, or of all where the rule has no sheet. A damaged one counts as missing."""
    paths = plan.paths(wildcards.get("sheet"))
    if not workflow.dryrun:
        for path in paths:
            drop_damaged(path)
    return paths


def get_digest(wildcards):
    return plan.digest(wildcards.get("sheet"))
