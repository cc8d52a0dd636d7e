"""Renders one picture a job. The first job of a checkpoint starts its engine, the others find it warm.

REQUIRED INPUTS: MODELS/verified/NAME.json and the folder it speaks of. Only the receipt counts as a change.
OUTPUTS:         results/SHEET/CHECKPOINT/ID-SEED.png with its settings inside, whole or not at all.
"""


rule render_picture:
    input:
        verified=rules.verify_model.output.verified,
        model=ancient(rules.convert_checkpoint.output.model),
    output:
        picture="results/{sheet}/{checkpoint}/{picture}-{seed}.png",
    log:
        "logs/render/{sheet}/{checkpoint}/{picture}-{seed}.log",
    priority: get_render_priority
    conda:
        "../../envs/darkroom.yaml"
    params:
        request=get_request,
        dtype=plan.config.engine.dtype,
        revision=revisions.RENDER,
        engine=get_engine,
    message:
        "render {wildcards.sheet}/{wildcards.checkpoint}/{wildcards.picture}-{wildcards.seed}"
    shell:
        "darkroom render {input.model:q} "
        "--verified {input.verified:q} "
        "--request {params.request:q} "
        "--engine {params.engine:q} "
        "--output {output.picture:q} "
        "--log {log:q}"
