"""Turns a single-file checkpoint into a Diffusers folder by copying byte ranges; a source that is one is verified.

REQUIRED INPUTS: MODELS/checkpoints/NAME.safetensors or NAME/, its receipt, and MODELS/vaes/VAE.safetensors with its
                 receipt where the checkpoint names one. Only the receipts count as a change.
OUTPUTS:         MODELS/diffusers/NAME/ and NAME.audit.json, which says what went where and why.
"""


rule convert_checkpoint:
    input:
        sources=ancient(get_fetched),
        receipts=get_receipts,
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
        flags=get_conversion_flags,
    message:
        "convert {wildcards.checkpoint} to a Diffusers folder"
    shell:
        "darkroom convert {input.sources[0]:q} {output.model:q} "
        "--dtype {params.options.dtype:q} "
        "--prediction {params.options.prediction:q} "
        "--architecture {params.options.architecture:q} "
        "--receipt {input.receipts[0]:q} "
        "--name {wildcards.checkpoint:q} "
        "--log {log:q} "
        "{params.flags:q}"
