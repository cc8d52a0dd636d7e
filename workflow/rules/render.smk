"""Renders one picture a job: a first pass, or what a stage makes of the picture before it.

The first job of a checkpoint starts an engine, which stays warm for the other jobs.

REQUIRED INPUTS: MODELS/verified/NAME.json, and the receipts of the picture's assets: MODELS/loras/NAME.receipt.json,
                 MODELS/embeddings/NAME.receipt.json, MODELS/vaes/NAME.receipt.json. The model folder is no input: if it
                 were missing, Snakemake would render every picture again. It is repaired while the graph is built; if
                 it disappears later, the engine fails with a hint how to rebuild it.
                 For a stage with another checkpoint, and those after it, the receipts of all models of the chain.
                 For a stage, the picture before it, as long as that has to be made first: its request holds all that
                 decides that picture. Files that people give are in the request by their SHA256.
OUTPUTS:         results/SHEET/CHECKPOINT/ID-SEED.png, for a stage ID-SEED.NUMBER-STAGE.png, with its settings as metadata,
                 written atomically. ID-SEED.latent.safetensors of first passes whose latents a stage enlarges.
"""


rule render_picture:
    input:
        verified=get_verified,
        assets=get_asset_receipts if plan.sources.has_assets else [],
    output:
        picture="results/{sheet}/{checkpoint}/{picture}-{seed}.png",
    log:
        "logs/render/{sheet}/{checkpoint}/{picture}-{seed}.log",
    priority: get_render_priority
    conda:
        "../../envs/darkroom.yaml"
    resources:
        gpu=1,
    params:
        request=get_request,
        dtype=plan.config.engine.dtype,
        revision=get_render_revision,
        engine=get_engine,
    message:
        "render {wildcards.sheet}/{wildcards.checkpoint}/{wildcards.picture}-{wildcards.seed}"
    shell:
        "darkroom render {params.engine:q} "
        "--verified {input.verified:q} "
        "--request {params.request:q} "
        "--output {output.picture:q} "
        "--log {log:q}"


use rule render_picture as render_picture_with_latents with:
    output:
        picture="results/{sheet}/{checkpoint}/{picture}-{seed}.png",
        latent="results/{sheet}/{checkpoint}/{picture}-{seed}.latent.safetensors",
    wildcard_constraints:
        sheet=plan.latent_sheets(staged=False),


ruleorder: render_picture_with_latents > render_picture


rule render_stage:
    input:
        verified=get_verified,
        assets=get_asset_receipts if plan.sources.has_assets else [],
        before=get_before,
        models=get_other_models if plan.has_other_checkpoints else [],
    output:
        picture="results/{sheet}/{checkpoint}/{staged}.png",
    log:
        "logs/render/{sheet}/{checkpoint}/{staged}.log",
    priority: get_render_priority
    conda:
        "../../envs/darkroom.yaml"
    resources:
        gpu=1,
    params:
        request=get_request,
        dtype=plan.config.engine.dtype,
        revision=get_stage_revision,
        engine=get_engine,
        before=get_stage_options,
    message:
        "render {wildcards.sheet}/{wildcards.checkpoint}/{wildcards.staged}"
    shell:
        "darkroom render {params.engine:q} "
        "--verified {input.verified:q} "
        "--request {params.request:q} "
        "{params.before:q} "
        "--output {output.picture:q} "
        "--log {log:q}"


use rule render_stage as render_stage_with_latents with:
    output:
        picture="results/{sheet}/{checkpoint}/{staged}.png",
        latent="results/{sheet}/{checkpoint}/{staged}.latent.safetensors",
    wildcard_constraints:
        sheet=plan.latent_sheets(staged=True),


ruleorder: render_stage_with_latents > render_stage


if plan.config.benchmark:
    this_run.measure("render_picture", "logs/render/{sheet}/{checkpoint}/{picture}-{seed}.tsv")
    this_run.measure("render_picture_with_latents", "logs/render/{sheet}/{checkpoint}/{picture}-{seed}.tsv")
    this_run.measure("render_stage", "logs/render/{sheet}/{checkpoint}/{staged}.tsv")
    this_run.measure("render_stage_with_latents", "logs/render/{sheet}/{checkpoint}/{staged}.tsv")
