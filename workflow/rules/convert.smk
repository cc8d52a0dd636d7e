"""Turns a single-file checkpoint into a Diffusers folder by copying byte ranges.

REQUIRED INPUTS: MODELS/checkpoints/NAME.safetensors and its receipt. Only the receipt counts as a change.
OUTPUTS:         MODELS/diffusers/NAME/ and NAME.audit.json, which says what went where and why.
"""


rule convert_checkpoint:
    input:
        checkpoint=ancient(rules.fetch_checkpoint.output.checkpoint),
        receipt=rules.fetch_checkpoint.output.receipt,
    output:
        model=directory(f"{plan.models_dir}/diffusers/{{checkpoint}}"),
        audit=f"{plan.models_dir}/diffusers/{{checkpoint}}.audit.json",
    log:
        "logs/convert/{checkpoint}.log",
    conda:
        "../../envs/darkroom.yaml"
    params:
        conversion=get_conversion,
        options=get_conversion_options,
    message:
        "convert {wildcards.checkpoint} to a Diffusers folder"
    shell:
        "darkroom convert {input.checkpoint:q} {output.model:q} "
        "--dtype {params.options.dtype:q} "
        "--prediction {params.options.prediction:q} "
        "--architecture {params.options.architecture:q} "
        "--receipt {input.receipt:q} "
        "--name {wildcards.checkpoint:q} "
        "--log {log:q}"
