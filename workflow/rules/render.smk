"""Renders one picture a job. The first job of a checkpoint starts its engine, the others find it warm.

REQUIRED INPUTS: MODELS/verified/NAME.json, and the receipts of what the picture uses besides: MODELS/loras/NAME.receipt.json,
                 MODELS/embeddings/NAME.receipt.json, MODELS/vaes/NAME.receipt.json. The folder it speaks of is no input: were it missing, Snakemake would
                 make every picture anew; the engine stops instead and says how to rebuild it.
OUTPUTS:         results/SHEET/CHECKPOINT/ID-SEED.png with its settings inside, whole or not at all.
"""


rule render_picture:
    input:
        verified=rules.verify_model.output.verified,
        assets=get_asset_receipts if plan.stored.has_assets else [],
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
        revision=revisions.RENDER,
        engine=get_engine,
    message:
        "render {wildcards.sheet}/{wildcards.checkpoint}/{wildcards.picture}-{wildcards.seed}"
    shell:
        "darkroom render {params.engine:q} "
        "--verified {input.verified:q} "
        "--request {params.request:q} "
        "--output {output.picture:q} "
        "--log {log:q}"
