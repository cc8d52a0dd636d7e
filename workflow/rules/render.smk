"""Renders one picture a job. The first job of a checkpoint starts an engine, which stays warm for the other jobs.

REQUIRED INPUTS: MODELS/verified/NAME.json, and the receipts of the picture's assets: MODELS/loras/NAME.receipt.json,
                 MODELS/embeddings/NAME.receipt.json, MODELS/vaes/NAME.receipt.json. The model folder is no input: if it
                 were missing, Snakemake would render every picture again. It is repaired while the graph is built; if
                 it disappears later, the engine fails with a hint how to rebuild it.
OUTPUTS:         results/SHEET/CHECKPOINT/ID-SEED.png with its settings as metadata, written atomically.
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
